"""What fastai's transforms draw for an image: the same calls in the same order, but only the draws.

`compiled` takes the transforms and the keyword arguments of an `apply_tfms` apart, once a batch; `Pipeline.draw` then
does for each image what stock fastai does up to the moment it would touch pixels. What the numbers mean for the pixels
is the business of `geometry`. Nothing here knows of lists or stores.
"""

from __future__ import annotations

import math
import random
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.core import ifnone, is_listy, listify
from fastai.torch_core import log_uniform, uniform
from fastai.vision import image as fastai_image
from fastai.vision import transform as fastai_transform
from fastai.vision.image import Image, RandTransform, ResizeMethod, tis2hw

# The transforms of `fastai.vision.transform`, by the function that each wraps: name, method of `Image`, order.
KNOWN: Dict[Any, Tuple[str, str, int]] = {
    getattr(fastai_transform, f"_{name}"): (name, how, order)
    for how, order, names in (
        ("pixel", -10, ("pad",)),
        ("coord", 4, ("jitter", "perspective_warp", "symmetric_warp", "tilt", "skew", "zoom_squish")),
        ("affine", 5, ("rotate", "zoom", "squish", "flip_affine", "dihedral_affine")),
        ("lighting", 8, ("brightness", "contrast")),
        ("pixel", 10, ("flip_lr", "dihedral", "crop", "rgb_randomize")),
        ("pixel", 20, ("cutout",)),
        ("pixel", 99, ("crop_pad",)),
    )
    for name in names
}
# These draw once more when they are applied, numbers that depend on the size of the image.
LATE = {"jitter", "cutout", "rgb_randomize"}
ARGUMENTS = {"do_resolve", "xtra", "size", "resize_method", "mult", "padding_mode", "mode", "remove_out"}
_PLAIN = (int, float, str, bool, tuple, type(None))
_CROPPED = (ResizeMethod.CROP, ResizeMethod.PAD)


class Unknown(Exception):
    "What can't be done a batch at a time; says why, as the end of a sentence that begins with 'since'."


class Draw(NamedTuple):
    """One parameter that is drawn: `call()` once an image, then `low + span · number`, and e to that power if `log`.

    Without a `span` the parameter is what `call()` returns.
    """

    name: str
    call: Callable[[], Any]
    low: float = 0.0
    span: Optional[float] = None
    log: bool = False

    def value(self, drawn: Any) -> Any:
        "The parameter, of a number or an array of numbers."
        if self.span is not None:
            drawn = self.low + self.span * drawn
        if not self.log:
            return drawn
        return np.exp(drawn) if isinstance(drawn, np.ndarray) else math.exp(drawn)


class Step(NamedTuple):
    """One transform of a pipeline: what it draws, what is fixed, and the probability that it runs.

    `at` is where its draws begin in the row of an image; last of them, where `p` is not None, is the one that decides
    whether it runs. Otherwise it runs or not as its `RandTransform` says. Of a step that `stands` the row has, at `at`,
    whether it runs and its parameters.
    """

    name: str
    transform: Any  # the `RandTransform`
    draws: Tuple[Draw, ...]
    fixed: Dict[str, Any]
    p: Optional[float]
    at: int = 0
    stands: bool = False

    def runs(self, row: Sequence[Any]) -> bool:
        "Whether it runs for the image that has drawn `row`."
        if self.stands:
            return bool(row[self.at][0])
        return self.transform.do_run if self.p is None else row[self.at + len(self.draws)] < self.p

    def values(self, row: Sequence[Any]) -> Dict[str, Any]:
        "Its parameters for the image that has drawn `row`."
        if self.stands:
            return row[self.at][1]  # type: ignore[no-any-return]
        return {**{draw.name: draw.value(row[self.at + k]) for k, draw in enumerate(self.draws)}, **self.fixed}


class Drawn(NamedTuple):
    """What one step has drawn for all images of a batch.

    `run` is a bool for each image; `values` has an array or a list with one for each, by parameter, where that is
    drawn, `fixed` what holds for all. `late` is what each has drawn when the transform was applied.
    """

    run: np.ndarray
    values: Dict[str, Any]
    fixed: Dict[str, Any]
    late: Optional[List[Any]] = None

    def get(self, name: str, b: int) -> Any:
        "The value that image `b` has."
        return self.values[name][b] if name in self.values else self.fixed[name]

    def array(self, name: str, default: float) -> np.ndarray:
        "The values of all images, (B,) float64, with `default` where the transform doesn't run or has no such value."
        value = self.values[name] if name in self.values else float(self.fixed.get(name, default))
        return np.where(self.run, np.asarray(value, np.float64), default)

    def of(self, chosen: slice) -> Drawn:
        "The images `chosen`."
        late = None if self.late is None else self.late[chosen]
        return Drawn(self.run[chosen], {name: one[chosen] for name, one in self.values.items()}, self.fixed, late)


class Pipeline(NamedTuple):
    """An `apply_tfms`: its steps in the order in which fastai applies them, and its arguments.

    - `size`: the rows and columns to crop to, rounded to `mult`; None for the size that an image has
    - `method`, `fit`: fastai's `resize_method`, and whether images are resized to `size` before all else
    - `padding`, `sampling`: how a final crop pads, and how what lies outside a picture is sampled; the same
      `padding_mode`, but for what comes after `pad` (see `geometry.first_pass`)
    - `mode`: 'bilinear' or 'nearest'
    - `late`: whether a step draws once more when it is applied, numbers that depend on the size that an image has then
    - `calls`: all that an image draws before that; what they return is its row
    """

    steps: Tuple[Step, ...]
    size: Optional[Tuple[int, int]]
    method: int
    mult: Optional[int]
    padding: str
    sampling: str
    mode: str
    fit: bool
    late: bool
    calls: Tuple[Callable[[], Any], ...]

    def draw(self) -> List[Any]:
        "The row of one image: what `apply_tfms` draws as it resolves its transforms."
        return [call() for call in self.calls]

    def draw_late(self, row: Sequence[Any], shape: Sequence[int]) -> Optional[List[Any]]:
        """What the transforms draw as they are applied to an image of `shape` (channels, height, width), by step.

        jitter: (height, width, 2) floats in [0, 1); cutout: its holes; rgb_randomize: a channel and its new values.
        """
        if not self.late:
            return None
        channels, height, width = shape
        height, width = (int(n) for n in self.resized(height, width))
        made: List[Any] = [None] * len(self.steps)
        for k, step in enumerate(self.steps):
            if not step.runs(row):
                continue
            values = step.values(row)
            if step.name == "jitter":
                made[k] = torch.rand(height, width, 2)
            elif step.name == "cutout":
                made[k] = _holes(values, height, width)
            elif step.name == "rgb_randomize":
                channel = values["channel"]
                if channel is None:
                    channel = np.random.randint(0, channels - 1)
                made[k] = channel, torch.rand(height, width) * np.random.uniform(0, values["thresh"])
            elif step.name == "pad":
                height, width = height + 2 * values["padding"], width + 2 * values["padding"]
            elif step.name == "dihedral" and values["k"] & 4:
                height, width = width, height
            elif step.name == "crop":
                rows, cols = tis2hw(values["size"])
                height = len(range(height)[crop_start(height, rows, values["row_pct"]) :][:rows])
                width = len(range(width)[crop_start(width, cols, values["col_pct"]) :][:cols])
        return made

    def drawn(self, rows: Sequence[Sequence[Any]], lates: Sequence[Optional[List[Any]]]) -> List[Drawn]:
        "What all images of a batch have drawn, by step."
        columns, made = list(zip(*rows)), []
        for k, step in enumerate(self.steps):
            late = [one[k] if one else None for one in lates] if self.late else None
            if step.stands:
                made.append(_stood(columns[step.at], late))
                continue
            values = {}
            for n, draw in enumerate(step.draws):
                column = columns[step.at + n]
                values[draw.name] = column if draw.span is None else draw.value(np.array(column))
            if step.p is None:
                run = np.full(len(rows), bool(step.transform.do_run))
            else:
                run = np.array(columns[step.at + len(step.draws)]) < step.p
            made.append(Drawn(run, values, step.fixed, late))
        return made

    def for_targets(self, first: Optional[Pipeline]) -> Pipeline:
        """This pipeline for targets, whose inputs have drawn rows of `first`; None: they have drawn by themselves.

        fastai doesn't draw for a target: transforms do what they were last drawn to do. Where that was for the input of
        the same pair, it is in the input's row; else the transform itself is asked (`stands`), when its turn has come.
        """
        known = {} if first is None else {id(step.transform): step for step in first.steps}
        at, steps = 0 if first is None else len(first.calls), []
        for step in self.steps:
            one = known.get(id(step.transform))
            if one is not None:
                steps.append(one._replace(name=step.name))
            else:
                steps.append(Step(step.name, step.transform, (), {}, None, at, True))
                at += 1
        return self._replace(steps=tuple(steps), calls=())

    def standing(self) -> List[Any]:
        """Whether and how the transforms that stand would run now, to go on from an input's row with.

        Raises Unknown where one lacks a parameter, since it was never drawn: fastai raises then.
        """
        found = []
        for step in self.steps:
            if step.stands:
                one = step.transform
                values = {**one.tfm.def_args, **one.resolved}
                if one.do_run:
                    _check_values(step.name, values)
                found.append((one.do_run, values))
        return found

    def resized(self, height: Any, width: Any) -> Tuple[Any, Any]:
        "What `apply_tfms` resizes an image, or images, of this size to, before anything else."
        if self.size is None or not self.fit:
            return height, width
        rows, cols = self.size
        if self.method == ResizeMethod.SQUISH:
            return height * 0 + rows, width * 0 + cols
        least = np.minimum if self.method == ResizeMethod.CROP else np.maximum
        ratio = least(height / rows, width / cols)
        return np.rint(height / ratio).astype(int), np.rint(width / ratio).astype(int)

    def cropped(self, height: Any, width: Any) -> Tuple[Any, Any]:
        "What `crop_pad` makes of images that had this size at first."
        if self.size is not None:
            return height * 0 + self.size[0], width * 0 + self.size[1]
        if self.mult is None:
            return height, width
        rows, cols = (np.floor(side / self.mult + 0.5).astype(int) * self.mult for side in (height, width))
        return rows, cols


def _stood(column: Sequence[Any], late: Optional[List[Any]]) -> Drawn:
    "What a step does that was drawn elsewhere, by image: whether it runs, and its parameters."
    run, found = np.array([bool(one[0]) for one in column]), [one[1] for one in column]
    values: Dict[str, Any] = {}
    fixed: Dict[str, Any] = {}
    for name, first in found[0].items():
        several = [one.get(name, first) for one in found]
        same = all(one is first or (isinstance(first, _PLAIN) and one == first) for one in several)
        (fixed if same else values)[name] = first if same else several
    return Drawn(run, values, fixed, late)


def crop_start(extent: int, wanted: int, pct: float) -> int:
    "Where `crop` and `crop_pad` begin, along one axis."
    return int((extent - wanted + 1) * (1 - 1e-7 if pct == 1.0 else pct))


def _holes(values: Dict[str, Any], height: int, width: int) -> List[Tuple[int, int, int, int]]:
    "What `cutout` draws: rows from, to, columns from, to."
    half, holes = values["length"] / 2, []
    for _ in range(values["n_holes"]):
        y, x = np.random.randint(0, height), np.random.randint(0, width)
        edges = [int(np.clip(c, 0, n)) for c, n in ((y - half, height), (y + half, height))]
        edges += [int(np.clip(c, 0, n)) for c, n in ((x - half, width), (x + half, width))]
        holes.append((edges[0], edges[1], edges[2], edges[3]))
    return holes


def compiled(tfms: Any, arguments: Dict[str, Any]) -> Optional[Pipeline]:
    """The pipeline of `apply_tfms(tfms, **arguments)`; None where that returns its image untouched.

    Raises Unknown, which names what is not fastai's own or not used as fastai uses it.
    """
    if set(arguments) - ARGUMENTS:
        raise Unknown(f"the arguments {sorted(set(arguments) - ARGUMENTS)} are not fastai's")
    if arguments.get("xtra"):
        raise Unknown("xtra is asked for")
    size = arguments.get("size")
    if not (tfms or size):
        return None
    mode, padding = arguments.get("mode", "bilinear"), arguments.get("padding_mode", "reflection")
    if mode not in ("bilinear", "nearest") or padding not in ("reflection", "border", "zeros"):
        raise Unknown(f"mode={mode!r} with padding_mode={padding!r} is none of what it knows")
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
    if method not in _CROPPED:  # fastai draws for the crops, and doesn't apply them
        steps = [step._replace(name="") if step.name == "crop_pad" else step for step in steps]
    target = None if size is None else fastai_image._get_crop_target(size, mult=arguments.get("mult"))
    if target is not None and not all(isinstance(n, (int, np.integer)) and n > 0 for n in target):
        raise Unknown(f"size={size!r} is no size")
    late = any(step.name in LATE for step in steps)
    placed: List[Step] = []
    calls: List[Callable[[], Any]] = []
    for step in steps:
        placed.append(step._replace(at=len(calls)))
        calls += [draw.call for draw in step.draws]
        if step.p is not None:
            calls.append(random.random)  # as `rand_bool`: 0 + (1 - 0) · it
    # A transform that is listed twice is drawn twice, and both times does what was drawn last.
    last = {id(step.transform): step.at for step in placed}
    placed = [step._replace(at=last[id(step.transform)]) for step in placed]
    fit, mult = method != ResizeMethod.NO, arguments.get("mult")
    return Pipeline(tuple(placed), target, method, mult, padding, padding, mode, fit, late, tuple(calls))


def describe(one: Any) -> str:
    "A transform, as a message names it."
    inner = getattr(one, "tfm", one)
    return getattr(getattr(inner, "func", inner), "__name__", None) or type(inner).__name__


def _check(one: Any) -> None:
    known = KNOWN.get(getattr(getattr(one, "tfm", None), "func", None)) if type(one) is RandTransform else None
    if known is None:
        raise Unknown(f"the transform {describe(one)} is not fastai's own")
    if (one.tfm._wrap or "pixel") != known[1] or one.tfm.order != known[2]:
        raise Unknown(f"the transform {describe(one)} has another order or class than fastai's")
    if {"resolve", "__call__"} & set(vars(one)):
        raise Unknown(f"the transform {describe(one)} draws or runs in a way of its own")


def _step(one: Any) -> Step:
    "Take a `RandTransform` apart, as `resolve` would."
    name, tfm = KNOWN[one.tfm.func][0], one.tfm
    if not one.is_random:
        fixed = {**tfm.def_args, **one.kwargs}
        _check_values(name, fixed)
        return Step(name, one, (), fixed, None)
    draws: List[Draw] = []
    fixed = {}
    for key, value in one.kwargs.items():
        if key in tfm.params:
            arguments = listify(value)
            if len(arguments) != _ARGUMENTS.get((name, key), len(arguments)):
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
    _check_values(name, fixed, drawn)
    p = float(one.p) if isinstance(one.p, torch.Tensor) and not one.p.dim() else one.p
    return Step(name, one, tuple(draws), fixed, p)


def _draw(name: str, function: Any, arguments: List[Any]) -> Draw:
    "`function(*arguments)`, taken apart where it is one of fastai's plain draws."
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


# What a transform needs that has no default, and what fastai's own code wants to be tensors of several numbers.
_NEEDED = {
    "pad": ("padding", "mode"),
    "rotate": ("degrees",),
    "dihedral": ("k",),
    "dihedral_affine": ("k",),
    "brightness": ("change",),
    "contrast": ("scale",),
    "crop": ("size",),
    "jitter": ("magnitude",),
    "tilt": ("direction",),
    "skew": ("direction",),
}
_SEVERAL = {"zoom_squish": ("scale", "squish", "invert"), "perspective_warp": ("magnitude",)}
_ARGUMENTS = {("zoom_squish", "scale"): 3, ("zoom_squish", "squish"): 3, ("zoom_squish", "invert"): 2}


def _check_values(name: str, values: Dict[str, Any], drawn: Collection[str] = ()) -> None:
    "Raise Unknown where fastai would raise: a parameter is neither among `values` nor `drawn`, or it is no tensor."
    missing = [key for key in _NEEDED.get(name, ()) if key not in values and key not in drawn]
    if missing:
        raise Unknown(f"the transform {name} lacks {', '.join(missing)}")
    for key in _SEVERAL.get(name, ()):
        if key in values and not isinstance(values[key], torch.Tensor):
            raise Unknown(f"the transform {name} has {key}={values[key]!r}")
