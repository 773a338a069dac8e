"""The index of a store: a hash table of block offsets with open addressing, itself a block of the log.

When it is four fifths full, a table of twice the size is appended and replaces it. Readers take no lock: if the table
was replaced while they read it, they look again.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from . import table
from .layout import (
    BLOCK_BYTES,
    FIRST_TABLE_BITS,
    GAP,
    MAX_TABLE_BITS,
    NO_DIGEST,
    NOTE,
    PURGE,
    RECORD,
    TABLE,
    TAG_SHIFT,
    WRITING,
    Block,
    Journal,
    hash_of,
    indexed,
    pack_slot,
    pack_table,
    slot_offset,
    table_bits,
    table_offset,
    too_full,
    whole_pages,
)
from .log import Entry, Log
from .lookup import Found, Mapped, look_up, one_by_one
from .system import PAGE


class Plan(NamedTuple):
    """Hold a larger table, as it was built without the mutex.

    - `purges`, `replaces`, `former`: the number of purges, `Header.index`, and a copy of the table that it replaces
    - `bits`, `kept`, `table`: its size as a power of two, how many entries it has, and its slots
    """

    purges: int
    replaces: int
    former: np.ndarray
    bits: int
    kept: int
    table: np.ndarray


# `Header.index`, the words in which its table lies, the number of the table's first word, and the mask for slots.
Table = Tuple[int, memoryview, int, int]


class Index:
    "Find records of a log by the digests of their keys. Every method that writes needs the mutex."

    def __init__(self, log: Log) -> None:
        self.log, self.header, self.region = log, log.header, log.region
        self._table: Optional[Table] = None
        self._mapped: Optional[Mapped] = None

    def find(self, digest: bytes) -> Optional[Tuple[int, Block]]:
        "Return offset and header of the block that the index has for `digest`; None if it has none."
        header, hash_ = self.header, hash_of(digest)
        tag = hash_ >> TAG_SHIFT
        while True:
            index = header.index
            mapped = self._table
            if mapped is None or mapped[0] != index:
                mapped = self._map(index)
                if mapped is None:
                    if header.index == index:
                        return None
                    continue
            _, words, base, mask = mapped
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

    def find_many(self, digests: np.ndarray) -> Tuple[Found, Mapped]:
        """Return the blocks that the index has for `digests`, (n, 16) uint8, and where the region is mapped.

        The answers are those of `find`, but a block that is published while this runs may be missing. In a region that
        is read by system calls no array has an address.
        """
        header, region = self.header, self.region
        while True:
            index, tail = header.index, header.tail
            self.log.reach(tail - 1)  # what can't be mapped is not found
            table, mapped = self._table, self._mapped
            if table is None or table[0] != index:
                table = self._map(index)
            if mapped is None or not mapped.holds(region):
                mapped = self._mapped = Mapped(region)
            found = None
            if region.mapped and table is not None:
                first_slot = mapped.address(table_offset(index) + BLOCK_BYTES, 8 << table_bits(index))
                found = look_up(digests, first_slot, table[3], tail, mapped)
            if found is None:
                return one_by_one(digests, self.find, mapped if region.mapped else None), mapped
            if header.index == index:
                return found, mapped

    def _map(self, index: int) -> Optional[Table]:
        "Map the table that `index` (see `Header.index`) refers to, and cache it; return None if there is none."
        offset, bits = table_offset(index), table_bits(index)
        if not index or bits > MAX_TABLE_BITS or not self.log.reach(offset):
            return None
        segment, at = self.region.locate(offset)
        if offset + BLOCK_BYTES + (8 << bits) > self.region.ends[segment]:  # damaged, or a word that is being written
            return None
        mapped = index, self.region.words[segment], (at + BLOCK_BYTES) // 8, (1 << bits) - 1
        self._table = mapped
        return mapped

    def has(self, digest: bytes, offset: int) -> bool:
        "Return whether the block at `offset` is the one that the index has for `digest`."
        found = self.find(digest)
        return found is not None and found[0] == offset

    # -- writing ----------------------------------------------------------------------------------------------

    def growth(self, n: int = 1) -> int:
        "Return the size of the larger table that `n` more entries need; 0 if they fit into the present one."
        bits = self._bits(n)
        return BLOCK_BYTES + (8 << bits) if bits else 0

    def _bits(self, n: int) -> int:
        "Return the size, as a power of two, of the larger table that `n` more entries need; 0 if they fit."
        index, slots = self.header.index, self.header.slots
        bits = table_bits(index) if index else FIRST_TABLE_BITS
        if index and not too_full(slots + n, bits):
            return 0
        bits += bool(index)
        while too_full(slots + n, bits):
            bits += 1
        return bits

    def make_room(self) -> bool:
        "Make sure that one more entry fits; return False if the log has no room for a larger table."
        return not self.growth() or self.grow()

    def plan(self, n: int = 1) -> Optional[Plan]:
        """Build the larger table that `n` more entries need; return None if they fit into the present one.

        This is the slow part of `grow` and needs no mutex: `grow` adds what other writers published meanwhile.
        """
        purges, index, bits = self.header.purges, self.header.index, self._bits(n)
        if not bits:
            return None
        former = self._slots(index)
        hashes, offsets = self._indexed(former)
        return Plan(purges, index, former, bits, len(offsets), table.build(bits, hashes, offsets))

    def grow(self, plan: Optional[Plan] = None, n: int = 1) -> bool:
        """Replace the table by one with room for `n` more entries; return False if the log has no room for it.

        Because the size at least doubles each time, the amortized cost per entry is constant. `plan` was made before
        the mutex was taken; if the table was replaced since then, another one is made now.
        """
        header, index = self.header, self.header.index
        if not index and header.tail > PAGE:  # there was no room for an index when the session began
            if self.log.reach(header.tail - 1):
                self.rebuild(list(self.log.walk(header.tail)))
            return bool(header.index)
        if plan is None or (plan.purges, plan.replaces) != (header.purges, index):
            plan = self.plan(n)
            if plan is None:
                return True
        now = self._slots(index)
        if len(now) != len(plan.former):  # the file was cut off
            return False
        hashes, offsets = self._indexed(now[now != plan.former])
        table.insert(plan.table, hashes, offsets)
        offset = self.log.append(TABLE, NO_DIGEST, plan.table)
        if not offset:
            return False
        header.index = pack_table(offset, plan.bits)
        header.slots = plan.kept + len(offsets)
        if index:
            self.log.free(table_offset(index), 8 << table_bits(index))
        return True

    def _slots(self, index: int) -> np.ndarray:
        "Return a copy of the table that `index` (see `Header.index`) refers to; an empty one if there is none."
        if not self._map(index):
            return np.zeros(0, np.uint64)
        return np.frombuffer(self.region.peek(table_offset(index) + BLOCK_BYTES, 8 << table_bits(index)), np.uint64)

    def _indexed(self, slots: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        "Return hashes and offsets of the blocks that `slots` point to, without those that were dropped."
        offsets = table.entries(slots)
        live, hashes = indexed(self.log.heads(offsets))
        return hashes[live], offsets[live]

    def publish(self, digest: bytes, offset: int) -> None:
        "Point the slot of `digest`, or a free one, to `offset`: one aligned, and so atomic, write of eight bytes."
        index, hash_, mapped = self.header.index, hash_of(digest), self._table
        if mapped is None or mapped[0] != index:
            mapped = self._map(index)
        assert mapped is not None
        _, words, base, mask = mapped
        tag, slot = hash_ >> TAG_SHIFT, hash_ & mask
        for _ in range(mask):
            value = words[base + slot]
            if not value or (value >> TAG_SHIFT == tag and self.log.find(slot_offset(value), digest)):
                break
            slot = slot + 1 & mask
        if not words[base + slot]:
            self.header.slots += 1
        self.region.set_words(table_offset(index) + BLOCK_BYTES + 8 * slot, (pack_slot(offset, hash_),))

    # -- repairing --------------------------------------------------------------------------------------------

    def recount(self) -> None:
        """Finish or undo what a killed writer has begun, so that the counts are right again.

        The journal tells what it was, so this costs about as much as the change itself. Without a valid journal it
        costs a walk over the log. May be interrupted and called again.
        """
        journal = self.header.journal
        if journal is None:
            self._recount_all()
        else:
            self._recount_since(journal)

    def _recount_since(self, then: Journal) -> None:
        "Finish or undo the change that began in the state `then`."
        header, log = self.header, self.log
        if header.purges != then.generation // PURGE:  # a purge: no old record may be served again
            log.empty()
            return
        if not header.index:  # a purge that had not begun to drop anything
            header.index = then.table
        records, nbytes, header.freed = then.records, then.nbytes, then.freed
        if then.table not in (0, header.index):
            log.free(table_offset(then.table), 8 << table_bits(then.table))
        if then.dropped and self._finish_drop(then.dropped):
            records, nbytes = records - 1, nbytes - then.dropped_bytes
        for entry in log.walk(header.tail, then.tail):
            offset, block = entry.offset, entry.block
            if block and block.kind in (RECORD, NOTE) and self.has(block.digest, offset):
                if block.kind == RECORD:
                    records, nbytes = records + 1, nbytes + block.array_bytes
            elif offset != table_offset(header.index):
                log.discard(entry)
        header.records, header.nbytes = records, nbytes

    def _finish_drop(self, offset: int) -> bool:
        "Drop the record at `offset`, unless the index still refers to it; return whether it is dropped."
        block = self.log.whole(offset)
        if block and block.kind == RECORD and self.has(block.digest, offset):
            return False
        self.header.generation += 1  # before its memory is given back: the killed writer may not have come to that
        if block and block.kind == GAP:
            self.log.free(offset, block.nbytes)
        elif block:  # it may lie about its length, see `Log.drop`
            stop = self.log.next_intact(offset, offset + block.length)
            self.log.discard(Entry(offset, stop - offset, block))
        return True

    def _recount_all(self) -> None:
        "Recount all records of the log, and index those that are in no index."
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
        header.busy = WRITING  # the journal does not help to finish this
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
        hashes = np.array([hash_of(digest) for digest in kept], np.uint64)
        slots = table.build(bits, hashes, np.array([offset for offset, _ in kept.values()], np.uint64))
        if reused:
            header.index = pack_table(reused, bits) if self.log.overwrite(reused, slots) else 0
        else:
            offset = self.log.append(TABLE, NO_DIGEST, slots)
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
