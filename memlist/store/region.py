"""Where a store's bytes live: one growing region that many processes map.

On Linux the region is a `memfd`: memory with a descriptor and no name. It takes no space in /dev/shm, nothing is left
when the last process ends however it ends, a forked process inherits it, a spawned one is sent its descriptor, and a
range of it can be given back to the system while everybody has it mapped. Elsewhere an unlinked temporary file stands
in (`MEMLIST_BACKING=file` asks for it anywhere): its pages are file pages, which the system evicts by itself. The third
kind, `named`, is a file that stays (see `cachefile`).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import suppress
from typing import List, Optional, Tuple

import numpy as np

from . import system
from .descriptor import anonymous
from .system import PAGE

# A sparse segment costs nothing but address space, and each one costs a descriptor: few and large.
SEGMENT = 1 << 30
# A file is really allocated as it grows, so that a full disk is an error and not a SIGBUS: small steps. One that stays
# begins with less, and doubles.
FILE_SEGMENT, NAMED_SEGMENT = 64 << 20, 1 << 20
# Of the address space that a limit leaves, the share that mappings may take.
ADDRESS_SHARE = 0.5


class Region:
    """Bytes `[0, size)` of one descriptor, mapped shared in segments that this process maps as it meets them.

    A new segment never moves an old one, so a view into the region stays where it is when the region grows.
    """

    def __init__(self, kind: str, fd: Optional[int] = None) -> None:
        self.kind = kind
        self.fd = anonymous(kind, "data") if fd is None else fd
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
