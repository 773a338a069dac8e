"""`ImageStore` by itself: one contract, run over both backings, under threads, processes, kills and limits."""

from __future__ import annotations

import copy
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memlist.store.region import PAGE

from memlist import ImageStore
from memlist.store import store, system

KINDS = ["memfd", "file", "named"]
Make = Callable[..., ImageStore]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str, tmp_path: Path) -> Make:
    "Stores of each kind: two anonymous ones, and one over a named file, a new one at each call."
    count = itertools.count()

    def made(*args: Any, **kwargs: Any) -> ImageStore:
        if kind == "named":
            return ImageStore(*args, cache_file=tmp_path / f"{next(count)}.cache", **kwargs)
        return ImageStore(*args, kind=kind, **kwargs)

    return made


def picture(i: int, size: int = 50) -> np.ndarray:
    return np.full((1 + i % 7, size, 3), i % 251, np.uint8)


def key(i: int) -> bytes:
    return b"%d" % i


def test_what_was_put_comes_back(make: Make) -> None:
    images = make()
    arrays = [
        np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
        for dtype in ("u1", "i1", "u2", "i4", "u8", "f2", "f4", "f8")
        for shape in ((), (0,), (7,), (5, 3), (4, 5, 3), (2, 3, 4, 5))
    ] + [np.array([[True, False]])]
    for i, array in enumerate(arrays):
        assert images.put(key(i), array, tag=i % 256, source=(i, -i))
    for i, array in enumerate(arrays):
        record = images.get(key(i))
        assert record is not None and record.tag == i % 256 and images.source(key(i)) == (i, -i)
        assert record.array.dtype == array.dtype and record.array.shape == array.shape
        assert record.array.tobytes() == array.tobytes()
    assert len(images) == len(arrays) and images.info().nbytes == sum(a.nbytes for a in arrays)
    assert images.get(b"none") is None and b"none" not in images and images.source(b"none") is None


def test_a_view_costs_no_copy_and_cannot_be_written(make: Make) -> None:
    images = make()
    images.put(b"a", picture(1))
    first, second = images.get(b"a"), images.get(b"a")
    assert first is not None and second is not None
    assert np.shares_memory(first.array, second.array)
    with pytest.raises(ValueError, match="read-only"):
        first.array[0] = 0


def test_arrays_that_are_not_contiguous(make: Make) -> None:
    images = make()
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5).transpose(2, 0, 1)[:, ::-1]
    images.put(b"a", array)
    assert np.array_equal(images.get(b"a").array, array)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (np.array(["text"]), "dtype"),
        (np.array([None]), "dtype object"),
        (np.zeros(1, ">u2"), "dtype"),
        (np.zeros((1, 1, 1, 1, 1)), "four dimensions"),
    ],
)
def test_what_cannot_be_kept_is_named(array: np.ndarray, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        ImageStore().put(b"a", array)


def test_a_key_that_is_there_stays_unless_replaced(make: Make) -> None:
    images = make()
    images.put(b"a", picture(1))
    assert images.put(b"a", picture(2)) and images.get(b"a").array[0, 0, 0] == 1  # type: ignore[union-attr]
    view = images.get(b"a")
    assert view is not None
    assert images.put(b"a", picture(2), replace=True)
    assert not images.current(view)
    assert images.get(b"a").array[0, 0, 0] == 2 and len(images) == 1  # type: ignore[union-attr]
    assert images.info().nbytes == picture(2).nbytes


def test_the_index_grows_and_costs_less_than_128_bytes_a_record() -> None:
    images = ImageStore()
    array = np.zeros(16, np.uint8)
    for i in range(20_000):
        assert images.put(key(i), array)
        if i > 1000 and i % 499 == 0:
            assert (images.taken - PAGE) / (i + 1) - array.nbytes <= 128
    # Allocated, and not only counted: the tables that were outgrown have really been given back.
    assert images.allocated() / 20_000 - array.nbytes <= 128
    assert all(key(i) in images for i in range(0, 20_000, 7)) and key(20_001) not in images


def test_purge_gives_the_memory_back_and_makes_views_stale(make: Make, kind: str) -> None:
    images = make()
    nbytes = sum(images.put(key(i), np.full((100, 100, 3), 7, np.uint8)) * 30_000 for i in range(200))
    view = images.get(key(3))
    assert view is not None and images.current(view)
    if kind == "memfd":
        assert images.allocated() >= nbytes
    assert images.purge(file=True) == nbytes
    assert not images.current(view) and images.get(key(3)) is None and len(images) == 0
    if kind != "file":
        assert images.allocated() <= 2 * PAGE
    assert images.purge(file=True) == 0
    assert images.put(key(3), picture(4)) and images.get(key(3)).array[0, 0, 0] == 4  # type: ignore[union-attr]


def test_who_began_before_a_purge_publishes_nothing() -> None:
    images = ImageStore()
    generation = images.generation
    images.purge()
    assert not images.put(b"a", picture(1), generation=generation)
    assert images.put(b"a", picture(1), generation=images.generation)
    # A replaced record makes views stale, and writers not.
    generation = images.generation
    images.put(b"a", picture(2), replace=True)
    assert images.put(b"b", picture(2), generation=generation)


# -- budget -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("8GB", 8 * 10**9), ("500MiB", 500 << 20), ("1.5 kb", 1500), ("12", 12), ("2T", 2 * 10**12), (7, 7), (0, 0)],
)
def test_sizes_as_people_write_them(text: Any, nbytes: int) -> None:
    assert system.parse_max_ram(text) == (nbytes, 1.0)


@pytest.mark.parametrize("value", ["lots", "", "-1GB", "8 GB of RAM", "i", -5, 0.0, 1.5, -0.1, float("nan"), True, [1]])
def test_sizes_that_are_none_are_named(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_ram=") as error:
        ImageStore(value)
    assert repr(value) in str(error.value) and "8GB" in str(error.value)


def test_the_budget_holds_to_the_byte(make: Make) -> None:
    images = make(200_000)
    kept = [i for i in range(300) if images.put(key(i), np.full((20, 20, 3), i % 256, np.uint8))]
    assert 100 < len(kept) < 170 and kept == list(range(len(kept)))
    assert images.taken - PAGE <= 200_000
    assert not images.put(b"big", np.zeros(250_000, np.uint8))
    assert images.get(key(kept[-1])).array[0, 0, 0] == kept[-1] % 256  # type: ignore[union-attr]


def test_a_budget_of_nothing_keeps_nothing() -> None:
    images = ImageStore(0)
    assert not images.put(b"a", picture(1)) and len(images) == 0 and images.info().max_ram == 0


def test_a_share_is_of_what_is_available_and_looked_at_again() -> None:
    free = [1_000_000_000]
    images = ImageStore(0.5, available=lambda: free[0])
    assert images.budget() == pytest.approx(500_000_000, rel=0.01)
    assert images.put(b"a", picture(1))
    free[0] = 0  # others took it
    images._looked = (-1e9, 0, 0)
    assert not images.put(b"b", picture(1))
    free[0] = 1_000_000_000
    images._looked = (-1e9, 0, 0)
    assert images.put(b"b", picture(1))


def test_an_explicit_budget_never_takes_the_last_of_the_machine() -> None:
    images = ImageStore("8GB", available=lambda: 100_000_000)
    assert images.budget() < 100_000_000


def test_the_budget_is_one_for_all_processes() -> None:
    images = ImageStore("1GB")
    process = multiprocessing.get_context("fork").Process(target=images.set_max_ram, args=("5MB",))
    process.start()
    process.join()
    assert images.info().max_ram == 5_000_000 and images.rule == 5_000_000


CGROUP_V2 = {"proc": "0::/job/step\n", "job/memory.max": "1000000", "job/memory.current": "400000",
             "job/memory.stat": "inactive_file 50000\nactive_file 10000\nanon 1", "job/step/memory.max": "max",
             "job/step/memory.current": "1"}  # fmt: skip
CGROUP_V1 = {"proc": "5:cpu:/x\n4:memory:/job\n", "memory/job/memory.limit_in_bytes": "500000",
             "memory/job/memory.usage_in_bytes": "100000", "memory/job/memory.stat": "total_inactive_file 1000",
             "memory/memory.limit_in_bytes": str(1 << 63), "memory/memory.usage_in_bytes": "5"}  # fmt: skip


@pytest.mark.parametrize(("files", "left"), [(CGROUP_V2, 660_000), (CGROUP_V1, 401_000), ({"proc": "0::/"}, None)])
def test_container_limits(tmp_path: Any, files: Dict[str, str], left: Any) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert system.cgroup_available(tmp_path, tmp_path / "proc") == left


LIMITED = """
import resource, sys
import numpy as np
from memlist.store.store import ImageStore
from memlist.store import system
what, room, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if what == "AS":
    room += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(getattr(resource, "RLIMIT_" + what), (room, room))
images = ImageStore(cache_file=sys.argv[4]) if kind == "named" else ImageStore(kind=kind)
array = np.zeros((1000, 1000), np.uint8)
kept = 0
while kept < 400 and images.put(b"%d" % kept, array + kept % 256):
    kept += 1
assert all(images.get(b"%d" % i).array[5, 5] == i % 256 for i in range(kept))
np.ones(20_000_000 // 8)  # the rest of the process still has room
print(kept)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["AS", "FSIZE"])
def test_ulimits_make_the_budget_smaller_and_are_no_error(what: str, kind: str, tmp_path: Path) -> None:
    "`ulimit -v` and `-f`, as SLURM sets them: 200 MB of each."
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, what, "200000000", kind, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 50 <= int(done.stdout) < 200


# -- processes --------------------------------------------------------------------------------------------------


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
def test_what_one_process_puts_all_have(method: str, make: Make) -> None:
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
        for _ in range(store.N_COUNTERS // 2):
            pid = os.fork()
            if not pid:
                for _ in range(20):
                    images.count(True)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)
    assert images.info().hits == 3 * (store.N_COUNTERS // 2) * 20


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
        with images._held():
            inside.set()
            leave.wait()

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


def test_every_moment_of_a_put_is_safe_to_die_at(monkeypatch: pytest.MonkeyPatch) -> None:
    "Kill the writer at each write to the header, to the index and to the log in turn."
    for step in range(60):
        images = ImageStore()
        for i in range((4 << store.FIRST_TABLE_BITS) // 5):  # the next put grows the index
            images.put(key(i), picture(i))
        before = images.info()
        pid = os.fork()
        if not pid:
            count = [0]

            def trace(frame: Any, event: str, arg: Any, count: List[int] = count, step: int = step) -> Any:
                if frame.f_code.co_filename == store.__file__ and event == "line":
                    count[0] += 1
                    if count[0] == step * 4:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            images.put(key(7), np.zeros(5000, np.uint8), replace=True)
            images.put(b"new", picture(9))
            os._exit(0)
        os.waitpid(pid, 0)
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


# -- life -------------------------------------------------------------------------------------------------------


def test_pickles_hold_the_address_and_no_pixels() -> None:
    images = ImageStore("1GB", place="/somewhere")
    images.put(b"a", np.zeros((1000, 1000), np.uint8))
    data = pickle.dumps(images)
    assert len(data) < 1000
    assert pickle.loads(data) is images and copy.deepcopy(images) is images and copy.copy(images) is images
    del images
    gc.collect()
    again = pickle.loads(data)
    assert b"a" not in again and again.place == "/somewhere" and again.rule == 1_000_000_000


def test_one_store_a_place_for_as_long_as_somebody_holds_it() -> None:
    first = store.store_for("/here")
    assert store.store_for("/here") is first and store.store_for("/there") is not first
    assert store.store_for("/here", "2GB") is first and first.rule == 2_000_000_000
    uid = first.uid
    del first
    gc.collect()
    assert store.store_for("/here").uid != uid


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_store_that_nobody_holds_is_gone(make: Make) -> None:
    gc.collect()
    before = _descriptors()
    for _ in range(5):
        images = make()
        images.put(b"a", picture(1))
        view = images.get(b"a")
        assert view is not None
        del images, view
        gc.collect()
    assert _descriptors() == before


@pytest.mark.parametrize("kind", ["memfd", "file"])
def test_nothing_has_a_name(kind: str) -> None:
    shm = set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()
    images = ImageStore(kind=kind)
    images.put(b"a", np.zeros(10_000_000, np.uint8))
    assert (set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()) == shm
    target = os.readlink(f"/proc/self/fd/{images._region.fd}")
    assert "(deleted)" in target


def test_notes_are_for_the_first_to_come_until_the_next_purge() -> None:
    images = ImageStore()
    assert not images.noted(b"full") and images.note(b"full") and not images.note(b"full") and images.noted(b"full")
    pid = os.fork()
    if not pid:
        os._exit(int(images.note(b"full")))
    assert os.waitpid(pid, 0)[1] == 0
    assert len(images) == 0 and images.info().records == 0
    images.purge()
    assert images.note(b"full")


def test_records_in_several_segments(monkeypatch: pytest.MonkeyPatch, make: Make, kind: str) -> None:

    monkeypatch.setattr(region, "SEGMENT", 64 * PAGE)
    monkeypatch.setattr(region, "FILE_SEGMENT", 64 * PAGE)
    images = make()
    sizes = [1, 50_000, 3, 200_000, 262_144 - 80, 17, 300_000, 64 * PAGE] * 5
    for i, size in enumerate(sizes):
        assert images.put(key(i), np.full(size, i, np.uint8))
    for i, size in enumerate(sizes):
        array = images.get(key(i)).array  # type: ignore[union-attr]
        assert len(array) == size and (array == i).all()
    nbytes = images.info().nbytes
    images._head[store.BUSY] = 1  # as a killed writer leaves it: the walk finds every record
    assert images.put(b"x", picture(1))
    assert images.info().records == len(sizes) + 1 and images.info().nbytes == nbytes + picture(1).nbytes
    images.purge(file=True)
    if kind == "memfd":
        assert images.allocated() <= 2 * PAGE


class Model(RuleBasedStateMachine):
    "The store against a plain dict."

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.images = self.open()
        self.model: Dict[bytes, Tuple[bytes, int]] = {}

    def open(self) -> ImageStore:
        return ImageStore("3MB")

    def teardown(self) -> None:
        self.folder.cleanup()

    keys = st.integers(0, 30).map(key)

    @rule(
        k=keys, n=st.integers(0, 3000), value=st.integers(0, 255), tag=st.integers(0, 2**32 - 1), replace=st.booleans()
    )
    def put(self, k: bytes, n: int, value: int, tag: int, replace: bool) -> None:
        array = np.full(n, value, np.uint8)
        known = k in self.model
        kept = self.images.put(k, array, tag=tag, replace=replace)
        if kept and (replace or not known):
            self.model[k] = array.tobytes(), tag
        assert kept or self.images.taken > 2_500_000

    @rule(k=keys)
    def get(self, k: bytes) -> None:
        record = self.images.get(k)
        assert (record is None) == (k not in self.model)
        if record is not None:
            assert (record.array.tobytes(), record.tag) == self.model[k]

    @rule(k=keys)
    def note(self, k: bytes) -> None:
        known = self.images.noted(k)
        assert self.images.note(k) != known and self.images.noted(k)

    @rule()
    def die_and_recount(self) -> None:
        self.images._head[store.BUSY] = 1

    @precondition(lambda self: self.model)
    @rule()
    def purge(self) -> None:
        assert self.images.purge(file=True) == sum(len(data) for data, _ in self.model.values())
        self.model.clear()

    @rule(fix=st.booleans())
    def check(self, fix: bool) -> None:
        assert self.images.check(fix) == []

    @invariant()
    def agrees(self) -> None:
        with self.images._held():
            pass
        assert len(self.images) == len(self.model)
        assert self.images.info().nbytes == sum(len(data) for data, _ in self.model.values())
        assert self.images.taken - PAGE <= 3_000_000


class NamedModel(Model):
    "The same over a named file, that is left, reopened, and left by a killed process, too."

    def open(self) -> ImageStore:
        return ImageStore("3MB", cache_file=os.path.join(self.folder.name, "cache"))

    @rule()
    def reopen(self) -> None:
        del self.images
        self.images = self.open()

    @rule()
    def die_and_reopen(self) -> None:
        self.images._head[store.BUSY] = 1
        self.reopen()

    @rule()
    def drop_from_memory(self) -> None:
        self.images.purge()

    @rule(k=Model.keys, at=st.integers(0, 3000), value=st.integers(1, 255))
    def rot(self, k: bytes, at: int, value: int) -> None:
        "A bit of the file changes while nobody has it open: the record is gone, and no other."
        if not self.model.get(k, (b"", 0))[0]:
            return
        offset = self.images._find(store._digest(k))[0] + store.BLOCK.size  # type: ignore[index]
        offset += at % len(self.model[k][0])
        del self.images
        with open(os.path.join(self.folder.name, "cache"), "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ value]))
        self.images = self.open()
        assert k in self.images and self.images.get(k) is None and k not in self.images
        del self.model[k]


TestModel, TestNamedModel = Model.TestCase, NamedModel.TestCase
_settings = settings(stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestModel.settings = settings(_settings, max_examples=40)
TestNamedModel.settings = settings(_settings, max_examples=25)
