"""The storm: many processes over one store, struck by SIGKILL, SIGSTOP and SIGINT at random moments.

The driver starts the actors, strikes them, starts those anew that have ended, and watches: an actor that was not
stopped and has not moved for PATIENCE seconds hangs. Its seed decides who is struck, how, and with what pauses; the
system decides where that hits.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Set

from memlist.store import ImageStore

from .actors import BUDGET, ERROR, INTERRUPTED, WRONG, Part, act, roles
from .board import Board
from .derived import KEYS, VERSIONS, fault_of, key, make_files, pixels_of
from .fault import BAD, Fault, Outcome, guarded

#: How many seconds without a step are a hang, and after how much that is BAD a storm ends early.
PATIENCE, ENOUGH = 30.0, 20
#: How many seconds more an actor may take to begin: a spawned one imports everything first.
START_UP = 60.0
#: The kinds of store. A family has the store from one parent process; strangers open the file, each for itself.
KINDS = ("memfd", "file", "family", "strangers")
WHERE = {
    "memfd": "In memory",
    "file": "In memory, by an unnamed file",
    "family": "Over a `cache_file`, in one family of processes",
    "strangers": "Over a `cache_file`, among strangers that open and close it",
}
#: How the notes name what the actors have done.
WORDS = {
    "stale": "reads that a purge made void",
    "batches": "batches",
    "puts": "records written",
    "full": "refused for want of room or after a purge",
    "purges": "purges",
    "checks": "checks",
    "problems": "false alarms of checks",
    "opens": "openings of the file",
    "refused": "refused with CacheFileError",
    "interrupts": "Ctrl-C caught",
    "reentries": "writes refused in a signal handler",
    "files": "descriptors at most",
}
#: What is sent: how often among all strikes.
STRIKES = {signal.SIGKILL: 3, signal.SIGSTOP: 3, signal.SIGINT: 6}


class Running(NamedTuple):
    "Hold a process of an actor, and how it was started."

    process: Any
    method: str
    since: float


class Storm:
    "Drive one storm of `seconds` over one store of this kind."

    def __init__(self, kind: str, seconds: float, seed: str, folder: Path, actors: int = 10) -> None:
        self.kind, self.seconds, self.seed, self.folder = kind, seconds, seed, folder
        self.path = str(folder / "cache")
        self.draw, self.made, self.sent = random.Random(seed), Outcome(), Counter()  # type: ignore[var-annotated]
        self.parts: List[Part] = []
        make_files(folder / "files")
        self.store: Optional[ImageStore] = None
        if kind == "family":
            self.store = ImageStore.open(self.path, BUDGET)
        elif kind != "strangers":
            self.store = ImageStore(BUDGET, kind=kind)
        self.board = Board(folder / "board", actors)
        self.roles = roles(actors)
        self.running: List[Optional[Running]] = [None] * actors
        self.lives = [0] * actors
        self.moved = [(0, time.monotonic())] * actors
        self.begun = [0] * actors
        self.stopped: Dict[int, float] = {}
        self.killed: Set[int] = set()

    # -- actors -------------------------------------------------------------------------------------------------

    def _method(self, i: int) -> str:
        "Return how actor `i` is started: most by fork; each kind of process at least once."
        if self.kind == "strangers":
            return "forkserver"
        if i == 0 and self.kind != "file" and self.seconds >= START_UP / 2:
            return "spawn"
        return "forkserver" if i % 4 == 1 else "fork"

    def _start(self, i: int) -> None:
        self.lives[i] += 1
        method = self._method(i)
        # In a family over a file, some open the file themselves all the same.
        stranger = self.kind == "strangers" or (self.kind == "family" and method != "fork" and i % 8 != 0)
        store = None if stranger else self.store
        part = Part(
            i,
            self.roles[i],
            f"{self.seed}/{i}/{self.lives[i]}",
            str(self.folder),
            len(self.roles),
            os.getpid(),
            store,
            self.path,
        )
        process = multiprocessing.get_context(method).Process(target=act, args=(part,), daemon=True)
        process.start()
        self.running[i] = Running(process, method, time.monotonic())
        self.begun[i] = self.board.rows[i]["beat"]
        self.moved[i] = self.begun[i], time.monotonic() + START_UP

    def _reap(self, i: int) -> None:
        "Judge how an actor has ended."
        running = self.running[i]
        assert running is not None
        running.process.join()
        status, struck = running.process.exitcode, i in self.killed
        self.killed.discard(i)
        self.stopped.pop(i, None)
        self.running[i] = None
        report = self.folder / f"report.{i}"
        who = f"storm seed {self.seed!r}, {self.roles[i]} {i} ({running.method}), life {self.lives[i]}"
        if status in (0, INTERRUPTED) or (struck and status in (-signal.SIGKILL, 255)):
            return
        text = _text(report)
        report.write_text("")
        if status == WRONG:
            self.made.add("wrong", 1, f"{who}: {text}")
        elif status == ERROR:
            self.made.add("errors", 1, f"{who}: {text}")
        else:
            stack = _text(self.folder / f"stack.{i}")
            self.made.add("killed", 1, f"{who}: exit status {status}\n{stack}")

    # -- strikes ------------------------------------------------------------------------------------------------

    def _strike(self) -> None:
        "Strike one actor, if it has begun to act."
        i = self.draw.randrange(len(self.running))
        how = self.draw.choices(list(STRIKES), list(STRIKES.values()))[0]
        running = self.running[i]
        if running is None or i in self.killed or self.board.rows[i]["beat"] == self.begun[i]:
            return
        if running.method == "spawn" and how == signal.SIGKILL and self.draw.random() < 0.8:
            return  # starting it anew takes seconds
        if how == signal.SIGSTOP:
            if i in self.stopped or len(self.stopped) >= 2:
                return
            self.stopped[i] = time.monotonic() + self.draw.choice([0.02, 0.1, 0.3, 1.0])
        if how == signal.SIGKILL:
            self.killed.add(i)
        self._send(i, how)
        self.sent[how] += 1

    def _send(self, i: int, number: int) -> None:
        running = self.running[i]
        if running is not None and running.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(running.process.pid, number)

    def _go_on(self, all_: bool = False) -> None:
        "Let stopped actors go on whose time has come."
        for i, until in list(self.stopped.items()):
            if all_ or time.monotonic() >= until:
                self._send(i, signal.SIGCONT)
                del self.stopped[i]
                self.moved[i] = self.moved[i][0], time.monotonic()

    # -- watching -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        "Look who has ended, who moves, and who hangs."
        now = time.monotonic()
        for i, running in enumerate(self.running):
            if running is None:
                continue
            beat, since = self.board.rows[i]["beat"], self.moved[i][1]
            if not running.process.is_alive():
                self._reap(i)
            elif beat != self.moved[i][0]:
                self.moved[i] = beat, now
            elif now - since > PATIENCE and i not in self.stopped and i not in self.killed:
                self._hangs(i)

    def _hangs(self, i: int) -> None:
        "Tell where all actors are, and end the one that hangs."
        for j in range(len(self.running)):
            self._send(j, signal.SIGUSR1)
        time.sleep(1)
        stacks = []
        for j, running in enumerate(self.running):
            latest = _text(self.folder / f"stack.{j}").rpartition("Current thread")[2] if running else "has ended"
            who = f"{self.roles[j]} {j}, life {self.lives[j]}: "
            stacks.append(who + "\n".join(latest.splitlines()[:10]))
        others = [stack for j, stack in enumerate(stacks) if j != i]
        what = f"storm seed {self.seed!r}: no step for {PATIENCE:.0f} s"
        self.made.add("hangs", 1, "\n".join([what, stacks[i], "-- the others:", *others]))
        self.killed.add(i)
        self._send(i, signal.SIGKILL)

    # -- the whole ----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        "Let it blow; then look whether the store is sound. Returns what came of it."
        for i in range(len(self.running)):
            self._start(i)
        until, bad = time.monotonic() + self.seconds, 0
        while time.monotonic() < until and bad < ENOUGH:
            for i, running in enumerate(self.running):
                if running is None:
                    self._start(i)
            time.sleep(self.draw.uniform(0.005, 0.06))
            self._go_on()
            self._strike()
            self._watch()
            bad = sum(self.made.counts.get(what, 0) for what in BAD)
        self._end()
        self._tell()
        after = guarded([(f"{self.seed} (after the storm)", self._sound)], 60)
        for what, n in after.counts.items():
            self.made.add(what, n)
        self.made.culprits += after.culprits
        return self.made

    def _end(self) -> None:
        "Let all actors leave. One that was started late, and has not begun, is not waited for."
        self.board.end()
        self._go_on(all_=True)
        for i in range(len(self.running)):
            if self.board.rows[i]["beat"] == self.begun[i]:
                self.killed.add(i)
                self._send(i, signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while any(self.running) and time.monotonic() < until:
            for i, running in enumerate(self.running):
                if running is not None and not running.process.is_alive():
                    self._reap(i)
            time.sleep(0.02)
        for i, running in enumerate(self.running):
            if running is not None:
                self._hangs(i)
                running.process.join()

    def _tell(self) -> None:
        "Count what the actors have done."
        done = self.board.totals()
        self.made.times = sum(self.sent.values())
        for what, name in (("right", "right"), ("refused", "refused"), ("announced", "reentries")):
            if done[name]:
                self.made.add(what, done[name])
        strikes = ", ".join(f"{n:,} {signal.Signals(number).name}" for number, n in sorted(self.sent.items()))
        acts = ", ".join(f"{done[name]:,} {word}" for name, word in WORDS.items() if done[name])
        self.made.notes.append(
            f"{WHERE[self.kind]}, {self.seconds:.0f} s: {strikes}; {done['right']:,} images right; {acts}"
        )
        said = Counter(line for path in self.folder.glob("said.*") for line in path.read_text("utf-8").splitlines())
        remarks = [f"{self.seed}: {n} x {line}" for line, n in said.most_common(5)]
        self.made.remarks += remarks
        if done["problems"]:  # nothing has damaged the store
            self.made.add("failed", done["problems"], "\n".join(remarks))

    def _sound(self) -> Dict[str, int]:
        "Read, check and write the store that the storm has left behind."
        store = ImageStore.open(self.path, BUDGET) if self.store is None else self.store
        store.check(fix=True)
        assert store.check() == []
        found = 0
        for i in range(KEYS):
            record = store.get(key(i))
            if record is not None:
                assert record.tag < VERSIONS and fault_of(record.array, pixels_of(i, record.tag)) is None, i
                found += 1
        assert found <= len(store)
        store.purge(file=True)
        assert len(store) == 0 and store.put(key(0), pixels_of(0, 1), tag=1)
        assert fault_of(store.get(key(0)).array, pixels_of(0, 1)) is None  # type: ignore[union-attr]
        return {"right": found}


def _text(path: Path) -> str:
    "Return what an actor has written; it may not have begun."
    return path.read_text("utf-8", "replace") if path.exists() else ""


def storm(kind: str, seconds: float, seed: str, actors: int = 10) -> Outcome:
    "Run one storm in a folder of its own."
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["faults.actors"])
    first = server.Process(target=gc.collect)  # the server imports what actors need: seconds, before the clock runs
    first.start()
    first.join()
    with tempfile.TemporaryDirectory(prefix="storm") as folder:
        return Storm(kind, seconds, seed, Path(folder), actors).run()


def run(times: int, seed: int) -> Outcome:
    "Run a storm over each kind of store, for `times` seconds in all."
    made = Outcome()
    for kind in KINDS:
        made.join(storm(kind, times / len(KINDS), f"{seed}-{kind}"))
    return made


FAULTS = [
    Fault(
        "storm",
        "The storm",
        "Ten processes over one store, struck by SIGKILL, SIGSTOP and Ctrl-C at random moments",
        "readers, batch readers, writers, purgers, checkers, openers, and a writer whose signal handler writes, too; "
        "in two kinds of memory, over a `cache_file` within one family of processes, and among strangers that open it; "
        "each pixel that is read is compared with what was written under its key",
        run,
        times=300,
        quick=20,
    )
]
