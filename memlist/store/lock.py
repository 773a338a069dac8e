"""The mutex of a store, and claims on keys."""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager
from types import ModuleType
from typing import Iterator, Optional
from weakref import finalize

from .descriptor import anonymous

fcntl: Optional[ModuleType]
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# How long, in seconds, a process waits for another that decodes the same image.
MOST_PATIENCE = 10


class Lock:
    """One mutex for the threads of a process and all processes, on a descriptor and file of its own.

    The processes' part is an `fcntl` record lock, which the kernel drops with its holder, so a killed process never
    leaves it held. Two traps decide the shape: closing *any* descriptor of a file drops the process's locks on it,
    hence the own file; and a record lock does not exclude threads of one process, hence the thread lock, which is
    made anew after a fork (its holder may not exist in the child).

    The descriptor is closed with the last reference, since two stores may come to share a named lock.
    """

    def __init__(self, kind: str, fd: Optional[int] = None) -> None:
        self.fd = anonymous(kind, "lock") if fd is None else fd
        self._closed = finalize(self, os.close, self.fd)
        self._closed.atexit = False
        self.after_fork()

    def after_fork(self) -> None:
        self.threads = threading.Lock()
        self.owner = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        "Hold the mutex: byte 0 of the lock file."
        me = threading.get_ident()
        if self.owner == me:  # waiting for ourselves would be for ever
            raise RuntimeError("a signal handler or finalizer can't write to a store that its own thread is writing to")
        with self.threads:
            try:
                self.owner = me
                self._lock(0, wait=True)
                yield
            finally:  # also where Ctrl-C strikes before we know that we have it
                self._surely_unlock(0)
                self.owner = 0

    def claim(self, first: int, last: int) -> Optional[int]:
        "Take one free byte of `[first, last)` for the life of this process; None when all are taken."
        return next((byte for byte in range(first, last) if self._lock(byte, wait=False)), None)

    @contextmanager
    def claimed(self, byte: int, wait: bool) -> Iterator[bool]:
        """Hold `byte` against other processes, not threads; whether that could be.

        Who waits does so for `MOST_PATIENCE` seconds at most: a claim saves work and guards nothing, so neither
        processes that wait for one another nor one that was stopped may hold up anybody.
        """
        pause, until = 0.0005, time.monotonic() + MOST_PATIENCE
        try:
            mine = self._lock(byte, wait=False)
            while wait and not mine and time.monotonic() < until:
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
                mine = self._lock(byte, wait=False)
            yield mine
        finally:
            self._surely_unlock(byte)

    def _surely_unlock(self, byte: int) -> None:
        "Unlock, and only then let a Ctrl-C through that strikes meanwhile."
        struck: Optional[BaseException] = None
        while True:
            try:
                self._unlock(byte)
                break
            except OSError:
                raise
            except BaseException as error:
                struck = error
        if struck is not None:
            raise struck

    def _lock(self, byte: int, wait: bool) -> bool:
        if fcntl is not None:
            while True:
                try:
                    fcntl.lockf(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
                    return True
                except (BlockingIOError, PermissionError):
                    return False
                except OSError as error:
                    # The kernel takes all threads of a process for one owner, and sees cycles where there are none.
                    if error.errno != errno.EDEADLK:
                        raise
                    time.sleep(0.001)
        import msvcrt  # pragma: no cover

        while True:  # pragma: no cover - LK_LOCK gives up after ten seconds
            os.lseek(self.fd, byte, os.SEEK_SET)
            try:
                msvcrt.locking(self.fd, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore
                return True
            except OSError:
                if not wait:
                    return False

    def _unlock(self, byte: int) -> None:
        if fcntl is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)
        else:  # pragma: no cover
            import msvcrt

            os.lseek(self.fd, byte, os.SEEK_SET)
            msvcrt.locking(self.fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._closed()
