"""Call the kernels for the pictures of a batch. Importing this module needs numba."""

from __future__ import annotations

import functools
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from numba import types
from numba.core.errors import NumbaError

from ..batch.compiling import compile_once
from ..batch.threads import Threads
from .jobs import FIELDS, Jobs, Planner, Target
from .kernels import work
from .steps import Step

# A byte of a source takes this part of the time of a value that is made.
_READ = 8
# Values are copied as they are, so there is one kernel for all types of a size.
_WORDS: Dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_TYPES = {1: types.uint8, 2: types.uint16, 4: types.uint32, 8: types.uint64}


@functools.lru_cache(maxsize=None)
def _kernel(nbytes: int) -> Any:
    "Return the kernel for values of so many bytes, compiled, some seconds, once per machine; None if that fails."
    arguments = types.Array(types.int64, 2, "C"), types.int64, types.boolean, types.Array(_TYPES[nbytes], 1, "C")
    try:
        makes = f"cropped, resized and turned images, {nbytes} byte{'s' * (nbytes > 1)} per value"
        compile_once(work, arguments, 10 if nbytes == 1 else 3, makes)
    except (NumbaError, OSError):
        return None
    return work


def prepare() -> None:
    "Compile the kernels for bytes and for values of four bytes, or load them from the disk."
    _kernel(1)
    _kernel(4)


class _Batch(NamedTuple):
    "Hold the jobs of a batch, of which those of picture i are `ends[i]` to `ends[i + 1]`, and what they need."

    table: np.ndarray
    ends: np.ndarray
    nbytes: np.ndarray
    kept: List[Any]


def run(
    pictures: Sequence[np.ndarray],
    steps: Sequence[Sequence[Step]],
    out: np.ndarray,
    values: Optional[np.ndarray],
    newer: bool,
    threads: Threads,
) -> bool:
    """Do what `render` says, for arguments that fit together; return False where the kernels can't write to `out`.

    `newer` tells the order of the passes: since Pillow 13, or before it.
    """
    kernel = _kernel(out.itemsize) if out.itemsize in _WORDS else None
    if kernel is None or out.dtype.hasobject or any(stride % out.itemsize for stride in out.strides):
        return False
    given = np.empty((0, 1), out.dtype) if values is None else values
    table = np.ascontiguousarray(given.T).reshape(-1).view(_WORDS[out.itemsize])
    batch = _planned(pictures, steps, out)

    def some(which: np.ndarray) -> None:
        first, end = which[0], which[-1] + 1
        jobs = batch.table[batch.ends[first] : batch.ends[end]]
        kernel(jobs, int(batch.nbytes[first:end].max()), newer, table)

    if len(pictures):
        read = sum(picture.size for picture in pictures) // _READ
        threads.map(some, np.arange(len(pictures)), out.size + read)
    return True


def _planned(pictures: Sequence[np.ndarray], steps: Sequence[Sequence[Step]], out: np.ndarray) -> _Batch:
    "Return the jobs of a batch."
    planned: List[Jobs] = []
    kept: List[Any] = []
    channels, address = out.shape[3], out.__array_interface__["data"][0]
    first, row, column, channel = out.strides
    for i, (picture, some) in enumerate(zip(pictures, steps)):
        height, width = picture.shape[:2]
        if picture.strides[1:] != ((channels, 1) if picture.ndim == 3 else (1,)):
            picture = np.ascontiguousarray(picture)
            kept.append(picture)
        planner = Planner(picture.__array_interface__["data"][0], picture.strides[0], (height, width), channels)
        planned.append(planner.plan(some, Target(address + i * first, row, column, channel, True)))
    ends = np.cumsum([0, *(len(jobs.rows) for jobs in planned)])
    table = np.array([row for jobs in planned for row in jobs.rows], np.int64).reshape(-1, FIELDS)
    return _Batch(table, ends, np.array([jobs.nbytes for jobs in planned]), [kept, planned])
