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
from typing import Optional

import numpy as np

from .descriptor import anonymous, default_kind
from .layout import NUMBERS, Block, Header
from .region import Region
from .source import Source
from .system import PAGE


class Looks:
    """Remember when each record was last compared with its source, for this process and its children.

    Costs eight bytes per record. They are read and written with system calls, which take less than a microsecond and
    no address space. They follow a page for the counters of a named file.
    """

    def __init__(self, fd: Optional[int] = None) -> None:
        self.fd = anonymous(default_kind(), "looks") if fd is None else fd

    def when(self, number: int) -> int:
        "Return the time (`time.monotonic_ns`) that `add` was last called with for this number; 0 if it never was."
        if not hasattr(os, "pread"):  # pragma: no cover - Windows: files are examined every time
            return 0
        return int.from_bytes(os.pread(self.fd, 8, PAGE + 8 * number), sys.byteorder)

    def add(self, number: int, when: int = 0) -> None:
        "Remember that record `number` was valid at the time `when`; 0 means that the time is unknown, but past."
        with suppress(OSError, AttributeError):  # no room, or Windows: the file is examined again next time
            os.pwrite(self.fd, max(1, when).to_bytes(8, sys.byteorder), PAGE + 8 * number)

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

    def __init__(self, looks: Looks, maker: bytes) -> None:
        self.looks, self.maker = looks, maker

    def known(self, block: Block) -> bool:
        "Return whether a record may be served without verifying it."
        return True

    def trailer(self, source: Source) -> bytes:
        "Return the bytes stored after an array. In a named file: the path of its source and the name of the decoder."
        return b""

    def checksum(self, array: np.ndarray, trailer: bytes) -> int:
        "Return the checksum to store with a record. In a named file: CRC-32 of the payload."
        return 0

    def fault(self, block: Block, payload: memoryview) -> str:
        "Return what is wrong with a record: its pixels, decoder or source; an empty string if nothing is."
        return ""

    def written(self, number: int, source: Source) -> None:
        "Remember that record `number` was just made from `source`."
        if source.looked:
            self.looks.add(number, source.looked)

    def verified(self, number: int, when: int) -> None:
        "Remember that record `number` was verified at the time `when`."

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

    def __init__(self, looks: Looks, maker: bytes, header: Header, region: Region) -> None:
        super().__init__(looks, maker)
        self.header, self.region = header, region
        self.released = header.releases

    def known(self, block: Block) -> bool:
        "Return whether a record was verified. If another process has purged the file, first drop our pages, too."
        if self.released != self.header.releases:
            self.released = self.header.releases
            self.region.release(write=False)
        return self.looks.when(block.number) > 0

    def trailer(self, source: Source) -> bytes:
        return source.path + b"\0" + self.maker if self.maker else source.path

    def checksum(self, array: np.ndarray, trailer: bytes) -> int:
        return zlib.crc32(trailer, zlib.crc32(np.ascontiguousarray(array).data))

    def fault(self, block: Block, payload: memoryview) -> str:
        if zlib.crc32(payload) != block.checksum:
            return "its pixels are not those that were written"
        path, _, maker = bytes(payload[block.array_bytes :]).partition(b"\0")
        if self.maker and maker != self.maker:
            return f"it was decoded by {os.fsdecode(maker) or 'another version'}, but this is {os.fsdecode(self.maker)}"
        if path:
            now = Source.of(path)
            if now is None:
                return "its source is gone"
            if now.version != block.source:
                return "its source has changed"
        return ""

    def written(self, number: int, source: Source) -> None:
        self.looks.add(number, source.looked)

    def verified(self, number: int, when: int) -> None:
        self.looks.add(number, when)

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
