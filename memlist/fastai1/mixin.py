"""`InMemory`: the hooks that fastai calls, answered from RAM."""

from __future__ import annotations

import functools
import types
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import numpy as np
import torch
from fastai.data_block import ItemList, LabelList
from fastai.torch_core import try_int
from fastai.vision.data import ImageList
from fastai.vision.image import Image

from ..cache.decode import DECODER
from ..cache.info import CacheInfo
from ..cache.messages import LIBRARIES
from ..store import ImageStore, MaxRam, parse_max_ram, store_for
from . import messages, signatures, work
from .calls import Call, current, of_one
from .decoders import stock_open
from .leaving import leave_out
from .owned import Scratch
from .reader import Reader
from .serving import Serving
from .sizes import Sizes
from .wrapping import building, cached, inside, watched

_ITEM_OF = ItemList.__getitem__
# fastai's own `get`, which opens item `i`, unless it was replaced before memlist was imported.
_GETS = tuple(
    get if get.__module__ == cls.__module__ and not hasattr(get, "__wrapped__") else None
    for cls, get in ((ImageList, ImageList.get), (ItemList, ItemList.get))
)


class InMemory(Serving):
    """Serve the images of a list class of your own from RAM: put this mixin before the class, and add nothing::

        class MyMemoryList(InMemory, MyList):
            pass

    The process that first opens an image decodes it; from then on it is a hit in every process and every epoch.
    `load_data()` decodes all images at once. Lists with the same `path` share one store.

    - `lazy`: fill the store as images are first opened (False: only `load_data()` fills it)
    - `max_ram`: the store's budget: '8GB', '500MiB', bytes, a share in (0, 1] of the available memory, 0 to cache
      nothing, None for 80 % of the available memory; images that do not fit are opened from disk every time
    - `cache_file`: keep the store in this file, on a local disk, instead of in anonymous memory. It is there when the
      next session starts, and all processes that name it share it. `max_ram` then limits the file; by default its disk
      does. Raises `CacheFileError` if it can't be used
    - `max_size`: keep images with their shorter side reduced to at most this many pixels; smaller images stay as they
      are. Pixels then differ from stock fastai's. Raises ValueError with your own `open`, which decodes by itself
    - `store`: the `ImageStore` to use; by default that of `cache_file` or of `path`

    Results of your own `open` belong to the list that you built and to the lists that descend from it. If they depend
    on anything that changes, other than an attribute of the list, then build the list again, call `purge()`, or set
    `cache = False` on the class. With `cache_version = "1"` on the class, a `cache_file` keeps them until that changes.
    """

    #: False: nothing of this class is cached.
    cache: bool = True
    #: With your own `open`: the version of its results in a `cache_file`. Change it when they change.
    cache_version: Optional[str] = None

    # Used until our constructor has set them: constructors of subclasses may open images before that.
    _lazy: Optional[bool] = None
    max_ram: MaxRam = None
    max_size: Optional[int] = None
    _store: Optional[ImageStore] = None
    _final = _plain_getitem = _plain_get = False

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
        parse_max_ram(max_ram)  # a wrong value is an error here, not at the first image
        messages.check_class(type(self))
        messages.check_lazy(lazy)
        super().__init__(*args, **kwargs)
        own: Any = vars(self)
        if type(own.get("sizes")) is dict:
            own["sizes"] = Sizes(own["sizes"])
        self._lazy, self.max_ram, self._store, self._final = lazy, max_ram, store, store is not None
        self.cache_file, self.max_size, self._family = cache_file, None, None
        self._label_list: Callable[..., LabelList] = functools.partial(labelled, self._label_list)
        if max_size is not None:
            self.reduce_to(max_size)
        if "_building" not in vars(self):
            self._built()

    def _built(self) -> None:
        "Give the list its store after its outermost constructor: a process forked without it would make its own."
        if self.runs_code():
            self._found()
        info = self.store.info()
        if not self._comes_here():
            messages.say_replaced(self)
        if self.max_ram is not None and info.nbytes > info.max_ram:
            messages.say_above(self)

    def new(self, items: Any, processor: Any = None, **kwargs: Any) -> InMemory:
        """Make a list as fastai does, with the attributes in `copy_new` and this list's settings and store.

        If its items are a selection of this list's, and everything else is equal, it belongs to this list's family.
        """
        given, family, call = {"inner_df": None, **kwargs}, self._family, current(self)
        selected = call is not None and call.selecting
        if family is not None:
            family = self._own_family()  # before the new list is made
            same = all(value is getattr(self, name, None) for name, value in given.items())
            selected = selected or (same and hasattr(items, "__len__") and self._has_all(items))
        made = super().new(items, processor=processor, **kwargs)
        made._lazy, made.max_ram, made._store, made._final = self._lazy, self.max_ram, self._store, self._final
        made.cache_file, made.max_size = self.cache_file, self.max_size
        if selected:
            made._scratch.built = self._scratch.built
            made._scratch.stale |= self._scratch.stale
        if made._family is not None:
            if family is not None and selected and type(made) is type(self) and self._agrees(made):
                self._descend(made)
            else:
                made._found()  # again, with the settings that it has by now
        return made

    def __getitem__(self, idxs: Any) -> Any:
        "Make an item, or a list of those at `idxs`, as fastai does."
        if type(idxs) is int and self._plain_getitem and self._family is None:
            return self.get(idxs)  # as fastai's own does, faster
        if isinstance(try_int(idxs), Integral):
            return super().__getitem__(idxs) if self._family is None else self._got(super().__getitem__, idxs)
        with Call(self) as call:
            call.selecting = True
            made = super().__getitem__(idxs)
        if isinstance(made, InMemory) and made._family is not None and made._family is self._family:
            positions = np.arange(len(self.items)) if self._positions is None else self._positions
            made._origin, made._positions = self._origin, positions[idxs]
        return made

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        below = cls.__mro__[cls.__mro__.index(InMemory) + 1 :]
        defined = next(vars(base)["__getitem__"] for base in below if "__getitem__" in vars(base))
        cls._plain_getitem = defined is _ITEM_OF
        cls._plain_get = tuple(vars(base)["get"] for base in below if "get" in vars(base)) == _GETS
        # Methods of a subclass override ours. Wrap them, to cache what its `open` returns, to know when its `get` is
        # running, and to know when the list is built.
        for name, wrap in (("open", cached), ("get", watched), ("__getitem__", watched), ("__init__", building)):
            own = cls.__dict__.get(name)
            if isinstance(own, types.FunctionType):
                setattr(cls, name, wrap(own))

        if "__signature__" not in vars(cls):
            with suppress(TypeError, ValueError):  # a constructor has none
                cls.__signature__ = signatures.of_class(cls)  # type: ignore[attr-defined]

    def reduce_to(self, max_size: int) -> None:
        "Keep images with their shorter side reduced to `max_size` pixels, as the keyword does; show a message once."
        messages.check_size(self, max_size, stock_open(self._function()) is None)
        self.max_size = max_size
        messages.say_reduced(self, max_size)

    @property
    def lazy(self) -> bool:
        "Return whether opening an image fills the store."
        return self._lazy is None or bool(self._lazy)

    @property
    def store(self) -> ImageStore:
        "Return the `ImageStore` of this list: that of its family, of its `x`, or of its `path`."
        return self.images().store

    def _shared(self) -> ImageStore:
        "Return the store for fastai's own `open`: that of its `x`, or of its `path`."
        x = self.x
        if self._store is None or (x is not None and not self._final):  # labels get their `x` after they are made
            if isinstance(x, InMemory) and self.max_ram is None and self.cache_file is None:
                self._store = x._shared()
            else:
                path = Path(self.path if x is None else x.path)
                self._store = store_for(str(path.resolve()), self.max_ram, self.cache_file, DECODER)
            self._final = x is not None
        return self._store

    # -- opening ----------------------------------------------------------------------------------------------

    def open(self, fn: Any, *args: Any, **kwargs: Any) -> Image:
        "Return the image of `fn`, from RAM if it is there."
        if args or kwargs:
            return self._open_with(super().open, fn, args, kwargs)
        served = self._serve(super().open, fn)
        if served.original is not None:
            call = current(self)
            if call is not None:  # for `get`
                call.originals[served.image.size] = torch.Size(served.original)
        return served.image

    def get(self, i: Any, *args: Any, **kwargs: Any) -> Any:
        """Make item `i`, as the base list does.

        `sizes` holds the sizes before images were reduced, which points and boxes refer to.
        """
        if self.max_size is None:  # always so with a user's own `open`
            get = of_one(super().get, args, kwargs)
            return get(i) if self._family is None else self._got(get, i)
        with Call(self) as call:
            call.originals = {}
            item = self._got(of_one(super().get, args, kwargs), i)
            size = getattr(self, "sizes", {}).get(i)
            if size in call.originals:
                self.sizes[i] = call.originals[size]
        return item

    # -- what the label list, the loader and `load_data` ask for ----------------------------------------------

    def _take(self, i: int) -> Tuple[Any, bool]:
        "Return item `i`, and whether no other code refers to it, so that it need not be copied again."
        if not self._serves_its_items():
            return self[i], False
        served = self._serve(super().open, self.items[i])
        self.sizes[i] = served.image.size if served.original is None else torch.Size(served.original)
        return served.image, served.own

    def _reader(self) -> Reader:
        "Return a reader of this list's items for one batch."
        return Reader(self, super().open)

    def _serves_its_items(self) -> bool:
        "Return whether item `i` is exactly what our `open` returns for `items[i]`."
        cls = type(self)
        plain = cls.open is InMemory.open and cls.__getitem__ is InMemory.__getitem__ and cls._plain_getitem
        untouched = cls._plain_get and ImageList.get is _GETS[0] and ItemList.get is _GETS[1]
        return plain and untouched and self.opens_its_items()

    def _function(self) -> Callable[[Any], Any]:
        "Return the `open` whose results are cached: the most derived one, without our wrapper."
        own = type(self).open
        if own is InMemory.open:
            return super().open  # type: ignore[no-any-return]
        return types.MethodType(inside(own) if hasattr(own, "_in_memory") else own, self)

    def opens_its_items(self) -> bool:
        "Return whether `get` is fastai's own, which opens exactly `items[i]` with the class's `open`."
        known, get = vars(self), getattr(super().get, "__func__", None)
        return get is ImageList.get and type(self).get is InMemory.get and "open" not in known and "get" not in known

    def known_by_running(self) -> bool:
        "Return whether `get` is user code, so that only running it tells what it opens."
        own = "get" in vars(self) or str(self._get().__module__).split(".")[0] not in LIBRARIES
        return own and self._comes_here() and not self.opens_its_items()

    def _get(self) -> Any:
        "Return the `get` of this list's class that is not ours."
        return next(vars(base)["get"] for base in type(self).__mro__ if "get" in vars(base) and base is not InMemory)

    def _comes_here(self) -> bool:
        "Return whether the `open` that `get` calls is ours, and was not assigned to a class or list later."
        return "open" not in vars(self) and (type(self).open is InMemory.open or hasattr(type(self).open, "_in_memory"))

    def runs_code(self) -> bool:
        "Return whether filling runs user code, which may run in the calling thread or in processes, not in threads."
        return self.known_by_running() or (self._comes_here() and stock_open(self._function()) is None)

    def load_data(self, n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise") -> InMemory:
        """Decode every image of this list that is not in memory yet; return the list.

        - `n_workers=None`: the number of threads, 0 for none; None: one per CPU, or more if reading takes longer than
          decoding. An `open` or `get` of your own runs in the calling thread, or in `n_workers` forked processes
        - `progress=True`: show a bar in a notebook or a terminal, or print lines into a log
        - `on_error="raise"`: after all others, raise one `ImageLoadError` that lists the images that could not be
          decoded and says how to leave them out; `"warn"`: warn of them instead

        Called again, it decodes only what is missing and files that have changed. Random generators are left as they
        were. Raises ValueError for an argument that is not one of these.
        """
        call = current(self)
        if call is not None and call.opening:
            raise RuntimeError(
                f"{type(self).__name__}.open calls load_data(), which calls open: please remove that call"
            )
        work.load_data([self], n_workers, progress, on_error)
        return self

    def without(self, errors: Any) -> InMemory:
        """Leave out of this list the images that could not be loaded, before it is split; return the list::

            try:
                il.load_data()
            except ImageLoadError as error:
                il = il.without(error)

        `errors` is the `ImageLoadError`, or the items themselves. The list is changed in place, as by fastai's
        `filter_by_func`. What a split or a label call returns, and a data bunch, have this method, too. Raises
        ValueError for an item of yours that the list does not open; an error may be of more lists than this.
        """
        leave_out([self], errors)
        return self

    def purge(self, file: bool = False) -> int:
        """Give the memory of this list's store back, at once and in every process; return the bytes freed.

        - `file=False`: a `cache_file` keeps its records, and only leaves memory; True: empty the file
        """
        return work.purge([self], file)

    def cache_info(self) -> CacheInfo:
        """Return how many of this list's images are in memory, and how full their store is: a `CacheInfo`.

        Printed, it is three lines: images, store and reads. Costs some microseconds per image.
        """
        return work.cache_info([self])

    @property
    def loaded(self) -> bool:
        "Return whether every image that this list would open is cached."
        return work.is_loaded([self])

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Not `__getstate__`: `LabelList.__getattr__` would return ours as its own.
        _ = self.store  # a process being spawned must get this store, not make its own
        return super().__reduce_ex__(protocol)


def labelled(make: Callable[..., LabelList], x: ItemList, y: ItemList, **kwargs: Any) -> LabelList:
    "Label a list, as fastai does; targets without settings of their own take those of their inputs."
    if isinstance(x, InMemory) and isinstance(y, InMemory):
        if y._lazy is None:
            y._lazy = x._lazy
        if y.max_ram is None and y.cache_file is None and not y._final:
            if y._family is not None:  # it keeps a separate store, but takes the settings
                y.max_ram, y.cache_file = x.max_ram, x.cache_file
                y._found()
            else:
                y._store, y._final = x._shared(), True
        if y.max_size is None and x.max_size is not None:
            y.reduce_to(x.max_size)
    return make(x=x, y=y, **kwargs)
