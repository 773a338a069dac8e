"""Make images from a table and pixels: the formulas in torch, for any device.

This is the reference implementation, which runs on a GPU without Triton and on a CPU without numba. A plan says where
each output pixel comes from; here it is read from bytes (or floats), mixed from its neighbours, lit, and written.
Intermediate tensors take up to ten times the memory of the images, so a GPU works on an eighth of a batch at a time, a
CPU on one image.

Nothing here waits for the device: all that depends on a value, such as which images are lit, is in the table's arrays
or was decided before. A number from a GPU, a selection by truth values, or a copy from ordinary memory would wait
until the GPU has done all that it was given, the training included.
"""

from __future__ import annotations

import itertools
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .pixels import Pixels
from .plan import Plan
from .table import Table

# The number of parts of a batch that a GPU works on one by one, because intermediate tensors take up to ten times the
# memory of the images; and how many output pixels a part has at least, because starting a computation takes time, too.
PARTS = 8
LEAST = 1 << 19
_EPSILON = 1e-7  # fastai clamps values to this distance from 0 and 1 before it takes logits


#: An image to average down: the number of its first pixel, its height and width, and those that it gets.
Average = Tuple[int, int, int, int, int]


def render(
    table: Table,
    pixels: Tensor,
    out: Tensor,
    order: Optional[Tensor],
    norm: Optional[Tuple[Tensor, Tensor]],
    averages: Sequence[Average] = (),
) -> None:
    """Make the images of `table` in `out`, (B, channels, height, width), float32 or int64; all on one device.

    `pixels`, (n, channels) uint8 or float32: those of all sources. Image k goes to position `order[k]` of `out`; to k
    if `order` is None. `norm`, mean and inverse deviation per channel, is applied last, if given. With `averages`, one
    per image, pixels are averaged down first, and the table's numbers are those of the averages, one after another.
    """
    n, size = len(table.start), out.shape[2] * out.shape[3]
    step = max(-(-n // PARTS), LEAST // size, 1)
    done = 0  # averages
    for first in range(0, n, step):
        chosen = slice(first, first + step)
        part, source = table.of_images(chosen), pixels
        if averages:
            source = _averaged(pixels, averages[chosen])
            part, done = part._replace(start=part.start - done), done + len(source)
        values = _made(part, source)
        if norm is not None:
            values.sub_(norm[0]).mul_(norm[1])
        values = values.permute(0, 3, 1, 2)
        if order is None:
            out[chosen].copy_(values)
        else:
            out.index_copy_(0, order[chosen], values.to(out.dtype))


def _averaged(pixels: Tensor, averages: Sequence[Average]) -> Tensor:
    "Return the averages, (n, channels) float32; adjacent images of one size are done together."
    made: List[Tensor] = []
    for (height, width, rows, cols), alike in itertools.groupby(averages, key=lambda one: one[1:]):
        begins = [one[0] for one in alike]
        images = pixels[begins[0] : begins[0] + len(begins) * height * width].view(-1, height, width, pixels.shape[1])
        made.append(_average(images, rows, cols).reshape(-1, pixels.shape[1]))
    return torch.cat(made)


def _average(images: Tensor, rows: int, cols: int) -> Tensor:
    "Average images (n, height, width, channels) down, as fastai does before it samples."
    return F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float().contiguous(), (rows, cols)).permute(0, 2, 3, 1)


def sample(plan: Plan, pixels: Pixels, out: Tensor) -> None:
    "Make the one image of `plan` in `out`, (1, channels, height, width) on the CPU, except for what `finish` adds."
    source = torch.from_numpy(np.require(pixels.array, requirements=["C", "W"]))
    rows, cols = plan.pooled[0].tolist()
    if rows:
        source = _average(source[None], rows, cols)[0].contiguous()
    height, width, channels = source.shape
    region = np.array([[0, height, 0, width]])
    sizes = np.array([height]), np.array([width])
    table = Table.of(plan._replace(extras={}, blank=None), *sizes, region, np.zeros(1, np.int64), [pixels.divisor])
    grid = plan.extras[0].grid if plan.extras else None
    made = _made(
        table.map(lambda name, one: torch.from_numpy(np.ascontiguousarray(one))), source.view(-1, channels), grid
    )
    out.copy_(made.permute(0, 3, 1, 2))


def _made(table: Table, pixels: Tensor, grid: Optional[Tensor] = None) -> Tensor:
    "Return the images, (n, height, width, channels) float32. A `grid` takes the place of the matrix of a single image."
    width, height, left, top, right, bottom = (
        one[:, k, None, None] for one in (table.size, table.first, table.last) for k in (0, 1)
    )
    x, y = _source_indices(table, grid)
    if table.padding == "reflection":
        x, y = _reflect(x, width, table.aligned), _reflect(y, height, table.aligned)
    if table.padding == "zeros":  # two pixels outside the image, all is zero; so is a NaN
        x, y = _clip(x, -2, width + 1), _clip(y, -2, height + 1)
    else:
        x, y = _clip(x, 0, width - 1), _clip(y, 0, height - 1)
    values: Optional[Tensor] = None
    for xi, yi, weight in _taps(x, y, table.mode):
        if table.padding == "zeros":
            inside = (xi >= 0) & (xi < width) & (yi >= 0) & (yi < height)
            weight = inside.to(x.dtype) if weight is None else weight * inside
        # A pixel beyond the last one has no weight, but needs a valid index.
        xi, yi = torch.max(torch.min(xi, right), left), torch.max(torch.min(yi, bottom), top)
        index = yi.long().mul_(table.line[:, None, None]).add_(xi.long()).add_(table.start[:, None, None])
        taken = pixels.index_select(0, index.view(-1)).view(*index.shape, -1).float()
        if weight is not None:
            taken.mul_(weight[..., None])
        values = taken if values is None else values.add_(taken)
    assert values is not None
    values.div_(table.divisor[:, None, None, None])
    if table.any_lit:
        values = _light(values, table)
    for k in range(table.hole_rows.shape[1]):
        hole = table.hole_rows[:, k, :, None] * table.hole_columns[:, k, None, :]
        values.masked_fill_((hole != 0)[..., None], 0)
    return values


def _source_indices(table: Table, grid: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    "Return the unrounded source columns and rows of the output pixels, (n, height, width) each."
    if grid is None:
        matrix, columns, rows = table.matrix, table.columns, table.rows
        x, y, divisor = (
            matrix[:, k, 0, None, None] * columns[:, None]
            + (matrix[:, k, 1, None] * rows + matrix[:, k, 2, None])[..., None]
            for k in range(3)
        )
        x, y = x.div_(divisor), y.div_(divisor)
    else:
        x, y = grid[None, ..., 0].clone(), grid[None, ..., 1].clone()
    scale = table.scale[..., None, None]
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
        (left, top, (1 - right) * (1 - bottom)),
        (left + 1, top, right * (1 - bottom)),
        (left, top + 1, (1 - right) * bottom),
        (left + 1, top + 1, right * bottom),
    ]


def _reflect(at: Tensor, n: Tensor, aligned: bool) -> Tensor:
    "Mirror indices at the first and the last pixel, or at their outer edges if corners are not aligned."
    low, span = (0.0, n - 1) if aligned else (-0.5, n)
    at = (at - low).abs_()
    # An image of one pixel mirrors everything.
    twice = (2 * span).clamp(min=1)
    at = torch.remainder(at, twice)
    return torch.min(at, twice - at).add_(low)


def _clip(at: Tensor, first: int, last: Tensor) -> Tensor:
    return torch.min(at.nan_to_num_(first).clamp_(min=first), last)


def _light(values: Tensor, table: Table) -> Tensor:
    "Apply sigmoid(gain · logit(value) + bias) to the images that are lit, by the same operations as fastai."
    lit, gain, bias = (one[:, None, None, None] for one in (table.lit, table.gain, table.bias))
    made = values.clamp(_EPSILON, 1 - _EPSILON).reciprocal_().sub_(1).log_().neg_()
    return torch.where(lit != 0, made.mul_(gain).add_(bias).sigmoid_(), values)


def finish(plan: Plan, out: Tensor) -> None:
    "Apply in place, on the CPU, what `sample` does not: planes, holes, and the blank rows and columns of zero padding."
    for b, extra in plan.extras.items():
        for channel, plane in extra.planes:
            out[b, channel] = plane.to(out.dtype)
        for rows, columns in extra.holes:
            _zero(out[b], rows, columns)
    if plan.blank is not None:
        for b, (rows, columns) in enumerate(zip(*plan.blank)):
            if rows.any():
                out[b][:, torch.from_numpy(rows)] = 0
            if columns.any():
                out[b][:, :, torch.from_numpy(columns)] = 0


def _zero(image: Tensor, rows: np.ndarray, columns: np.ndarray) -> None:
    i, j = (torch.from_numpy(np.flatnonzero(one)) for one in (rows, columns))
    image[:, i[:, None], j] = 0
