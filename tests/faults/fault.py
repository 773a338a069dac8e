"""What a fault is, what may come of it, and how a function that makes it once is run many times.

See the first page of this folder for how to add a fault.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import signal
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence, Tuple
from xml.etree import ElementTree

import pytest

from memlist.cache import ImageLoadError
from memlist.store import CacheFileError, usable_cpus

ROOT = Path(__file__).resolve().parents[2]

#: What may come of a fault: all of this is promised.
GOOD = {
    "right": "right",
    "fewer": "with fewer records",
    "refused": "refused with CacheFileError",
    "announced": "with another documented error or warning",
    "survived": "survived",
}
#: What must not: one of these ends `make test-faults` with status 1.
BAD = {
    "wrong": "wrong pixels",
    "hangs": "hangs",
    "errors": "other exceptions",
    "killed": "crashes",
    "failed": "failed checks",
}
# How many culprits are kept per fault, and how much of each.
MOST_CULPRITS, MOST_LETTERS = 10, 6000
# How many seconds the tests of one fault may take.
MOST_SECONDS = 300
# In place of the wait status of a process that had to be ended.
OVERDUE = -1


@dataclass
class Outcome:
    """Say what came of a fault.

    - `times`: how often it was made
    - `counts`: by the names of GOOD and BAD, how often that came of it; what is missing is 0
    - `culprits`: for what is BAD, the seed, and the stack or the message
    - `notes`: what else the reader of the page should know
    - `remarks`: what only the person who looks for a fault should know; not on the page
    - `impossible`: why the fault can't be made on this machine; empty if it can
    """

    times: int = 0
    counts: Dict[str, int] = field(default_factory=dict)
    culprits: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    remarks: List[str] = field(default_factory=list)
    impossible: str = ""

    def add(self, what: str, n: int = 1, culprit: str = "") -> None:
        "Count what came of it; tell who the culprit is, if it is BAD."
        assert what in GOOD or what in BAD, what
        self.counts[what] = self.counts.get(what, 0) + n
        if culprit and len(self.culprits) < MOST_CULPRITS:
            self.culprits.append(culprit if len(culprit) < MOST_LETTERS else culprit[:MOST_LETTERS] + " …")

    def join(self, other: Outcome) -> None:
        "Add the counts of another outcome to these."
        self.times += other.times
        for what, n in other.counts.items():
            self.add(what, n)
        self.culprits = [*self.culprits, *other.culprits][:MOST_CULPRITS]
        self.notes += [note for note in other.notes if note not in self.notes]
        self.remarks += other.remarks
        self.impossible = self.impossible or other.impossible

    @property
    def good(self) -> bool:
        "Return whether nothing came of it that must not."
        return not any(self.counts.get(what) for what in BAD)

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


#: Make a fault so many times, from this seed on, and say what came of it.
Run = Callable[[int, int], Outcome]
#: Make a fault once, in an empty folder of its own; draw all that is random; say what came of it, in names of GOOD.
Once = Callable[[random.Random, Path], Dict[str, int]]
Task = Callable[[], Dict[str, int]]


class Fault(NamedTuple):
    """Name a fault that the page has a line for.

    - `title`: what happens, in a few words
    - `how`: how it is made, in plain English
    - `group`: the heading that it stands under
    - `run`: makes it; see `Run`
    - `times`, `quick`: how often, on the page and in the quick form
    """

    key: str
    group: str
    title: str
    how: str
    run: Run
    times: int
    quick: int


def repeated(once: Once, seconds: float = 60) -> Run:
    """Return a function that makes a fault many times, by `once`, each time in a process and a folder of its own.

    Whatever `once` raises counts: CacheFileError as refused, ImageLoadError as announced, an AssertionError as a failed
    check, all else as an error. A signal that ends the process is a crash; `seconds` without an end are a hang.
    """

    def in_a_folder(name: str) -> Dict[str, int]:
        with tempfile.TemporaryDirectory(prefix="fault") as folder:
            return once(random.Random(name), Path(folder))

    def run(times: int, seed: int) -> Outcome:
        return guarded([(name, partial(in_a_folder, name)) for name in (f"{seed}:{n}" for n in range(times))], seconds)

    return run


def guarded(tasks: Sequence[Tuple[str, Task]], seconds: float) -> Outcome:
    "Run tasks, each in a forked process that may crash or hang, as many at once as there are cores; see `repeated`."
    made, todo = Outcome(), list(tasks)[::-1]
    running: List[_Child] = []
    while running or todo:
        while todo and len(running) < usable_cpus():
            running.append(_Child(*todo.pop(), seconds))
        for child in list(running):
            if child.ended():
                running.remove(child)
                made.join(child.told())
        time.sleep(0.002)
    return made


class _Child:
    "Run a task in a forked process, and tell what came of it."

    def __init__(self, name: str, task: Task, seconds: float) -> None:
        self.name, self.seconds, self.status = name, seconds, -1
        self.answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was read
        self.until = time.monotonic() + seconds + 20
        self.pid = os.fork()
        if not self.pid:
            _answer(task, seconds, self.answer.fileno())

    def ended(self) -> bool:
        "Return whether the process has ended; end it if it is long overdue, and all that it has left behind."
        found, status = os.waitpid(self.pid, os.WNOHANG)
        late = not found and time.monotonic() > self.until
        if found or late:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if late:
            os.waitpid(self.pid, 0)
        self.status = OVERDUE if late else status
        return bool(found) or late

    def told(self) -> Outcome:
        "Return what came of it."
        self.answer.seek(0)
        data, made, name = self.answer.read(), Outcome(1), self.name
        self.answer.close()
        if self.status == OVERDUE or (os.WIFEXITED(self.status) and os.WEXITSTATUS(self.status)):
            stacks = data.decode("utf-8", "replace")
            made.add("hangs", 1, f"seed {name}: no end after {self.seconds:.0f} s\n{stacks}")
        elif os.WIFSIGNALED(self.status):
            made.add("killed", 1, f"seed {name}: killed by {signal.Signals(os.WTERMSIG(self.status)).name}")
        else:
            what, counts, text = pickle.loads(data)
            for one, n in counts.items():
                made.add(one, n)
            if what:
                made.add(what, 1, f"seed {name}: {text}" if what in BAD else "")
        return made


def _answer(task: Task, seconds: float, answer: int) -> None:
    "Run `task`, write what came of it, and end the process. After `seconds` write the stacks instead."
    told: Tuple[str, Dict[str, int], str] = "errors", {}, "it ended itself"
    try:
        os.setsid()  # so that all that it has started can be ended with it
        faulthandler.dump_traceback_later(seconds, exit=True, file=answer)
        try:
            told = "", task(), ""
        except CacheFileError:
            told = "refused", {}, ""
        except ImageLoadError:
            told = "announced", {}, ""
        except AssertionError:
            told = "failed", {}, traceback.format_exc()
        except BaseException:
            told = "errors", {}, traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        os.write(answer, pickle.dumps(told))
    finally:
        os._exit(0)


def from_tests(names: Sequence[str], each: int = 1) -> Run:
    """Return a function that makes a fault by tests of pytest, which it runs once.

    A test that passes has made the fault `each` times, and all went right, unless it says more:
    `record_property("times", 400)`, and properties named as in GOOD. Tests have seeds of their own.
    """

    def run(times: int, seed: int) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="fault") as folder:
            report = Path(folder, "report.xml")
            ended = guarded([(" ".join(names), partial(_run_tests, names, report))], MOST_SECONDS)
            made = _told_by(report, each) if report.exists() else ended
            if not made.times and not made.impossible:
                made.add("failed", 1, f"no such test: {' '.join(names)}")
            return made

    return run


def either(full: Run, quick: Run, times: int) -> Run:
    "Return a function that runs `full` if the fault is to be made `times` times, else `quick`."
    return lambda n, seed: (full if n >= times else quick)(n, seed)


def _run_tests(names: Sequence[str], report: Path) -> Dict[str, int]:
    "Run tests in this process, and write a report."
    with open(report.with_name("output"), "w") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        options = ["-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        options += [f"--junitxml={report}", f"--basetemp={report.with_name('tmp')}"]
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # these tests need none, and importing them takes seconds
        status = pytest.main([*options, *(f"{ROOT}/{name}" for name in names)])
    assert report.exists(), f"status {status}\n{report.with_name('output').read_text()}"
    return {}


def _told_by(report: Path, each: int) -> Outcome:
    "Return what a report of pytest says; a test stands for `each` times."
    made, reasons = Outcome(), []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        told = {one.get("name"): int(one.get("value") or 0) for one in case.iter("property")}
        skipped, wrong = case.find("skipped"), [one for one in case if one.tag in ("failure", "error")]
        if skipped is not None:
            reasons.append(skipped.get("message") or "skipped")
            continue
        made.times += told.get("times", each)
        if wrong:
            made.add("failed", 1, f"{name}:\n{wrong[0].text}")
        elif any(what in GOOD for what in told):
            for what in GOOD:
                if told.get(what):
                    made.add(what, told[what])
        else:
            made.add("right", told.get("times", each))
    if reasons and not made.times:
        made.impossible = reasons[0]
    return made
