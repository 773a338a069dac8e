"""Calls into a user's code, and the calls that come back out of it.

fastai calls a user's `get`, which calls our `open`, which may call the user's `open`. Nothing can be passed through
that code as an argument. So a `Call` is kept in a context variable, one per list and call.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..cache.decode import Keys


class Opened(NamedTuple):
    "One image that a `get` has opened: its item, its keys, and what became of it (see `cache.cache`)."

    item: Any
    keys: Keys
    outcome: str


class Call:
    """One call into the code of the list `il`; it begins and ends with a `with` block.

    - `getting`: the index of the item that `get` is making; None outside of `get`
    - `opening`: whether a user's `open` is running: what it opens by ours is not cached a second time
    - `selecting`: whether a list is being made of items of `il` selected by their indices
    - `say`: inside `load_data`, takes the messages that are said after it; reads are not counted then
    - `opened`: what `get` has opened so far
    - `originals`: for images that were reduced, by the size that they have now: the size that they had
    """

    __slots__ = ("_token", "getting", "il", "opened", "opening", "originals", "outer", "say", "selecting")

    def __init__(self, il: Any) -> None:
        self.il, self.opening, self.selecting = il, False, False
        self.getting: Optional[int] = None
        self.say: Optional[Callable[[str], None]] = None
        self.opened: Optional[List[Opened]] = None
        self.originals: Dict[Any, Any] = {}
        self.outer = known = _CURRENT.get()
        while known is not None and known.il is not il:
            known = known.outer
        if known is not None:  # what an outer call into the same list is doing goes on
            self.opening, self.getting, self.say = known.opening, known.getting, known.say
            self.opened, self.originals = known.opened, known.originals

    def __enter__(self) -> Call:
        self._token = _CURRENT.set(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _CURRENT.reset(self._token)


_CURRENT: ContextVar[Optional[Call]] = ContextVar("memlist_call", default=None)


def current(il: Any) -> Optional[Call]:
    "Return the innermost call into `il` that is running in this thread, if any."
    call = _CURRENT.get()
    while call is not None and call.il is not il:
        call = call.outer
    return call


def run_open(il: Any, function: Callable[[Any], Any], item: Any) -> Any:
    "Call a user's `open`. What it opens by ours is not cached, and what it sets on the list is bookkeeping."
    call = current(il)
    if call is None:
        with Call(il) as call:
            call.opening = True
            return function(item)
    before, call.opening = call.opening, True
    try:
        return function(item)
    finally:
        call.opening = before


def of_one(function: Callable[..., Any], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Callable[[Any], Any]:
    "Return `function` of its first argument."
    return (lambda first: function(first, *args, **kwargs)) if args or kwargs else function
