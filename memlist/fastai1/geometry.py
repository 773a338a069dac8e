"""Where each pixel of a batch comes from: what the draws of `draws` mean, for all images of a batch at once.

fastai moves a grid of coordinates through one transform after the other and samples the image where the grid ends up.
All its transforms but `jitter` are projective maps of that grid, so they compose into one 3×3 matrix an image; the
pixel flips, crops and paddings that come after only choose and reorder points of the grid, so they come to two lists of
indices, one along rows and one along columns. An output pixel is then a matrix times its two indices, and nothing is
computed that a crop throws away. Nothing here knows of lists, stores or how pixels are sampled.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from fastai.vision.image import tis2hw
from torch.utils.data.dataloader import default_collate

from .draws import Drawn, Pipeline

Shape = Tuple[int, int, int]
_IDENTITY = np.eye(3)
_ORIGINAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))


class Plan(NamedTuple):
    """What is to be done to a batch of B images to make B of `height` × `width`.

    - `matrix`, (B, 3, 3) float64: takes (column, row, 1) to a place in the source, up to the factor in its third
      component
    - `columns` (B, width) and `rows` (B, height), float32: which places of the grid an output pixel takes
    - `sampled`, (B,) bool: places are coordinates in [-1, 1], as fastai's grids have them; False where the source's
      pixels are taken as they are: places are indices
    - `pooled`, (B, 2) int: rows and columns that the source is averaged down to before it is sampled, or 0
    - `lit` (B,) bool, `gain` and `bias` (B,): lighting is sigmoid(gain · logit(value) + bias)
    - `blank`: which rows and columns are zero, two (B, n) bools; None where no image has any
    - `mode`, `padding`: how to sample, and what is outside, as `grid_sample` calls them
    - `extras`: by image, what only some transforms need
    """

    height: int
    width: int
    matrix: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    sampled: np.ndarray
    pooled: np.ndarray
    lit: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    mode: str
    padding: str
    blank: Optional[Tuple[np.ndarray, np.ndarray]] = None
    extras: Dict[int, Extras] = {}  # noqa: RUF012 - never written to

    def of(self, chosen: Any) -> Plan:
        "The plan of the images `chosen`: a slice, or indices."
        blank = None if self.blank is None else (self.blank[0][chosen], self.blank[1][chosen])
        arrays = {name: getattr(self, name)[chosen] for name in _BY_IMAGE}
        extras = {}
        if self.extras:
            which = np.arange(len(self.rows))[chosen].tolist()
            extras = {k: self.extras[b] for k, b in enumerate(which) if b in self.extras}
        return self._replace(blank=blank, extras=extras, **arrays)


_BY_IMAGE = ("matrix", "columns", "rows", "sampled", "pooled", "lit", "gain", "bias")


class Extras(NamedTuple):
    """What some transforms ask of one image.

    `grid`, (height, width, 2) float32: source coordinates where jitter has moved them. `holes`: pairs of a bool for
    each row and one for each column, zero where both hold. `planes`: channel and the values that it is replaced by.
    """

    grid: Optional[torch.Tensor] = None
    holes: Sequence[Tuple[np.ndarray, np.ndarray]] = ()
    planes: Sequence[Tuple[int, torch.Tensor]] = ()


class Axis:
    "Which indices of the grid one axis of the output takes: `start + step · i` for i below `n`, an image each."

    def __init__(self, n: np.ndarray) -> None:
        self.n = n.copy()
        self.start, self.step = np.zeros_like(n), np.ones_like(n)

    def choose(self, run: np.ndarray, start: np.ndarray, n: np.ndarray) -> None:
        "Keep `n` from `start` on, where `run`."
        self.start = np.where(run, self.start + self.step * start, self.start)
        self.n = np.where(run, n, self.n)

    def reverse(self, run: np.ndarray) -> None:
        self.start = np.where(run, self.start + self.step * (self.n - 1), self.start)
        self.step = np.where(run, -self.step, self.step)


def plan(pipeline: Pipeline, drawn: Sequence[Drawn], shapes: Sequence[Shape], mask: bool = False) -> Plan:
    """The plan for images of `shapes` (channels, height, width), for which the steps have `drawn`.

    `mask`: an `ImageSegment`, which is sampled to the nearest pixel and not lit. Raises what collating raises where the
    images come out in different sizes, and what padding raises where there is too little to reflect.
    """
    made = _Planning(pipeline, drawn, shapes, mask)
    made.coordinates()
    made.lighting()
    made.pixels()
    return made.plan()


Pass = Tuple[Pipeline, Sequence[Drawn]]


def first_pass(pipeline: Pipeline, drawn: Sequence[Drawn], shape: Shape) -> Tuple[Optional[Pass], Pass]:
    """What has to be done to one image of `shape` before the rest: `pad` asks for the pixels of what was resized.

    Returns pipeline and draws of that pass, if there is one, and of what is left to do after it.
    """
    while pipeline.steps and pipeline.steps[0].name == "pad" and not drawn[0].run[0]:
        pipeline, drawn = pipeline._replace(steps=pipeline.steps[1:]), drawn[1:]
    if not pipeline.steps or pipeline.steps[0].name != "pad":
        return None, (pipeline, drawn)
    resized = tuple(pipeline.resized(*shape[1:])) != tuple(shape[1:])
    rows, cols = pipeline.cropped(*shape[1:])
    # A refresh takes what was set for sampling with it: fastai then samples by its defaults.
    mode, sampling = ("bilinear", "reflection") if resized else (pipeline.mode, pipeline.sampling)
    left = pipeline._replace(
        steps=pipeline.steps[1:], size=(int(rows), int(cols)), fit=False, mode=mode, sampling=sampling
    )
    return (pipeline._replace(steps=pipeline.steps[:1]), drawn[:1]), (left, drawn[1:])


class _Planning:
    def __init__(self, pipeline: Pipeline, drawn: Sequence[Drawn], shapes: Sequence[Shape], mask: bool) -> None:
        self.pipeline, self.drawn, self.mask = pipeline, drawn, mask
        self.b = len(shapes)
        channels_height_width = np.array(shapes, dtype=np.int64).reshape(self.b, 3)
        self.channels = shapes[0][0]
        self.height, self.width = channels_height_width[:, 1], channels_height_width[:, 2]
        self.grid_height, self.grid_width = pipeline.resized(self.height, self.width)
        self.sampled = (self.grid_height != self.height) | (self.grid_width != self.width)
        self.axes = [Axis(self.grid_height), Axis(self.grid_width)]
        self.swapped = np.zeros(self.b, bool)
        self.blank: Optional[Tuple[np.ndarray, np.ndarray]] = None
        self.mode = "nearest" if mask else pipeline.mode
        self.grids: Dict[int, torch.Tensor] = {}
        self.holes: Dict[int, List[Any]] = {}
        self.planes: Dict[int, List[Any]] = {}
        self.lit = np.zeros(self.b, bool)
        self.gain, self.bias = np.ones(self.b), np.zeros(self.b)
        self.indices: Optional[List[np.ndarray]] = None

    # -- coordinates ------------------------------------------------------------------------------------------

    def coordinates(self) -> None:
        "The matrices, and what follows from where the corners of the grid come to lie."
        moved = np.broadcast_to(_IDENTITY, (self.b, 3, 3))
        # fastai moves its grid through each coordinate transform as it comes: the later map stands to the left. Affine
        # transforms it multiplies in their order first, and moves the grid once: the later one stands to the right.
        # Coordinates go from -1 to 1 along either side, so a rotation has to know the ratio of the sides.
        affine, any_affine = moved, np.zeros(self.b, bool)
        noise: Dict[int, List[Any]] = {}
        for step, drawn in zip(self.pipeline.steps, self.drawn):
            maker, run = MATRICES.get(step.name), drawn.run
            if (maker is None and step.name != "jitter") or not run.any():
                continue
            self.sampled = self.sampled | run
            if maker is None:
                for b in np.flatnonzero(run).tolist():
                    noise.setdefault(b, []).append((moved[b], _shift(drawn, b)))
                moved = np.where(run[:, None, None], _IDENTITY, moved)
                continue
            matrix = maker(drawn, self)
            matrix[~run] = _IDENTITY
            if step.name in AFFINE:
                affine, any_affine = affine @ matrix, any_affine | run
            else:
                moved = matrix @ moved
        if any_affine.any():
            affine = affine.copy()
            affine[:, 0, 1] *= self.grid_height / self.grid_width
            affine[:, 1, 0] *= self.grid_width / self.grid_height
            moved = affine @ moved
        for b, parts in noise.items():
            self.grids[b] = self._moved(b, parts, moved[b])
        self._pool(moved)
        self.matrix = np.where(self.sampled[:, None, None], moved, _IDENTITY)

    def _points(self, b: int) -> torch.Tensor:
        "The grid that fastai starts with, (height, width, 2)."
        x, y = (torch.from_numpy(_unit(int(n[b]))) for n in self._grid())
        return torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], 2)

    def _grid(self) -> Tuple[np.ndarray, np.ndarray]:
        return self.grid_width, self.grid_height

    def _moved(self, b: int, parts: List[Any], last: np.ndarray) -> torch.Tensor:
        "The whole grid of image `b`, moved through matrices with noise in between."
        points = self._points(b)
        for matrix, shift in parts:
            points = _project(points, matrix).add_(shift)
        return _project(points, last)

    def _pool(self, moved: np.ndarray) -> None:
        """Which images are averaged down first, since sampling would skip over pixels: fastai's rule, on all the grid.

        A quotient of linear functions whose divisor keeps its sign takes its extremes over a rectangle at corners.
        """
        self.pooled = np.zeros((self.b, 2), np.int64)
        if self.mode != "bilinear":
            return
        d = np.minimum(self.height / self.grid_height, self.width / self.grid_width) / 2
        asked = self.sampled & (d > 1)
        if not asked.any():
            return
        right, lower = (np.where(n > 1, 1.0, -1.0) for n in self._grid())
        ones = np.ones(self.b)
        corners = np.stack([[x, y, ones] for x in (-ones, right) for y in (-ones, lower)], 0).transpose(2, 1, 0)
        x, y, divisor = np.moveaxis(moved @ corners, 1, 0)
        with np.errstate(all="ignore"):
            x, y = x / divisor, y / divisor
            low, high = np.minimum(x.min(1), y.min(1)), np.maximum(x.max(1), y.max(1))
        for b in np.flatnonzero(asked & (divisor.min(1) <= 0)).tolist():
            points = _project(self._points(b), moved[b])
            low[b], high[b] = points.min(), points.max()
        for b, grid in self.grids.items():
            low[b], high[b] = grid.min(), grid.max()
        with np.errstate(all="ignore"):
            pool = asked & (d > 1 / (high - low) * 2)
        for b in np.flatnonzero(pool).tolist():
            factor = 1 / d[b]
            self.pooled[b] = int(float(self.height[b]) * factor), int(float(self.width[b]) * factor)

    # -- values -----------------------------------------------------------------------------------------------

    def lighting(self) -> None:
        "Additions and multiplications of logits, as one of each."
        if self.mask:
            return
        for step, drawn in zip(self.pipeline.steps, self.drawn):
            if step.name == "brightness":
                change = drawn.array("change", 0.5)
                with np.errstate(all="ignore"):
                    self.bias = self.bias + np.where(drawn.run, np.log(change / (1 - change)), 0.0)
            elif step.name == "contrast":
                scale = drawn.array("scale", 1.0)
                self.gain, self.bias = self.gain * scale, self.bias * scale
            else:
                continue
            self.lit = self.lit | drawn.run

    # -- pixels -----------------------------------------------------------------------------------------------

    def pixels(self) -> None:
        "Flips, crops and the final crop with its padding; holes and planes are noted as they come."
        final = []
        for step, drawn in zip(self.pipeline.steps, self.drawn):
            how = PIXELS.get(step.name)
            if how is not None and drawn.run.any():
                how(self, drawn)
            if step.name == "crop_pad" and drawn.run.any():
                final.append(drawn)
        if final:
            self.crop_pad(final)

    def flip_lr(self, drawn: Drawn) -> None:
        self.axes[1].reverse(drawn.run)

    def dihedral(self, drawn: Drawn) -> None:
        k = drawn.array("k", 0).astype(np.int64)
        self.axes[0].reverse((k & 1) > 0)
        self.axes[1].reverse((k & 2) > 0)
        turn = (k & 4) > 0
        rows, cols = self.axes
        for name in ("start", "step", "n"):
            one, other = getattr(rows, name), getattr(cols, name)
            setattr(rows, name, np.where(turn, other, one))
            setattr(cols, name, np.where(turn, one, other))
        self.swapped = self.swapped ^ turn

    def crop(self, drawn: Drawn) -> None:
        "Slices, with all that Python's slices do where a start is negative."
        wanted_of_both = tis2hw(drawn.fixed["size"])
        for axis, name, wanted in zip(self.axes, ("row_pct", "col_pct"), wanted_of_both):
            start = _starts(axis.n, wanted, [drawn], name)
            stop = start + wanted
            start, stop = (np.clip(np.where(one < 0, one + axis.n, one), 0, axis.n) for one in (start, stop))
            axis.choose(drawn.run, start, np.maximum(stop - start, 0))

    def rgb_randomize(self, drawn: Drawn) -> None:
        for b in np.flatnonzero(drawn.run).tolist():
            state = [(axis.start[b], axis.step[b]) for axis in self.axes], self.swapped[b]
            self.planes.setdefault(b, []).append((*_late(drawn)[b], state))

    def cutout(self, drawn: Drawn) -> None:
        for b in np.flatnonzero(drawn.run).tolist():
            state = [(axis.start[b], axis.step[b]) for axis in self.axes]
            self.holes.setdefault(b, []).extend((hole, state) for hole in _late(drawn)[b])

    def pad(self, drawn: Drawn) -> None:
        by = np.array([drawn.get("padding", 0)])  # one image: see `first_pass`
        self._take([-by, -by], [axis.n + 2 * by for axis in self.axes], by, by, drawn.get("mode", 0))

    def crop_pad(self, several: List[Drawn]) -> None:
        "Where several are asked for, the first that runs leaves nothing to do for the others."
        run, wanted = np.any([drawn.run for drawn in several], 0), self.pipeline.cropped(self.height, self.width)
        needed = run & ((self.axes[0].n != wanted[0]) | (self.axes[1].n != wanted[1]))
        if not needed.any():
            return
        short = (self.axes[0].n < wanted[0]) | (self.axes[1].n < wanted[1])
        starts, pads = [], []
        for axis, name, n in zip(self.axes, ("row_pct", "col_pct"), wanted):
            pad = np.where(needed & short, np.maximum((n - axis.n + 1) // 2, 0), 0)
            starts.append(_starts(axis.n + 2 * pad, n, several, name) - pad)
            pads.append(pad)
        sizes = [np.where(needed, n, axis.n) for axis, n in zip(self.axes, wanted)]
        if not any(pad.any() for pad in pads):
            for axis, start, n in zip(self.axes, starts, sizes):
                axis.choose(needed, start, n)
        else:
            starts = [np.where(needed, start, 0) for start in starts]
            self._take(starts, sizes, pads[0], pads[1], self.pipeline.padding)

    def _take(
        self,
        starts: List[np.ndarray],
        sizes: List[np.ndarray],
        row_pad: np.ndarray,
        col_pad: np.ndarray,
        padding: str,
    ) -> None:
        "Indices `start` to `start + size` of what is there, of which those outside are made up as `padding` says."
        found, blank = [], []
        for axis, start, n, pad in zip(self.axes, starts, _uniform(self.channels, sizes), (row_pad, col_pad)):
            index = start[:, None] + np.arange(n)
            last = (axis.n - 1)[:, None]
            blank.append((index < 0) | (index > last))
            if padding == "reflection":
                for b in np.flatnonzero(pad >= axis.n).tolist():
                    _refuse(self.axes, b, row_pad, col_pad)
                index = last - np.abs(last - np.abs(index))
            found.append(np.clip(index, 0, last))
        self.indices = found
        if padding == "zeros":
            self.blank = (blank[0], blank[1])

    # -- the plan ---------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        indices = self.indices
        if indices is None:
            indices = [
                np.broadcast_to(np.arange(n), (self.b, n))
                for n in _uniform(self.channels, [axis.n for axis in self.axes])
            ]
        height, width = indices[0].shape[1], indices[1].shape[1]
        rows, columns = (axis.start[:, None] + axis.step[:, None] * i for axis, i in zip(self.axes, indices))
        # Where rows and columns have changed places, the matrix takes them in the other order.
        self.matrix[self.swapped] = self.matrix[self.swapped][:, :, [1, 0, 2]]
        across, down = self._grid()
        return Plan(
            height,
            width,
            self.matrix,
            self._places(columns, np.where(self.swapped, down, across)),
            self._places(rows, np.where(self.swapped, across, down)),
            self.sampled,
            self.pooled,
            self.lit,
            self.gain,
            self.bias,
            self.mode,
            self.pipeline.sampling,
            self.blank,
            self._extras(rows, columns),
        )

    def _places(self, indices: np.ndarray, n: np.ndarray) -> np.ndarray:
        "The coordinates at `indices` of grids of `n` points, bit for bit those of fastai; indices where not sampled."
        if self.sampled.all() and (n == n[0]).all():  # the usual case
            return _unit(int(n[0]))[indices]  # type: ignore[no-any-return]
        places = indices.astype(np.float32)
        for one in np.unique(n[self.sampled]).tolist():
            which = self.sampled & (n == one)
            places[which] = _unit(one)[indices[which]]
        return places

    def _extras(self, rows: np.ndarray, columns: np.ndarray) -> Dict[int, Extras]:
        made = {}
        for b in {*self.grids, *self.holes, *self.planes}:
            grid = self.grids.get(b)
            if grid is not None:
                grid = grid.transpose(0, 1) if self.swapped[b] else grid
                grid = grid[torch.from_numpy(rows[b])][:, torch.from_numpy(columns[b])]
            holes = []
            for (top, bottom, left, right), axes in self.holes.get(b, ()):
                i, j = ((one[b] - start) // step for one, (start, step) in zip((rows, columns), axes))
                holes.append(((top <= i) & (i < bottom), (left <= j) & (j < right)))
            planes = []
            for channel, plane, (axes, swapped) in self.planes.get(b, ()):
                # Back from the grid to what the plane was drawn for, which may have been turned since.
                turned = swapped != self.swapped[b]
                at = (columns[b], rows[b]) if turned else (rows[b], columns[b])
                i, j = (torch.from_numpy((one - start) // step) for one, (start, step) in zip(at, axes))
                taken = plane[i][:, j]
                planes.append((channel, taken.t() if turned else taken))
            made[b] = Extras(grid, holes, planes)
        return made


PIXELS = {name: getattr(_Planning, name) for name in ("flip_lr", "dihedral", "crop", "rgb_randomize", "cutout", "pad")}


def _late(drawn: Drawn) -> List[Any]:
    assert drawn.late is not None
    return drawn.late


def _starts(extent: np.ndarray, wanted: Any, several: Sequence[Drawn], name: str) -> np.ndarray:
    "Where a crop begins, as `draws.crop_start`, for all images, by the first of `several` that runs."
    pct = several[-1].array(name, 0.5)
    for drawn in several[-2::-1]:
        pct = np.where(drawn.run, drawn.array(name, 0.5), pct)
    return np.trunc((extent - wanted + 1) * np.where(pct == 1.0, 1 - 1e-7, pct)).astype(np.int64)


def _uniform(channels: int, sizes: Sequence[np.ndarray]) -> Tuple[int, int]:
    "The one size that all images have; raises what collating them raises."
    rows, cols = sizes
    if (rows != rows[0]).any() or (cols != cols[0]).any():
        refuse_sizes(channels, list(zip(rows.tolist(), cols.tolist())))
    return int(rows[0]), int(cols[0])


def refuse_sizes(channels: int, sizes: Sequence[Sequence[int]]) -> None:
    "Raise what collating images of different sizes raises."
    default_collate([torch.empty(1).expand(channels, height, width) for height, width in sizes])


def _refuse(axes: List[Axis], b: int, row_pad: np.ndarray, col_pad: np.ndarray) -> None:
    "Raise what torch raises where there is too little to reflect."
    empty = torch.empty(1, 1, int(axes[0].n[b]), int(axes[1].n[b]))
    F.pad(empty, (int(col_pad[b]),) * 2 + (int(row_pad[b]),) * 2, mode="reflect")


# -- matrices ---------------------------------------------------------------------------------------------------


def _unit(n: int) -> np.ndarray:
    "The coordinates of `n` points of fastai's grids."
    return (torch.linspace(-1, 1, n) if n > 1 else torch.tensor([-1.0])).numpy()


def _project(points: torch.Tensor, matrix: np.ndarray) -> torch.Tensor:
    "Points (height, width, 2) through one projective map."
    m = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
    moved = points @ m[:, :2].t() + m[:, 2]
    return moved[..., :2] / moved[..., 2:]


def _shift(drawn: Drawn, b: int) -> torch.Tensor:
    return (_late(drawn)[b] - 0.5) * drawn.get("magnitude", b) * 2


def _stack(n: int, entries: Sequence[Sequence[Any]]) -> np.ndarray:
    "(n, 3, 3), of numbers and of arrays of n."
    made = np.zeros((n, 3, 3))
    for i, row in enumerate(entries):
        for j, value in enumerate(row):
            if isinstance(value, np.ndarray) or value:
                made[:, i, j] = value
    return made


def _rotate(drawn: Drawn, at: _Planning) -> np.ndarray:
    angle = drawn.array("degrees", 0.0) * np.pi / 180
    cos, sin = np.cos(angle), np.sin(angle)
    return _stack(at.b, [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _zoom(drawn: Drawn, at: _Planning) -> np.ndarray:
    scale, row, col = drawn.array("scale", 1.0), drawn.array("row_pct", 0.5), drawn.array("col_pct", 0.5)
    s = 1 - 1 / scale
    return _stack(at.b, [[1 / scale, 0, s * (2 * col - 1)], [0, 1 / scale, s * (2 * row - 1)], [0, 0, 1]])


def _squish(drawn: Drawn, at: _Planning) -> np.ndarray:
    scale, row, col = drawn.array("scale", 1.0), drawn.array("row_pct", 0.5), drawn.array("col_pct", 0.5)
    narrow = scale <= 1
    sw, sh = np.where(narrow, scale, 1.0), np.where(narrow, 1.0, 1 / scale)
    return _stack(at.b, [[sw, 0, (1 - sw) * (2 * col - 1)], [0, sh, (1 - sh) * (2 * row - 1)], [0, 0, 1]])


def _flip_affine(drawn: Drawn, at: _Planning) -> np.ndarray:
    return _stack(at.b, [[-1, 0, 0], [0, 1, 0], [0, 0, 1]])


def _dihedral_affine(drawn: Drawn, at: _Planning) -> np.ndarray:
    k = drawn.array("k", 0).astype(np.int64)
    x, y, turn = np.where(k & 1, -1, 1), np.where(k & 2, -1, 1), (k & 4) > 0
    keep = ~turn
    return _stack(at.b, [[x * keep, x * turn, 0], [y * turn, y * keep, 0], [0, 0, 1]])


def _zoom_squish(drawn: Drawn, at: _Planning) -> np.ndarray:
    "The first of several zooms that lies inside the picture; else a crop of its middle, without cropping."
    ratio = np.sqrt(at.grid_width / at.grid_height)
    wide = ratio > 1
    w, h = np.where(wide, 1 / ratio**2, 1.0), np.where(wide, 1.0, ratio**2)
    x = y = np.zeros(at.b)
    row, col = drawn.array("row_pct", 0.5), drawn.array("col_pct", 0.5)
    scale, squish, invert = (
        np.array([drawn.get(name, b).tolist() for b in range(at.b)]) for name in ("scale", "squish", "invert")
    )
    with np.errstate(all="ignore"):
        s, r = 1 / np.sqrt(scale), np.sqrt(squish)
        inside = (s * r <= 1) & (s / r <= 1)
        some, first = inside.any(1), (np.arange(at.b), inside.argmax(1))
        a, b = (s / r)[first], (s * r)[first]
    turned = invert[first].astype(bool)
    w, h = np.where(some, np.where(turned, a, b), w), np.where(some, np.where(turned, b, a), h)
    x, y = np.where(some, (1 - w) * (2 * col - 1), x), np.where(some, (1 - h) * (2 * row - 1), y)
    return _stack(at.b, [[w, 0, x], [0, h, y], [0, 0, 1]])


def homography(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The projective maps (n, 3, 3) that take four `targets` (n, 4, 2) to four `points` (n, 4, 2).

    A point (x, y) goes to ((ax + by + c) / (gx + hy + 1), (dx + ey + f) / (gx + hy + 1)). Multiplied out, each pair
    gives two equations that are linear in a to h; four pairs determine them. See Christopher R. Wren, "Perspective
    Transform Estimation" (MIT Media Lab, 1998), which fastai cites too, and Heckbert, "Fundamentals of Texture Mapping
    and Image Warping" (1989), section 2.2.2.
    """
    n = len(points)
    x, y = targets[..., 0], targets[..., 1]
    u, v = points[..., 0], points[..., 1]
    one, zero = np.ones_like(x), np.zeros_like(x)
    upper = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 2)
    lower = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 2)
    solved = np.linalg.solve(np.concatenate([upper, lower], 1), np.concatenate([u, v], 1)[..., None])[..., 0]
    return np.concatenate([solved, np.ones((n, 1))], 1).reshape(n, 3, 3)


def _warp(corners: Any, drawn: Drawn, at: _Planning) -> np.ndarray:
    "The map of a warp whose corners are moved to `corners(drawn, chosen)`."
    made, chosen = np.tile(_IDENTITY, (at.b, 1, 1)), np.flatnonzero(drawn.run)
    points = np.broadcast_to(np.array(_ORIGINAL, np.float64), (len(chosen), 4, 2))
    targets = corners(drawn, chosen.tolist(), points.copy())
    if drawn.fixed.get("invert", False):
        points, targets = targets, points
    made[chosen] = homography(points, targets)
    return made


def _magnitudes(drawn: Drawn, chosen: List[int], n: int) -> np.ndarray:
    "Of the images `chosen`, (images, n): a tensor is drawn for each, or one number or sequence is everybody's."
    if "magnitude" in drawn.values:
        drawn = drawn.values["magnitude"]
        if isinstance(drawn[0], torch.Tensor):
            drawn = torch.stack(list(drawn)).numpy()
        values = np.asarray(drawn, np.float64).reshape(len(drawn), -1)[chosen]
    else:
        fixed = drawn.fixed["magnitude"]
        values = np.array(fixed.tolist() if isinstance(fixed, torch.Tensor) else fixed, np.float64).reshape(1, -1)
    return np.broadcast_to(values, (len(chosen), n))


def _perspective_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    return corners + _magnitudes(drawn, chosen, 8).reshape(-1, 4, 2)


def _symmetric_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    "Each side grows: by the fourth magnitude, the third, the second and the first."
    m = _magnitudes(drawn, chosen, 4)
    return corners * (1 + m[:, [[3, 1], [2, 1], [3, 0], [2, 0]]])


_TILTED = {
    0: ((2, 1, -1), (3, 1, 1)),
    1: ((0, 1, -1), (1, 1, 1)),
    2: ((1, 0, -1), (3, 0, 1)),
    3: ((0, 0, -1), (2, 0, 1)),
}
_SKEWED = {
    **{0: (0, 0, -1), 1: (0, 1, -1), 2: (1, 0, -1), 3: (1, 1, 1)},
    **{4: (2, 0, 1), 5: (2, 1, -1), 6: (3, 0, 1), 7: (3, 1, 1)},
}


def _tilt_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    for n, b in enumerate(chosen):
        for corner, axis, sign in _TILTED[drawn.get("direction", b)]:
            corners[n, corner, axis] += sign * float(drawn.get("magnitude", b))
    return corners


def _skew_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    for n, b in enumerate(chosen):
        corner, axis, sign = _SKEWED[drawn.get("direction", b)]
        corners[n, corner, axis] += sign * float(drawn.get("magnitude", b))
    return corners


def _warping(corners: Any) -> Any:
    return lambda drawn, at: _warp(corners, drawn, at)


AFFINE = {
    "rotate": _rotate,
    "zoom": _zoom,
    "squish": _squish,
    "flip_affine": _flip_affine,
    "dihedral_affine": _dihedral_affine,
}
MATRICES = {
    **AFFINE,
    "zoom_squish": _zoom_squish,
    "perspective_warp": _warping(_perspective_corners),
    "symmetric_warp": _warping(_symmetric_corners),
    "tilt": _warping(_tilt_corners),
    "skew": _warping(_skew_corners),
}
