"""fastai's image lists, served from RAM: the mixin `InMemory`, the twins of fastai's own lists, and the data bunch."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
import threading
import time
import types
import zlib
from multiprocessing.context import get_spawning_popen
from numbers import Integral
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import PIL.ImageFile
import torch
from fastai.basic_data import DataBunch
from fastai.data_block import ItemList, ItemLists, LabelList, LabelLists
from fastai.torch_core import try_int
from fastai.vision.data import (
    ImageDataBunch,
    ImageImageList,
    ImageList,
    ObjectItemList,
    PointsItemList,
    SegmentationItemList,
    SegmentationLabelList,
)
from fastai.vision.gan import GANItemList
from fastai.vision.image import Image, ImageSegment

from ..cache import forks, keys
from ..cache.decode import DECODER, DIFFERS, DRAWS, VARIES, Decoded, Raw, Stock, UnknownClass, Whole, stock_open
from ..cache.family import Family
from ..cache.filling import (
    FULL,
    KEPT,
    NEVER,
    THERE,
    CacheInfo,
    Job,
    cache_info,
    expected_bytes,
    is_loaded,
    load_data,
    named,
    purge,
    warn_user,
)
from ..store import system
from ..store.store import ImageStore, Source, store_for
from ..store.system import MaxRam

# The packages whose `get` is not a user's own.
LIBRARIES = ("fastai", "memlist")
# The attributes that fastai and we keep books in: a list whose `open` is the user's own is the same after they are set.
BOOKKEEPING = {"items", "x", "ignore_empty", "processor", "c", "loss_func", "pad_idx", "sizes", "label_cls", "warn"}
BOOKKEEPING |= {"copy_new", "num_parts", "max_ram", "cache_file", "_scratch", "_label_list", "_split", "_store"}
BOOKKEEPING |= {
    "_final",
    "_lazy",
    "_family",
    "_origin",
    "_positions",
    "_set_later",
    "_set_in_get",
    "_set_in_open",
    "_building",
}
_ITEM_OF = ItemList.__getitem__
_SCALARS = (type(None), bool, int, float, str, bytes)

Decoder = Any  # Stock or Whole


class Served(NamedTuple):
    "An image, whether it was made for this call alone, and its height and width before it was reduced, if it was."

    image: Image
    own: bool
    original: Optional[Tuple[int, int]] = None


class Moment(threading.local):
    "Keep what one thread is doing with one list."

    #: Inside a user's `open`: what it opens by ours is not cached a second time.
    opening = False
    #: Inside a user's `get`, whose item this is; what it has opened so far; what the last one has.
    getting: Optional[int] = None
    opened: Optional[List[Tuple[Any, Tuple[bytes, ...], str]]] = None
    last: Sequence[Tuple[Any, Tuple[bytes, ...], str]] = ()
    #: Inside `load_data`: reads are not counted, and warnings wait for its end.
    filling = False
    #: Making a list of items selected by their indices.
    selecting = False
    #: By the size that they have now: the sizes of images that were reduced since the last `get`.
    originals: Dict[Any, Any] = {}  # noqa: RUF012 - replaced, never changed


class Scratch:
    "Keep what a list knows in one process. It is not pickled: a list that comes out of a file counts as just built."

    def __reduce__(self) -> Tuple[Any, ...]:
        return Scratch, (self.built if get_spawning_popen() is not None else 0,)

    def __init__(self, built: int = 0) -> None:
        # When the list was built: it looks at each file at least once since then.
        self.built = built or time.monotonic_ns()
        self.now = Moment()
        # What decoded last: by fastai's own `open`, and by a user's.
        self.decoder: Optional[Stock] = None
        self.whole: Optional[Whole] = None
        self.held_back: List[str] = []
        # Keys whose files have changed: to be decoded again.
        self.stale: Set[Tuple[bytes, ...]] = set()


class InMemory(ItemList):
    """Mixin that serves the images of any `ImageList` from RAM: `class MyMemoryList(InMemory, MyList): pass`.

    An image is decoded once, by whichever process opens it first, and is a hit from then on in every process and
    every epoch; `load_data()` decodes all at once. Lists over one `path` share one store.

    - `lazy`: fill the store as images are first opened (False: only `load_data()` fills it)
    - `max_ram`: the store's budget: '8GB', '500MiB', bytes, a share in (0, 1] of the available memory, 0 to cache
      nothing, None for 80 % of what is available; what does not fit is opened from disk every time
    - `cache_file`: keep the store in this file, on a local disk, instead of in anonymous memory: it is there when the
      next session starts, and all processes that name it share it; `max_ram` then bounds the file, by default by what
      its disk can give. Raises `CacheFileError` where it can't be used
    - `max_size`: keep images with their shorter side reduced to so many pixels; those that are smaller stay as they
      are. Pixels then differ from stock fastai's. Raises ValueError with an `open` of your own, which decodes itself
    - `store`: the `ImageStore` to use; by default that of `cache_file` or of `path`

    What an `open` of your own returns belongs to the list that you built and to those that descend from it. Where it
    depends on something that changes, other than an attribute of the list: build the list again, call `purge()`, or set
    `cache = False` on the class. `cache_version = "1"` on the class lets a `cache_file` keep it, until you change that.

    A hit costs a hash, a look into shared memory and one pass from bytes to floats.
    """

    #: False: nothing of this class is cached.
    cache: bool = True
    #: With an `open` of your own: the version of its results in a `cache_file`, to be changed when they change.
    cache_version: Optional[str] = None

    # As long as no constructor has set them, which may open images already.
    _lazy: Optional[bool] = None
    max_ram: MaxRam = None
    cache_file: Any = None
    max_size: Optional[int] = None
    _store: Optional[ImageStore] = None
    _final = _plain_getitem = False
    _family: Optional[Family] = None
    _origin, _positions = b"", None
    #: Attributes that were set after the list was built, by its `get`, by its `open`.
    _set_later: FrozenSet[str] = frozenset()
    _set_in_get: FrozenSet[str] = frozenset()
    _set_in_open: FrozenSet[str] = frozenset()

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made: Any = super().__new__(cls)
        made.__dict__["_scratch"] = Scratch()
        return made

    def __init__(
        self,
        *args: Any,
        lazy: Optional[bool] = None,
        max_ram: MaxRam = None,
        cache_file: Any = None,
        max_size: Optional[int] = None,
        store: Optional[ImageStore] = None,
        **kwargs: Any,
    ) -> None:
        system.parse_max_ram(max_ram)  # a wrong value is an error here, not at the first image
        _check_class(type(self))
        super().__init__(*args, **kwargs)
        self._lazy, self.max_ram, self._store, self._final = lazy, max_ram, store, store is not None
        self.cache_file, self.max_size, self._family = cache_file, None, None
        self._label_list: Callable[..., LabelList] = functools.partial(labelled, self._label_list)
        if max_size is not None:
            self.reduce_to(max_size)
        if "_building" not in vars(self):
            self._built()

    def new(self, items: Any, processor: Any = None, **kwargs: Any) -> InMemory:
        """Make a list as fastai does, with what `copy_new` names; it has our settings and the store besides.

        Where its items are a selection of this list's, and all else is equal, it is of this list's family.
        """
        given, family = {"inner_df": None, **kwargs}, self._family
        selected = self._scratch.now.selecting
        if family is not None:
            family = self._own_decoder(self._function()).family  # as of now, and not as of the new list
            same = all(value is getattr(self, name, None) for name, value in given.items())
            selected = selected or (same and hasattr(items, "__len__") and self._has_all(items))
        made = super().new(items, processor=processor, **kwargs)
        made._lazy, made.max_ram, made._store, made._final = self._lazy, self.max_ram, self._store, self._final
        made.cache_file, made.max_size = self.cache_file, self.max_size
        if selected:
            made._scratch.built = self._scratch.built
        if made._family is not None:
            if family is not None and selected and type(made) is type(self) and self._agrees(made):
                made._join(family)
                made._set_later, made._set_in_get, made._set_in_open = (
                    self._set_later, self._set_in_get, self._set_in_open
                )  # fmt: skip
            else:
                made._found()  # with the settings that it has now
        return made

    def _has_all(self, items: Any) -> bool:
        "Return whether `items` are all among this list's."
        try:
            return items is self.items or {*map(keys.item_key, items)} <= {*map(keys.item_key, self.items)}
        except keys.Unkeyable:
            return False

    def _agrees(self, other: InMemory) -> bool:
        """Return whether `other`, a list just made of this one, has the same attributes.

        An object that the constructor made for each of them is as good as the other, if it was made alike.
        """
        mine, theirs = vars(self), vars(other)
        names = {*mine, *theirs} - BOOKKEEPING - self._set_in_get - self._set_in_open - {"inner_df"}
        return all(
            mine.get(name) is theirs.get(name)
            or (name not in self._set_later and _made_alike(mine.get(name), theirs.get(name)))
            for name in names
        )

    def __getitem__(self, idxs: Any) -> Any:
        "Make an item, or a list of those at `idxs`, as fastai does."
        if type(idxs) is int and self._plain_getitem and self._family is None:
            return self.get(idxs)  # as fastai's does, sooner
        if isinstance(try_int(idxs), Integral):
            return super().__getitem__(idxs) if self._family is None else self._got(super().__getitem__, idxs)
        self._scratch.now.selecting = True
        try:
            made = super().__getitem__(idxs)
        finally:
            self._scratch.now.selecting = False
        if isinstance(made, InMemory) and made._family is not None and made._family is self._family:
            positions = np.arange(len(self.items)) if self._positions is None else self._positions
            made._origin, made._positions = self._origin, positions[idxs]
        return made

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        below = cls.__mro__[cls.__mro__.index(InMemory) + 1 :]
        defined = next(vars(base)["__getitem__"] for base in below if "__getitem__" in vars(base))
        cls._plain_getitem = defined is _ITEM_OF
        # What a class written over ours defines stands before ours. Cache what its `open` returns as well, know when
        # its `get` is running, and when its list is built.
        for name, wrap in (("open", _cached), ("get", _watched), ("__getitem__", _watched), ("__init__", _building)):
            own = cls.__dict__.get(name)
            if isinstance(own, types.FunctionType):
                setattr(cls, name, wrap(own))

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. On a list whose `open` is the user's own, one that it may read starts an empty store.

        What `open` itself sets is its bookkeeping. What `get` sets becomes part of the keys.
        """
        known: Dict[str, Any] = self.__dict__
        family = known.get("_family")
        if name == "items":
            known["_origin"], known["_positions"] = os.urandom(8), None
        if family is None or name in BOOKKEEPING or _same(known.get(name, self), value):
            super().__setattr__(name, value)
        elif self._scratch.now.opening:
            known["_set_in_open"] = self._set_in_open | {name}
            super().__setattr__(name, value)
        elif self._scratch.now.getting is not None:
            known["_set_in_get"] = self._set_in_get | {name}
            super().__setattr__(name, value)
        else:
            known["_family"] = None  # what another thread is opening meanwhile is not kept
            super().__setattr__(name, value)
            known["_set_later"] = self._set_later | {name}
            self._found()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if vars(self).get("_family") is not None and name not in BOOKKEEPING and not self._scratch.now.opening:
            self._found()

    # -- the family -------------------------------------------------------------------------------------------

    def _built(self) -> None:
        "The last constructor is done: the list has its store before any process is forked, which would have its own."
        if self.runs_code():
            self._found()
        info = self.store.info()
        if not self._comes_here():
            self._say_replaced()
        if self.max_ram is not None and info.nbytes > info.max_ram:
            held, most = (system.format_size(size) for size in info[1:3])
            text = (
                f"{named(self)}: with max_ram={self.max_ram!r} its store may take {most}, and it holds {held} already: "
            )
            text += "nothing is added from now on, and purge() gives that back."
            self._say(f"above {self.max_ram}".encode(), text)

    def _found(self) -> Family:
        "Begin a family with an empty store."
        if (self.cache_file is not None and not self._unversioned()) or (self._final and self.x is None):
            own, pixels = ImageStore(), self._shared()  # the file's, or one that was given
        else:
            own = pixels = ImageStore(self.max_ram)
        prefix = b"" if pixels.cache_file else os.urandom(8)
        family = Family(own, pixels, prefix, self.known_by_running())
        family.runs(self._function(), type(self))
        return self._join(family)

    def _join(self, family: Family) -> Family:
        self._family = family
        family.lists.add(self)
        return family

    def _own_decoder(self, function: Callable[[Any], Any]) -> Whole:
        "Return what keeps the results of a user's `open`. If its code is not the family's, a new family begins."
        family = self._family
        if family is None or not family.runs(function, type(self)):
            if family is not None and family.runs(self._function(), type(self)):
                raise TypeError("its get calls another open than the one of its class")
            family = self._found()
        known, context = self._scratch.whole, b""
        if (
            known is not None
            and known.family is family
            and getattr(known.function, "__self__", None) is self
            and not self._set_in_get
        ):
            return known
        if not family.prefix:
            family.prefix = self._lasting_prefix()
        if self._set_in_get:
            # Of lists with one item, each may have another row of a table where `get` points `open` at.
            i = self._scratch.now.getting
            where = b"" if i is None else self._position(i)
            context = keys.digest(where, *((name, vars(self).get(name)) for name in sorted(self._set_in_get)))
        self._scratch.whole = Whole(function, family, context, self._since(family.pixels))
        return self._scratch.whole

    def _lasting_prefix(self) -> bytes:
        """Return what the keys of this list's images begin with in a file that outlives it: no code, but data.

        It stands for the class, its `cache_version`, and the attributes and the table that `open` may read. Of an
        object that can't be pickled only the class counts: the `cache_version` has to change with it.
        """
        cls = type(self)
        parts: List[Any] = []
        for name in sorted(set(vars(self)) - BOOKKEEPING - self._set_in_get - self._set_in_open - {"max_size"}):
            value = vars(self)[name]
            kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
            parts.append((name, _contents(value) or f"{kind.__module__}.{kind.__qualname__}"))
        return keys.digest("__main__" if cls.__module__ == "__mp_main__" else cls.__module__, cls.__qualname__,
                           cls.cache_version, parts)  # fmt: skip

    def _since(self, store: ImageStore) -> int:
        "The time from which on a file has to have been looked at; 0 where all in `store` is later anyway."
        return self._scratch.built if self._scratch.built > store.made else 0

    def _position(self, i: int) -> bytes:
        "A name for item `i` that it keeps in lists selected from this one."
        i = i if i >= 0 else i + len(self.items)
        return self._origin + b" %d" % (i if self._positions is None else self._positions[i])

    def reduce_to(self, max_size: int) -> None:
        "Keep images with their shorter side reduced to `max_size` pixels, as the keyword of that name; says so once."
        if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
            raise ValueError(f"max_size={max_size!r}: use a number of pixels for the shorter side, or None")
        name = type(self).__name__
        if stock_open(self._function()) is None:
            raise ValueError(
                f"max_size={max_size}: {name}.open is your own, and only it can know how what it returns may be "
                "reduced: please reduce the images there."
            )
        self.max_size = max_size
        self._say(
            f"max_size {max_size}".encode(),
            f"{named(self)}: with max_size={max_size} images are kept with their shorter side reduced to {max_size} "
            "pixels at most, so the pixels of larger ones differ from those of fastai's own list. For the same pixels, "
            "leave max_size out.",
        )

    @property
    def lazy(self) -> bool:
        "Whether opening an image fills the store."
        return self._lazy is None or bool(self._lazy)

    @property
    def store(self) -> ImageStore:
        "The `ImageStore` of this list: its family's, that of its `x`, or that of its `path`."
        return self._decodes().store  # type: ignore[no-any-return]

    def _shared(self) -> ImageStore:
        "The store of what fastai's own `open` opens: that of its `x`, or of its `path`."
        x = self.x
        if self._store is None or (x is not None and not self._final):  # labels are made first and given their x then
            if isinstance(x, InMemory) and self.max_ram is None and self.cache_file is None:
                self._store = x._shared()
            else:
                path = Path(self.path if x is None else x.path)
                self._store = store_for(str(path.resolve()), self.max_ram, self.cache_file, DECODER)
            self._final = x is not None
        return self._store

    def notes(self) -> ImageStore:
        "The store that what was said of this list is noted in."
        return self._shared() if self._family is None else self._family.own

    # -- opening ----------------------------------------------------------------------------------------------

    def open(self, fn: Any, *args: Any, **kwargs: Any) -> Image:
        "The image of `fn`, from RAM if it is there."
        if args or kwargs:
            return self._open_with(super().open, fn, args, kwargs)
        served = self._serve(super().open, fn)
        return served.image if served.original is None else self._note_size(served).image

    def _open_with(self, function: Callable[..., Any], fn: Any, args: Any, kwargs: Any) -> Any:
        "Call an `open` that takes more than its item. Nothing of it is kept."
        if not self._scratch.now.opening and type(self).cache:
            self._say_never(function, "it is called with more than an item")
            self._record(fn, (), NEVER)
        return self._run(_with(function, args, kwargs), fn)

    def get(self, i: Any, *args: Any, **kwargs: Any) -> Any:
        "Item `i` of the list below. `sizes` has the sizes before images were reduced, of which points and boxes speak."
        if self._family is None and self.max_size is None and not args and not kwargs:
            return super().get(i)
        now = self._scratch.now
        now.originals = {}
        item = self._got(_with(super().get, args, kwargs), i)
        size = getattr(self, "sizes", {}).get(i)
        if size in now.originals:
            self.sizes[i] = now.originals[size]
        return item

    def _got(self, get: Callable[[Any], Any], i: Any) -> Any:
        "Call `get`; where it is a user's own, note what it opens."
        family, now = self._family, self._scratch.now
        if family is None or now.getting is not None or not isinstance(i, Integral):
            return get(i)
        now.getting, now.opened, before = i, [], family.opens
        try:
            item = get(i)
        finally:
            now.last, now.opened, now.getting = now.opened, None, None
        if not family.own_get or (not now.last and family.opens != before):  # it has opened its images in other threads
            return item
        found = [(str(one) if isinstance(one, (str, Path)) else None, wanted) for one, wanted, _ in now.last]
        family.note_opened(self._position(int(i)), found)
        family.idle = family.idle + 1 if not found else -len(self.items)
        if family.idle >= min(3, len(self.items)):
            self._say_never_opens()
        return item

    def _note_size(self, served: Served) -> Served:
        "Remember for `get` what an image was before it was reduced."
        now = self._scratch.now
        now.originals = {**now.originals, served.image.size: torch.Size(served.original or ())}
        return served

    def _serve(self, function: Callable[[Any], Any], item: Any, decoder: Optional[Decoder] = None) -> Served:
        now = self._scratch.now
        if now.opening or not type(self).cache:
            return Served(self._run(function, item), False)
        try:
            decoder = decoder or self._decoder(function)
            if self._set_in_get and now.getting is None and isinstance(decoder, Whole):
                return Served(self._run(function, item), False)  # `open` may read what was set for another item
            wanted = decoder.keys(item)
        except Exception as error:  # whatever a value can do to one who looks at it
            image = self._run(function, item)  # raises what stock raises, if this is no item to open at all
            self._say_never(function, self._unkeyable(item, error))
            self._record(item, (), NEVER)
            return Served(image, False)
        store = decoder.store
        if now.filling and now.opened is not None and self._outdated(wanted, item, store):  # through a user's `get`
            self._scratch.stale.add(wanted)
        hit = self._hit(decoder, wanted, item)
        if hit is None and store.cache_file is None:
            return self._serve_miss(function, decoder, wanted, item)
        if hit is None:
            # Ranks validate the same images at the same time: the first decodes, the others wait for it.
            with store.claimed(wanted[0], wait=True):
                hit = self._hit(decoder, wanted, item)
                if hit is None:
                    return self._serve_miss(function, decoder, wanted, item)
        if self._family is not None:
            self._record(item, wanted, KEPT)
        if not now.filling:
            store.count(True)
        return hit

    def _record(self, item: Any, wanted: Tuple[bytes, ...], outcome: str) -> None:
        "Note for a user's `get` that it has opened `item`."
        if self._family is not None:
            self._family.opens += 1
        if self._scratch.now.opened is not None:
            self._scratch.now.opened.append((item, wanted, outcome))

    def _serve_miss(
        self, function: Callable[[Any], Any], decoder: Decoder, wanted: Tuple[bytes, ...], item: Any
    ) -> Served:
        "Decode `item`, and keep it where that is wanted."
        now, store = self._scratch.now, decoder.store
        if not now.filling:
            store.count(False)
        generation, source = store.generation, Source.of(item)
        outcome, keep = KEPT, self.lazy or now.filling
        try:
            decoded = self._miss(decoder, item, keep, self._looks_random(decoder, item) if keep else "")
        except BaseException:
            self._record(item, wanted, KEPT)
            raise
        if keep:
            outcome = self._keep(decoder, wanted, decoded, source, generation)
        self._record(item, wanted, outcome)
        if outcome == FULL and not now.filling:
            self.say_full([self])
        return Served(decoded.image, isinstance(decoder, Stock), decoded.original)

    def _hit(self, decoder: Decoder, wanted: Tuple[bytes, ...], item: Any) -> Optional[Served]:
        "The image under the keys `wanted`, if all are there, are of the file as it is, and stay while it is made."
        store, stale = decoder.store, self._scratch.stale
        if wanted in stale or (store.cache_file and isinstance(decoder, Whole) and decoder.family.random()):
            return None
        while True:
            records = []
            for key in wanted:
                record = store.read(key)
                if record is None:
                    return None
                records.append(record)
            # An image's records have to be of one version of its file, and that has to be the one that is there.
            alike = len(records) == 1 or records[0].version == records[1].version
            if not alike or (decoder.since and not decoder.fresh(records[0], item)):
                stale.add(wanted)
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
                stale.add(wanted)  # what somebody wrote into the file makes no image
                return None
            if store.current(records[0]):  # read first, so as old as any
                original = None if self.max_size is None else decoder.original(records)
                return Served(decoder.finish(restored), True, original)

    def _run(self, function: Callable[[Any], Any], item: Any) -> Any:
        "Call a user's `open`. Calls of ours inside it are not cached, and what it sets on the list is bookkeeping."
        now = self._scratch.now
        before, now.opening = now.opening, True
        try:
            return function(item)
        finally:
            now.opening = before

    def _looks_random(self, decoder: Decoder, item: Any) -> Optional[str]:
        "Why nothing that a user's `open` returns can be kept: it was seen to be random, or is now. None: look again."
        if isinstance(decoder, Stock) or decoder.store.rule == 0:
            return ""
        return decoder.family.looks_random(functools.partial(self._run, decoder.function), item)  # type: ignore

    def _miss(self, decoder: Decoder, item: Any, keep: bool, random: Optional[str]) -> Decoded:
        "Decode `item`, to `keep` it unless the user's code is `random`, which may turn out only now."
        if isinstance(decoder, Stock):
            return decoder.open(item)
        family = decoder.family
        if family.pid != os.getpid():
            family.pid = os.getpid()
            forks.own_offsets()
        decoded: Decoded = self._run(decoder.open, item)
        if keep and not random and (random is None or decoded.moved) and decoder.store.rule != 0:
            random = family.compare(functools.partial(self._run, decoder.function), item, decoded, random is not None)
        return decoded._replace(pieces=(), reason=random) if random else decoded

    def _keep(
        self,
        decoder: Decoder,
        wanted: Tuple[bytes, ...],
        decoded: Decoded,
        source: Optional[Source],
        generation: int,
    ) -> str:
        "Put the records of an image into the store: KEPT, NEVER or FULL."
        stale, store = self._scratch.stale, decoder.store
        if isinstance(decoder, Whole):
            if self._family is None or decoder.family is not self._family:  # the list was changed meanwhile
                return KEPT
            if self._set_in_get and not self._family.random() and self._varies(decoder, wanted):
                self._family.drop(VARIES)
            if not decoded.reason and self._family.random():
                decoded = decoded._replace(pieces=(), reason=self._family.random())
            elif self._unversioned():
                self._say_unversioned()
        if decoded.reason:
            self._say_never(getattr(decoder, "function", self._function()), decoded.reason)
            return KEPT if isinstance(decoder, Stock) else NEVER  # NEVER speaks for all images of a function
        for key, piece in zip(wanted, decoded.pieces):
            try:
                there = store.put(
                    key, piece.array, tag=piece.tag, source=source, replace=wanted in stale, generation=generation
                )
            except (TypeError, ValueError) as error:
                self._say_never(self._function(), str(error))
                return NEVER
            if not there:  # for want of room, unless there was a purge since
                return FULL if store.generation == generation else KEPT
        stale.discard(wanted)
        return KEPT

    def _varies(self, decoder: Whole, wanted: Tuple[bytes, ...]) -> bool:
        "Return whether `get` has set something else for this item before: `open` may have read it."
        i = self._scratch.now.getting
        context = zlib.crc32(wanted[0][: len(decoder.prefix)])
        return i is not None and decoder.family.varies(self._position(i) + b" at %d" % i, context)

    def _decoder(self, function: Callable[[Any], Any]) -> Decoder:
        owner = stock_open(function)
        if owner is None:
            return self._own_decoder(function)
        mask = owner is SegmentationLabelList
        mode, after_open, most = "L" if mask else self.convert_mode, self.after_open or None, self.max_size
        store, known = self._store, self._scratch.decoder
        if store is None or (self.x is not None and not self._final):
            store = self._shared()
        if (
            known is None
            or known.settings != (mode, not mask, most, PIL.ImageFile.LOAD_TRUNCATED_IMAGES)
            or known.after_open is not after_open
            or known.store is not store
        ):
            cls = ImageSegment if mask else Image
            known = Stock(mode, not mask, cls, after_open, most, store, self._since(store))
            self._scratch.decoder = known
        return known

    # -- speaking ---------------------------------------------------------------------------------------------

    def hold_back(self) -> None:
        "This thread begins to fill: its warnings wait, its reads do not count."
        self._scratch.now.filling = True

    def speak(self) -> None:
        "The fill is over: say what waited."
        self._scratch.now.filling = False
        messages, self._scratch.held_back = self._scratch.held_back, []
        for message in messages:
            warn_user(message)

    def _say(self, note: bytes, message: str) -> None:
        "Say `message` if no process has said it, or one like it, of this store."
        store = self.notes()
        if not store.noted(note) and store.note(note):
            if self._scratch.now.filling:
                self._scratch.held_back.append(message)
            else:
                warn_user(message)

    def _say_never(self, function: Callable[[Any], Any], reason: str) -> None:
        name = getattr(function, "__qualname__", "open")
        if reason == VARIES:
            names = ", ".join(f"self.{name}" for name in sorted(self._set_in_get))
            reason = f"{type(self).__name__}.get sets {names} to something else each time, and open may read it"
        if reason in (DRAWS, DIFFERS):
            remedy = (
                "Please leave what is random to after_open or to a transform, which run on every read. `cache = False` "
                "on the class turns this message off."
            )
        elif stock_open(function) is None:
            remedy = (
                "It is called for every read, as without memlist. `cache = False` on the class turns this message off."
            )
        else:
            remedy = "Other images of this list are kept."
        text = f"{named(self)}: what {name} returns is not kept in memory, because {reason}. {remedy}"
        self._say(f"never {name} {reason}".encode(), text)

    def _unkeyable(self, item: Any, error: Exception) -> str:
        "Why nothing is kept of an item that no key could be made of: the item, or what `get` sets."
        try:
            keys.item_key(item)
        except Exception as fault:
            return f"its items can't be told apart: {fault}"
        return VARIES if self._set_in_get else str(error)

    def _unversioned(self) -> bool:
        "Return whether there is a `cache_file`, and no version under which results of a user's `open` may go there."
        own = stock_open(self._function()) is None
        return self.cache_file is not None and own and type(self).cache_version is None

    def _say_unversioned(self) -> None:
        text = (
            f"{named(self)}: what {type(self).__name__}.open returns is kept in memory, and not in {self.cache_file}: "
            'only you know when its code changes. To keep it there, give the class a `cache_version = "1"`, and change '
            "that whenever you change what open returns."
        )
        self._say(b"unversioned", text)

    def say_full(self, lists: Sequence[InMemory]) -> None:
        "Give the one warning of a store whose budget was met, counting the images of `lists`."
        asked_for = self.store.rule == 0
        if not asked_for and not self.notes().noted(b"full"):
            self._say(b"full", full_message(self, lists, cache_info(lists)))

    # -- what the label list and the loader ask for -----------------------------------------------------------

    def _take(self, i: int) -> Tuple[Any, bool]:
        "Item `i`, and whether nobody else can hold it: an image made for this call alone need not be copied again."
        if not self._serves_its_items():
            return self[i], False
        served = self._serve(super().open, self.items[i])
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image, served.own

    def _reader(self) -> Reader:
        "What gives this list's items for one batch, as they are kept."
        return Reader(self, super().open)

    def _serves_its_items(self) -> bool:
        "Whether item `i` is what our `open` makes of `items[i]`, and nothing else."
        cls = type(self)
        plain = cls.open is InMemory.open and cls.__getitem__ is InMemory.__getitem__ and cls._plain_getitem
        return plain and self.opens_its_items()

    def _decodes(self) -> Decoder:
        "How this list decodes."
        return self._decoder(self._function())

    def _function(self) -> Callable[[Any], Any]:
        "The `open` whose results are cached: the last one written, without our cache around it."
        own = type(self).open
        if own is InMemory.open:
            return super().open  # type: ignore[no-any-return]
        return types.MethodType(_inside(own) if hasattr(own, "_in_memory") else own, self)

    def opens_its_items(self) -> bool:
        "Whether `get` is fastai's own, and with it what is opened: exactly `items[i]`, by the class's `open`."
        known, get = vars(self), getattr(super().get, "__func__", None)
        return get is ImageList.get and type(self).get is InMemory.get and "open" not in known and "get" not in known

    def known_by_running(self) -> bool:
        "Whether only running a `get` of a user's own tells what is opened."
        own = "get" in vars(self) or str(self._get().__module__).split(".")[0] not in LIBRARIES
        return own and self._comes_here() and not self.opens_its_items()

    def _get(self) -> Any:
        "The `get` of this list's class, past our own around it."
        return next(vars(base)["get"] for base in type(self).__mro__ if "get" in vars(base) and base is not InMemory)

    def _comes_here(self) -> bool:
        "Whether the `open` that `get` calls is ours; one that was assigned to a class or list later is not."
        return "open" not in vars(self) and (type(self).open is InMemory.open or hasattr(type(self).open, "_in_memory"))

    def jobs(self, filling: bool = False) -> Iterator[Job]:
        """One job for each image that this list would open; without keys where the image can't be kept.

        Where `get` is the user's own, only running it tells what it opens: one job for each item that it has not made
        so far, and one for each image that it has opened. `filling` says that they are going to be done.
        """
        if not self._comes_here():
            if filling:
                self._say_replaced()
            for index, item in enumerate(() if filling else self.items):
                yield Job(self, item, index, ())
        elif filling and not type(self).cache:
            return
        elif self.opens_its_items():
            decoder = self._decodes()
            for index, item in enumerate(self.items):
                yield Job(self, item, index, self._keys(decoder, item))
        elif self.known_by_running():  # else a GAN's noise
            family = self._family or self._found()
            for index, item in enumerate(self.items):
                opened = family.opened(self._position(index))
                for one, wanted in [(item, ())] if opened is None else opened:
                    yield Job(self, item if one is None else one, index, tuple(wanted))

    def _say_replaced(self) -> None:
        text = (
            f"{named(self)}: its images are not kept, since `open` was assigned, or is no plain method. Please write "
            "it as a method: `class MyList(MemoryImageList): def open(self, fn): …`."
        )
        self._say(f"replaced {type(self).__name__}.open".encode(), text)

    def _say_never_opens(self) -> None:
        name = f"{type(self).__name__}.get"
        text = (
            f"{named(self)}: {name} never calls open: there is nothing of it to keep in memory. Please let it open "
            "its files by `self.open(…)`."
        )
        self._say(f"never {name}".encode(), text)

    def _keys(self, decoder: Decoder, item: Any) -> Tuple[bytes, ...]:
        try:
            return decoder.keys(item) if type(self).cache else ()  # type: ignore[no-any-return]
        except Exception:
            return ()

    def _outdated(self, wanted: Sequence[bytes], item: Any, store: ImageStore) -> bool:
        "Whether a record under `wanted` was made of another file than `item` is now."
        now = Source.of(item)
        then = [(key, store.source(key)) for key in wanted]
        if now is None:  # of a file that is gone, what this session has seen stays
            return any(one is not None and not store.verified(key) for key, one in then)
        return any(one is not None and one != now.version for _, one in then)

    def changed(self, job: Job) -> bool:
        "Whether the file of a cached image is another one now; if so it will be decoded again."
        outdated = self._outdated(job.keys, job.item, self.store)
        if outdated:
            self._scratch.stale.add(job.keys)
        return outdated

    def runs_code(self) -> bool:
        "Return whether filling runs a user's code: in the calling thread or in processes, never in threads."
        return self.known_by_running() or (self._comes_here() and stock_open(self._function()) is None)

    def fill(self, job: Job) -> str:
        "Decode the image of `job` and keep it; see `_keep` for the outcomes. Raises what decoding raises."
        if self.opens_its_items():
            if not job.keys:
                self.open(job.item)
                return NEVER
            decoder = self._decodes()
            generation, source = decoder.store.generation, Source.of(job.item)
            random = self._looks_random(decoder, job.item)
            if isinstance(decoder, Stock):
                decoded = decoder.pieces(job.item)
            elif random:
                decoded = Decoded(None, reason=random)  # and what it would have drawn is left to the first read
            else:
                decoded = self._miss(decoder, job.item, True, random)
            return self._keep(decoder, job.keys, decoded, source, generation)
        self._got(self.get, job.i)
        outcomes = {outcome for _, _, outcome in self._scratch.now.last}
        return next((outcome for outcome in (FULL, KEPT) if outcome in outcomes), NEVER if outcomes else THERE)

    def load_data(self, n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise") -> InMemory:
        "Decode every image not yet cached; see `memlist.loading.load_data`."
        if self._scratch.now.opening:
            raise RuntimeError(
                f"{type(self).__name__}.open calls load_data(), which calls open: please leave it out there"
            )
        load_data([self], n_workers, progress, on_error)
        return self

    def purge(self, file: bool = False) -> int:
        """Give the store's memory back to the system, in every process; the bytes freed.

        A `cache_file` keeps what it holds, unless `file` asks to empty it, too.
        """
        return purge([self], file)

    def cache_info(self) -> CacheInfo:
        "How many of this list's images are cached, and how the store stands."
        return cache_info([self])

    @property
    def loaded(self) -> bool:
        "True when every image that this list would open is cached."
        return is_loaded([self])

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Not `__getstate__`: `LabelList.__getattr__` would hand that out as its own. A process being spawned is to get
        # this store, not one of its own.
        _ = self.store
        return super().__reduce_ex__(protocol)


class Reader:
    """Item `i` of a list as `Bytes`, as it is kept; as the list itself has it where it keeps it otherwise.

    What decides that is looked at once: it is good for one batch, and `close` counts its hits. A hit costs its key and
    a look into the index.
    """

    def __init__(self, il: InMemory, function: Callable[[Any], Any]) -> None:
        self.il, self.function, self.hits = il, function, 0
        self.items, self.sizes, scratch = il.items, getattr(il, "sizes", {}), il._scratch
        decoder = il._decoder(function) if il._serves_its_items() and type(il).cache else None
        self.raw = Raw(decoder) if isinstance(decoder, Stock) else None
        plain = self.raw is not None and self.raw.after_open is None and self.raw.most is None
        self.straight = plain and not scratch.stale

    def __call__(self, i: int) -> Any:
        if self.raw is None:
            return self.il[i]
        if self.straight:
            try:
                record = self.raw.store.read(self.raw.prefix + keys.file_key(self.items[i]))
            except Exception:
                record = None  # no item to open at all, perhaps: who serves it says so
            if record is not None and (not self.raw.since or self.raw.fresh(record, self.items[i])):
                self.hits += 1
                made = self.raw.restore((record,))
                self.sizes[i] = made.size
                return made
        served = self.il._serve(self.function, self.items[i], self.raw)
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image

    def close(self) -> None:
        "Count what was found."
        if self.hits and self.raw is not None:
            self.raw.store.count(True, self.hits)
            self.hits = 0


def plain(lists: Sequence[InMemory]) -> Sequence[InMemory]:
    "Those of `lists` that open their items; none where a user's own `get` would have to be run to tell."
    if any(il.known_by_running() for il in lists):
        return ()
    return [il for il in lists if il.opens_its_items()]


def full_message(il: Any, lists: Sequence[Any], info: CacheInfo) -> str:
    "The one warning of a budget that was met: how many are in, how many are not, what would help."
    file = il.store.cache_file
    where, help = "in memory", "less memory in other processes"
    if file is not None:
        where, help = f"in {file}", "more room on its disk"
    held, most = system.format_size(info.nbytes), system.format_size(info.max_ram)
    need_text, jobs = "", [Job(one, item, i, ()) for one in plain(lists) for i, item in enumerate(one.items)]
    need = expected_bytes(jobs) if jobs else None
    if need is not None:  # a file may be an input and a target
        size = system.format_size(need * info.total / len(jobs))
        need_text = f"; these {info.total:,} take about {size}"
    return (
        f"{named(il)}: {info.cached} of {info.total} images are {where} ({100 * info.cached // max(1, info.total)} %), "
        f"the other {info.total - info.cached} do not fit and are opened from disk every time. "
        f"The store holds {held} and may take {most}{need_text}. "
        f"A larger max_ram, {help}, max_size, smaller images on disk or a convert_mode with fewer channels would help."
    )


def labelled(make: Callable[..., LabelList], x: ItemList, y: ItemList, **kwargs: Any) -> LabelList:
    "The hook that fastai labels a list with: targets that name no settings of their own take those of their inputs."
    if isinstance(x, InMemory) and isinstance(y, InMemory):
        if y._lazy is None:
            y._lazy = x._lazy
        if y.max_ram is None and y.cache_file is None and not y._final:
            if y._family is not None:  # it joins no store, but takes the settings
                y.max_ram, y.cache_file = x.max_ram, x.cache_file
                y._found()
            else:
                y._store, y._final = x._shared(), True
        if y.max_size is None and x.max_size is not None:
            y.reduce_to(x.max_size)
    return make(x=x, y=y, **kwargs)


def _inside(wrapper: Any) -> Any:
    """Return the user's function inside a wrapper of ours, with the code that it has by now.

    `%autoreload` gives a function another code and other attributes. It can't reach what is in our closure.
    """
    own = wrapper.__closure__[wrapper.__code__.co_freevars.index("own")].cell_contents
    latest = wrapper.__wrapped__.__code__
    if own.__code__ is not latest:
        own.__code__ = latest
    return own


def _cached(own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def open(self: InMemory, fn: Any, *args: Any, **kwargs: Any) -> Any:
        function = types.MethodType(_inside(open) or own, self)
        return self._open_with(function, fn, args, kwargs) if args or kwargs else self._serve(function, fn).image

    open._in_memory = True  # type: ignore[attr-defined]
    return open


def _watched(own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def get(self: InMemory, i: Any, *args: Any, **kwargs: Any) -> Any:
        function = types.MethodType(_inside(get) or own, self)
        return self._got(_with(function, args, kwargs), i)

    return get


def _building(own: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(own)
    def __init__(self: InMemory, *args: Any, **kwargs: Any) -> None:
        init = _inside(__init__) or own
        if "_building" in vars(self):
            init(self, *args, **kwargs)
            return
        self.__dict__["_building"] = True
        init(self, *args, **kwargs)
        del self.__dict__["_building"]
        self._built()

    return __init__


def _check_class(cls: Any) -> None:
    "Raise TypeError for a `cache` or `cache_version` that says nothing."
    if not isinstance(cls.cache, bool):
        raise TypeError(f"{cls.__name__}.cache is {cls.cache!r}: memlist wants True or False; name yours differently")
    if cls.cache_version is not None and not isinstance(cls.cache_version, str):
        raise TypeError(f'{cls.__name__}.cache_version is {cls.cache_version!r}: use a string, such as "1"')


def _with(function: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[Any], Any]:
    "Return `function` of its first argument."
    return (lambda first: function(first, *args, **kwargs)) if args or kwargs else function


def _same(one: Any, other: Any) -> bool:
    "Return whether both are equal numbers or strings, or tuples of these. Other objects may have changed inside."
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) in _SCALARS and type(one) is type(other) and bool(one == other)


def _contents(value: Any) -> Optional[bytes]:
    "Bytes that are equal where two values are, of plain data and of what can be pickled; else None."
    try:
        return keys.digest(value)
    except Exception:
        try:
            return keys.digest(pickle.dumps(value, 4))
        except Exception:
            return None


def _made_alike(one: Any, two: Any) -> bool:
    "Return whether both hold equal data or, where that can't be told, are of one class and over files of one name."
    if type(one) is not type(two) or isinstance(one, (type, types.FunctionType, types.MethodType)):
        return False
    mine, theirs = _contents(one), _contents(two)
    names = [[str(getattr(value, name, "")) for name in ("name", "filename", "path")] for value in (one, two)]
    return mine == theirs if mine or theirs else names[0] == names[1]


class MemoryImageList(InMemory, ImageList):
    "`ImageList` served from RAM."


class MemoryImageLabelList(InMemory, ImageList):
    "Image targets served from RAM, for GANs and super-resolution: `label_cls=MemoryImageLabelList`."


class MemoryImageImageList(InMemory, ImageImageList):
    "`ImageImageList` served from RAM, inputs and targets."

    _label_cls = MemoryImageLabelList


class MemorySegmentationLabelList(InMemory, SegmentationLabelList):
    "`SegmentationLabelList` served from RAM: a byte a pixel."


class MemorySegmentationItemList(InMemory, SegmentationItemList):
    "`SegmentationItemList` served from RAM, images and masks."

    _label_cls = MemorySegmentationLabelList


class MemoryObjectItemList(InMemory, ObjectItemList):
    "`ObjectItemList` served from RAM; the boxes are in memory as they are."


class MemoryPointsItemList(InMemory, PointsItemList):
    "`PointsItemList` served from RAM; the points are in memory as they are."


class MemoryGANItemList(InMemory, GANItemList):
    "`GANItemList` whose target images are served from RAM; its inputs are noise, no file of theirs is opened."

    _label_cls = MemoryImageLabelList


_LIST_KEYWORDS = ("lazy", "max_ram", "cache_file", "max_size", "store", "convert_mode", "after_open")


class MemoryImageDataBunch(ImageDataBunch):
    """`ImageDataBunch` whose factories make in-memory lists.

    They take the list's keywords too (`lazy`, `max_ram`, `cache_file`, `max_size`, `convert_mode`, `after_open`); all
    others are as in fastai.
    """

    @classmethod
    def create_from_ll(
        cls, lls: LabelLists, *args: Any, batch_tfms: bool = False, **kwargs: Any
    ) -> MemoryImageDataBunch:
        "As fastai's; `batch_tfms` as for `databunch`."
        from .loader import batched, checked, default_workers  # which build on this module

        if not checked(batch_tfms):
            return super().create_from_ll(lls, *args, **kwargs)
        given = inspect.signature(super().create_from_ll).bind(lls, *args, **kwargs).arguments
        if "num_workers" not in given:
            asked = {name: given[name] for name in ("device", "collate_fn") if name in given}
            given["num_workers"] = default_workers(lls, **asked)
        return batched(super().create_from_ll(**given))


def _factory(name: str) -> Any:
    """Make a factory of fastai's `ImageDataBunch` build in-memory lists.

    It is fastai's own code, in which `ImageList` means ours: a copy of it would have to follow every release.
    """
    stock = vars(ImageDataBunch)[name].__func__

    @functools.wraps(stock)
    def factory(cls: Any, *args: Any, **kwargs: Any) -> Any:
        settings = {name: kwargs.pop(name) for name in _LIST_KEYWORDS if name in kwargs}
        if kwargs.get("item_cls") is not None:
            kwargs["item_cls"] = functools.partial(kwargs["item_cls"], **settings)
        ours: Any = functools.partial(MemoryImageList, **settings)
        ours.from_folder = functools.partial(MemoryImageList.from_folder, **settings)
        ours.from_df = functools.partial(MemoryImageList.from_df, **settings)
        known = {**stock.__globals__, "ImageList": ours}
        return types.FunctionType(stock.__code__, known, name, stock.__defaults__)(cls, *args, **kwargs)

    # fastai's annotations name what only its own modules know.
    given = inspect.signature(stock)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given.parameters.values()]
    del factory.__wrapped__
    vars(factory)["__signature__"] = inspect.Signature(parameters)
    factory.__annotations__ = {}
    return classmethod(factory)


# `from_csv` and `from_name_re` come to these.
for _name in ("from_folder", "from_df", "from_lists", "from_name_func"):
    setattr(MemoryImageDataBunch, _name, _factory(_name))

for _list in (
    MemoryImageList,
    MemoryImageLabelList,
    MemoryImageImageList,
    MemorySegmentationLabelList,
    MemorySegmentationItemList,
    MemoryObjectItemList,
    MemoryPointsItemList,
    MemoryGANItemList,
):
    _list._bunch = MemoryImageDataBunch


def stock_class(cls: type) -> type:
    """The class that `cls` is the in-memory twin of; `cls` itself if it has code of its own.

    An exported learner names it, so that it loads where memlist is not installed.
    """
    while InMemory in cls.__bases__ and not _own_code(cls):
        cls = next(base for base in cls.__mro__[1:] if not issubclass(base, InMemory))
    return cls


def _own_code(cls: type) -> bool:
    # Python itself adds names like `__slotnames__` to a class, but no functions.
    names = {name for name, value in vars(cls).items() if name[:2] != "__" or isinstance(value, types.FunctionType)}
    return bool(names - {"_label_cls", "_bunch", "_plain_getitem", "cache", "cache_version"})


def parts(*lists: Any) -> List[InMemory]:
    "The in-memory lists among `lists`, those inside a `MixedItemList` included, each once."
    found: List[InMemory] = []
    for il in lists:
        inner = parts(*getattr(il, "item_lists", ()))
        for one in [il, *inner] if isinstance(il, InMemory) else inner:
            if not any(one is other for other in found):
                found.append(one)
    return found


def lists_of(data: Any, sets_of_a_bunch: Sequence[str] = ("train_ds", "valid_ds", "test_ds")) -> List[InMemory]:
    "The in-memory lists of a list, of what a split or a label call returns, or of a `DataBunch`: inputs and targets."
    if isinstance(data, DataBunch):
        sets = [getattr(data, name, None) for name in sets_of_a_bunch]  # it may be without one of them
    elif isinstance(data, ItemLists):
        sets = data.lists
    else:
        sets = [data]
    inner = [getattr(one, name, None) for one in sets if isinstance(one, LabelList) for name in ("x", "y")]
    return parts(*sets, *inner)
