"""`ImageStore`: arrays under keys, in memory that every process of a machine shares.

Readers take no lock. Writers hold one mutex while they copy one array, in an order of writes that is safe if they are
killed at any moment: see `log`. If a writer was killed, the next one finds the busy flag set and recounts the log.

A purge empties the index, increments the generation, and then gives the memory back. A view that `get` returned is
valid as long as the generation stays the same: convert first, then ask `current`, and read again if it is False.

All this holds for a named file, too; `parts` chooses the objects in which the two kinds of store differ.
"""

from __future__ import annotations

import os
import time
import uuid
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union
from weakref import finalize

import numpy as np

from . import cachefile, registry
from .budget import MaxRam, format_size, parse_max_ram
from .checking import Problem, check_store
from .layout import BLOCK_BYTES, DTYPES, digest_of, hash_of, storable, unpack_record
from .notes import Notes
from .parts import Entry, Parts, anonymous_parts, close_parts, named_parts
from .record import Record
from .source import NO_SOURCE, Source
from .threads import Result


class StoreInfo(NamedTuple):
    """Describe a store: its `records` and their `nbytes`, the present budget `max_ram` in bytes, and the `hits` and
    `misses` of all processes since the store was made. For a file: of this process, its parent and its children."""

    records: int
    nbytes: int
    max_ram: int
    hits: int
    misses: int


class ImageStore:
    """Keep arrays under keys of bytes, in anonymous memory that processes share and that is freed with the last store.

    `ImageStore.open` keeps them in a file instead.

    - `max_ram`: the budget, see `parse_max_ram`; a record that does not fit is refused, and none is ever evicted
    - `place`: the dataset that the store is for
    - `kind`: the kind of memory, `'memfd'` or `'file'`
    - `available`: a function that returns how many bytes the machine, or the disk of the file, can still give
    - `maker`: the name of the decoder; a named file stores it with each record, and serves no record of another maker

    The overhead per record is 88 bytes, and up to 32 for the index (in a file, also the path of its source). A `get`
    is a hash and two reads of shared memory: some microseconds, however many records there are. A `put` is one copy
    of the array under the mutex. In a file, a `put` and the first `get` of a session take 0.3 ms per megabyte more.
    """

    cache_file: Optional[str] = None
    #: Called before this process forks.
    before_fork: Optional[Callable[[], None]] = None

    def __init__(
        self,
        max_ram: MaxRam = None,
        *,
        place: Optional[str] = None,
        kind: Optional[str] = None,
        available: Optional[Callable[[], int]] = None,
        maker: bytes = b"",
        cache_file: None = None,
    ) -> None:
        if cache_file is not None:
            raise TypeError(f"ImageStore(cache_file={cache_file!r}): use ImageStore.open({cache_file!r}) for a file")
        self._use(anonymous_parts(kind, max_ram, available, maker), uuid.uuid4().hex, place)

    @classmethod
    def open(
        cls,
        path: Union[str, os.PathLike[str]],
        max_ram: MaxRam = None,
        *,
        place: Optional[str] = None,
        available: Optional[Callable[[], int]] = None,
        maker: bytes = b"",
    ) -> ImageStore:
        """Return the store over the file `path`: the one that this process already has, else a new one.

        All processes of a machine that open the file share its records, which last beyond the session. The file is
        created if it does not exist, and private to this user. Raises `CacheFileError` for a file that can't be used,
        and for every error of the system.
        """
        parse_max_ram(max_ram)  # first, because its errors are about something else
        path = cachefile.resolve(path)

        def known_or_new() -> ImageStore:
            known: Optional[ImageStore] = registry.over_file(path)
            if known is not None:
                if max_ram is not None:
                    known.set_max_ram(max_ram)
                known._trust.maker = maker or known.maker
                if place is not None and place not in known.places:
                    known.places.append(place)
                return known
            parts, uid = named_parts(path, max_ram, available, maker, registry.FILE_LOCKS)
            store = cls.__new__(cls)
            store.cache_file = path
            store._use(parts, uid, place)
            return store

        with cachefile.refusing(path):
            return registry.opening(known_or_new)

    def _use(self, parts: Parts, uid: str, place: Optional[str] = None) -> None:
        "Use these parts, and register as the store with this `uid`."
        self.parts, self._header, self._region = parts, parts.header, parts.region
        self._index, self._trust, self._looks = parts.index, parts.trust, parts.looks
        self._log, self._budget, self._counters, self._locked = parts.log, parts.budget, parts.counters, parts.locked
        self._notes, self.made, self.uid = Notes(parts), time.monotonic_ns(), uid
        self.places: List[str] = [] if place is None else [place]
        registry.STORES[uid] = self
        # Not at exit, because handlers that run then may still use the store.
        finalize(self, close_parts, parts.region, parts.looks, parts.lock).atexit = False

    # -- reading ----------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Optional[Record]:
        """Return the record under `key`, or None. Its array is a read-only view into shared memory, not a copy.

        Does not count as a hit or a miss: call `count` once you know that the view stayed valid.
        """
        record = self.read(key)
        if record is not None:
            record.array.flags.writeable = False
        return record

    def read(self, key: bytes) -> Optional[Record]:
        "Do as `get`, but return a writable view, because torch wraps no other. Callers must not write to it."
        generation, digest = self._header.generation, digest_of(key)
        found = self._index.find(digest)
        if found is None:
            return None
        offset, block = found
        if not self._trust.known(offset, block) and not self.parts.verify(offset, block):
            return None
        segment, at = self._region.locate(offset)
        code, ndim, a, b, c, d, number, tag = unpack_record(block)
        mapping = self._region.maps[segment]
        if not self._region.mapped:
            mapping, at = self._region.copy(offset + BLOCK_BYTES, block.array_bytes), -BLOCK_BYTES
        array: np.ndarray = np.ndarray((a, b, c, d)[:ndim], DTYPES[code], mapping, at + BLOCK_BYTES)
        return Record(array, tag, generation, number, block)

    def __bool__(self) -> bool:
        return True  # even if it is empty

    def __contains__(self, key: bytes) -> bool:
        return self._index.find(digest_of(key)) is not None

    def __len__(self) -> int:
        return self._header.records

    def source(self, key: bytes) -> Optional[Tuple[int, int]]:
        "Return `Trust.version` of the file that the record was made from; None if there is no record or no file."
        found = self._index.find(digest_of(key))
        return found[1].source if found else None

    def fresh(self, record: Record, item: Any, since: int) -> bool:
        """Return whether `record` was made from the present version of the file `item`, as examined after `since`.

        Examines the file if no process has done so since then. A record of no file is fresh while there is none.
        """
        if self._looks.when(record.number) >= since:
            return True
        now = Source.of(item)
        same = (None if now is None else self._trust.version(now)) == record.block.source
        if now is not None and same:
            self._looks.add(record.number, now.looked)
        return same

    def holds(self, key: bytes) -> bool:
        "Return whether there is a record under `key`; in a named file also verify it, if that was not done yet."
        found = self._index.find(digest_of(key))
        return found is not None and (self._trust.known(*found) or self.parts.verify(*found))

    def verified(self, key: bytes) -> bool:
        "Return whether there is a record under `key` that was written or verified in this session."
        found = self._index.find(digest_of(key))
        return found is not None and self._trust.known(*found)

    @property
    def generation(self) -> int:
        "Return a number that changes whenever views may have become invalid: at each purge and each replaced record."
        return self._header.generation

    @property
    def purges(self) -> int:
        "Return how often the store was purged."
        return self._header.purges

    def current(self, record: Record) -> bool:
        "Return whether everything read from `record` so far was valid."
        return self._header.generation == record.generation

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
        """Store a copy of `array` under `key`; return whether there is a record under `key` afterwards.

        False means that it was refused: it does not fit the budget or the machine, or the store was purged since
        `generation` (pass the one read before decoding). An existing record is kept, unless `replace`. `tag` is a
        32-bit number for the caller's use; `source` is the size and time of the file, see `Source`. Raises TypeError
        for a dtype, and ValueError for a shape, that can't be stored. Up to four dimensions can.
        """
        origin = NO_SOURCE if source is None else Source(*source)
        return self.parts.put((Entry(digest_of(key), storable(array), tag, origin),), replace, generation)[0]

    def reserve(self, n_records: int) -> bool:
        "Make the index large enough for `n_records` more, if the budget has 64 times that room; return whether it is."
        return self.parts.reserve(n_records)

    def claiming(self, key: bytes, work: Callable[[bool], Result], wait: bool = False) -> Result:
        """Call `work`, which decodes an image, while claiming `key` against other processes; return its result.

        Passes False to it if another process has the claim. This only keeps processes that fill a store from decoding
        the same image twice. With `wait`, wait for the other process, for a limited time: see `Lock.claiming`.
        """
        return self.parts.lock.claiming(hash_of(digest_of(key)), work, wait)

    def note(self, key: bytes) -> bool:
        """Return True for the first call with this `key` since the last purge, in any process; then return False.

        So only one process shows a message. In a named file a note lasts for one session.
        """
        return self._notes.add(key)

    def noted(self, key: bytes) -> bool:
        "Return whether `note` was called with this `key` since the last purge."
        return self._notes.has(key)

    def purge(self, file: bool = False) -> int:
        """Empty the store and give its memory back to the system at once, in every process that maps it.

        Returns the bytes of the records that were dropped. Earlier views read zeros from now on, and a `put` that began
        before the purge is refused.

        A named file keeps its records: it is written out, and its pages leave memory (in other processes that have it
        open, at their next read). It then returns the bytes of memory freed. With `file=True` the file is emptied.
        """
        return self.parts.purge(file or self.cache_file is None)

    def check(self, fix: bool = False) -> List[Problem]:
        """Verify every record and the index; return the problems. With `fix`, drop bad records and rebuild the index.

        A record of a named file is bad if its pixels are not those that were written, or if its source has changed or
        is gone. Costs reading the store, and a system call per source. With `fix`, a full disk is an OSError.
        """
        return check_store(self.parts, fix)

    # -- size and counts --------------------------------------------------------------------------------------

    def set_max_ram(self, max_ram: MaxRam) -> None:
        "Set the budget for every process, from now on. Existing records stay."
        limit = parse_max_ram(max_ram)
        self.parts.lock.run(lambda: self._budget.set(limit))

    @property
    def rule(self) -> MaxRam:
        "Return the budget as a `max_ram` that would set it again."
        return self._budget.rule

    @property
    def taken(self) -> int:
        "Return how many bytes of memory the store takes: records, their headers and the index."
        return self._budget.taken

    def budget(self) -> int:
        "Return how many bytes the store may take now, including those that it already takes."
        return self._budget.total()

    def fits(self, nbytes: int) -> bool:
        "Return whether a record of `nbytes` would fit now."
        return self._budget.fits(BLOCK_BYTES + nbytes)

    def count(self, hit: bool, n: int = 1) -> None:
        "Count `n` reads, as hits or misses."
        self._counters.count(hit, n)

    def reads(self) -> Tuple[int, int]:
        "Return hits and misses so far, over all processes. Cheaper than `info`, which also computes the budget."
        return self._counters.reads()

    def info(self) -> StoreInfo:
        "Return what the store holds and how often it was read; see `StoreInfo`."
        return StoreInfo(self._header.records, self._header.nbytes, max(0, self.budget()), *self.reads())

    def allocated(self) -> int:
        "Return how many bytes of memory (of disk, for a file) the system has given the store, overhead included."
        return self._region.allocated()

    def resident(self) -> int:
        "Return how many bytes of the store are in memory now; for a named file, in the page cache."
        return self.parts.resident()

    def sources(self) -> List[str]:
        "Return the paths that the records of a named file were made from. Costs a walk over the log."
        return self.parts.steady(lambda: [os.fsdecode(path) for path in self._log.paths()])

    def descriptors(self) -> Tuple[int, int, int]:
        "Return the descriptors that the store needs open."
        return self._region.fd, self.parts.lock.fd, self._looks.fd

    @property
    def maker(self) -> bytes:
        "Return the name of the decoder."
        return self._trust.maker

    @property
    def place(self) -> Optional[str]:
        "Return the dataset that the store was made for."
        return self.places[0] if self.places else None

    def __repr__(self) -> str:
        info = self.info()
        size, most = format_size(info.nbytes), format_size(info.max_ram)
        return f"ImageStore({info.records} records, {size} of {most}, {info.hits} hits, {info.misses} misses)"

    def __copy__(self) -> ImageStore:
        return self

    def __deepcopy__(self, memo: Dict[int, Any]) -> ImageStore:
        return self
