"""Let a spawned process find the stores of the functions that are cached in its parent, by their names.

A spawned process imports the user's modules anew. What its parent tells it is its `Process` object, whose configuration
every process hands on to those that it starts. So that is where the stores travel; nothing has to be named in the file
system, and it does not matter whether the function itself is sent or imported.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
from multiprocessing import process
from multiprocessing.context import get_spawning_popen
from typing import Any, Dict, Optional, Tuple
from weakref import WeakValueDictionary

from ..store import ImageStore

#: The two stores of a cached function, see `Cached.stores`, and when it was decorated.
Sent = Tuple[ImageStore, ImageStore, int]
_KEY = "memlist"


class _Published:
    "Hold the cached functions of this process, and the stores of those of the process that has spawned it."

    def __init__(self, sent: Dict[str, Sent]) -> None:
        self.functions: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.sent = sent

    def __reduce__(self) -> Tuple[Any, ...]:
        """Return how to send the stores to a process that is being spawned: nothing to any other pickle.

        They are sent as bytes, with the number of this process, so that a process that needs none of them does not
        have to import memlist. Such a process hands the bytes on, to which its own children must not listen.
        """
        if get_spawning_popen() is None:
            return tuple, ((b"", 0),)
        here = {name: one.sent() for name, one in self.functions.items()}
        return tuple, ((pickle.dumps({**self.sent, **here}), os.getpid()),)


def _published() -> _Published:
    config: Dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    known = config.get(_KEY)
    if isinstance(known, _Published):
        return known
    data, pid = known or (b"", 0)
    parent = multiprocessing.parent_process()
    sent = pickle.loads(data) if data and parent is not None and parent.pid == pid else {}
    made = config[_KEY] = _Published(sent)
    return made


def starting() -> bool:
    "Return whether this is a spawned process that has not got its `Process` object yet, and with it the stores."
    return bool(getattr(process.current_process(), "_inheriting", False))


def publish(name: str, function: Any) -> None:
    "Let processes that are spawned from now on find the stores of this cached function under its name."
    _published().functions[name] = function


def sent(name: str) -> Optional[Sent]:
    "Return what the parent has sent of its function of this name; None if it has none."
    return _published().sent.get(name) if name else None


def found(module: str, name: str) -> Any:
    "Return what a module has under a name, which may have dots; raise AttributeError if there is nothing."
    made: Any = importlib.import_module(module)
    for part in name.split("."):
        made = getattr(made, part)
    return made
