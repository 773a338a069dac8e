"""Pack all that a device needs to make a batch into one block of bytes, which one copy takes there.

Of each picture, what is sent is the part that its image is mixed from; all of it, if it is averaged down first. Where
that would be too much, because a large picture becomes a small image, and where the device's formulas do not suffice,
the image is made here and sent instead. So a batch takes at most four times its own size on its way, however large the
pictures are.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .buffers import Memory
from .cpu import on_cpu
from .parts import copy_parts
from .pixels import Pixels
from .plan import Norm, Plan
from .regions import needed
from .render import Average, render
from .staging import staging
from .table import ARRAYS, Table
from .threads import Threads

# Send a picture, or a part of it, if it has at most this many times the bytes of the image that is made of it.
MOST = 3.5
# Arrays begin at multiples of this many bytes.
_ALIGN = 64
# How an image is sent: as bytes, as floats, as bytes that the device averages down first, or made.
_BYTES, _FLOATS, _AVERAGED, _MADE = 0, 1, 2, 3

Piece = Tuple[int, torch.dtype, Tuple[int, ...]]  # where it begins, in bytes, and what it is


class Packed(NamedTuple):
    """Hold a batch that a device will make.

    - `data`, (bytes,) uint8: all arrays, one after another; `pieces` says where each lies, by name
    - `table`: the rest of the `Table` of the images that are not made: its arrays are among the pieces
    - `counts`: how many images are sent as bytes, as floats, as bytes to average down, and made; the piece `order` has
      their positions
    - `in_order`: whether the images are sent in their order
    - `averages`: which bytes to average down to which sizes
    - `size`, `dtype`: of the batch, (B, channels, height, width), float32 or int64
    """

    data: Tensor
    pieces: Dict[str, Piece]
    table: Table
    counts: Tuple[int, ...]
    in_order: bool
    averages: Sequence[Average]
    size: Tuple[int, int, int, int]
    dtype: torch.dtype

    def pin_memory(self) -> Packed:
        "Return a copy in page-locked memory; itself if it lies there."
        return self._replace(data=staging().staged(self.data))

    def make(self, device: torch.device) -> Tensor:
        "Copy the bytes to `device` and make the batch there, (B, channels, height, width). Does not wait for a GPU."
        device = torch.device(device)
        found = self._on(device)
        out = torch.empty(self.size, dtype=self.dtype, device=device)
        norm = (found["mean"], found["over_std"]) if "mean" in found else None
        table, first = self.table.map(lambda name, _: found[name]), 0
        for name, n, averages in zip(("bytes", "floats", "bytes"), self.counts, ((), (), self.averages)):
            if n:
                chosen = slice(first, first + n)
                place = out[chosen] if self.in_order else out
                order = None if self.in_order else found["order"][chosen]
                render(table.of_images(chosen), found[name], place, order, norm, averages)
            first += n
        if self.in_order:
            out[first:].copy_(found["made"])
        elif self.counts[_MADE]:
            out.index_copy_(0, found["order"][first:], found["made"])
        return out

    def _on(self, device: torch.device) -> Dict[str, Tensor]:
        "Return the pieces on `device`."
        whole = staging().staged(self.data) if device.type == "cuda" else self.data
        data = whole.to(device, non_blocking=True) if _VIEWS else whole
        found = {}
        for name, (begin, dtype, shape) in self.pieces.items():
            n = int(np.prod(shape)) * torch.empty(0, dtype=dtype).element_size()
            found[name] = _typed(data[begin : begin + n], dtype).view(shape).to(device, non_blocking=True)
        if device.type == "cuda":
            staging().sent(whole, device)
        return found


def pack(
    plan: Plan, pixels: Sequence[Pixels], dtype: torch.dtype, norm: Optional[Norm], memory: Memory, threads: Threads
) -> Packed:
    """Pack the images of `plan`: in page-locked memory if this process can send it to a GPU, else in `memory`.

    `norm` is applied to the batch, if given. Pixels are read until this returns.
    """
    height, width = (np.array([one.array.shape[k] for one in pixels]) for k in (0, 1))
    channels, item = pixels[0].shape[0], torch.empty(0, dtype=dtype).element_size()
    pooled = plan.pooled[:, 0] > 0
    region = needed(plan, height, width)
    region[pooled] = np.stack([0 * height, height, 0 * width, width], 1)[pooled]
    area = (region[:, 1] - region[:, 0]) * (region[:, 3] - region[:, 2])
    ways = _ways(plan, pixels, area, plan.height * plan.width * item)
    alike = np.where(ways == _AVERAGED, [*plan.pooled.T, width, height], 0)
    order = np.lexsort((*alike, ways))  # what is averaged alike is adjacent
    counts = tuple(np.bincount(ways, minlength=4).tolist())
    which = order[: len(order) - counts[_MADE]]
    begin, totals = _begins(ways[which], area[which])
    averages = [
        (begin[k], *pixels[b].array.shape[:2], *plan.pooled[b].tolist())
        for k, b in enumerate(which.tolist())
        if ways[b] == _AVERAGED
    ]
    divisors = [pixels[b].divisor for b in which.tolist()]
    table = _table(plan.of(which), height[which], width[which], region[which], np.array(begin, np.int64), divisors)
    arrays: Dict[str, Any] = {name: getattr(table, name) for name in ARRAYS}
    arrays["order"] = order
    if norm is not None:
        arrays["mean"], arrays["over_std"] = norm
    size = (len(pixels), channels, plan.height, plan.width)
    spaces = {name: (_dtype(array), array.shape) for name, array in arrays.items()}
    spaces["bytes"], spaces["floats"] = (torch.uint8, (totals[0], channels)), (torch.float32, (totals[1], channels))
    spaces["made"] = dtype, (counts[_MADE], *size[1:])
    pieces, end = {}, 0
    for name, (kind, shape) in spaces.items():
        pieces[name] = end, kind, shape
        end += -(-int(np.prod(shape)) * torch.empty(0, dtype=kind).element_size() // _ALIGN) * _ALIGN
    if get_worker_info() is None and torch.cuda.is_available():
        memory = staging()
    data = memory.empty((end,), torch.uint8)
    into = {name: _array(data, piece) for name, piece in pieces.items()}
    for name, array in arrays.items():
        into[name][...] = array

    if len(which):
        itemsize = np.where(ways[which] == _FLOATS, 4, 1)
        at = np.array([pieces["bytes"][0], pieces["floats"][0]])[(itemsize == 4).astype(int)]
        to = at + np.array(begin, np.int64) * channels * itemsize
        copy_parts([pixels[b].array for b in which.tolist()], region[which], to, data.numpy(), threads)
    if counts[_MADE]:
        left = order[len(which) :]
        on_cpu(plan.of(left), [pixels[b] for b in left.tolist()], torch.from_numpy(into["made"]), norm, threads)
    rest = table.map(lambda name, array: None)
    in_order = bool((order == np.arange(len(order))).all())
    return Packed(data, pieces, rest, counts, in_order, averages, size, dtype)


def _ways(plan: Plan, pixels: Sequence[Pixels], area: np.ndarray, made: int) -> np.ndarray:
    "Return how each image is sent, (B,). `area`: the pixels to send of each picture; `made`: bytes per channel made."
    floats = np.array([one.array.dtype == np.float32 for one in pixels])
    pooled = plan.pooled[:, 0] > 0
    ways = np.where(floats, _FLOATS, np.where(pooled, _AVERAGED, _BYTES))
    ways[(pooled & floats) | (area * np.where(floats, 4, 1) > MOST * made)] = _MADE
    for b, extra in plan.extras.items():
        if extra.grid is not None or extra.planes:
            ways[b] = _MADE
    return ways


def _begins(ways: np.ndarray, area: np.ndarray) -> Tuple[List[int], Tuple[int, int]]:
    "Return the number of each picture's first pixel among the bytes or the floats, and how many there are of both."
    floats = ways == _FLOATS
    areas = [np.where(floats == kind, area, 0) for kind in (False, True)]
    begins = [np.cumsum(one) - one for one in areas]
    return np.where(floats, begins[1], begins[0]).tolist(), (int(areas[0].sum()), int(areas[1].sum()))


def _table(
    plan: Plan, height: np.ndarray, width: np.ndarray, region: np.ndarray, begin: np.ndarray, divisors: Sequence[int]
) -> Table:
    "Return the table of images of which `region` is sent; what is averaged down will be an array of its own."
    pooled = plan.pooled[:, 0] > 0
    rows, cols = np.where(pooled, plan.pooled[:, 0], height), np.where(pooled, plan.pooled[:, 1], width)
    region = np.where(pooled[:, None], np.stack([0 * rows, rows, 0 * cols, cols], 1), region)
    averaged = np.where(pooled, rows * cols, 0)
    begin = np.where(pooled, np.cumsum(averaged) - averaged, begin)
    return Table.of(plan, rows, cols, region, begin, divisors)


def _dtype(array: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def _array(data: Tensor, piece: Piece) -> np.ndarray:
    "Return a piece of `data` as an array."
    begin, dtype, shape = piece
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return data.numpy()[begin : begin + int(np.prod(shape)) * kind.itemsize].view(kind).reshape(shape)


def _views() -> bool:
    "Return whether torch can view bytes as another type; since 1.10, it can."
    try:
        torch.zeros(4, dtype=torch.uint8).view(torch.float32)
    except RuntimeError:
        return False
    return True


_VIEWS = _views()


def _typed(data: Tensor, dtype: torch.dtype) -> Tensor:
    "Return bytes as values of `dtype`. Where torch can't, they are still on the CPU."
    if _VIEWS:
        return data.view(dtype)
    return torch.from_numpy(data.numpy().view(torch.empty(0, dtype=dtype).numpy().dtype))
