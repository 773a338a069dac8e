"""Families: the lists that descend from one whose `open` or `get` is the user's own code, and what that code opened.

No key can tell what a user's code depends on. So what it opened belongs to the list that was built and to those that
descend from it: it lies in a store of their own, and its memory is freed with the last of them.
"""

from __future__ import annotations

import os
import threading
import types
from contextlib import suppress
from functools import partial
from typing import Any, Callable, List, Optional, Sequence, Tuple
from weakref import WeakSet, ref

import numpy as np

from ..store import ImageStore
from . import forks, plain
from .decode import DIFFERS, DRAWS, VARIES, packed, parts, random_states, restore_states, same_states

# So many of a family's images are opened twice, to see whether the code is random.
LOOKS = 4
ALIKE, RAISES = "alike", "raises"
Opened = Sequence[Tuple[Any, Sequence[bytes]]]


class Family:
    """Hold what the lists of a family share.

    - `own`: memory of theirs alone, for notes on the code and for what `get` has opened
    - `pixels`: the store of their images: `own`, or a cache file
    - `prefix`: what the keys of their images begin with
    - `own_get`: whether `get` is the user's own, so that only running it tells what it opens
    """

    def __init__(self, own: ImageStore, pixels: ImageStore, prefix: bytes, own_get: bool) -> None:
        self.own, self.pixels, self.prefix, self.own_get = own, pixels, prefix, own_get
        self.lists: WeakSet[Any] = WeakSet()
        self.code: Optional[Tuple[Any, Any, Any]] = None
        self.defined: Any = None
        self.kinds: dict[int, type] = {}
        self.pid, self.idle, self.opens = os.getpid(), 0, 0
        self._random, self._trusted_in = (-1, ""), -1
        own.family = ref(self)  # type: ignore[attr-defined]
        own.before_fork = partial(_settle, ref(self))

    def __reduce__(self) -> Tuple[Any, ...]:
        return _revived, (self.own, self.pixels, self.prefix, self.own_get)

    def __deepcopy__(self, memo: Any) -> Family:
        return self

    def runs(self, function: Callable[[Any], Any], cls: type) -> bool:
        "Return whether `function`, the `open` of `cls`, is what made the family's images so far, down to its code."
        own = getattr(function, "__func__", function)
        code = getattr(own, "__code__", None)
        if self.code is None:
            fastais = str(getattr(own, "__module__", "")).startswith("fastai.")
            self.code, self.defined = (own, code, parts() if fastais else None), _defined(cls)
        if self.code[0] is own and self.code[1] is code:
            return self.code[2] is None or self.code[2] == parts()
        defined = _defined(cls)  # a `partialmethod`, for one, is another function at each access
        return defined is self.defined and not isinstance(defined, types.FunctionType)

    # -- is the code random? ----------------------------------------------------------------------------------

    def random(self) -> str:
        "Return why nothing of the code is kept since the last purge: it is random, or `get` is; or return nothing."
        if self._random[0] != self._round():
            reasons = (reason for reason in (DRAWS, DIFFERS, VARIES) if self.own.noted(reason.encode()))
            self._random = self._round(), next(reasons, "")
            if not self._random[1]:
                self._random = -1, ""  # it may turn out to be
        return self._random[1]

    def looks_random(self, function: Callable[[Any], Any], item: Any) -> Optional[str]:
        """Return why the code is random, or nothing; opens `item` twice if fewer than `LOOKS` images have been so far.

        None: that could not be done. `compare` does it, once the image is there.
        """
        if self.random() or self._trusted_in == self._round():
            return self.random()
        if self.own.noted(b"opened twice %d" % (LOOKS - 1)):
            self._trusted_in = self._round()
            return ""
        return self._judge(self._ask(function, item))

    def compare(self, function: Callable[[Any], Any], item: Any, decoded: Any, ask: bool) -> str:
        """Return why the code is random that made `decoded` of `item`, or nothing.

        It is called once more: if `ask`, in a forked process, which tells whether it was this code that moved a global
        generator; else here, where no process could be asked.
        """
        answer = self._ask(function, item) if ask else None
        if answer is None:
            states = random_states()
            try:
                pieces, reason = packed(function(item), {})
            except Exception as error:
                pieces, reason = (), repr(error)
            if not same_states(states, random_states()):
                restore_states(states)
            alike = reason == decoded.reason and _bits(pieces) == _bits(decoded.pieces)
            drawn = decoded.moved and threading.active_count() == 1
            answer = DRAWS if drawn else ALIKE if alike else DIFFERS
        return self._judge(answer) or ""

    def _ask(self, function: Callable[[Any], Any], item: Any) -> Optional[str]:
        """Open `item` twice in a forked process, and return what came of it; None where that can't be told.

        So this process is left as it is, its private generators and its counters included; and no thread draws there.
        """
        if not forks.can_fork() or self.own.noted(b"can't ask"):
            return None
        answer = forks.ask(partial(_differ, function, item))
        if answer is None:  # it waits for a thread that is not there, or it can't be forked
            self.own.note(b"can't ask")
        return None if answer == RAISES else answer

    def drop(self, reason: str) -> None:
        "Keep nothing of the code any more, and drop what was kept."
        if self.pixels is self.own:
            self.own.purge()
        self.own.note(reason.encode())

    def _judge(self, answer: Optional[str]) -> Optional[str]:
        if answer in (DRAWS, DIFFERS):
            self.drop(str(answer))
        elif answer == ALIKE:
            fewer = (k for k in range(LOOKS) if not self.own.noted(b"opened twice %d" % k))
            self.own.note(b"opened twice %d" % next(fewer, 0))
        return None if answer is None else self.random()

    def _round(self) -> int:
        return self.own.purges

    # -- what a user's `get` opens ----------------------------------------------------------------------------

    def opened(self, position: bytes) -> Optional[Opened]:
        "Return what `get` opened when it first made the item at `position`; None if it never did."
        record = self.own.read(b"read " + position)
        with suppress(ValueError):
            if record is not None:
                made: Opened = plain.loads(record.array.tobytes())
                return made if self.own.current(record) else self.opened(position)
        return None

    def note_opened(self, position: bytes, opened: Opened) -> None:
        "Note what `get` has opened for the item at `position`, unless that is known."
        if b"read " + position not in self.own:
            self.own.put(b"read " + position, np.frombuffer(plain.dumps(list(opened)), np.uint8))

    def varies(self, position: bytes, context: int) -> bool:
        "Return whether what `get` sets for the item at `position` is something else each time."
        record = self.own.read(b"set " + position)
        if record is None:
            self.own.put(b"set " + position, np.empty(0, np.uint8), tag=context)
        return record is not None and record.tag != context


def _defined(cls: type) -> Any:
    "Return what the user's class has under the name `open`."
    found = (vars(base)["open"] for base in cls.__mro__ if "open" in vars(base))
    return next((one for one in found if not str(getattr(one, "__module__", "")).startswith("memlist.")), None)


def _bits(pieces: Sequence[Any]) -> List[Any]:
    return [(piece.tag, piece.array.shape, piece.array.tobytes()) for piece in pieces]


def _differ(function: Callable[[Any], Any], item: Any) -> str:
    "Open `item` twice and say what came of it. Nobody else may draw from the global generators."
    seen: List[Any] = []
    for _ in range(2):
        before = random_states()
        try:
            made = function(item)
        except Exception:
            return RAISES
        if not same_states(before, random_states()):
            return DRAWS
        pieces, reason = packed(made, {})
        seen.append((reason, _bits(pieces)))
    return ALIKE if seen[0] == seen[1] else DIFFERS


def _settle(family: Any) -> None:
    "See before a fork to it that each list has the family of its present code: a child's would be the child's alone."
    for il in list(getattr(family(), "lists", ())):
        with suppress(Exception):
            _ = il.store


def _revived(own: ImageStore, pixels: ImageStore, prefix: bytes, own_get: bool) -> Family:
    known = getattr(own, "family", None)
    return (known and known()) or Family(own, pixels, prefix, own_get)
