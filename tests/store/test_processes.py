"""A store under threads, processes and kills."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import signal
import threading
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from kills import kill_after_lines, moments
from stores import KINDS, Make, filled, footprint, key, picture
from stores import kind as kind  # the fixtures
from stores import make as make

from memlist.store import ImageStore, budget, layout, lock


def _fill(images: ImageStore, first: int, last: int) -> None:
    for i in range(first, last):
        assert images.put(key(i), picture(i))
        images.count(False)


def _check(images: ImageStore, numbers: List[int]) -> None:
    for i in numbers:
        record = images.get(key(i))
        assert record is not None and np.array_equal(record.array, picture(i))
        images.count(True)


@pytest.mark.parametrize(
    ("method", "kind"),
    [(method, kind) for method in ("fork", "spawn") for kind in KINDS if (method, kind) != ("spawn", "file")]
    + [("forkserver", "memfd")]
    + [pytest.param(*pair, marks=pytest.mark.full) for pair in (("spawn", "file"), ("forkserver", "named"))],
)
def test_a_record_put_by_one_process_is_read_by_all(method: str, make: Make) -> None:
    images, context = make(), multiprocessing.get_context(method)
    images.put(key(0), picture(0))
    writers = [context.Process(target=_fill, args=(images, i * 700, i * 700 + 900)) for i in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
        assert process.exitcode == 0
    _check(images, list(range(1600)))
    reader = context.Process(target=_check, args=(images, list(range(1600))))
    reader.start()
    reader.join()
    assert reader.exitcode == 0
    info = images.info()
    assert info.records == 1600 and info.misses == 1800 and info.hits == 3200


def test_counts_are_exact_over_more_processes_than_counters() -> None:
    images = ImageStore()
    for _ in range(3):
        pids = []
        for _ in range(layout.N_COUNTERS // 2):
            pid = os.fork()
            if not pid:
                for _ in range(20):
                    images.count(True)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
    assert images.info().hits == 3 * (layout.N_COUNTERS // 2) * 20


def test_threads_of_one_process(make: Make) -> None:
    images = make()
    threads = [threading.Thread(target=_fill, args=(images, 100 * i, 100 * i + 200)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _check(images, list(range(900)))
    assert images.info().misses == 1600


def test_a_fork_while_a_thread_holds_the_lock() -> None:
    images = ImageStore()
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        def wait() -> None:
            inside.set()
            leave.wait()

        images.parts.locked(wait)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait()
    pid = os.fork()
    if not pid:  # the child's copy of the thread lock is held by a thread that does not exist there
        signal.alarm(60)
        os._exit(0 if images.put(b"a", picture(1)) else 1)
    leave.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    assert b"a" in images


def _fill_forever(images: ImageStore, start: int) -> None:
    i = start
    while True:
        images.put(key(i % 3000), np.full((60, 60, 3), i % 3000 % 251, np.uint8))
        i += 1
        if i % 3000 == 0:
            images.purge()


@pytest.mark.parametrize("kills", [25, pytest.param(200, marks=pytest.mark.full)])
def test_a_killed_writer_leaves_no_lock_and_no_wrong_record(kills: int) -> None:
    images, context, draw = ImageStore(), multiprocessing.get_context("fork"), random.Random(0)
    for n in range(kills):
        process = context.Process(target=_fill_forever, args=(images, draw.randrange(3000)))
        process.start()
        # Let it get somewhere, wherever: readers look at it meanwhile.
        for i in range(draw.randrange(1, 400)):
            record = images.get(key(i))
            if record is not None:
                total = int(record.array.sum(dtype=np.int64))
                assert not images.current(record) or total == i % 251 * 60 * 60 * 3
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        assert images.put(b"survivor %d" % n, picture(n)) or images.purge() >= 0
    held = [i for i in range(3000) if key(i) in images]
    for i in held:
        assert (images.get(key(i)).array == i % 251).all()  # type: ignore[union-attr]
    survivors = sum(b"survivor %d" % n in images for n in range(kills))
    assert images.info().records == len(held) + survivors
    assert images.info().nbytes == sum(images.get(key(i)).array.nbytes for i in held) + sum(  # type: ignore[union-attr]
        picture(n).nbytes for n in range(kills) if b"survivor %d" % n in images
    )


def _nearly_full() -> ImageStore:
    "Return a store whose index grows with the next record."
    images = ImageStore()
    for i in range((4 << layout.FIRST_TABLE_BITS) // 5):
        images.put(key(i), picture(i))
    return images


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.full)])
def test_every_moment_of_a_put_is_safe_to_die_at(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    "Kill the writer at each line of the store's code: before and after each write to the header, index and log."

    def write(images: ImageStore) -> None:
        images.put(key(7), np.zeros(5000, np.uint8), replace=True)
        images.put(b"new", picture(9))

    monkeypatch.setattr(budget, "MAX_AGE_SECONDS", 1e9)  # else the clock decides how many lines run
    points = moments(partial(write, _nearly_full()))[::every]
    assert len(points) > 200 / every
    for lines in points:
        images = _nearly_full()
        before = images.info()
        pid = os.fork()
        if not pid:
            kill_after_lines(lines)
            write(images)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert images.put(b"after", picture(11))
        assert np.array_equal(images.get(b"after").array, picture(11))  # type: ignore[union-attr]
        changed = images.get(key(7)).array  # type: ignore[union-attr]
        assert np.array_equal(changed, picture(7)) or (changed.shape == (5000,) and not changed.any())
        for i in range(8, before.records, 31):
            assert np.array_equal(images.get(key(i)).array, picture(i))  # type: ignore[union-attr]
        assert images.info().records == before.records + 1 + (b"new" in images)
        present = [images.get(k) for k in [b"after", b"new", *map(key, range(before.records))] if k in images]
        assert images.info().nbytes == sum(record.array.nbytes for record in present)  # type: ignore[union-attr]


def test_readers_never_see_a_wrong_pixel_while_others_purge() -> None:
    images = ImageStore()
    child = os.fork()
    if not child:
        rounds = 0
        while True:
            for i in range(40):
                images.put(key(i), np.full((50, 100 + i, 3), i + 1, np.uint8))
            images.purge()
            rounds += 1
    try:
        good = stale = 0
        while good < 3000:
            for i in range(40):
                record = images.get(key(i))
                if record is None:
                    continue
                copied = record.array.copy()
                if images.current(record):
                    assert copied.shape == (50, 100 + i, 3) and (copied == i + 1).all()
                    good += 1
                else:
                    stale += 1
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_waiting_for_a_claim_ends_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = filled(tmp_path / "cache", 1)
    out, into = os.pipe()
    pid = os.fork()
    if not pid:

        def tell(mine: bool) -> None:
            os.write(into, b"1" if mine else b"0")
            signal.pause()

        images.claiming(b"k", tell)
    assert os.read(out, 1) == b"1"
    monkeypatch.setattr(lock, "MOST_PATIENCE", 0.05)
    assert not images.claiming(b"k", bool)
    assert not images.claiming(b"k", bool, wait=True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert images.claiming(b"k", bool, wait=True)


def _both(first: ImageStore, second: bytes) -> None:
    again = pickle.loads(second)
    assert again is first
    gc.collect()
    assert np.array_equal(first.get(b"a").array, picture(1))  # type: ignore[union-attr]
    first.put(b"b", picture(2))


class _Twice:
    "Send a store in two pickles."

    def __init__(self, images: ImageStore) -> None:
        self.images = images

    def __reduce__(self) -> Any:
        return _Twice._made, (self.images, pickle.dumps(self.images))

    @staticmethod
    def _made(images: ImageStore, again: bytes) -> Any:
        _both(images, again)
        return images


def _nothing(images: ImageStore) -> None:
    assert images.get(b"b") is not None


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_store_may_be_sent_to_a_process_in_two_pickles(method: str) -> None:
    images = ImageStore()
    images.put(b"a", picture(1))
    resource_tracker.ensure_running()  # spawning starts it, and keeps a descriptor
    before = footprint()[0]
    child = multiprocessing.get_context(method).Process(target=_nothing, args=(_Twice(images),))
    child.start()
    child.join()
    assert child.exitcode == 0 and np.array_equal(images.get(b"b").array, picture(2))  # type: ignore[union-attr]
    del child
    gc.collect()
    assert method == "forkserver" or footprint()[0] <= before
