"""Faults that strike at a line of the store's code: the process is killed, or interrupted, just before that line runs.

The lines are found by running the task once. With fewer strikes than lines, the strikes are spread evenly over them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
from kills import moments, strike_after_lines

from memlist.store import ImageStore, budget, layout

from .derived import fault_of, pixels
from .fault import Fault, Outcome, Run, guarded

# As many records as make the index grow with the next one.
MANY = (4 << layout.FIRST_TABLE_BITS) // 5


def name(i: int) -> bytes:
    return b"line %d" % i


def fill(store: ImageStore, n: int) -> ImageStore:
    "Put `n` records into a store. Three are large, so that there is more than one segment."
    for i in range(n):
        assert store.put(name(i), content(i))
    return store


def content(i: int, version: int = 0) -> np.ndarray:
    return pixels(name(i), version, large=i in (20, 40, 50))


def sound(store: ImageStore, n: int, dropped: bool) -> Dict[str, int]:
    "Read the `n` records of `fill`, write one, check the store; if they were `dropped`, all of them may be missing."
    found = 0
    for i in range(n):
        record = store.get(name(i))
        if record is not None:
            wrong = [fault_of(record.array, content(i, version)) for version in (0, 1)]
            assert None in wrong, wrong
            found += 1
    assert store.put(b"after", pixels(b"after"))
    assert fault_of(store.get(b"after").array, pixels(b"after")) is None  # type: ignore[union-attr]
    assert store.check() == [], store.check()
    assert found == n or (dropped and not found), f"{n - found} of {n} records are lost"
    store.purge(file=True)
    assert len(store) == 0 and store.put(b"last", pixels(b"last"))
    assert fault_of(store.get(b"last").array, pixels(b"last")) is None  # type: ignore[union-attr]
    return {"right" if found == n else "fewer": 1}


class Task(NamedTuple):
    """Say what is struck.

    - `act`: what is struck: it gets a store, or None if it opens the file `folder/cache` itself
    - `records`: how many records there are before
    - `kind`: the kind of store; `'left'` is a file that a killed writer has left behind
    - `drops`: whether `act` drops records: then all of them or none may be left, else all of them must be
    """

    act: Callable[[Optional[ImageStore], Path], Any]
    records: int
    kind: str
    drops: bool = False

    def prepare(self, folder: Path) -> None:
        "Write the file that all strikes begin with, if any."
        if self.kind != "memory":
            store = fill(ImageStore.open(folder / "cache"), self.records)
            if self.kind == "left":
                store._header.busy = 1

    def begin(self, folder: Path) -> Optional[ImageStore]:
        "Return the store for `act`."
        if self.kind == "memory":
            return fill(ImageStore(), self.records)
        return None if self.act is _open else ImageStore.open(folder / "cache")


def _put(store: Optional[ImageStore], folder: Path) -> None:
    "Replace a record, then add one, with which the index grows."
    assert store is not None
    store.put(name(7), content(7, 1), replace=True)
    store.put(b"new", pixels(b"new"))


def _purge(store: Optional[ImageStore], folder: Path) -> None:
    assert store is not None
    store.purge(file=True)


def _check(store: Optional[ImageStore], folder: Path) -> None:
    assert store is not None
    store.check(fix=True)


def _open(store: Optional[ImageStore], folder: Path) -> None:
    ImageStore.open(folder / "cache").get(name(3))


def _once(task: Task, how: int, lines: int, folder: Path) -> Dict[str, int]:
    "Strike `task` after so many `lines`; look at what is left, and say so."
    warnings.simplefilter("ignore")
    budget.MAX_AGE_SECONDS = 1e9  # else the clock decides how many lines run
    store = task.begin(folder) if how == signal.SIGINT or task.kind == "memory" else None
    if how == signal.SIGINT:
        with contextlib.suppress(KeyboardInterrupt):
            strike_after_lines(lines, how)
            task.act(store, folder)
        sys.settrace(None)
    else:
        pid = os.fork()
        if not pid:
            mine = task.begin(folder) if store is None else store
            strike_after_lines(lines, how)
            task.act(mine, folder)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert status in (0, how), f"wait status {status}"
    return sound(ImageStore.open(folder / "cache") if store is None else store, task.records, task.drops)


def _lines_of(task: Task, folder: Path, told: Path) -> Dict[str, int]:
    "Write after how many lines each line of `task` runs into the file `told`."
    budget.MAX_AGE_SECONDS = 1e9
    warnings.simplefilter("ignore")
    task.prepare(folder)
    store = task.begin(folder)
    told.write_text(json.dumps(moments(lambda: task.act(store, folder))))
    return {}


def at_lines(task: Task, how: int) -> Run:
    "Return a function that strikes at the lines that `task` runs."

    def run(times: int, seed: int) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="fault") as base:
            first, told, scratch = Path(base, "first"), Path(base, "lines"), Path(base, "scratch")
            for folder in (first, scratch):
                folder.mkdir()
            found = guarded([("the first", lambda: {**_prepared(task, first), **_lines_of(task, scratch, told)})], 60)
            if not found.good:
                return found
            lines = json.loads(told.read_text())
            chosen = lines if times >= len(lines) else sorted(random.Random(seed).sample(lines, times))

            def strike(n: int) -> Dict[str, int]:
                with tempfile.TemporaryDirectory(dir=base) as folder:
                    for file in first.iterdir():
                        shutil.copy(file, folder)
                    return _once(task, how, n, Path(folder))

            return guarded([(f"{seed}, line {n}", partial(strike, n)) for n in chosen], 60)

    return run


def _prepared(task: Task, folder: Path) -> Dict[str, int]:
    task.prepare(folder)
    return {}


TASKS = {
    "put": Task(_put, MANY, "memory"),
    "put-file": Task(_put, MANY, "file"),
    "purge": Task(_purge, 60, "memory", drops=True),
    "purge-file": Task(_purge, 60, "file", drops=True),
    "check": Task(_check, 60, "file"),
    "open": Task(_open, 60, "file"),
    "mend": Task(_open, 60, "left"),
}
WORDS = {
    "put": "`put`, in memory: of a record that replaces another, and of one with which the index grows",
    "put-file": "`put`, in a `cache_file`, of the same two",
    "purge": "`purge()`, in memory",
    "purge-file": "`purge(file=True)`",
    "check": "`check(fix=True)` of a `cache_file`",
    "open": "opening a `cache_file` for a new session",
    "mend": "opening a `cache_file` whose last writer was killed, so that it is mended",
}
FAULTS = [
    Fault(
        f"killed-{key}",
        "Processes that are killed",
        f"SIGKILL at any line of {WORDS[key]}",
        "a trace function strikes just before a line of the store's code runs, drawn at random; then "
        + ("another process that has the store" if task.kind == "memory" else "the next process that opens the file")
        + " reads every record, writes, checks and purges",
        at_lines(task, signal.SIGKILL),
        times=50,
        quick=4,
    )
    for key, task in TASKS.items()
] + [
    Fault(
        f"interrupted-{key}",
        "Ctrl-C",
        f"Ctrl-C at any line of {WORDS[key]}",
        "a trace function strikes just before a line of the store's code runs, drawn at random; the same process "
        "goes on, and reads every record, writes, checks and purges",
        at_lines(task, signal.SIGINT),
        times=50,
        quick=4,
    )
    for key, task in TASKS.items()
]
