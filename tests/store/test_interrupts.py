"""A Ctrl-C at every line, or every bytecode, of every call: the store still reads, writes and purges afterwards."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List

import numpy as np
import pytest
from kills import moments
from stores import Make
from strikes import FOLDER, Strike

from memlist.store import ImageStore, registry
from memlist.store import threads as threads_module
from memlist.store.bytelocks import ByteLocks
from memlist.store.lock import MUTEX
from memlist.store.threads import ThreadLock

KINDS = ["memfd", "named", pytest.param("file", marks=pytest.mark.full)]
Task = Callable[[ImageStore], Any]
RECORDS = 3


def tile(n: int) -> np.ndarray:
    return np.full((3, 4, 3), n, np.uint8)


TASKS: Dict[str, Task] = {
    "put": lambda images: images.put(b"new", tile(9)),
    "put a large array": lambda images: images.put(b"new", np.full((1000, 1000, 3), 9, np.uint8)),
    "replace": lambda images: images.put(b"0", tile(9), replace=True),
    "purge": lambda images: images.purge(),
    "purge the file": lambda images: images.purge(file=True),
    "note": lambda images: images.note(b"n"),
    "get": lambda images: images.get(b"0"),
    "count": lambda images: images.count(True),
    "check": lambda images: images.check(fix=True),
    "set the budget": lambda images: images.set_max_ram("1GB"),
    "claim": lambda images: images.claiming(b"k", bool),
    "grow the index": lambda images: images.parts.locked(images.parts.index.grow),
    "sources": lambda images: images.sources(),
    "reserve": lambda images: images.reserve(2000),
    "info": lambda images: images.info(),
}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    "Return a function that makes a new store."
    count = itertools.count()

    def made() -> ImageStore:
        if request.param == "named":
            return ImageStore.open(tmp_path / str(next(count)))
        return ImageStore(kind=request.param)

    return made


def with_records(make: Make) -> ImageStore:
    images = make()
    for i in range(RECORDS):
        assert images.put(b"%d" % i, tile(i))
    return images


def strike_all(make: Make, task: Task, when: Iterable[int], bytecodes: bool = False) -> int:
    "Interrupt `task` at these moments, until it ends before one of them; return how often it was interrupted."
    struck = 0
    for n in when:
        images = with_records(make)
        strike = Strike(n, bytecodes)
        if not strike.during(lambda images=images: task(images)):  # type: ignore[misc]
            break
        struck += 1
        try:
            assert_usable(images)
        except BaseException as error:
            raise AssertionError(f"struck at {strike.where}, moment {n}") from error
    return struck


def assert_usable(images: ImageStore) -> None:
    "Assert that no lock was left behind, and that the store reads, writes, counts, checks and purges."
    assert mutex_is_free(images)
    assert images.put(b"later", np.full(5, 7, np.uint8))
    assert (images.get(b"later").array == 7).all()  # type: ignore[union-attr]
    for i in range(RECORDS):
        record = images.get(b"%d" % i)
        assert record is None or (np.isin(record.array, (i, 9)).all() and len(np.unique(record.array)) == 1)
    new = images.get(b"new")
    assert new is None or (new.array == 9).all()
    before = images.reads()
    images.count(True)
    assert images.reads()[0] == before[0] + 1
    assert images.check() == []
    images.purge(file=True)
    assert len(images) == 0 and images.get(b"0") is None
    assert images.put(b"later", tile(5)) and images.note(b"another")


def mutex_is_free(images: ImageStore) -> bool:
    "Return whether another process could take the mutex now."
    other = ByteLocks(os.open(f"/proc/self/fd/{images.parts.lock.fd}", os.O_RDWR), opened=True)
    try:
        return other.lock(MUTEX)
    finally:
        other.close()


@pytest.mark.parametrize("name", TASKS)
def test_an_interrupt_at_each_line(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    "Strike at each line for the first and for the last time that it runs."
    monkeypatch.setattr("memlist.store.counters.PATIENCE", 0.01)
    images = with_records(make)
    when = moments(lambda: TASKS[name](images), FOLDER)
    assert strike_all(make, TASKS[name], when) > 0.9 * len(when) > 9  # the clock decides whether some lines run


@pytest.mark.full
@pytest.mark.parametrize("name", TASKS)
def test_an_interrupt_each_time_that_a_line_runs(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memlist.store.counters.PATIENCE", 0.01)
    assert strike_all(make, TASKS[name], itertools.count(1)) > 9


@pytest.mark.full
@pytest.mark.parametrize("name", TASKS)
def test_an_interrupt_at_each_bytecode(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memlist.store.counters.PATIENCE", 0.01)
    assert strike_all(make, TASKS[name], itertools.count(1), bytecodes=True) > 99


def open_and_use(path: Path) -> None:
    images = ImageStore.open(path)
    assert images.check() == []
    images.purge(file=True)
    assert images.put(b"later", tile(5)) and (images.get(b"later").array == 5).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("bytecodes", [False, pytest.param(True, marks=pytest.mark.full)])
def test_an_interrupt_while_a_file_is_opened(tmp_path: Path, existing: bool, bytecodes: bool) -> None:
    def made(name: object) -> Path:
        path = tmp_path / str(name)
        if existing:
            assert ImageStore.open(path).put(b"old", tile(3))
        return path

    first, count = made("first"), 0
    # Each bytecode, or each line for the first and for the last time that it runs.
    when = itertools.count(1) if bytecodes else moments(lambda: ImageStore.open(first), FOLDER)
    for n in when:
        path = made(n)
        strike = Strike(n, bytecodes)
        kept: List[ImageStore] = []
        struck = strike.during(lambda path=path, kept=kept: kept.append(ImageStore.open(path)))  # type: ignore[misc]
        kept.clear()
        registry.STORES.clear()
        try:
            if existing:
                record = ImageStore.open(path).get(b"old")
                assert record is not None and (record.array == 3).all()
                registry.STORES.clear()
            open_and_use(path)
        except BaseException as error:
            raise AssertionError(f"struck at {strike.where}, moment {n}") from error
        if not struck:
            break
        count += 1
    assert count > 50


def test_a_thread_lock_that_two_interrupts_left_behind_is_free_for_other_threads() -> None:
    for first in range(1, 40):  # the second interrupt strikes during the cleanup after the first
        for second in range(1, 12):
            lock = ThreadLock()
            Strike(first, again=second).during(lambda lock=lock: lock.run(int))  # type: ignore[misc]
            done: List[int] = []
            thread = threading.Thread(target=lambda lock=lock, done=done: done.append(lock.run(lambda: 1)))  # type: ignore
            thread.start()
            thread.join(20)
            assert done == [1], (first, second)
            assert lock.run(lambda: 2) == 2


def test_a_thread_lock_is_not_taken_from_a_thread_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, inside, leave, order = ThreadLock(), threading.Event(), threading.Event(), []
    looks, is_running = threading.Semaphore(0), threads_module._is_running

    def look(frame: Any) -> bool:
        found = is_running(frame)
        looks.release()
        return found

    monkeypatch.setattr(threads_module, "_is_running", look)

    def first() -> None:
        def wait() -> None:
            inside.set()
            leave.wait()
            order.append("first")

        lock.run(wait)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    inside.wait()
    threads += [threading.Thread(target=lambda: lock.run(lambda: order.append("later"))) for _ in range(4)]
    for thread in threads[1:]:
        thread.start()
    for _ in range(20):  # they look whether the holder is running, again and again
        assert looks.acquire(timeout=60)
    assert order == []
    leave.set()
    for thread in threads:
        thread.join()
    assert order == ["first"] + 4 * ["later"]


def test_threads_exclude_each_other_under_a_thread_lock() -> None:
    lock, count = ThreadLock(), [0]

    def add() -> None:
        value = count[0]
        os.sched_yield()
        count[0] = value + 1

    def work() -> None:
        for _ in range(2000):
            lock.run(add)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == [8000]
