"""`Memory`: the store that decoded images go to, and how they are read from it."""

from __future__ import annotations

import time
import traceback
from contextlib import suppress
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple
from weakref import ref

import numpy as np
import PIL.Image
import PIL.ImageFile
from fastai.vision.core import load_image

from ..batch.buffers import Buffers
from ..cache import ImageCache, PillowDecoder
from ..cache.cache import FULL, Fetched
from ..cache.decode import DECODER, check_max_size
from ..cache.keys import Unkeyable
from ..cache.messages import reduced, warn_user
from ..store import ImageStore, MaxRam, brief, format_size, parse_max_ram, shown, store_for
from ..store.cachefile import resolve
from .stock import L

# The types of indices that are looked up: none of a user's own, whose `__index__` may do anything.
_INTS = {int, np.int32, np.int64}


class FileDecoder(PillowDecoder):
    "Decode files as fastai's `load_image` does, and keep all of the PIL image: its info besides its pixels."

    def __init__(self, mode: str, most: Optional[int], labels: bool) -> None:
        super().__init__(mode, most, labels, whole=True)

    def _decode(self, item: Any) -> Tuple[PIL.Image.Image, Optional[Tuple[int, int]]]:
        if self.most is not None:
            return super()._decode(item)
        try:
            return load_image(item, self.mode), None
        except Exception as error:
            _close_opened(error)
            raise


def _close_opened(error: BaseException) -> None:
    "Close the file that `load_image` had opened when it raised `error`: it leaves that to the garbage collector."
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for one in list(frame.f_locals.values()):
            if isinstance(one, PIL.ImageFile.ImageFile):
                one.close()


class Pixels(NamedTuple):
    """Hold the pixels of a file.

    - `array`: (height, width) or (height, width, channels); a view of shared memory if there is a `store`
    - `store`, `generation`: where they were read, and its generation before that; None if they were decoded now
    """

    array: np.ndarray
    store: Optional[ImageStore]
    generation: Optional[int]


class LookedUp(NamedTuple):
    """Hold the pixels of a file that was looked up before its turn.

    - `item`: the file, as its list had it; `cache`: where it was looked up
    """

    item: Any
    cache: ImageCache
    pixels: Pixels


def check_keywords(max_ram: MaxRam, cache_file: Any, max_size: Optional[int], batches: Optional[bool]) -> None:
    "Raise TypeError or ValueError for a keyword that makes no sense, whatever it is given to."
    if max_size is not None:
        check_max_size(max_size)
    if batches is not None and not isinstance(batches, bool):
        raise TypeError(f"batches={brief(batches)}: use True, or False to make each image on its own")
    parse_max_ram(max_ram)
    if cache_file is not None:
        resolve(cache_file)


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
        check_keywords(max_ram, cache_file, max_size, batches)
        self.max_size, self.batches = max_size, batches
        if place is not None:
            self.store = store_for(place, max_ram, cache_file, DECODER)
        elif cache_file is not None:
            self.store = ImageStore.open(cache_file, max_ram, maker=DECODER)
        else:
            self.store = ImageStore(max_ram, maker=DECODER)
        self._forget()
        self.look_anew()
        if max_size is not None:
            self.say(f"max_size {max_size}", reduced(self.name, max_size, "fastai's own DataLoaders"))
        if max_ram is not None:
            self._say_above(max_ram)

    def _forget(self) -> None:
        self.buffers = Buffers()
        self._caches: Dict[Tuple[str, bool, bool], ImageCache] = {}
        self._files: Dict[int, Tuple[Any, List[Any]]] = {}
        self._lists: Dict[int, Tuple[Any, ImageCache, ImageCache]] = {}

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

    def limit(self, max_ram: MaxRam) -> None:
        "Set the budget of the store, which the last `max_ram` decides; warn if the store holds more already."
        self.store.set_max_ram(max_ram)
        self._say_above(max_ram)

    def _say_above(self, max_ram: MaxRam) -> None:
        info = self.store.info()
        if info.nbytes > info.max_ram:
            self.say(
                f"above {max_ram}",
                f"{self.name}: with max_ram={max_ram!r} their store may take {format_size(info.max_ram)}, and it holds "
                f"{format_size(info.nbytes)} already. Nothing is added from now on, and nothing is dropped: to make "
                "the store smaller, call purge() first.",
            )

    @property
    def name(self) -> str:
        "Return what messages call these images."
        return f"images of {shown(self.store.place or 'these DataLoaders')}"

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

    def look_up(self, tl: Any, indices: Sequence[Any], mode: str, labels: bool) -> Sequence[Optional[LookedUp]]:
        """Look up the files of the list `tl` at `indices` at once; return those that are in memory, in their places.

        Everything else is None: it has to be asked for by `pixels` alone. Costs some microseconds, and one per file.
        """
        items, cache = tl.items, self.cache(mode, labels)
        items = items.items if type(items) is L else items
        records = None
        if type(items) is list and set(map(type, indices)) <= _INTS:
            with suppress(Exception):  # an index is out of range: reading that item raises what stock raises
                prefix = cache.decoder.prefix  # type: ignore[attr-defined]
                records = self._cache_of(tl, cache).read_many(items, np.array(indices, np.intp), prefix)
        if records is None:
            return [None] * len(indices)
        found = zip(indices, records.arrays())
        return [
            None if array is None else LookedUp(items[s], cache, Pixels(array, self.store, records.generation))
            for s, array in found
        ]

    def _cache_of(self, tl: Any, cache: ImageCache) -> ImageCache:
        "Return `cache` for the list `tl` alone: it remembers the digests of one list, which threads must not mix up."
        known = self._lists.get(id(tl))
        if known is not None and known[0]() is tl and known[1] is cache:
            return known[2]
        self._lists = {key: one for key, one in self._lists.items() if one[0]() is not None}
        made = cache.with_decoder(cache.decoder)
        self._lists[id(tl)] = ref(tl), cache, made
        return made

    def pixels(self, item: Any, mode: str, labels: bool, looked_up: Optional[LookedUp] = None) -> Pixels:
        """Return the pixels of a file, uncounted if they are a view. Raises whatever opening it raises.

        `looked_up`: what was found before; it is used if nothing has changed since.
        """
        cache = self.cache(mode, labels)
        if looked_up is not None and looked_up.item is item and looked_up.cache is cache:
            return looked_up.pixels
        try:
            wanted = cache.decoder.keys(item)
        except Unkeyable:
            return Pixels(np.asarray(load_image(item, mode)), None, None)
        records = cache.records(wanted, item)
        if records is not None:
            return Pixels(records[0].array, self.store, records[0].generation)
        return Pixels(np.asarray(self._said(item, cache.fetch(item, keys=wanted)).image), None, None)

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
            f"{self.name}: {where} there is no room for all of them. "
            f"{format_size(info.nbytes)} of at most {format_size(info.max_ram)} are taken; the others are opened from "
            f"disk every time. A larger max_ram, {more}, max_size or smaller images on disk would help.",
        )
