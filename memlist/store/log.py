"""The log of a store: append a block, walk over all blocks, drop one, and find the next intact one after damage.

A full disk is handled here. Room is allocated before it is used, and everything is written with `pwrite`, so that a
full disk is an OSError and not a SIGBUS. `append` then returns 0, `ImageStore.put` False, and the front end warns once;
`_extend` first tries smaller segments. `discard` leaves a block as it is if there is no room to mark it. (Only a file
that can't even be created is an error for the user, see `cachefile`.)
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from .budget import Budget
from .layout import (
    BLOCK_ALIGN,
    BLOCK_BYTES,
    BLOCK_MAGIC,
    EMPTYING,
    GAP,
    HEAD_BYTES,
    MAX_SEGMENTS,
    NUMBERS,
    PURGE,
    RECORD,
    Block,
    Header,
    block_for,
    block_length,
    pack_block,
    parse_block,
    whole_pages,
)
from .payload import Payload
from .region import Region
from .source import NO_SOURCE, files_of
from .system import PAGE
from .threads import ThreadLock


class Entry(NamedTuple):
    "Hold a block found on a walk over the log; `block` is None if it is damaged."

    offset: int
    length: int
    block: Optional[Block]


class Log:
    """Write blocks one after another into a region, and keep the header up to date.

    Every method that writes needs the mutex. A process may be killed at any moment: it writes the payload first, then
    the block header, then the tail of the log, and a block beyond the tail does not exist.
    """

    def __init__(self, header: Header, region: Region, budget: Budget) -> None:
        self.header, self.region, self.budget = header, region, budget
        self.after_fork()

    def after_fork(self) -> None:
        "Repair the lists that another thread of the parent may have been changing."
        self._threads = ThreadLock()
        region = self.region
        del region.maps[len(region.ends) :], region.words[len(region.ends) :]

    # -- reading ----------------------------------------------------------------------------------------------

    def reach(self, offset: int) -> bool:
        "Map all segments up to the one with `offset`; return False if that fails or there is no such segment."
        ends = self.region.ends
        if offset < ends[-1]:
            return True
        return self._threads.run(lambda: self._map_up_to(offset))

    def _map_up_to(self, offset: int) -> bool:
        ends = self.region.ends
        while offset >= ends[-1]:
            if len(ends) >= self.header.segments:
                return False
            try:
                self.region.attach(self.header.segment_end(len(ends)))
            except (OSError, ValueError, MemoryError):
                return False
        return True

    def is_mapped(self) -> bool:
        "Return whether this process can map all segments."
        return self.reach(self.header.end - 1)

    def map_first(self, end: int) -> None:
        "Map the whole first segment again, up to `end`; raise OSError, ValueError or MemoryError if that fails."
        self.region.attach_first(end)
        if self.header.frozen is None:
            self.header.words = self.region.header_words

    def find(self, offset: int, digest: bytes) -> Optional[Block]:
        "Return the block at `offset` if it is intact and has this digest; None if not."
        region = self.region
        # The tail moves before an offset is published, so an offset beyond it is from before a purge, or is damaged.
        if offset >= self.header.tail or (offset >= region.ends[-1] and not self.reach(offset)):
            return None
        segment, at = region.locate(offset)
        return block_for(digest, region.maps[segment], at)

    def heads(self, offsets: np.ndarray) -> np.ndarray:
        "Return the first `HEAD_BYTES` of each block at `offsets`, in an array of dtype void; zeros beyond the tail."
        found = np.zeros(len(offsets), np.dtype((np.void, HEAD_BYTES)))
        tail = self.header.tail
        if self.reach(tail - 1):
            there = (offsets >= PAGE) & (offsets + np.uint64(BLOCK_BYTES) <= tail)
            found[there] = self.region.gather(offsets[there], HEAD_BYTES)
        return found

    def intact(self, offset: int, stop: int) -> Optional[Block]:
        "Return the block at `offset` if it is intact and ends before `stop`; None if not. It need not be mapped."
        if not hasattr(os, "pread") and not self.reach(offset):  # pragma: no cover - Windows
            return None
        block = parse_block(self.region.peek(offset, BLOCK_BYTES))
        return None if block is None or offset + block.length > stop else block

    def whole(self, offset: int) -> Optional[Block]:
        "Return the block at `offset` if it is intact and lies in one mapped segment, so that it can be served."
        if offset < PAGE or not self.reach(offset):
            return None
        return self.intact(offset, self.region.ends[self.region.locate(offset)[0]])

    def payload(self, offset: int, block: Block) -> Payload:
        "Return the payload of the block at `offset`, to read it without mapping it."
        return Payload(self.region, offset, block)

    def paths(self) -> Iterator[bytes]:
        "Yield the stored paths of the records' sources. Costs a walk over the log."
        for offset, _, block in self.walk(self.header.tail):
            path = self.payload(offset, block).path() if block and block.kind == RECORD else b""
            yield from files_of(path)

    def walk(self, stop: int, start: int = PAGE) -> Iterator[Entry]:
        """Yield every block of the log before `stop`, whether it is mapped or not; the first one begins at `start`.

        Needs nothing from the header, not even the ends of the segments: no block begins within the last bytes of a
        page if they are too few for a block's header. Nor are a few zeros a block, see `discard`.
        """
        offset = start
        while offset < stop:
            block, rest = self.intact(offset, stop), -offset % PAGE
            if block is None and 0 < rest < BLOCK_BYTES:
                offset += rest
                continue
            length = block.length if block else self.next_intact(offset, stop) - offset
            if block or length >= BLOCK_BYTES or any(self.region.peek(offset, length)):
                yield Entry(offset, length, block)
            offset += length

    def next_intact(self, offset: int, stop: int) -> int:
        "Return where the next intact block after `offset` begins; `stop` if there is none."
        for here, piece in self.region.data(offset + BLOCK_ALIGN, stop):
            found = piece.find(BLOCK_MAGIC)
            while found >= 0:
                if found % BLOCK_ALIGN == 0 and self.intact(here + found, stop):
                    return here + found
                found = piece.find(BLOCK_MAGIC, found + 1)
        return stop

    # -- writing ----------------------------------------------------------------------------------------------

    @property
    def next_number(self) -> int:
        "Return the number that the next block will have."
        return self.header.ordinal % NUMBERS

    def append(
        self,
        kind: int,
        digest: bytes,
        array: np.ndarray,
        trailer: bytes = b"",
        *,
        tag: int = 0,
        version: Tuple[int, int] = NO_SOURCE.version,
        checksum: int = 0,
    ) -> int:
        """Write a block at the tail of the log and move the tail past it.

        Returns its offset, or 0 if the disk, the system or the budget of a file has no room.
        """
        header, region = self.header, self.region
        nbytes = array.nbytes + len(trailer)
        need = block_length(nbytes)
        region.forget(header.segments)  # an interrupted call may have mapped a segment without adding it to the header
        if not self.is_mapped():
            return 0
        try:
            offset = self._make_room(need, kind)
            if not offset:
                return 0
            region.reserve(offset, need)
            region.write(offset + BLOCK_BYTES, array)
            if trailer:
                region.write(offset + BLOCK_BYTES + array.nbytes, np.frombuffer(trailer, np.uint8))
        except OSError:
            return 0
        number = self.next_number
        header.ordinal = number + 1
        block = pack_block(kind, nbytes, digest, array.dtype, array.shape, version, number, tag, checksum)
        region.poke(offset, block)
        header.tail = offset + need
        return offset

    def _make_room(self, need: int, kind: int) -> int:
        "Move the tail to where `need` bytes fit into one segment, and return it; 0 if there is no room."
        header, region = self.header, self.region
        offset = header.tail
        while True:
            if offset >= region.ends[-1] and not self._extend(need, kind):
                return 0
            end = region.ends[region.locate(offset)[0]]
            if offset + need <= end:
                return offset
            if end - offset >= BLOCK_BYTES:  # the rest of this segment is too small: make it a gap
                region.reserve(offset, BLOCK_BYTES)
                self._write_gap(offset, end - offset)
                region.skip(offset + BLOCK_BYTES, end)
            header.freed += end - offset
            header.tail = offset = end

    def _extend(self, need: int, kind: int) -> bool:
        "Add a segment for a block of `need` bytes; return False if the system or a limit does not allow it."
        header, region = self.header, self.region
        end = region.ends[-1]
        need = -(-need // PAGE) * PAGE
        if header.segments >= MAX_SEGMENTS:
            return False
        size = region.next_size(end, need)
        if (
            size and kind == RECORD
        ):  # not for the index and notes: they are small, and records without an index are lost
            size = self.budget.bound_segment(size, need)
        while size:
            try:
                region.grow(end, size)
                region.attach(end + size)
                header.add_segment(end + size)
                return True
            except (OSError, ValueError, MemoryError):
                pass
            size = max(size // 2 // PAGE * PAGE, need) if size > need else 0  # the disk may be nearly full
        return False

    def overwrite(self, offset: int, array: np.ndarray) -> bool:
        "Overwrite the payload of the block at `offset` with `array`; return False if the disk is full."
        with suppress(OSError):
            self.region.reserve(offset, BLOCK_BYTES + array.nbytes)
            self.region.write(offset + BLOCK_BYTES, array)
            return True
        return False

    # -- dropping ---------------------------------------------------------------------------------------------

    def expect_drop(self, offset: int) -> Optional[Block]:
        "Note in the journal that the record at `offset` will be dropped, and return it; None if it is damaged."
        block = self.intact(offset, self.header.tail)
        if block:
            self.header.checkpoint(offset, block.array_bytes)
        return block

    def drop(self, offset: int, sure: bool = True) -> None:
        """Turn a record into a gap, and give its memory back.

        `sure` means that its pixels are those that were written, so that its length is right, too. Otherwise the block
        may seem longer than it is: the gap then ends where the next intact block begins, whose pixels must stay.
        """
        header = self.header
        block = self.expect_drop(offset)
        stop = offset + block.length if block else header.tail
        if not (block and sure):
            stop = self.next_intact(offset, stop)
        if stop - offset < BLOCK_BYTES:  # two crafted blocks overlap: this one must not be found again
            self._wipe(offset)
            return
        self._write_gap(offset, stop - offset)
        if block:
            header.records = max(0, header.records - 1)
            header.nbytes = max(0, header.nbytes - block.array_bytes)
        self.free(offset, stop - offset - BLOCK_BYTES)

    def free(self, offset: int, nbytes: int) -> None:
        "Give the memory of a block's payload of `nbytes` back to the system."
        self.region.punch(offset + BLOCK_BYTES, offset + BLOCK_BYTES + nbytes)
        self.header.freed += whole_pages(offset, nbytes)

    def discard(self, entry: Entry) -> None:
        "Turn an entry of a walk into a gap. If the disk is full, leave it: a later walk skips it as damage."
        with suppress(OSError):
            if entry.length < BLOCK_BYTES:  # too small for a gap: a walk skips zeros
                self.region.write(entry.offset, np.zeros(entry.length, np.uint8))
            elif entry.block is None or entry.block.kind != GAP:
                self._write_gap(entry.offset, entry.length)
                self.region.punch(entry.offset + BLOCK_BYTES, entry.offset + entry.length)
        self.header.freed += whole_pages(entry.offset, entry.length - BLOCK_BYTES)

    def _wipe(self, offset: int) -> None:
        self.region.write(offset, np.zeros(len(BLOCK_MAGIC), np.uint8))

    def _write_gap(self, offset: int, length: int) -> None:
        self.region.poke(offset, pack_block(GAP, length - BLOCK_BYTES))

    def empty(self) -> int:
        """Drop all blocks and give their memory back to the system, in every process that maps it.

        Returns the bytes of the arrays that were dropped. From the first write on, the store is empty for whoever comes
        after a kill: they call this again. The tail stays where it is until all memory before it was given back.
        """
        header, region = self.header, self.region
        header.busy = EMPTYING
        dropped = header.nbytes
        stop = header.end if region.persistent else -(-header.tail // PAGE) * PAGE
        self.reach(stop - 1)
        header.index = 0  # before the generation: a reader of the new generation must not find an old record
        header.generation += PURGE
        header.clear_counts()
        if region.persistent:
            region.flush_header()  # if the machine crashes, the disk must not have half of the records
        if not region.punch(PAGE, stop) and region.persistent:
            for entry in self.walk(stop):  # not all could be punched: no mending may find these again
                self._wipe(entry.offset)
        header.tail = PAGE
        header.checkpoint()
        return dropped
