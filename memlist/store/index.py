"""The index of a store: a hash table of block offsets with open addressing, itself a block of the log.

When it is four fifths full, a table of twice the size is appended and replaces it. Readers take no lock: if the table
was replaced while they read it, they look again.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import numpy as np

from .layout import (
    BLOCK_BYTES,
    FIRST_TABLE_BITS,
    GAP,
    NO_DIGEST,
    NOTE,
    PURGE,
    RECORD,
    TABLE,
    TAG_SHIFT,
    Block,
    hash_of,
    pack_slot,
    pack_table,
    slot_offset,
    table_bits,
    table_offset,
    too_full,
    whole_pages,
)
from .log import Entry, Log
from .system import PAGE

# `Header.index`, the words in which its table lies, the number of the table's first word, and the mask for slots.
Table = Tuple[int, memoryview, int, int]


class Index:
    "Find records of a log by the digests of their keys. Every method that writes needs the mutex."

    def __init__(self, log: Log) -> None:
        self.log, self.header, self.region = log, log.header, log.region
        self._table: Optional[Table] = None

    def find(self, digest: bytes) -> Optional[Tuple[int, Block]]:
        "Return offset and header of the block that the index has for `digest`; None if it has none."
        header, hash_ = self.header, hash_of(digest)
        tag = hash_ >> TAG_SHIFT
        while True:
            index = header.index
            table = self._table
            if table is None or table[0] != index:
                table = self._map(index)
                if table is None:
                    return None
            _, words, base, mask = table
            slot = hash_ & mask
            for probe in range(mask + 1):
                value = words[base + slot]
                if not value or (probe & 63 == 63 and header.index != index):
                    break
                if value >> TAG_SHIFT == tag:
                    offset = slot_offset(value)
                    block = self.log.find(offset, digest)
                    if block:
                        return offset, block
                slot = slot + 1 & mask
            # The table, and with it its pages, may have been replaced while it was being read.
            if header.index == index:
                return None

    def _map(self, index: int) -> Optional[Table]:
        "Map the table that `index` (see `Header.index`) refers to, and cache it; return None if there is none."
        offset = table_offset(index)
        if not index or not self.log.reach(offset):
            return None
        segment, at = self.region.locate(offset)
        table = index, self.region.words[segment], (at + BLOCK_BYTES) // 8, (1 << table_bits(index)) - 1
        self._table = table
        return table

    def has(self, digest: bytes, offset: int) -> bool:
        "Return whether the block at `offset` is the one that the index has for `digest`."
        found = self.find(digest)
        return found is not None and found[0] == offset

    # -- writing ----------------------------------------------------------------------------------------------

    def growth(self) -> int:
        "Return the size of the larger table that one more entry needs; 0 if it fits into the present one."
        index = self.header.index
        bits = table_bits(index)
        if index and not too_full(self.header.slots + 1, bits):
            return 0
        return BLOCK_BYTES + (8 << (bits + 1 if index else FIRST_TABLE_BITS))

    def make_room(self) -> bool:
        "Make sure that one more entry fits; return False if the log has no room for a larger table."
        return not self.growth() or self.grow()

    def grow(self) -> bool:
        """Copy the table into one of twice the size; return False if the log has no room for it.

        Because the size doubles each time, the amortized cost per entry is constant.
        """
        header = self.header
        old, kept = header.index, 0
        if not old and header.tail > PAGE:  # there was no room for an index when the session began
            if self.log.reach(header.tail - 1):
                self.rebuild(list(self.log.walk(header.tail)))
            return bool(header.index)
        bits = table_bits(old) + 1 if old else FIRST_TABLE_BITS
        table = np.zeros(1 << bits, np.uint64)
        if old:
            former = self._map(old)
            assert former is not None
            _, words, base, mask = former
            for value in words[base : base + mask + 1]:
                block = self.log.whole(slot_offset(value)) if value else None
                if block and block.kind != GAP:  # else the record was dropped
                    _place(table, hash_of(block.digest), value)
                    kept += 1
        offset = self.log.append(TABLE, NO_DIGEST, table)
        if not offset:
            return False
        header.index, header.slots = pack_table(offset, bits), kept
        if old:
            self.log.free(table_offset(old), 8 << table_bits(old))
        return True

    def publish(self, digest: bytes, offset: int) -> None:
        "Point the slot of `digest`, or a free one, to `offset`: one aligned, and so atomic, write of eight bytes."
        index, hash_, table = self.header.index, hash_of(digest), self._table
        if table is None or table[0] != index:
            table = self._map(index)
        assert table is not None
        _, words, base, mask = table
        tag, slot = hash_ >> TAG_SHIFT, hash_ & mask
        for _ in range(mask):
            value = words[base + slot]
            if not value or (value >> TAG_SHIFT == tag and self.log.find(slot_offset(value), digest)):
                break
            slot = slot + 1 & mask
        if not words[base + slot]:
            self.header.slots += 1
        words[base + slot] = pack_slot(offset, hash_)

    # -- repairing --------------------------------------------------------------------------------------------

    def recount(self) -> None:
        "Index the blocks that a killed writer had finished, and recount all records. Costs a walk over the log."
        header = self.header
        records = nbytes = freed = 0
        for offset, length, block in self.log.walk(header.tail):
            if block and block.kind in (RECORD, NOTE):
                if not self.find(block.digest) and self.make_room():
                    self.publish(block.digest, offset)
                if self.has(block.digest, offset):
                    if block.kind == RECORD:
                        records, nbytes = records + 1, nbytes + block.array_bytes
                    continue
            elif block and block.kind == TABLE and offset == table_offset(header.index):
                continue
            freed += whole_pages(offset, length - BLOCK_BYTES)
        header.records, header.nbytes, header.freed = records, nbytes, freed

    def rebuild(self, entries: List[Entry]) -> int:
        """Index the records among `entries` anew, and turn all other blocks into gaps; return the number of records.

        Of two records with the same key, the one written later is kept. The new table overwrites the old one if it fits
        there. If the disk has no room for it, the records stay in the log until a later session finds room.
        """
        header = self.header
        header.index = 0  # first: a reader of the new generation must not find a record that is about to be dropped
        header.generation = (header.purges + 1) % (PURGE >> 1) * PURGE
        header.slots = header.records = header.nbytes = header.freed = 0
        kept = _latest(entries)
        bits = FIRST_TABLE_BITS
        while too_full(len(kept) + 1, bits):
            bits += 1
        tables = [one for one in entries if one.block and one.block.kind == TABLE and one.block.nbytes >= 8 << bits]
        reused = tables[-1].offset if tables else 0  # the last one was in use, so its pages were not given back
        for entry in entries:
            block = entry.block
            is_kept = block and block.kind == RECORD and kept[block.digest][0] == entry.offset
            if not is_kept and entry.offset != reused:
                self.log.discard(entry)
        table = np.zeros(1 << bits, np.uint64)
        for offset, block in kept.values():
            _place(table, hash_of(block.digest), pack_slot(offset, hash_of(block.digest)))
        if reused:
            header.index = pack_table(reused, bits) if self.log.overwrite(reused, table) else 0
        else:
            offset = self.log.append(TABLE, NO_DIGEST, table)
            header.index = pack_table(offset, bits) if offset else 0
        if header.index:
            header.slots = header.records = len(kept)
            header.nbytes = sum(block.array_bytes for _, block in kept.values())
        header.ordinal = max([header.ordinal, *(block.number + 1 for _, block in kept.values())])
        header.generation += 1
        return len(kept)


def _latest(entries: List[Entry]) -> Dict[bytes, Tuple[int, Block]]:
    "Return, for each digest, offset and header of the record that was written last."
    latest: Dict[bytes, Tuple[int, Block]] = {}
    for offset, _, block in entries:
        if block and block.kind == RECORD:
            known = latest.get(block.digest)
            if known is None or block.number >= known[1].number:
                latest[block.digest] = offset, block
    return latest


def _place(table: np.ndarray, hash_: int, value: int) -> None:
    mask = len(table) - 1
    slot = hash_ & mask
    while table[slot]:
        slot = slot + 1 & mask
    table[slot] = value
