"""Files of many segments, left by a process that was killed or was short of something: no whole record is lost."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import uuid
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List

import numpy as np
import pytest
from conftest import in_child
from kills import kill_after_lines, moments
from stores import filled, right, tile
from stores import small_segments as small_segments  # a fixture

from memlist.store import CacheFileError, ImageStore, budget, layout, region, registry, repair
from memlist.store.payload import crc32_zeros
from memlist.store.system import PAGE

N = 120


@pytest.fixture
def whole(tmp_path: Path, small_segments: None) -> Path:
    "Make a file of more than seven segments."
    images = filled(tmp_path / "whole", N)
    assert images._header.segments > 7
    return tmp_path / "whole"


def copied(whole: Path, busy: int = 0) -> Path:
    "Return a copy of the file; with `busy` as a killed writer leaves it."
    path = whole.with_name("copy")
    shutil.copy(whole, path)
    with open(path, "r+b") as file:
        file.seek(8 * layout.BUSY)
        file.write(busy.to_bytes(8, "little"))
    return path


def opened(path: Path, warns: bool = False) -> ImageStore:
    "Open the file, and assert that this warns of lost records, or that it doesn't."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = ImageStore.open(path)
    assert ["damaged" in str(one.message) for one in caught] == [True] * warns
    return images


def killed(lines: int, task: Callable[[], Any]) -> None:
    "Run `task` in a process that is killed after so many lines of the store's code."

    def child() -> None:
        registry.STORES.clear()
        kill_after_lines(lines)
        task()

    assert os.WTERMSIG(in_child(child)) == signal.SIGKILL


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let neither the clock nor the drawn number of a session decide how many lines run.

    Notes are kept under that number, and how many slots of the index are looked at depends on it.
    """
    monkeypatch.setattr(budget, "MAX_AGE_SECONDS", 1e9)
    monkeypatch.setattr(repair, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=9 << 64)))


EVERY = pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.full)])


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.usefixtures("no_clock", "small_segments")
def test_a_purge_killed_at_any_line_leaves_all_records_or_none(
    tmp_path: Path, others: bool, every: int, record_property: Callable[[str, int], None]
) -> None:
    path, counts = tmp_path / "cache", []
    first = filled(tmp_path / "first", N)
    for lines in moments(lambda: first.purge(file=True))[::every]:
        images = filled(path, N)
        assert images._header.segments > 7  # in one session: the next one merges them
        killed(lines, lambda images=images: images.purge(file=True))  # type: ignore[misc]
        if not others:
            del images
            images = opened(path)
        assert images.put(b"after", tile(3)) and (images.get(b"after").array == 3).all()  # type: ignore[union-attr]
        counts.append(right(images, N))
        assert len(images) == counts[-1] + 1 and images.check() == []
        assert counts[-1] or images.allocated() < 32 * PAGE  # the memory was given back
        del images
        path.unlink()
    assert set(counts) == {0, N} and sorted(counts, reverse=True) == counts
    record_property("times", len(counts))
    record_property("right", counts.count(N))
    record_property("fewer", counts.count(0))


@EVERY
@pytest.mark.parametrize("busy", [0, layout.WRITING])
@pytest.mark.usefixtures("no_clock")
def test_an_opening_killed_at_any_line_loses_no_record(
    whole: Path, busy: int, every: int, record_property: Callable[[str, int], None]
) -> None:
    "Kill the process that begins a session of a sound file, and one that mends a file."
    points = moments(lambda: opened(copied(whole, busy)))[::every]
    record_property("times", len(points))
    record_property("right", len(points))
    for lines in points:
        path = copied(whole, busy)
        killed(lines, lambda path=path: ImageStore.open(path))  # type: ignore[misc]
        images = opened(path)
        assert right(images, N) == len(images) == N and images.check() == []
        del images


@EVERY
@pytest.mark.usefixtures("no_clock")
def test_an_emptied_file_that_is_opened_and_killed_stays_empty(
    whole: Path, every: int, record_property: Callable[[str, int], None]
) -> None:
    points = moments(lambda: opened(copied(whole, layout.EMPTYING)))[::every]
    record_property("times", len(points))
    record_property("right", len(points))
    for lines in points:
        path = copied(whole, layout.EMPTYING)
        killed(lines, lambda path=path: ImageStore.open(path))  # type: ignore[misc]
        images = opened(path)
        assert right(images, N) == len(images) == 0 and images.put(b"0", tile(0), tag=0)
        del images


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.usefixtures("small_segments")
def test_a_purge_that_cannot_punch_holes_is_finished_by_the_next_writer(
    tmp_path: Path, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region.Region, "punch", lambda *args: False)
    first, path = filled(tmp_path / "first", N), tmp_path / "cache"
    for lines in moments(lambda: first.purge(file=True))[::every]:
        images = filled(path, N)
        killed(lines, lambda images=images: images.purge(file=True))  # type: ignore[misc]
        assert images.put(b"after", tile(3)) and right(images, N) in (0, N)
        images._header.busy = layout.WRITING  # as another killed writer leaves it: old records must not come back
        n = len(images)
        del images
        assert len(opened(path)) == n
        path.unlink()


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("rest", range(0, 6 * layout.BLOCK_ALIGN, layout.BLOCK_ALIGN))
def test_the_rest_of_a_segment_may_be_too_small_for_a_gap(tmp_path: Path, rest: int) -> None:
    images = ImageStore.open(tmp_path / "cache")
    assert images.put(b"0", tile(0), tag=0)
    room = images._header.end - images._header.tail - layout.BLOCK_BYTES
    assert images.put(b"long", np.full(room - rest, 3, np.uint8))
    assert images._header.end - images._header.tail == rest
    for i in range(1, 20):
        assert images.put(b"%d" % i, tile(i), tag=i)
    images._header.busy = layout.WRITING
    del images
    for _ in range(3):
        images = opened(tmp_path / "cache")
        assert right(images, 20) == 20 and len(images) == 21 and images.check() == []
        images._header.busy = layout.WRITING
        del images


@pytest.mark.parametrize("flips", [300, pytest.param(8 * PAGE, marks=pytest.mark.full)])
def test_one_flipped_bit_of_the_header_loses_no_record(whole: Path, flips: int) -> None:
    bits = random.Random(0).sample(range(8 * PAGE), flips)
    bits += [64 * word + bit for word in (layout.SEGMENTS, layout.ENDS, layout.ENDS + 3) for bit in (0, 1, 12, 14, 40)]
    refused = []
    for bit in bits:
        path = copied(whole)
        with open(path, "r+b") as file:
            page = bytearray(file.read(PAGE))
            page[bit // 8] ^= 1 << bit % 8
            file.seek(0)
            file.write(page)
        try:
            images = opened(path)
        except CacheFileError:
            refused.append(bit)
            continue
        assert right(images, N) == len(images) == N and images.put(b"new", tile(2))
        del images
    assert refused == [] or max(refused) < 64 * layout.BUSY  # it can't be told whose file that is


@pytest.mark.parametrize("damage", ["a header", "the last header", "a cut", "a hole"])
def test_a_lost_record_is_said(whole: Path, damage: str) -> None:
    path = copied(whole, layout.WRITING if damage != "a cut" else 0)
    images = opened(whole)
    at = images._index.find(layout.digest_of(b"%d" % (N - 1 if damage == "the last header" else 50)))[0]  # type: ignore[index]
    del images
    if damage == "a cut":
        os.truncate(path, at + 500)
    else:
        with open(path, "r+b") as file:
            file.seek(at + 5)
            file.write(bytes([77]) if "header" in damage else bytes(3 * PAGE))
    images = opened(path, warns=True)
    assert right(images, N) == len(images) < N and images.check() == []


def long_file(path: Path) -> Path:
    "Make a file of 30 MB in many segments, as a killed writer leaves it."
    images = ImageStore.open(path)
    for i in range(300):
        assert images.put(b"%d" % i, np.full(100_000, i % 251, np.uint8))
    images._header.busy = layout.WRITING
    return path


def found(path: Path) -> int:
    "Return how many records of `long_file` there are, and assert that these are right."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ImageStore.open(path)
    records = [images.get(b"%d" % i) for i in range(300)]
    assert all(record is None or (record.array == i % 251).all() for i, record in enumerate(records))
    return sum(record is not None for record in records)


@pytest.mark.parametrize("busy", [0, layout.WRITING])
@pytest.mark.parametrize("left", [1, 4, 12, 24])
def test_little_address_space_loses_no_record(tmp_path: Path, left: int, busy: int) -> None:
    path = long_file(tmp_path / "cache")
    with open(path, "r+b") as file:
        file.seek(8 * layout.BUSY)
        file.write(busy.to_bytes(8, "little"))

    def child() -> None:
        registry.STORES.clear()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * PAGE + (left << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        images = None
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                images = ImageStore.open(path)
            assert __file__ in [one.filename for one in caught if "can't be mapped whole" in str(one.message)]
            for i in range(300):
                record = images.get(b"%d" % i)
                assert record is None or (record.array == i % 251).all()
            images.put(b"new", np.zeros(100_000, np.uint8))
            images.check(fix=True)
        except CacheFileError as error:
            assert "there is too little memory" in str(error)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert in_child(child) == 0
    assert found(path) == 300 and os.path.getsize(path) > 30_000_000


def test_a_process_with_little_address_space_leaves_the_mending_to_others(tmp_path: Path) -> None:
    images = opened(long_file(tmp_path / "cache"))
    images._header.busy = layout.WRITING  # a process was killed while it rebuilt the index

    def child() -> None:
        registry.STORES.clear()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * PAGE + (8 << 20), resource.RLIM_INFINITY))
        try:
            joined = opened(tmp_path / "cache")
            assert not joined._log.is_mapped() and not joined.put(b"new", tile(1)) and len(joined) == 300
            assert joined.sources() == [] and not joined.reserve(10_000) and joined.note(b"note")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert in_child(child) == 0
    assert len(images) == 300 and images._header.slots == 300
    assert images.check() == [] and images.put(b"new", tile(1)) and len(images) == 301


def test_few_descriptors_lose_no_record(tmp_path: Path) -> None:
    opens = []
    for left in range(3, 16):
        path = long_file(tmp_path / "cache")

        def child(path: Path = path, left: int = left) -> None:
            registry.STORES.clear()
            resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            taken: List[int] = []
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            for fd in taken[-left:]:
                os.close(fd)
            try:
                found(path)
            except (CacheFileError, OSError) as error:
                assert "Too many open files" in str(error)
                os._exit(3)

        opens.append(os.WEXITSTATUS(in_child(child)))
        assert opens[-1] in (0, 3)
        assert found(path) == 300 and os.path.getsize(path) > 30_000_000
        path.unlink()
    assert opens[-1] == 0


def test_a_disk_that_cannot_be_read_drops_nothing(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, stock = copied(whole, layout.WRITING), os.pread

    def unreadable(fd: int, nbytes: int, offset: int) -> bytes:
        if PAGE * 30 <= offset < PAGE * 31:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return stock(fd, nbytes, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", unreadable)
        with pytest.raises(CacheFileError, match=r"can't be read or repaired: Input/output error\. No record"):
            ImageStore.open(path)
    images = opened(path)
    assert right(images, N) == len(images) == N


def test_records_without_an_index_come_back_once_there_is_room(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied(whole, layout.WRITING)
    with monkeypatch.context() as patch:

        def full(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(region.Region, "reserve", full)
        images = ImageStore.open(path)
        assert right(images, N) == 0
    assert images.put(b"new", tile(1))
    assert right(images, N) == N and len(images) == N + 1 and images.check() == []
    del images
    assert right(opened(path), N) == N


def test_a_black_picture_in_a_sparse_copy_is_read(tmp_path: Path) -> None:
    images = ImageStore.open(tmp_path / "cache")
    black = np.zeros((700, 500, 3), np.uint8)
    black[400:420] = 5
    assert images.put(b"black", black) and images.put(b"other", tile(5))
    del images
    data = (tmp_path / "cache").read_bytes()
    with open(tmp_path / "sparse", "wb") as file:
        for at in range(0, len(data), PAGE):
            if data[at : at + PAGE].strip(b"\0"):
                os.pwrite(file.fileno(), data[at : at + PAGE], at)
        file.truncate(len(data))
    images = ImageStore.open(tmp_path / "sparse")
    assert (images.get(b"black").array == black).all() and images.check() == []  # type: ignore[union-attr]


@pytest.mark.parametrize("n", [0, 1, 3, 4096, 65536, 65537, 1_000_003])
def test_the_checksum_of_zeros(n: int) -> None:
    start = zlib.crc32(b"some bytes")
    assert crc32_zeros(start, n) == zlib.crc32(bytes(n), start)
