"""Copy the pixels of a batch into one flat tensor, which one transfer can send to a device."""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .buffers import Memory
from .pixels import Pixels
from .threads import Threads


class Gathered(NamedTuple):
    """Hold the images of one batch, one after another, each as (height, width, channels).

    - `data`: one flat tensor, uint8 or float32; the values of the images are `data / divisor`
    - `start`, `height`, `width`, (B,) int64: the index in `data` at which each image begins, and its size
    """

    data: Tensor
    start: np.ndarray
    height: np.ndarray
    width: np.ndarray
    channels: int
    divisor: float

    @classmethod
    def of_one(cls, pixels: Pixels) -> Gathered:
        "Return a batch of one image, without a copy if its memory layout permits."
        height, width, channels = pixels.array.shape
        flat = torch.from_numpy(np.require(pixels.array, requirements=["C", "W"]).reshape(-1))
        start = np.zeros(1, np.int64)
        return cls(flat, start, np.array([height]), np.array([width]), channels, float(pixels.divisor))

    def of(self, chosen: Any) -> Gathered:
        "Return the images `chosen`: a slice, or indices."
        return self._replace(start=self.start[chosen], height=self.height[chosen], width=self.width[chosen])


def gather(pixels: Sequence[Pixels], memory: Memory, threads: Threads) -> Gathered:
    """Copy images into one tensor: in pinned memory if this process can send it to a GPU, else in `memory`.

    If all images are bytes with the same divisor, they stay bytes; otherwise all become floats.
    """
    arrays, divisor = [one.array for one in pixels], pixels[0].divisor
    if len({(array.dtype, one.divisor) for array, one in zip(arrays, pixels)}) > 1:
        arrays = [array.astype(np.float32) / np.float32(one.divisor) for array, one in zip(arrays, pixels)]
        divisor = 1
    sizes = np.array([array.size for array in arrays])
    start = np.cumsum(sizes) - sizes
    dtype = torch.uint8 if arrays[0].dtype == np.uint8 else torch.float32
    total = int(sizes.sum())
    if get_worker_info() is None and torch.cuda.is_available():
        data = torch.empty(total, dtype=dtype, pin_memory=True)
    else:
        data = memory.empty((total,), dtype)
    flat = data.numpy()

    def copy_some(which: np.ndarray) -> None:
        for b in which.tolist():
            np.copyto(flat[start[b] : start[b] + sizes[b]], arrays[b].reshape(-1))

    threads.map(copy_some, np.arange(len(arrays)), total)
    height, width = (np.array([array.shape[k] for array in arrays]) for k in (0, 1))
    return Gathered(data, start, height, width, arrays[0].shape[2], float(divisor))
