"""From the pixels of a batch and a plan to the batch: the formulas, in torch, on any device.

This is the reference, the path for a GPU and what a CPU falls back to without numba. A plan says where each output
pixel comes from; here it is fetched from bytes (or floats), mixed from its neighbours, lit, and put in its place. What
lies in between takes ten times the memory of the images, so a GPU works on an eighth of a batch at a time and a CPU on
one image. Nothing here knows of lists, stores or draws.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from fastai.vision import image as fastai_image
from fastai.vision.image import FlowField
from torch import Tensor

from ..fastai1.geometry import Plan

# Of a batch that is made on a GPU, the part that is worked on at once: what lies in between takes about ten times as
# much memory as the images that come out.
PARTS = 8
_EPSILON = 1e-7  # how far fastai keeps values from 0 and 1 before it takes their logits


class Pixels(NamedTuple):
    """Images of one batch, one after the other in one flat tensor, each as (height, width, channels).

    `data` is uint8 or float32; `start`, `height` and `width` say where each lies; values are to be divided by
    `divisor`.
    """

    data: Tensor
    start: np.ndarray
    height: np.ndarray
    width: np.ndarray
    channels: int
    divisor: float

    def of(self, chosen: Any) -> Pixels:
        "The images `chosen`: a slice, or indices."
        return self._replace(start=self.start[chosen], height=self.height[chosen], width=self.width[chosen])


class Source(NamedTuple):
    "The pixels of one image, (height, width, channels), uint8 or float32, dense; to be divided by `divisor`."

    array: np.ndarray
    divisor: int

    @classmethod
    def of(cls, px: Tensor, divisor: int) -> Source:
        "Of a tensor of (channels, height, width) floats; no copy where it lies in memory as fastai's do."
        return cls(np.ascontiguousarray(px.detach().permute(1, 2, 0).numpy()), divisor)

    @property
    def shape(self) -> Tuple[int, int, int]:
        "As an `Image` has it: channels, height, width."
        height, width, channels = self.array.shape
        return channels, height, width


def aligned() -> bool:
    """Whether fastai's sampling aligns corners.

    1.0.60 never asks `grid_sample` to; 1.0.61 does, but compares the version of torch as a string for it, and '1.13.1'
    is less than '1.2.0'. So its own function is asked, once.
    """
    return _aligned(fastai_image._grid_sample, fastai_image.torch.__version__)


@functools.lru_cache(maxsize=4)
def _aligned(sample: Any, version: str) -> bool:
    "By where a coordinate of -0.5 comes to lie between two pixels: at a quarter of the way, or at the first."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at = FlowField((1, 1), torch.tensor([[[[-0.5, 0.0]]]]))
        return bool(sample(torch.tensor([[[0.0, 1.0]]]), at) > 0.125)


def scales(plan: Plan, height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """From the places of `plan` to indices of sources of these sizes: (place + a) · b + c, (B, 2, 3) for x and y.

    As `grid_sample` does it, in the same operations: ties between two pixels fall as stock's do.
    """
    made = np.zeros((len(height), 2, 3), np.float32)
    made[:, :, 1] = 1
    for axis, n in ((0, width), (1, height)):
        made[plan.sampled, axis, 0] = 1
        made[plan.sampled, axis, 1] = ((n - 1) / 2 if aligned() else n / 2)[plan.sampled]
        made[plan.sampled, axis, 2] = 0 if aligned() else -0.5
    return made


def render(plan: Plan, pixels: Pixels, out: Tensor, parts: int = PARTS) -> Tensor:
    """Make the batch: `out`, (B, channels, height, width), float32 or, for masks, int64, on the device of `pixels`.

    Takes `1 / parts` of the batch at a time; the memory in between is about ten times that part of the batch.
    """
    n, b = -(-len(out) // parts), len(out)
    for first in range(0, b, n):
        chosen = slice(first, first + n)
        some = plan.of(chosen)
        _some(some, pixels.of(chosen), out[chosen])
        finish(some, out[chosen])
    return out


def _some(plan: Plan, pixels: Pixels, out: Tensor) -> None:
    "As `render`, all at once, but for what `finish` does."
    pooled = plan.pooled[:, 0] > 0
    for which, average in ((np.flatnonzero(~pooled), False), (np.flatnonzero(pooled), True)):
        if len(which):
            source = _pooled(pixels, which, plan.pooled) if average else pixels.of(which)
            _render(plan.of(which), source, out, which)


def prepare() -> None:
    "Have the kernels compiled, where numba is there: once a machine, some seconds; it keeps what it has compiled."
    kernels = _kernels()
    if kernels is not None:
        kernels.prepare()


def _kernels() -> Optional[ModuleType]:
    found = _imported()
    return found if isinstance(found, ModuleType) else None


@functools.lru_cache(maxsize=1)
def _imported() -> Any:
    "The module of kernels, or the error that says why it can't be had."
    try:
        from . import kernels
    except ImportError as error:
        return error
    return kernels


def without_kernels() -> str:
    "Why there are no kernels; empty where there are."
    found = _imported()
    return "" if isinstance(found, ModuleType) else str(found)


Map = Callable[[Callable[[np.ndarray], None], np.ndarray, int], None]


def on_cpu(plan: Plan, sources: Sequence[Source], out: Tensor, norm: Any, share: Map) -> None:
    """Make the batch in `out` from pixels wherever they lie, by the compiled kernels where these are to be had.

    `norm`: None, or a mean to subtract and a factor to multiply by, for each channel. `share(function, images, values)`
    calls `function` with all of the images, in parts that may run at the same time.
    """
    kernels, which = _kernels(), np.arange(len(out))
    odd = [b for b, extra in plan.extras.items() if extra.grid is not None] if kernels is not None else which.tolist()
    compiled = np.setdiff1d(which, odd) if odd else which
    unfinished = plan.blank is not None or bool(plan.extras)
    if kernels is not None and len(compiled):
        kernels.run(plan, sources, scales, out.numpy(), None if unfinished else norm, compiled, share, aligned())
    for b in odd:
        one = sources[b]
        h, w, c = one.array.shape
        flat = torch.from_numpy(np.require(one.array, requirements=["C", "W"]).reshape(-1))
        pixels = Pixels(flat, np.zeros(1, np.int64), np.array([h]), np.array([w]), c, float(one.divisor))
        _some(plan.of(slice(b, b + 1)), pixels, out[b : b + 1])
    if unfinished:
        finish(plan, out)
    if norm is not None:
        mean, over_std = (torch.from_numpy(one)[:, None, None] for one in norm)
        for b in which.tolist() if unfinished else odd:
            out[b].sub_(mean).mul_(over_std)


def _pooled(pixels: Pixels, which: np.ndarray, sizes: np.ndarray) -> Pixels:
    "Those of the images that are averaged down first; images that are alike are averaged together."
    groups: Dict[Tuple[int, ...], List[int]] = {}
    for b in which.tolist():
        groups.setdefault((pixels.height[b], pixels.width[b], *sizes[b]), []).append(b)
    made: List[Tensor] = []
    start, at = {}, 0
    for (height, width, rows, cols), members in groups.items():
        n = height * width * pixels.channels
        images = torch.stack([pixels.data[pixels.start[b] : pixels.start[b] + n] for b in members])
        images = images.view(-1, height, width, pixels.channels).permute(0, 3, 1, 2).float().div_(pixels.divisor)
        small = F.adaptive_avg_pool2d(images, (rows, cols)).permute(0, 2, 3, 1).reshape(len(members), -1)
        made.append(small.reshape(-1))
        for b in members:
            start[b] = at
            at += small.shape[1]
    starts = np.array([start[b] for b in which.tolist()])
    return Pixels(torch.cat(made), starts, sizes[which, 0], sizes[which, 1], pixels.channels, 1.0)


def _render(plan: Plan, pixels: Pixels, out: Tensor, which: np.ndarray) -> None:
    "Put images into `out[which]`, but for holes and planes."
    device = pixels.data.device
    matrix = torch.from_numpy(plan.matrix.astype(np.float32)).to(device)
    columns, rows = torch.from_numpy(plan.columns).to(device), torch.from_numpy(plan.rows).to(device)
    # (n, height, width): one row and one column of places an image, and one matrix.
    x, y, divisor = (
        matrix[:, k, 0, None, None] * columns[:, None]
        + (matrix[:, k, 1, None] * rows + matrix[:, k, 2, None])[..., None]
        for k in range(3)
    )
    x, y = x.div_(divisor), y.div_(divisor)
    for k, extra in plan.extras.items():
        if extra.grid is not None:
            x[k], y[k] = extra.grid[..., 0].to(device), extra.grid[..., 1].to(device)
    scale = torch.from_numpy(scales(plan, pixels.height, pixels.width)).to(device)[..., None, None]
    for k, place in enumerate((x, y)):
        place.add_(scale[:, k, 0]).mul_(scale[:, k, 1]).add_(scale[:, k, 2])
    shape = (len(which), 1, 1)
    width, height = (torch.from_numpy(n.reshape(shape)).to(device) for n in (pixels.width, pixels.height))
    start = torch.from_numpy(pixels.start.reshape(shape)).to(device)
    if plan.padding == "reflection":
        x, y = _reflect(x, width), _reflect(y, height)
    if plan.padding == "zeros":  # two pixels outside nothing is seen any more, nor of what is no number
        x, y = _clip(x, -2, width + 1), _clip(y, -2, height + 1)
    else:
        x, y = _clip(x, 0, width - 1), _clip(y, 0, height - 1)
    values: Optional[Tensor] = None
    for xi, yi, weight in _taps(x, y, plan.mode):
        if plan.padding == "zeros":
            inside = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
            weight = inside.to(x.dtype) if weight is None else weight * inside
        # A tap beyond the last pixel has no weight, but has to be somewhere.
        index = torch.min(xi.clamp_(min=0).long(), width - 1)
        index = start + (torch.min(yi.clamp_(min=0).long(), height - 1) * width + index) * pixels.channels
        index = index[:, None] + torch.arange(pixels.channels, device=device)[:, None, None]
        taken = pixels.data[index].float()
        if weight is not None:
            taken.mul_(weight[:, None])
        values = taken if values is None else values.add_(taken)
    assert values is not None
    if pixels.divisor != 1:
        values.div_(pixels.divisor)
    _light(values, plan)
    if len(which) == len(out):
        out.copy_(values)
    else:
        out[torch.from_numpy(which).to(device)] = values.to(out.dtype)


def _taps(x: Tensor, y: Tensor, mode: str) -> List[Tuple[Tensor, Tensor, Optional[Tensor]]]:
    "The pixels that each point is mixed from, and their weights; None is 1."
    if mode == "nearest":
        return [(x.round(), y.round(), None)]
    left, top = x.floor(), y.floor()
    right, bottom = x - left, y - top
    return [
        (left.clone(), top.clone(), (1 - right) * (1 - bottom)),
        (left + 1, top.clone(), right * (1 - bottom)),
        (left, top + 1, (1 - right) * bottom),
        (left + 1, top + 1, right * bottom),
    ]


def _reflect(at: Tensor, n: Tensor) -> Tensor:
    "Back into the picture, as in a mirror at its first and last pixel (or at their edges, without aligned corners)."
    low, span = (0.0, n - 1) if aligned() else (-0.5, n)
    at = (at - low).abs_()
    # A picture of one pixel reflects everything into it.
    twice = (2 * span).clamp(min=1).to(at.dtype)
    at = torch.remainder(at, twice)
    return torch.min(at, twice - at).add_(low)


def _clip(at: Tensor, first: int, last: Tensor) -> Tensor:
    return torch.min(at.nan_to_num_(first).clamp_(min=first), last.to(at.dtype))


def _light(values: Tensor, plan: Plan) -> None:
    "sigmoid(gain · logit(value) + bias), in fastai's own operations, where images are lit."
    which = np.flatnonzero(plan.lit)
    if not len(which):
        return
    every = len(which) == len(values)
    chosen = values if every else values[torch.from_numpy(which).to(values.device)]
    gain, bias = (
        torch.from_numpy(one[which].astype(np.float32)).to(values.device)[:, None, None, None]
        for one in (plan.gain, plan.bias)
    )
    chosen.clamp_(_EPSILON, 1 - _EPSILON).reciprocal_().sub_(1).log_().neg_()
    chosen.mul_(gain).add_(bias).sigmoid_()
    if not every:
        values[torch.from_numpy(which).to(values.device)] = chosen


def finish(plan: Plan, out: Tensor) -> None:
    "Planes, holes, and what a padding of zeros leaves blank: in place."
    for b, extra in plan.extras.items():
        for channel, plane in extra.planes:
            out[b, channel] = plane.to(out.device)
        for rows, columns in extra.holes:
            _zero(out[b], rows, columns)
    if plan.blank is not None:
        for b, (rows, columns) in enumerate(zip(*plan.blank)):
            if rows.any():
                out[b][:, torch.from_numpy(rows).to(out.device)] = 0
            if columns.any():
                out[b][:, :, torch.from_numpy(columns).to(out.device)] = 0


def _zero(image: Tensor, rows: np.ndarray, columns: np.ndarray) -> None:
    i, j = (torch.from_numpy(np.flatnonzero(one)).to(image.device) for one in (rows, columns))
    image[:, i[:, None], j] = 0
