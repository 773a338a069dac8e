"""`ImageCache`: the images of one decoder in one store. It knows nothing of fastai and keeps no thread-local state."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from ..store import ImageStore, Put, Record, Records, Source, put_all, read_many
from .decode import Decoded, Decoder, Keys, Size, UnknownClass
from .digests import Digests

# Outcomes. HIT: served from the store. KEPT: decoded, and stored if asked to. NEVER: it can't be stored. FULL: there is
# no room. LATER: another process is decoding it. THERE: there was nothing to do.
HIT, KEPT, NEVER, FULL, LATER, THERE = "hit", "kept", "never", "full", "later", "there"

#: A cache remembers in one byte per record that it has looked at its file: for at most this many records.
MOST_SEEN = 1 << 26
#: So many bytes of small images are stored together.
TOGETHER = 1 << 20


class Fetched(NamedTuple):
    """An image and its outcome: HIT, KEPT, NEVER or FULL.

    - `original`: its height and width before it was reduced, if it was
    - `reason`: why it can't be stored, if it can't
    - `own`: whether it was made for this call, so that no other code holds a reference to it
    """

    image: Any
    outcome: str
    original: Optional[Size] = None
    reason: str = ""
    own: bool = True


class ImageCache:
    """Fetch images from `store`, and decode those that are not there with `decoder`.

    `since`: a record is served only if its file was looked at after this time (`time.monotonic_ns`); 0 to skip this
    check. `stale`: keys of images to decode again, because their files have changed.
    """

    def __init__(self, store: ImageStore, decoder: Decoder, since: int = 0, stale: Optional[Set[Keys]] = None) -> None:
        self.store, self.decoder, self.since = store, decoder, since
        self.stale: Set[Keys] = set() if stale is None else stale
        self._seen = bytearray()
        self._digests: Optional[Digests] = None

    def with_decoder(self, decoder: Decoder) -> ImageCache:
        "Return a cache of the same records with another decoder."
        made = ImageCache(self.store, decoder, self.since, self.stale)
        made._seen, made._digests = self._seen, self._digests
        return made

    def fetch(self, item: Any, keep: bool = True, count: bool = True, keys: Optional[Keys] = None) -> Fetched:
        """Return the image of `item`, from the store or decoded now.

        - `keep`: store the image if it is decoded now
        - `count`: count the read as a hit or a miss
        - `keys`: the keys of `item`, if the caller has made them

        Raises `keys.Unkeyable` and whatever decoding raises. If several processes want the same image of a cache file
        at the same time, the first one decodes it and the others wait. A hit costs making the keys, two reads of shared
        memory per key, and `decoder.restore`.
        """
        store, wanted = self.store, self.decoder.keys(item) if keys is None else keys
        hit = self._hit(wanted, item)
        if hit is None and store.cache_file is None:
            return self._miss(wanted, item, keep, count)
        if hit is None:

            def look_again(_: bool) -> Fetched:
                "Return what another process has decoded meanwhile, or decode it now."
                return self._hit(wanted, item) or self._miss(wanted, item, keep, count)

            hit = store.claiming(wanted[0], look_again, wait=True)
        if count and hit.outcome == HIT:
            store.count(True)
        return hit

    def fetch_many(self, items: Sequence[Any], keep: bool = True) -> List[Fetched]:
        "Fetch all `items`, and count hits and misses once for all of them."
        found = [self.fetch(item, keep, count=False) for item in items]
        hits = sum(one.outcome == HIT for one in found)
        for hit, n in ((True, hits), (False, len(found) - hits)):
            if n:
                self.store.count(hit, n)
        return found

    def digests(self, prefix: bytes) -> Digests:
        "Return the digests of a list's items under `prefix`. A cache keeps those of one list and one prefix."
        known = self._digests
        if known is None or known.prefix != prefix:
            known = self._digests = Digests(prefix)
        return known

    def read_many(self, items: Any, indices: np.ndarray, prefix: bytes) -> Optional[Records]:
        """Return the records of the files `items` at `indices`, under keys that begin with `prefix`, as far as known.

        What is not `there` has to be fetched, and so has everything if the result is None. Ask `store.current` after
        reading, and then count the hits. Costs what `store.many.read_many` costs, and some comparisons per item.
        """
        if self.stale:
            return None
        records = read_many(self.store, self.digests(prefix).of(items, indices))
        if self.since:
            records = records.only(np.array([self._looked(one) for one in records.headers.numbers().tolist()], bool))
        return records

    def fill(self, item: Any, keys: Optional[Keys] = None) -> Fetched:
        "Decode `item` and store its records, without making an image. Raises whatever decoding raises."
        wanted = self.decoder.keys(item) if keys is None else keys
        generation, source = self.store.generation, Source.of(item)
        return self._keep(wanted, self.decoder.pieces(item), source, generation)

    def fill_many(self, wanted: Sequence[Tuple[Any, Keys]]) -> List[Optional[str]]:
        """Decode items, given with their keys, and store their records together; return the outcome for each.

        It is None for those that have to be filled alone, because they could not be decoded or stored. Costs less than
        `fill` if images are small. Their records are stored whenever they take `TOGETHER` bytes.
        """
        generation, outcomes = self.store.generation, []  # type: int, List[Optional[str]]
        waiting: List[Put] = []
        places: List[int] = []  # of the items to which the records in `waiting` belong
        nbytes = 0

        def store() -> None:
            stored = [False] * len(places)
            with suppress(TypeError, ValueError):  # one of them can't be stored
                stored = put_all(self.store, waiting, generation)
            for place, there in zip(places, stored):
                if not there:
                    outcomes[place] = None
            del waiting[:], places[:]

        for place, (item, keys) in enumerate(wanted):
            outcomes.append(None)
            source = Source.of(item)
            with suppress(Exception):
                decoded = self.decoder.pieces(item)
                if decoded.pieces and not decoded.reason and keys not in self.stale:
                    waiting += [Put(key, piece.array, piece.tag, source) for key, piece in zip(keys, decoded.pieces)]
                    places += [place] * len(keys)
                    outcomes[place] = KEPT
                    nbytes += sum(piece.array.nbytes for piece in decoded.pieces)
            if nbytes > TOGETHER:
                store()
                nbytes = 0
        store()
        return outcomes

    def holds(self, keys: Keys) -> bool:
        "Return whether all records under `keys` are stored and valid. Those of a cache file are verified now."
        return all(self.store.holds(key) for key in keys)

    def fresh(self, record: Record, item: Any) -> bool:
        "Return whether `record` matched the file `item` at some time after `since`. Asks the store once per record."
        if record.number < len(self._seen) and self._seen[record.number]:
            return True
        if not self.store.fresh(record, item, self.since):
            return False
        self._see(record.number)
        return True

    def _looked(self, number: int) -> bool:
        "Return whether the file of record `number` was examined after `since`, in any process, and found unchanged."
        if number < len(self._seen) and self._seen[number]:
            return True
        if self.store.parts.looks.when(number) < self.since:
            return False
        self._see(number)
        return True

    def _see(self, number: int) -> None:
        if number < MOST_SEEN:
            self._seen.extend(bytes(max(0, number + 1 - len(self._seen))))
            self._seen[number] = 1

    def changed(self, keys: Keys, item: Any) -> bool:
        """Return whether `keys` are stale: the image has to be decoded again.

        They are marked as stale if the file `item` has changed since a record under them was made. If the file is gone,
        they are if the next read would look at it, and fail.
        """
        now = Source.of(item)
        version = None if now is None else self.store.parts.trust.version(now)
        for key in keys:
            then = self.store.source(key)
            differs = then != version and (then is not None or key in self.store)
            if differs and not (now is None and self._looked_at(key)):
                self.stale.add(keys)
        return keys in self.stale

    def _looked_at(self, key: bytes) -> bool:
        "Return whether the record under `key` is served without another look at its file."
        record = self.store.read(key) if self.store.verified(key) else None
        return record is not None and self._looked(record.number)

    def has(self, keys: Keys) -> bool:
        "Return whether there are records under `keys` that may be served, as far as is known without a look at files."
        return keys not in self.stale and all(key in self.store for key in keys)

    def records(self, wanted: Keys, item: Any) -> Optional[List[Record]]:
        """Return the records under `wanted`, the keys of `item`, if all are stored and of the present file; else None.

        Their arrays are views of shared memory: ask `store.current` of the first one after reading them.
        """
        if wanted in self.stale or not self.decoder.trusted():
            return None
        records = []
        for key in wanted:
            record = self.store.read(key)
            if record is None:
                return None
            records.append(record)
        # All records of an image must be of the same version of its file: the present one.
        alike = len(records) == 1 or records[0].version == records[1].version
        if not alike or (self.since and not self.fresh(records[0], item)):
            self.stale.add(wanted)
            return None
        return records

    def _hit(self, wanted: Keys, item: Any) -> Optional[Fetched]:
        "Return the image under `wanted` if all its records are stored, fresh, and unchanged while it is made."
        store, decoder = self.store, self.decoder
        while True:
            records = self.records(wanted, item)
            if records is None:
                return None
            try:
                restored = decoder.restore(records)
            except UnknownClass:
                return None
            except Exception:
                if not store.current(records[0]):
                    continue
                if store.cache_file is None:
                    raise
                self.stale.add(wanted)  # the record is intact, but no image can be made of it
                return None
            if store.current(records[0]):  # it was read first: if it is still current, so are the others
                return Fetched(decoder.finish(restored), HIT, decoder.original(records))

    def _miss(self, wanted: Keys, item: Any, keep: bool, count: bool) -> Fetched:
        "Decode `item`, and store it if `keep`."
        if count:
            self.store.count(False)
        generation, source = self.store.generation, Source.of(item)
        decoded = self.decoder.open(item, keep)
        if not keep:
            return Fetched(decoded.image, KEPT, decoded.original, "", not self.decoder.one_for_all)
        return self._keep(wanted, decoded, source, generation)

    def _keep(self, wanted: Keys, decoded: Decoded, source: Optional[Source], generation: int) -> Fetched:
        "Store the records of an image."
        outcome, reason = self._put(wanted, decoded, source, generation)
        return Fetched(decoded.image, outcome, decoded.original, reason, not self.decoder.one_for_all)

    def _put(self, wanted: Keys, decoded: Decoded, source: Optional[Source], generation: int) -> Tuple[str, str]:
        if decoded.reason:
            return NEVER if self.decoder.one_for_all else KEPT, decoded.reason
        for key, piece in zip(wanted, decoded.pieces):
            try:
                there = self.store.put(
                    key, piece.array, tag=piece.tag, source=source, replace=wanted in self.stale, generation=generation
                )
            except (TypeError, ValueError) as error:
                return NEVER, str(error)
            if not there:  # there is no room, or the store was purged meanwhile
                return FULL if self.store.generation == generation else KEPT, ""
        if decoded.pieces:
            self.stale.discard(wanted)
        return KEPT, ""
