"""The bytes of a store: one growing region that many processes map.

On Linux the region is a `memfd`: anonymous memory with a descriptor. It takes no space in /dev/shm, and the system
frees it when the last process ends, for whatever reason. A forked process inherits it, a spawned one is sent its
descriptor, and parts of it can be given back to the system while processes have them mapped. Other systems use an
unlinked temporary file (so does Linux with `MEMLIST_BACKING=file`): its pages are file pages, which the system evicts
by itself. `NamedRegion` is a file that stays (see `cachefile`), and `UnmappedRegion` one on a file system in memory.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from contextlib import suppress
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from . import system
from .descriptor import anonymous
from .system import PAGE

# A sparse segment costs only address space, but each mapping costs a descriptor: use a few large ones.
SEGMENT = 1 << 30
# A file is allocated on disk as it grows, so that a full disk is an error and not a SIGBUS: use small steps. A named
# file begins with less and doubles.
FILE_SEGMENT, NAMED_SEGMENT = 64 << 20, 1 << 20
# The share of the remaining address space that mappings may take if it is limited.
ADDRESS_SHARE = 0.5


class Region:
    """Map the bytes of one descriptor, in segments that each process maps when it first needs them.

    A new segment never moves an old one, so a view into the region stays valid when the region grows. `kind` is
    'memfd' or 'file'.
    """

    # Whether a later session will read it, and whether arrays may be views of the mapping.
    persistent, mapped = False, True

    def __init__(self, kind: str, fd: Optional[int] = None) -> None:
        self.kind = kind
        self.fd = anonymous(kind, "data") if fd is None else fd
        self.ends: List[int] = []
        self.maps: List[Any] = []
        self.words: List[Any] = []

    def next_size(self, end: int, need: int) -> int:
        """Return by how many bytes to grow past `end` to fit `need`; 0 if a limit of this process forbids it.

        A limit on address space or file size makes segments smaller: the rest of the process needs address space, too.
        """
        want = max(need, self._step(end), end // 16)
        left = system.address_space_left()
        if left is not None:
            want = min(want, int(ADDRESS_SHARE * (end + left)) - end)
        most = system.file_size_limit()
        if most is not None:
            want = min(want, most - end)
        want -= want % PAGE
        return want if want >= need else 0

    def _step(self, end: int) -> int:
        "Return by how many bytes, at least, a region of `end` bytes grows."
        return SEGMENT if self.kind == "memfd" else FILE_SEGMENT

    def start(self) -> int:
        "Make and map the first segment, and return its end. If address space is scarce, the segment is small."
        end = self.next_size(0, PAGE)
        try:
            self.grow(0, end)
            self.attach(end)
        except (OSError, ValueError, MemoryError):
            end = 64 * PAGE
            self.grow(0, end)
            self.attach(end)
        return end

    def grow(self, start: int, length: int) -> None:
        "Extend the file to `start + length` bytes; raise OSError if the system refuses."
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
        """Allocate `nbytes` on disk at `offset`, where holes may have been punched; raise OSError if the disk is full.

        Costs one cheap system call if they are already allocated.
        """
        if self.kind != "memfd" and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.fd, offset, nbytes)

    def attach(self, end: int) -> None:
        "Map the next segment, up to `end`; raise OSError, ValueError or MemoryError if that fails."
        n = len(self.ends)
        del self.maps[n:], self.words[n:]  # leftovers of an interrupted call
        start = self.ends[-1] if self.ends else 0
        if end > sys.maxsize or end % PAGE or end <= start:  # the file is damaged
            raise ValueError(f"no segment ends at byte {end}")
        if os.name == "nt":  # pragma: no cover
            mapping = mmap.mmap(self.fd, end - start, access=mmap.ACCESS_WRITE, offset=start)
        else:
            mapping = mmap.mmap(self.fd, end - start, mmap.MAP_SHARED, offset=start)
        self.maps.append(mapping)
        self.words.append(memoryview(mapping).cast("Q"))
        self.ends.append(end)

    def attach_first(self, end: int) -> None:
        "Replace all mappings with one of the whole first segment, up to `end`; keep the old ones if that fails."
        if self.ends == [end]:
            return
        before = self.maps, self.words, self.ends
        self.maps, self.words, self.ends = [], [], []
        try:
            self.attach(end)
        except BaseException:
            self.maps, self.words, self.ends = before
            raise

    def locate(self, offset: int) -> Tuple[int, int]:
        "Return `(segment, offset inside it)` of a mapped byte."
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
        """Write the bytes of `array` at `offset`; raise OSError if the disk is full.

        Writing is faster than copying into the mapping, because the kernel neither clears new pages nor takes a page
        fault for each. And a full disk is an error instead of a SIGBUS.
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

    def peek(self, offset: int, nbytes: int) -> bytes:
        """Return a copy of `nbytes` at `offset`; fewer at the end of the file. Raises OSError if it can't be read.

        They need not be mapped. And on tmpfs, reading a hole through the mapping would fill it.
        """
        if hasattr(os, "pread"):
            return os.pread(self.fd, nbytes, offset)
        segment, at = self.locate(offset)  # pragma: no cover - Windows
        return self.maps[segment][at : at + nbytes]  # pragma: no cover

    def data(self, start: int, stop: int, step: int = 1 << 18) -> Iterator[Tuple[int, bytes]]:
        """Yield `(offset, bytes)` of all that lies in `[start, stop)`, in pieces of at most `step` bytes.

        Leaves out holes, which read as zeros, where the system tells them: a file may have holes of terabytes.
        """
        while start < stop:
            if hasattr(os, "SEEK_DATA"):
                try:
                    start = max(start, os.lseek(self.fd, start, os.SEEK_DATA))
                except OSError as error:
                    if error.errno == errno.ENXIO:  # there is only a hole
                        return
            piece = self.peek(start, min(step, stop - start)) if start < stop else b""
            if not piece:
                return
            yield start, piece
            start += len(piece)

    def gather(self, offsets: np.ndarray, nbytes: int) -> np.ndarray:
        """Return copies of `nbytes` at each of `offsets`, all of which are mapped, as an array of dtype void.

        The offsets, and the ends of the segments, must be multiples of `nbytes`.
        """
        form = np.dtype((np.void, nbytes))
        found, base = np.empty(len(offsets), form), 0
        for mapping, end in zip(self.maps, self.ends):
            inside = (offsets >= base) & (offsets < end)
            found[inside] = np.frombuffer(mapping, form)[(offsets[inside] - np.uint64(base)) // np.uint64(nbytes)]
            base = end
        return found

    def poke(self, offset: int, data: bytes) -> None:
        "Store a few bytes at `offset`."
        segment, at = self.locate(offset)
        self.maps[segment][at : at + len(data)] = data

    def copy(self, offset: int, nbytes: int) -> np.ndarray:
        "Return a copy of `nbytes` at `offset` as a writable array of bytes; zeros beyond the end of the file."
        array = np.empty(nbytes, np.uint8)
        done = 0
        while done < nbytes:
            n = os.preadv(self.fd, [array.data[done:]], offset + done)
            if not n:
                array[done:] = 0
                break
            done += n
        return array

    @property
    def header_words(self) -> memoryview:
        "View the words of the header page."
        words: memoryview = self.words[0]
        return words

    def set_words(self, offset: int, values: Sequence[int]) -> None:
        "Write 64-bit words at `offset`, in ascending order. Each write is atomic."
        segment, at = self.locate(offset)
        words = self.words[segment]
        for number, value in enumerate(values, at // 8):
            words[number] = value

    def touch(self) -> None:
        "Raise OSError if the header page can't be written; memory always can."

    def skip(self, start: int, stop: int) -> None:
        "Leave `[start, stop)` unused. Memory that was never written takes no room; a named file punches a hole."

    def punch(self, start: int, stop: int) -> bool:
        """Give the whole pages inside `[start, stop)` back to the system, in every process that maps them.

        They read as zeros afterwards. Returns False if some are not mapped, or if the file can't have holes: its pages
        are then written out and dropped from this process, and the system evicts them when it needs memory.
        """
        start, stop = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        base, zeros = 0, stop <= self.ends[-1]
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
        """Drop the pages of a file from memory but keep them on disk; changed pages are written out first.

        A page that another process has mapped stays in memory until that process drops it, too.
        """
        if write:
            os.fsync(self.fd)
        for mapping in self.maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapping.madvise(mmap.MADV_DONTNEED)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def flush_header(self) -> None:
        "Write the header page out to the disk now."
        self.maps[0].flush(0, PAGE)

    def resident(self) -> int:
        "Return how many mapped bytes are in memory now, used by any process; 0 if the system does not tell."
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
        "Return how many bytes of memory (of disk, for a file) the region takes now, header and index included."
        return getattr(os.fstat(self.fd), "st_blocks", 0) * 512

    def forget(self, n: int) -> None:
        "Unmap all segments but the first `n`, now. Nobody may have an array that lies in them."
        for words, mapping in zip(self.words[n:], self.maps[n:]):
            words.release()
            with suppress(BufferError):  # it is being read at this moment
                mapping.close()
        del self.ends[n:], self.words[n:], self.maps[n:]

    def close(self) -> None:
        "Close the descriptor, and unmap each segment, or do so once the last array that lies in it is freed."
        del self.ends[:], self.words[:], self.maps[:]  # not closed: that would unmap them under NumPy's arrays
        os.close(self.fd)


class NamedRegion(Region):
    """Map a named file. Disk space is allocated before it is used; dropped records leave holes.

    Nothing is stored through the mapping. On a full disk that writes copies of pages (btrfs, XFS with reflinks), it
    would kill the process, although the page is allocated.
    """

    persistent = True

    def __init__(self, fd: int) -> None:
        super().__init__("named" if self.mapped else "unmapped", fd)

    def _step(self, end: int) -> int:
        return min(FILE_SEGMENT, max(NAMED_SEGMENT, end))

    def attach(self, end: int) -> None:
        super().attach(end)
        if end == PAGE and hasattr(mmap, "MADV_RANDOM"):
            self.maps[-1].madvise(mmap.MADV_RANDOM)  # reading the header must not read ahead by megabytes

    def poke(self, offset: int, data: bytes) -> None:
        "Store a few bytes at `offset`; raise OSError if the disk is full."
        if os.pwrite(self.fd, data, offset) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def set_words(self, offset: int, values: Sequence[int]) -> None:
        """Write 64-bit words at `offset`, unless they are there already; raise OSError if the disk is full.

        The system copies eight aligned bytes at once. A reader that saw only some of them would find no valid record.
        """
        data = struct.pack(f"={len(values)}Q", *values)
        if self.peek(offset, len(data)) != data:
            self.poke(offset, data)

    def touch(self) -> None:
        "Write a byte of the header page as it is; raise OSError if the disk is full."
        self.poke(0, self.peek(0, 1))

    def skip(self, start: int, stop: int) -> None:
        self.punch(start, stop)


class UnmappedRegion(NamedRegion):
    """Read a named file on tmpfs, which is memory, by system calls; map only its header page, which has no holes.

    Reading a hole through a mapping allocates a page there, and kills the process if tmpfs is full. A view would have
    holes once a purge has given its pages back. So arrays are copies, and a `get` costs a microsecond per word of the
    index and 0.1 ms per megabyte more.
    """

    mapped = False

    def attach(self, end: int) -> None:
        n = len(self.ends)
        del self.maps[n:], self.words[n:]
        start = self.ends[-1] if self.ends else 0
        if end % PAGE or not start < end <= os.fstat(self.fd).st_size:  # the file is damaged
            raise ValueError(f"no segment ends at byte {end}")
        self.maps.append(_Bytes(self.fd, start))
        self.words.append(_Words(self.fd, start))
        self.ends.append(end)

    @property
    def header_words(self) -> memoryview:
        "View the words of the header page."
        return memoryview(mmap.mmap(self.fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ)).cast("Q")

    def gather(self, offsets: np.ndarray, nbytes: int) -> np.ndarray:
        form = np.dtype((np.void, nbytes))
        return np.frombuffer(b"".join([os.pread(self.fd, nbytes, at) for at in offsets.tolist()]), form)

    def punch(self, start: int, stop: int) -> bool:
        start, stop = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        try:
            for low in range(start, stop, FILE_SEGMENT):
                with mmap.mmap(self.fd, min(FILE_SEGMENT, stop - low), mmap.MAP_SHARED, offset=low) as mapping:
                    mapping.madvise(mmap.MADV_REMOVE)
        except (AttributeError, OSError, ValueError, MemoryError):
            return False
        return True

    def flush_header(self) -> None:
        "Do nothing: the file has no other place than memory."

    def release(self, write: bool = True) -> None:
        "Do nothing: the file has no other place than memory."

    def resident(self) -> int:
        return self.allocated()


class _Bytes:
    "Read a segment of a file by system calls, as a mapping is read. Knows only what reading takes."

    def __init__(self, fd: int, start: int) -> None:
        self.fd, self.start = fd, start

    def __getitem__(self, part: slice) -> bytes:
        return os.pread(self.fd, part.stop - part.start, self.start + part.start)

    def close(self) -> None:
        "Do nothing: the descriptor belongs to the region."


class _Words(_Bytes):
    "Read the 64-bit words of a segment of a file by system calls."

    def __getitem__(self, number: int) -> int:  # type: ignore[override]
        return int.from_bytes(os.pread(self.fd, 8, self.start + 8 * number), sys.byteorder)

    release = _Bytes.close


def named_region(fd: int, in_memory: bool) -> NamedRegion:
    "Return the region over a named file; `in_memory`: it lies on a file system that is kept in memory."
    return UnmappedRegion(fd) if in_memory else NamedRegion(fd)
