"""The messages of lists. Each is shown once per store: as a warning, or during `load_data` after its work."""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np

from ..cache.decode import check_max_size
from ..cache.info import CacheInfo
from ..cache.messages import reduced, warn_user
from ..cache.randomness import DIFFERS, DRAWS, VARIES
from ..store import brief, format_rule, format_size, shown
from .calls import current
from .decoders import stock_open


def named(il: Any) -> str:
    "Return the name of a list in messages: its class and its path."
    return f"{type(il).__name__} over {shown(il.path)}"


def say(il: Any, note: bytes, message: str) -> None:
    "Show `message`, unless a process has already shown one with this `note` for the list's store."
    store = il.notes()
    if not store.noted(note) and store.note(note):
        call = current(il)
        (warn_user if call is None or call.say is None else call.say)(message)


def say_reduced(il: Any, max_size: int) -> None:
    "Say that pixels differ from those of fastai's list, because of `max_size`."
    say(il, f"max_size {max_size}".encode(), reduced(named(il), max_size, "fastai's own list"))


def say_above(il: Any) -> None:
    "Say that the store holds more than the list's `max_ram` already."
    held, most = (format_size(size) for size in il.store.info()[1:3])
    text = (
        f"{named(il)}: with max_ram={il.max_ram!r} its store may take {most}, and it holds {held} already: "
        "nothing is added from now on; purge() frees it."
    )
    say(il, f"above {il.max_ram}".encode(), text)


def say_never(il: Any, function: Callable[[Any], Any], reason: str) -> None:
    "Say that what `function` returns is not kept, for this `reason`."
    name = getattr(function, "__qualname__", "open")
    if reason == VARIES:
        names = ", ".join(f"self.{name}" for name in sorted(il._set_in_get))
        reason = f"{type(il).__name__}.get sets {names} to something else each time, and open may read it"
    if reason in (DRAWS, DIFFERS):
        remedy = (
            "Please leave what is random to after_open or to a transform, which run on every read. `cache = False` "
            "on the class turns this message off."
        )
    elif stock_open(function) is None:
        remedy = "It is called for every read, as without memlist. `cache = False` on the class turns this message off."
    else:
        remedy = "Other images of this list are kept."
    text = f"{named(il)}: what {name} returns is not kept in memory, because {reason}. {remedy}"
    say(il, f"never {name} {reason}".encode(), text)


def say_unversioned(il: Any) -> None:
    "Say that results of a user's `open` are not kept in the cache file, because the class has no `cache_version`."
    text = (
        f"{named(il)}: what {type(il).__name__}.open returns is kept in memory, and not in {shown(il.cache_file)}: "
        'only you know when its code changes. To keep it there, give the class a `cache_version = "1"`, and change '
        "that whenever you change what open returns."
    )
    say(il, b"unversioned", text)


def say_replaced(il: Any) -> None:
    "Say that an `open` that was assigned to a list or its class is not cached."
    text = (
        f"{named(il)}: its images are not kept, since `open` was assigned, or is not a plain method. Please write "
        "it as a method: `class MyList(MemoryImageList): def open(self, fn): …`."
    )
    say(il, f"replaced {type(il).__name__}.open".encode(), text)


def say_never_opens(il: Any) -> None:
    "Say that a user's `get` does not call `open`."
    name = f"{type(il).__name__}.get"
    text = (
        f"{named(il)}: {name} never calls open, so it has no images to keep in memory. Please let it open "
        "its files with `self.open(…)`."
    )
    say(il, f"never {name}".encode(), text)


def say_full(il: Any, info: CacheInfo, need: Optional[int]) -> None:
    """Say that the budget is used up.

    `info` counts the images of all lists concerned; `need` is the bytes that all of them would take, if known.
    """
    where, remedy = "in memory", "less memory in other processes"
    if il.store.cache_file is not None:
        where, remedy = f"in {shown(il.store.cache_file)}", "more room on its disk"
    held, most = format_size(info.nbytes), format_size(info.max_ram)
    joined = joined_limit(il)
    need_text = "" if need is None else f"; these {info.total:,} take about {format_size(need)}"
    text = (
        f"{named(il)}: {info.cached} of {info.total} images are {where} ({100 * info.cached // max(1, info.total)} %), "
        f"the other {info.total - info.cached} do not fit and are opened from disk every time. "
        f"The store holds {held} and may take {most}{need_text}. {joined}"
        f"A larger max_ram, {remedy}, max_size, smaller images on disk or a convert_mode with fewer channels would "
        "help."
    )
    say(il, note_of_full(il), text)


def joined_limit(il: Any) -> str:
    "Return which limit a list has from another one over its path, and how to lift it; nothing if it has none."
    store = il.store
    given = any(
        one is not None and (one.max_ram is not None or one.cache_file is not None) for one in (il, _inputs(il))
    )
    if given or (store.rule is None and store.cache_file is None):
        return ""
    limits = [] if store.rule is None else [f"max_ram: {format_rule(store.rule)}"]
    limits += [] if store.cache_file is None else [f"cache_file: {shown(store.cache_file)}"]
    return (
        f"It shares the store of another list over the same path, which asked for {', '.join(limits)}. To lift that, "
        "give this list a max_ram or a cache_file of its own, or delete the other list before you build this one. "
    )


def _inputs(il: Any) -> Any:
    "Return the in-memory list whose targets `il` holds, and whose settings it has; None if there is none."
    return il.x if hasattr(il.x, "max_ram") else None


def note_of_full(il: Any) -> bytes:
    "Return the note of `say_full`: a list that shares the store of another one has a message of its own."
    return b"full, shared" if joined_limit(il) else b"full"


def check_class(cls: Any) -> None:
    "Raise TypeError for a `cache` or `cache_version` of the wrong type."
    if not isinstance(cls.cache, bool):
        raise TypeError(
            f"{cls.__name__}.cache is {brief(cls.cache)}: memlist needs True or False there; rename your own"
        )
    if cls.cache_version is not None and not isinstance(cls.cache_version, str):
        raise TypeError(f'{cls.__name__}.cache_version is {brief(cls.cache_version)}: use a string, such as "1"')


def check_lazy(lazy: Any) -> None:
    "Raise TypeError if `lazy` is not a truth value: a string such as 'no' would count as True."
    if lazy is not None and not isinstance(lazy, (bool, np.bool_)):
        raise TypeError(f"lazy={brief(lazy)}: use True, or False to fill the store in load_data() only")


def check_size(il: Any, max_size: Any, own_open: bool) -> None:
    "Raise ValueError if `max_size` is not a number of pixels, or if a user's own `open` would ignore it."
    check_max_size(max_size)
    if own_open:
        raise ValueError(
            f"max_size={max_size}: {type(il).__name__}.open is your own, so memlist can't reduce what it returns: "
            "please reduce the images there."
        )
