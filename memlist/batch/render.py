"""Make a batch from a plan and gathered pixels: the formulas in torch, for any device.

This is the reference implementation, which runs on a GPU, and on a CPU without numba. A plan says where each output
pixel comes from; here it is read from bytes (or floats), mixed from its neighbours, lit, and written. Intermediate
tensors take ten times the memory of the images, so a GPU works on an eighth of a batch at a time, a CPU on one image.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .gathered import Gathered
from .plan import Plan

# The number of parts of a batch that a GPU works on one by one, because intermediate tensors take about ten times the
# memory of the images.
PARTS = 8
_EPSILON = 1e-7  # fastai clamps values to this distance from 0 and 1 before it takes logits


def render(plan: Plan, gathered: Gathered, out: Tensor, parts: int = PARTS) -> Tensor:
    """Make the batch in `out`, (B, channels, height, width), float32 or int64, on the device of `gathered`; return it.

    Works on `1 / parts` of the batch at a time, with intermediate tensors of about ten times that part's memory.
    """
    n, b = -(-len(out) // parts), len(out)
    for first in range(0, b, n):
        chosen = slice(first, first + n)
        some = plan.of(chosen)
        sample(some, gathered.of(chosen), out[chosen])
        finish(some, out[chosen])
    return out


def sample(plan: Plan, gathered: Gathered, out: Tensor) -> None:
    "Make all images in one pass, except for what `finish` adds."
    pooled = plan.pooled[:, 0] > 0
    for which, average in ((np.flatnonzero(~pooled), False), (np.flatnonzero(pooled), True)):
        if len(which):
            source = _pooled(gathered, which, plan.pooled) if average else gathered.of(which)
            _render(plan.of(which), source, out, which)


def _pooled(gathered: Gathered, which: np.ndarray, sizes: np.ndarray) -> Gathered:
    "Average the images `which` down to their `sizes`; images of the same sizes are averaged together."
    groups: Dict[Tuple[int, ...], List[int]] = {}
    for b in which.tolist():
        groups.setdefault((gathered.height[b], gathered.width[b], *sizes[b]), []).append(b)
    made: List[Tensor] = []
    start, at = {}, 0
    for (height, width, rows, cols), members in groups.items():
        n = height * width * gathered.channels
        images = torch.stack([gathered.data[gathered.start[b] : gathered.start[b] + n] for b in members])
        images = images.view(-1, height, width, gathered.channels).permute(0, 3, 1, 2).float().div_(gathered.divisor)
        small = F.adaptive_avg_pool2d(images, (rows, cols)).permute(0, 2, 3, 1).reshape(len(members), -1)
        made.append(small.reshape(-1))
        for b in members:
            start[b] = at
            at += small.shape[1]
    starts = np.array([start[b] for b in which.tolist()])
    return Gathered(torch.cat(made), starts, sizes[which, 0], sizes[which, 1], gathered.channels, 1.0)


def _render(plan: Plan, gathered: Gathered, out: Tensor, which: np.ndarray) -> None:
    "Put images into `out[which]`, except for holes and planes."
    device, shape = gathered.data.device, (len(which), 1, 1)
    width, height, start = (
        torch.from_numpy(n.reshape(shape)).to(device) for n in (gathered.width, gathered.height, gathered.start)
    )
    x, y = _source_indices(plan, gathered)
    if plan.padding == "reflection":
        x, y = _reflect(x, width, plan.aligned), _reflect(y, height, plan.aligned)
    if plan.padding == "zeros":  # two pixels outside the image, all is zero; so is a NaN
        x, y = _clip(x, -2, width + 1), _clip(y, -2, height + 1)
    else:
        x, y = _clip(x, 0, width - 1), _clip(y, 0, height - 1)
    values: Optional[Tensor] = None
    for xi, yi, weight in _taps(x, y, plan.mode):
        if plan.padding == "zeros":
            inside = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
            weight = inside.to(x.dtype) if weight is None else weight * inside
        # A pixel beyond the last one has no weight, but needs a valid index.
        index = torch.min(xi.clamp_(min=0).long(), width - 1)
        index = start + (torch.min(yi.clamp_(min=0).long(), height - 1) * width + index) * gathered.channels
        index = index[:, None] + torch.arange(gathered.channels, device=device)[:, None, None]
        taken = gathered.data[index].float()
        if weight is not None:
            taken.mul_(weight[:, None])
        values = taken if values is None else values.add_(taken)
    assert values is not None
    if gathered.divisor != 1:
        values.div_(gathered.divisor)
    _light(values, plan)
    if len(which) == len(out):
        out.copy_(values)
    else:
        out[torch.from_numpy(which).to(device)] = values.to(out.dtype)


def _source_indices(plan: Plan, gathered: Gathered) -> Tuple[Tensor, Tensor]:
    "Return the unrounded source columns and rows of the output pixels, (B, height, width) each."
    device = gathered.data.device
    matrix = torch.from_numpy(plan.matrix.astype(np.float32)).to(device)
    columns, rows = torch.from_numpy(plan.columns).to(device), torch.from_numpy(plan.rows).to(device)
    x, y, divisor = (
        matrix[:, k, 0, None, None] * columns[:, None]
        + (matrix[:, k, 1, None] * rows + matrix[:, k, 2, None])[..., None]
        for k in range(3)
    )
    x, y = x.div_(divisor), y.div_(divisor)
    for k, extra in plan.extras.items():
        if extra.grid is not None:
            x[k], y[k] = extra.grid[..., 0].to(device), extra.grid[..., 1].to(device)
    scale = torch.from_numpy(plan.scales(gathered.height, gathered.width)).to(device)[..., None, None]
    for k, coordinate in enumerate((x, y)):
        coordinate.add_(scale[:, k, 0]).mul_(scale[:, k, 1]).add_(scale[:, k, 2])
    return x, y


def _taps(x: Tensor, y: Tensor, mode: str) -> List[Tuple[Tensor, Tensor, Optional[Tensor]]]:
    "Return the pixels that each point is mixed from, with their weights; a weight of None means 1."
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


def _reflect(at: Tensor, n: Tensor, aligned: bool) -> Tensor:
    "Mirror indices at the first and the last pixel, or at their outer edges if corners are not aligned."
    low, span = (0.0, n - 1) if aligned else (-0.5, n)
    at = (at - low).abs_()
    # An image of one pixel mirrors everything.
    twice = (2 * span).clamp(min=1).to(at.dtype)
    at = torch.remainder(at, twice)
    return torch.min(at, twice - at).add_(low)


def _clip(at: Tensor, first: int, last: Tensor) -> Tensor:
    return torch.min(at.nan_to_num_(first).clamp_(min=first), last.to(at.dtype))


def _light(values: Tensor, plan: Plan) -> None:
    "Apply sigmoid(gain · logit(value) + bias) to the images that are lit, by the same operations as fastai."
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
    "Apply in place what `sample` does not: planes, holes, and the blank rows and columns of zero padding."
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
