"""Keep track of calls into a user's code, and of calls that come back from it.

fastai calls a user's `get`, which calls our `open`, which may call the user's `open`. We can't pass arguments through
that code, so each call has a `Call`, which is kept in a context variable.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ..cache.decode import Keys


class Opened(NamedTuple):
    "One image that a `get` has opened: its item, its keys and its outcome (see `cache.cache`)."

    item: Any
    keys: Keys
    outcome: str


class Call:
    """One call into the code of the list `il`, for the duration of a `with` block.

    - `getting`: the index of the item that `get` is making; None outside of `get`
    - `opening`: whether a user's `open` is running; images that it opens with ours are not cached separately
    - `selecting`: whether a list of selected items of `il` is being made, by their indices
    - `say`: inside `load_data`, takes messages to show after it; reads are not counted then
    - `opened`: the images that `get` has opened so far
    - `originals`: the original sizes of reduced images, by their reduced sizes
    """

    __slots__ = ("_token", "getting", "il", "opened", "opening", "originals", "outer", "say", "selecting")

    def __init__(self, il: Any) -> None:
        self.il, self.opening, self.selecting = il, False, False
        self.getting: Optional[int] = None
        self.say: Optional[Callable[[str], None]] = None
        self.opened: Optional[List[Opened]] = None
        self.originals: Dict[Any, Any] = {}
        self.outer, known = _CURRENT.get(), current(il)
        if known is not None:  # an outer call into the same list is still running
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
    "Call a user's `open`. Images that it opens with ours are not cached; attributes that it sets are bookkeeping."
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
    "Return `function` with all but its first argument bound."
    return (lambda first: function(first, *args, **kwargs)) if args or kwargs else function
