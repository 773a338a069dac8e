"""Copy one window of each image of a batch, compiled by numba: from bytes to planes of floats or of whole numbers.

Importing this module needs numba. `gather` calls the kernels.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, njit, types

from .bits import at, fetch
from .compiling import OPTIONS, compile_once, exact_kernel, kernel

_F = np.float32
# The first bytes of the next image that are asked for while one is made; the processor itself goes on from there.
_AHEAD = 4096
# Types of the arguments: addresses, `first` and `line`; the factor, mean and deviation; the images.
_WHERE = types.Array(types.uint64, 1, "C"), types.int64, types.int64
_VALUES = types.float32, types.Array(types.float32, 1, "C"), types.Array(types.float32, 1, "C")


@njit(**OPTIONS)
def _source(address: Any, first: int, line: int, out: Any) -> Any:
    "Return the bytes of a source up to the last one that is needed."
    return carray(at(address), (first + (out.shape[2] - 1) * line + out.shape[3] * out.shape[1],), np.uint8)


# All kernels take of each source, from byte `first` on, the rows that `out` has, one every `line` bytes; `out` is
# (B, channels, rows, columns). Values are those of the kernels that mix, to the bit, if these copy.


@kernel
def rgb(addresses: Any, first: int, line: int, factor: Any, mean: Any, over_std: Any, out: Any) -> None:
    "Write `(byte · factor - mean) · over_std`, float32, of three channels."
    rows, columns = out.shape[2:]
    gain, bias = factor * over_std, mean * over_std
    a, b, c = gain[0], gain[1], gain[2]
    k, m, n = bias[0], bias[1], bias[2]
    ahead = min(first + (rows - 1) * line + columns * 3, _AHEAD)
    for image in range(len(addresses)):
        if image + 1 < len(addresses):
            for j in range(first, ahead, 64):
                fetch(np.int64(addresses[image + 1]) + j)
        source = _source(addresses[image], first, line, out)
        for i in range(rows):
            part = source[first + i * line : first + i * line + columns * 3]
            red, green, blue = out[image, 0, i], out[image, 1, i], out[image, 2, i]
            for j in range(columns):
                red[j] = _F(part[3 * j]) * a - k
                green[j] = _F(part[3 * j + 1]) * b - m
                blue[j] = _F(part[3 * j + 2]) * c - n


@exact_kernel
def floats(addresses: Any, first: int, line: int, factor: Any, mean: Any, over_std: Any, out: Any) -> None:
    "Write `(byte · factor - mean) · over_std`, float32, of any number of channels."
    _, channels, rows, columns = out.shape
    for b in range(len(addresses)):
        source = _source(addresses[b], first, line, out)
        for c in range(channels):
            a, k = mean[c], over_std[c]
            for i in range(rows):
                part, made = source[first + i * line : first + i * line + columns * channels], out[b, c, i]
                if channels == 1:
                    for j in range(columns):
                        made[j] = (_F(part[j]) * factor - a) * k
                else:
                    for j in range(columns):
                        made[j] = (_F(part[channels * j + c]) * factor - a) * k


@kernel
def numbers(addresses: Any, first: int, line: int, out: Any) -> None:
    "Write the bytes, int64."
    _, channels, rows, columns = out.shape
    for b in range(len(addresses)):
        source = _source(addresses[b], first, line, out)
        for c in range(channels):
            for i in range(rows):
                part, made = source[first + i * line : first + i * line + columns * channels], out[b, c, i]
                for j in range(columns):
                    made[j] = part[channels * j + c]


@functools.lru_cache(maxsize=None)
def for_floats(channels: int) -> Any:
    "Return the kernel for images with so many channels, compiled."
    made, makes = (rgb, "windows of images") if channels == 3 else (floats, "windows of images, any channels")
    compile_once(made, (*_WHERE, *_VALUES, types.Array(types.float32, 4, "C")), 1, makes)
    return made


@functools.lru_cache(maxsize=None)
def for_numbers() -> Any:
    "Return the kernel for masks, compiled."
    compile_once(numbers, (*_WHERE, types.Array(types.int64, 4, "C")), 1, "windows of masks")
    return numbers
