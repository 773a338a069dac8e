"""The first write after a killed one: counts are right again, at the cost of the write that was not finished."""

from __future__ import annotations

import itertools
import os
import random
import signal
import uuid
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, List

import numpy as np
import pytest
from kills import kill_after_lines, moments
from stores import Make, key, picture
from stores import kind as kind  # the fixtures
from stores import make as make

from memlist.store import ImageStore, budget, index, layout, repair

Write = Callable[[ImageStore], Any]


def replace(images: ImageStore) -> None:
    images.put(key(7), np.zeros(5000, np.uint8), replace=True)
    images.put(key(8), np.zeros(5, np.uint8), replace=True)


def add(images: ImageStore) -> None:
    "Store a record, a note and another record: the index grows with the first of them."
    images.put(b"new", picture(9))
    images.note(b"note")
    images.put(b"newer", picture(3))


def refuse(images: ImageStore) -> None:
    "Replace a record by one that does not fit: the old one is dropped."
    images.put(key(7), np.zeros(50_000_000, np.uint8), replace=True)


def purge(images: ImageStore) -> None:
    images.purge(file=True)
    images.put(b"new", picture(9))


WRITES = [replace, add, refuse, purge]


def nearly_full(make: Make) -> ImageStore:
    "Return a store whose index grows with the next record."
    images = make("20MB")
    for i in range((4 << layout.FIRST_TABLE_BITS) // 5):
        assert images.put(key(i), picture(i))
    return images


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let equal writes run equally many lines of the store's code.

    The clock decides nothing, and each session of a file has the same number. It is drawn otherwise, notes are kept
    under it, and how many slots of the index are looked at depends on it.
    """
    monkeypatch.setattr(budget, "MAX_AGE_SECONDS", 1e9)
    monkeypatch.setattr(repair, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=9 << 64)))


def killed(task: Callable[[], Any], lines: int) -> bool:
    "Run `task` in a child, kill it after this many lines of the store's code, and return whether it ran that many."
    pid = os.fork()
    if not pid:
        kill_after_lines(lines)
        task()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def recover(images: ImageStore) -> None:
    "Do what the first write after a killed one does before its own work."
    images.parts.locked(lambda: None)


def refuse_to_walk(self: index.Index) -> None:
    raise AssertionError("the journal was not used")


def assert_consistent(images: ImageStore, write: Write) -> None:
    "Assert that all records are whole, that those of finished writes are there, and that the counts are exact."
    keys = [b"new", b"newer", *map(key, range((4 << layout.FIRST_TABLE_BITS) // 5))]
    records = {k: images.get(k) for k in keys if k in images}
    for k, record in records.items():
        assert record is not None
        if k in (b"new", b"newer"):
            assert np.array_equal(record.array, picture(9 if k == b"new" else 3))
        elif int(k) not in (7, 8) or len(record.array) not in (5, 5000):
            assert np.array_equal(record.array, picture(int(k)))
    assert len(images) == len(records)
    assert images.info().nbytes == sum(record.array.nbytes for record in records.values())  # type: ignore[union-attr]
    old = [k for k in keys[2:] if k in records]
    if write is purge:
        assert len(old) in (0, len(keys) - 2)
    else:
        assert len(old) >= len(keys) - 2 - (write is refuse)
    counted = images.taken
    images._header.busy = layout.WRITING
    recover(images)  # a walk over the log finds the same
    assert len(images) == len(records) and abs(images.taken - counted) <= 4 * layout.PAGE
    assert images.check() == []


@pytest.mark.parametrize("every", [71, *(pytest.param(n, marks=pytest.mark.full) for n in (31, 1))])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_killed_at_any_moment_is_undone_or_finished_without_a_walk(
    write: Write,
    every: int,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, int], None],
) -> None:
    when = moments(partial(write, nearly_full(make)))[:: 1 + every // 7 if write is purge else every]
    record_property("times", len(when))
    record_property("right", len(when))
    for lines in when:
        images = nearly_full(make)
        assert killed(partial(write, images), lines)
        with monkeypatch.context() as patch:
            patch.setattr(index.Index, "_recount_all", refuse_to_walk)
            recover(images)
        assert_consistent(images, write)


@pytest.mark.parametrize("times", [4, pytest.param(400, marks=pytest.mark.full)])
@pytest.mark.parametrize("write", WRITES)
def test_a_recovery_killed_at_any_moment_begins_again(
    write: Write,
    times: int,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, int], None],
) -> None:
    record_property("times", times)
    record_property("right", times)
    draw, when, twice = random.Random(0), moments(partial(write, nearly_full(make))), 0
    for _ in range(times):
        images = nearly_full(make)
        assert killed(partial(write, images), draw.choice(when))
        with monkeypatch.context() as patch:
            patch.setattr(index.Index, "_recount_all", refuse_to_walk)
            for _ in range(3):
                twice += killed(partial(recover, images), draw.randrange(1, 60))
            recover(images)
        assert_consistent(images, write)
    assert twice


def test_without_a_whole_journal_the_log_is_walked(make: Make) -> None:
    for damage in range(2):
        for lines in itertools.count(100, 10):
            images = nearly_full(make)
            assert killed(partial(replace, images), lines)
            header = images._header
            if header.journal is not None:
                break
        at = layout.JOURNAL + (header.busy - layout.WITH_JOURNAL) * (layout.ENDS - layout.JOURNAL) // 2
        if damage:
            header.words[at + 4] ^= 1
            assert header.journal is None
        recover(images)
        assert_consistent(images, replace)


def test_the_journal_survives_being_written() -> None:
    "Write the journal again and again: the copy that is in use stays as it is."
    header = layout.Header.of_page(bytearray(layout.new_page()))
    for n in range(1, 6):
        before = header.journal
        words: List[int] = list(header.words)
        header.records = n
        header.checkpoint(16 * n, n)
        used = before and layout.JOURNAL + (words[layout.BUSY] - layout.WITH_JOURNAL) * 12
        assert used is None or words[used : used + 12] == list(header.words[used : used + 12])
        assert header.journal is not None and header.journal[-2:] == (16 * n, n) and header.journal.records == n
