"""Draw the random numbers of fastai's transforms, by the same calls in the same order as fastai.

`Pipeline.draw` does for one image what stock fastai does before it touches pixels; `Pipeline.drawn` collects the
numbers of a batch. `planner` decides what they mean for the pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.vision.image import ResizeMethod, tis2hw

from .transforms import check_values

_PLAIN = (int, float, str, bool, tuple, type(None))


class Draw(NamedTuple):
    """Describe one parameter that is drawn.

    `call()` is called once per image. The parameter is `low + span · call()`, or e to that power if `log`; without a
    `span`, the parameter is the result of `call()`, a tensor of `several` numbers if that is not 0.
    """

    name: str
    call: Callable[[], Any]
    low: float = 0.0
    span: Optional[float] = None
    log: bool = False
    several: int = 0

    def value(self, drawn: Any) -> Any:
        "Return the parameter for a drawn number, or for an array of them."
        if self.span is not None:
            drawn = self.low + self.span * drawn
        if not self.log:
            return drawn
        return np.exp(drawn) if isinstance(drawn, np.ndarray) else math.exp(drawn)


@dataclass(frozen=True)
class Uniform:
    """Draw `several` numbers between `low` and `high` as fastai's `uniform` does, a float32 tensor.

    With a `chance`, whether each is below it, as `rand_bool` does, a bool tensor. Without a `generator`, they come from
    torch's own of the CPU. Takes half the time of fastai's.
    """

    several: int
    low: float
    high: float
    chance: Optional[float] = None
    generator: Optional[torch.Generator] = None

    def __call__(self) -> torch.Tensor:
        drawn = torch.empty(self.several).uniform_(self.low, self.high, generator=self.generator)
        return drawn if self.chance is None else drawn < self.chance


class TransformStep(NamedTuple):
    """Describe one transform of a pipeline: what it draws, what is fixed, and the probability `p` that it runs.

    Its draws begin at position `at` of an image's draws. If `p` is not None, the last of them decides whether it runs;
    otherwise its `RandTransform` does. If it `reuses_last_draw`, it draws nothing: position `at` holds a pair, whether
    it runs and its parameters.
    """

    name: str
    transform: Any  # the `RandTransform`
    draws: Tuple[Draw, ...]
    fixed: Dict[str, Any]
    p: Optional[float]
    at: int = 0
    reuses_last_draw: bool = False

    def runs(self, draws: Sequence[Any]) -> bool:
        "Return whether it runs for an image with these draws."
        if self.reuses_last_draw:
            return bool(draws[self.at][0])
        return self.transform.do_run if self.p is None else draws[self.at + len(self.draws)] < self.p

    def values(self, draws: Sequence[Any]) -> Dict[str, Any]:
        "Return its parameters for an image with these draws."
        if self.reuses_last_draw:
            return draws[self.at][1]  # type: ignore[no-any-return]
        return {**{draw.name: draw.value(draws[self.at + k]) for k, draw in enumerate(self.draws)}, **self.fixed}


class Drawn(NamedTuple):
    """Hold what one step has drawn for all images of a batch.

    - `run`, (B,) bool: the images that it runs for
    - `values`: for each drawn parameter, an array or a list with one value per image
    - `fixed`: for each other parameter, its value for all images
    - `sized`: per image, what it drew when it was applied; None unless the pipeline is `size_dependent`
    """

    run: np.ndarray
    values: Dict[str, Any]
    fixed: Dict[str, Any]
    sized: Optional[List[Any]] = None

    def get(self, name: str, b: int) -> Any:
        "Return the value of image `b`."
        return self.values[name][b] if name in self.values else self.fixed[name]

    def parameters(self, b: int) -> Dict[str, Any]:
        "Return all parameters of image `b`, with Python's own numbers, as fastai draws them."
        drawn = {name: several[b] for name, several in self.values.items()}
        return {
            **{name: one.item() if isinstance(one, np.generic) else one for name, one in drawn.items()},
            **self.fixed,
        }

    def array(self, name: str, default: float) -> np.ndarray:
        "Return the values, (B,) float64; `default` if the transform does not run or has no such parameter."
        value = self.values[name] if name in self.values else float(self.fixed.get(name, default))
        return np.where(self.run, np.asarray(value, np.float64), default)

    def of(self, chosen: slice) -> Drawn:
        "Return what the images `chosen` have drawn."
        sized = None if self.sized is None else self.sized[chosen]
        return Drawn(self.run[chosen], {name: one[chosen] for name, one in self.values.items()}, self.fixed, sized)

    def at_size(self, b: int) -> Any:
        "Return what image `b` drew when the transform was applied to it."
        assert self.sized is not None
        return self.sized[b]


class Pipeline(NamedTuple):
    """Describe an `apply_tfms`: its steps in the order in which fastai applies them, and its arguments.

    - `size`: the rows and columns to crop to, rounded to `mult`; None to keep the size of the image
    - `method`, `fit`: fastai's `resize_method`, and whether images are first resized to `size`
    - `padding`, `sampling`: how a final crop pads, and how points outside the image are sampled; both are
      `padding_mode`, except after a `pad` (see `planner.first_pass`)
    - `mode`: 'bilinear' or 'nearest'
    - `size_dependent`: whether a step, when applied, draws more numbers, which depend on the image's size at that time
    - `calls`: the calls that draw before that; their results are the draws of an image
    """

    steps: Tuple[TransformStep, ...]
    size: Optional[Tuple[int, int]]
    method: int
    mult: Optional[int]
    padding: str
    sampling: str
    mode: str
    fit: bool
    size_dependent: bool
    calls: Tuple[Callable[[], Any], ...]

    def draw(self) -> List[Any]:
        "Draw for one image the numbers that `apply_tfms` draws when it resolves its transforms."
        return [call() for call in self.calls]

    def draw_all(self, n: int) -> List[List[Any]]:
        """Draw for n images what `draw` draws for each in turn.

        torch fills a tensor in order, so if all its numbers have one range, they are drawn at once: that takes a
        fraction of the time. Python's numbers come from another generator, so it does not matter which are first.
        """
        at = [k for k, call in enumerate(self.calls) if type(call) is Uniform]
        uniform = [call for call in self.calls if isinstance(call, Uniform)]
        others = [call for call in self.calls if type(call) is not Uniform]
        pythons = all(isinstance(getattr(call, "__self__", None), random.Random) for call in others)
        if not pythons or len({(one.low, one.high, one.generator) for one in uniform}) > 1:
            return [self.draw() for _ in range(n)]
        made = [[call() for call in others] for _ in range(n)]
        if uniform:
            counts = [one.several for one in uniform]
            whole = replace(uniform[0], several=n * sum(counts), chance=None)().view(n, -1)
            for k, one, part in zip(at, uniform, whole.split_with_sizes(counts, 1)):
                for draws, row in zip(made, (part if one.chance is None else part < one.chance).unbind()):
                    draws.insert(k, row)
        return made

    def skip(self, n: int) -> None:
        "Draw for n images numbers that nobody needs."
        for call in self.calls * n:
            call()

    def draw_for_size(self, draws: Sequence[Any], shape: Sequence[int]) -> Optional[List[Any]]:
        """Draw what the transforms draw when they are applied to an image of `shape` (channels, height, width).

        Returns one entry per step: for jitter (height, width, 2) floats in [0, 1), for cutout its holes, for
        rgb_randomize a channel and its new values, else None. Returns None if no step is size-dependent.
        """
        if not self.size_dependent:
            return None
        channels, height, width = shape
        height, width = (int(n) for n in self.resized(height, width))
        made: List[Any] = [None] * len(self.steps)
        for k, step in enumerate(self.steps):
            if not step.runs(draws):
                continue
            values = step.values(draws)
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

    def drawn(self, draws: Sequence[Sequence[Any]], sized: Sequence[Optional[List[Any]]]) -> List[Drawn]:
        "Return per step what a batch has drawn; `draws` and `sized` (see `draw_for_size`) have one entry per image."
        columns, made = list(zip(*draws)), []
        for k, step in enumerate(self.steps):
            at_size = [one[k] if one else None for one in sized] if self.size_dependent else None
            if step.reuses_last_draw:
                made.append(_reused(columns[step.at], at_size))
                continue
            values = {}
            for n, draw in enumerate(step.draws):
                column = columns[step.at + n]
                values[draw.name] = column if draw.span is None else draw.value(np.array(column))
            if step.p is None:
                run = np.full(len(draws), bool(step.transform.do_run))
            else:
                run = np.array(columns[step.at + len(step.draws)]) < step.p
            made.append(Drawn(run, values, step.fixed, at_size))
        return made

    def for_targets(self, first: Optional[Pipeline]) -> Pipeline:
        """Return this pipeline for targets whose inputs were drawn by `first`, or by stock code if that is None.

        fastai does not draw for a target: a transform repeats its last draw. If that was for the input of the pair, it
        is among the input's draws. Otherwise it is read from the transform, pair by pair: see `last_draws`.
        """
        known = {} if first is None else {id(step.transform): step for step in first.steps}
        at, steps = 0 if first is None else len(first.calls), []
        for step in self.steps:
            one = known.get(id(step.transform))
            if one is not None:
                steps.append(one._replace(name=step.name))
            else:
                steps.append(TransformStep(step.name, step.transform, (), {}, None, at, True))
                at += 1
        return self._replace(steps=tuple(steps), calls=())

    def last_draws(self) -> List[Any]:
        """Return the last draws of the steps that reuse them, to append to the input's draws.

        Raises Unknown if a parameter is missing because it was never drawn: fastai would raise an error, too.
        """
        found = []
        for step in self.steps:
            if step.reuses_last_draw:
                one = step.transform
                values = {**one.tfm.def_args, **one.resolved}
                if one.do_run:
                    check_values(step.name, values)
                found.append((one.do_run, values))
        return found

    def resized(self, height: Any, width: Any) -> Tuple[Any, Any]:
        "Return the size to which `apply_tfms` first resizes images of this size."
        if self.size is None or not self.fit:
            return height, width
        rows, cols = self.size
        if self.method == ResizeMethod.SQUISH:
            return height * 0 + rows, width * 0 + cols
        least = np.minimum if self.method == ResizeMethod.CROP else np.maximum
        ratio = least(height / rows, width / cols)
        return np.rint(height / ratio).astype(int), np.rint(width / ratio).astype(int)

    def cropped(self, height: Any, width: Any) -> Tuple[Any, Any]:
        "Return the size to which `crop_pad` brings images that had this size originally."
        if self.size is not None:
            return height * 0 + self.size[0], width * 0 + self.size[1]
        if self.mult is None:
            return height, width
        rows, cols = (np.floor(side / self.mult + 0.5).astype(int) * self.mult for side in (height, width))
        return rows, cols


def _reused(column: Sequence[Any], sized: Optional[List[Any]]) -> Drawn:
    "Return the draws of a step from a pair per image: whether it runs, and its parameters."
    run, found = np.array([bool(one[0]) for one in column]), [one[1] for one in column]
    values: Dict[str, Any] = {}
    fixed: Dict[str, Any] = {}
    for name, first in found[0].items():
        several = [one.get(name, first) for one in found]
        same = all(one is first or (isinstance(first, _PLAIN) and one == first) for one in several)
        (fixed if same else values)[name] = first if same else several
    return Drawn(run, values, fixed, sized)


def crop_start(extent: int, wanted: int, pct: float) -> int:
    "Return the index at which `crop` and `crop_pad` begin, along one axis."
    return int((extent - wanted + 1) * (1 - 1e-7 if pct == 1.0 else pct))


def _holes(values: Dict[str, Any], height: int, width: int) -> List[Tuple[int, int, int, int]]:
    "Draw the holes of `cutout`: first row, end of rows, first column, end of columns."
    half, holes = values["length"] / 2, []
    for _ in range(values["n_holes"]):
        y, x = np.random.randint(0, height), np.random.randint(0, width)
        edges = [int(np.clip(c, 0, n)) for c, n in ((y - half, height), (y + half, height))]
        edges += [int(np.clip(c, 0, n)) for c, n in ((x - half, width), (x + half, width))]
        holes.append((edges[0], edges[1], edges[2], edges[3]))
    return holes
