"""`Memory`: the store that decoded images go to, and how they are read from it."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple
from weakref import ref

import numpy as np
import PIL.Image
import PIL.ImageFile
from fastai.vision.core import load_image

from ..batch.buffers import Buffers
from ..cache import ImageCache, PillowDecoder
from ..cache.cache import FULL, Fetched
from ..cache.decode import DECODER
from ..cache.keys import Unkeyable
from ..cache.messages import warn_user
from ..store import ImageStore, MaxRam, Record, format_size, parse_max_ram, shown, store_for


class FileDecoder(PillowDecoder):
    "Decode files as fastai's `load_image` does, and keep all of the PIL image: its info besides its pixels."

    def __init__(self, mode: str, most: Optional[int], labels: bool) -> None:
        super().__init__(mode, most, labels, whole=True)

    def _decode(self, item: Any) -> Tuple[PIL.Image.Image, Optional[Tuple[int, int]]]:
        return (load_image(item, self.mode), None) if self.most is None else super()._decode(item)


class Pixels(NamedTuple):
    """Hold the pixels of a file.

    - `array`: (height, width) or (height, width, channels); a view of shared memory if there is a `record`
    - `record`: the record that they were read from; None if they were decoded now
    """

    array: np.ndarray
    record: Optional[Record]


class Memory:
    """Read images of files, from a store where they are there.

    - `max_ram`, `cache_file`: see `ImageStore`; `place`: the dataset, whose store is used if it has one
    - `max_size`: images whose shorter side has more pixels are kept reduced to so many
    - `batches`: whether batches are made at once
    - `buffers`: memory for batches that are made in this process

    Raises what a store raises for `max_ram` and `cache_file`, and ValueError for a `max_size` that is no size.
    """

    def __init__(
        self, max_ram: MaxRam, cache_file: Any, max_size: Optional[int], batches: bool, place: Optional[str] = None
    ) -> None:
        if max_size is not None and (isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1):
            raise ValueError(f"max_size={max_size!r}: use a number of pixels for the shorter side, or None")
        if not isinstance(batches, bool):
            raise TypeError(f"batches={batches!r}: use True, or False to make each image on its own")
        parse_max_ram(max_ram)
        self.max_size, self.batches = max_size, batches
        if place is not None:
            self.store = store_for(place, max_ram, cache_file, DECODER)
        elif cache_file is not None:
            self.store = ImageStore.open(cache_file, max_ram, maker=DECODER)
        else:
            self.store = ImageStore(max_ram, maker=DECODER)
        self._forget()
        self.look_anew()

    def _forget(self) -> None:
        self.buffers = Buffers()
        self._caches: Dict[Tuple[str, bool, bool], ImageCache] = {}
        self._files: Dict[int, Tuple[Any, List[Any]]] = {}

    def __getstate__(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in ("max_size", "batches", "store", "since")}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __deepcopy__(self, memo: Any) -> Memory:
        return self

    def look_anew(self) -> None:
        "Look at the size and time of each file again when it is read next."
        self.since = time.monotonic_ns()
        self._caches.clear()

    def cache(self, mode: str, labels: bool) -> ImageCache:
        "Return the cache of images that are converted to `mode`; `labels`: their values are labels, as in masks."
        key = mode, labels, bool(PIL.ImageFile.LOAD_TRUNCATED_IMAGES)
        found = self._caches.get(key)
        if found is None:
            found = self._caches[key] = ImageCache(self.store, FileDecoder(mode, self.max_size, labels), self.since)
        return found

    def image(self, item: Any, mode: str, labels: bool) -> PIL.Image.Image:
        "Return the PIL image of a file, in memory of its own. Raises whatever opening it raises."
        try:
            return self._said(item, self.cache(mode, labels).fetch(item)).image  # type: ignore[no-any-return]
        except Unkeyable:
            return load_image(item, mode)  # type: ignore[no-any-return]

    def pixels(self, item: Any, mode: str, labels: bool) -> Pixels:
        "Return the pixels of a file, uncounted if they are a view. Raises whatever opening it raises."
        cache = self.cache(mode, labels)
        try:
            wanted = cache.decoder.keys(item)
        except Unkeyable:
            return Pixels(np.asarray(load_image(item, mode)), None)
        records = cache.records(wanted, item)
        if records is not None:
            return Pixels(records[0].array, records[0])
        return Pixels(np.asarray(self._said(item, cache.fetch(item, keys=wanted)).image), None)

    def files_of(self, tl: Any) -> List[Any]:
        "Return the files that `keep_files` was told the list `tl` opens."
        known = self._files.get(id(tl))
        return known[1] if known is not None and known[0]() is tl else []

    def keep_files(self, tl: Any, files: List[Any]) -> None:
        "Remember which files the list `tl` opens, for as long as it exists."
        self._files = {key: one for key, one in self._files.items() if one[0]() is not None}
        self._files[id(tl)] = ref(tl), files

    def say(self, note: str, text: str) -> None:
        "Warn, once per store and in one process."
        if not self.store.noted(note.encode()) and self.store.note(note.encode()):
            warn_user(text)

    def _said(self, item: Any, fetched: Fetched) -> Fetched:
        "Return `fetched`, after a warning if the image is not kept."
        if fetched.reason:
            text = f"{shown(item)} is not kept in memory, because {shown(fetched.reason)}. Others are kept."
            self.say(f"never {fetched.reason}", text)
        if fetched.outcome == FULL:
            self.say_full()
        return fetched

    def say_full(self) -> None:
        "Warn that not all images fit."
        store = self.store
        if store.rule == 0:
            return
        info, file = store.info(), store.cache_file
        where, more = ("in memory", "less memory in other processes") if file is None else (shown(file), "more disk")
        self.say(
            "full",
            f"images of {os.fspath(store.place or 'these DataLoaders')}: {where} there is no room for all of them. "
            f"{format_size(info.nbytes)} of at most {format_size(info.max_ram)} are taken; the others are opened from "
            f"disk every time. A larger max_ram, {more}, max_size or smaller images on disk would help.",
        )
