"""fastai's image lists, served from RAM: the mixin `InMemory`, the twins of fastai's own lists, and the data bunch."""

from __future__ import annotations

import functools
import inspect
import os
import threading
import types
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import pandas as pd
import torch
from fastai.basic_data import DataBunch
from fastai.core import ifnone
from fastai.data_block import ItemList, ItemLists, LabelList, LabelLists
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

from . import keys, limits
from .decode import RANDOM, Decoded, Raw, Stock, Whole, random_states, restore_states, stock_open
from .limits import MaxRam
from .loading import (
    AGAIN,
    FULL,
    KEPT,
    NEVER,
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
from .store import ImageStore, Source, store_for

# The packages whose classes are known by name; a user's own go into the key with their code.
LIBRARIES = ("fastai", "memlist", "torch", "torchvision", "builtins", "abc")
# What `copy_new` names but no pixel depends on.
_NO_PART_OF_THE_KEY = {"x", "label_cls"}

Decoder = Any  # Stock or Whole


class Opened(BaseException):
    "Raised inside a user's `get` that is asked what it opens; not an Exception, which it might catch."


class Served(NamedTuple):
    "An image, whether it was made for this call alone, and its height and width before it was reduced, if it was."

    image: Image
    own: bool
    original: Optional[Tuple[int, int]] = None


class Scratch:
    "What a list knows in one process and one moment; no part of its state: a pickled one comes back empty."

    def __reduce__(self) -> Tuple[Any, ...]:
        return Scratch, ()

    def __init__(self) -> None:
        # The last fingerprint of a user's `open`, of which function, and all that it was made of.
        self.memo: Optional[Tuple[bytes, Any, List[keys.Watched]]] = None
        # The decoder of stock lists, as of the last read.
        self.decoder: Optional[Stock] = None
        # Threads that are inside a user's `open`, whose calls of ours are not to be cached a second time.
        self.inside: Set[int] = set()
        # The threads of `load_data`: their reads are not counted, and their warnings wait for its end.
        self.filling: Set[int] = set()
        self.held_back: List[str] = []
        # False while other threads may draw random numbers.
        self.alone = True
        # By thread, and by the size that they have now: the sizes of images that were reduced since its last `get`.
        self.originals: Dict[int, Dict[Any, Any]] = {}
        # Keys whose files have changed: to be decoded again.
        self.stale: Set[Tuple[bytes, ...]] = set()
        # Where `get` is a user's own: whether it is being asked what it opens, what it opened, by thread, and by item.
        self.probing: Dict[int, List[Any]] = {}
        self.recording: Dict[int, List[Tuple[Any, str]]] = {}
        self.opened: Dict[int, List[Any]] = {}
        self.opened_of: Any = None


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

    A hit costs a hash, a look into shared memory and one pass from bytes to floats.
    """

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
        limits.parse_max_ram(max_ram)  # a wrong value is an error here, not at the first image
        super().__init__(*args, **kwargs)
        self._lazy, self.max_ram, self._store, self._final = lazy, max_ram, store, store is not None
        self.cache_file = cache_file
        self.max_size: Optional[int] = None
        self._label_list: Callable[..., LabelList] = functools.partial(labelled, self._label_list)
        self.scratch = Scratch()
        store = self.store  # now, since a store that a forked worker made would be that worker's alone
        if max_ram is not None and store.info().nbytes > store.info().max_ram:
            held, most = (limits.format_size(size) for size in store.info()[1:3])
            text = f"{named(self)}: with max_ram={max_ram!r} its store may take {most}, and it holds {held} already: "
            self._say(f"above {max_ram}".encode(), text + "nothing is added from now on, and purge() gives that back.")
        if max_size is not None:
            self.reduce_to(max_size)

    def new(self, items: Any, processor: Any = None, **kwargs: Any) -> InMemory:
        "As fastai's, which carries along what `copy_new` names, with our settings and the store besides."
        made = super().new(items, processor=processor, **kwargs)
        made._lazy, made.max_ram, made._store, made._final = self._lazy, self.max_ram, self.store, self._final
        made.cache_file, made.max_size = self.cache_file, self.max_size
        return made

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # `class MyList(MemoryImageList)` with an `open` of its own stands before ours: cache what it returns as well.
        own = cls.__dict__.get("open")
        if isinstance(own, types.FunctionType):
            setattr(cls, "open", _cached(own))  # noqa: B010 - mypy minds the assignment of a method

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
        "The `ImageStore` of this list: that of its `x`, or of its `path`."
        x = self.x
        if self._store is None or (x is not None and not self._final):  # labels are made first and given their x then
            if isinstance(x, InMemory) and self.max_ram is None and self.cache_file is None:
                self._store = x.store
            else:
                path = Path(self.path if x is None else x.path)
                self._store = store_for(str(path.resolve()), self.max_ram, self.cache_file)
            self._final = x is not None
        return self._store

    # -- opening ----------------------------------------------------------------------------------------------

    def open(self, fn: Any) -> Image:
        "The image of `fn`, from RAM if it is there."
        return self._read(super().open, fn).image

    def get(self, i: Any) -> Any:
        "Item `i` of the list below. `sizes` has the sizes before images were reduced, of which points and boxes speak."
        self.scratch.originals.pop(threading.get_ident(), None)
        item = super().get(i)
        if self.max_size is not None:
            known = self.scratch.originals.pop(threading.get_ident(), {})
            size = getattr(self, "sizes", {}).get(i)
            if size in known:
                self.sizes[i] = known[size]
        return item

    def _read(self, function: Callable[[Any], Any], item: Any) -> Served:
        "Serve `item`, and remember what it was before it was reduced."
        served = self._serve(function, item)
        if served.original is not None:
            originals = self.scratch.originals.setdefault(threading.get_ident(), {})
            originals[served.image.size] = torch.Size(served.original)
        return served

    def _serve(self, function: Callable[[Any], Any], item: Any, decoder: Optional[Decoder] = None) -> Served:
        scratch, thread = self.scratch, threading.get_ident()
        if thread in scratch.probing:
            scratch.probing[thread].append(item)
            raise Opened
        if thread in scratch.inside:
            return Served(function(item), False)
        try:
            decoder = decoder or self._decoder(function)
            wanted = decoder.keys(item)
        except Exception as error:  # whatever a value can do to one who looks at it
            image = function(item)  # raises what stock raises, if this is no item to open at all
            self._say_never(function, str(error))
            return Served(image, False)
        filling = thread in scratch.filling
        if thread in scratch.recording and self._outdated(wanted, item):  # `load_data`, through a user's `get`
            scratch.stale.add(wanted)
        hit = None if wanted in scratch.stale else self._hit(decoder, wanted)
        if hit is None and self.store.cache_file is None:
            return self._serve_miss(function, decoder, wanted, item)
        if hit is None:
            # Ranks validate the same images at the same time: the first decodes, the others wait for it.
            with self.store.claimed(wanted[0], wait=True):
                hit = None if wanted in scratch.stale else self._hit(decoder, wanted)
                if hit is None:
                    return self._serve_miss(function, decoder, wanted, item)
        if thread in scratch.recording:
            scratch.recording[thread].append((item, KEPT))
        if not filling:
            self.store.count(True)
        return hit

    def _serve_miss(
        self, function: Callable[[Any], Any], decoder: Decoder, wanted: Tuple[bytes, ...], item: Any
    ) -> Served:
        "Decode `item`, and keep it where that is wanted."
        scratch, thread = self.scratch, threading.get_ident()
        filling = thread in scratch.filling
        if not filling:
            self.store.count(False)
        generation, source = self.store.generation, source_of(item)
        try:
            decoded = self._miss(decoder, item)
        except BaseException:
            if thread in scratch.recording:
                scratch.recording[thread].append((item, KEPT))
            raise
        if self.lazy or filling:
            outcome = self._keep(function, wanted, decoded, source, generation)
            if thread in scratch.recording:
                scratch.recording[thread].append((item, outcome))
            elif outcome == FULL:
                self.say_full([self])
        return Served(decoded.image, isinstance(decoder, Stock), decoded.original)

    def _hit(self, decoder: Decoder, wanted: Sequence[bytes]) -> Optional[Served]:
        "The image under the keys `wanted`, if all are there and stay while it is made."
        store = self.store
        while True:
            records = []
            for key in wanted:
                record = store.read(key)
                if record is None:
                    return None
                records.append(record)
            try:
                restored = decoder.restore(records)
            except Exception:
                if not store.current(records[0]):
                    continue
                if store.cache_file is None:
                    raise
                self.scratch.stale.add(tuple(wanted))  # what somebody wrote into the file makes no image
                return None
            if store.current(records[0]):  # read first, so as old as any
                original = None if self.max_size is None else decoder.original(records)
                return Served(decoder.finish(restored), True, original)

    def _miss(self, decoder: Decoder, item: Any) -> Decoded:
        if isinstance(decoder, Stock):
            return decoder.open(item)
        scratch, thread = self.scratch, threading.get_ident()
        scratch.inside.add(thread)
        try:
            return decoder.open(item)
        finally:
            scratch.inside.discard(thread)

    def _keep(
        self,
        function: Callable[[Any], Any],
        wanted: Tuple[bytes, ...],
        decoded: Decoded,
        source: Optional[Source],
        generation: int,
    ) -> str:
        "Put the records of an image into the store: KEPT, NEVER, FULL or AGAIN."
        if decoded.reason == RANDOM and not self.scratch.alone:
            return AGAIN
        # Once it has drawn, it may draw unseen: after seeding, say.
        reason = decoded.reason or (RANDOM if self.store.noted(self._note(function, RANDOM)) else "")
        if reason:
            self._say_never(function, reason)
            return KEPT if stock_open(function) else NEVER  # NEVER speaks for all images of a function
        stale, store = wanted in self.scratch.stale, self.store
        for key, piece in zip(wanted, decoded.pieces):
            try:
                there = store.put(key, piece.array, tag=piece.tag, source=source, replace=stale, generation=generation)
            except (TypeError, ValueError) as error:
                self._say_never(function, str(error))
                return NEVER
            if not there:  # for want of room, unless there was a purge since
                return FULL if store.generation == generation else KEPT
        self.scratch.stale.discard(wanted)
        return KEPT

    def _decoder(self, function: Callable[[Any], Any]) -> Decoder:
        owner = stock_open(function)
        if owner is None:
            return Whole(function, self._fingerprint(function))
        mask = owner is SegmentationLabelList
        mode, after_open, most = "L" if mask else self.convert_mode, self.after_open or None, self.max_size
        known = self.scratch.decoder
        if (
            known is None
            or (known.mode, known.div, known.most) != (mode, not mask, most)
            or known.after_open is not after_open
        ):
            known = Stock(mode, not mask, ImageSegment if mask else Image, after_open, most)
            self.scratch.decoder = known
        return known

    def _fingerprint(self, function: Callable[[Any], Any]) -> bytes:
        "A token of the class, its code and what it carries along; made anew when any of that has changed."
        plain, memo = getattr(function, "__func__", function), self.scratch.memo
        names = [name for name in self.copy_new if name not in _NO_PART_OF_THE_KEY]
        if memo and memo[1] is plain and all(seen.same() for seen in memo[2]):
            return memo[0]
        values = {name: getattr(self, name, None) for name in names}
        made = keys.class_token(type(self), LIBRARIES) + keys.token([plain, values])
        seen = [keys.watch(self, name, value) for name, value in values.items()]
        seen += [keys.watch(self, "copy_new", self.copy_new), *keys.watch_class(type(self), LIBRARIES)]
        if isinstance(plain, types.FunctionType):
            seen += keys.watch_globals([plain])
        self.scratch.memo = made, plain, seen
        return made

    # -- speaking ---------------------------------------------------------------------------------------------

    def hold_back(self) -> None:
        "This thread begins to fill: its warnings wait, its reads do not count."
        self.scratch.filling.add(threading.get_ident())

    def speak(self) -> None:
        "The fill is over: say what waited."
        self.scratch.filling.discard(threading.get_ident())
        messages, self.scratch.held_back = self.scratch.held_back, []
        for message in messages:
            warn_user(message)

    def _say(self, note: bytes, message: str) -> None:
        "Say `message` if no process has said it, or one like it, of this store."
        if not self.store.noted(note) and self.store.note(note):
            if threading.get_ident() in self.scratch.filling:
                self.scratch.held_back.append(message)
            else:
                warn_user(message)

    def _note(self, function: Callable[[Any], Any], reason: str) -> bytes:
        return f"never {getattr(function, '__qualname__', 'open')} {reason}".encode()

    def _say_never(self, function: Callable[[Any], Any], reason: str) -> None:
        name = getattr(function, "__qualname__", "open")
        if reason == RANDOM:
            remedy = "Please leave what is random to after_open or to a transform: they run on every read."
        elif stock_open(function) is None:
            remedy = "Please let it make a plain Image or ImageSegment of its file and of what copy_new names, alone."
        else:
            remedy = "Other images of this list are kept."
        text = f"{named(self)}: what {name} returns is not kept in memory, because {reason}. {remedy}"
        self._say(self._note(function, reason), text)

    def say_full(self, lists: Sequence[InMemory]) -> None:
        "Give the one warning of a store whose budget was met, counting the images of `lists`."
        asked_for = self.store.rule == 0
        if not asked_for and not self.store.noted(b"full"):
            self._say(b"full", full_message(self, lists, cache_info(lists)))

    # -- what the label list and the loader ask for -----------------------------------------------------------

    def take(self, i: int) -> Tuple[Any, bool]:
        "Item `i`, and whether nobody else can hold it: an image made for this call alone need not be copied again."
        if not self._serves_its_items():
            return self[i], False
        served = self._serve(super().open, self.items[i])
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image, served.own

    def reader(self) -> Reader:
        "What gives this list's items for one batch, as they are kept."
        return Reader(self, super().open)

    def _serves_its_items(self) -> bool:
        "Whether item `i` is what our `open` makes of `items[i]`, and nothing else."
        cls = type(self)
        plain = cls.open is InMemory.open and cls.__getitem__ is ItemList.__getitem__
        return plain and self.opens_its_items()

    def decoder(self) -> Decoder:
        "How this list decodes."
        return self._decoder(self._function())

    def _function(self) -> Callable[[Any], Any]:
        "The `open` whose results are cached: the last one written, without our cache around it."
        own = type(self).open
        if own is InMemory.open:
            return super().open  # type: ignore[no-any-return]
        return types.MethodType(getattr(own, "__wrapped__", own), self)

    def opens_its_items(self) -> bool:
        "Whether `get` is fastai's own, and with it what is opened: exactly `items[i]`, by the class's `open`."
        own = {"open", "get"} & set(vars(self))
        return not own and self._get() is ImageList.get

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

        Where `get` is the user's own, only running it tells what it opens. `filling` asks for a job for every item that
        has not been run here; otherwise `get` is run up to the first image it opens.
        """
        if not self._comes_here():
            if filling:
                name = f"{type(self).__name__}.open"
                text = (
                    f"{named(self)}: its open was replaced by one that knows no memory. Please write it as a method: "
                    "`class MyList(MemoryImageList): def open(self, fn): …`."
                )
                self._say(f"replaced {name}".encode(), text)
            for index, item in enumerate(() if filling else self.items):
                yield Job(self, item, index, ())
        elif self.opens_its_items():
            for index, item in enumerate(self.items):
                yield Job(self, item, index, self._keys(item))
        elif not self.known_by_running():  # a GAN's noise
            return
        elif self._never_opens():
            if filling:
                self._say_never_opens()
        else:
            known = self.scratch.opened if self.scratch.opened_of is self.items else {}
            for index, item in enumerate(self.items):
                if filling and index not in known:
                    yield Job(self, item, index, ())
                else:
                    for opened in known.get(index) or self._opens(index):
                        yield Job(self, opened, index, self._keys(opened))

    def _never_opens(self) -> bool:
        "Whether a `get` of a user's own opens none of the first items."
        return not any(self._opens(index) for index in range(min(3, len(self.items))))

    def _say_never_opens(self) -> None:
        if len(self.items):
            name = f"{type(self).__name__}.get"
            text = (
                f"{named(self)}: {name} never calls open: there is nothing of it to keep in memory. Please let it open "
                "its files by `self.open(…)`."
            )
            self._say(f"never {name}".encode(), text)

    def look_for_opens(self) -> None:
        "Say so if a user's own `get` opens nothing; runs it for a few items, and leaves generators as they were."
        if not self.known_by_running():
            return
        states = random_states()
        try:
            if self._never_opens():
                self._say_never_opens()
        finally:
            restore_states(states)

    def _keys(self, item: Any) -> Tuple[bytes, ...]:
        try:
            return self.decoder().keys(item)  # type: ignore[no-any-return]
        except Exception:
            return ()

    def _opens(self, index: int) -> List[Any]:
        "The first image that a user's `get` opens for item `index`; nothing is decoded."
        thread = threading.get_ident()
        opened = self.scratch.probing[thread] = []
        try:
            self.get(index)
        except (Opened, Exception):  # a real one will be seen when it is really run
            pass
        finally:
            del self.scratch.probing[thread]
        return opened[:1]

    def _outdated(self, wanted: Sequence[bytes], item: Any) -> bool:
        "Whether a record under `wanted` was made of another file than `item` is now."
        store, now = self.store, source_of(item)
        then = [(key, store.source(key)) for key in wanted]
        if now is None:  # of a file that is gone, what this session has seen stays
            return any(one is not None and not store.verified(key) for key, one in then)
        return any(one is not None and one != now[:2] for _, one in then)

    def changed(self, job: Job) -> bool:
        "Whether the file of a cached image is another one now; if so it will be decoded again."
        outdated = self._outdated(job.keys, job.item)
        if outdated:
            self.scratch.stale.add(job.keys)
        return outdated

    def fill(self, job: Job) -> str:
        "Decode the image of `job` and keep it; see `_keep` for the outcomes. Raises what decoding raises."
        if self.opens_its_items():
            if not job.keys:
                self.open(job.item)
                return NEVER
            function = self._function()
            decoder = self._decoder(function)
            generation, source = self.store.generation, source_of(job.item)
            if isinstance(decoder, Stock):
                decoded = decoder.pieces(job.item)
            else:
                decoded = self._miss(decoder, job.item)
            return self._keep(function, job.keys, decoded, source, generation)
        scratch, thread = self.scratch, threading.get_ident()
        record = scratch.recording[thread] = []
        try:
            self.get(job.i)
        finally:
            del scratch.recording[thread]
            if scratch.opened_of is not self.items:
                scratch.opened, scratch.opened_of = {}, self.items
            scratch.opened[job.i] = [item for item, _ in record]
        outcomes = {outcome for _, outcome in record}
        return next((outcome for outcome in (FULL, AGAIN, KEPT) if outcome in outcomes), NEVER)

    def load_data(self, n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise") -> InMemory:
        "Decode every image not yet cached; see `memlist.loading.load_data`."
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
        self.items, self.sizes, self.store, scratch = il.items, getattr(il, "sizes", {}), il.store, il.scratch
        decoder = il._decoder(function) if il._serves_its_items() else None
        self.raw = Raw(decoder) if isinstance(decoder, Stock) else None
        undisturbed = not (scratch.stale or scratch.recording or scratch.probing)
        self.straight = undisturbed and self.raw is not None and self.raw.after_open is None and self.raw.most is None

    def __call__(self, i: int) -> Any:
        if self.raw is None:
            return self.il[i]
        if self.straight:
            try:
                record = self.store.read(self.raw.prefix + keys.file_key(self.items[i]))
            except Exception:
                record = None  # no item to open at all, perhaps: who serves it says so
            if record is not None:
                self.hits += 1
                made = self.raw.restore((record,))
                self.sizes[i] = made.size
                return made
        served = self.il._serve(self.function, self.items[i], self.raw)
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image

    def close(self) -> None:
        "Count what was found."
        if self.hits:
            self.store.count(True, self.hits)
            self.hits = 0


def source_of(item: Any) -> Optional[Source]:
    "Size, modification time (ns) and absolute path of the file that `item` names, if it does."
    if not isinstance(item, (str, os.PathLike)):
        return None
    try:
        stat = os.stat(item)
    except (OSError, ValueError):
        return None
    return Source(stat.st_size, stat.st_mtime_ns, os.path.abspath(os.fsencode(item)))


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
    held, most = limits.format_size(info.nbytes), limits.format_size(info.max_ram)
    need_text, jobs = "", [Job(one, item, i, ()) for one in plain(lists) for i, item in enumerate(one.items)]
    need = expected_bytes(jobs) if jobs else None
    if need is not None:  # a file may be an input and a target
        size = limits.format_size(need * info.total / len(jobs))
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
        if not y._final and y.max_ram is None and y.cache_file is None:
            y._store, y._final = x.store, True
        if y.max_size is None and x.max_size is not None:
            y.reduce_to(x.max_size)
    return make(x=x, y=y, **kwargs)


def _cached(own: Callable[[Any, Any], Any]) -> Callable[[InMemory, Any], Any]:
    @functools.wraps(own)
    def open(self: InMemory, fn: Any) -> Any:
        return self._read(types.MethodType(own, self), fn).image

    open._in_memory = True  # type: ignore[attr-defined]
    return open


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


def _for_the_list(kwargs: Dict[str, Any]) -> Dict[str, Any]:
    "Take the keywords that are a list's out of `kwargs`; the rest is for the data bunch."
    return {name: kwargs.pop(name) for name in _LIST_KEYWORDS if name in kwargs}


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
        from .batches import batched, checked, default_workers  # which build on this module

        if not checked(batch_tfms):
            return super().create_from_ll(lls, *args, **kwargs)
        given = inspect.signature(super().create_from_ll).bind(lls, *args, **kwargs).arguments
        if "num_workers" not in given:
            asked = {name: given[name] for name in ("device", "collate_fn") if name in given}
            given["num_workers"] = default_workers(lls, **asked)
        return batched(super().create_from_ll(**given))

    @classmethod
    def from_folder(
        cls,
        path: Any,
        train: Any = "train",
        valid: Any = "valid",
        test: Any = None,
        valid_pct: Optional[float] = None,
        seed: Optional[int] = None,
        classes: Optional[Sequence[Any]] = None,
        **kwargs: Any,
    ) -> MemoryImageDataBunch:
        "From `path` with `train`, `valid` and `test` folders, or `valid_pct`."
        path = Path(path)
        il = MemoryImageList.from_folder(path, exclude=test, **_for_the_list(kwargs))
        if valid_pct is None:
            src = il.split_by_folder(train=train, valid=valid)
        else:
            src = il.split_by_rand_pct(valid_pct, seed)
        return cls.create_from_ll(src.label_from_folder(classes=classes), test=test, **kwargs)

    @classmethod
    def from_df(
        cls,
        path: Any,
        df: pd.DataFrame,
        folder: Any = None,
        label_delim: Optional[str] = None,
        valid_pct: float = 0.2,
        seed: Optional[int] = None,
        fn_col: Any = 0,
        label_col: Any = 1,
        suffix: str = "",
        **kwargs: Any,
    ) -> MemoryImageDataBunch:
        "From the names and labels in the columns `fn_col` and `label_col` of `df`; `from_csv` comes here too."
        il = MemoryImageList.from_df(df, path=path, folder=folder, suffix=suffix, cols=fn_col, **_for_the_list(kwargs))
        src = il.split_by_rand_pct(valid_pct, seed).label_from_df(label_delim=label_delim, cols=label_col)
        return cls.create_from_ll(src, **kwargs)

    @classmethod
    def from_lists(
        cls,
        path: Any,
        fnames: Sequence[Any],
        labels: Sequence[Any],
        valid_pct: float = 0.2,
        seed: Optional[int] = None,
        item_cls: Optional[Callable[..., Any]] = None,
        **kwargs: Any,
    ) -> MemoryImageDataBunch:
        "From `fnames` and their `labels`."
        item_cls = functools.partial(ifnone(item_cls, MemoryImageList), **_for_the_list(kwargs))
        return super().from_lists(path, fnames, labels, valid_pct, seed, item_cls, **kwargs)

    @classmethod
    def from_name_func(
        cls,
        path: Any,
        fnames: Sequence[Any],
        label_func: Callable[[Any], Any],
        valid_pct: float = 0.2,
        seed: Optional[int] = None,
        **kwargs: Any,
    ) -> MemoryImageDataBunch:
        "From `fnames`, labelled by `label_func`; `from_name_re` comes here too."
        il = MemoryImageList(fnames, path=path, **_for_the_list(kwargs))
        src = il.split_by_rand_pct(valid_pct, seed).label_from_func(label_func)
        return cls.create_from_ll(src, **kwargs)


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
    return bool(names - {"_label_cls", "_bunch"})


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
