"""Copy one window of each image of a batch, compiled by numba: from bytes to planes of floats or of whole numbers.

Importing this module needs numba. All compiled functions that these kernels use are in this file, because numba
recompiles a cached function only when the function's own file changes. `gather` calls them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_F = np.float32


def _can_cache() -> bool:
    "Return whether numba finds a folder for its cache: next to this file, or in the user's cache."
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


_OPTIONS = {"nogil": True, "cache": _can_cache(), "error_model": "numpy", "fastmath": {"contract", "nsz"}}


@intrinsic
def _at(typing_context: Any, address: Any) -> Any:
    "Return an address as a pointer."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.uint64), code


# Both kernels take of each source, from byte `first` on, the rows that `out` has, one every `line` bytes; `out` is
# (B, channels, rows, columns). Three channels have loops of their own: the compiler makes vectors of those.


@njit(**_OPTIONS)
def floats(addresses: Any, first: int, line: int, factor: Any, mean: Any, over_std: Any, out: Any) -> None:
    "Write `(byte · factor - mean) · over_std`, float32, in the operations of `kernels.bilinear`."
    _, channels, rows, columns = out.shape
    for b in range(len(addresses)):
        source = carray(_at(addresses[b]), (first + (rows - 1) * line + columns * channels,), np.uint8)
        for c in range(channels):
            gain, bias, a, k = factor * over_std[c], mean[c] * over_std[c], mean[c], over_std[c]
            for i in range(rows):
                part, made = source[first + i * line : first + i * line + columns * channels], out[b, c, i]
                if channels == 3:
                    for j in range(columns):
                        made[j] = _F(part[3 * j + c]) * gain - bias
                else:
                    for j in range(columns):
                        made[j] = (_F(part[channels * j + c]) * factor - a) * k


@njit(**_OPTIONS)
def numbers(addresses: Any, first: int, line: int, out: Any) -> None:
    "Write the bytes, int64."
    _, channels, rows, columns = out.shape
    for b in range(len(addresses)):
        source = carray(_at(addresses[b]), (first + (rows - 1) * line + columns * channels,), np.uint8)
        for c in range(channels):
            for i in range(rows):
                part, made = source[first + i * line : first + i * line + columns * channels], out[b, c, i]
                for j in range(columns):
                    made[j] = part[channels * j + c]
