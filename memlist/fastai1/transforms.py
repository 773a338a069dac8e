"""The transforms of fastai 1 that can run on a whole batch: their names, their order and what they need.

Every transform has one row in `_ROWS`. To add one, write its row here and its meaning in one other file:

- a map of coordinates (`coord`, `affine`): its matrix, in `matrices.py`
- a change of values (`lighting`): its gain and bias, in `planner.lighting`
- a choice of pixels (`pixel`): a method of `Selection`, in `selection.py`

A transform that is not in `fastai.vision.transform`, such as `saturation`, has to be found by `KNOWN` first. Its row
would be here, too; but it mixes channels, for which `Plan` has no field: `memlist/batch/__init__.py` says where that
goes.

`pipelines.py` reads from the arguments of a transform what it draws, without code per transform. Only a transform that,
when applied, draws more numbers, which depend on the size of the image, needs a case in `Pipeline.draw_for_size`.
"""

from __future__ import annotations

from typing import Any, Collection, Dict, NamedTuple, Tuple

import numpy as np
import torch
from fastai.vision import transform as fastai_transform

from ..store import brief


class Unknown(Exception):
    "Raised if batches can't be made at once; its message completes a sentence after 'since'."


class Parameter(NamedTuple):
    """Describe the values of a parameter that are understood; with others, stock code makes the batches.

    - `low`, `high`: the bounds of a number, inclusive. Beyond them fastai raises, or makes nothing that is of use.
    - `whole`: whether it is an int; otherwise it may be an int or a float
    - `needed`: whether it has no default
    - `several`: how many numbers there are, if it is drawn as a tensor; `ANY` if its last argument says how many
    - `single`: if it is drawn as a tensor: whether one number, for all of them, may be given, too
    - `choices`: what it may be instead of a number
    - `pair`: whether it may also be two numbers
    - `ignored`: whether `apply_tfms` overrides it, so that it may be anything
    """

    low: float = -1e6
    high: float = 1e6
    whole: bool = False
    needed: bool = False
    several: int = 0
    single: bool = False
    choices: Tuple[Any, ...] = ()
    pair: bool = False
    ignored: bool = False

    def holds(self, value: Any) -> bool:
        "Return whether it may have this value."
        if self.ignored:
            return True
        if self.pair and type(value) in (tuple, list):
            return len(value) == 2 and all(self._replace(pair=False).holds(one) for one in value)
        if type(value) in (int, float, bool, np.float64) or isinstance(value, np.integer):
            inside = self.low <= value <= self.high  # which NaN is not
            return inside and not (self.whole and isinstance(value, float)) and (not self.several or self.single)
        if self.several and isinstance(value, torch.Tensor):
            known = value.dtype in (torch.float32, torch.bool) and value.device.type == "cpu" and value.dim() == 1
            return known and self.several in (ANY, len(value)) and all(self.low <= one <= self.high for one in value)
        return any(one is value or (isinstance(one, str) and one == value) for one in self.choices)


class KnownTransform(NamedTuple):
    """Describe one transform of `fastai.vision.transform`.

    - `method`, `order`: the method of `Image` that applies it, and fastai's order of application
    - `parameters`: those that are understood, by name
    - `size_dependent`: whether it draws more numbers when it is applied, which depend on the size of the image
    """

    name: str
    method: str
    order: int
    parameters: Dict[str, Parameter] = {}  # noqa: RUF012 - never written to
    size_dependent: bool = False


ANY = -1
_NUMBER = Parameter()
_SCALE = Parameter(1e-3, 1e3)
_ANYWHERE = {"row_pct": _NUMBER, "col_pct": _NUMBER}
_INSIDE = {"row_pct": Parameter(0, 1), "col_pct": Parameter(0, 1)}
_EIGHTH = Parameter(0, 7, whole=True, needed=True)
#: Warps by more than this move corners onto one another, or nearly so.
_WARP = Parameter(-0.6, 0.6)
_FLAG = Parameter(0, 1, choices=(None,))
_IGNORED = Parameter(ignored=True)
_ROWS = (
    KnownTransform(
        "pad",
        "pixel",
        -10,
        {
            "padding": Parameter(0, whole=True, needed=True),
            "mode": Parameter(1, 0, choices=("reflection", "zeros", "border")),
        },
    ),
    KnownTransform("jitter", "coord", 4, {"magnitude": _NUMBER._replace(needed=True)}, size_dependent=True),
    KnownTransform("perspective_warp", "coord", 4, {"magnitude": _WARP._replace(several=8), "invert": _FLAG}),
    KnownTransform(
        "symmetric_warp", "coord", 4, {"magnitude": _WARP._replace(several=4, single=True), "invert": _FLAG}
    ),
    KnownTransform("tilt", "coord", 4, {"direction": _EIGHTH._replace(high=3), "magnitude": _WARP, "invert": _FLAG}),
    KnownTransform("skew", "coord", 4, {"direction": _EIGHTH, "magnitude": _WARP, "invert": _FLAG}),
    KnownTransform(
        "zoom_squish",
        "coord",
        4,
        {
            "scale": _SCALE._replace(several=ANY),
            "squish": _SCALE._replace(several=ANY),
            "invert": Parameter(0, 1, several=ANY),
            **_ANYWHERE,
        },
    ),
    KnownTransform("rotate", "affine", 5, {"degrees": _NUMBER._replace(needed=True)}),
    KnownTransform("zoom", "affine", 5, {"scale": _SCALE, **_ANYWHERE}),
    KnownTransform("squish", "affine", 5, {"scale": _SCALE, **_ANYWHERE}),
    KnownTransform("flip_affine", "affine", 5),
    KnownTransform("dihedral_affine", "affine", 5, {"k": _EIGHTH}),
    KnownTransform("brightness", "lighting", 8, {"change": Parameter(1e-6, 1 - 1e-6, needed=True)}),
    KnownTransform("contrast", "lighting", 8, {"scale": _SCALE._replace(needed=True)}),
    KnownTransform("flip_lr", "pixel", 10),
    KnownTransform("dihedral", "pixel", 10, {"k": _EIGHTH}),
    KnownTransform("crop", "pixel", 10, {"size": Parameter(1, whole=True, needed=True, pair=True), **_INSIDE}),
    KnownTransform(
        "rgb_randomize",
        "pixel",
        10,
        {"channel": Parameter(0, whole=True, choices=(None,)), "thresh": _NUMBER},
        size_dependent=True,
    ),
    KnownTransform(
        "cutout",
        "pixel",
        20,
        {"n_holes": Parameter(0, whole=True), "length": Parameter(0)},
        size_dependent=True,
    ),
    KnownTransform("crop_pad", "pixel", 99, {"size": _IGNORED, "padding_mode": _IGNORED, **_INSIDE}),
)
_BY_NAME = {row.name: row for row in _ROWS}
#: By the function that each transform wraps.
KNOWN: Dict[Any, KnownTransform] = {getattr(fastai_transform, f"_{row.name}"): row for row in _ROWS}


def check_values(name: str, values: Dict[str, Any], drawn: Collection[str] = ()) -> None:
    """Raise Unknown unless `values` are understood parameters of the transform `name`, and none is missing.

    `drawn`: the parameters that are drawn, of which the values are not known yet.
    """
    row = _BY_NAME.get(name)
    if row is None:
        return
    for key, one in row.parameters.items():
        if one.needed and key not in values and key not in drawn:
            raise Unknown(f"the transform {name} lacks {key}")
    for key, value in values.items():
        if key not in row.parameters or not row.parameters[key].holds(value):
            raise Unknown(f"the transform {name} has {key}={brief(value)}")
    lengths = {len(value) for value in values.values() if isinstance(value, torch.Tensor)}
    if len(lengths) > 1:
        raise Unknown(f"the transform {name} has tensors of the lengths {sorted(lengths)}")


def describe(one: Any) -> str:
    "Return the name of a transform or a function in messages."
    inner = getattr(one, "tfm", one)
    return getattr(getattr(inner, "func", inner), "__name__", None) or type(inner).__name__
