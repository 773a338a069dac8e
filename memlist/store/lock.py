"""The locks of a store: one mutex for all writers, and claims that avoid duplicate work.

They are locks on bytes of a lock file: byte 0 is the mutex, then comes one byte per pair of counters, then one per key.
The file itself holds the id of the process that last had the mutex, for those who wait.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from types import FrameType
from typing import Callable, List, Optional, Sequence

import psutil

from .bytelocks import ByteLocks
from .threads import Result, ThreadLock
from .warning import warn_user

#: How many seconds a process waits for another one that is decoding the same image.
MOST_PATIENCE = 10
#: After how many seconds of waiting for the mutex a process says for which other one.
SILENCE = 5
MUTEX, KEYS, N_KEYS = 0, 1 << 20, 1 << 40
_ID_BYTES = 8


def _nothing() -> None:
    pass


class Lock:
    """Exclude the other threads of this process and all other processes.

    The kernel drops the locks of a process that ends, so a killed process never leaves the mutex held. A stopped one
    does, and all others wait for it. An interrupt at any moment leaves no lock behind: see `threads`.

    `cache_file` says in messages what is locked; None stands for a store without a file.
    """

    def __init__(self, locks: ByteLocks, cache_file: Optional[str] = None) -> None:
        self.bytes, self.name = locks, "the images in memory" if cache_file is None else repr(cache_file)
        self._threads = ThreadLock()

    @property
    def fd(self) -> int:
        "Return the descriptor of the lock file."
        return self.bytes.fd

    def after_fork(self) -> None:
        "Replace, in a child, all that belongs to the parent: its locks, and its threads."
        self._threads = ThreadLock()
        self.bytes.open_anew()

    def run(
        self,
        work: Callable[[], Result],
        begin: Callable[[], None] = _nothing,
        finish: Callable[[], None] = _nothing,
    ) -> Result:
        """Call `begin`, `work` and, unless one of them raises, `finish` while holding the mutex; return work's result.

        Raises RuntimeError if this thread holds it already: a signal handler or finalizer would wait for ever.
        """
        try:
            try:
                self._threads.take(sys._getframe())
                self._wait()
                begin()
                result = work()
                finish()
                return result
            finally:
                self._leave(sys._getframe())
        finally:  # again, because an interrupt may have struck in the first `_leave`
            self._leave(sys._getframe())

    def claim_one(self, n: int) -> Optional[int]:
        "Claim one of the numbers `range(n)` for the lifetime of this process; return None if all are taken."
        return next((i for i in range(n) if self.bytes.lock(MUTEX + 1 + i)), None)

    def claiming(self, hash_: int, work: Callable[[bool], Result], wait: bool) -> Result:
        """Claim a key, by its hash, against other processes (not threads); call `work` with whether that succeeded.

        With `wait`, waits for at most `MOST_PATIENCE` seconds. A claim avoids duplicate work but protects no data, so
        processes that wait for each other, or for a stopped one, may go on without it.
        """
        byte, pause, until = KEYS + hash_ % N_KEYS, 0.0005, time.monotonic() + MOST_PATIENCE
        try:
            try:
                mine = self.bytes.lock(byte)
                while wait and not mine and time.monotonic() < until:
                    time.sleep(pause)
                    pause = min(2 * pause, 0.02)
                    mine = self.bytes.lock(byte)
                return work(mine)
            finally:
                self.bytes.unlock(byte)
        finally:  # again, because an interrupt may have struck in the first `unlock`
            self.bytes.unlock(byte)

    def claiming_all(self, hashes: Sequence[int], work: Callable[[List[bool]], Result]) -> Result:
        "Do as `claiming` for several keys at once, without waiting; pass to `work` which of them are claimed."
        claims = [KEYS + hash_ % N_KEYS for hash_ in hashes]
        try:
            try:
                return work([self.bytes.lock(byte) for byte in claims])
            finally:
                self._unclaim(claims)
        finally:  # again, because an interrupt may have struck in the first `_unclaim`
            self._unclaim(claims)

    def _unclaim(self, claims: List[int]) -> None:
        "Release each claim, the last one first; those that are released already are gone from the list."
        while claims:
            self.bytes.unlock(claims[-1])
            claims.pop()

    def close(self) -> None:
        "Close the descriptor."
        self.bytes.close()

    def _wait(self) -> None:
        "Wait for the mutex. Locking is tried again and again, because a wait in the kernel can't be timed."
        pause, begun, silent = 0.00005, time.monotonic(), True
        while not self.bytes.lock(MUTEX):
            time.sleep(pause)
            pause = min(2 * pause, 0.002 if silent else 0.05)
            if silent and time.monotonic() - begun > SILENCE:
                silent = False
                warn_user(self._waiting_for(), RuntimeWarning)
        mine = os.getpid()
        with suppress(OSError, AttributeError):  # a full disk, or Windows: then nobody knows whom to wait for
            if self._last_holder() not in (mine, None):
                os.pwrite(self.fd, mine.to_bytes(_ID_BYTES, "little"), 0)

    def _last_holder(self) -> Optional[int]:
        "Return the id in the lock file, 0 if it is empty; None if it holds something else, which must be kept."
        data = os.pread(self.fd, _ID_BYTES + 1, 0)
        holder = int.from_bytes(data, "little")
        return holder if len(data) in (0, _ID_BYTES) and holder < 1 << 32 else None

    def _waiting_for(self) -> str:
        "Return a message that says which process has the mutex."
        holder = None
        with suppress(OSError, AttributeError):
            holder = self._last_holder()
        who, what = f"process {holder}" if holder else "another process", "is writing to"
        with suppress(psutil.Error):
            if holder and psutil.Process(holder).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
                remedy = f"Continue it (kill -CONT {holder}), or end it (kill -KILL {holder})"
                return (
                    f"waiting for {who}, which is stopped and {what} {self.name}. {remedy}: no image is lost by that."
                )
        return f"waiting for {who}, which {what} {self.name}. If it hangs, end it: no image is lost by that."

    def _leave(self, frame: FrameType) -> None:
        "Release the mutex if the call with this frame holds it."
        if self._threads.held_by(frame):
            try:
                self.bytes.unlock(MUTEX)
            except OSError:  # the system has no memory for it
                self.bytes.open_anew()  # which closes the description that has the lock
            self._threads.drop(frame)  # last, because an interrupt may strike before: then this is called again
