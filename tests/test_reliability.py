"""The faults and their page: each kind of outcome is told, a few faults are made, and the page shows the figures."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, Dict

import pytest
from faults import __main__ as command
from faults import actors, derived, longrun, page, storm
from faults.at_lines import FAULTS as LINES
from faults.at_lines import TASKS, at_lines
from faults.fault import GOOD, Fault, Outcome, from_tests, repeated
from faults.table import FAULTS, groups

from memlist import CacheFileError, ImageLoadError, ImageStore
from memlist.store.parts import Parts


def test_the_page_is_made_of_the_results() -> None:
    results = json.loads(command.RESULTS.read_text("utf-8"))
    assert set(results["lines"]) == set(FAULTS), "make test-faults"
    assert page.render(results) == command.PAGE.read_text("utf-8"), "python -m faults --render"


def test_nothing_came_of_a_fault_that_must_not() -> None:
    lines = json.loads(command.RESULTS.read_text("utf-8"))["lines"]
    assert [key for key, line in lines.items() if not Outcome(**line["outcome"]).good] == []


def test_each_fault_has_one_line() -> None:
    assert sum(map(len, groups().values())) == len(FAULTS)
    text = page.render({"lines": {key: {"outcome": Outcome(3).as_dict()} for key in FAULTS}, **TAKEN})
    for fault in FAULTS.values():
        assert text.count(f"| {fault.title} | {fault.how} | 3 |") == 1 and 0 <= fault.quick <= fault.times
    assert "$" not in text


TAKEN: Dict[str, Any] = {"machine": "m", "date": "d", "command": "c", "seconds": 1}


def _happens(what: str, folder: Path) -> Dict[str, int]:
    "End as a fault may."
    if what == "crash":
        faulthandler.disable()  # this crash is expected
        os.kill(os.getpid(), signal.SIGBUS)
    if what == "hang":
        os.fork()  # one that is left behind
        time.sleep(1000)
    if what in ("refused", "announced", "error", "check"):
        raise {
            "refused": CacheFileError("file", "is bad."),
            "announced": ImageLoadError([]),
            "error": OSError("by name"),
            "check": AssertionError("by name"),
        }[what]
    assert not list(folder.iterdir())
    return {"right": 2}


@pytest.mark.parametrize(
    ("what", "counts"),
    [
        ("right", {"right": 2}),
        ("refused", {"refused": 1}),
        ("announced", {"announced": 1}),
        ("error", {"errors": 1}),
        ("check", {"failed": 1}),
        ("crash", {"killed": 1}),
        ("hang", {"hangs": 1}),
    ],
)
def test_what_comes_of_a_fault_is_told(what: str, counts: Dict[str, int]) -> None:
    made = repeated(lambda draw, folder: _happens(what, folder), seconds=1 if what == "hang" else 60)(1, 5)
    assert made.times == 1 and made.counts == counts
    assert made.good is bool(set(counts) <= set(GOOD)) and len(made.culprits) == (not made.good)
    assert all("seed 5:0" in culprit for culprit in made.culprits)
    if what == "hang":
        assert "_happens" in made.culprits[0]
    if what in ("error", "check"):
        assert "by name" in made.culprits[0]


def test_a_fault_is_drawn_from_its_seed(tmp_path: Path) -> None:
    def once(draw: random.Random, folder: Path) -> Dict[str, int]:
        with open(tmp_path / "drawn", "a") as file:
            file.write(f"{draw.random()}\n")
        return {"right": 1}

    for seed in (1, 1, 2):
        repeated(once)(3, seed)
    drawn = (tmp_path / "drawn").read_text().split()
    assert set(drawn[:3]) == set(drawn[3:6]) and len(set(drawn)) == 6


def test_tests_tell_how_often_they_made_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_counted(record_property):\n    record_property('times', 40)\n    record_property('fewer', 3)\n"
        "def test_plain():\n    pass\n"
        "def test_wrong():\n    assert 'by name' == 1\n"
        "def test_skipped():\n    pytest.skip('no disk')\n"
    )
    monkeypatch.setattr("faults.fault.ROOT", tmp_path)
    made = from_tests(["test_it.py"], each=5)(1, 0)
    assert made.times == 50 and made.counts == {"fewer": 3, "right": 5, "failed": 1} and not made.impossible
    assert "by name" in made.culprits[0]
    made = from_tests(["test_it.py::test_skipped"])(1, 0)
    assert made.good and made.impossible == "no disk" and "can't be made" in page.cell(made)
    assert not from_tests(["test_it.py::test_absent"])(1, 0).good


def test_a_fault_that_is_seen_ends_the_command_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def bad(draw: random.Random, folder: Path) -> Dict[str, int]:
        raise OSError("by name")

    monkeypatch.setattr(command, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(command, "PAGE", tmp_path / "page.md")
    monkeypatch.setitem(FAULTS, "storm", Fault("storm", "The storm", "title", "how", repeated(bad), 2, 1))
    assert command.main(["--only", "storm", "--seed", "7"]) == 1
    printed = capsys.readouterr().out
    assert "by name" in printed and "seed 7:0" in printed and "--only storm --seed 7" in printed
    assert "| title | how | 2 | **2 other exceptions** |" in (tmp_path / "page.md").read_text()
    before = (tmp_path / "results.json").read_text()
    assert command.main(["--only", "storm", "--quick"]) == 1 and (tmp_path / "results.json").read_text() == before
    monkeypatch.setitem(FAULTS, "storm", FAULTS["other-files"]._replace(run=repeated(lambda *_: {"right": 1})))
    assert command.main(["--only", "storm", "--quick"]) == 0


@pytest.mark.parametrize("fault", LINES, ids=lambda fault: fault.key)
def test_strikes_at_some_lines(fault: Fault) -> None:
    made = fault.run(4, 1)
    assert made.good and made.times == 4, made.culprits


def test_a_task_that_loses_records_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def loses(store: Any, folder: Path) -> None:
        store.purge(file=True)

    monkeypatch.setitem(TASKS, "check", TASKS["check"]._replace(act=loses))
    made = at_lines(TASKS["check"], signal.SIGKILL)(80, 1)
    assert made.counts["failed"] > 20 and "60 of 60 records are lost" in made.culprits[0]


# -- the storm ----------------------------------------------------------------------------------------------------


def test_pixels_follow_from_their_key() -> None:
    a, b = derived.pixels_of(3, 0), derived.pixels_of(3, 1)
    assert derived.fault_of(a, derived.pixels_of(3, 0)) is None
    assert a.shape != b.shape or (a != b).any()
    wrong = a.copy()
    wrong[2, 1, 0] ^= 1
    assert "1 of" in str(derived.fault_of(wrong, a)) and "instead of" in str(derived.fault_of(b[:5], a))
    assert derived.pixels_of(0, 0).nbytes > 1 << 20


# Each stranger imports memlist first, which takes a while if ten of them do so at once.
@pytest.mark.parametrize("kind, seconds", [("memfd", 4), pytest.param("strangers", 40, marks=pytest.mark.full)])
def test_a_short_storm(kind: str, seconds: float) -> None:
    made = storm.storm(kind, seconds, f"test-{kind}")
    assert made.good, made.culprits
    assert made.counts["right"] and made.times > 5


def test_a_storm_notices_wrong_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "roles", lambda n: ["reader"] * n)
    blown = storm.Storm("memfd", 5, "bad", tmp_path, actors=3)
    assert blown.store is not None
    for i in range(derived.KEYS):  # the pixels of other keys
        blown.store.put(derived.key(i), derived.pixels_of(i + 1, 0), tag=0)
    made = blown.run()
    assert made.counts["wrong"] > 0 and "version 0" in made.culprits[0] and "seed 'bad'" in made.culprits[0]


def test_a_storm_notices_who_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(actor: Any) -> None:
        time.sleep(1000)

    monkeypatch.setattr(storm, "PATIENCE", 2.0)
    monkeypatch.setattr(storm.Storm, "_strike", lambda self: None)
    monkeypatch.setattr(storm.Storm, "_method", lambda self, i: "fork")
    monkeypatch.setattr(actors.Actor, "write", hang)
    made = storm.Storm("memfd", 5, "hang", tmp_path, actors=4).run()
    assert made.counts["hangs"] > 0 and "test_reliability.py" in made.culprits[0] and " in hang" in made.culprits[0]


def test_a_check_does_not_blame_a_record_that_is_replaced_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Found by the storm: another process replaces the record after it was looked up, and before it is verified."
    store = ImageStore.open(tmp_path / "cache")
    for i in range(9):
        assert store.put(derived.key(i), derived.pixels_of(i, 0))
    fault = Parts.fault

    def replaced_first(self: Parts, offset: int, block: Any) -> str:
        monkeypatch.setattr(Parts, "fault", fault)
        for i in range(9):
            assert store.put(derived.key(i), derived.pixels_of(i, 1), replace=True)
        return fault(self, offset, block)

    for fix in (False, True):
        monkeypatch.setattr(Parts, "fault", replaced_first)
        assert store.check(fix) == [] and len(store) == 9
    assert store.check() == []


# -- long runs ----------------------------------------------------------------------------------------------------


@pytest.mark.full  # the short form of the faults makes twelve
@pytest.mark.parametrize("named", [True, False])
def test_thirty_epochs_take_no_more_than_ten(named: bool) -> None:
    made = Outcome()
    form = {"epochs": 30, "named": named, "batch": named, "restless": True}
    longrun.judge(made, form, longrun.started(form))
    assert made.good, made.culprits
    assert made.counts["right"] == 30


def test_growth_is_noticed() -> None:
    flat = [dict.fromkeys(longrun.LIMITS, 7) for _ in range(30)]
    made = Outcome()
    form = {"epochs": 30, "named": False, "batch": False, "restless": False}
    longrun.judge_samples(made, form, {"samples": flat, "right": 30})
    assert made.good
    for what, limit in longrun.LIMITS.items():
        grown = [{**one, what: 7 + n * (limit + 5)} for n, one in enumerate(flat)]
        made = Outcome()
        longrun.judge_samples(made, form, {"samples": grown, "right": 30})
        assert made.counts["failed"] == 1 and longrun.WORDS[what] in made.culprits[0]
    longrun.judge_samples(made, form, {"samples": flat, "right": 29})
    assert made.counts["wrong"] == 1
