"""Put the parts of a store together. Only this module knows how an anonymous store and a named file differ."""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import Callable, List, MutableSet, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import cachefile, registry, repair, system
from .budget import MaxRam, budget_for, parse_max_ram
from .bytelocks import ByteLocks
from .counters import Counters
from .descriptor import anonymous, default_kind
from .fulldisk import freeze, is_writable, thaw, unless_full
from .index import Index, Plan
from .layout import BLOCK_BYTES, COUNTERS, IDLE, MAX_TRAILER, PURGE, RECORD, Block, Header
from .lock import Lock
from .log import Log
from .mounts import Room
from .region import Region, named_region
from .source import Source
from .system import PAGE
from .threads import Result
from .trust import FileTrust, Looks, Trust

Available = Callable[[], int]
# An index is made for records that may never come only if it takes less than one part in so many of the budget's rest.
RESERVED_PART = 64


class Entry(NamedTuple):
    "Hold a record to store: the digest of its key, its array, its tag and its source."

    digest: bytes
    array: np.ndarray
    tag: int
    source: Source


class Ready(NamedTuple):
    "Hold an `Entry`, what follows its array, the checksum of both, and the bytes that the record needs."

    digest: bytes
    array: np.ndarray
    tag: int
    source: Source
    trailer: bytes
    checksum: int
    need: int


class Parts:
    "Hold the parts of one store, and change them under one mutex."

    def __init__(self, region: Region, lock: Lock, looks: Looks, available: Available, maker: bytes) -> None:
        header = Header(region.header_words, region.set_words)
        self.header, self.region, self.lock, self.looks = header, region, lock, looks
        if region.persistent:
            self.trust: Trust = FileTrust(looks, maker, header, region)
            self.counters = Counters(looks.counters(), 0, lock)
        else:
            self.trust = Trust(looks, maker)
            self.counters = Counters(header.words, COUNTERS, lock)
        self.budget = budget_for(header, region, available)
        self.log = Log(header, region, self.budget)
        self.index = Index(self.log)

    def after_fork(self) -> None:
        "Replace the locks among threads: another thread of the parent may have held them. The mutex is not among them."
        self.log.after_fork()
        self.counters.after_fork()

    def locked(self, work: Callable[[], Result]) -> Result:
        """Call `work` while holding the mutex; if an earlier holder did not finish, repair the log first.

        Raises OSError, and leaves everything as it is, if the disk of a named file is full.
        """
        return self.lock.run(work, self._begin, self._finish)

    def steady(self, work: Callable[[], Result]) -> Result:
        "Call `work`, which only reads the log, while holding the mutex. Writes nothing but a repair, if one is needed."

        def looked() -> Result:
            mended = False  # where a writer was killed or has raised an exception; the disk may get room at any time
            if self.header.busy and self.log.is_mapped() and is_writable(self.header, self.region):
                with unless_full():
                    self._begin()
                    mended = True
            result = work()
            if mended:
                with unless_full():
                    self._finish()
            return result

        return self.lock.run(looked)

    def _begin(self) -> None:
        thaw(self.header, self.region)
        if self.header.busy:
            self.region.touch()  # if the disk is full, say so before the log is walked
            if not self.log.is_mapped():  # what this process can't see would count as lost
                raise OSError(errno.ENOMEM, "too little address space, or too few descriptors, to mend a store")
            repair.recover(self.index)
        self.header.checkpoint()

    def _finish(self) -> None:
        self.trust.seal()
        self.header.busy = IDLE

    def put(self, entries: Sequence[Entry], replace: bool, generation: Optional[int]) -> List[bool]:
        "Store copies of arrays while holding the mutex once; return what `ImageStore.put` returns, for each."
        there: List[bool] = []
        with unless_full():
            self._put(entries, replace, generation, there)
        return there + [False] * (len(entries) - len(there))

    def _put(self, entries: Sequence[Entry], replace: bool, generation: Optional[int], there: List[bool]) -> None:
        header, index = self.header, self.index
        ready = [self._ready(entry) for entry in entries]  # slow, so before taking the mutex
        least, growth = min(one.need for one in ready), index.growth(len(ready))
        fits = self.budget.fits(least + index.growth())
        if not fits and not replace and not header.busy:  # nothing will be written, so do without the mutex
            known = generation is None or generation // PURGE == header.purges
            there += [known and index.find(one.digest) is not None for one in ready]
            return
        plan = index.plan(len(ready)) if growth and fits else None  # slow, too, for a large index

        def write() -> None:
            if generation is None or generation // PURGE == header.purges:
                for one in ready:
                    there.append(self._write(one, replace, plan))

        self.locked(write)

    def _ready(self, entry: Entry) -> Ready:
        trailer = self.trust.trailer(entry.source)
        need = BLOCK_BYTES + entry.array.nbytes + len(trailer)
        return Ready(*entry, trailer, self.trust.checksum(entry.array, trailer), need)

    def _write(self, new: Ready, replace: bool, plan: Optional[Plan]) -> bool:
        "Write one record, unless it is there; return whether it is there now. Needs the mutex."
        header, index, log, trust = self.header, self.index, self.log, self.trust
        if len(new.trailer) > MAX_TRAILER:
            return False
        found = index.find(new.digest)
        if found and not replace:
            return True
        if found:
            log.expect_drop(found[0])
        offset, growth = 0, index.growth()
        if self.budget.fits(new.need + growth) and (not growth or index.grow(plan)):
            number = log.next_number
            version = trust.version(new.source)
            offset = log.append(
                RECORD, new.digest, new.array, new.trailer, tag=new.tag, version=version, checksum=new.checksum
            )
        if offset:
            trust.written(offset, number, new.source)
            index.publish(new.digest, offset)
            header.records += 1
            header.nbytes += new.array.nbytes
        if found:  # the old record is outdated, even if the new one does not fit
            header.generation += 1
            log.drop(found[0], trust.known(*found))
        return bool(offset)

    def purge(self, file: bool) -> int:
        "Empty the store, or without `file` only drop the file from memory; see `ImageStore.purge`."
        if file:
            with unless_full():
                return self._empty()
            self.lock.run(self._give_back)
            try:
                return self._empty()
            except OSError as error:
                why = "the disk of a cache file is full: to empty the file, make room for a few kilobytes, or delete it"
                raise OSError(error.errno, why) from error
        before = self.resident()
        with unless_full():
            self.locked(self.trust.release)
        self.region.release()
        return max(0, before - self.resident())

    def _empty(self) -> int:
        "Empty the log. What a killed writer has left need not be repaired for that."
        return self.lock.run(self.log.empty, lambda: thaw(self.header, self.region), self._finish)

    def _give_back(self) -> None:
        "Give back to the disk what is not used yet."
        is_writable(self.header, self.region)

    def resident(self) -> int:
        "Return how many bytes of the store are in memory now."
        self.log.reach(self.header.end - 1)
        return self.region.resident()

    def reserve(self, n: int) -> bool:
        "Make the index large enough for `n` more records; see `ImageStore.reserve`."
        index = self.index
        if not self._affords(n):
            return False
        plan = index.plan(n)
        with unless_full():
            return self.locked(lambda: self._affords(n) and index.grow(plan, n))
        return False

    def _affords(self, n: int) -> bool:
        "Return whether an index for `n` more records takes a small part of what the budget has left."
        return self.budget.fits(RESERVED_PART * self.index.growth(n))

    def fault(self, offset: int, block: Block) -> str:
        "Return what is wrong with a record: its header, its pixels or its source; an empty string if nothing is."
        if self.log.whole(offset) != block:
            return "its header is damaged"
        return self.trust.fault(block, self.log.payload(offset, block))

    def verify(self, offset: int, block: Block) -> bool:
        "Verify a record before its first use, and drop it if it is wrong."
        looked = time.monotonic_ns()
        if not self.fault(offset, block):
            self.trust.verified(offset, block.number, looked)
            return True
        with unless_full():
            self.locked(lambda: self.drop_if_wrong(offset, block))
        return False

    def drop_if_wrong(self, offset: int, block: Block) -> None:
        "Drop a record if it is still in the index and still wrong. Needs the mutex."
        if self.index.has(block.digest, offset) and self.fault(offset, block):
            self.header.generation += 1
            self.log.drop(offset, sure=False)


def close_parts(region: Region, looks: Looks, lock: Lock) -> None:
    "Unmap and close everything except the lock, which other stores may use: it is closed with its last reference."
    region.close()
    looks.close()


def anonymous_parts(kind: Optional[str], max_ram: MaxRam, available: Optional[Available], maker: bytes) -> Parts:
    "Return the parts of a new anonymous store; `kind` is 'memfd', 'file' or None for the default."
    limit, region = parse_max_ram(max_ram), Region(kind or default_kind())
    try:
        lock = Lock(ByteLocks(anonymous(region.kind, "lock"), opened=True))
        looks = Looks()
        try:
            end = region.start()
        except BaseException:
            looks.close()
            raise
    except BaseException:
        region.close()
        raise
    parts = Parts(region, lock, looks, available or system.available_memory, maker)
    parts.header.start(end)
    parts.budget.set(limit)
    return parts


def named_parts(
    path: str, max_ram: MaxRam, available: Optional[Available], maker: bytes, locks: MutableSet[Lock]
) -> Tuple[Parts, str]:
    """Return the parts of the store over the file `path`, and its `uid`; raise `CacheFileError` if it can't be used.

    The process that begins a session sets the budget; one that joins does so only if it passes a `max_ram`. `locks` are
    those that this process already has, see `cachefile.opened`. Errors of the system are passed on.
    """
    limit, looks = parse_max_ram(max_ram), Looks()

    def joined(fd: int, lock: Lock, alone: bool) -> Tuple[Parts, str]:
        room = Room(path)
        region = named_region(fd, room.in_memory)
        try:
            region.attach(PAGE)
            parts = Parts(region, lock, looks, available or room, maker)
            repair.join(parts.index, parts.trust, path, os.fstat(lock.fd).st_ino, alone)
            if alone or max_ram is not None:
                parts.budget.set(limit)
        except BaseException:
            region.forget(0)  # else a traceback's reference to a mapping would keep the file in use
            raise
        return parts, registry.file_uid(os.fstat(fd), parts.header.identity)

    try:
        return cachefile.opened(path, locks, joined)
    except BaseException:
        looks.close()
        raise


def received_parts(
    region: Region, lock: Lock, looks: Looks, available: Available, maker: bytes, frozen: Tuple[bytes, ...]
) -> Parts:
    "Return the parts of a store whose descriptors another process has sent, and what it has from `fulldisk.frozen`."
    region.attach(PAGE)  # the header page holds the length of the first segment
    header = Header.of_page(bytearray(frozen[1])) if frozen else Header(region.header_words)
    with suppress(*repair.UNMAPPABLE):  # without address space, this process serves nothing
        region.attach_first(header.segment_end(0))
    parts = Parts(region, lock, looks, available, maker)
    if frozen:
        freeze(parts.header, region, *frozen)
    return parts
