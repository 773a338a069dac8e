"""Count hits and misses in many processes at once, without a lock."""

from __future__ import annotations

import threading

from .layout import N_COUNTERS, Header, counter
from .lock import Lock

#: How many seconds an addition may take another thread. A `ThreadLock` would never wait for an interrupted one, but
#: costs more than a hit can afford.
PATIENCE = 1


class Counters:
    "Count in a pair of counters that only this process uses; if none is free, in a shared pair, under the mutex."

    def __init__(self, header: Header, lock: Lock) -> None:
        self.header, self.lock = header, lock
        self.after_fork()

    def after_fork(self) -> None:
        "Claim a pair for this process at its next count."
        self._threads = threading.Lock()
        self._mine, self._none_free = 0, False

    def count(self, hit: bool, n: int = 1) -> None:
        "Count `n` reads, as hits or misses."
        threads = self._threads
        if not threads.acquire(False):
            threads = self._wait(threads)
        try:
            mine = self._mine or self._claim()
            if mine:
                self.header.words[mine + (not hit)] += n
                return
        finally:
            threads.release()

        def add() -> None:
            self.header.words[counter(N_COUNTERS) + (not hit)] += n

        self.lock.run(add)

    def _wait(self, threads: threading.Lock) -> threading.Lock:
        "Wait for another thread's addition; return the lock that this thread then holds."
        while not threads.acquire(True, PATIENCE):  # an interrupt has struck before it was released
            if self._threads is threads:
                self._threads = threading.Lock()
            threads = self._threads
        return threads

    def _claim(self) -> int:
        "Claim a free pair and return the number of its first word; 0 if there is none."
        if not self._none_free:
            pair = self.lock.claim_one(N_COUNTERS)
            self._mine, self._none_free = 0 if pair is None else counter(pair), pair is None
        return self._mine
