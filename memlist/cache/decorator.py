"""`cached`: keep what a function returns for each path, once per machine, for all processes."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
import time
import types
from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union, overload

import numpy as np

from ..store import ImageStore, MaxRam, brief, format_rule, shown
from . import filling, info, keys, spawned
from .cache import FULL, NEVER, Fetched, ImageCache
from .decode import Keys
from .function import FunctionDecoder, ProcessNote
from .info import CacheInfo
from .jobs import Job, Say, Work
from .leaving import lines_without
from .messages import warn_user
from .randomness import Judge
from .results import ARRAY, KIND, record_of, result_of

Function = Callable[[Any], Any]
# Stands for an argument that was not given.
_NOT_GIVEN: Any = object()


@overload
def cached(function: Function) -> Cached: ...
@overload
def cached(
    *, max_ram: MaxRam = ..., cache_file: Any = ..., version: Optional[str] = ..., copy: bool = ...
) -> Callable[[Function], Cached]: ...
def cached(
    function: Optional[Function] = None,
    *,
    max_ram: MaxRam = None,
    cache_file: Union[str, os.PathLike[str], None] = None,
    version: Optional[str] = None,
    copy: bool = True,
) -> Union[Cached, Callable[[Function], Cached]]:
    """Decorate a function from a path, or another small key, so that it runs once per path and machine::

        @memlist.cached(max_ram="8GB")
        def load(path):
            return Image.open(path).convert("RGB")

    What it returned is kept in memory that all processes share, whether they are forked or spawned: PIL images, arrays,
    tensors, and tuples, lists and dicts of these. It is equal to the bit, and a copy.

    - `max_ram`: the budget, such as `"8GB"` or `0.5` of the memory that is available; what does not fit is not kept
    - `cache_file`: keep it in this file, beyond the session and for all processes that name the file; needs a `version`
    - `version`: a string that you change when your function changes
    - `copy`: False to get arrays as read-only views, without a copy; a view is valid until `purge()`

    Each file that the argument names, also in a tuple, is checked when the image is first read: if its size or time has
    changed since it was kept, the function runs again. Later changes are seen by `load_data()`, or after decorating the
    function again. What is random, and what can't be kept, is not kept, and one warning says so. Decorating a function
    again, such as in a notebook, starts an empty cache, and the memory of the old one is freed with it.

    Raises TypeError for what is no function of one argument (methods, coroutines and generators among them) and for a
    `cache_file` without a `version`; `CacheFileError` for a file that can't be used. A hit costs some 10 µs and the
    copy.
    """
    if cache_file is not None and not isinstance(version, str):
        raise TypeError("cached(cache_file=…) needs a version: a string that you change when your function changes")
    if function is None:
        return lambda given: Cached(given, max_ram, cache_file, version, copy)
    return Cached(function, max_ram, cache_file, version, copy)


class Cached:
    """Call a function of one argument, and keep its results; see `cached`.

    - `load_data(items)`: call it now for each of `items` whose image is not kept yet, or whose file has changed
    - `cache_info(items)`: tell how many of these images are kept, and how full the memory is
    - `purge()`: give the memory back to the system
    - `__wrapped__`: the function itself
    """

    __name__: str
    __qualname__: str

    def __init__(
        self, function: Function, max_ram: MaxRam, cache_file: Any, version: Optional[str], copy: bool
    ) -> None:
        _check(function)
        if cache_file is not None:
            _prefix(function, version)  # raises what is wrong with it
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._copy, self._max_ram, self._cache_file, self._version = copy, max_ram, cache_file, version
        self._built, self._name = time.monotonic_ns(), _name(function)
        self._images: Optional[ImageCache] = None
        if not spawned.starting():  # a forked process has to find the store; a spawned one is sent it
            self._cache()
        if self._name:
            spawned.publish(self._name, self)

    def __call__(self, item: Any = _NOT_GIVEN, /, *more: Any, **named: Any) -> Any:
        "Return what the function returns for `item`, which may also be given by the name of its parameter."
        if more or named or item is _NOT_GIVEN:
            item = self._argument(item, more, named)
        images = self._images or self._cache()
        decoder: Any = images.decoder
        try:
            if decoder.quick and not images.since and not images.stale:
                made = decoder.hit(item)
                if made is not None:
                    return made
            fetched = images.fetch(item)
        except keys.Unkeyable as why:
            self._warn(self._text(f"a result is not kept, because {shown(why)}"))
            return self.__wrapped__(item)
        if fetched.reason or fetched.outcome == FULL:
            self._warn(self._said(fetched))
        return fetched.image if self._copy else _locked(fetched.image)

    def load_data(
        self, items: Sequence[Any], n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise"
    ) -> Cached:
        """Call the function for each of `items` that is not kept yet, or whose file has changed; return this object.

        It runs in the calling thread, or in `n_workers` forked processes. `progress` shows a bar. Items for which it
        raises are listed in one `ImageLoadError` after all others; with `on_error="warn"`, in a warning. The error's
        `items` are what to leave out.
        """
        rest = "paths = [path for path in paths if path not in error.items]"
        remedy = lines_without(self.__name__, "paths", rest)
        filling.load_data([_Load(self, self._several(items, "load_data"))], n_workers, progress, on_error, remedy)
        return self

    def cache_info(self, items: Optional[Sequence[Any]] = None) -> CacheInfo:
        "Return how many of `items` are kept, and how full the store is; without `items`, how many results there are."
        found = info.cache_info([_Load(self, [] if items is None else self._several(items, "cache_info"))])
        n = len(self._cache().store)
        return found if items is not None else found._replace(cached=n, total=n)

    def purge(self, file: bool = False) -> int:
        """Give the memory back to the system, in every process; return the bytes freed.

        A `cache_file` keeps its records, unless `file` is True.
        """
        own, pixels = self.stores()
        freed = pixels.purge(file)
        if own is not pixels:
            own.purge()
        return freed

    @property
    def images(self) -> ImageCache:
        "The cache of this process over the store of the results."
        return self._images or self._cache()

    def stores(self) -> Tuple[ImageStore, ImageStore]:
        "Return the store of this function alone, for notes, and that of its results: the same, or a cache file's."
        decoder: Any = self._cache().decoder
        return decoder.own, decoder.pixels

    def sent(self) -> spawned.Sent:
        "Return what another process needs to use the same stores: these, and when the function was decorated."
        return (*self.stores(), self._built)

    def __reduce__(self) -> Tuple[Any, ...]:
        # By its name, as functions are pickled: a spawned process finds the stores under it, see `spawned`.
        there = None
        with suppress(ImportError, AttributeError):
            there = spawned.found(self.__module__, self.__qualname__)
        if there is not self:
            raise pickle.PicklingError(f"can't pickle {self!r}: it is not what its module has under this name")
        return spawned.found, (self.__module__, self.__qualname__)

    def __deepcopy__(self, memo: Any) -> Cached:
        return self

    def __copy__(self) -> Cached:
        return self

    def __repr__(self) -> str:
        return f"<cached {self.__module__}.{self.__qualname__}>"

    def _cache(self) -> ImageCache:
        "Return the cache; if there is none yet, one over the stores of the parent process, or over new ones."
        if self._images is not None:
            return self._images
        sent = spawned.sent(self._name)
        if sent is not None:
            own, pixels, self._built = sent
        else:
            own = ImageStore(self._max_ram if self._cache_file is None else None)
            pixels = own if self._cache_file is None else ImageStore.open(self._cache_file, self._max_ram)
        prefix = b"" if pixels is own else _prefix(self.__wrapped__, self._version)
        decoder = Results(self.__wrapped__, own, pixels, prefix, self._copy)
        self._images = ImageCache(pixels, decoder, self._built if self._built > pixels.made else 0)
        return self._images

    def _argument(self, item: Any, more: Tuple[Any, ...], named: Dict[str, Any]) -> Any:
        "Return the one argument that was given by its name; raise TypeError for anything else."
        name = _parameter(self.__wrapped__)
        if item is _NOT_GIVEN and len(named) == 1 and name in named:
            return named[name]
        given = [] if item is _NOT_GIVEN else [f"{1 + len(more)} without a name"]
        given += [f"{one}=…" for one in named]
        raise TypeError(
            f"cached {self.__qualname__}({name}) takes one argument, and was given {' and '.join(given) or 'none'}. "
            "What it returns is kept under this argument. To give several values, let the function take a tuple of them"
        )

    def _several(self, items: Any, verb: str) -> List[Any]:
        "Return `items` as a list; raise TypeError for what is one item."
        if isinstance(items, (str, bytes, os.PathLike)):
            raise TypeError(
                f"cached {self.__qualname__}: {verb} takes a list of paths, and this is one path: {verb}([path])"
            )
        if not isinstance(items, Iterable):
            raise TypeError(
                f"cached {self.__qualname__}: {verb} takes a list of paths, and this is a {type(items).__name__}"
            )
        return list(items)

    def _said(self, fetched: Fetched) -> str:
        "Return the message about an outcome, once; else an empty string."
        if fetched.reason:
            return self._text(f"a result is not kept, because {shown(fetched.reason)}")
        rule = self._cache().store.rule
        if rule == 0:
            return ""
        given = "" if rule is None else f" (max_ram: {format_rule(rule)})"
        return self._text(f"its budget is used up{given}: what does not fit is made again each time")

    def _text(self, text: str) -> str:
        return f"cached {self.__qualname__}: {text}." if self.stores()[0].note(b"said " + text.encode()) else ""

    def _warn(self, text: str) -> None:
        if text:
            warn_user(text)


# The tag of an array whose rows follow one another, kept as it is.
_PLAIN = ARRAY << KIND


class Results(FunctionDecoder):
    """Keep the results of `function` under `prefix` and the item.

    `own` is a store of this function alone, for notes; `pixels` has the results: `own`, or a cache file.
    """

    def __init__(self, function: Function, own: ImageStore, pixels: ImageStore, prefix: bytes, copy: bool) -> None:
        self.function, self.own, self.pixels, self.prefix, self._copy = function, own, pixels, prefix, copy
        self.process = ProcessNote()
        self.judge = Judge(own, record_of, own.purge if pixels is own else lambda: None)

        # Records in memory need no look at whether the function is random: it would have emptied the store.
        self.quick = copy and pixels is own

    def hit(self, item: Any) -> Any:
        "Return a copy of the array that is kept for `item`; None if anything else is kept, or nothing: ask the cache."
        record = self.own.read(keys.item_key(item))
        if record is None or record.tag != _PLAIN:
            return None
        made = record.array.copy()
        if not self.own.current(record):
            return None
        self.own.count(True)
        return made

    def call(self, item: Any) -> Any:
        return self.function(item)

    def keys(self, item: Any) -> Keys:
        return (self.prefix + keys.item_key(item),)

    def record(self, made: Any) -> Any:
        return record_of(made)

    def restore(self, records: Sequence[Any]) -> Any:
        return result_of(records[0].array, records[0].tag, self._copy)


class _Load(Work):
    "The items that `load_data` of a cached function is called with."

    def __init__(self, function: Cached, items: Sequence[Any]) -> None:
        super().__init__(f"cached {function.__qualname__}", function._cache(), items, user_code=True)
        self._function = function

    def decode(self, job: Job, images: ImageCache, say: Say) -> str:
        unkeyable = Fetched(None, NEVER, None, "its key is not plain data")
        fetched = images.fill(job.item, job.keys) if job.keys else unkeyable
        text = self._function._said(fetched) if fetched.reason else ""
        if text:
            say(text)
        return fetched.outcome

    def say_full(self, others: Sequence[Work]) -> None:
        self._function._warn(self._function._said(Fetched(None, FULL)))


def _check(function: Any) -> None:
    "Raise TypeError for what can't be cached."
    if isinstance(function, Cached):
        raise TypeError(f"{function!r} is cached already")
    if isinstance(function, (staticmethod, classmethod)):
        raise TypeError("please put @staticmethod above @cached; a class method can't be cached")
    if not callable(function):
        raise TypeError(f"cached({brief(function)}): please give a function of one argument, a path")
    if inspect.ismethod(function):
        raise TypeError(f"{function.__qualname__} is a method, and what it returns depends on more than its argument")
    for wrong, kind in (
        (inspect.iscoroutinefunction, "a coroutine"),
        (inspect.isasyncgenfunction, "an asynchronous generator"),
        (inspect.isgeneratorfunction, "a generator"),
    ):
        if wrong(function):
            raise TypeError(f"{function.__qualname__} is {kind}: please return the image")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a function of an extension
        return
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not positional or len(needed) > 1 or (needed and needed[0].kind is inspect.Parameter.KEYWORD_ONLY):
        names = ", ".join(p.name for p in parameters)
        raise TypeError(f"{getattr(function, '__qualname__', function)}({names}) has to take one argument, a path")


def _parameter(function: Any) -> str:
    "Return the name by which the argument of a function may be given; an empty string if it has none."
    try:
        first = next(iter(inspect.signature(function).parameters.values()))
    except ValueError:  # a function of an extension
        return ""
    return first.name if first.kind is first.POSITIONAL_OR_KEYWORD else ""


def _name(function: Any) -> str:
    "Return the name by which other processes find a function; an empty string for one that has none."
    name = getattr(function, "__qualname__", "<none>")
    module = getattr(function, "__module__", None)
    return "" if "<" in name or not module else f"{_module(module)}.{name}"


def _module(name: str) -> str:
    return "__main__" if name == "__mp_main__" else name  # what a spawned process calls it


def _prefix(function: Any, version: Optional[str]) -> bytes:
    "Return the prefix of a function's keys in a cache file, for its name, its version and what is bound to it."
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"{function!r}: cached(cache_file=…) needs a function made by def, whose name identifies it")
    bound = [cell.cell_contents for cell in function.__closure__ or ()]
    for name, value in zip(function.__code__.co_freevars, bound):
        try:
            keys.value_key(value)
        except keys.Unkeyable as why:
            raise TypeError(
                f"{function.__qualname__} uses a variable of the function around it, {name!r}, that can't be told "
                f"apart from others in a cache_file: {why}. Please pass plain values, or use a function of the module"
            ) from None
    try:
        values = keys.digest(bound, list(function.__defaults__ or ()), dict(function.__kwdefaults__ or {}))
    except keys.Unkeyable:
        raise TypeError(
            f"{function.__qualname__} has a default value that can't be told apart from others in a cache_file: please "
            "use numbers, strings and the like"
        ) from None
    return keys.digest(_module(function.__module__), function.__qualname__, str(version), values)


def _locked(made: Any) -> Any:
    "Return a result whose arrays are read-only views."
    if type(made) is np.ndarray and made.flags.writeable:
        made = made.view()
        made.flags.writeable = False
        return made
    if type(made) in (tuple, list):
        return type(made)(map(_locked, made))
    return {key: _locked(one) for key, one in made.items()} if type(made) is dict else made
