"""Hold what the formulas of `render` need to know about each image: arrays that one copy can take to a device."""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np

from .plan import Plan


class Table(NamedTuple):
    """Describe n images and the pixels that are there of their sources. The arrays are NumPy's, or tensors.

    A source is a list of pixels, row after row, in one array of the pixels of all sources. Of a source there may be a
    part only, which holds all that the image needs.

    - `matrix` (n, 3, 3), `columns` (n, width), `rows` (n, height), `gain` and `bias` (n,): as in `Plan`, in float32
    - `scale`, (n, 2, 3) float32: see `Plan.scales`
    - `size`, (n, 2) float32: width and height of the whole source
    - `first` and `last`, (n, 2) float32: the first and the last column and row that are there
    - `start` and `line`, (n,) int64: pixel (x, y) of a source is number `start + y · line + x` of the array
    - `lit`, (n,) float32: 1 for images that are lit, else 0
    - `divisor`, (n,) float32: values are pixels over this
    - `hole_rows` (n, k, height) and `hole_columns` (n, k, width), uint8: zero is where both are 1, for any of the k
    - `mode`, `padding`, `aligned`: as in `Plan`
    - `any_lit`: whether any of the images is lit
    """

    matrix: Any
    columns: Any
    rows: Any
    gain: Any
    bias: Any
    scale: Any
    size: Any
    first: Any
    last: Any
    start: Any
    line: Any
    lit: Any
    divisor: Any
    hole_rows: Any
    hole_columns: Any
    mode: str
    padding: str
    aligned: bool
    any_lit: bool

    @classmethod
    def of(
        cls, plan: Plan, height: np.ndarray, width: np.ndarray, region: np.ndarray, begin: Any, divisor: Any
    ) -> Table:
        """Return the table of a plan's images, in NumPy's arrays.

        `height` and `width`, (n,): the sizes of the sources after averaging; `region`, (n, 4): see `regions.needed`;
        `begin`, (n,): the numbers of the first pixels that are there; `divisor`, (n,).
        """
        top, bottom, left, right = region.T
        line = right - left
        hole_rows, hole_columns = _holes(plan)
        return cls(
            matrix=plan.matrix.astype(np.float32),
            columns=plan.columns,
            rows=plan.rows,
            gain=plan.gain.astype(np.float32),
            bias=plan.bias.astype(np.float32),
            scale=plan.scales(height, width),
            size=np.stack([width, height], 1).astype(np.float32),
            first=np.stack([left, top], 1).astype(np.float32),
            last=np.stack([right - 1, bottom - 1], 1).astype(np.float32),
            start=(begin - top * line - left).astype(np.int64),
            line=line.astype(np.int64),
            lit=plan.lit.astype(np.float32),
            divisor=np.asarray(divisor, np.float32),
            hole_rows=hole_rows,
            hole_columns=hole_columns,
            mode=plan.mode,
            padding=plan.padding,
            aligned=plan.aligned,
            any_lit=bool(plan.lit.any()),
        )

    def map(self, function: Callable[[str, Any], Any]) -> Table:
        "Return the table with `function(name, array)` in the place of each array."
        return self._replace(**{name: function(name, getattr(self, name)) for name in ARRAYS})

    def sent(self) -> Dict[str, np.ndarray]:
        """Return NumPy's arrays as fewer ones, because each that is sent costs time.

        `numbers`, (n, 25) float32, has the numbers of each image in the order of `PLACES`; `places`, (n, 2) int64, has
        `start` and `line`; the others are as they are here.
        """
        n = len(self.rows)
        numbers = np.concatenate([getattr(self, name).reshape(n, math.prod(SHAPES[name])) for name in SHAPES], 1)
        alone = {name: getattr(self, name) for name in ALONE}
        return {"numbers": numbers, "places": np.stack([self.start, self.line], 1), **alone}

    def received(self, arrays: Dict[str, Any]) -> Table:
        "Return the table with the arrays, or tensors, that `sent` made of its own: views, nothing is copied."
        numbers, places = arrays["numbers"], arrays["places"]
        found = {name: arrays[name] for name in ALONE}
        for name, shape in SHAPES.items():
            at = PLACES[name]
            found[name] = numbers[:, at : at + math.prod(shape)].reshape(len(numbers), *shape)
        return self._replace(**found, start=places[:, 0], line=places[:, 1])

    def of_images(self, chosen: slice) -> Table:
        "Return the table of the images `chosen`."
        return self.map(lambda name, array: array[chosen])


#: The fields that are arrays.
ARRAYS = tuple(name for name in Table._fields if name not in ("mode", "padding", "aligned", "any_lit"))

#: The fields with a few floats per image, and the shape of these.
SHAPES: Dict[str, Tuple[int, ...]] = {
    "matrix": (3, 3),
    "scale": (2, 3),
    "size": (2,),
    "first": (2,),
    "last": (2,),
    "gain": (),
    "bias": (),
    "lit": (),
    "divisor": (),
}
#: Where each begins among all floats of an image, and where they end.
PLACES = dict(zip([*SHAPES, "end"], np.cumsum([0, *map(math.prod, SHAPES.values())]).tolist()))
#: The fields with arrays for each image.
ALONE = ("columns", "rows", "hole_rows", "hole_columns")


def _holes(plan: Plan) -> Any:
    "Return the holes of all images, blank rows and columns among them, as many for each."
    n = len(plan.rows)
    most = max([len(extra.holes) for extra in plan.extras.values()], default=0)
    blank = plan.blank is not None and bool(plan.blank[0].any() or plan.blank[1].any())
    rows = np.zeros((n, most + 2 * blank, plan.height), np.uint8)
    columns = np.zeros((n, most + 2 * blank, plan.width), np.uint8)
    for b, extra in plan.extras.items():
        for k, hole in enumerate(extra.holes):
            rows[b, k], columns[b, k] = hole
    if blank:
        assert plan.blank is not None
        rows[:, most], rows[:, most + 1] = plan.blank[0], 1
        columns[:, most], columns[:, most + 1] = 1, plan.blank[1]
    return rows, columns
