"""The weights of Pillow's filters, compiled by numba.

The formulas are those of `precompute_coeffs` and `normalize_coeffs_8bpc` in Pillow's `src/libImaging/Resample.c`,
operation by operation, in doubles: a weight is then the same number of 22 bits behind the point. Importing this module
needs numba.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .bits import PRECISION

#: No sum is fused with a product, as in Pillow's own binaries.
OPTIONS = {"nogil": True, "error_model": "numpy"}

_LANCZOS, _BILINEAR, _BICUBIC, _BOX, _HAMMING = range(1, 6)
# Pillow writes these two as floats.
_HAMMING_A, _HAMMING_B = float(np.float32(0.54)), float(np.float32(0.46))


@njit(**OPTIONS)
def support_of(kind: int, size: int, made: int) -> float:
    "Return how far, in pixels of the source, the filter `kind` reaches from the centre of a pixel."
    scale = max(size / made, 1.0)
    if kind == _LANCZOS:
        return 3.0 * scale
    if kind == _BICUBIC:
        return 2.0 * scale
    if kind == _BOX:
        return 0.5 * scale
    return 1.0 * scale


@njit(**OPTIONS)
def most_weights(kind: int, size: int, made: int) -> int:
    "Return how many weights a pixel has at most."
    return math.ceil(support_of(kind, size, made)) * 2 + 1


@njit(**OPTIONS)
def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x = x * math.pi
    return math.sin(x) / x


@njit(**OPTIONS)
def _filter(kind: int, x: float) -> float:
    "Return the value of a filter at `x`."
    if kind == _LANCZOS:
        return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0
    if kind == _BOX:
        return 1.0 if -0.5 < x <= 0.5 else 0.0
    x = abs(x)
    if kind == _BILINEAR:
        return 1.0 - x if x < 1.0 else 0.0
    if kind == _BICUBIC:
        if x < 1.0:
            return (1.5 * x - 2.5) * x * x + 1
        return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0
    if x == 0.0:  # Hamming
        return 1.0
    if x >= 1.0:
        return 0.0
    x = x * math.pi
    return math.sin(x) / x * (_HAMMING_A + _HAMMING_B * math.cos(x))


@njit(**OPTIONS)
def fill_weights(kind: int, size: int, made: int, first: int, bounds: Any, weights: Any, exact: Any) -> None:
    """Compute the weights of the pixels from `first` on, of `made` pixels that are resized from `size`.

    - `bounds`, (n, 2) int64: set to the first source pixel of each pixel, and how many there are
    - `weights`, (n, most) int32: set to their weights
    - `exact`, (most,) float64: scratch
    """
    scale = size / made
    over = 1.0 / max(scale, 1.0)
    support = support_of(kind, size, made)
    for i in range(len(bounds)):
        center = (first + i + 0.5) * scale
        low = max(int(center - support + 0.5), 0)
        n = min(int(center + support + 0.5), size) - low
        total = 0.0
        for k in range(n):
            exact[k] = _filter(kind, (k + low - center + 0.5) * over)
            total += exact[k]
        for k in range(n):
            one = exact[k]
            if total != 0.0:
                one /= total
            half = -0.5 if one < 0 else 0.5
            weights[i, k] = int(half + one * (1 << PRECISION))
        bounds[i, 0], bounds[i, 1] = low, n
