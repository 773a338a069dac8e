"""Cached functions that processes find by importing this module. They count how often they run in a file."""

from __future__ import annotations

import collections
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, List

import numpy as np
import PIL.Image

if getattr(multiprocessing.current_process(), "_inheriting", False) and "memlist" not in sys.modules:
    # A process is being spawned. It needs no front end, whose import takes seconds.
    sys.modules["fastai"] = None  # type: ignore[assignment]

from memlist.cache.decorator import cached

#: The file in which calls are counted is named by this variable: a spawned process has it, too.
CALLS = "MEMLIST_TEST_CALLS"


def note_call(item: Any) -> None:
    with open(os.environ[CALLS], "a") as file:
        file.write(f"{os.getpid()} {item}\n")


def calls() -> List[str]:
    "Return the items that functions were called with, in all processes."
    path = Path(os.environ[CALLS])
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


@cached
def load(path: str) -> np.ndarray:
    note_call(path)
    return np.asarray(PIL.Image.open(path).convert("RGB"))


class Pictures:
    "A dataset for torch's loaders that holds the function, or, `by_name`, calls the one of this module."

    def __init__(self, paths: List[str], by_name: bool) -> None:
        self.paths, self.load = paths, None if by_name else load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        made: np.ndarray = (self.load or load)(self.paths[i])
        return made.copy()


def sums(paths: List[str], connection: Any) -> None:
    "Send the sums of these pictures, and how many hits this process has counted."
    made = [int(load(path).sum()) for path in paths]
    connection.send((made, load.cache_info(paths)))


Pair = collections.namedtuple("Pair", "image mask")


def values(item: Any) -> np.ndarray:
    "Return the values of all pictures that an item names, in order."
    if isinstance(item, (str, bytes, os.PathLike)):
        name = os.fsdecode(item)
        return np.asarray(PIL.Image.open(name))[0, :1] if os.path.exists(name) else np.array([0], np.uint8)
    if isinstance(item, dict):
        item = [*item, *item.values()]
    if isinstance(item, (tuple, list, np.ndarray)):
        return np.concatenate([np.zeros(0, np.uint8), *map(values, item)])
    return np.zeros(0, np.uint8)


values_cached = cached(values)


def send_cached_values(item: Any, connection: Any) -> None:
    connection.send(values_cached(item).tolist())
