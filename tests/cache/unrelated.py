"""What a spawned process runs that knows nothing of memlist, but whose own child does."""

from __future__ import annotations

import multiprocessing
import sys
from typing import Any


def report(connection: Any, path: str) -> None:
    "Send whether memlist is imported here, and what a child of this process finds."
    imported = "memlist" in sys.modules
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=loaded, args=(theirs, path))
    child.start()
    connection.send((imported, ours.recv()))
    child.join()


def loaded(connection: Any, path: str) -> None:
    from cached_functions import load

    connection.send((int(load(path).sum()), load.cache_info().cached))
