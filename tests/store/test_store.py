"""`ImageStore` by itself: one contract, run over every kind of store."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, Set

import numpy as np
import pytest
from stores import Make, key, picture
from stores import kind as kind  # the fixtures
from stores import make as make

import memlist.store
from memlist.store import ImageStore, layout, region, store_for
from memlist.store.system import PAGE


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
def test_arrays_that_cannot_be_stored_are_named_in_the_error(array: np.ndarray, error: str) -> None:
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


def test_an_array_outlives_its_store(make: Make) -> None:
    images = make()
    assert images.put(b"a", np.full(100_000, 3, np.uint8))
    array = images.get(b"a").array  # type: ignore[union-attr]
    del images
    assert (array == 3).all()


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


def test_a_put_that_began_before_a_purge_is_refused() -> None:
    images = ImageStore()
    generation = images.generation
    images.purge()
    assert not images.put(b"a", picture(1), generation=generation)
    assert images.put(b"a", picture(1), generation=images.generation)
    # A replaced record makes views stale, and writers not.
    generation = images.generation
    images.put(b"a", picture(2), replace=True)
    assert images.put(b"b", picture(2), generation=generation)


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


def test_a_place_has_one_store_while_there_is_a_reference() -> None:
    first = store_for("/here")
    assert store_for("/here") is first and store_for("/there") is not first
    assert store_for("/here", "2GB") is first and first.rule == 2_000_000_000
    uid = first.uid
    del first
    gc.collect()
    assert store_for("/here").uid != uid


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_store_is_freed_with_its_last_reference(make: Make) -> None:
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


def test_a_store_is_freed_though_a_function_it_was_given_refers_to_it() -> None:
    gc.collect()
    before = _descriptors()
    images = ImageStore()
    images._budget.available = lambda images=images: len(images) + (1 << 30)  # type: ignore[misc]
    assert images.put(b"a", picture(1))
    del images
    gc.collect()
    assert _descriptors() == before


@pytest.mark.parametrize("kind", ["memfd", "file"])
def test_no_file_of_the_store_has_a_name(kind: str) -> None:
    def named() -> Set[str]:
        "Return what this process has open or mapped in /dev/shm, where other processes may come and go meanwhile."
        opened = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)}
        opened |= {line.split(None, 5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
        return {name for name in opened if name.startswith("/dev/shm/") and not name.endswith(" (deleted)")}

    before = named()
    images = ImageStore(kind=kind)
    images.put(b"a", np.zeros(10_000_000, np.uint8))
    assert named() == before
    target = os.readlink(f"/proc/self/fd/{images._region.fd}")
    assert "(deleted)" in target


def test_a_note_is_made_once_until_the_next_purge() -> None:
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
    images._header.busy = 1  # as a killed writer leaves it: the walk finds every record
    assert images.put(b"x", picture(1))
    assert images.info().records == len(sizes) + 1 and images.info().nbytes == nbytes + picture(1).nbytes
    images.purge(file=True)
    if kind == "memfd":
        assert images.allocated() <= 2 * PAGE


SMALL_SHM = """
import os, sys, warnings
warnings.filterwarnings("ignore", message=".*pkg_resources.*")
from memlist import *
import numpy as np
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize <= 1 << 20
images = ImageStore()
pid = os.fork()
if not pid:
    for i in range(50): assert images.put(b"%d" % i, np.full(1_000_000, i, np.uint8))
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert all((images.get(b"%d" % i).array == i).all() for i in range(50))
print("RESULT", len(images), os.listdir("/dev/shm"))
"""


def test_with_a_tiny_dev_shm() -> None:
    "Store 50 MB where /dev/shm has 1 MB (Docker gives it 64 MB)."
    script = 'mount -t tmpfs -o size=1m none /dev/shm || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, SMALL_SHM], capture_output=True, text=True
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to mount")
    assert done.returncode == 0 and "RESULT 50 []" in done.stdout, done.stderr


def test_the_constructor_makes_no_named_file(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"use ImageStore\.open\("):
        ImageStore(cache_file=tmp_path / "cache")  # type: ignore[arg-type]
    assert not os.listdir(tmp_path)


def test_pickles_of_former_versions_are_still_read() -> None:
    "Read pickles that call `memlist.store._rejoined`, as today's do, too."
    images = ImageStore(place="/former")
    assert b"memlist.store" in pickle.dumps(images, 2) and b"_rejoined" in pickle.dumps(images, 2)
    former = pickle.dumps((images.uid, "/former", None, None, b""), 2)
    assert memlist.store._rejoined(*pickle.loads(former)) is images
    assert memlist.store._rejoined("0" * 32, "/former", None) is images  # of another session, before `cache_file`


def test_old_records_are_hidden_before_the_generation_moves_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    images, tables, stock = make(), [], vars(layout.Header)["generation"]

    class Watched:
        def __get__(self, header: Any, owner: Any) -> int:
            return stock.__get__(header, owner)

        def __set__(self, header: Any, value: int) -> None:
            tables.append(header.index)
            stock.__set__(header, value)

    monkeypatch.setattr(layout.Header, "generation", Watched())
    log, header = images.parts.log, images.parts.header
    for action in (lambda: images.purge(file=True), lambda: images.parts.index.rebuild(list(log.walk(header.tail)))):
        assert images.put(b"k", picture(1)) and header.index
        action()
    assert tables[:2] == [0, 0]  # the third is of the new table
