"""Decide which list owns the results of user code: how a family begins, and when a list joins or leaves it."""

from __future__ import annotations

import os
import pickle
import time
import types
import zlib
from multiprocessing.context import get_spawning_popen
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Set, Tuple

import numpy as np
from fastai.data_block import ItemList

from ..cache import keys
from ..cache.cache import ImageCache
from ..cache.decode import Keys
from ..store import ImageStore
from .calls import current, run_open
from .decoders import stock_open
from .family import Family
from .whole import Whole

# Attributes that fastai and we set for bookkeeping: setting them does not change what a user's `open` returns.
BOOKKEEPING = {"items", "x", "ignore_empty", "processor", "c", "loss_func", "pad_idx", "sizes", "label_cls", "warn"}
BOOKKEEPING |= {"copy_new", "num_parts", "max_ram", "cache_file", "_scratch", "_label_list", "_split", "_store"}
BOOKKEEPING |= {"_final", "_lazy", "_family", "_origin", "_positions", "_building"}
BOOKKEEPING |= {"_set_later", "_set_in_get", "_set_in_open"}
_SCALARS = (type(None), bool, int, float, str, bytes)


class Scratch:
    "Hold the state of a list in one process. It is not pickled: a list loaded from a file counts as just built."

    def __init__(self, built: int = 0) -> None:
        # When the list was built: each file has to be examined at least once after that.
        self.built = built or time.monotonic_ns()
        # The caches that were used last: for fastai's own `open`, and for a user's.
        self.images: Optional[ImageCache] = None
        self.whole: Optional[ImageCache] = None
        # Keys whose files have changed, to be decoded again.
        self.stale: Set[Keys] = set()

    def __reduce__(self) -> Tuple[Any, ...]:
        return Scratch, (self.built if get_spawning_popen() is not None else 0,)


class Owned(ItemList):
    """The part of `InMemory` that manages the list's family.

    - `_origin` and `_positions`: identify the items of this list, and of lists selected from it, whatever their indices
    - `_set_later`, `_set_in_get`, `_set_in_open`: attributes that were set after the list was built, by its `get`, and
      by its `open`
    """

    cache_file: Any = None
    _family: Optional[Family] = None
    _origin = b""
    _positions: Optional[np.ndarray] = None
    _set_later: FrozenSet[str] = frozenset()
    _set_in_get: FrozenSet[str] = frozenset()
    _set_in_open: FrozenSet[str] = frozenset()
    _scratch: Scratch

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute. If a user's own `open` may read it, the list starts again with an empty store.

        Attributes that `open` itself sets are its bookkeeping. Those that `get` sets become part of the keys.
        """
        known: Dict[str, Any] = self.__dict__
        family = known.get("_family")
        if name == "items":
            known["_origin"], known["_positions"] = os.urandom(8), None
        if family is None or name in BOOKKEEPING or _same(known.get(name, self), value):
            super().__setattr__(name, value)
            return
        call = current(self)
        if call is not None and call.opening:
            known["_set_in_open"] = self._set_in_open | {name}
            super().__setattr__(name, value)
        elif call is not None and call.getting is not None:
            known["_set_in_get"] = self._set_in_get | {name}
            super().__setattr__(name, value)
        else:
            known["_family"] = None  # images that another thread is opening meanwhile are not kept
            super().__setattr__(name, value)
            known["_set_later"] = self._set_later | {name}
            self._found()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        call = current(self)
        if vars(self).get("_family") is not None and name not in BOOKKEEPING and not (call and call.opening):
            self._found()

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

    def _descend(self, made: Any) -> None:
        "Add `made`, a list of a selection of this list's items, to this list's family."
        assert self._family is not None
        made._join(self._family)
        for name in ("_set_later", "_set_in_get", "_set_in_open"):
            setattr(made, name, getattr(self, name))

    def _has_all(self, items: Any) -> bool:
        "Return whether all `items` are among this list's."
        try:
            return items is self.items or {*map(keys.item_key, items)} <= {*map(keys.item_key, self.items)}
        except keys.Unkeyable:
            return False

    def _agrees(self, other: Owned) -> bool:
        """Return whether `other`, a list just made from this one, has the same attributes.

        Objects that the constructor made separately for each list count as the same if they were made alike.
        """
        mine, theirs = vars(self), vars(other)
        names = {*mine, *theirs} - BOOKKEEPING - self._set_in_get - self._set_in_open - {"inner_df"}
        return all(
            mine.get(name) is theirs.get(name)
            or (name not in self._set_later and _made_alike(mine.get(name), theirs.get(name)))
            for name in names
        )

    def _own_images(self, function: Callable[[Any], Any]) -> ImageCache:
        "Return the cache of a user's `open`. If its code is not the family's, begin a new family."
        family = self._family
        if family is None or not family.runs(function, type(self)):
            if family is not None and family.runs(self._function(), type(self)):
                raise TypeError("its get calls an open that is not its class's")
            family = self._found()
        known, context, vary = self._scratch.whole, b"", None
        if known is not None and not self._set_in_get:
            whole: Any = known.decoder
            if whole.family is family and getattr(whole.function, "__self__", None) is self:
                return known
        if not family.prefix:
            family.prefix = self._lasting_prefix()
        if self._set_in_get:
            # Include the item's position: in lists of one item, `get` may point `open` to other rows at one index.
            call, vary = current(self), self._varies
            where = b"" if call is None or call.getting is None else self._position(call.getting)
            context = keys.digest(where, *((name, vars(self).get(name)) for name in sorted(self._set_in_get)))
        whole = Whole(function, _opening, family, context, vary)
        self._scratch.whole = ImageCache(family.pixels, whole, self._since(family.pixels), self._scratch.stale)
        return self._scratch.whole

    def _own_family(self) -> Family:
        "Return the family of the list's present code."
        decoder: Any = self._own_images(self._function()).decoder
        return decoder.family  # type: ignore[no-any-return]

    def _lasting_prefix(self) -> bytes:
        """Return the prefix of this list's keys in a cache file. It depends on data, but not on code.

        It stands for the class, its `cache_version`, and the attributes and the table that `open` may read. Of an
        object that can't be pickled only the class counts: users have to change the `cache_version` with it.
        """
        cls: Any = type(self)
        parts: List[Any] = []
        for name in sorted(set(vars(self)) - BOOKKEEPING - self._set_in_get - self._set_in_open - {"max_size"}):
            value = vars(self)[name]
            kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
            parts.append((name, _contents(value) or f"{kind.__module__}.{kind.__qualname__}"))
        module = "__main__" if cls.__module__ == "__mp_main__" else cls.__module__
        return keys.digest(module, cls.__qualname__, cls.cache_version, parts)

    def _since(self, store: ImageStore) -> int:
        "Return the time after which files must have been examined; 0 if every record of `store` is later anyway."
        return self._scratch.built if self._scratch.built > store.made else 0

    def _position(self, i: int) -> bytes:
        "Return an identifier of item `i` that stays the same in lists selected from this one."
        i = i if i >= 0 else i + len(self.items)
        return self._origin + b" %d" % (i if self._positions is None else self._positions[i])

    def keep_positions(self, keep: np.ndarray) -> None:
        "Remember that only the items at the indices `keep` stay, in this order, with the images that belong to them."
        self._positions = keep if self._positions is None else self._positions[keep]

    def _varies(self, prefix: bytes) -> bool:
        "Return whether `get` has set other values for this item before, which `open` may have read."
        call, family = current(self), self._family
        if call is None or call.getting is None or family is None:
            return False
        return family.varies(self._position(call.getting) + b" at %d" % call.getting, zlib.crc32(prefix))

    def _unversioned(self) -> bool:
        "Return whether there is a `cache_file`, but no version under which it may keep results of a user's `open`."
        return self.cache_file is not None and stock_open(self._function()) is None and type(self).cache_version is None

    def notes(self) -> ImageStore:
        "Return the store that keeps notes for this list: which messages were shown."
        return self._shared() if self._family is None else self._family.own


def _opening(function: Any, item: Any) -> Any:
    il = getattr(function, "__self__", None)
    return function(item) if il is None else run_open(il, function, item)


def _same(one: Any, other: Any) -> bool:
    "Return whether both are equal numbers or strings, or tuples of these. Other objects may be mutable."
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) in _SCALARS and type(one) is type(other) and bool(one == other)


def _contents(value: Any) -> Optional[bytes]:
    "Return bytes that are equal if two values are, for plain data and what can be pickled; else None."
    try:
        return keys.digest(value)
    except Exception:
        try:
            return keys.digest(pickle.dumps(value, 4))
        except Exception:
            return None


def _made_alike(one: Any, two: Any) -> bool:
    "Return whether both hold equal data or, if that can't be told, have the same class and name the same file."
    if type(one) is not type(two) or isinstance(one, (type, types.FunctionType, types.MethodType)):
        return False
    mine, theirs = _contents(one), _contents(two)
    names = [[str(getattr(value, name, "")) for name in ("name", "filename", "path")] for value in (one, two)]
    return mine == theirs if mine or theirs else names[0] == names[1]
