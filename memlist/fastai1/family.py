"""Families: a list whose `open` or `get` is user code, all lists that descend from it, and the images of that code.

No key can express what user code depends on. So its results belong to the list that was built and to the lists that
descend from it: they are kept in a separate store, whose memory is freed with the last of these lists.
"""

from __future__ import annotations

import types
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Tuple
from weakref import WeakSet, ref

import numpy as np

from ..cache import plain
from ..cache.function import ProcessNote
from ..cache.randomness import Judge
from ..store import ImageStore
from .decoders import decoding_functions
from .whole import record_of

OpenedItems = Sequence[Tuple[Any, Sequence[bytes]]]


class Family:
    """Hold what the lists of a family share.

    - `own`: a store of this family alone, for notes on the code and on what `get` has opened
    - `pixels`: the store of their images: `own`, or a cache file
    - `prefix`: the first bytes of the keys of their images
    - `own_get`: whether `get` is user code, so that only running it tells what it opens
    - `judge`: finds out whether the code is random
    - `kinds`: the image classes that this process has seen
    """

    def __init__(self, own: ImageStore, pixels: ImageStore, prefix: bytes, own_get: bool) -> None:
        self.own, self.pixels, self.prefix, self.own_get = own, pixels, prefix, own_get
        self.lists: WeakSet[Any] = WeakSet()
        self.code: Optional[Tuple[Any, Any, Any]] = None
        self.defined: Any = None
        self.kinds: Dict[int, type] = {}
        self.process, self.idle, self.opens = ProcessNote(), 0, 0
        dropped = own.purge if pixels is own else _keep_file
        self.judge = Judge(own, lambda made: record_of(made, {}), dropped)
        own.family = ref(self)  # type: ignore[attr-defined]
        own.before_fork = partial(_settle, ref(self))

    def __reduce__(self) -> Tuple[Any, ...]:
        return _revived, (self.own, self.pixels, self.prefix, self.own_get)

    def __deepcopy__(self, memo: Any) -> Family:
        return self

    def runs(self, function: Callable[[Any], Any], cls: type) -> bool:
        "Return whether `function`, the `open` of `cls`, is still the code that made the family's images."
        own = getattr(function, "__func__", function)
        code = getattr(own, "__code__", None)
        if self.code is None:
            fastais = str(getattr(own, "__module__", "")).startswith("fastai.")
            self.code, self.defined = (own, code, decoding_functions() if fastais else None), _defined(cls)
        if self.code[0] is own and self.code[1] is code:
            return self.code[2] is None or self.code[2] == decoding_functions()
        defined = _defined(cls)  # a `partialmethod`, for example, is a new function on each access
        return defined is self.defined and not isinstance(defined, types.FunctionType)

    def opened(self, position: bytes) -> Optional[OpenedItems]:
        "Return what `get` opened when it first made the item at `position`; None if it has not made it yet."
        record = self.own.read(b"read " + position)
        with suppress(ValueError):
            if record is not None:
                made: OpenedItems = plain.loads(record.array.tobytes())
                return made if self.own.current(record) else self.opened(position)
        return None

    def note_opened(self, position: bytes, opened: OpenedItems) -> None:
        "Note what `get` has opened for the item at `position`, unless that is noted already."
        if b"read " + position not in self.own:
            self.own.put(b"read " + position, np.frombuffer(plain.dumps(list(opened)), np.uint8))

    def varies(self, position: bytes, context: int) -> bool:
        "Return whether `get` sets other values than the first time for the item at `position`."
        record = self.own.read(b"set " + position)
        if record is None:
            self.own.put(b"set " + position, np.empty(0, np.uint8), tag=context)
        return record is not None and record.tag != context


def _keep_file() -> None:
    "Leave a cache file as it is: its records are no longer served."


def _defined(cls: type) -> Any:
    "Return the `open` that the user's class defines."
    found = (vars(base)["open"] for base in cls.__mro__ if "open" in vars(base))
    return next((one for one in found if not str(getattr(one, "__module__", "")).startswith("memlist.")), None)


def _settle(family: Any) -> None:
    "Before a fork, give each list the family of its present code: a child would create a family of its own."
    for il in list(getattr(family(), "lists", ())):
        with suppress(Exception):
            _ = il.store


def _revived(own: ImageStore, pixels: ImageStore, prefix: bytes, own_get: bool) -> Family:
    known = getattr(own, "family", None)
    return (known and known()) or Family(own, pixels, prefix, own_get)
