"""Count hits and misses in many processes at once, without a lock.

Each process has a pair of counters of its own. Processes that find all pairs taken share the last one. The counts of a
killed process stay, and the next process may take its pair.

The counters of an anonymous store lie in its header. Those of a named file lie in anonymous memory: a store to a mapped
page of a file kills the process if the disk is full. So processes count together only if one of them has started the
others.
"""

from __future__ import annotations

import threading
from typing import Tuple

from .layout import N_COUNTERS
from .lock import Lock

N_WORDS = 2 * (N_COUNTERS + 1)
#: How many seconds an addition may take another thread. A `ThreadLock` would never wait for an interrupted one, but
#: costs more than a hit can afford.
PATIENCE = 1


class Counters:
    """Count in a pair of counters that only this process uses; if none is free, in a shared pair, under the mutex.

    They are the `N_WORDS` words from number `first` on in `words`, hits before misses.
    """

    def __init__(self, words: memoryview, first: int, lock: Lock) -> None:
        self.words, self.first, self.lock = words, first, lock
        self.after_fork()

    def after_fork(self) -> None:
        "Claim a pair for this process at its next count."
        self._threads = threading.Lock()
        self._mine, self._none_free = -1, False

    def count(self, hit: bool, n: int = 1) -> None:
        "Count `n` reads, as hits or misses."
        threads = self._threads
        if not threads.acquire(False):
            threads = self._wait(threads)
        try:
            mine = self._mine
            if mine < 0:
                mine = self._claim()
            if mine >= 0:
                self.words[mine + (not hit)] += n
                return
        finally:
            threads.release()

        def add() -> None:
            self.words[self.first + 2 * N_COUNTERS + (not hit)] += n

        self.lock.run(add)

    def reads(self) -> Tuple[int, int]:
        "Return hits and misses, summed over all pairs."
        counts = list(self.words[self.first : self.first + N_WORDS])
        return sum(counts[::2]), sum(counts[1::2])

    def _wait(self, threads: threading.Lock) -> threading.Lock:
        "Wait for another thread's addition; return the lock that this thread then holds."
        while not threads.acquire(True, PATIENCE):  # an interrupt has struck before it was released
            if self._threads is threads:
                self._threads = threading.Lock()
            threads = self._threads
        return threads

    def _claim(self) -> int:
        "Claim a free pair and return the number of its first word; -1 if there is none."
        if not self._none_free:
            pair = self.lock.claim_one(N_COUNTERS)
            self._mine, self._none_free = -1 if pair is None else self.first + 2 * pair, pair is None
        return self._mine
