"""The locks of a store: one mutex for all writers, and claims that avoid duplicate work.

They are locks on bytes of a lock file: byte 0 is the mutex, then comes one byte per pair of counters, then one per key.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import contextmanager
from types import ModuleType
from typing import Callable, Iterator, Optional
from weakref import finalize

from .descriptor import anonymous

fcntl: Optional[ModuleType]
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# How many seconds a process waits for another one that is decoding the same image.
MOST_PATIENCE = 10
MUTEX, KEYS, N_KEYS = 0, 1 << 20, 1 << 40


def _nothing() -> None:
    pass


class Lock:
    """Exclude the other threads of this process and all other processes.

    Processes exclude each other with an `fcntl` record lock. The kernel drops it when its holder ends, so a killed
    process never leaves it held. Such locks have two pitfalls. Closing *any* descriptor of a file drops all locks that
    the process has on it, so the lock has its own file. And they do not exclude threads of the same process, so there
    is a thread lock, too. It is replaced after a fork, because its holder may not exist in the child.

    The descriptor is closed with the last reference, because two stores may share the lock of a named file.
    """

    def __init__(self, kind: str, fd: Optional[int] = None) -> None:
        self.fd = anonymous(kind, "lock") if fd is None else fd
        self._closed = finalize(self, os.close, self.fd)
        self._closed.atexit = False
        self.after_fork()

    def after_fork(self) -> None:
        "Replace the thread lock, in this process or in a child."
        self.threads = threading.Lock()
        self.owner = 0

    @contextmanager
    def held(self, begin: Callable[[], None] = _nothing, finish: Callable[[], None] = _nothing) -> Iterator[None]:
        "Hold the mutex. Calls `begin` once it is held, and `finish` before releasing it unless the block has raised."
        me = threading.get_ident()
        if self.owner == me:  # else a deadlock
            raise RuntimeError("a signal handler or finalizer can't write to a store that its own thread is writing to")
        with self.threads:
            try:
                self.owner = me
                self._lock(MUTEX, wait=True)
                begin()
                yield
                finish()
            finally:  # also if Ctrl-C arrives before we know that we have the lock
                self._surely_unlock(MUTEX)
                self.owner = 0

    def claim_one(self, n: int) -> Optional[int]:
        "Claim one of the numbers `range(n)` for the lifetime of this process; return None if all are taken."
        return next((i for i in range(n) if self._lock(MUTEX + 1 + i, wait=False)), None)

    @contextmanager
    def claimed(self, hash_: int, wait: bool) -> Iterator[bool]:
        """Claim a key, by its hash, against other processes (not threads); yield whether that succeeded.

        Waits for at most `MOST_PATIENCE` seconds. A claim avoids duplicate work but protects no data, so processes that
        wait for each other, or for a stopped one, may go on without it.
        """
        byte, pause, until = KEYS + hash_ % N_KEYS, 0.0005, time.monotonic() + MOST_PATIENCE
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
        "Unlock, and only then raise a KeyboardInterrupt that has arrived meanwhile."
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
                    # The kernel treats all threads of a process as one owner, so it may report a false deadlock.
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
        "Close the descriptor."
        self._closed()
