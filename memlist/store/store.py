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

Over a named file (`cachefile`) all this is the same, and nothing found in it is believed at first sight. The words of
the header that change are under a checksum that is renewed at each write; where that is wrong, or a writer was killed,
who opens the file first goes through the log and makes an index of the blocks that are whole. A record is looked at
when a process or one of its children first meets it: its checksum, and the size and time of the file it was made from.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import threading
import time
import uuid
import warnings
import zlib
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from multiprocessing.context import get_spawning_popen
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union
from weakref import WeakValueDictionary, finalize

import numpy as np

from . import budget, cachefile, system
from .budget import MaxRam, parse_max_ram
from .cachefile import CHECKSUM, CacheFileError
from .descriptor import default_kind, sendable
from .lock import Lock
from .region import Region
from .source import NO_LIMIT, NO_SOURCE, Source
from .system import PAGE
from .trust import Looks

# Words (uint64) of the header page, after those that `cachefile` recognises a file by. The words from GENERATION to
# ORDINAL and the ends of the segments say what the log is; STATE is their checksum in a named file.
BUSY, STATE = CHECKSUM + 1, CHECKSUM + 2
GENERATION, INDEX, TAIL, FREED, RECORDS, NBYTES, SLOTS, SEGMENTS, ORDINAL = range(STATE + 1, STATE + 10)
MAX_BYTES, SHARE, SESSION, RELEASES, LOCK_FILE = range(ORDINAL + 1, ORDINAL + 6)
# A pair of counters (hits, misses) a process, so that counting needs no lock; the last pair is for everybody
# that finds the others taken. A killed process leaves its counts, and its pair to the next one.
COUNTERS, N_COUNTERS = LOCK_FILE + 1, 64
ENDS = COUNTERS + 2 * (N_COUNTERS + 1)
MAX_SEGMENTS = PAGE // 8 - ENDS
# A slot of the index: the offset of a block, in units of 16 bytes, below 16 bits of its digest.
OFFSET = (1 << 48) - 1
MOST_BITS = 40  # of an index table's size
# The generation counts purges above this bit, and below it replaced records: writers mind the former only.
PURGE = 1 << 32
# In the lock file: byte 0 is the mutex, then one for each pair of counters, and from here on one for each key.
KEYS_LOCK, N_KEYS_LOCK = 1 << 20, 1 << 40

# magic, kind, dtype, ndim, digest, payload bytes, shape, source size, source mtime in ns, number of the block, tag,
# checksum of the payload (in a named file), checksum of all that precedes it. The payload of a record is its array and,
# in a named file, the path of its source.
BLOCK = struct.Struct("<4sBBBx16sQ4IQqIIII")
BLOCK_MAGIC = b"MLB1"
SHAPE = struct.Struct("<4I")  # at byte 32 of it; dtype and ndim are bytes 5 and 6
VERSION = struct.Struct("<Qq")  # at byte 48
TAG = slice(68, 72)
ALIGN = 16
PIXELS, NOTE, TABLE, GAP = range(1, 5)
DTYPES = tuple(np.dtype(t) for t in ("u1", "b1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"))

FIRST_TABLE_BITS = 9
# How stale the reading of available memory may get while a cache fills.
LOOK_AGAIN_SECONDS, LOOK_AGAIN_BYTES = 0.25, 32 << 20


Budget = Tuple[Optional[int], float]


class Record(NamedTuple):
    """What `get` returns: a read-only view of the stored array, the caller's own number, and the generation read in.

    `block` is a copy of its header.
    """

    array: np.ndarray
    tag: int
    generation: int
    block: bytes

    @property
    def number(self) -> int:
        "A number that no other record of this store has."
        return _number(self.block)

    @property
    def version(self) -> bytes:
        "Bytes that are equal where two records were made from one version of a file."
        return self.block[48:64]

    @property
    def source(self) -> Optional[Tuple[int, int]]:
        "`Source.version` of the file that the record was made from; None if it was made from none."
        return _source(self.block)


class StoreInfo(NamedTuple):
    """`records` held and their `nbytes`, the budget `max_ram` in bytes as of now, and `hits` and `misses` over all
    processes since the store was made."""

    records: int
    nbytes: int
    max_ram: int
    hits: int
    misses: int


class Problem(NamedTuple):
    "What `ImageStore.check` found: the source of the record, as far as known, and what is wrong with it."

    path: str
    what: str


class ImageStore:
    """Arrays under keys of bytes, in memory that every process shares.

    Without a `cache_file` the memory is anonymous and ends with its last user. With one it is that file, which all
    processes of a machine that name it share, and which is there when the next session starts; within a process, who
    names it again gets the same store. Raises `CacheFileError` for a file that is none of ours or of no use.

    `maker` names what decodes here; a named file keeps it with each record, and does not serve those of another maker.
    `max_ram` is the budget, see `limits.parse_max_ram`; nothing is ever evicted, what does not fit is refused.
    `available` reads how many bytes the machine, or the disk of the file, could still give. `place` names the dataset
    that the store is for, `kind` the anonymous backing, `'memfd'` or `'file'`.

    Costs: 88 bytes a record and up to 32 of index (in a file, the path of its source besides); a `get` is a hash and
    two reads of shared memory, some microseconds however many records there are; a `put` is one copy of the array under
    the mutex. In a file, a `put` and the first `get` of a session sum up the array: 0.3 ms a megabyte.
    """

    cache_file: Optional[str] = None
    maker: bytes = b""
    #: Called before this process forks.
    before_fork: Optional[Callable[[], None]] = None

    def __new__(cls, max_ram: MaxRam = None, *, cache_file: Any = None, **kwargs: Any) -> ImageStore:
        if cache_file is None:
            return super().__new__(cls)
        path = cachefile.resolve(cache_file)
        # One process has one store over a file: record locks do not exclude threads of one process.
        with _OPENING[0]:
            store = _open_here(path)
            if store is None:
                store = super().__new__(cls)
                store._join(path, parse_max_ram(max_ram), max_ram is not None, kwargs.get("available"))
        return store

    def __init__(
        self,
        max_ram: MaxRam = None,
        *,
        cache_file: Any = None,
        place: Optional[str] = None,
        kind: Optional[str] = None,
        available: Optional[Callable[[], int]] = None,
        maker: bytes = b"",
    ) -> None:
        self.maker = maker or self.maker
        if cache_file is None:
            self._make(kind or default_kind(), parse_max_ram(max_ram), available or system.available_memory)
        elif max_ram is not None:
            self.set_max_ram(max_ram)
        if place is not None and place not in self.places:
            self.places.append(place)

    def _make(self, kind: str, budget: Budget, available: Callable[[], int]) -> None:
        "A new region of memory without a name."
        region, lock, looks = Region(kind), None, None
        try:
            lock, looks = Lock(region.kind), Looks()
            first = region.next_size(0, PAGE)
            try:
                region.grow(0, first)
                region.attach(first)
            except (OSError, ValueError, MemoryError):  # address space is limited, and short: begin with the least
                first = 64 * PAGE
                region.grow(0, first)
                region.attach(first)
        except BaseException:
            region.close()
            for one in (lock, looks):
                if one is not None:
                    one.close()
            raise
        self._open(region, lock, looks, uuid.uuid4().hex, available)
        for word, value in {**_first_words(), ENDS: first}.items():
            self._head[word] = value
        self._set_budget(budget)
        self._register()

    def _join(self, path: str, budget: Budget, explicit: bool, available: Optional[Callable[[], int]]) -> None:
        "The region of a named file, which may be in use. Who finds that it is not begins a session."
        looks, region = Looks(), None
        locks = [store._lock for store in list(_STORES.values()) if store.cache_file is not None]
        try:
            with cachefile.opened(path, _first_words(), locks) as (fd, lock, alone):
                region, status = Region("named", fd), os.fstat(fd)
                region.attach(PAGE)
                with suppress(OSError, ValueError, MemoryError):  # a page is enough to see that the rest is unsound
                    _first_segment(region)
                uid = f"{status.st_dev}:{status.st_ino}:{region.words[0][cachefile.IDENTITY]}"
                self._open(region, lock, looks, uid, available or partial(system.disk_available, path))
                self.cache_file = path
                lock_file = os.fstat(lock.fd).st_ino
                if not alone and self._head[LOCK_FILE] != lock_file:
                    why = "is in use under another lock file: it has another name, too, or its .lock file was deleted."
                    raise CacheFileError(path, f"{why} End the other processes first.")
                if self._head[BUSY] and not alone:  # a writer was killed beside others that live
                    self._recount()
                    self._head[STATE] = _state(region.maps[0])
                    self._head[BUSY] = 0
                sound = self._sound(status.st_size)
                if not sound and not alone:
                    raise CacheFileError(path, "is damaged while other processes use it. End these first.")
                if alone:
                    self._begin_session(sound, status.st_size)
                    self._head[LOCK_FILE] = lock_file
                if alone or explicit:
                    self._set_budget(budget)
        except BaseException:
            looks.close()
            if region is not None:
                region.forget(0)  # a mapping that a traceback keeps would keep the file in use
            raise
        self._register()

    def _open(
        self,
        region: Region,
        lock: Lock,
        looks: Looks,
        uid: str,
        available: Callable[[], int],
    ) -> None:
        self._region, self._lock, self._looks = region, lock, looks
        # In a named file every record is verified before its first use in a session.
        self._marks = looks if region.kind == "named" else None
        self.made = time.monotonic_ns()
        self.uid, self._available = uid, available
        self.places: List[str] = []
        self._head = region.words[0]
        self._released = self._head[RELEASES]
        self._looked: Tuple[float, int, int] = (-1e9, 0, 0)
        self._after_fork()

    def _register(self) -> None:
        _STORES[self.uid] = self
        finalize(self, _close, self._region, self._lock, self._looks).atexit = False  # the system takes all back

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
        generation, digest = self._head[GENERATION], _digest(key)
        found = self._find(digest)
        if found is None:
            return None
        offset, block = found
        if self._marks is not None and not self._verify(digest, offset, block):
            return None
        segment, at = self._region.locate(offset)
        array: np.ndarray = np.ndarray(
            SHAPE.unpack_from(block, 32)[: block[6]], DTYPES[block[5]], self._region.maps[segment], at + BLOCK.size
        )
        return Record(array, int.from_bytes(block[TAG], "little"), generation, block)

    def __bool__(self) -> bool:
        return True  # an empty store is a store

    def __contains__(self, key: bytes) -> bool:
        return self._find(_digest(key)) is not None

    def __len__(self) -> int:
        return self._head[RECORDS]

    def source(self, key: bytes) -> Optional[Tuple[int, int]]:
        "`Source.version` of the file that the record was made from; None without a record or without a file."
        found = self._find(_digest(key))
        return _source(found[1]) if found else None

    def fresh(self, record: Record, item: Any, since: int) -> bool:
        """Return whether the file `item` was looked at since the time `since`, and is what `record` was made from.

        Where nobody has looked since then, this does, and everybody else need not. True for what was made of no file.
        """
        version = record.source
        if version is None or self._looks.when(record.number) >= since:
            return True
        now = Source.of(item)
        if now is None or now.version != version:
            return False
        self._looks.add(record.number, now.looked)
        return True

    def holds(self, key: bytes) -> bool:
        "As `key in store`, and in a named file that the record is right: looked at now if it was not yet."
        digest = _digest(key)
        found = self._find(digest)
        return found is not None and (self._marks is None or self._verify(digest, *found))

    def verified(self, key: bytes) -> bool:
        "Whether the record under `key` needs no look any more: it was written or verified in this session."
        found = self._find(_digest(key))
        return found is not None and (self._marks is None or self._marks.when(_number(found[1])) > 0)

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
        # The tail is moved before an offset is published: one past it is from before a purge, or of a damaged file.
        if offset >= self._head[TAIL] or (offset >= self._region.ends[-1] and not self._reach(offset)):
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

    def _verify(self, digest: bytes, offset: int, block: bytes) -> bool:
        "Whether a record of a named file can be served. A first look may find that it can't, and drops it."
        marks = self._marks
        assert marks is not None
        if self._released != self._head[RELEASES]:  # somebody purged: let go of what this process has mapped
            self._released = self._head[RELEASES]
            self._region.release(write=False)
        if marks.when(_number(block)):
            return True
        looked = time.monotonic_ns()
        if self._fault(offset, block):
            with self._held():
                found = self._find(digest)
                if found and found[0] == offset and self._fault(offset, block):
                    self._head[GENERATION] += 1
                    self._drop(offset)
            return False
        marks.add(_number(block), looked)
        return True

    def _fault(self, offset: int, block: bytes) -> str:
        "What is wrong with a record: its header, its pixels or the file that they came from; empty if nothing is."
        whole = self._whole(offset)
        if whole != block:
            return "its header is damaged"
        fields = BLOCK.unpack(block)
        nbytes, checksum = fields[5], fields[14]
        segment, at = self._region.locate(offset)
        with memoryview(self._region.maps[segment]) as view, view[
            at + BLOCK.size : at + BLOCK.size + nbytes
        ] as payload:
            if self._marks is not None and zlib.crc32(payload) != checksum:
                return "its pixels are not those that were written"
        path, maker = self._origin(offset, block)
        if self._marks is not None and self.maker and maker != self.maker:
            return f"it was decoded by {os.fsdecode(maker) or 'another version'}, and here is {os.fsdecode(self.maker)}"
        if path:
            now = Source.of(path)
            if now is None:
                return "its source is gone"
            if now.version != _source(block):
                return "its source has changed"
        return ""

    def _origin(self, offset: int, block: bytes) -> Tuple[bytes, bytes]:
        "The path of a record's source, and its maker, as far as they were kept."
        segment, at = self._region.locate(offset)
        start, nbytes = at + BLOCK.size, BLOCK.unpack(block)[5]
        path, _, maker = self._region.maps[segment][start + _array_bytes(block) : start + nbytes].partition(b"\0")
        return path, maker

    # -- writing ----------------------------------------------------------------------------------------------

    def put(
        self,
        key: bytes,
        array: np.ndarray,
        *,
        tag: int = 0,
        source: Union[Source, Tuple[int, int], None] = None,
        replace: bool = False,
        generation: Optional[int] = None,
    ) -> bool:
        """Store a copy of `array` under `key`; True if the key is there afterwards, False if it was refused.

        Refused is what does not fit the budget or the machine, and what began in another `generation` than the
        present one (pass the one read before decoding). A key that is there stays as it is, unless `replace`.
        `tag` is a number of 32 bits for the caller's use; `source` the size and time of the file, see `Source`. Raises
        TypeError for a dtype and ValueError for a shape that can't be kept (numbers and booleans in up to four
        dimensions can).
        """
        array = np.asarray(array)
        if array.dtype not in DTYPES:
            raise TypeError(f"an array of dtype {array.dtype} can't be stored: use one of {_names(DTYPES)}")
        if array.ndim > 4 or max(array.shape, default=0) >= 1 << 32:
            raise ValueError(f"an array of shape {array.shape} can't be stored: four dimensions are the most")
        origin = NO_SOURCE if source is None else Source(*source)
        digest, checksum = _digest(key), 0
        if self._marks is None:
            origin = origin._replace(path=b"")
        else:
            origin = origin._replace(path=origin.path + b"\0" + self.maker if self.maker else origin.path)
            if replace or not self._find(digest):  # summed up before the mutex is taken
                checksum = zlib.crc32(origin.path, zlib.crc32(np.ascontiguousarray(array).data))
        with self._held():
            if generation is not None and generation // PURGE != self._head[GENERATION] // PURGE:
                return False
            found = self._find(digest)
            if found and not replace:
                return True
            offset = number = 0
            need = BLOCK.size + array.nbytes + len(origin.path)
            if self._fits(need + self._index_growth()) and self._room_in_index():
                number = self._head[ORDINAL] & 0xFFFFFFFF  # as the record will have it
                offset = self._append(PIXELS, digest, array, tag, origin, checksum)
            if offset:
                if self._marks is not None or origin.looked:
                    self._looks.add(number, origin.looked)
                self._publish(digest, offset)
                self._head[RECORDS] += 1
                self._head[NBYTES] += array.nbytes
            if found:  # a record that was to be replaced is wrong, whether there is room for the new one or not
                self._head[GENERATION] += 1
                self._drop(found[0])
        return bool(offset)

    @contextmanager
    def claimed(self, key: bytes, wait: bool = False) -> Iterator[bool]:
        """Hold `key` against other processes while decoding for it; False where another does, unless one waits.

        Nothing else depends on it: it saves decoding an image twice where several processes fill a store. A killed
        holder holds it no more, and processes that would wait for one another do not.
        """
        with self._lock.claimed(KEYS_LOCK + int.from_bytes(_digest(key)[:8], "little") % N_KEYS_LOCK, wait) as mine:
            yield mine

    def note(self, key: bytes) -> bool:
        """True for the first caller with this `key` since the last purge, over all processes: who is to speak.

        In a named file it holds for a session.
        """
        digest, offset = self._note_digest(key), 0
        with self._held():
            if self.noted(key):
                return False
            if self._room_in_index():
                offset = self._append(NOTE, digest, np.empty(0, "u1"), 0, NO_SOURCE, 0)
            if offset:
                self._publish(digest, offset)
            elif self._marks is not None:  # not a byte is left on the disk: this process and its children know
                self._marks.add(_note_number(digest))
        return True

    def noted(self, key: bytes) -> bool:
        "Whether `note` was called with this `key` since the last purge."
        digest = self._note_digest(key)
        found = self._find(digest) is not None
        return found or (self._marks is not None and self._marks.when(_note_number(digest)) > 0)

    def _note_digest(self, key: bytes) -> bytes:
        return _digest(b"note:%d:" % self._head[SESSION] + key)

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
            if self._marks is not None:
                self._head[STATE] = _state(self._region.maps[0])
            self._head[BUSY] = 0  # not in a `finally`: after an exception the next holder counts again

    def _append(self, kind: int, digest: bytes, array: np.ndarray, tag: int, source: Source, checksum: int) -> int:
        "Write a block at the tail of the log and move the tail past it; its offset, or 0 where no memory is to be had."
        head, region = self._head, self._region
        nbytes = array.nbytes + len(source.path)
        need = _length(nbytes)
        offset = head[TAIL]
        region.forget(head[SEGMENTS])  # a segment that an interrupted call did not get to tell the others of
        if not self._reach(head[ENDS + head[SEGMENTS] - 1] - 1):
            return 0
        try:
            while True:
                if offset >= region.ends[-1] and not self._extend(need, kind):
                    return 0
                end = region.ends[region.locate(offset)[0]]
                if offset + need <= end:
                    break
                if end - offset >= BLOCK.size:  # the rest of this segment is too small: a gap to step over
                    region.reserve(offset, BLOCK.size)
                    self._write_gap(offset, end - offset)
                    if self._marks is not None:  # a file was given room for it
                        region.punch(offset + BLOCK.size, end)
                head[FREED] += end - offset
                head[TAIL] = offset = end
            region.reserve(offset, need)
            region.write(offset + BLOCK.size, array)
            if source.path:
                region.write(offset + BLOCK.size + array.nbytes, np.frombuffer(source.path, np.uint8))
        except OSError:
            return 0
        shape, number = (*array.shape, 0, 0, 0, 0)[:4], head[ORDINAL] & 0xFFFFFFFF
        code, (size, mtime) = DTYPES.index(array.dtype), source.version
        head[ORDINAL] = number + 1
        fields = (kind, code, array.ndim, digest, nbytes, *shape, size, mtime, number, tag, checksum)
        self._write_header(offset, fields)
        head[TAIL] = offset + need
        return offset

    def _write_header(self, offset: int, fields: Tuple[Any, ...]) -> None:
        block = BLOCK.pack(BLOCK_MAGIC, *fields, 0)[:-4]
        block += zlib.crc32(block).to_bytes(4, "little")
        if self._marks is not None:  # where a file has a hole and its disk no room, an error and no SIGBUS
            self._region.write(offset, np.frombuffer(block, np.uint8))
            return
        segment, at = self._region.locate(offset)
        self._region.maps[segment][at : at + BLOCK.size] = block

    def _write_gap(self, offset: int, length: int) -> None:
        self._write_header(offset, (GAP, 0, 0, bytes(16), length - BLOCK.size, 0, 0, 0, 0, *NO_SOURCE[:2], 0, 0, 0))

    def _extend(self, need: int, kind: int) -> bool:
        "Add a segment for a block of `need` bytes; False where the system or a limit of this process refuses."
        head, region = self._head, self._region
        n, end = head[SEGMENTS], region.ends[-1]
        need = -(-need // PAGE) * PAGE
        if n >= MAX_SEGMENTS:
            return False
        size = region.next_size(end, need)
        if size and self._marks is not None and kind == PIXELS:
            # The budget is the file's, what it has in reserve included. Index and notes are let pass: they are small,
            # and records without an index are lost.
            room = (self.budget() + 2 * PAGE - self.allocated()) // PAGE * PAGE
            size = min(size, room) if room >= need else 0
        while size:
            try:
                region.grow(end, size)
                region.attach(end + size)
                head[ENDS + n] = end + size
                head[SEGMENTS] = n + 1
                return True
            except (OSError, ValueError, MemoryError):
                pass
            size = max(size // 2 // PAGE * PAGE, need) if size > need else 0  # a nearly full disk
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
        table, kept = np.zeros(1 << bits, np.uint64), 0
        if old:
            segment, at = self._region.locate(old >> 8 << 4)
            words, base = self._region.words[segment], (at + BLOCK.size) // 8
            for value in words[base : base + (1 << bits - 1)]:
                block = self._whole((value & OFFSET) << 4) if value else None
                if block and block[4] != GAP:  # else a record that was dropped
                    _place(table, int.from_bytes(block[8:16], "little"), value)
                    kept += 1
        offset = self._append(TABLE, bytes(16), table, 0, NO_SOURCE, 0)
        if not offset:
            return False
        head[INDEX], head[SLOTS] = offset >> 4 << 8 | bits, kept
        if old:
            self._punch(old >> 8 << 4)
        return True

    def _publish(self, digest: bytes, offset: int) -> None:
        "Point the index at `offset`, in the slot that `digest` has or in a free one: one aligned store of eight bytes."
        index = self._head[INDEX]
        segment, at = self._region.locate(index >> 8 << 4)
        words, base, mask = self._region.words[segment], (at + BLOCK.size) // 8, (1 << (index & 255)) - 1
        home = int.from_bytes(digest[:8], "little")
        slot = home & mask
        for _ in range(mask):
            value = words[base + slot]
            if not value or (value >> 48 == home >> 48 and self._block((value & OFFSET) << 4, digest)):
                break
            slot = slot + 1 & mask
        self._head[SLOTS] += not words[base + slot]
        words[base + slot] = offset >> 4 | home >> 48 << 48

    def _drop(self, offset: int) -> None:
        "Make a gap of a record, which is then no key's, and give its memory back."
        block = self._whole(offset)
        if block is None:  # of a damaged file: nobody is to take this for a header again
            self._region.write(offset, np.zeros(4, np.uint8))
            return
        self._write_gap(offset, BLOCK.size + BLOCK.unpack(block)[5])
        self._head[RECORDS] -= 1
        self._head[NBYTES] -= _array_bytes(block)
        self._punch(offset)

    def _punch(self, offset: int) -> None:
        segment, at = self._region.locate(offset)
        nbytes = BLOCK.unpack_from(self._region.maps[segment], at)[5]
        self._region.punch(offset + BLOCK.size, offset + BLOCK.size + nbytes)
        self._head[FREED] += _whole_pages(offset, nbytes)

    def _whole(self, offset: int) -> Optional[bytes]:
        "A copy of the header at `offset` if it is one, and its block fits where it lies."
        if not self._reach(offset):
            return None
        segment, at = self._region.locate(offset)
        if self._marks is not None:  # to look into a hole through the mapping would fill it, on tmpfs
            block = os.pread(self._region.fd, BLOCK.size, offset)
        else:
            block = self._region.maps[segment][at : at + BLOCK.size]
        if (
            len(block) < BLOCK.size
            or block[:4] != BLOCK_MAGIC
            or zlib.crc32(block[:-4]) != int.from_bytes(block[-4:], "little")
        ):
            return None
        nbytes = BLOCK.unpack(block)[5]
        if not PIXELS <= block[4] <= GAP or block[5] >= len(DTYPES) or block[6] > 4:
            return None
        if offset + _length(nbytes) > self._region.ends[segment] or (
            block[4] == PIXELS and _array_bytes(block) > nbytes
        ):
            return None
        return block

    def _blocks(self, stop: int) -> Iterator[Tuple[int, int, Optional[bytes]]]:
        "`(offset, length, header)` of every block of the log up to `stop`; without a header where that is damaged."
        offset = PAGE
        while offset < stop and self._reach(offset):
            segment, _ = self._region.locate(offset)
            end = self._region.ends[segment]
            if end - offset < BLOCK.size:
                offset = end
                continue
            block = self._whole(offset)
            length = _length(BLOCK.unpack(block)[5]) if block else self._damage(offset, min(stop, end))
            yield offset, length, block
            offset += length

    def _damage(self, offset: int, stop: int) -> int:
        "How far it is from a damaged block to the next whole one, or to `stop`, which is in the same segment."
        fd = self._region.fd
        here = offset + BLOCK.size  # so that a gap can be made of it
        while here < stop:
            if hasattr(os, "SEEK_DATA"):
                try:
                    here = max(here, os.lseek(fd, here, os.SEEK_DATA))
                except OSError as error:
                    if error.errno == errno.ENXIO:  # nothing but a hole
                        break
            chunk = os.pread(fd, min(1 << 20, stop - here), here) if hasattr(os, "pread") else b""
            found = chunk.find(BLOCK_MAGIC)
            while found >= 0:
                if (here + found) % ALIGN == 0 and here + found < stop and self._whole(here + found):
                    return here + found - offset
                found = chunk.find(BLOCK_MAGIC, found + 1)
            if len(chunk) < len(BLOCK_MAGIC):
                break
            here += len(chunk) - len(BLOCK_MAGIC) + 1
        return stop - offset

    def _recount(self) -> None:
        "After a writer that died: index what it had finished, and count what there is. Costs a walk over the log."
        head = self._head
        records = nbytes = freed = 0
        for offset, length, block in self._blocks(head[TAIL]):
            if block and block[4] in (PIXELS, NOTE):
                digest = block[8:24]
                if not self._find(digest) and self._room_in_index():
                    self._publish(digest, offset)
                found = self._find(digest)
                if found and found[0] == offset:
                    records += block[4] == PIXELS
                    nbytes += _array_bytes(block) if block[4] == PIXELS else 0
                    continue
            elif block and block[4] == TABLE and offset == head[INDEX] >> 8 << 4:
                continue
            freed += _whole_pages(offset, length - BLOCK.size)
        head[RECORDS], head[NBYTES], head[FREED] = records, nbytes, freed

    # -- a named file -----------------------------------------------------------------------------------------

    def _sound(self, size: int) -> bool:
        "Whether the words of the header agree with one another and with the file's `size`."
        head = self._head
        n, tail, index, page = head[SEGMENTS], head[TAIL], head[INDEX], self._region.maps[0]
        if head[BUSY] or not 1 <= n <= MAX_SEGMENTS or head[STATE] != _state(page):
            return False
        ends = list(head[ENDS : ENDS + n])
        if not _ascending(ends, size) or self._region.ends[0] != ends[0]:
            return False
        if not PAGE <= tail <= ends[-1] or tail % ALIGN:
            return False
        offset, bits = index >> 8 << 4, index & 255
        if head[NBYTES] + head[RECORDS] * BLOCK.size + head[FREED] > tail or head[SLOTS] > 1 << bits:
            return False
        return not index or (bits <= MOST_BITS and offset >= PAGE and offset + BLOCK.size + (8 << bits) <= tail)

    def _begin_session(self, sound: bool, size: int) -> None:
        "Mend what was left unsound, cut off what is not used, and count from zero. Nobody else has the file open."
        head = self._head
        head[BUSY] = 1
        kept = head[RECORDS]
        if not sound or (not head[INDEX] and head[TAIL] > PAGE):  # the latter: there was no room for an index
            kept = self._mend(size)
            head = self._head
        region, end = self._region, PAGE
        if not kept:  # gaps and what is left of an index
            head[INDEX] = head[SLOTS] = head[FREED] = head[NBYTES] = 0
            head[GENERATION] += PURGE
            head[TAIL] = PAGE
        else:
            end = next(one for one in head[ENDS : ENDS + head[SEGMENTS]] if one >= head[TAIL])
        os.ftruncate(region.fd, end)
        # One segment instead of many, whose number is limited. Where there is no address space for it, they stay.
        region.forget(1)
        segments, first = head[SEGMENTS], head[ENDS]
        head[SEGMENTS], head[ENDS] = 1, end
        try:
            _first_segment(region)
        except (OSError, ValueError, MemoryError):
            head[SEGMENTS], head[ENDS] = segments, first
            head[SEGMENTS] = 1 + list(head[ENDS : ENDS + segments]).index(end)
        self._head = head = region.words[0]
        for word in range(COUNTERS, ENDS):
            head[word] = 0
        head[SESSION] = uuid.uuid4().int >> 64
        head[STATE] = _state(self._region.maps[0])
        head[BUSY] = 0
        self._released = head[RELEASES]

    def _mend(self, size: int) -> int:
        """After a killed writer, a cut or damage: index the blocks of the log that are whole; how many records.

        Costs a walk over the log, some ten microseconds a record; pixels are looked at when they are first asked for.
        """
        head, region, end = self._head, self._region, size // PAGE * PAGE
        n = head[SEGMENTS]
        ends = list(head[ENDS : ENDS + n]) if 1 <= n <= MAX_SEGMENTS else [0]
        cut = not _ascending(ends, end)
        if cut:
            ends = [end]
        for i, one in enumerate(ends):
            head[ENDS + i] = one
        head[SEGMENTS] = len(ends)
        try:
            _first_segment(region)
        except (OSError, ValueError, MemoryError) as error:
            raise CacheFileError(self.cache_file or "", f"can't be mapped: {error}. {cachefile.HOPELESS}") from error
        self._head = head = region.words[0]
        log = list(self._blocks(ends[-1]))
        while log and log[-1][2] is None:  # what nothing follows was never used
            log.pop()
        head[TAIL] = log[-1][0] + log[-1][1] if log else PAGE
        damaged = sum(length for _, length, block in log if block is None)
        kept = self._index_anew(log)
        if cut or damaged:
            warnings.warn(
                f"cache_file={self.cache_file!r} was cut off or damaged: {kept:,} records of it are whole and "
                "kept, the others will be decoded again: load_data() does that at once.",
                stacklevel=2,
            )
        return kept

    def _index_anew(self, log: List[Tuple[int, int, Optional[bytes]]]) -> int:
        """An index of the records in `log`, of two of one key the one that was written later; gaps of all the rest.

        How many records there are. None is given up for want of room for an index: there is the room of the old one,
        and where that is not enough they lie in the log until a session finds room.
        """
        head = self._head
        head[INDEX] = 0  # first: who reads the new generation must not find what is about to go
        head[GENERATION] = (head[GENERATION] // PURGE + 1) % (PURGE >> 1) * PURGE
        head[SLOTS] = head[RECORDS] = head[NBYTES] = head[FREED] = 0
        kept: Dict[bytes, Tuple[int, int, bytes]] = {}
        for offset, _, block in log:
            if block and block[4] == PIXELS:
                known = kept.get(block[8:24])
                if known is None or _number(block) >= known[0]:
                    kept[block[8:24]] = _number(block), offset, block
        bits = FIRST_TABLE_BITS
        while (len(kept) + 1) * 5 > 4 << bits:
            bits += 1
        tables = [one for one in log if one[2] and one[2][4] == TABLE and BLOCK.unpack(one[2])[5] >= 8 << bits]
        reused = tables[-1][0] if tables else 0  # the last is the one that was in use, and has its room still
        for offset, length, block in log:
            there = block and block[4] == PIXELS and kept[block[8:24]][1] == offset
            if there or offset == reused:
                continue
            with suppress(OSError):  # no room for the header of a gap: it is stepped over as damage is
                if block is None or block[4] != GAP:
                    self._write_gap(offset, length)
                    self._region.punch(offset + BLOCK.size, offset + length)
            head[FREED] += _whole_pages(offset, length - BLOCK.size)
        table = np.zeros(1 << bits, np.uint64)
        for _, offset, block in kept.values():
            home = int.from_bytes(block[8:16], "little")
            _place(table, home, offset >> 4 | home >> 48 << 48)
        if reused:
            with suppress(OSError):
                self._region.reserve(reused, BLOCK.size + table.nbytes)
                self._region.write(reused + BLOCK.size, table)
                head[INDEX] = reused >> 4 << 8 | bits
        else:
            offset = self._append(TABLE, bytes(16), table, 0, NO_SOURCE, 0)
            head[INDEX] = offset >> 4 << 8 | bits if offset else 0
        if head[INDEX]:
            head[SLOTS] = head[RECORDS] = len(kept)
            head[NBYTES] = sum(_array_bytes(block) for _, _, block in kept.values())
        head[ORDINAL] = max([head[ORDINAL], *(number + 1 for number, _, _ in kept.values())])
        head[GENERATION] += 1
        return len(kept)

    def check(self, fix: bool = False) -> List[Problem]:
        """Look at every record and at the index; what is wrong. With `fix`, drop what is and index the rest again.

        A record of a named file is wrong when its pixels are not those that were written, or when the file that it was
        made from has changed or is gone. Costs reading the whole store, and a look at each source.
        """
        head = self._head
        problems: List[Problem] = []
        bad: List[Tuple[int, bytes]] = []
        structure = 0
        with self._held():
            looked, generation, log = time.monotonic_ns(), head[GENERATION], list(self._blocks(head[TAIL]))
            records, nbytes = head[RECORDS], head[NBYTES]
        for offset, length, block in log:
            if block is None:
                problems.append(Problem("", f"{length:,} bytes of the log, from byte {offset:,} on, are damaged"))
                structure += 1
            elif block[4] == PIXELS:
                found, fault, path = self._find(block[8:24]), self._fault(offset, block), self._origin(offset, block)[0]
                if found and found[0] == offset:
                    records, nbytes = records - 1, nbytes - _array_bytes(block)
                    if fault:
                        problems.append(Problem(os.fsdecode(path), fault))
                        bad.append((offset, block))
                    elif self._marks is not None:
                        self._marks.add(_number(block), looked)
                elif not found and self._whole(offset) == block:  # else it was dropped meanwhile
                    problems.append(Problem(os.fsdecode(path), "it is missing in the index"))
                    structure += 1
        if head[GENERATION] // PURGE != generation // PURGE:  # somebody has emptied it: what was seen is no more
            return self.check(fix)
        if (records, nbytes) != (0, 0) and not structure and head[GENERATION] == generation:
            problems.append(Problem("", "the counts in its header are wrong"))
            structure += 1
        if fix and problems:
            with self._held():
                if head[GENERATION] // PURGE != generation // PURGE:
                    return problems
                for offset, block in bad:
                    found = self._find(block[8:24])
                    if found and found[0] == offset:
                        head[GENERATION] += 1
                        self._drop(offset)
                if structure:
                    self._index_anew(list(self._blocks(head[TAIL])))
        return problems

    def sources(self) -> List[str]:
        "The paths that the records of a named file were made from, as many as there are. Costs a walk over the log."
        with self._held():
            log = list(self._blocks(self._head[TAIL]))
            paths = (self._origin(offset, block)[0] for offset, _, block in log if block and block[4] == PIXELS)
            return [os.fsdecode(path) for path in paths if path]

    def descriptors(self) -> Tuple[int, int, int]:
        "The descriptors that the store lives on."
        return self._region.fd, self._lock.fd, self._looks.fd

    def resident(self) -> int:
        "Bytes of the store that are in memory now: of a named file, what the system keeps of it."
        self._reach(self._head[ENDS + self._head[SEGMENTS] - 1] - 1)
        return self._region.resident()

    # -- budget -----------------------------------------------------------------------------------------------

    def set_max_ram(self, max_ram: MaxRam) -> None:
        "Set the budget for every process, from now on; what is already held stays."
        parsed = parse_max_ram(max_ram)
        with self._held():
            self._set_budget(parsed)

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
        return None if share == budget.DEFAULT_SHARE else share

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
        # A file is given room before it is used.
        reachable = (taken if self._marks is None else max(taken, self.allocated())) + self._available()
        limit = int(share * reachable) if most is None else most
        kept = budget.RESERVE_SHARE if self._marks is None else budget.DISK_RESERVE_SHARE
        return min(limit, reachable - min(budget.RESERVE_BYTES, int(kept * reachable)))

    def _fits(self, nbytes: int) -> bool:
        when, budget, taken = self._looked
        now = time.monotonic()
        if now - when > LOOK_AGAIN_SECONDS or self.taken - taken > LOOK_AGAIN_BYTES:
            budget = self.budget()
            self._looked = now, budget, self.taken
        return self.taken - PAGE + nbytes <= budget

    # -- the rest ---------------------------------------------------------------------------------------------

    def purge(self, file: bool = False) -> int:
        """Empty the store and give its memory back to the system at once, in every process that maps it.

        Returns the bytes of the records that were held. Views handed out before read zeros from now on, and
        writers that began before publish nothing.

        A named file keeps its records: it is written out, and its pages leave memory (in other processes that have it
        open, at their next read of it); returns the bytes of memory freed. With `file` it is emptied as well.
        """
        head = self._head
        if self._marks is not None and not file:
            before = self.resident()
            with self._held():
                head[RELEASES] += 1
            self._released = head[RELEASES]
            self._region.release()
            return max(0, before - self.resident())
        with self._held():
            freed, tail, end = head[NBYTES], head[TAIL], head[ENDS + head[SEGMENTS] - 1]
            self._reach(end - 1)
            head[INDEX] = 0  # first: who reads the new generation must not find an old record
            head[GENERATION] += PURGE
            offsets = [offset for offset, _, _ in self._blocks(tail)] if self._marks is not None else []
            head[TAIL] = PAGE
            head[RECORDS] = head[NBYTES] = head[SLOTS] = head[FREED] = 0
            if not self._region.punch(PAGE, end if self._marks is not None else -(-tail // PAGE) * PAGE):
                for offset in offsets:  # a file that can't have holes: nobody is to take these for blocks again
                    self._region.write(offset, np.zeros(4, np.uint8))
        return freed

    def count(self, hit: bool, n: int = 1) -> None:
        "Count `n` reads, as hits or misses."
        with self._threads:
            if self._pair is None:
                claimed = self._lock.claim(1, 1 + N_COUNTERS)
                self._pair = N_COUNTERS if claimed is None else claimed - 1
            word = COUNTERS + 2 * self._pair + (not hit)
            if self._pair < N_COUNTERS:
                self._head[word] += n
                return
        with self._held():
            self._head[word] += n

    def info(self) -> StoreInfo:
        "What the store holds and has served; see `StoreInfo`."
        head = self._head
        return StoreInfo(head[RECORDS], head[NBYTES], max(0, self.budget()), *self.reads())

    def reads(self) -> Tuple[int, int]:
        "Hits and misses so far, over all processes; costs some microseconds, where `info` asks for the budget, too."
        pairs = list(self._head[COUNTERS : COUNTERS + 2 * (N_COUNTERS + 1)])
        return sum(pairs[::2]), sum(pairs[1::2])

    def allocated(self) -> int:
        "Bytes of memory that the system has given the store, index and header page included."
        return self._region.allocated()

    @property
    def place(self) -> Optional[str]:
        "The dataset that the store was made for."
        return self.places[0] if self.places else None

    def __repr__(self) -> str:
        info = self.info()
        size, most = budget.format_size(info.nbytes), budget.format_size(info.max_ram)
        return f"ImageStore({info.records} records, {size} of {most}, {info.hits} hits, {info.misses} misses)"

    def __copy__(self) -> ImageStore:
        return self

    def __deepcopy__(self, memo: Dict[int, Any]) -> ImageStore:
        return self

    def __reduce__(self) -> Tuple[Any, ...]:
        # A process being spawned is sent the descriptors; a file gets the address, never the pixels.
        if get_spawning_popen() is not None:
            sent = send(self._region, self._lock, self._looks)
            told = {"places": self.places, "cache_file": self.cache_file, "maker": self.maker, "made": self.made}
            return _received, (self.uid, told, self._available, *sent)
        return _rejoined, (self.uid, self.place, self.rule, self.cache_file, self.maker)


# Held while a file is opened and its store comes into the registry; made anew in a forked child.
_OPENING = [threading.RLock()]
# All stores of this process that somebody holds; the last holder takes its store with it.
_STORES: WeakValueDictionary[str, ImageStore] = WeakValueDictionary()


def store_for(place: str, max_ram: MaxRam = None, cache_file: Any = None, maker: bytes = b"") -> ImageStore:
    """The store over `cache_file`; without one, that which the dataset at `place` already has, else a new one.

    An explicit `max_ram` sets its budget.
    """
    if cache_file is not None:
        return ImageStore(max_ram, cache_file=cache_file, place=place, maker=maker)
    found = [store for store in list(_STORES.values()) if place in store.places]
    if not found:
        return ImageStore(max_ram, place=place, maker=maker)
    if max_ram is not None:
        found[-1].set_max_ram(max_ram)
    return found[-1]


def _open_here(path: str) -> Optional[ImageStore]:
    "The store that this process has over the file `path`, if any."
    try:
        status = os.stat(path)
    except OSError:
        return None
    which = f"{status.st_dev}:{status.st_ino}:"
    return next((store for store in list(_STORES.values()) if store.uid.startswith(which)), None)


def send(region: Region, lock: Lock, looks: Looks) -> Tuple[str, Any, Any, Any]:
    "The descriptors for a process being spawned."
    return region.kind, sendable(region.fd), sendable(lock.fd), sendable(looks.fd)


def receive(kind: str, data: Any, lock: Any, looks: Any) -> Tuple[Region, Lock, Looks]:
    "What `send` sent, in the spawned process."
    return Region(kind, data.detach()), Lock(kind, lock.detach()), Looks(looks.detach())


def _received(uid: str, told: Dict[str, Any], available: Callable[[], int], kind: str, *sent: Any) -> ImageStore:
    region, mutex, looks = receive(kind, *sent)
    known = _STORES.get(uid)
    if known is not None:
        _close(region, mutex, looks)
        mutex.close()
        known._after_fork()  # closing a descriptor of the lock dropped what this process had claimed
        return known
    region.attach(PAGE)  # the header page first: it says how long the first segment is
    _first_segment(region)
    store = object.__new__(ImageStore)
    store._open(region, mutex, looks, uid, available)
    vars(store).update(told)
    store._register()
    return store


def _rejoined(
    uid: str, place: Optional[str], max_ram: MaxRam, cache_file: Optional[str] = None, maker: bytes = b""
) -> ImageStore:
    known = _STORES.get(uid)
    if known is None and cache_file is not None:
        try:
            return ImageStore(max_ram, cache_file=cache_file, place=place, maker=maker)
        except CacheFileError as error:  # another machine, perhaps
            warnings.warn(f"{error} Until then the images are kept in memory instead.", stacklevel=2)
    if known is None and place is not None:
        known = next((store for store in list(_STORES.values()) if place in store.places), None)
    return ImageStore(max_ram, place=place, maker=maker) if known is None else known


def _close(region: Region, lock: Lock, looks: Looks) -> None:
    region.close()
    looks.close()
    del lock  # which goes with the last store that has it


def _before_fork() -> None:
    for store in list(_STORES.values()):
        if store.before_fork is not None:
            store.before_fork()


def _after_fork() -> None:
    _OPENING[0] = threading.RLock()
    for store in list(_STORES.values()):
        store._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


def _first_words() -> Dict[int, int]:
    "The words of the header of a store that holds nothing, all others being zero."
    words = {ENDS: PAGE, SEGMENTS: 1, TAIL: PAGE}
    page = np.zeros(PAGE // 8, np.uint64)
    for word, value in words.items():
        page[word] = value
    return {**words, STATE: _state(page.tobytes())}


def _first_segment(region: Region) -> None:
    "Map the whole first segment instead of what of it is mapped; what the latter was stays if that can't be."
    end = region.words[0][ENDS]
    if region.ends == [end]:
        return
    maps, words, ends = region.maps, region.words, region.ends
    region.maps, region.words, region.ends = [], [], []
    try:
        region.attach(end)
    except BaseException:
        region.maps, region.words, region.ends = maps, words, ends
        raise


def _state(page: Any) -> int:
    "The checksum of the words of a header `page` that change with the log."
    n = min(int.from_bytes(page[8 * SEGMENTS : 8 * SEGMENTS + 8], sys.byteorder), MAX_SEGMENTS)
    return zlib.crc32(page[8 * ENDS : 8 * (ENDS + n)], zlib.crc32(page[8 * GENERATION : 8 * ORDINAL + 8]))


def _ascending(ends: List[int], most: int) -> bool:
    "Whether these are the ends of segments in a file of `most` bytes."
    steps = zip([0, *ends], ends)
    return all(end % PAGE == 0 and start < end for start, end in steps) and ends[-1] <= most


def _length(nbytes: int) -> int:
    "Of a block with a payload of `nbytes`."
    return -(-(BLOCK.size + nbytes) // ALIGN) * ALIGN


def _array_bytes(block: bytes) -> int:
    "Of the array in a block; the rest of its payload is the path of its source."
    count = 1
    for extent in SHAPE.unpack_from(block, 32)[: block[6]]:
        count *= extent
    return count * DTYPES[block[5]].itemsize


def _source(block: bytes) -> Optional[Tuple[int, int]]:
    "`Source.version` of the file that a record was made from, from its header."
    size, mtime = VERSION.unpack_from(block, 48)
    return None if size == NO_LIMIT else (size, mtime)


def _number(block: bytes) -> int:
    "Of a block, by which a session remembers that it was looked at."
    return int.from_bytes(block[64:68], "little")


def _note_number(digest: bytes) -> int:
    "Beyond the numbers of all blocks."
    return (1 << 32) + int.from_bytes(digest[:3], "little")


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
