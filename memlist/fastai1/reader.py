"""`Reader`: read the items of one list for one batch, as bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..batch.pixels import Pixels
from ..cache import keys
from ..cache.cache import ImageCache
from ..cache.decode import Size, original_size
from ..cache.digests import taken
from ..store import Records
from .decoders import Raw, Stock
from .sizes import Sizes

_BYTES = np.dtype(np.uint8)


class Hits(NamedTuple):
    """Hold the images of one list and one batch as they lie in the store: bytes, all of one shape.

    - `records`: where they lie
    - `shape`: height, width and channels
    - `divisor`, `cls`: see `Pixels`
    """

    records: Records
    shape: Tuple[int, ...]
    divisor: int
    cls: Any

    def pixels(self) -> List[Pixels]:
        "Return the pixels of each image, views into the store."
        arrays: List[Any] = self.records.arrays()
        return [Pixels(one.reshape(self.shape), self.divisor, self.cls, True) for one in arrays]


class Reader:
    """Return item `i` of a list as `Pixels` if it is stored as bytes; else as the list itself returns it.

    The list's settings are read once, so a reader is valid for one batch. `look` looks all indices of the batch up at
    once. Then either `all_hits` returns the images, or the reader is called for each index in turn. `close` counts the
    hits. An image that was not found in this way costs making its key and a look-up in the index.
    """

    def __init__(self, il: Any, function: Callable[[Any], Any]) -> None:
        self.il, self.function, self.hits = il, function, 0
        self.items, self.sizes = il.items, getattr(il, "sizes", {})
        images = il._images(function) if il._serves_its_items() and type(il).cache else None
        self.images: Optional[ImageCache] = None
        self.straight = False
        self.found: Optional[Records] = None
        self._at: Optional[np.ndarray] = None
        self._in_turn: Iterator[Tuple[Any, Optional[np.ndarray], int]] = iter(())
        if images is not None and isinstance(images.decoder, Stock):
            self.raw = Raw(images.decoder)
            self.straight = not self.raw.whole and not images.stale
            if self.straight:
                images.digests(self.raw.prefix)  # before it is copied: the next batch's copy needs them, too
            self.images = images.with_decoder(self.raw)

    def prepare(self) -> None:
        "Make what `look` needs for the whole list, before processes are forked that would each make it for themselves."
        if self.images is not None and self.straight:
            with suppress(Exception):  # items that are no sequence: the worker raises what stock raises
                self.images.digests(self.raw.prefix).make_all(self.items)

    def look(self, indices: np.ndarray) -> None:
        "Look up the items at `indices`, (B,), if they can be served by that alone."
        self._at = indices
        if self.images is not None and self.straight:
            try:
                self.found = self.images.read_many(self.items, indices, self.raw.prefix)
            except Exception:  # an index is out of range: reading that item will raise what stock raises
                self.found = None

    def all_hits(self) -> Optional[Hits]:
        "Return the images of the items that were looked up, if all are there as bytes of one shape; else None."
        found = self.found
        if found is None or not found.alike:
            return None
        dtype, shape = found.form()
        if dtype != _BYTES or len(shape) not in (2, 3) or 0 in shape:
            return None
        return Hits(found, (*shape, 1)[:3], self.raw.divisor, self.raw.cls)

    def serve(self, hits: Hits, indices: Sequence[int]) -> None:
        "Do what reading each of `hits` does besides: note the sizes of the images, and count."
        size = torch.Size(hits.shape[:2])
        if self.raw.most is None and type(self.sizes) is Sizes and self._at is not None:
            self.sizes.note(self._at, size)
        elif self.raw.most is None:
            self.sizes.update(dict.fromkeys(indices, size))
        else:
            originals = map(original_size, hits.records.headers.tags().tolist())
            self.sizes.update((i, size if one is None else torch.Size(one)) for i, one in zip(indices, originals))
        self.hits += len(indices)

    def in_turn(self, indices: Sequence[int]) -> None:
        "Prepare to be called for each of the items that were looked up, in their order."
        if self.found is not None:
            items = taken(self.items, np.array(indices, np.intp))
            self._in_turn = iter(list(zip(items, self.found.arrays(), self.found.headers.tags().tolist())))

    def __call__(self, i: int) -> Any:
        images = self.images
        if images is None:
            return self.il[i]
        item = self.items[i]
        if self.straight:
            made, original = self._hit(item, images)
            if made is not None:
                self.hits += 1
                self.sizes[i] = made.size if original is None else torch.Size(original)
                return made
        served = self.il._serve(self.function, item, images)
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image

    def _hit(self, item: Any, images: ImageCache) -> Tuple[Any, Optional[Size]]:
        "Return what is stored of `item`, as `Pixels` or an image, and its size before it was reduced; None if nothing."
        looked_up, array, tag = next(self._in_turn, (None, None, 0))
        # A user's code that runs between the items of a batch may put another one here.
        same = looked_up is item or (type(looked_up) is str and looked_up == item)
        if same and array is not None and array.dtype == np.uint8 and array.ndim in (2, 3):
            return self.raw.pixels(array, True), original_size(tag)
        try:
            record = images.store.read(self.raw.prefix + keys.file_key(item))
        except Exception:
            return None, None  # perhaps the item can't be opened: `_serve` raises what stock raises
        if record is None or (images.since and not images.fresh(record, item)):
            return None, None
        return self.raw.restore((record,)), original_size(record.tag)

    def close(self) -> None:
        "Count the hits."
        if self.hits and self.images is not None:
            self.images.store.count(True, self.hits)
            self.hits = 0
