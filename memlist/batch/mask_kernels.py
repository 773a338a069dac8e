"""The kernel for masks: pixels are chosen as bytes, and widened to int64 as they are written.

A mask has one byte per pixel in the store and eight in a batch, so little should be done per pixel besides writing it.
Where rows of the output are rows of the source (no rotation, no warp), the columns to take are computed once per image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from .bits import at
from .compiling import OPTIONS, kernel
from .kernels import _points


@njit(**OPTIONS)
def _nearest(x: Any, y: Any, h: int, w: int, out: Any) -> None:
    "Write to `out` the positions of the pixels nearest to the points (x, y) of a source (h, w), or -1 outside of it."
    for j in range(len(x)):
        xi, yi = np.int32(np.rint(x[j])), np.int32(np.rint(y[j]))  # a tie goes to the even one, as in torch
        inside = (xi >= 0) & (xi < w) & (yi >= 0) & (yi < h)
        out[j] = np.int64(yi) * w + np.int64(xi) if inside else -1


@njit(**OPTIONS)
def _adjacent(at: Any) -> bool:
    "Return whether positions follow one another, from the first to the last, all inside the source."
    found = at[0] >= 0
    for j in range(len(at)):
        found &= at[j] == at[0] + j
    return found


@njit(**OPTIONS)
def _take(source: Any, at: Any, adjacent: bool, taken: Any, out: Any) -> None:
    "Write the pixels of `source` at the positions `at` to `out`, 0 for -1. `taken` is scratch memory, bytes of a row."
    n = len(out)
    if adjacent:
        line = source[at[0] : at[0] + n]
        for j in range(n):
            out[j] = line[j]
    elif at[0] > at[n - 1]:  # mirrored: the processor fetches ahead where memory is read forwards and written forwards
        for j in range(n - 1, -1, -1):
            taken[j] = source[at[j]] if at[j] >= 0 else 0
        for j in range(n):
            out[j] = taken[j]
    else:
        for j in range(n):
            out[j] = source[at[j]] if at[j] >= 0 else 0


@kernel
def nearest_bytes(
    which: Any,
    factor: Any,
    sources: Any,
    maps: Any,
    columns: Any,
    rows: Any,
    low: Any,
    padding: int,
    out: Any,
) -> None:
    """Take each value of masks with one channel from the pixel nearest to its point.

    This is `kernels.nearest` for bytes that are neither lit nor divided nor normalised, and has its arguments.
    """
    out_height, out_width = out.shape[2], out.shape[3]
    x, y = np.zeros(out_width, np.float32), np.zeros(out_width, np.float32)
    places, taken = np.empty(out_width, np.int64), np.empty(out_width, np.uint8)
    for b in which:
        h, w, m = sources[b, 1], sources[b, 2], maps[b]
        source = carray(at(sources[b, 0]), (h * w,), np.uint8)
        if m[0, 1] == 0.0 and m[1, 0] == 0.0 and m[2, 0] == 0.0 and m[2, 1] == 0.0:
            y[:] = 0
            _points(m, 0, columns[b], rows[b, 0], w, low, padding, x)
            _nearest(x, y, 1, w, places)
            adjacent = _adjacent(places)
            for i in range(out_height):
                _points(m, 1, columns[b], rows[b, i], h, low, padding, y[:1])
                line = np.int64(np.rint(y[0]))
                if 0 <= line < h:
                    _take(source[line * w : (line + 1) * w], places, adjacent, taken, out[b, 0, i])
                else:
                    out[b, 0, i, :] = 0
        else:
            for i in range(out_height):
                _points(m, 0, columns[b], rows[b, i], w, low, padding, x)
                _points(m, 1, columns[b], rows[b, i], h, low, padding, y)
                _nearest(x, y, h, w, places)
                _take(source, places, False, taken, out[b, 0, i])
