"""Decide which records may be served: those of an anonymous store at once, those of a named file once verified.

Only the processes that share it can write to anonymous memory, so `Trust` has nothing to do. A named file may have been
damaged, or its images changed, since the last session: `FileTrust` has every record verified before its first use.
"""

from __future__ import annotations

import mmap
import os
import sys
import zlib
from contextlib import suppress
from typing import Optional, Tuple

import numpy as np

from .descriptor import anonymous, default_kind
from .layout import BLOCK_ALIGN, MAX_TRAILER, NUMBERS, Block, Header
from .payload import Payload
from .region import Region
from .source import Source
from .system import PAGE

# An entry of `Looks` is a time in units of 1024 ns, and below it some bits of the record's offset.
_TAG_BITS, _UNIT_BITS = 16, 10
_HAS_PREAD = hasattr(os, "pread")  # Windows has not: there files are examined every time
_TAG, _TIME = (1 << _TAG_BITS) - 1, (1 << 64 - _TAG_BITS) - 1


class Looks:
    """Remember when each record was last compared with its source, for this process and its children.

    Costs eight bytes per record. They are read and written with system calls, which take less than a microsecond and
    no address space. They follow a page for the counters of a named file.

    In a damaged file two records may have one number. The one that was looked at is known by its offset.
    """

    def __init__(self, fd: Optional[int] = None) -> None:
        self.fd = anonymous(default_kind(), "looks") if fd is None else fd

    def when(self, number: int) -> int:
        "Return the time (`time.monotonic_ns`) that `add` was last called with for this number; 0 if it never was."
        return self._entry(number) >> _TAG_BITS << _UNIT_BITS

    def knows(self, number: int, offset: int) -> bool:
        "Return whether `add` was called for this number, and last with this offset."
        # `_entry`, written out: every read of a named file asks this.
        entry = int.from_bytes(os.pread(self.fd, 8, PAGE + 8 * number), sys.byteorder) if _HAS_PREAD else 0
        return entry > _TAG and entry & _TAG == offset // BLOCK_ALIGN & _TAG

    def know(self, offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        "Return for each of n offsets and numbers what `knows` returns, (n,) bool. Costs a system call per record."
        return np.array([self.knows(number, at) for number, at in zip(numbers.tolist(), offsets.tolist())], bool)

    def add(self, number: int, when: int = 0, offset: Optional[int] = None) -> None:
        """Remember that record `number` was valid at the time `when`; 0 means that the time is unknown, but past.

        `offset` is where the record lies; without it, the one that was passed last stays.
        """
        tag = self._entry(number) if offset is None else offset // BLOCK_ALIGN
        entry = max(1, when >> _UNIT_BITS & _TIME) << _TAG_BITS | tag & _TAG
        with suppress(OSError, AttributeError):  # no room, or Windows: the file is examined again next time
            os.pwrite(self.fd, entry.to_bytes(8, sys.byteorder), PAGE + 8 * number)

    def _entry(self, number: int) -> int:
        return int.from_bytes(os.pread(self.fd, 8, PAGE + 8 * number), sys.byteorder) if _HAS_PREAD else 0

    def counters(self) -> memoryview:
        "Map the page for counters, as 64-bit words."
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.fd, 0, PAGE)
        elif os.fstat(self.fd).st_size < PAGE:
            os.ftruncate(self.fd, PAGE)
        return memoryview(mmap.mmap(self.fd, PAGE)).cast("Q")

    def close(self) -> None:
        "Close the descriptor."
        os.close(self.fd)


class Trust:
    """Serve every record at once. For anonymous memory, which only the processes that share it can write.

    `maker` is the name of the caller's decoder; an anonymous store only passes it on.
    """

    #: Whether a record may have to be verified before it is served.
    verifies = False

    def __init__(self, looks: Looks, maker: bytes) -> None:
        self.looks, self.maker = looks, maker

    def known(self, offset: int, block: Block) -> bool:
        "Return whether the record at `offset` may be served without verifying it."
        return True

    def known_many(self, offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        "Return for each record, by its offset and its number, what `known` returns, (n,) bool."
        return np.ones(len(offsets), bool)

    def trailer(self, source: Source) -> bytes:
        "Return the bytes stored after an array. In a named file: the path of its source and the name of the decoder."
        return b""

    def checksum(self, array: np.ndarray, trailer: bytes) -> int:
        "Return the checksum to store with a record. In a named file: CRC-32 of the payload."
        return 0

    def fault(self, block: Block, payload: Payload) -> str:
        "Return what is wrong with a record: its pixels, decoder or source; an empty string if nothing is."
        return ""

    def version(self, source: Source) -> Tuple[int, int]:
        "Return what a record keeps of its source. In a named file: what a copy of the file has in common with it."
        return source.moment

    def written(self, offset: int, number: int, source: Source) -> None:
        "Remember that record `number`, at `offset`, was just made from `source`."
        if source.looked:
            self.looks.add(number, source.looked, offset)

    def verified(self, offset: int, number: int, when: int) -> None:
        "Remember that record `number`, at `offset`, was verified at the time `when`."

    def noted(self, digest: bytes) -> bool:
        "Return whether `note` was called with this digest, in this process or its children."
        return False

    def note(self, digest: bytes) -> None:
        "Remember a note for which the store has no room."

    def release(self) -> None:
        "Make the other processes drop their pages. Anonymous memory keeps its pages."

    def seal(self) -> None:
        "Finish a change of the log."


class FileTrust(Trust):
    """Serve a record of a named file once it was verified in this session.

    Records that this process or its children wrote count as verified.
    """

    verifies = True

    def __init__(self, looks: Looks, maker: bytes, header: Header, region: Region) -> None:
        super().__init__(looks, maker)
        self.header, self.region = header, region
        self.released = header.releases

    def known(self, offset: int, block: Block) -> bool:
        "Return whether a record was verified. If another process has purged the file, first drop our pages, too."
        self._follow_release()
        return self.looks.knows(block.number, offset)

    def known_many(self, offsets: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        self._follow_release()
        return self.looks.know(offsets, numbers)

    def _follow_release(self) -> None:
        if self.released != self.header.releases:
            self.released = self.header.releases
            self.region.release(write=False)

    def trailer(self, source: Source) -> bytes:
        made = source.path + b"\0" + self.maker if self.maker else source.path
        if len(made) > MAX_TRAILER and source.several:
            raise ValueError("its item names too many files for a cache file")
        return made

    def checksum(self, array: np.ndarray, trailer: bytes) -> int:
        return zlib.crc32(trailer, zlib.crc32(np.ascontiguousarray(array).data))

    def fault(self, block: Block, payload: Payload) -> str:
        if payload.checksum() != block.checksum:
            return "its pixels are not those that were written"
        path, maker = payload.trailer()
        if self.maker and maker != self.maker:
            return f"it was decoded by {os.fsdecode(maker) or 'another version'}, but this is {os.fsdecode(self.maker)}"
        if path:
            now = Source.again(path)
            if now is None:
                return "its source is gone"
            if now.version != block.source:
                return "its source has changed"
        return ""

    def version(self, source: Source) -> Tuple[int, int]:
        return source.version

    def written(self, offset: int, number: int, source: Source) -> None:
        self.looks.add(number, source.looked, offset)

    def verified(self, offset: int, number: int, when: int) -> None:
        self.looks.add(number, when, offset)

    def noted(self, digest: bytes) -> bool:
        return self.looks.when(_note_number(digest)) > 0

    def note(self, digest: bytes) -> None:
        self.looks.add(_note_number(digest))

    def release(self) -> None:
        "Make every other process drop its pages of the file at its next read."
        self.header.releases += 1
        self.released = self.header.releases

    def seal(self) -> None:
        "Update the checksum by which the next session recognises an undamaged header."
        self.header.state = self.header.state_checksum()


def _note_number(digest: bytes) -> int:
    "Return a number for a note, above the numbers of all blocks."
    return NUMBERS + int.from_bytes(digest[:3], "little")
