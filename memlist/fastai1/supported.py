"""Decide whether batches can be made at once: return the pipelines of a dataset, or the reason why stock makes them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, List, Optional, Sequence, Tuple

import torch
from fastai.core import listify
from fastai.data_block import LabelList, MixedItemList
from fastai.torch_core import data_collate
from fastai.vision.data import bb_pad_collate
from fastai.vision.image import Image, ImageSegment, RandTransform, ResizeMethod
from torch import Tensor

from .draws import Pipeline
from .lists import lists_of
from .messages import named
from .patches import replaced
from .pipelines import UNTOUCHED, pipeline_of
from .transforms import Unknown, describe

COLLATES = (data_collate, bb_pad_collate)
_FIXED = (int, float, str, bool, tuple, type(None), ResizeMethod)


def pipelines(ds: LabelList) -> Tuple[Optional[Pipeline], Optional[Pipeline]]:
    """Return the pipelines of `ds` for its inputs (None: unchanged) and for its targets (None: made by stock code).

    Call this for every batch, because fastai may replace `tfms` between batches. Raises Unknown if stock code has to
    make the batch, and if transforms are so odd that reading them raises: stock may never read what is odd in them.
    """
    try:
        return _pipelines(ds)
    except Unknown:
        raise
    except Exception as error:
        raise Unknown(f"its transforms or their arguments are unusual ({error!r})") from error


def _pipelines(ds: LabelList) -> Tuple[Optional[Pipeline], Optional[Pipeline]]:
    arguments = dict(ds.tfmargs or {})
    if not arguments.pop("do_resolve", True):
        raise Unknown("do_resolve=False is used")
    x = pipeline_of(ds.tfms, arguments) if ds.tfms or ds.tfmargs else None
    y = None
    if getattr(ds, "tfm_y", False) and hasattr(ds, "tfms_y"):
        arguments = {name: value for name, value in (ds.tfmargs_y or {}).items() if name != "do_resolve"}
        with suppress(Unknown):
            y = pipeline_of(ds.tfms_y, arguments) or UNTOUCHED
    return x, y


def parts_of_pipelines(ds: Any) -> Optional[List[Any]]:
    """Return everything that `pipelines(ds)` depends on, to be compared by identity with an earlier result.

    Returns None if a part is mutable.
    """
    tfms = [*listify(ds.tfms), *listify(getattr(ds, "tfms_y", None))]
    if any(type(one) is not RandTransform for one in tfms):
        return None
    arguments = [*(ds.tfmargs or {}).items(), *(getattr(ds, "tfmargs_y", None) or {}).items()]
    values = [value for _, value in arguments]
    seen = [bool(ds.tfms), ds.tfm_y, *(name for name, _ in arguments)]
    for one in tfms:
        values += one.kwargs.values()
        seen += (one, one.tfm, one.p, one.is_random, *one.kwargs)
    return seen + values if all(isinstance(value, _FIXED) for value in values) else None


def alike(some: Sequence[Optional[Pipeline]], others: Sequence[Optional[Pipeline]]) -> bool:
    """Return whether two results of `pipelines`, made of the same transforms, are equal.

    Only what fastai itself has added, a `crop_pad`, may be another object. Pipelines that draw by functions of their
    own are never equal.
    """
    try:
        return all(_without_transforms(one) == _without_transforms(other) for one, other in zip(some, others))
    except Exception:  # a parameter is an array, or something else that can't be compared
        return False


def _without_transforms(pipeline: Optional[Pipeline]) -> Any:
    steps = () if pipeline is None else tuple(step._replace(transform=None) for step in pipeline.steps)
    return pipeline and pipeline._replace(steps=steps)


def reason(ds: Any, collate_fn: Any) -> str:
    "Return why the batches of `ds` cannot be made at once; an empty string if they can."
    if getattr(collate_fn, "func", collate_fn) not in COLLATES:
        return f"the collate_fn {describe(collate_fn)} is your own and needs single items"
    if not isinstance(ds, LabelList) or type(ds).__getitem__ is not LabelList.__getitem__:
        return f"{type(ds).__name__} is not fastai's own LabelList"
    if isinstance(ds.x, MixedItemList):
        return f"the inputs are a {type(ds.x).__name__}, which has transforms for each of its lists"
    changed = replaced()
    if changed:
        return f"{changed} was replaced"
    if setting():
        return setting()
    try:
        pipelines(ds)
    except Unknown as unknown:
        return str(unknown)
    return ""


def setting() -> str:
    "Return which of torch's settings changes the grids of stock; an empty string if none does. Costs up to 1 ms."
    if torch.get_default_dtype() != torch.float32:
        return f"torch's default dtype is {torch.get_default_dtype()}"
    if torch.empty(0).device.type != "cpu":
        return f"torch's default device is {torch.empty(0).device}"
    # Settings of precision and autocast differ between versions of torch, and act on some machines only: look.
    # So many numbers, because small products are computed exactly in any case, but in such a shape that one thread
    # computes them: waking another one can take 8 ms.
    points = torch.linspace(-1, 1, 66).view(33, 2)
    turns = torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).repeat(1, 32)
    moved = torch.addmm(torch.zeros(64), points, turns)
    exact = points[:, :1] * turns[0] + points[:, 1:] * turns[1]
    if moved.dtype != torch.float32 or float((moved - exact).abs().max()) > 1e-6:
        return "torch multiplies matrices with less precision than that of torch.float32 (autocast, or a setting)"
    return ""


def reason_of_item(item: Any) -> str:
    "Return why stock code has to make batches of items such as `item`."
    kind, px = type(item), vars(item).get("_px")
    if kind is not Image and kind is not ImageSegment:
        return f"its {'images' if isinstance(item, Image) else 'items'} are of your class {kind.__name__}"
    if isinstance(px, Tensor) and px.dtype != torch.float32:
        return f"its pixels are {px.dtype}, and not torch.float32"
    if isinstance(px, Tensor) and px.dim() != 3:
        return f"its pixels have {px.dim()} dimensions, and not three"
    if isinstance(px, Tensor) and not bool(torch.isfinite(px).all()):
        return "its pixels hold NaN or infinity"
    return f"its {kind.__name__}s carry more than pixels"


def not_batched(ds: Any, reason: str) -> str:
    "Return the warning that batches of `ds` are made image by image."
    return (
        f"batch_tfms{of_list(ds)}: transforms run as stock fastai's do, image by image, since {reason}. "
        "Your own code can work on whole batches by data.add_tfm; otherwise leave batch_tfms out."
    )


def of_list(ds: Any) -> str:
    "Return ' of' and the list that a warning is about: the first one in memory, else the inputs."
    found = [*lists_of(ds), getattr(ds, "x", None)]
    return f" of {named(found[0])}" if hasattr(found[0], "path") else ""
