"""Begin or join a session of a named file, and repair damage.

Everything in a file is verified before it is used. The variable words of the header have a checksum, which is updated
with each write, and the index is checked against them. If anything is wrong, or a writer was killed, the first process
to open the file walks over the log and indexes the intact blocks. Records are verified later, before their first use.

The walk reads the file from its descriptor, so it finds all blocks however little of the file this process can map. It
uses no word of the header. A kill at any moment therefore leaves a file from which the next session finds the same
blocks: nothing is cut off but what lies behind the last one. The exception is a purge, see `Log.empty`.
"""

from __future__ import annotations

import os
import uuid
from bisect import bisect_left, bisect_right
from contextlib import suppress
from typing import List

import numpy as np

from .cachefile import CacheFileError
from .fulldisk import freeze, is_writable, unless_full
from .index import Index
from .layout import (
    BLOCK_ALIGN,
    BLOCK_BYTES,
    EMPTYING,
    IDLE,
    MAX_SEGMENTS,
    MAX_TABLE_BITS,
    PURGE,
    TABLE,
    WRITING,
    Header,
    slot_offsets,
    table_bits,
    table_offset,
)
from .log import Entry, Log
from .region import Region
from .system import PAGE
from .trust import Trust
from .warning import warn_user

UNMAPPABLE = OSError, ValueError, MemoryError
# How many slots in a row an index may have taken. In a table that is four fifths full, some hundreds are the most.
MAX_RUN = 1 << 14


def recover(index: Index) -> None:
    "Finish what a killed writer had begun. The mutex must be held."
    if index.header.busy == EMPTYING:
        index.log.empty()
    else:
        index.recount()


def join(index: Index, trust: Trust, path: str, lock_file: int, alone: bool) -> None:
    """Join the session of the cache file `path`, or begin one if this process is `alone`. Its lock must be held.

    `lock_file` is the inode of the lock file, by which processes check that they all use the same one. Raises
    `CacheFileError` if the file can't be used while other processes use it, or can't be read.
    """
    header, region, log = index.header, index.region, index.log
    if alone:
        try:
            _begin(index, trust, path)
        except (OSError, MemoryError) as error:
            what = getattr(error, "strerror", None) or "there is too little memory"
            why = f"can't be read or repaired: {what}. No record was dropped."
            raise CacheFileError(path, why) from error
        header.lock_file = lock_file
        return
    if header.lock_file != lock_file:
        why = "is in use under another lock file: it also has another name, or its .lock file was deleted."
        raise CacheFileError(path, f"{why} End the other processes first.")
    with suppress(*UNMAPPABLE):  # without address space, this process serves nothing
        log.map_first(header.segment_end(0))
    if header.busy:  # a writer was killed, and other processes go on
        if not log.is_mapped() or not is_writable(header, region):  # the next writer with more room will recount
            return
        recover(index)
        trust.seal()
        header.busy = IDLE
    if not _is_sound(header, os.fstat(index.region.fd).st_size):
        raise CacheFileError(path, "is damaged while other processes use it. End them first.")


# -- what a sound file is ---------------------------------------------------------------------------------------


def _is_sound(header: Header, size: int) -> bool:
    "Return whether the words of the header are consistent with one another and with the size of the file."
    if header.busy or not 1 <= header.segments <= MAX_SEGMENTS or header.state != header.state_checksum():
        return False
    ends, tail, index = header.ends, header.tail, header.index
    if not _are_segments(ends, size) or header.purges >= PURGE >> 1:
        return False
    if not PAGE <= tail <= ends[-1] or tail % BLOCK_ALIGN:
        return False
    offset, bits = table_offset(index), table_bits(index)
    if header.nbytes + header.records * BLOCK_BYTES + header.freed > tail or header.slots > 1 << bits:
        return False
    return not index or (bits <= MAX_TABLE_BITS and offset >= PAGE and offset + BLOCK_BYTES + (8 << bits) <= tail)


def _are_segments(ends: List[int], size: int) -> bool:
    "Return whether these can be the ends of segments in a file of `size` bytes."
    steps = zip([0, *ends], ends)
    return all(end % PAGE == 0 and start < end for start, end in steps) and ends[-1] <= size


def _is_sound_index(log: Log) -> bool:
    """Return whether the index table is a block with as many entries as the header says, all before the tail.

    Costs reading the table, but none of the records. So a writer overwrites no record, and no search is long.
    """
    header = log.header
    start, nbytes = table_offset(header.index) + BLOCK_BYTES, 8 << table_bits(header.index)
    block = log.intact(start - BLOCK_BYTES, header.tail)
    if block is None or block.kind != TABLE or block.nbytes < nbytes or header.slots * 8 > nbytes - 8:
        return False
    taken = last = 0
    for _, piece in log.region.data(start, start + nbytes):
        slots = np.frombuffer(piece[: len(piece) // 8 * 8], np.uint64)
        free = np.flatnonzero(slots == 0)
        if np.diff(free, prepend=-1, append=len(slots)).max(initial=0) > MAX_RUN:
            return False
        taken += len(slots) - len(free)
        last = max(last, int(slot_offsets(slots).max(initial=0)))
    if taken != header.slots:
        return False
    newest = log.intact(last, header.tail) if last else block
    return newest is not None and last + newest.length <= header.tail


# -- beginning --------------------------------------------------------------------------------------------------


def _begin(index: Index, trust: Trust, path: str) -> None:
    "Begin a session, on a full disk, too: see `fulldisk`. This process is alone."
    header, region, log = index.header, index.region, index.log
    header.session = uuid.uuid4().int >> 64
    sound, begun, page = _is_all_sound(log), False, region.peek(0, PAGE)
    if is_writable(header, region, sound):
        with unless_full():
            _begin_session(index, trust, path, sound)
            begun = True
    if not begun and sound:  # as it is
        if header.busy:  # the disk became full meanwhile
            _restore(header, region, page)
        with suppress(*UNMAPPABLE):
            log.map_first(header.segment_end(0))
    elif not begun:
        freeze(header, region)
        _begin_session(index, trust, path, sound)
        if not header.index:  # the next writer that finds room will index the records
            header.busy = WRITING


def _restore(header: Header, region: Region, page: bytes) -> None:
    "Use the sound header `page` although the file has a half-written one. Its unused end may be cut off already."
    ends = header.ends
    freeze(header, region, private=page)
    if not (_are_segments(ends, os.fstat(region.fd).st_size) and ends[-1] >= header.tail):
        ends = header.ends[: bisect_left(header.ends, header.tail) + 1]
    header.ends = ends
    header.state = header.state_checksum()


def _is_all_sound(log: Log) -> bool:
    "Return whether header and index need no mending."
    header = log.header
    size = os.fstat(log.region.fd).st_size // PAGE * PAGE
    if not _is_sound(header, size):
        return False
    return _is_sound_index(log) if header.index else header.tail == PAGE  # else a disk had no room for one


def _begin_session(index: Index, trust: Trust, path: str, sound: bool) -> None:
    "Repair the file unless it was `sound` before this process wrote to it, and cut off its unused end."
    header, log = index.header, index.log
    size = os.fstat(index.region.fd).st_size // PAGE * PAGE
    emptied, promised = header.busy == EMPTYING, _promised(header, size)
    if not emptied:
        header.busy = WRITING
    if emptied or (sound and not header.records):
        _clear(log, path)
    elif sound:
        ends = header.ends
        _merge(log, path, ends[: bisect_left(ends, header.tail) + 1])
    elif not _mend(index, path, size, promised):
        _clear(log, path)
    header.releases = 0
    trust.seal()
    header.busy = IDLE


def _promised(header: Header, size: int) -> int:
    "Return how many records there should be; 0 if the header can't be believed."
    records = header.records
    if header.busy:  # a writer may have been killed just after it had dropped one
        records = max(0, records - 1)
    elif header.state != header.state_checksum():
        records = 0
    return records if records * BLOCK_BYTES <= max(size, header.tail) else 0


def _clear(log: Log, path: str) -> None:
    "Make a file in which there are no records an empty one."
    header = log.header
    header.index = 0
    header.generation = (header.purges + 1) % (PURGE >> 1) * PURGE
    header.clear_counts()
    header.tail = PAGE
    _merge(log, path, [PAGE] if header.frozen is None else _ends(_known(log), [], PAGE))


def _known(log: Log) -> List[int]:
    "Return what may be ends of segments. In a private header keep all, as another process does that mends the file."
    size = os.fstat(log.region.fd).st_size // PAGE * PAGE
    known = log.header.known_ends(size)
    return known if log.header.frozen is None or log.header.ends[:1] != [PAGE] else [PAGE, *known]


def _merge(log: Log, path: str, ends: List[int]) -> None:
    """Cut the file off at the last of `ends`, and make one segment of all, because the number of segments is limited.

    If this process has no address space to map it at once, keep the segments: it serves those that it can map. In a
    private copy of the header page, keep them as well: see `fulldisk.follow`.
    """
    header, region = log.header, log.region
    if header.frozen is None:
        os.ftruncate(region.fd, ends[-1])
        header.ends = [ends[-1]]
        with suppress(*UNMAPPABLE):
            log.map_first(ends[-1])
            return
    header.ends = ends
    with suppress(*UNMAPPABLE):
        log.map_first(ends[0])
    if not log.reach(ends[-1] - 1):
        warn_user(
            f"cache_file={path!r} can't be mapped whole: this process has too little address space (ulimit -v), or too "
            "few descriptors (ulimit -n). The file keeps its records, but those not mapped are decoded again."
        )


# -- mending ----------------------------------------------------------------------------------------------------


def _mend(index: Index, path: str, size: int, promised: int) -> int:
    """Index the intact blocks after a killed writer, a cut or other damage; return how many records there are.

    Warns if records were lost. Costs a walk over the log, about ten microseconds per record. Pixels are verified when
    they are first used.
    """
    log, header = index.log, index.header
    entries, damaged = list(log.walk(size)), 0
    while entries and entries[-1].block is None:  # the end of the file was never used, or its last blocks are damaged
        last = entries.pop()
        pieces = log.region.data(last.offset, min(last.offset + last.length, header.tail))
        damaged += last.length if any(piece.count(0) < len(piece) for _, piece in pieces) else 0
    damaged += sum(entry.length for entry in entries if entry.block is None)
    header.tail = tail = entries[-1].offset + entries[-1].length if entries else PAGE
    _merge(log, path, _ends(_known(log), entries, tail))
    kept = index.rebuild(entries)
    if damaged or kept < promised:
        lost = f", {promised - kept:,} are lost" if kept < promised else f"; {damaged:,} bytes are damaged"
        warn_user(
            f"cache_file={path!r} was cut off or damaged: {kept:,} records of it are intact and kept{lost}. The others "
            "will be decoded again when they are needed, or all at once by load_data()."
        )
    return kept


def _ends(known: List[int], entries: List[Entry], tail: int) -> List[int]:
    "Return those of the `known` ends that no block crosses, up to the first one after the tail."
    starts = [entry.offset for entry in entries]
    ends: List[int] = []
    for end in known:
        if end >= tail:
            return [*ends, end][-MAX_SEGMENTS:]
        before = bisect_right(starts, end - 1) - 1
        if before < 0 or starts[before] + entries[before].length <= end:
            ends.append(end)
    return [*ends, -(-tail // PAGE) * PAGE][-MAX_SEGMENTS:]
