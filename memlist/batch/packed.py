"""Pack all that a device needs to make a batch into one block of bytes, which one copy takes there.

Of each picture, what is sent is the part that its image is mixed from; all of it, if it is averaged down first. Where
that would be too much, because a large picture becomes a small image, and where the device's formulas do not suffice,
the image is made here and sent instead. So a batch takes at most four times its own size on its way, however large the
pictures are.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .buffers import Memory
from .cpu import on_cpu
from .fused import fused_on
from .parts import copy_parts
from .pixels import Pixels
from .plan import Norm, Plan
from .regions import needed
from .render import Average, render
from .staging import staging
from .table import Table
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
    - `averages`: which bytes to average down to which sizes; the piece `averages` has the same, and in a sixth column
      the number of the first pixel of each among those that come of it
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

    def lock(self) -> None:
        "Lock the memory where it lies, if a worker shares it and a GPU can copy from there."
        staging().lent.lock(self.data)

    def make(self, device: torch.device) -> Tensor:
        "Copy the bytes to `device` and make the batch there, (B, channels, height, width). Does not wait for a GPU."
        device = torch.device(device)
        return self._all(self._on(device), device)

    def _all(self, found: Dict[str, Tensor], device: torch.device) -> Tensor:
        "Return the batch, made of the pieces that are on `device`."
        out = torch.empty(self.size, dtype=self.dtype, device=device)
        norm = (found["mean"], found["over_std"]) if "mean" in found else None
        first = 0
        for way, n in enumerate(self.counts[:_MADE]):
            if n:
                self._made(way, slice(first, first + n), found, out, norm)
            first += n
        if self.counts[_MADE] and self.in_order:
            out[first:].copy_(found["made"])
        elif self.counts[_MADE]:
            out.index_copy_(0, found["order"][first:], found["made"])
        return out

    def _made(
        self, way: int, chosen: slice, found: Dict[str, Tensor], out: Tensor, norm: Optional[Tuple[Tensor, Tensor]]
    ) -> None:
        """Make the images `chosen`, which are sent in one way: with a kernel, or else with the formulas of `render`.

        The first images of each kind are made by both and compared: that waits for the device, once per kind.
        """
        pixels, averages = found["floats" if way == _FLOATS else "bytes"], self.averages if way == _AVERAGED else ()
        fused = fused_on(out.device)
        made = fused is not None and fused.make(self.table, found, chosen, pixels, out, norm, averages)
        kind = way, out.shape[1], out.dtype, norm is None, *self.table[-4:]
        if fused is not None and made and fused.knows(kind):
            return
        target = torch.empty_like(out) if made else out
        order = None if self.in_order else found["order"][chosen]
        where: Any = chosen if order is None else order
        place = target[chosen] if order is None else target
        render(self.table.received(found).of_images(chosen), pixels, place, order, norm, averages)
        if fused is not None and made and not fused.confirmed(kind, out[where], target[where]):
            out[where] = target[where]

    def _on(self, device: torch.device) -> Dict[str, Tensor]:
        "Return the pieces on `device`."
        whole = staging().staged(self.data) if device.type == "cuda" else self.data
        if _VIEWS:
            data = whole.to(device, non_blocking=True)
            kinds = {dtype: data.view(dtype) for dtype in {kind for _, kind, _ in self.pieces.values()}}
            found = {name: _part(kinds[piece[1]], piece) for name, piece in self.pieces.items()}
        else:  # what is typed is still on the CPU
            found = {
                name: torch.from_numpy(_array(whole, piece)).to(device, non_blocking=True)
                for name, piece in self.pieces.items()
            }
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
    channels, item = pixels[0].shape[0], _item(dtype)
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
    where = [(*one, at) for one, at in zip(averages, table.start[-len(averages) :])]
    arrays = {**table.sent(), "order": order, "averages": np.array(where, np.int64).reshape(-1, 6)}
    if norm is not None:
        arrays["mean"], arrays["over_std"] = norm
    size = (len(pixels), channels, plan.height, plan.width)
    spaces = {name: (_dtype(array), array.shape) for name, array in arrays.items()}
    spaces["bytes"], spaces["floats"] = (torch.uint8, (totals[0], channels)), (torch.float32, (totals[1], channels))
    spaces["made"] = dtype, (counts[_MADE], *size[1:])
    pieces, end = {}, 0
    for name, (kind, shape) in spaces.items():
        pieces[name] = end, kind, shape
        end += -(-math.prod(shape) * _item(kind) // _ALIGN) * _ALIGN
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


@functools.lru_cache(maxsize=None)
def _item(dtype: torch.dtype) -> int:
    "Return the bytes of one value."
    return torch.empty(0, dtype=dtype).element_size()


def _dtype(array: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def _array(data: Tensor, piece: Piece) -> np.ndarray:
    "Return a piece of `data` as an array."
    begin, dtype, shape = piece
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return data.numpy()[begin : begin + math.prod(shape) * kind.itemsize].view(kind).reshape(shape)


def _views() -> bool:
    "Return whether torch can view bytes as another type; since 1.10, it can."
    try:
        torch.zeros(4, dtype=torch.uint8).view(torch.float32)
    except RuntimeError:
        return False
    return True


_VIEWS = _views()


def _part(data: Tensor, piece: Piece) -> Tensor:
    "Return a piece of `data`, which is of the piece's type."
    begin, dtype, shape = piece
    return data.narrow(0, begin // _item(dtype), math.prod(shape)).view(shape)
