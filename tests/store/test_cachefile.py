"""Stores over a named file: opened, shared, left and opened again; and files that can't be used."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import socket
import threading
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from conftest import in_child
from stores import at_once, filled, footprint, right, small_disk, tile

from memlist.store import CacheFileError, ImageStore, layout, registry, system
from memlist.store.system import PAGE


def test_one_file_by_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = filled(tmp_path / "cache")
    os.symlink(tmp_path, tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("cache", "./cache", "cache/", "link/cache", str(tmp_path / "cache"), tmp_path / "cache", "~/cache"):
        assert ImageStore.open(name) is images
    assert ImageStore.open("cache", "1MB") is images and images.rule == 1_000_000


def test_counts_and_notes_last_for_a_session_and_the_budget_is_not_stored(tmp_path: Path) -> None:
    images = ImageStore.open(tmp_path / "cache", "2MB")
    images.count(True)
    assert images.note(b"full") and not images.note(b"full")
    del images
    images = ImageStore.open(tmp_path / "cache")
    assert images.info()[3:] == (0, 0) and images.rule is None and not images.noted(b"full")
    assert 0 < images.info().max_ram <= os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize


def rewritten(path: Path, **words: int) -> None:
    page = bytearray(path.read_bytes()[:PAGE])
    header = layout.Header.of_page(page)
    for name, value in {"checksum": 0, **words}.items():
        setattr(header, name, value)
    header.checksum = words.get("checksum", header.identity_checksum())
    with open(path, "r+b") as file:
        file.write(page)


def foreign(path: Path, what: str) -> None:
    if what == "directory":
        path.mkdir()
    elif what == "picture":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40)
    elif what == "zeros":
        path.write_bytes(bytes(10 * PAGE))
    elif what == "short":
        path.write_bytes(b"m")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        filled(path)
        gc.collect()
        if what == "cut":
            os.truncate(path, 1000)
        elif what == "version":
            path.write_bytes(b"memlist9" + path.read_bytes()[8:])
        elif what == "order":
            swapped = int.from_bytes(layout.BYTE_ORDER.to_bytes(8, "little"), "big")
            rewritten(path, byte_order=swapped)
        elif what == "pages":
            rewritten(path, page_size=65536)
        elif what == "damaged":
            rewritten(path, checksum=1)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("directory", "Is a directory. Name a file in it"),
        ("picture", "is not a memlist cache file, and is left as it is"),
        ("zeros", "is not a memlist cache file"),
        ("short", "is not a memlist cache file"),
        ("pipe", "is not a regular file, and is left as it is"),
        ("socket", "is not a regular file, and is left as it is"),
        ("cut", "is cut off within its header. It is only a cache: delete it"),
        ("version", "has format '9'; this memlist reads and writes '1'"),
        ("order", "the other byte order"),
        ("pages", "pages of 65536 bytes"),
        ("damaged", "has a damaged header"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_left(tmp_path: Path, what: str, says: str) -> None:
    path = tmp_path / "cache"
    foreign(path, what)
    before = path.read_bytes() if path.is_file() else b""
    there = set(os.listdir(tmp_path))
    for _ in range(2):
        with pytest.raises(CacheFileError) as error:
            ImageStore.open(path)
        assert says in str(error.value) and repr(str(path)) in str(error.value)
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert not path.is_file() or path.read_bytes() == before
    assert path.is_file() or path.is_dir() or path.is_fifo() or path.is_socket()
    assert set(os.listdir(tmp_path)) == there


@pytest.mark.parametrize("value", [5, True, 1.5, b"bytes"])
def test_values_that_are_not_paths(value: Any) -> None:
    with pytest.raises(TypeError, match=f"cache_file={value!r} is a {type(value).__name__}: use the path"):
        ImageStore.open(value)
    with pytest.raises(CacheFileError, match="cache_file='' names no file"):
        ImageStore.open("")


def test_a_small_cache_takes_little_disk(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    assert images.allocated() <= (1 << 20) + 4 * PAGE and images.info().nbytes > 100_000
    for i in range(100):
        images.put(b"more %d" % i, np.zeros(100_000, np.uint8))
    assert images.allocated() <= 2 * images.info().nbytes


def test_a_missing_folder_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(CacheFileError, match="Make its folder first"):
        ImageStore.open(tmp_path / "no" / "cache")
    (tmp_path / "empty").touch()
    assert ImageStore.open(tmp_path / "empty").put(b"a", tile(1))


def test_processes_that_create_one_file_at_once_share_it(tmp_path: Path) -> None:
    for round_ in range(5):
        path = tmp_path / f"cache{round_}"

        def task(i: int, path: Path = path) -> None:
            images = ImageStore.open(path)
            for j in range(50):
                assert images.put(b"%d %d" % (i, j), tile(i))
                assert images.put(b"%d" % j, tile(j), tag=j)

        at_once(6, task)
        images = ImageStore.open(path)
        assert len(images) == 350 and images.check() == [] and right(images, 50) == 50


def test_a_file_that_was_emptied_shrinks_when_it_is_next_opened(tmp_path: Path) -> None:
    filled(tmp_path / "cache").purge(file=True)
    images = ImageStore.open(tmp_path / "cache")
    assert os.path.getsize(tmp_path / "cache") == PAGE and len(images) == 0
    assert images.put(b"a", tile(1)) and images.get(b"a") is not None


def test_threads_that_open_one_file_get_one_store(tmp_path: Path) -> None:
    found: List[ImageStore] = []
    barrier = threading.Barrier(6)

    def task() -> None:
        barrier.wait()
        found.append(ImageStore.open(tmp_path / "cache"))

    threads = [threading.Thread(target=task) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(one is found[0] for one in found)


def test_a_lock_file_that_is_deleted_keeps_newcomers_out(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    (tmp_path / "cache.lock").unlink()

    def newcomer() -> None:
        registry.STORES.clear()
        with pytest.raises(CacheFileError, match="in use under another lock file"):
            ImageStore.open(tmp_path / "cache")

    assert in_child(newcomer) == 0 and right(images) == 60
    del images
    assert right(ImageStore.open(tmp_path / "cache")) == 60  # no process uses it any more


def test_a_disk_with_no_room_at_all(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        with contextlib.suppress(OSError), open(disk / "other", "wb", buffering=0) as other:
            while True:
                other.write(bytes(4096))
        with pytest.raises(CacheFileError, match="not even an empty cache has room"):
            ImageStore.open(disk / "cache")


def test_stores_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    gc.collect()
    before = footprint()
    for i in range(60):
        images = ImageStore.open(tmp_path / f"{i % 3}")
        images.put(b"%d" % i, np.zeros(100_000, np.uint8))
        images.get(b"%d" % i)
        images.check()
        del images
    after = footprint()
    assert after[0] <= before[0] and after[1] <= before[1]
    assert system.available_memory() > 0
