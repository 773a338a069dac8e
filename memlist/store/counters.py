"""Hits and misses, counted by many processes at once without a lock."""

from __future__ import annotations

import threading
from typing import Optional

from .layout import N_COUNTERS, Header, counter
from .lock import Lock


class Counters:
    "Count in a pair of counters that this process has for itself; in a shared pair, under the mutex, if none is free."

    def __init__(self, header: Header, lock: Lock) -> None:
        self.header, self.lock = header, lock
        self.after_fork()

    def after_fork(self) -> None:
        "Take a pair of its own for this process at its next count."
        self._threads = threading.Lock()
        self._shared = False
        self._first: Optional[int] = None

    def count(self, hit: bool, n: int = 1) -> None:
        "Count `n` reads, as hits or misses."
        with self._threads:
            if self._first is None:
                pair = self.lock.claim_one(N_COUNTERS)
                self._shared = pair is None
                self._first = counter(N_COUNTERS if pair is None else pair)
            if not self._shared:
                self.header.words[self._first + (not hit)] += n
                return
        with self.lock.held():
            self.header.words[self._first + (not hit)] += n
