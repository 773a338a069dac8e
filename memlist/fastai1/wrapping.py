"""The wrappers that `InMemory` puts around the methods of its subclasses."""

from __future__ import annotations

import functools
import types
from typing import Any, Callable

from .calls import of_one


def inside(wrapper: Any) -> Any:
    """Return the user's function inside one of our wrappers, with its latest code.

    `%autoreload` replaces the code and attributes of a function, but can't reach the function in our closure.
    """
    own = wrapper.__closure__[wrapper.__code__.co_freevars.index("own")].cell_contents
    latest = wrapper.__wrapped__.__code__
    if own.__code__ is not latest:
        own.__code__ = latest
    return own


def cached(own: Callable[..., Any]) -> Callable[..., Any]:
    "Serve the results of an `open` from the store."

    @functools.wraps(own)
    def open(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
        function = types.MethodType(inside(open) or own, self)
        return self._open_with(function, fn, args, kwargs) if args or kwargs else self._serve(function, fn).image

    open._in_memory = True  # type: ignore[attr-defined]
    return open


def watched(own: Callable[..., Any]) -> Callable[..., Any]:
    "Note what a `get` opens."

    @functools.wraps(own)
    def get(self: Any, i: Any, *args: Any, **kwargs: Any) -> Any:
        function = types.MethodType(inside(get) or own, self)
        return self._got(of_one(function, args, kwargs), i)

    return get


def building(own: Callable[..., None]) -> Callable[..., None]:
    "Call `_built` after the outermost constructor."

    @functools.wraps(own)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init = inside(__init__) or own
        if "_building" in vars(self):
            init(self, *args, **kwargs)
            return
        self.__dict__["_building"] = True
        init(self, *args, **kwargs)
        del self.__dict__["_building"]
        self._built()

    return __init__
