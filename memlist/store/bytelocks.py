"""Locks on single bytes of a file, which exclude other processes and which the kernel drops when their holder ends.

On Linux they belong to the *open file description*, and every process opens the file anew to have a description of its
own. (A forked or spawned process is given its parent's, and would share the parent's locks.) Elsewhere, and where the
file can't be opened anew, they are POSIX record locks, which belong to the process. Closing any descriptor of the file
drops all record locks that the process has on it, so nothing else may open the file. Both kinds exclude each other.
Neither excludes threads of one process.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from contextlib import suppress
from types import ModuleType
from typing import Optional
from weakref import finalize

fcntl: Optional[ModuleType]
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# F_OFD_SETLK and struct flock of Linux. Python 3.8 has no name for the former.
_SET_OWN = 37
_FLOCK = struct.Struct("hhqqi4x")


class ByteLocks:
    """Lock bytes of the file behind `fd`, which belongs to this object from now on.

    `opened` says that this process has just opened it, so that no other process has its description. The descriptor is
    closed with the last reference to this object, because two stores may share the lock file of a named file.
    """

    def __init__(self, fd: int, opened: bool) -> None:
        self.fd = fd
        self._closed = finalize(self, os.close, fd)
        self._closed.atexit = False
        self._own = opened and _has_own_locks(fd)
        if not opened:
            self.open_anew()

    def open_anew(self) -> None:
        "Give this process a description of its own: the present one is shared with another process."
        self._own = False
        with suppress(OSError):
            fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)
            try:
                os.dup2(fd, self.fd, inheritable=False)
            finally:
                os.close(fd)
            self._own = _has_own_locks(self.fd)

    @property
    def dropped_by_closing(self) -> bool:
        "Return whether closing another descriptor of the file drops the locks of this process."
        return not self._own

    def lock(self, byte: int) -> bool:
        "Lock a byte; return False if another process has locked it. Raises OSError if the system has no locks left."
        if self._own:
            return _set_own(self.fd, fcntl.F_WRLCK, byte)  # type: ignore[union-attr]
        if fcntl is not None:
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return True
            except (BlockingIOError, PermissionError):
                return False
        import msvcrt  # pragma: no cover

        os.lseek(self.fd, byte, os.SEEK_SET)  # pragma: no cover
        try:  # pragma: no cover
            msvcrt.locking(self.fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        except OSError:  # pragma: no cover
            return False

    def unlock(self, byte: int) -> None:
        "Unlock a byte. Does nothing if this process has not locked it."
        if self._own:
            _set_own(self.fd, fcntl.F_UNLCK, byte)  # type: ignore[union-attr]
        elif fcntl is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, byte)
        else:  # pragma: no cover
            import msvcrt

            os.lseek(self.fd, byte, os.SEEK_SET)
            with suppress(OSError):
                msvcrt.locking(self.fd, msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]

    def close(self) -> None:
        "Close the descriptor."
        self._closed()


def _has_own_locks(fd: int) -> bool:
    "Return whether locks of an open file description work: some sandboxes lack them, or /proc for children to use."
    if sys.platform != "linux" or not os.path.exists(f"/proc/self/fd/{fd}"):
        return False
    try:
        return _set_own(fd, fcntl.F_UNLCK, 0)  # type: ignore[union-attr]
    except OSError:
        return False


def _set_own(fd: int, kind: int, byte: int) -> bool:
    try:
        fcntl.fcntl(fd, _SET_OWN, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))  # type: ignore[union-attr]
        return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
