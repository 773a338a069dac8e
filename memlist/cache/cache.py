"""`ImageCache`: the images of one decoder in one store. It knows nothing of fastai, and keeps no state by thread."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..store import ImageStore, Record, Source
from .decode import Decoded, Decoder, Keys, Size, UnknownClass

# What became of an image. HIT: it was served from the store. KEPT: it was decoded, and is kept. NEVER: it can't be
# kept. FULL: there is no room. LATER: another process is decoding it. THERE: there was nothing to do.
HIT, KEPT, NEVER, FULL, LATER, THERE = "hit", "kept", "never", "full", "later", "there"

#: For so many records a cache remembers, by a byte each, that it has looked at their files.
MOST_SEEN = 1 << 26


class Fetched(NamedTuple):
    """An image, and what became of it: HIT, KEPT, NEVER or FULL.

    - `original`: its height and width before it was reduced, if it was
    - `reason`: why it is not kept, if it can't be
    - `own`: whether it was made for this call alone, so that nobody else holds it
    """

    image: Any
    outcome: str
    original: Optional[Size] = None
    reason: str = ""
    own: bool = True


class ImageCache:
    """Fetch images from `store`, and decode those that are not there with `decoder`.

    `since`: the time (`time.monotonic_ns`) from which on the file of an image has to have been looked at; 0 to believe
    what is there. `stale`: keys whose files have changed, to be decoded again.
    """

    def __init__(self, store: ImageStore, decoder: Decoder, since: int = 0, stale: Optional[Set[Keys]] = None) -> None:
        self.store, self.decoder, self.since = store, decoder, since
        self.stale: Set[Keys] = set() if stale is None else stale
        self._seen = bytearray()

    def with_decoder(self, decoder: Decoder) -> ImageCache:
        "Return a cache of the same records, from which another decoder makes other images."
        made = ImageCache(self.store, decoder, self.since, self.stale)
        made._seen = self._seen
        return made

    def fetch(self, item: Any, keep: bool = True, count: bool = True, keys: Optional[Keys] = None) -> Fetched:
        """Return the image of `item`, from the store or decoded now.

        - `keep`: put what is decoded into the store
        - `count`: count the read as a hit or a miss
        - `keys`: those of `item`, if the caller has made them

        Raises `keys.Unkeyable`, and what decoding raises. Processes that want the same image from a cache file at the
        same time wait for the first of them to decode it. A hit costs its keys, two reads of shared memory per key and
        what `decoder.restore` takes.
        """
        store, wanted = self.store, self.decoder.keys(item) if keys is None else keys
        hit = self._hit(wanted, item)
        if hit is None and store.cache_file is None:
            return self._miss(wanted, item, keep, count)
        if hit is None:
            with store.claimed(wanted[0], wait=True):
                hit = self._hit(wanted, item)
                if hit is None:
                    return self._miss(wanted, item, keep, count)
        if count:
            store.count(True)
        return hit

    def fetch_many(self, items: Sequence[Any], keep: bool = True) -> List[Fetched]:
        "Return the images of `items`, each as `fetch` does; reads are counted once for all."
        found = [self.fetch(item, keep, count=False) for item in items]
        hits = sum(one.outcome == HIT for one in found)
        for hit, n in ((True, hits), (False, len(found) - hits)):
            if n:
                self.store.count(hit, n)
        return found

    def fill(self, item: Any, keys: Optional[Keys] = None) -> Fetched:
        "Decode `item` and keep it, without making an image of it. Raises what decoding raises."
        wanted = self.decoder.keys(item) if keys is None else keys
        generation, source = self.store.generation, Source.of(item)
        return self._keep(wanted, self.decoder.pieces(item), source, generation)

    def holds(self, keys: Keys) -> bool:
        "Return whether all records under `keys` are there, and right: in a cache file they are verified now."
        return all(self.store.holds(key) for key in keys)

    def fresh(self, record: Record, item: Any) -> bool:
        "Return whether `record` is of the file `item` as it is, or was since `since`; ask the store once per record."
        number = record.number
        if number < len(self._seen) and self._seen[number]:
            return True
        if not self.store.fresh(record, item, self.since):
            return False
        if number < MOST_SEEN:
            self._seen.extend(bytes(max(0, number + 1 - len(self._seen))))
            self._seen[number] = 1
        return True

    def changed(self, keys: Keys, item: Any) -> bool:
        "Return whether a record under `keys` is of another version of the file `item`; it is decoded again then."
        now = Source.of(item)
        then = [(key, self.store.source(key)) for key in keys]
        if now is None:  # of a file that is gone, what this session has seen stays
            changed = any(one is not None and not self.store.verified(key) for key, one in then)
        else:
            changed = any(one is not None and one != now.version for _, one in then)
        if changed:
            self.stale.add(keys)
        return changed

    def _hit(self, wanted: Keys, item: Any) -> Optional[Fetched]:
        "Return the image under `wanted` if all its records are there, fresh, and stay while it is made."
        store, decoder = self.store, self.decoder
        if wanted in self.stale or not decoder.trusted():
            return None
        while True:
            records = []
            for key in wanted:
                record = store.read(key)
                if record is None:
                    return None
                records.append(record)
            # All records of an image have to be of one version of its file, and of the one that is there.
            alike = len(records) == 1 or records[0].version == records[1].version
            if not alike or (self.since and not self.fresh(records[0], item)):
                self.stale.add(wanted)
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
                self.stale.add(wanted)  # what somebody wrote into the file makes no image
                return None
            if store.current(records[0]):  # it was read first: if it still stands, so do the others
                return Fetched(decoder.finish(restored), HIT, decoder.original(records))

    def _miss(self, wanted: Keys, item: Any, keep: bool, count: bool) -> Fetched:
        "Decode `item`, and keep it if asked to."
        if count:
            self.store.count(False)
        generation, source = self.store.generation, Source.of(item)
        decoded = self.decoder.open(item, keep)
        if not keep:
            return Fetched(decoded.image, KEPT, decoded.original, "", not self.decoder.one_for_all)
        return self._keep(wanted, decoded, source, generation)

    def _keep(self, wanted: Keys, decoded: Decoded, source: Optional[Source], generation: int) -> Fetched:
        "Put the records of an image into the store."
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
            if not there:  # there is no room, or somebody has purged the store since
                return FULL if self.store.generation == generation else KEPT, ""
        if decoded.pieces:
            self.stale.discard(wanted)
        return KEPT, ""
