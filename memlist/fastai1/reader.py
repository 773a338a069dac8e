"""`Reader`: read the items of one list for one batch, as bytes."""

from __future__ import annotations

from typing import Any, Callable, Optional

import torch

from ..cache import keys
from ..cache.cache import ImageCache
from .decoders import Raw, Stock


class Reader:
    """Return item `i` of a list as `Pixels` if it is stored as bytes; else as the list itself returns it.

    The list's settings are read once, so a reader is valid for one batch. `close` counts its hits. A hit costs making
    its key and a look-up in the index.
    """

    def __init__(self, il: Any, function: Callable[[Any], Any]) -> None:
        self.il, self.function, self.hits = il, function, 0
        self.items, self.sizes = il.items, getattr(il, "sizes", {})
        images = il._images(function) if il._serves_its_items() and type(il).cache else None
        self.images: Optional[ImageCache] = None
        self.straight = False
        if images is not None and isinstance(images.decoder, Stock):
            self.raw = Raw(images.decoder)
            self.images = images.with_decoder(self.raw)
            self.straight = not self.raw.whole and self.raw.most is None and not images.stale

    def __call__(self, i: int) -> Any:
        images = self.images
        if images is None:
            return self.il[i]
        if self.straight:
            try:
                record = images.store.read(self.raw.prefix + keys.file_key(self.items[i]))
            except Exception:
                record = None  # perhaps the item can't be opened: `_serve` raises what stock raises
            if record is not None and (not images.since or images.fresh(record, self.items[i])):
                self.hits += 1
                made = self.raw.restore((record,))
                self.sizes[i] = made.size
                return made
        served = self.il._serve(self.function, self.items[i], images)
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image

    def close(self) -> None:
        "Count the hits."
        if self.hits and self.images is not None:
            self.images.store.count(True, self.hits)
            self.hits = 0
