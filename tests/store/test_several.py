"""Several records stored at once: each counts as if it had been stored alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import key, picture

from memlist.store import ImageStore, Put, Source, claiming_all, put_all
from memlist.store.index import Index


def made(kind: str, folder: Path) -> ImageStore:
    return ImageStore(1 << 26) if kind == "memory" else ImageStore.open(folder / "cache", 1 << 26)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_each_is_there_and_counted(kind: str, tmp_path: Path) -> None:
    "Also where the index grows more than once in between."
    images = made(kind, tmp_path)
    assert images.put(key(3), picture(99))
    puts = [Put(key(i), picture(i, 5 + i % 7), i, Source(i, i)) for i in range(1500)]
    assert put_all(images, puts, images.generation) == [True] * 1500
    assert put_all(images, [], images.generation) == []
    kept = [picture(99) if i == 3 else put.array for i, put in enumerate(puts)]
    assert len(images) == 1500 and images.info().nbytes == sum(array.nbytes for array in kept)
    for i in range(1500):
        record = images.get(key(i))
        assert record is not None and np.array_equal(record.array, kept[i])
        assert i == 3 or (record.tag, record.source) == (i, (i, i))
    assert images.check() == [] or kind == "file"  # there the sources are missing


def test_those_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = ImageStore(40_000)
    puts = [Put(key(i), np.full(size, i, np.uint8)) for i, size in enumerate((7500, 120_000, 7500, 300))]
    assert put_all(images, puts, images.generation) == [True, False, True, True]
    assert put_all(images, puts[1:2], images.generation) == [False]


def test_a_purge_in_between_refuses_all() -> None:
    images = ImageStore(1 << 26)
    before = images.generation
    images.purge()
    assert put_all(images, [Put(key(0), picture(0)), Put(key(1), picture(1))], before) == [False, False]
    assert len(images) == 0


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_kill_in_between_keeps_those_before(
    kind: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = made(kind, tmp_path)
    assert images.put(b"before", picture(9))
    publish, calls = Index.publish, []

    def publish_or_die(self: Any, digest: bytes, offset: int) -> None:
        calls.append(offset)
        if len(calls) == at:
            os._exit(0)
        publish(self, digest, offset)

    pid = os.fork()
    if not pid:
        monkeypatch.setattr(Index, "publish", publish_or_die)
        put_all(images, [Put(key(i), picture(i)) for i in range(3)], images.generation)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert images.put(b"after", picture(8))
    assert len(images) == 1 + at  # `before`, `after`, and those that were published
    for name, i in ((b"before", 9), (b"after", 8), *((key(i), i) for i in range(at - 1))):
        record = images.get(name)
        assert record is not None and np.array_equal(record.array, picture(i))
    assert all(key(i) not in images for i in range(at - 1, 3)) and not images.check()


def test_claims_are_held_meanwhile_and_released() -> None:
    images = ImageStore(1 << 26)

    def seen_by_another(_: Any = None) -> int:
        pid = os.fork()
        if not pid:
            os._exit(sum(claiming_all(images, [key(i) for i in range(4)], list)))
        return os.waitpid(pid, 0)[1] >> 8

    assert claiming_all(images, [key(1), key(2)], seen_by_another) == 2
    with pytest.raises(ZeroDivisionError):
        claiming_all(images, [key(1), key(2)], lambda mine: 1 // 0)
    assert seen_by_another() == 4
