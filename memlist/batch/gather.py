"""Make batches whose images are copies of one window of their sources, straight from their addresses in memory."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import Tensor

from . import cpu
from .maker import Maker
from .plan import Norm, Plan

# Copying a value takes so much less time than mixing one, for which threads decide whether to share the work.
_CHEAP = 4


class Window(NamedTuple):
    "Hold the part of the sources that is copied: its first row and column, and its size."

    top: int
    left: int
    height: int
    width: int


def window_of(plan: Plan) -> Optional[Window]:
    "Return the window of their sources of which all images of `plan` are copies; None if there is none."
    extra = plan.blank is not None or bool(plan.extras) or plan.mode not in ("bilinear", "nearest")
    if extra or plan.sampled.any() or plan.lit.any() or (plan.matrix != np.eye(3)).any():
        return None
    top, left = plan.rows[0, :1], plan.columns[0, :1]
    if (plan.rows != top + np.arange(plan.height)).any() or (plan.columns != left + np.arange(plan.width)).any():
        return None
    return Window(int(top[0]), int(left[0]), plan.height, plan.width)


def gather(
    addresses: np.ndarray,
    shape: Tuple[int, ...],
    window: Window,
    divisor: int,
    norm: Optional[Norm],
    mask: bool,
    maker: Maker,
) -> Optional[Tensor]:
    """Return the `window` of each image as (B, channels, height, width) float32, in the memory of `maker`.

    - `addresses`, (B,) uint64: where the sources lie: bytes, all of `shape` (height, width, channels)
    - `divisor`, `norm`: values are bytes over the divisor, and normalised if a `norm` is given
    - `mask`: the bytes are whole numbers, returned as int64 without a divisor or norm

    The sources must stay where they are until this returns. Returns None where numba can't be used, and for a norm that
    is not finite.
    """
    channels = shape[2]
    mean, over_std = norm or (np.zeros(channels, np.float32), np.ones(channels, np.float32))
    if not all(map(math.isfinite, [*mean.tolist(), *over_std.tolist()])):
        return None
    kernel = _kernel(0 if mask else channels)
    if kernel is None:
        return None
    n, (top, left, height, width) = len(addresses), window
    out = maker.memory.empty((n, channels, height, width), torch.int64 if mask else torch.float32)
    first, line = (top * shape[1] + left) * channels, shape[1] * channels
    values = () if mask else (np.float32(1 / divisor), mean, over_std)
    made = out.numpy()
    if width == shape[1]:  # one row after another: as one row, which is faster
        made = made.reshape(n, channels, 1, height * width)

    def some(which: np.ndarray) -> None:
        part = slice(which[0], which[-1] + 1)
        kernel(addresses[part], first, line, *values, made[part])

    maker.threads.map(some, np.arange(n), made.size // _CHEAP)
    return out


def prepare() -> None:
    "Compile the usual kernel, or load it from the disk: a second, once per machine."
    _kernel(3)


def _kernel(channels: int) -> Any:
    "Return the kernel for images with so many channels, or for masks if that is 0; None where numba can't be used."
    return _compiled(channels) if not cpu.without_kernels() else None


@functools.lru_cache(maxsize=None)
def _compiled(channels: int) -> Any:
    "Return the kernel once it is compiled; None if that fails."
    try:
        from . import gather_kernels  # only now: importing numba takes a second

        return gather_kernels.for_floats(channels) if channels else gather_kernels.for_numbers()
    except Exception:  # from numba, LLVM, or the files of numba's cache
        return None
