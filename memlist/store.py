"""`ImageStore`: keyed pixel arrays in memory that every process of a machine shares. It knows nothing of fastai.

One region of memory (see `backing`) holds a header page and then a log of blocks, each a fixed header and its bytes:

    | header page | block: record | block: record | block: index table | block: record | ... tail

A record's block carries the digest of its key, dtype, shape, and size and time of the file it came from. The index is
a hash table of block offsets with open addressing, a block like any other; when it is four fifths full a table of
twice the size is appended and published in its place.

Readers take no lock. Writers hold one mutex for as long as it takes to copy one image, and write in the order that
makes every moment safe to be killed at: bytes, then block header, then the log's tail, then the index entry. Whoever
takes the mutex after a killed writer finds the busy flag up and counts the log again.

A purge empties the index, moves the generation on, then punches the pages out. A view that `get` handed out is good for
as long as the generation stands: convert first, then ask `current`, and where it is False read again.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import uuid
import zlib
from contextlib import contextmanager
from hashlib import blake2b
from multiprocessing.context import get_spawning_popen
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple
from weakref import WeakValueDictionary, finalize

import numpy as np

from . import limits
from .backing import PAGE, Lock, Region, default_kind, receive, send
from .limits import MaxRam, parse_max_ram

# Words (uint64) of the header page.
MAGIC, GENERATION, BUSY, INDEX, TAIL, FREED, RECORDS, NBYTES, SLOTS, SEGMENTS, MAX_BYTES, SHARE = range(12)
# A pair of counters (hits, misses) a process, so that counting needs no lock; the last pair is for everybody
# that finds the others taken. A killed process leaves its counts, and its pair to the next one.
COUNTERS, N_COUNTERS = 16, 64
ENDS = COUNTERS + 2 * (N_COUNTERS + 1)
MAX_SEGMENTS = PAGE // 8 - ENDS
VERSION = int.from_bytes(b"memlist1", "little")
NO_LIMIT = (1 << 64) - 1
# A slot of the index: the offset of a block, in units of 16 bytes, below 16 bits of its digest.
OFFSET = (1 << 48) - 1
# The generation counts purges above this bit, and below it replaced records: writers mind the former only.
PURGE = 1 << 32
NO_SOURCE = NO_LIMIT, 0

# magic, kind, dtype, ndim, tag, digest, payload bytes, shape, source size, source mtime in ns, unused (kept for the
# checksum of the pixels in a named file), checksum of all that precedes it
BLOCK = struct.Struct("<4sBBBB16sQ4IQqQII")
BLOCK_MAGIC = b"MLB1"
SHAPE = struct.Struct("<4I")  # at byte 32 of it; dtype, ndim and tag are bytes 5 to 7
ALIGN = 16
PIXELS, NOTE, TABLE, GAP = range(1, 5)
DTYPES = tuple(np.dtype(t) for t in ("u1", "b1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"))

FIRST_TABLE_BITS = 9
# How stale the reading of available memory may get while a cache fills.
LOOK_AGAIN_SECONDS, LOOK_AGAIN_BYTES = 0.25, 32 << 20

Source = Tuple[int, int]


class Record(NamedTuple):
    "What `get` returns: a read-only view of the stored array, the caller's own byte, and the generation read in."

    array: np.ndarray
    tag: int
    generation: int


class StoreInfo(NamedTuple):
    """`records` held and their `nbytes`, the budget `max_ram` in bytes as of now, and `hits` and `misses` over all
    processes since the store was made."""

    records: int
    nbytes: int
    max_ram: int
    hits: int
    misses: int


class ImageStore:
    """Arrays under keys of bytes, in anonymous memory that every process shares and that ends with its last user.

    `max_ram` is the budget, see `limits.parse_max_ram`; nothing is ever evicted, what does not fit is refused.
    `available` reads how many bytes the machine could still give. `place` names the dataset that the store is for,
    `kind` the backing, `'memfd'` or `'file'`.

    Costs: 80 bytes a record and up to 32 of index; a `get` is a hash and two reads of shared memory, some
    microseconds however many records there are; a `put` is one copy of the array under the mutex.
    """

    def __init__(
        self,
        max_ram: MaxRam = None,
        *,
        place: Optional[str] = None,
        kind: Optional[str] = None,
        available: Callable[[], int] = limits.available_memory,
    ) -> None:
        budget = parse_max_ram(max_ram)
        region, lock = Region(kind or default_kind()), None
        try:
            lock = Lock(region.kind)
            first = region.next_size(0, PAGE)
            try:
                region.grow(0, first)
                region.attach(first)
            except (
                OSError,
                ValueError,
                MemoryError,
            ):  # address space is limited, and short: begin with the least
                first = 64 * PAGE
                region.grow(0, first)
                region.attach(first)
        except BaseException:
            region.close()
            if lock:
                lock.close()
            raise
        self._open(region, lock, uuid.uuid4().hex, place, available)
        head = self._head
        head[ENDS], head[SEGMENTS], head[TAIL], head[MAGIC] = first, 1, PAGE, VERSION
        self._set_budget(budget)

    def _open(
        self,
        region: Region,
        lock: Lock,
        uid: str,
        place: Optional[str],
        available: Callable[[], int],
    ) -> None:
        self._region, self._lock, self.uid, self.place, self._available = region, lock, uid, place, available
        self._head = region.words[0]
        self._looked: Tuple[float, int, int] = (-1e9, 0, 0)
        self._after_fork()
        _STORES[uid] = self
        finalize(self, _close, region, lock).atexit = False  # the system takes all back

    def _after_fork(self) -> None:
        # Another thread of the parent may have been inside any of these.
        self._lock.after_fork()
        self._threads = threading.Lock()
        self._pair: Optional[int] = None
        region = self._region
        del region.maps[len(region.ends) :], region.words[len(region.ends) :]

    # -- reading ----------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Optional[Record]:
        """The record under `key`, or None. The array is a read-only view into shared memory: no copy.

        Not counted as a hit or a miss; `count` does that, once the caller knows that the view held.
        """
        record = self.read(key)
        if record is not None:
            record.array.flags.writeable = False
        return record

    def read(self, key: bytes) -> Optional[Record]:
        "As `get`, but the view can be written, which torch wants of what it wraps. Callers must not write."
        generation = self._head[GENERATION]
        found = self._find(_digest(key))
        if found is None:
            return None
        offset, block = found
        segment, at = self._region.locate(offset)
        array: np.ndarray = np.ndarray(
            SHAPE.unpack_from(block, 32)[: block[6]], DTYPES[block[5]], self._region.maps[segment], at + BLOCK.size
        )
        return Record(array, block[7], generation)

    def __bool__(self) -> bool:
        return True  # an empty store is a store

    def __contains__(self, key: bytes) -> bool:
        return self._find(_digest(key)) is not None

    def __len__(self) -> int:
        return self._head[RECORDS]

    def source(self, key: bytes) -> Optional[Source]:
        "`(size, mtime_ns)` of the file that the record was made from; None without a record or without a file."
        found = self._find(_digest(key))
        if not found:
            return None
        size, mtime = BLOCK.unpack(found[1])[11:13]
        return None if size == NO_LIMIT else (size, mtime)

    @property
    def generation(self) -> int:
        "Moves on whenever views may have gone stale: at each purge and each replaced record."
        return self._head[GENERATION]

    def current(self, record: Record) -> bool:
        "True while what was read from `record` up to now is what was stored."
        return self._head[GENERATION] == record.generation

    def _find(self, digest: bytes) -> Optional[Tuple[int, bytes]]:
        "Offset and header of the block that the index has for `digest`."
        head, region = self._head, self._region
        home = int.from_bytes(digest[:8], "little")
        tag = home >> 48
        while True:
            index = head[INDEX]
            if not index or (index >> 8 << 4 >= region.ends[-1] and not self._reach(index >> 8 << 4)):
                return None
            segment, at = region.locate(index >> 8 << 4)
            words, base, mask = region.words[segment], (at + BLOCK.size) // 8, (1 << (index & 255)) - 1
            slot = home & mask
            for probe in range(mask + 1):
                value = words[base + slot]
                if not value or (probe & 63 == 63 and head[INDEX] != index):
                    break
                if value >> 48 == tag:
                    offset = (value & OFFSET) << 4
                    block = self._block(offset, digest)
                    if block:
                        return offset, block
                slot = slot + 1 & mask
            # The table may have been replaced, and its pages with it, while it was being read.
            if head[INDEX] == index:
                return None

    def _block(self, offset: int, digest: bytes) -> Optional[bytes]:
        "A copy of the header at `offset` if it is a whole one for `digest`: a torn or recycled one is none."
        if offset >= self._region.ends[-1] and not self._reach(offset):
            return None
        segment, at = self._region.locate(offset)
        block = self._region.maps[segment][at : at + BLOCK.size]
        if block[8:24] != digest or zlib.crc32(block[:-4]) != int.from_bytes(block[-4:], "little"):
            return None
        return block

    def _reach(self, offset: int) -> bool:
        "Map the segments up to the one of `offset`; False where this process can't or there is none."
        ends = self._region.ends
        if offset < ends[-1]:
            return True
        with self._threads:
            while offset >= ends[-1]:
                if len(ends) >= self._head[SEGMENTS]:
                    return False
                try:
                    self._region.attach(self._head[ENDS + len(ends)])
                except (OSError, ValueError, MemoryError):
                    return False
        return True

    # -- writing ----------------------------------------------------------------------------------------------

    def put(
        self,
        key: bytes,
        array: np.ndarray,
        *,
        tag: int = 0,
        source: Optional[Source] = None,
        replace: bool = False,
        generation: Optional[int] = None,
    ) -> bool:
        """Store a copy of `array` under `key`; True if the key is there afterwards, False if it was refused.

        Refused is what does not fit the budget or the machine, and what began in another `generation` than the
        present one (pass the one read before decoding). A key that is there stays as it is, unless `replace`.
        `tag` is a byte for the caller's use; `source` the `(size, mtime_ns)` of the file. Raises TypeError for a dtype
        and ValueError for a shape that can't be kept (numbers and booleans in up to four dimensions can).
        """
        array = np.asarray(array)
        if array.dtype not in DTYPES:
            raise TypeError(f"an array of dtype {array.dtype} can't be stored: use one of {_names(DTYPES)}")
        if array.ndim > 4 or max(array.shape, default=0) >= 1 << 32:
            raise ValueError(f"an array of shape {array.shape} can't be stored: four dimensions are the most")
        digest = _digest(key)
        with self._held():
            if generation is not None and generation // PURGE != self._head[GENERATION] // PURGE:
                return False
            found = self._find(digest)
            if found and not replace:
                return True
            offset = 0
            if self._fits(BLOCK.size + array.nbytes + self._index_growth()) and self._room_in_index():
                offset = self._append(PIXELS, digest, array, tag, source or NO_SOURCE)
            if offset:
                self._publish(digest, offset)
                self._head[RECORDS] += 1
                self._head[NBYTES] += array.nbytes
            if found:  # a record that was to be replaced is wrong, whether there is room for the new one or not
                self._head[GENERATION] += 1
                self._drop(found[0])
        return bool(offset)

    def note(self, key: bytes) -> bool:
        "True for the first caller with this `key` since the last purge, over all processes: who is to speak."
        digest = _digest(b"note:" + key)
        with self._held():
            if self._find(digest):
                return False
            if self._room_in_index():
                offset = self._append(NOTE, digest, np.empty(0, "u1"), 0, NO_SOURCE)
                if offset:
                    self._publish(digest, offset)
        return True

    def noted(self, key: bytes) -> bool:
        "Whether `note` was called with this `key` since the last purge."
        return self._find(_digest(b"note:" + key)) is not None

    def fits(self, nbytes: int) -> bool:
        "Whether a record of `nbytes` would be taken now."
        return self._fits(BLOCK.size + nbytes)

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock.held():
            if self._head[BUSY]:
                self._recount()
            self._head[BUSY] = 1
            yield
            self._head[BUSY] = 0  # not in a `finally`: after an exception the next holder counts again

    def _append(self, kind: int, digest: bytes, array: np.ndarray, tag: int, source: Source) -> int:
        "Write a block at the tail of the log and move the tail past it; its offset, or 0 where no memory is to be had."
        head, region = self._head, self._region
        need = -(-(BLOCK.size + array.nbytes) // ALIGN) * ALIGN
        offset = head[TAIL]
        if not self._reach(head[ENDS + head[SEGMENTS] - 1] - 1):
            return 0
        while True:
            if offset >= region.ends[-1] and not self._extend(need):
                return 0
            end = region.ends[region.locate(offset)[0]]
            if offset + need <= end:
                break
            if end - offset >= BLOCK.size:  # the rest of this segment is too small: a gap that a walk can step over
                self._write(GAP, bytes(16), np.empty(0, "u1"), 0, NO_SOURCE, offset, end - offset - BLOCK.size)
            head[FREED] += end - offset
            head[TAIL] = offset = end
        try:
            region.write(offset + BLOCK.size, array)
        except OSError:
            return 0
        self._write(kind, digest, array, tag, source, offset, array.nbytes)
        head[TAIL] = offset + need
        return offset

    def _write(
        self, kind: int, digest: bytes, array: np.ndarray, tag: int, source: Source, offset: int, nbytes: int
    ) -> None:
        segment, at = self._region.locate(offset)
        shape = (*array.shape, 0, 0, 0, 0)[:4]
        code = DTYPES.index(array.dtype)
        block = BLOCK.pack(BLOCK_MAGIC, kind, code, array.ndim, tag, digest, nbytes, *shape, *source, 0, 0, 0)[:-4]
        self._region.maps[segment][at : at + BLOCK.size] = block + zlib.crc32(block).to_bytes(4, "little")

    def _extend(self, need: int) -> bool:
        "Add a segment for a block of `need` bytes; False where the system or a limit of this process refuses."
        head, region = self._head, self._region
        n, end = head[SEGMENTS], region.ends[-1]
        need = -(-need // PAGE) * PAGE
        if n >= MAX_SEGMENTS:
            return False
        for size in (region.next_size(end, need), need):
            try:
                if size >= need:
                    region.grow(end, size)
                    region.attach(end + size)
                    head[ENDS + n] = end + size
                    head[SEGMENTS] = n + 1
                    return True
            except (OSError, ValueError, MemoryError):
                pass
            if size < need:
                return False
        return False

    def _index_growth(self) -> int:
        "Bytes of the table that one more entry would ask for, less those of the one that it replaces."
        old = self._head[INDEX]
        bits = old & 255
        if old and (self._head[SLOTS] + 1) * 5 <= 4 << bits:
            return 0
        return BLOCK.size + (8 << (bits + 1 if old else FIRST_TABLE_BITS))

    def _room_in_index(self) -> bool:
        "Make sure that one more entry fits; doubling copies the table once, so an entry costs a constant on average."
        head = self._head
        old = head[INDEX]
        bits = old & 255
        if old and (head[SLOTS] + 1) * 5 <= 4 << bits:
            return True
        bits = bits + 1 if old else FIRST_TABLE_BITS
        table = np.zeros(1 << bits, np.uint64)
        if old:
            segment, at = self._region.locate(old >> 8 << 4)
            words, base = self._region.words[segment], (at + BLOCK.size) // 8
            for value in words[base : base + (1 << bits - 1)]:
                if value:
                    _place(table, self._home((value & OFFSET) << 4), value)
        offset = self._append(TABLE, bytes(16), table, 0, NO_SOURCE)
        if not offset:
            return False
        head[INDEX] = offset >> 4 << 8 | bits
        if old:
            self._punch(old >> 8 << 4)
        return True

    def _home(self, offset: int) -> int:
        segment, at = self._region.locate(offset)
        return int.from_bytes(self._region.maps[segment][at + 8 : at + 16], "little")

    def _publish(self, digest: bytes, offset: int) -> None:
        "Point the index at `offset`, in the slot that `digest` has or in a free one: one aligned store of eight bytes."
        index = self._head[INDEX]
        segment, at = self._region.locate(index >> 8 << 4)
        words, base, mask = self._region.words[segment], (at + BLOCK.size) // 8, (1 << (index & 255)) - 1
        home = int.from_bytes(digest[:8], "little")
        slot = home & mask
        while words[base + slot]:
            value = words[base + slot]
            if value >> 48 == home >> 48 and self._block((value & OFFSET) << 4, digest):
                break
            slot = slot + 1 & mask
        self._head[SLOTS] += not words[base + slot]
        words[base + slot] = offset >> 4 | home >> 48 << 48

    def _drop(self, offset: int) -> None:
        "Make a gap of a record, which is then no key's, and give its memory back."
        segment, at = self._region.locate(offset)
        nbytes = BLOCK.unpack_from(self._region.maps[segment], at)[6]
        self._write(GAP, bytes(16), np.empty(0, "u1"), 0, NO_SOURCE, offset, nbytes)
        self._head[RECORDS] -= 1
        self._head[NBYTES] -= nbytes
        self._punch(offset)

    def _punch(self, offset: int) -> None:
        segment, at = self._region.locate(offset)
        nbytes = BLOCK.unpack_from(self._region.maps[segment], at)[6]
        self._region.punch(offset + BLOCK.size, offset + BLOCK.size + nbytes)
        self._head[FREED] += _whole_pages(offset, nbytes)

    def _blocks(self) -> Iterator[Tuple[int, int, bytes, int]]:
        "`(offset, kind, digest, payload bytes)` of every block of the log."
        offset, tail = PAGE, self._head[TAIL]
        while offset < tail and self._reach(offset):
            segment, at = self._region.locate(offset)
            end = self._region.ends[segment]
            if end - offset < BLOCK.size:
                offset = end
                continue
            _, kind, _, _, _, digest, nbytes, *_ = BLOCK.unpack_from(self._region.maps[segment], at)
            yield offset, kind, digest, nbytes
            offset += -(-(BLOCK.size + nbytes) // ALIGN) * ALIGN

    def _recount(self) -> None:
        "After a writer that died: index what it had finished, and count what there is. Costs a walk over the log."
        head = self._head
        records = nbytes = freed = 0
        for offset, kind, digest, length in list(self._blocks()):
            if kind in (PIXELS, NOTE):
                if not self._find(digest) and self._room_in_index():
                    self._publish(digest, offset)
                found = self._find(digest)
                if found and found[0] == offset:
                    records += kind == PIXELS
                    nbytes += length if kind == PIXELS else 0
                    continue
            elif kind == TABLE and offset == head[INDEX] >> 8 << 4:
                continue
            freed += _whole_pages(offset, length)
        head[RECORDS], head[NBYTES], head[FREED] = records, nbytes, freed

    # -- budget -----------------------------------------------------------------------------------------------

    def set_max_ram(self, max_ram: MaxRam) -> None:
        "Set the budget for every process, from now on; what is already held stays."
        budget = parse_max_ram(max_ram)
        with self._held():
            self._set_budget(budget)

    def _set_budget(self, budget: Tuple[Optional[int], float]) -> None:
        most, share = budget
        self._head[MAX_BYTES] = NO_LIMIT if most is None else min(most, NO_LIMIT - 1)
        self._head[SHARE] = int.from_bytes(struct.pack("<d", share), "little")
        self._looked = (-1e9, 0, 0)

    @property
    def rule(self) -> MaxRam:
        "The budget as a `max_ram` that would set it again."
        if self._head[MAX_BYTES] != NO_LIMIT:
            return self._head[MAX_BYTES]
        share: float = struct.unpack("<d", self._head[SHARE].to_bytes(8, "little"))[0]
        return None if share == limits.DEFAULT_SHARE else share

    @property
    def taken(self) -> int:
        "Bytes of memory that the store has taken: records, their headers and the index."
        return self._head[TAIL] - self._head[FREED]

    def budget(self) -> int:
        """Bytes that the store may take as of now, what it has taken included.

        A share is of all that would be available without the store, so it does not shrink as the store fills, and
        does when others take memory.
        """
        most, share = parse_max_ram(self.rule)
        taken = self.taken
        reachable = taken + self._available()
        limit = int(share * reachable) if most is None else most
        return min(limit, reachable - min(limits.RESERVE_BYTES, int(limits.RESERVE_SHARE * reachable)))

    def _fits(self, nbytes: int) -> bool:
        when, budget, taken = self._looked
        now = time.monotonic()
        if now - when > LOOK_AGAIN_SECONDS or self.taken - taken > LOOK_AGAIN_BYTES:
            budget = self.budget()
            self._looked = now, budget, self.taken
        return self.taken - PAGE + nbytes <= budget

    # -- the rest ---------------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Empty the store and give its memory back to the system at once, in every process that maps it.

        Returns the bytes of the records that were held. Views handed out before read zeros from now on, and
        writers that began before publish nothing.
        """
        head = self._head
        with self._held():
            freed, tail = head[NBYTES], head[TAIL]
            self._reach(tail - 1)
            head[INDEX] = 0  # first: who reads the new generation must not find an old record
            head[GENERATION] += PURGE
            head[TAIL] = PAGE
            head[RECORDS] = head[NBYTES] = head[SLOTS] = head[FREED] = 0
            self._region.punch(PAGE, -(-tail // PAGE) * PAGE)
        return freed

    def count(self, hit: bool) -> None:
        "Count one read, as a hit or a miss."
        with self._threads:
            if self._pair is None:
                claimed = self._lock.claim(1, 1 + N_COUNTERS)
                self._pair = N_COUNTERS if claimed is None else claimed - 1
            word = COUNTERS + 2 * self._pair + (not hit)
            if self._pair < N_COUNTERS:
                self._head[word] += 1
                return
        with self._held():
            self._head[word] += 1

    def info(self) -> StoreInfo:
        "What the store holds and has served; see `StoreInfo`."
        head = self._head
        pairs = list(head[COUNTERS : COUNTERS + 2 * (N_COUNTERS + 1)])
        return StoreInfo(head[RECORDS], head[NBYTES], max(0, self.budget()), sum(pairs[::2]), sum(pairs[1::2]))

    def allocated(self) -> int:
        "Bytes of memory that the system has given the store, index and header page included."
        return self._region.allocated()

    def __repr__(self) -> str:
        info = self.info()
        size, most = limits.format_size(info.nbytes), limits.format_size(info.max_ram)
        return f"ImageStore({info.records} records, {size} of {most}, {info.hits} hits, {info.misses} misses)"

    def __copy__(self) -> ImageStore:
        return self

    def __deepcopy__(self, memo: Dict[int, Any]) -> ImageStore:
        return self

    def __reduce__(self) -> Tuple[Any, ...]:
        # A process being spawned is sent the descriptors; a file gets the address, never the pixels.
        if get_spawning_popen() is not None:
            return _received, (self.uid, self.place, self._available, *send(self._region, self._lock))
        return _rejoined, (self.uid, self.place, self.rule)


# All stores of this process that somebody holds; the last holder takes its store with it.
_STORES: WeakValueDictionary[str, ImageStore] = WeakValueDictionary()


def store_for(place: str, max_ram: MaxRam = None) -> ImageStore:
    "The store that the dataset at `place` already has, else a new one. An explicit `max_ram` sets its budget."
    found = [store for store in list(_STORES.values()) if store.place == place]
    if not found:
        return ImageStore(max_ram, place=place)
    if max_ram is not None:
        found[-1].set_max_ram(max_ram)
    return found[-1]


def _received(
    uid: str, place: Optional[str], available: Callable[[], int], kind: str, data: Any, lock: Any
) -> ImageStore:
    region, mutex = receive(kind, data, lock)
    known = _STORES.get(uid)
    if known is not None:
        region.close()
        mutex.close()
        known._after_fork()  # closing a descriptor of the lock dropped what this process had claimed
        return known
    region.attach(PAGE)  # the header page first: it says how long the first segment is
    first = region.words[0][ENDS]
    region.words.pop().release()
    region.maps.pop().close()
    region.ends.pop()
    region.attach(first)
    store = ImageStore.__new__(ImageStore)
    store._open(region, mutex, uid, place, available)
    return store


def _rejoined(uid: str, place: Optional[str], max_ram: MaxRam) -> ImageStore:
    known = _STORES.get(uid)
    if known is None and place is not None:
        known = next((store for store in list(_STORES.values()) if store.place == place), None)
    return ImageStore(max_ram, place=place) if known is None else known


def _close(region: Region, lock: Lock) -> None:
    region.close()
    lock.close()


def _after_fork() -> None:
    for store in list(_STORES.values()):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _whole_pages(offset: int, nbytes: int) -> int:
    "Bytes that punching out the payload of a block gives back."
    start, stop = -(-(offset + BLOCK.size) // PAGE) * PAGE, (offset + BLOCK.size + nbytes) // PAGE * PAGE
    return max(0, stop - start)


def _digest(key: bytes) -> bytes:
    return blake2b(key, digest_size=16).digest()


def _place(table: np.ndarray, home: int, value: int) -> None:
    mask = len(table) - 1
    slot = home & mask
    while table[slot]:
        slot = slot + 1 & mask
    table[slot] = value


def _names(dtypes: Tuple[np.dtype, ...]) -> str:
    return ", ".join(str(d) for d in dtypes)
