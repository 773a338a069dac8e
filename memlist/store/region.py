"""Where a store's bytes live: one growing region that many processes map, and the lock beside it.

On Linux the region is a `memfd`: memory with a descriptor and no name. It takes no space in /dev/shm, nothing is left
when the last process ends however it ends, a forked process inherits it, a spawned one is sent its descriptor, and a
range of it can be given back to the system while everybody has it mapped. Elsewhere an unlinked temporary file stands
in (`MEMLIST_BACKING=file` asks for it anywhere): its pages are file pages, which the system evicts by itself. The third
kind, `named`, is a file that stays (see `cachefile`).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import reduction
from types import ModuleType
from typing import Any, Iterator, List, Optional, Tuple
from weakref import finalize

import numpy as np

from . import system

fcntl: Optional[ModuleType]
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PAGE = mmap.PAGESIZE
# A sparse segment costs nothing but address space, and each one costs a descriptor: few and large.
SEGMENT = 1 << 30
# A file is really allocated as it grows, so that a full disk is an error and not a SIGBUS: small steps. One that stays
# begins with less, and doubles.
FILE_SEGMENT, NAMED_SEGMENT = 64 << 20, 1 << 20
# How long, in seconds, a process waits for another that decodes the same image.
MOST_PATIENCE = 10
# Of the address space that a limit leaves, the share that mappings may take.
ADDRESS_SHARE = 0.5


def default_kind() -> str:
    "`'memfd'` where the system has it, else `'file'`; the environment variable MEMLIST_BACKING overrides."
    kind = os.environ.get("MEMLIST_BACKING") or ("memfd" if _has_memfd() else "file")
    if kind not in ("memfd", "file"):
        raise ValueError(f"MEMLIST_BACKING={kind!r}: use 'memfd' or 'file'")
    return kind


def _has_memfd() -> bool:
    "A Python may know the call where the kernel, or a sandbox, refuses it."
    try:
        os.close(os.memfd_create("memlist-probe"))
    except AttributeError:
        return False
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def _anonymous(kind: str, name: str) -> int:
    "A descriptor of a new, empty file without a name, of `kind` 'memfd' or 'file'."
    if kind == "memfd":
        return os.memfd_create(f"memlist-{name}")
    if os.name == "nt":  # pragma: no cover - an open file can't be unlinked there; it goes with its last handle
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_BINARY | os.O_TEMPORARY  # type: ignore[attr-defined]
        return os.open(tempfile.mktemp(prefix=f"memlist-{name}-"), flags)
    fd, path = tempfile.mkstemp(prefix=f"memlist-{name}-")
    os.unlink(path)
    return fd


def _send(fd: int) -> Any:
    "`fd` in a form that travels inside the pickle of a process being spawned."
    return reduction.DupFd(fd) if hasattr(reduction, "DupFd") else reduction.DupHandle(fd, 0)  # type: ignore


class Region:
    """Bytes `[0, size)` of one descriptor, mapped shared in segments that this process maps as it meets them.

    A new segment never moves an old one, so a view into the region stays where it is when the region grows.
    """

    def __init__(self, kind: str, fd: Optional[int] = None) -> None:
        self.kind = kind
        self.fd = _anonymous(kind, "data") if fd is None else fd
        self.ends: List[int] = []
        self.maps: List[mmap.mmap] = []
        self.words: List[memoryview] = []

    def next_size(self, end: int, need: int) -> int:
        """Bytes by which to grow past `end` to fit `need`; 0 where a limit of this process forbids it.

        A limit on address space or file size makes the region smaller; the rest of the process, numpy and torch
        among it, needs address space too.
        """
        step = SEGMENT if self.kind == "memfd" else FILE_SEGMENT
        if self.kind == "named":
            step = min(step, max(NAMED_SEGMENT, end))
        want = max(need, step, end // 16)
        left = system.address_space_left()
        if left is not None:
            want = min(want, int(ADDRESS_SHARE * (end + left)) - end)
        most = system.file_size_limit()
        if most is not None:
            want = min(want, most - end)
        want -= want % PAGE
        return want if want >= need else 0

    def grow(self, start: int, length: int) -> None:
        "Lengthen the file to `start + length` bytes; raises OSError where the system refuses."
        if self.kind == "memfd":
            os.ftruncate(self.fd, start + length)
        elif hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.fd, start, length)
        else:  # a hole in a file on a full disk would be a SIGBUS later: write every byte now
            os.lseek(self.fd, start, os.SEEK_SET)
            block = bytes(min(length, 1 << 20))
            for _ in range(0, length, len(block)):
                os.write(self.fd, block)

    def reserve(self, offset: int, nbytes: int) -> None:
        """See to it that the disk has room for `nbytes` at `offset`, where holes may have been punched; raises OSError.

        Where it has already, this is one cheap system call.
        """
        if self.kind != "memfd" and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.fd, offset, nbytes)

    def attach(self, end: int) -> None:
        "Map the next segment, up to `end`; raises OSError, ValueError or MemoryError where that can't be."
        n = len(self.ends)
        del self.maps[n:], self.words[n:]  # what an interrupted call left
        start = self.ends[-1] if self.ends else 0
        if end > sys.maxsize or end % PAGE:  # of a damaged file
            raise ValueError(f"no segment ends at byte {end}")
        if os.name == "nt":  # pragma: no cover
            mapping = mmap.mmap(self.fd, end - start, access=mmap.ACCESS_WRITE, offset=start)
        else:
            mapping = mmap.mmap(self.fd, end - start, mmap.MAP_SHARED, offset=start)
        if self.kind == "named" and end == PAGE and hasattr(mmap, "MADV_RANDOM"):
            mapping.madvise(mmap.MADV_RANDOM)  # a look at the header must not read megabytes of what follows
        self.maps.append(mapping)
        self.words.append(memoryview(mapping).cast("Q"))
        self.ends.append(end)

    def locate(self, offset: int) -> Tuple[int, int]:
        "`(segment, offset inside it)` of a byte that is mapped."
        if offset < self.ends[0]:
            return 0, offset
        low, high = 1, len(self.ends) - 1
        while low < high:
            middle = (low + high) // 2
            if offset < self.ends[middle]:
                high = middle
            else:
                low = middle + 1
        return low, offset - self.ends[low - 1]

    def write(self, offset: int, array: np.ndarray) -> None:
        """Put the bytes of `array` at `offset`; raises OSError where there is no room on a disk.

        Written and not copied into the mapping: the kernel fills a new page without clearing it and without a fault
        for each, and a full disk is an error and no SIGBUS.
        """
        if not array.nbytes:
            return
        data = np.ascontiguousarray(array).data.cast("B")
        if hasattr(os, "pwrite"):
            done = 0
            while done < len(data):
                done += os.pwrite(self.fd, data[done:], offset + done)
        else:  # pragma: no cover - Windows
            segment, at = self.locate(offset)
            self.maps[segment][at : at + len(data)] = data

    def punch(self, start: int, stop: int) -> bool:
        """Give the whole pages inside `[start, stop)` back to the system, in every process that maps them.

        They read as zeros afterwards. Where the file can't have holes, its pages are at least written out and
        dropped from this process, and the system evicts them when it needs memory: False then.
        """
        start, stop = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        base, zeros = 0, True
        for mapping, end in zip(self.maps, self.ends):
            low, high = max(start, base) - base, min(stop, end) - base
            base = end
            if low >= high:
                continue
            try:
                mapping.madvise(mmap.MADV_REMOVE, low, high - low)
            except (AttributeError, OSError):
                zeros = False
                mapping.flush(low, high - low)
                if hasattr(mmap, "MADV_DONTNEED"):
                    mapping.madvise(mmap.MADV_DONTNEED, low, high - low)
        return zeros

    def release(self, write: bool = True) -> None:
        """Drop the pages of a file from memory and keep them on disk. Costs writing out what is not written yet.

        A page that another process has mapped, or that is not written out, stays until that is done, too.
        """
        if write:
            os.fsync(self.fd)
        for mapping in self.maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def resident(self) -> int:
        "Bytes of what this process has mapped that are in memory now, by whomever; 0 where the system does not say."
        if os.name == "nt":  # pragma: no cover
            return 0
        mincore, pages = ctypes.CDLL(None).mincore, 0
        for mapping in self.maps:
            seen = np.zeros(-(-len(mapping) // PAGE), np.uint8)
            first = ctypes.c_char.from_buffer(mapping)
            address = ctypes.c_void_p(ctypes.addressof(first))
            if not mincore(address, ctypes.c_size_t(len(mapping)), ctypes.c_void_p(seen.ctypes.data)):
                pages += int((seen & 1).sum())
            del first, address
        return pages * PAGE

    def allocated(self) -> int:
        "Bytes of the region that take memory (for a file: disk) now, header and index included."
        return getattr(os.fstat(self.fd), "st_blocks", 0) * 512

    def forget(self, n: int) -> None:
        "Unmap all segments but the first `n`."
        for words, mapping in zip(self.words[n:], self.maps[n:]):
            words.release()
            with suppress(BufferError):  # a caller still holds a view; the mapping goes with it
                mapping.close()
        del self.ends[n:], self.words[n:], self.maps[n:]

    def close(self) -> None:
        "Unmap what nobody views any more and close the descriptor."
        self.forget(0)
        os.close(self.fd)


class Lock:
    """One mutex for the threads of a process and all processes, on a descriptor and file of its own.

    The processes' part is an `fcntl` record lock, which the kernel drops with its holder, so a killed process never
    leaves it held. Two traps decide the shape: closing *any* descriptor of a file drops the process's locks on it,
    hence the own file; and a record lock does not exclude threads of one process, hence the thread lock, which is
    made anew after a fork (its holder may not exist in the child).

    The descriptor is closed with the last reference, since two stores may come to share a named lock.
    """

    def __init__(self, kind: str, fd: Optional[int] = None) -> None:
        self.fd = _anonymous(kind, "lock") if fd is None else fd
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


class Looks:
    """When each record was last verified, shared by this process and its children: eight bytes per record.

    Read and written by system calls of less than a microsecond, so that it needs no room in anybody's address space.
    """

    def __init__(self, fd: Optional[int] = None) -> None:
        self.fd = _anonymous(default_kind(), "looks") if fd is None else fd

    def when(self, number: int) -> int:
        "Return the time (`time.monotonic_ns`) that `add` was called with; 0 if it never was."
        if not hasattr(os, "pread"):  # pragma: no cover - Windows: looked at every time
            return 0
        return int.from_bytes(os.pread(self.fd, 8, 8 * number), sys.byteorder)

    def add(self, number: int, when: int = 0) -> None:
        "Note that record `number` was right at the time `when`; a `when` of 0 is the beginning of time."
        with suppress(OSError, AttributeError):  # no room, or Windows: it is looked at again next time
            os.pwrite(self.fd, max(1, when).to_bytes(8, sys.byteorder), 8 * number)

    def close(self) -> None:
        os.close(self.fd)


def send(region: Region, lock: Lock, looks: Looks) -> Tuple[str, Any, Any, Any]:
    "The descriptors for a process being spawned."
    return region.kind, _send(region.fd), _send(lock.fd), _send(looks.fd)


def receive(kind: str, data: Any, lock: Any, looks: Any) -> Tuple[Region, Lock, Looks]:
    "What `send` sent, in the spawned process."
    return Region(kind, data.detach()), Lock(kind, lock.detach()), Looks(looks.detach())
