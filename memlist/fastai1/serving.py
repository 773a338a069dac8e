"""Serve one image from the cache of an `open`, inside a `get` that may be user code."""

from __future__ import annotations

from numbers import Integral
from pathlib import Path
from typing import Any, Callable, List, Optional, Tuple

from fastai.vision.data import SegmentationLabelList
from fastai.vision.image import Image, ImageSegment

from ..cache import keys
from ..cache.cache import FULL, HIT, KEPT, NEVER, Fetched, ImageCache
from ..cache.decode import Keys
from ..cache.randomness import VARIES
from . import messages, work
from .calls import Call, Opened, current, of_one, run_open
from .decoders import Stock, stock_open
from .owned import Owned


class Serving(Owned):
    "The part of `InMemory` that serves one image."

    def images(self) -> ImageCache:
        "Return the cache of this list's images."
        return self._images(self._function())

    def _images(self, function: Callable[[Any], Any]) -> ImageCache:
        "Return the cache for the results of `function`: fastai's own `open`, or the user's."
        owner = stock_open(function)
        if owner is None:
            return self._own_images(function)
        mask = owner is SegmentationLabelList
        mode, after_open, most = "L" if mask else self.convert_mode, self.after_open or None, self.max_size
        store, known = self._store, self._scratch.images
        if store is None or (self.x is not None and not self._final):
            store = self._shared()
        if known is not None and known.store is store:
            decoder: Any = known.decoder
            if decoder.settings == Stock.settings_now(mode, not mask, most) and decoder.after_open is after_open:
                return known
        made = Stock(mode, not mask, ImageSegment if mask else Image, after_open, most)
        self._scratch.images = ImageCache(store, made, self._since(store), self._scratch.stale)
        return self._scratch.images

    def _open_with(self, function: Callable[..., Any], fn: Any, args: Any, kwargs: Any) -> Any:
        "Call an `open` with more arguments than its item. Its result is not kept."
        call = current(self)
        if type(self).cache and not (call and call.opening):
            messages.say_never(self, function, "it is called with more than an item")
            self._record(call, fn, (), NEVER)
        return run_open(self, of_one(function, args, kwargs), fn)

    def _got(self, get: Callable[[Any], Any], i: Any) -> Any:
        "Call `get`; if it is user code, note what it opens."
        call = current(self)
        if self._family is None or (call is not None and call.getting is not None) or not isinstance(i, Integral):
            return get(i)
        return self._noted(get, i)[0]

    def _noted(self, get: Callable[[Any], Any], i: Any) -> Tuple[Any, List[Opened]]:
        "Call `get`; return the item and the images that were opened for it."
        family = self._family
        opened: List[Opened] = []
        with Call(self) as call:
            call.getting, call.opened = i, opened
            before = 0 if family is None else family.opens
            item = get(i)
        if family is None or not family.own_get or (not opened and family.opens != before):
            return item, opened  # the latter: it opened its images in other threads
        found = [(str(one.item) if isinstance(one.item, (str, Path)) else None, one.keys) for one in opened]
        family.note_opened(self._position(int(i)), found)
        family.idle = family.idle + 1 if not found else -len(self.items)
        if family.idle >= min(3, len(self.items)):
            messages.say_never_opens(self)
        return item, opened

    def _serve(self, function: Callable[[Any], Any], item: Any, images: Optional[ImageCache] = None) -> Fetched:
        "Return the image of `item` from `images`, the cache for `function`; decode it if it is not there."
        call = current(self)
        if (call is not None and call.opening) or not type(self).cache:
            return Fetched(run_open(self, function, item), NEVER, own=False)
        try:
            images = images or self._images(function)
            if self._set_in_get and images.decoder.one_for_all and (call is None or call.getting is None):
                # `open` may read what was set for another item
                return Fetched(run_open(self, function, item), NEVER, own=False)
            wanted = images.decoder.keys(item)
        except Exception as error:  # a user's value may raise anything
            image = run_open(self, function, item)  # raises what stock raises, if the item can't be opened
            messages.say_never(self, function, self._unkeyable(item, error))
            self._record(call, item, (), NEVER)
            return Fetched(image, NEVER, own=False)
        loading = call is not None and call.say is not None
        if loading and call is not None and call.opened is not None:
            images.changed(wanted, item)
        try:
            fetched = images.fetch(item, keep=loading or self.lazy, count=not loading, keys=wanted)
        except BaseException:
            self._record(call, item, wanted, KEPT)
            raise
        if self._family is not None:
            self._record(call, item, wanted, KEPT if fetched.outcome == HIT else fetched.outcome)
        if fetched.outcome != HIT:
            self._say_outcome(function, fetched)
            if fetched.outcome == FULL and not loading:
                work.say_full(self, [self])
        return fetched

    def _record(self, call: Optional[Call], item: Any, wanted: Keys, outcome: str) -> None:
        "Record that a user's `get` has opened `item`."
        if self._family is not None:
            self._family.opens += 1
            if call is not None and call.opened is not None:
                call.opened.append(Opened(item, wanted, outcome))

    def _say_outcome(self, function: Callable[[Any], Any], fetched: Fetched) -> None:
        "Say why an image is not kept, or not in the `cache_file`."
        if fetched.reason:
            messages.say_never(self, function, fetched.reason)
        elif fetched.outcome == KEPT and self._family is not None and self._unversioned():
            messages.say_unversioned(self)

    def _unkeyable(self, item: Any, error: Exception) -> str:
        "Return why no key could be made for an item: because of the item itself, or of values that `get` sets."
        try:
            keys.item_key(item)
        except Exception as fault:
            return f"its items can't be told apart: {fault}"
        return VARIES if self._set_in_get else str(error)
