"""Put the parts of a store together. Only this module knows how an anonymous store and a named file differ."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import Callable, ContextManager, Iterable, Optional

import numpy as np

from . import cachefile, repair, system
from .budget import Budget, DiskBudget, MaxRam, parse_max_ram
from .counters import Counters
from .descriptor import default_kind
from .fulldisk import is_writable, thaw, unless_full
from .index import Index
from .layout import BLOCK_BYTES, COUNTERS, IDLE, PURGE, RECORD, Block, Header
from .lock import Lock
from .log import Log
from .region import Region, named_region
from .source import Source
from .system import PAGE
from .trust import FileTrust, Looks, Trust

Available = Callable[[], int]
# An index is made for records that may never come only if it takes less than one part in so many of the budget's rest.
RESERVED_PART = 64


class Parts:
    "Hold the parts of one store, and change them under one mutex."

    def __init__(self, region: Region, lock: Lock, looks: Looks, available: Available, maker: bytes) -> None:
        header = Header(region.header_words, region.set_words)
        self.header, self.region, self.lock, self.looks = header, region, lock, looks
        if region.persistent:
            self.trust: Trust = FileTrust(looks, maker, header, region)
            self.budget: Budget = DiskBudget(header, region, available)
            self.counters = Counters(looks.counters(), 0, lock)
        else:
            self.trust, self.budget = Trust(looks, maker), Budget(header, region, available)
            self.counters = Counters(header.words, COUNTERS, lock)
        self.log = Log(header, region, self.budget)
        self.index = Index(self.log)

    def after_fork(self) -> None:
        "Replace the thread locks: another thread of the parent may have held them."
        self.lock.after_fork()
        self.log.after_fork()
        self.counters.after_fork()

    def held(self) -> ContextManager[None]:
        """Hold the mutex; if an earlier holder did not finish, repair the log first.

        Raises OSError, and leaves everything as it is, if the disk of a named file is full.
        """
        return self.lock.held(self._begin, self._finish)

    def steady(self) -> ContextManager[None]:
        "Hold the mutex to read the log. Writes nothing, unless an earlier holder did not finish."
        return self.lock.held(self._repair, self._seal)

    def _repair(self) -> None:
        if self.header.busy and is_writable(self.header, self.region):  # a writer was killed or has raised an exception
            self._begin()

    def _seal(self) -> None:
        if self.header.busy and is_writable(self.header, self.region):
            self._finish()

    def _begin(self) -> None:
        thaw(self.header, self.region)
        if self.header.busy:
            self.region.touch()  # if the disk is full, say so before the log is walked
            self.index.recount()
        self.header.checkpoint()

    def _finish(self) -> None:
        self.trust.seal()
        self.header.busy = IDLE

    def put(
        self,
        digest: bytes,
        array: np.ndarray,
        tag: int,
        source: Source,
        replace: bool,
        generation: Optional[int],
    ) -> bool:
        "Store a copy of `array`; see `ImageStore.put`."
        with unless_full():
            return self._put(digest, array, tag, source, replace, generation)
        return False

    def _put(
        self, digest: bytes, array: np.ndarray, tag: int, source: Source, replace: bool, generation: Optional[int]
    ) -> bool:
        header, index, log, trust = self.header, self.index, self.log, self.trust
        trailer = trust.trailer(source)
        checksum = trust.checksum(array, trailer)  # slow, so before taking the mutex
        need, growth = BLOCK_BYTES + array.nbytes + len(trailer), index.growth()
        fits = self.budget.fits(need + growth)
        if not fits and not replace and not header.busy:  # nothing will be written, so do without the mutex
            return (generation is None or generation // PURGE == header.purges) and index.find(digest) is not None
        plan = index.plan() if growth and fits else None  # slow, too, for a large index
        with self.held():
            if generation is not None and generation // PURGE != header.purges:
                return False
            found = index.find(digest)
            if found and not replace:
                return True
            if found:
                log.expect_drop(found[0])
            offset, growth = 0, index.growth()
            if self.budget.fits(need + growth) and (not growth or index.grow(plan)):
                number = log.next_number
                offset = log.append(RECORD, digest, array, trailer, tag=tag, source=source, checksum=checksum)
            if offset:
                trust.written(number, source)
                index.publish(digest, offset)
                header.records += 1
                header.nbytes += array.nbytes
            if found:  # the old record is outdated, even if the new one does not fit
                header.generation += 1
                log.drop(found[0])
        return bool(offset)

    def purge(self, file: bool) -> int:
        "Empty the store, or without `file` only drop the file from memory; see `ImageStore.purge`."
        if file:
            with unless_full(), self.held():
                return self.log.empty()
            with self.lock.held():
                is_writable(self.header, self.region)  # gives back to the disk what is not used yet
            try:
                with self.held():
                    return self.log.empty()
            except OSError as error:
                why = "the disk of a cache file is full: to empty the file, make room for a few kilobytes, or delete it"
                raise OSError(error.errno, why) from error
        before = self.resident()
        with unless_full(), self.held():
            self.trust.release()
        self.region.release()
        return max(0, before - self.resident())

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
        with unless_full(), self.held():
            return self._affords(n) and index.grow(plan, n)
        return False

    def _affords(self, n: int) -> bool:
        "Return whether an index for `n` more records takes a small part of what the budget has left."
        return self.budget.fits(RESERVED_PART * self.index.growth(n))

    def fault(self, offset: int, block: Block) -> str:
        "Return what is wrong with a record: its header, its pixels or its source; an empty string if nothing is."
        if self.log.whole(offset) != block:
            return "its header is damaged"
        with self.log.payload(offset, block) as payload:
            return self.trust.fault(block, payload)

    def verify(self, offset: int, block: Block) -> bool:
        "Verify a record before its first use, and drop it if it is wrong."
        looked = time.monotonic_ns()
        if not self.fault(offset, block):
            self.trust.verified(block.number, looked)
            return True
        with unless_full(), self.held():
            if self.index.has(block.digest, offset) and self.fault(offset, block):
                self.header.generation += 1
                self.log.drop(offset)
        return False


def close_parts(region: Region, looks: Looks, lock: Lock) -> None:
    "Unmap and close everything except the lock, which other stores may use: it is closed with its last reference."
    region.close()
    looks.close()


def anonymous_parts(kind: Optional[str], max_ram: MaxRam, available: Optional[Available], maker: bytes) -> Parts:
    "Return the parts of a new anonymous store; `kind` is 'memfd', 'file' or None for the default."
    limit, region = parse_max_ram(max_ram), Region(kind or default_kind())
    try:
        lock = Lock(region.kind)
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
    path: str, max_ram: MaxRam, available: Optional[Available], maker: bytes, locks: Iterable[Lock]
) -> Parts:
    """Return the parts of the store over the file `path`; raise `CacheFileError` if it can't be used.

    The process that begins a session sets the budget; one that joins does so only if it passes a `max_ram`. `locks` are
    those that this process already has, see `cachefile.opened`.
    """
    limit, looks, region = parse_max_ram(max_ram), Looks(), None
    try:
        with cachefile.opened(path, locks) as (fd, lock, alone):
            region = named_region(fd, system.is_memory(path))
            region.attach(PAGE)
            with suppress(*repair.UNMAPPABLE):  # if the rest is damaged, the first page is enough to tell
                region.attach_first(Header(region.header_words).segment_end(0))
            parts = Parts(region, lock, looks, available or partial(system.disk_available, path), maker)
            repair.join(parts.index, parts.trust, path, os.fstat(lock.fd).st_ino, alone)
            if alone or max_ram is not None:
                parts.budget.set(limit)
    except BaseException:
        looks.close()
        if region is not None:
            region.forget(0)  # else a traceback's reference to a mapping would keep the file in use
        raise
    return parts


def received_parts(region: Region, lock: Lock, looks: Looks, available: Available, maker: bytes) -> Parts:
    "Return the parts of a store whose descriptors another process has sent."
    region.attach(PAGE)  # the header page holds the length of the first segment
    region.attach_first(Header(region.header_words).segment_end(0))
    return Parts(region, lock, looks, available, maker)
