"""The actors of a storm: what readers, batch readers, writers, purgers, checkers and openers do, one step at a time.

An actor is a process that repeats its step until the storm ends. A Ctrl-C is caught where a program would catch it, at
its top level, and the actor goes on. Whatever else is raised ends the actor: it leaves a report, and its exit status
says of what kind that is.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np
import psutil

from memlist.cache import ImageCache, PillowDecoder
from memlist.store import CacheFileError, ImageStore

from .board import Board, Row
from .derived import FILES, KEYS, VERSIONS, fault_of, key, pixels, pixels_of

# Exit statuses of an actor that did not simply end.
ERROR, WRONG, INTERRUPTED = 3, 4, 5
BUDGET = "24MB"


class WrongPixels(Exception):
    "Raised by a reader that has found other bytes than those that were written."


class Part(NamedTuple):
    """Say what an actor is: its row on the board, its role, its seed, its driver, and how it comes by the store.

    `store` is what it was given by its parent process. If there is none, it opens the file `path` itself.
    """

    number: int
    role: str
    seed: str
    folder: str
    rows: int
    driver: int
    store: Optional[ImageStore]
    path: str


class Actor:
    "Take one step after another with a store."

    def __init__(self, part: Part, row: Row) -> None:
        self.part, self.row = part, row
        self.draw = random.Random(part.seed)
        self.store: Optional[ImageStore] = part.store
        self.files = [Path(part.folder, "files", f"{i:03}.png") for i in range(FILES)]
        self.steps = 0

    def opened(self) -> ImageStore:
        "Return the store; open the file if this actor has none."
        if self.store is None:
            self.store = ImageStore.open(self.part.path, BUDGET)
            self.row.add("opens")
        return self.store

    def leave(self) -> None:
        "Close the file, if this actor has opened it itself."
        if self.part.store is None:
            self.store = None
            gc.collect()

    # -- steps --------------------------------------------------------------------------------------------------

    def read(self) -> None:
        store = self.opened()
        for i in self.draw.sample(range(KEYS), 20):
            self.row.add("beat")
            record = store.get(key(i))
            if record is None:
                self.row.add("missing")
                continue
            copied, tag = record.array.copy(), record.tag
            if not store.current(record):
                self.row.add("stale")
                continue
            wrong = fault_of(copied, pixels_of(i, tag)) if tag < VERSIONS else f"no version {tag} was ever written"
            if wrong:
                raise WrongPixels(
                    f"{key(i)!r}, version {tag}, generation {record.generation}, {record.block!r}: {wrong}"
                )
            self.row.add("right")
        store.count(True, 20)

    def read_batch(self) -> None:
        cache = ImageCache(self.opened(), PillowDecoder("RGB"))
        items = self.draw.sample(self.files, 16)
        for item, fetched in zip(items, cache.fetch_many(items)):
            wrong = fault_of(fetched.image, pixels(item.name.encode()))
            if wrong:
                raise WrongPixels(f"{item.name} of a batch, {fetched.outcome}: {wrong}")
            self.row.add("right")
        self.row.add("batches")

    def write(self) -> None:
        store = self.opened()
        for _ in range(10):
            self.row.add("beat")
            i, version = self.draw.randrange(KEYS), self.draw.randrange(VERSIONS)
            generation = store.generation if self.draw.random() < 0.3 else None
            array = pixels_of(i, version)
            there = store.put(key(i), array, tag=version, replace=self.draw.random() < 0.5, generation=generation)
            self.row.add("puts" if there else "full")
        if self.draw.random() < 0.2:
            store.note(b"note %d" % self.draw.randrange(50))
        store.count(False)

    def purge(self) -> None:
        store = self.opened()
        store.purge(file=self.draw.random() < 0.5)
        self.row.add("purges")
        if self.draw.random() < 0.1:
            store.set_max_ram(self.draw.choice([BUDGET, "8MB", None]))
        self._rest(0.5)

    def check(self) -> None:
        store = self.opened()
        fix = self.draw.random() < 0.5
        problems = store.check(fix)
        self.row.add("checks")
        if problems:
            self.row.add("problems", len(problems))
            self._say(f"check(fix={fix}) of a healthy store:\n  " + "\n  ".join(map(str, problems[:5])))
        repr(store)
        store.sources()
        store.allocated(), store.resident(), len(store), store.budget()
        self._rest(0.1)

    def open(self) -> None:
        self.leave()
        self.read()
        if self.draw.random() < 0.3:
            self.write()
        if self.draw.random() < 0.2:
            self.read_batch()
        self.leave()

    # -- around the steps ---------------------------------------------------------------------------------------

    def step(self) -> None:
        "Take one step. A file that is refused is left alone for a moment."
        steps: Dict[str, Callable[[], None]] = {
            "reader": self.read, "batch reader": self.read_batch, "writer": self.write, "purger": self.purge,
            "checker": self.check, "opener": self.open, "handler": self.write,
        }  # fmt: skip
        self.row.add("beat")
        try:
            steps[self.part.role]()
            self.steps += 1
            if self.part.store is None and self.draw.random() < 0.02:
                self.leave()  # so that sessions begin and end
        except CacheFileError as error:
            self.row.add("refused")
            self._say(f"refused: {error}")
            self.leave()
            self._rest(0.05)
        if self.steps % 50 == 0:
            self.row.most("files", len(os.listdir("/proc/self/fd")))

    def handle(self, number: int, frame: Any) -> None:
        "Write to the store from a signal handler, which may interrupt a write of its own thread."
        if self.store is None:
            return
        try:
            i = self.draw.randrange(KEYS)
            self.store.put(key(i), pixels_of(i, 0), tag=0)
        except RuntimeError as error:  # the documented one: the other write goes on
            if "signal handler" not in str(error):
                raise
            self.row.add("reentries")

    def _rest(self, seconds: float) -> None:
        self.row.add("beat")
        time.sleep(self.draw.random() * seconds)

    def _say(self, what: str) -> None:
        with open(Path(self.part.folder, f"said.{self.part.number}"), "a", encoding="utf-8", errors="replace") as file:
            file.write(f"{self.part.role}: {what}\n")


def act(part: Part) -> None:
    "Be an actor: the target of its process."
    report = Path(part.folder, f"report.{part.number}")
    status = ERROR
    try:
        board = Board(Path(part.folder, "board"), part.rows)
        actor = Actor(part, board.rows[part.number])
        with open(Path(part.folder, f"stack.{part.number}"), "w") as stack:
            faulthandler.register(signal.SIGUSR1, stack, all_threads=True)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            warnings.simplefilter("ignore")
            np.random.seed(0)
            if part.role == "handler":
                signal.signal(signal.SIGALRM, actor.handle)
                signal.setitimer(signal.ITIMER_REAL, 0.02, 0.007)
            _repeat(actor, board)
            status = 0
    except KeyboardInterrupt:  # between two steps, where a program would end
        status = INTERRUPTED
    except WrongPixels as error:
        status = WRONG
        report.write_text(str(error), encoding="utf-8", errors="replace")
    except BaseException:
        report.write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
    finally:
        os._exit(status)


def _repeat(actor: Actor, board: Board) -> None:
    "Take steps until the storm ends, or the driver does; go on after each Ctrl-C."

    def over() -> bool:
        return board.over or not psutil.pid_exists(actor.part.driver)

    while not over():
        try:
            while not over():
                actor.step()
        except KeyboardInterrupt:
            actor.row.add("interrupts")


def roles(n: int) -> List[str]:
    "Return the roles of `n` actors, so that each role comes up."
    order = ["reader", "writer", "batch reader", "purger", "checker", "opener", "reader", "writer", "handler", "reader"]
    return [order[i % len(order)] for i in range(n)]
