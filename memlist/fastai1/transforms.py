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

import torch
from fastai.vision import transform as fastai_transform


class Unknown(Exception):
    "Raised if batches can't be made at once; its message completes a sentence after 'since'."


class KnownTransform(NamedTuple):
    """Describe one transform of `fastai.vision.transform`.

    - `method`, `order`: the method of `Image` that applies it, and fastai's order of application
    - `needed`: parameters that have no default
    - `tensors`: parameters that fastai's own code requires to be tensors of several numbers
    - `arguments`: for each of these, how many arguments its draw takes
    - `size_dependent`: whether it draws more numbers when it is applied, which depend on the size of the image
    """

    name: str
    method: str
    order: int
    needed: Tuple[str, ...] = ()
    tensors: Tuple[str, ...] = ()
    arguments: Dict[str, int] = {}  # noqa: RUF012 - never written to
    size_dependent: bool = False


_ROWS = (
    KnownTransform("pad", "pixel", -10, ("padding", "mode")),
    KnownTransform("jitter", "coord", 4, ("magnitude",), size_dependent=True),
    KnownTransform("perspective_warp", "coord", 4, (), ("magnitude",)),
    KnownTransform("symmetric_warp", "coord", 4),
    KnownTransform("tilt", "coord", 4, ("direction",)),
    KnownTransform("skew", "coord", 4, ("direction",)),
    KnownTransform(
        "zoom_squish", "coord", 4, (), ("scale", "squish", "invert"), {"scale": 3, "squish": 3, "invert": 2}
    ),
    KnownTransform("rotate", "affine", 5, ("degrees",)),
    KnownTransform("zoom", "affine", 5),
    KnownTransform("squish", "affine", 5),
    KnownTransform("flip_affine", "affine", 5),
    KnownTransform("dihedral_affine", "affine", 5, ("k",)),
    KnownTransform("brightness", "lighting", 8, ("change",)),
    KnownTransform("contrast", "lighting", 8, ("scale",)),
    KnownTransform("flip_lr", "pixel", 10),
    KnownTransform("dihedral", "pixel", 10, ("k",)),
    KnownTransform("crop", "pixel", 10, ("size",)),
    KnownTransform("rgb_randomize", "pixel", 10, size_dependent=True),
    KnownTransform("cutout", "pixel", 20, size_dependent=True),
    KnownTransform("crop_pad", "pixel", 99),
)
_BY_NAME = {row.name: row for row in _ROWS}
#: By the function that each transform wraps.
KNOWN: Dict[Any, KnownTransform] = {getattr(fastai_transform, f"_{row.name}"): row for row in _ROWS}


def check_values(name: str, values: Dict[str, Any], drawn: Collection[str] = ()) -> None:
    """Raise Unknown if fastai would raise an error when it applies the transform `name`.

    That is if a needed parameter is neither in `values` nor in `drawn`, or if one of `values` should be a tensor.
    """
    row = _BY_NAME.get(name)
    if row is None:
        return
    missing = [key for key in row.needed if key not in values and key not in drawn]
    if missing:
        raise Unknown(f"the transform {name} lacks {', '.join(missing)}")
    for key in row.tensors:
        if key in values and not isinstance(values[key], torch.Tensor):
            raise Unknown(f"the transform {name} has {key}={values[key]!r}")


def describe(one: Any) -> str:
    "Return the name of a transform or a function in messages."
    inner = getattr(one, "tfm", one)
    return getattr(getattr(inner, "func", inner), "__name__", None) or type(inner).__name__
