"""Begin or join a session of a named file, and repair damage.

Everything in a file is verified before it is used. The variable words of the header have a checksum, which is updated
with each write. If it is wrong, or a writer was killed, the first process to open the file walks over the log and
indexes the intact blocks. Records are verified later, each before its first use.
"""

from __future__ import annotations

import os
import uuid
import warnings
from typing import List

from .cachefile import HOPELESS, CacheFileError
from .fulldisk import freeze, is_writable, unless_full
from .index import Index
from .layout import (
    BLOCK_ALIGN,
    BLOCK_BYTES,
    MAX_SEGMENTS,
    MAX_TABLE_BITS,
    PURGE,
    Header,
    table_bits,
    table_offset,
)
from .region import Region
from .system import PAGE
from .trust import Trust

UNMAPPABLE = OSError, ValueError, MemoryError


def join(index: Index, trust: Trust, path: str, lock_file: int, alone: bool) -> None:
    """Join the session of the cache file `path`, or begin one if this process is `alone`. Its lock must be held.

    `lock_file` is the inode of the lock file, by which processes check that they all use the same one. Raises
    `CacheFileError` if the file can't be used while other processes use it.
    """
    header, region = index.header, index.region
    size = os.fstat(region.fd).st_size
    if not alone and header.lock_file != lock_file:
        why = "is in use under another lock file: it also has another name, or its .lock file was deleted."
        raise CacheFileError(path, f"{why} End the other processes first.")
    if header.busy and not alone:  # a writer was killed, and other processes go on
        if not is_writable(header, region):  # the next writer that finds room on the disk will recount
            return
        index.recount()
        trust.seal()
        header.busy = 0
    sound = _is_sound(header, region, size)
    if not sound and not alone:
        raise CacheFileError(path, "is damaged while other processes use it. End them first.")
    if alone:
        header.session = uuid.uuid4().int >> 64
        if is_writable(header, region, sound):
            with unless_full():
                _begin_session(index, trust, path, sound, size)
                sound = True
        if not sound or header.busy:  # the disk is full
            freeze(header, region)
            _begin_session(index, trust, path, sound, size)
            header.busy = int(not header.index)  # the next writer that finds room will index the records
        header.lock_file = lock_file


def _is_sound(header: Header, region: Region, size: int) -> bool:
    "Return whether the words of the header are consistent with one another and with the size of the file."
    if header.busy or not 1 <= header.segments <= MAX_SEGMENTS or header.state != header.state_checksum():
        return False
    ends, tail, index = header.ends, header.tail, header.index
    if not _are_segments(ends, size) or region.ends[0] != ends[0]:
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


def _begin_session(index: Index, trust: Trust, path: str, sound: bool, size: int) -> None:
    "Repair the file if needed, and cut off its unused end. No other process has it open."
    log, header, region = index.log, index.header, index.region
    header.busy = 1
    kept = header.records
    if not sound or (not header.index and header.tail > PAGE):  # the latter: the disk had no room for an index
        kept = _mend(index, path, size)
    if kept:
        end = next(one for one in header.ends if one >= header.tail)
    else:  # only gaps are left, and an old index
        header.index = header.slots = header.freed = header.nbytes = 0
        header.generation += PURGE
        header.tail = end = PAGE
    if header.frozen is None:
        os.ftruncate(region.fd, end)
    # Merge all segments into one, because their number is limited. If address space is scarce, keep them.
    region.forget(1)
    ends = header.ends
    header.ends = [end]
    try:
        log.map_first(end)
    except UNMAPPABLE:
        header.ends = ends[: ends.index(end) + 1]
    trust.seal()
    header.busy = 0


def _mend(index: Index, path: str, size: int) -> int:
    """Index the intact blocks after a killed writer, a cut or other damage; return how many records there are.

    Costs a walk over the log, about ten microseconds per record. Pixels are verified when they are first used.
    """
    log, header, size = index.log, index.header, size // PAGE * PAGE
    ends = header.ends if 1 <= header.segments <= MAX_SEGMENTS else [0]
    was_cut = not _are_segments(ends, size)
    if was_cut:
        ends = [size]
    header.ends = ends
    try:
        log.map_first(ends[0])
    except UNMAPPABLE as error:
        raise CacheFileError(path, f"can't be mapped: {error}. {HOPELESS}") from error
    entries = list(log.walk(ends[-1]))
    while entries and entries[-1].block is None:  # the end of the file was never used
        entries.pop()
    header.tail = entries[-1].offset + entries[-1].length if entries else PAGE
    damaged = any(entry.block is None for entry in entries)
    kept = index.rebuild(entries)
    if was_cut or damaged:
        warnings.warn(
            f"cache_file={path!r} was cut off or damaged: {kept:,} records of it are intact and kept. The others "
            "will be decoded again when they are needed, or all at once by load_data().",
            stacklevel=2,
        )
    return kept
