"""The stores of this process, held weakly: memory is freed with the last reference to its store.

A process has one store per file, because record locks do not exclude threads of the same process.
"""

from __future__ import annotations

import os
from typing import Any, Callable, List, Optional, Union
from weakref import WeakSet, WeakValueDictionary

from .lock import Lock
from .threads import Result, ThreadLock

# By `uid`. The values are `ImageStore`s; this module knows only their attributes.
STORES: WeakValueDictionary[str, Any] = WeakValueDictionary()
# The locks of all named files that this process has open, or is just opening.
FILE_LOCKS: WeakSet[Lock] = WeakSet()
# Held while a file is opened and its store is registered; replaced in a forked child.
_OPENING = [ThreadLock(reentrant=True)]


def opening(work: Callable[[], Result]) -> Result:
    "Call `work`, which opens a file; keep other threads from opening one meanwhile."
    return _OPENING[0].run(work)


def stores() -> List[Any]:
    "Return all stores of this process, the oldest first."
    return list(STORES.values())


def over_file(path: str) -> Optional[Any]:
    "Return the store that this process has over the file `path`, if any."
    try:
        status = os.lstat(path)
    except OSError:
        return None
    file = file_uid(status, "")
    return next((store for store in stores() if store.uid.startswith(file)), None)


def file_uid(status: os.stat_result, identity: Union[int, str]) -> str:
    "Return the `uid` of the store over a file with this status; `identity` is a number in its header."
    return f"{status.st_dev}:{status.st_ino}:{identity}"


def at_place(place: str) -> List[Any]:
    "Return the stores of the dataset at `place`."
    return [store for store in stores() if place in store.places]


def _before_fork() -> None:
    for store in stores():
        if store.before_fork is not None:
            store.before_fork()


def _after_fork() -> None:
    _OPENING[0] = ThreadLock(reentrant=True)
    # Another thread of the parent may be opening a file, of which there is no store yet.
    for lock in {store.parts.lock for store in stores()}.union(FILE_LOCKS):
        lock.after_fork()
    for store in stores():
        store.parts.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
