"""Copy a part of each picture of a batch into one block of bytes, compiled by numba.

Importing this module needs numba. `parts` calls the kernel.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import types

from .bits import copy
from .compiling import compile_once, kernel


@kernel
def parts(first: Any, line: Any, rows: Any, width: Any, to: Any) -> None:
    """Copy `rows` times `width` bytes of each source, one row every `line` bytes from the address `first` on.

    A part's rows follow one another from the address `to` on. All are (n,) int64.
    """
    for k in range(len(first)):
        n, w = rows[k], width[k]
        if w == line[k]:
            n, w = min(n, 1), n * w
        for i in range(n):
            copy(to[k] + i * w, first[k] + i * line[k], w)


@functools.lru_cache(maxsize=None)
def compiled() -> Any:
    "Return the kernel, compiled."
    compile_once(parts, (types.Array(types.int64, 1, "C"),) * 5, 1, "batches that are sent as bytes")
    return parts
