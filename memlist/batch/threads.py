"""The threads that share the work on one batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from typing import Callable, Optional

import numpy as np
import torch

# Values to make below which a second thread costs more than it saves.
WORTH_THREADS = 1 << 19


class Threads:
    "Run a function on parts of a batch, on the calling thread and up to `n - 1` others."

    def __init__(self, n: int = 1) -> None:
        self._pool: Optional[ThreadPoolExecutor] = ThreadPoolExecutor(n - 1) if n > 1 else None

    def map(self, function: Callable[[np.ndarray], None], which: np.ndarray, values: int) -> None:
        """Call `function` with parts of `which` that make up all of it, at the same time where there is work enough.

        Use as many threads as torch would. `values` is the number of values that are made in all.
        """
        n = min(torch.get_num_threads(), len(which)) if self._pool is not None and values > WORTH_THREADS else 1
        if n <= 1:
            function(which)
            return
        assert self._pool is not None
        first, *others = np.array_split(which, n)
        waiting = [self._pool.submit(function, part) for part in others]
        try:
            function(first)
        finally:  # also on Ctrl-C: they write into memory that the next batch may get
            wait(waiting)
        for one in waiting:
            one.result()

    def close(self) -> None:
        "End the threads."
        if self._pool is not None:
            self._pool.shutdown()


ONE_THREAD = Threads()
