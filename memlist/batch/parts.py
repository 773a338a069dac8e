"""Copy a part of each picture of a batch into one block of bytes, in threads that don't wait for each other."""

from __future__ import annotations

import functools
from typing import Any, Sequence

import numpy as np

from . import cpu
from .threads import Threads


def copy_parts(
    arrays: Sequence[np.ndarray], region: np.ndarray, begin: np.ndarray, out: np.ndarray, threads: Threads
) -> None:
    """Copy `region`, (n, 4) int64 (top, bottom, left, right), of each of `arrays` to byte `begin`, (n,), of `out`.

    The arrays are (height, width, channels), of any dtype. Takes the time of the copies: some 0.1 ms per megabyte and
    thread. Compiled code copies without Python's lock, for which threads would wait at each picture; without numba, and
    for arrays whose rows are not contiguous, NumPy copies.
    """
    found = [one.__array_interface__ for one in arrays]
    kernel: Any = _kernel() if all(one["strides"] is None for one in found) else None

    def by_numpy(chosen: np.ndarray) -> None:
        for k in chosen.tolist():
            top, bottom, left, right = region[k].tolist()
            part = arrays[k][top:bottom, left:right]
            np.copyto(out[begin[k] : begin[k] + part.nbytes].view(part.dtype).reshape(part.shape), part)

    def compiled(chosen: np.ndarray) -> None:
        kernel(*(one[chosen[0] : chosen[-1] + 1] for one in where))

    if kernel is None:
        threads.map(by_numpy, np.arange(len(arrays)), int(out.nbytes))
        return
    addresses = np.array([one["data"][0] for one in found], np.int64)
    pixel = np.array([one.shape[2] * one.itemsize for one in arrays], np.int64)
    line = pixel * [one.shape[1] for one in arrays]
    top, bottom, left, right = region.T
    to = begin + out.__array_interface__["data"][0]
    where = addresses + top * line + left * pixel, line, bottom - top, (right - left) * pixel, to
    threads.map(compiled, np.arange(len(arrays)), int(out.nbytes))


def prepare() -> None:
    "Compile the kernel, or load it from the disk: a second, once per machine."
    _kernel()


def _kernel() -> Any:
    return _compiled() if not cpu.without_kernels() else None


@functools.lru_cache(maxsize=1)
def _compiled() -> Any:
    "Return the kernel; None if it can't be compiled."
    try:
        from . import copy_kernels  # only now: importing numba takes a second

        return copy_kernels.compiled()
    except Exception:  # from numba, LLVM, or the files of numba's cache
        return None
