"""Threads that share the work on one batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Callable, Optional

import numpy as np

# Below this many values, a second thread costs more than it saves.
WORTH_THREADS = 1 << 19


class Threads:
    """Run a function on parts of a batch, in the calling thread and up to `n - 1` others.

    Give torch's number of threads as the main thread sees it. Another thread may see one: torch's `DataLoader` sets
    that in the thread that pins memory, and so for all threads that begin later.
    """

    def __init__(self, n: int = 1) -> None:
        self._n = n
        self._pool: Optional[ThreadPoolExecutor] = ThreadPoolExecutor(n - 1) if n > 1 else None

    def map(self, function: Callable[[np.ndarray], None], which: np.ndarray, values: int) -> None:
        """Split `which` into parts and call `function` with each, in parallel if there is enough work.

        `values` is the total number of values to make, each mixed from several; of cheaper ones, count fewer.
        """
        n = min(self._n, len(which)) if self._pool is not None and values > WORTH_THREADS else 1
        if n <= 1:
            function(which)
            return
        assert self._pool is not None
        first, *others = np.array_split(which, n)
        waiting = [self._pool.submit(function, part) for part in others]
        try:
            function(first)
        finally:  # also on Ctrl-C: the threads write into memory that the next batch may reuse
            wait(waiting)
        for one in waiting:
            one.result()

    def close(self) -> None:
        "End the threads."
        if self._pool is not None:
            self._pool.shutdown()


ONE_THREAD = Threads()
