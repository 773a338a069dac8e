"""Build a `Pipeline` from the arguments of `apply_tfms`, once per batch."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from fastai.core import ifnone, is_listy, listify
from fastai.torch_core import log_uniform, uniform
from fastai.vision import image as fastai_image
from fastai.vision import transform as fastai_transform
from fastai.vision.image import Image, RandTransform, ResizeMethod

from .draws import Draw, Pipeline, TransformStep
from .transforms import KNOWN, Unknown, check_values, describe

_ARGUMENTS = {"do_resolve", "xtra", "size", "resize_method", "mult", "padding_mode", "mode", "remove_out"}
_CROPPED = (ResizeMethod.CROP, ResizeMethod.PAD)
#: Leave images as they are.
UNTOUCHED = Pipeline(
    steps=(),
    size=None,
    method=1,
    mult=None,
    padding="reflection",
    sampling="reflection",
    mode="bilinear",
    fit=False,
    size_dependent=False,
    calls=(),
)


def pipeline_of(tfms: Any, arguments: Dict[str, Any]) -> Optional[Pipeline]:
    """Return the pipeline of `apply_tfms(tfms, **arguments)`; None if that returns its image unchanged.

    Raises Unknown, with the reason, if something is not fastai's own or not used as fastai uses it.
    """
    if set(arguments) - _ARGUMENTS:
        raise Unknown(f"the arguments {sorted(set(arguments) - _ARGUMENTS)} are not fastai's")
    if arguments.get("xtra"):
        raise Unknown("xtra is used")
    size = arguments.get("size")
    if not (tfms or size):
        return None
    mode, padding = arguments.get("mode", "bilinear"), arguments.get("padding_mode", "reflection")
    if mode not in ("bilinear", "nearest") or padding not in ("reflection", "border", "zeros"):
        raise Unknown(f"mode={mode!r} with padding_mode={padding!r} is not supported")
    default = ResizeMethod.SQUISH if size is not None and is_listy(size) else ResizeMethod.CROP
    method = ifnone(arguments.get("resize_method"), default)
    tfms = listify(tfms)
    for one in tfms:
        _check(one)
    if method <= 2 and size is not None:
        if Image._maybe_add_crop_pad is not fastai_transform._image_maybe_add_crop_pad:
            raise Unknown("Image._maybe_add_crop_pad was replaced")
        tfms = Image(torch.empty(0))._maybe_add_crop_pad(tfms)
    tfms = sorted(tfms, key=lambda one: one.tfm.order)
    steps = [_step(one) for one in tfms]
    if method not in _CROPPED:  # fastai draws for the crops, but does not apply them
        steps = [step._replace(name="") if step.name == "crop_pad" else step for step in steps]
    target = None if size is None else fastai_image._get_crop_target(size, mult=arguments.get("mult"))
    if target is not None and not all(isinstance(n, (int, np.integer)) and n > 0 for n in target):
        raise Unknown(f"size={size!r} is not a valid size")
    placed, calls = _placed(steps)
    fit, mult = method != ResizeMethod.NO, arguments.get("mult")
    size_dependent = any(KNOWN[one.tfm.func].size_dependent for one in tfms)
    return Pipeline(tuple(placed), target, method, mult, padding, padding, mode, fit, size_dependent, tuple(calls))


def _placed(steps: List[TransformStep]) -> Tuple[List[TransformStep], List[Callable[[], Any]]]:
    "Return the steps, each with the position of its draws, and the calls that draw them."
    placed: List[TransformStep] = []
    calls: List[Callable[[], Any]] = []
    for step in steps:
        placed.append(step._replace(at=len(calls)))
        calls += [draw.call for draw in step.draws]
        if step.p is not None:
            calls.append(random.random)  # as `rand_bool`: 0 + (1 - 0) · it
    # A transform that is listed twice draws twice, and uses its last draw both times.
    last = {id(step.transform): step.at for step in placed}
    return [step._replace(at=last[id(step.transform)]) for step in placed], calls


def _check(one: Any) -> None:
    "Raise Unknown unless `one` is a transform of fastai's own, used as fastai uses it."
    known = KNOWN.get(getattr(getattr(one, "tfm", None), "func", None)) if type(one) is RandTransform else None
    if known is None:
        raise Unknown(f"the transform {describe(one)} is not fastai's own")
    if (one.tfm._wrap or "pixel") != known.method or one.tfm.order != known.order:
        raise Unknown(f"the transform {describe(one)} has another order or class than fastai's")
    if {"resolve", "__call__"} & set(vars(one)):
        raise Unknown(f"the transform {describe(one)} has its own resolve or __call__")


def _step(one: Any) -> TransformStep:
    "Build the step of a `RandTransform`, following its `resolve`."
    tfm, known = one.tfm, KNOWN[one.tfm.func]
    name = known.name
    if not one.is_random:
        fixed = {**tfm.def_args, **one.kwargs}
        check_values(name, fixed)
        return TransformStep(name, one, (), fixed, None)
    draws: List[Draw] = []
    fixed = {}
    for key, value in one.kwargs.items():
        if key in tfm.params:
            arguments = listify(value)
            if len(arguments) != known.arguments.get(key, len(arguments)):
                raise Unknown(f"the transform {name} has {key}={value!r}")
            draws.append(_draw(key, tfm.params[key], arguments))
        else:
            fixed[key] = value
    drawn = {draw.name for draw in draws}
    for key, value in tfm.def_args.items():
        if key not in drawn and key not in fixed:
            fixed[key] = value
    for key, draw in tfm.params.items():
        if key not in drawn and key not in fixed and key != "return":
            if not isinstance(draw, partial):
                raise Unknown(f"the transform {name} lacks {key}")
            draws.append(Draw(key, draw))
            drawn.add(key)
    check_values(name, fixed, drawn)
    p = float(one.p) if isinstance(one.p, torch.Tensor) and not one.p.dim() else one.p
    return TransformStep(name, one, tuple(draws), fixed, p)


def _draw(name: str, function: Any, arguments: List[Any]) -> Draw:
    "Return the draw `function(*arguments)`; simplify it if it is one of fastai's plain draws."
    if function in (uniform, log_uniform) and 1 <= len(arguments) <= 2:
        log = function is log_uniform
        with suppress(ValueError, TypeError):  # else fastai raises when it draws
            low, high = (math.log(value) if log else float(value) for value in (arguments[0], arguments[-1]))
            return Draw(name, random.random, low, high - low, log)
    sized = isinstance(function, partial) and function.func is uniform and set(function.keywords) == {"size"}
    if sized and not function.args and len(arguments) == 2 and isinstance(function.keywords["size"], int):
        n, (low, high) = function.keywords["size"], arguments
        return Draw(name, lambda: torch.empty(n).uniform_(low, high))
    return Draw(name, partial(function, *arguments))
