"""Build a `Pipeline` from the arguments of `apply_tfms`, once per batch."""

from __future__ import annotations

import inspect
import math
import random
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from fastai.core import ifnone, is_listy, listify
from fastai.torch_core import log_uniform, rand_bool, uniform, uniform_int
from fastai.vision import image as fastai_image
from fastai.vision.image import Image, RandTransform, ResizeMethod, Transform

from ..store import brief
from .draws import Draw, Pipeline, TransformStep, Uniform
from .transforms import ANY, KNOWN, KnownTransform, Unknown, check_values, describe

_ARGUMENTS = {"do_resolve", "xtra", "size", "resize_method", "mult", "padding_mode", "mode", "remove_out"}
# How many arguments fastai's draws take, besides a size.
_DRAWS = {uniform: (1, 2), log_uniform: (2,), uniform_int: (2,), rand_bool: (1,), int: (1,), float: (1,)}
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
    size, mult = arguments.get("size"), arguments.get("mult")
    sides: List[Any] = [*size] if isinstance(size, (tuple, list)) else [size]
    if size is not None and not (1 <= len(sides) <= 3 and all(type(n) is int and n > 0 for n in sides)):
        raise Unknown(f"size={brief(size)} is neither a size nor None")
    if not (tfms or size):
        return None
    mode, padding = arguments.get("mode", "bilinear"), arguments.get("padding_mode", "reflection")
    if mode not in ("bilinear", "nearest") or padding not in ("reflection", "border", "zeros"):
        raise Unknown(f"mode={brief(mode)} with padding_mode={brief(padding)} is not supported")
    default = ResizeMethod.SQUISH if size is not None and is_listy(size) else ResizeMethod.CROP
    method = ifnone(arguments.get("resize_method"), default)
    if type(method) not in (int, ResizeMethod) or not 1 <= method <= 4 or not (mult is None or type(mult) is int):
        raise Unknown(f"resize_method={brief(method)} with mult={brief(mult)} is not supported")
    tfms = listify(tfms)
    for one in tfms:
        _check(one)
    if method <= 2 and size is not None:
        tfms = Image(torch.empty(0))._maybe_add_crop_pad(tfms)
    tfms = sorted(tfms, key=lambda one: one.tfm.order)
    steps = [_step(one) for one in tfms]
    if method not in _CROPPED:  # fastai draws for the crops, but does not apply them
        steps = [step._replace(name="") if step.name == "crop_pad" else step for step in steps]
    if mult is not None and (mult < 1 or (size is not None and 2 * min(sides) < mult)):
        raise Unknown(f"mult={brief(mult)} leaves nothing of the images")
    target = None if size is None else fastai_image._get_crop_target(size, mult=mult)
    placed, calls = _placed(steps)
    fit = method != ResizeMethod.NO
    size_dependent = any(KNOWN[one.tfm.func].size_dependent for one in tfms)
    return Pipeline(tuple(placed), target, method, mult, padding, padding, mode, fit, size_dependent, tuple(calls))


def resolving(pipeline: Pipeline, tfms: Any) -> Pipeline:
    """Return what `tfms`, those of `pipeline`, draw for an item that only resolves them, one after another.

    fastai's noise does so: it has no order of transforms, and adds none.
    """
    known = {id(step.transform): step for step in pipeline.steps}
    placed, calls = _placed([known[id(one)] for one in listify(tfms)])
    return pipeline._replace(steps=tuple(placed), size_dependent=False, calls=tuple(calls))


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
    if type(one.tfm).__module__ != Transform.__module__:
        raise Unknown(f"the transform {describe(one)} is of your class {type(one.tfm).__name__}")
    if (one.tfm._wrap or "pixel") != known.method or one.tfm.order != known.order:
        raise Unknown(f"the transform {describe(one)} has another order or class than fastai's")
    for own in (one, one.tfm):
        methods = [name for name in vars(own) if inspect.isfunction(getattr(type(own), name, None))]
        if methods:
            raise Unknown(f"the transform {describe(one)} has its own {methods[0]}")


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
        if key not in tfm.params:
            fixed[key] = value
            continue
        draw = _draw(key, tfm.params[key], value, known)
        if draw is None:
            raise Unknown(f"the transform {name} has {key}={brief(value)}")
        draws.append(draw)
    drawn = {draw.name for draw in draws}
    for key, value in tfm.def_args.items():
        if key not in drawn and key not in fixed:
            fixed[key] = value
    for key, function in tfm.params.items():
        if key not in drawn and key not in fixed and key != "return":
            draw = _draw(key, function, (), known)
            if draw is None:
                raise Unknown(f"the transform {name} lacks {key}")
            draws.append(draw)
            drawn.add(key)
    counts = {draw.several for draw in draws if draw.several}
    if len(counts) > 1:
        raise Unknown(f"the transform {name} draws different numbers of parameters: {sorted(counts)}")
    check_values(name, fixed, drawn)
    if type(one.p) not in (int, float, bool, np.float64):
        raise Unknown(f"the transform {name} has p={brief(one.p)}")
    return TransformStep(name, one, tuple(draws), fixed, one.p)


def _draw(name: str, function: Any, given: Any, known: KnownTransform) -> Optional[Draw]:
    """Return the draw `function(*listify(given))`; None if fastai would raise, or return something unusual.

    The draws that are only an affine map of `random.random()` are simplified.
    """
    parameter = known.parameters.get(name)
    if parameter is None or not (type(given) in (tuple, list) or parameter._replace(several=0).holds(given)):
        return None
    arguments, keywords = listify(given), {}
    if isinstance(function, partial):
        arguments, keywords, function = [*function.args, *arguments], function.keywords, function.func
    several = keywords.get("size", 0)
    if parameter.several == ANY:
        if len(arguments) != _DRAWS.get(function, (0,))[-1] + 1:
            return None
        several = arguments.pop()
        keywords = {"size": several}
    if set(keywords) - {"size"} or type(several) is not int or (several < 1 and keywords):
        return None
    plain = parameter._replace(several=0, whole=function is uniform_int)
    if len(arguments) not in _DRAWS.get(function, ()) or not all(plain.holds(one) for one in arguments):
        return None
    if parameter.whole and function not in (uniform_int, int):
        return None
    if not keywords and function in (uniform, log_uniform):
        log = function is log_uniform
        low, high = (math.log(value) if log else float(value) for value in (arguments[0], arguments[-1]))
        return Draw(name, random.random, low, high - low, log)
    if function is uniform:
        return Draw(name, Uniform(several, arguments[0], arguments[-1]), several=several)
    if function is rand_bool and several:
        return Draw(name, Uniform(several, 0, 1, arguments[0]), several=several)
    return Draw(name, partial(function, *arguments, **keywords), several=several)
