"""Named files that were cut off, damaged or left by a killed writer: an error or a miss, and never a wrong pixel."""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from conftest import in_child
from stores import filled, right, tile

from memlist.store import CacheFileError, ImageStore, layout, region, registry
from memlist.store.system import PAGE


def test_a_file_cut_off_anywhere_serves_what_is_whole(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole")
    end = whole._header.tail
    del whole
    data = (tmp_path / "whole").read_bytes()
    counts = []
    for size in [*range(PAGE, end, 8111), end - 1, end, len(data) - 1, len(data)]:
        path = tmp_path / "cut"
        path.write_bytes(data[:size])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images = ImageStore.open(path)
        counts.append(right(images))
        if counts[-1] < 60:
            assert f"was cut off or damaged: {len(images)} records" in str(caught[0].message)
            assert caught[0].filename == __file__
        assert images.check() == [] and images.put(b"new", tile(3)) and images.get(b"new") is not None
        del images
        path.unlink()
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 60


@pytest.mark.parametrize("ordinal", [(1 << 63) + 5, (1 << 64) - 1])
def test_a_block_number_near_its_maximum(tmp_path: Path, ordinal: int) -> None:
    path = tmp_path / "cache"
    images = ImageStore.open(path)
    assert images.put(b"old", tile(3))
    del images
    with open(path, "r+b") as file:
        file.seek(8 * layout.ORDINAL)
        file.write(ordinal.to_bytes(8, sys.byteorder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ImageStore.open(path)
    assert images.put(b"new", tile(9)) and images.put(b"newer", tile(5))
    for key, fill in ((b"old", 3), (b"new", 9), (b"newer", 5)):
        assert (images.get(key).array == fill).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("rounds", [20, *(pytest.param(n, marks=pytest.mark.full) for n in (60, 2000))])
@pytest.mark.parametrize("where", ["header", "state", "index", "records", "anywhere"])
def test_damage_is_an_error_or_a_miss_and_never_a_wrong_pixel(tmp_path: Path, where: str, rounds: int) -> None:
    whole = filled(tmp_path / "whole", 460)  # the index has been outgrown once
    assert whole.put(b"0", tile(0), tag=0, replace=True)
    tail, index = whole._header.tail, layout.table_offset(whole._header.index) + layout.BLOCK_BYTES
    del whole
    data = (tmp_path / "whole").read_bytes()[: tail + 2 * PAGE]
    draw, refused, counts = random.Random(where), 0, []
    path = tmp_path / "cache"
    span = {
        "header": (0, PAGE),
        "state": (8 * layout.BUSY, 8 * layout.ENDS + 16),
        "index": (index, index + 8192),
        "records": (PAGE, tail),
        "anywhere": (0, len(data)),
    }[where]
    for _ in range(rounds):
        bad = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 20])):
            at, how = draw.randrange(*span), draw.randrange(4)
            length = draw.choice([1, 4, 8, 8, 100])
            if how == 0:
                bad[at] ^= 1 << draw.randrange(8)
            elif how == 1:
                bad[at : at + length] = bytes(length)
            elif how == 2:
                bad[at : at + length] = draw.getrandbits(8 * length).to_bytes(length, "little")
            else:
                number = draw.choice([0, 1, 16, PAGE, tail, 1 << 32, (1 << 64) - 1, draw.getrandbits(64)])
                bad[at // 8 * 8 : at // 8 * 8 + 8] = number.to_bytes(8, "little")
        if where == "state":  # the checksum is right, as if the writer knew the format
            state = layout.Header.of_page(bytes(bad[:PAGE])).state_checksum()
            bad[8 * layout.STATE : 8 * layout.STATE + 8] = state.to_bytes(8, sys.byteorder)
        del bad[len(data) :]
        path.write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                images = ImageStore.open(path)
            except CacheFileError:
                refused += 1
                continue
        counts.append(right(images, 460))
        assert images.put(b"new", tile(9)) and (images.get(b"new").array == 9).all()  # type: ignore[union-attr]
        images.check(fix=True)
        assert images.check() == []
        right(images, 460)
        images.purge(file=True)
        assert images.put(b"0", tile(0)) and len(images) == 1
        del images
        path.unlink()
    assert refused + len(counts) == rounds and (where == "header") <= (refused > 0)
    assert sum(counts) > 300 * len(counts)  # damage costs what it touches


def test_block_headers_that_lie_under_a_right_checksum(tmp_path: Path) -> None:
    "Write wrong lengths, shapes and dtypes with right checksums, as if the writer knew the format."
    whole = filled(tmp_path / "whole", 20)
    offset = whole._index.find(layout.digest_of(b"7"))[0]  # type: ignore[index]
    block = whole._index.find(layout.digest_of(b"7"))[1]  # type: ignore[index]
    del whole
    data = (tmp_path / "whole").read_bytes()
    form = struct.Struct("<4sBBBx16sQ4IQqIIII")
    fields: List[Any] = list(form.unpack(block))
    for field, value in [
        (1, 0), (1, 9), (1, layout.GAP), (1, layout.TABLE), (2, 12), (2, 255), (3, 5), (3, 255), (5, 0), (5, 1 << 62),
        (5, 99), (6, 1 << 31), (6, 0), (7, 1 << 20), (9, 7), (10, 5), (12, (1 << 32) - 1), (14, 5),
    ]:  # fmt: skip
        lying = form.pack(*fields[:field], value, *fields[field + 1 :])[:-4]
        lying += zlib.crc32(lying).to_bytes(4, "little")
        path = tmp_path / "cache"
        path.write_bytes(data[:offset] + lying + data[offset + layout.BLOCK_BYTES :])
        for busy in (False, True):
            if busy:
                with open(path, "r+b") as file:
                    file.seek(8 * layout.BUSY)
                    file.write(struct.pack("=Q", 1))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images = ImageStore.open(path)
            assert right(images, 7) == 7
            record = images.get(b"7")
            if record is not None:  # a shape that the same bytes have as well can't be told from the right one
                assert record.array.nbytes <= tile(7).nbytes + 200
            images.check(fix=True)
            assert images.check() == []
            assert images.put(b"7", tile(8), replace=True) and (images.get(b"7").array == 8).all()  # type: ignore[union-attr]
            del images
        path.unlink()


def test_a_damaged_file_in_use_is_not_mended_under_its_users(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    images._header.state ^= 1

    def child() -> None:
        registry.STORES.clear()  # as a process that was not forked
        with pytest.raises(CacheFileError, match="damaged while other processes use it"):
            ImageStore.open(tmp_path / "cache")

    assert in_child(child) == 0
    assert right(images) == 60


def test_a_killed_writer_does_not_keep_other_processes_out(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")

    def killed() -> None:
        images.parts.locked(lambda: os.kill(os.getpid(), signal.SIGKILL))

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL and images._header.busy

    def newcomer() -> None:
        registry.STORES.clear()  # as a process that was not forked
        again = ImageStore.open(tmp_path / "cache")
        assert again is not images and right(again) == 60 and again.put(b"new", tile(1))

    assert in_child(newcomer) == 0
    assert right(images) == 60 and images.get(b"new") is not None and images.check() == []


def test_a_full_cache_that_is_mended_keeps_its_records(tmp_path: Path) -> None:
    images = ImageStore.open(tmp_path / "cache", "3MB")
    while images.put(b"%d" % len(images), np.full(3000, len(images) % 251, np.uint8)):
        pass
    n = len(images)
    assert n > 800
    images._header.busy = 1  # as a killed writer leaves it
    del images
    images = ImageStore.open(tmp_path / "cache", "3MB")
    assert len(images) == n and images.check() == []
    assert all((images.get(b"%d" % i).array == i % 251).all() for i in range(n))  # type: ignore[union-attr]


def test_records_without_room_for_an_index_wait_for_the_next_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = filled(tmp_path / "cache")
    images._header.busy = 1
    del images

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(region.Region, "reserve", full)  # a disk that is full to the last byte
        images = ImageStore.open(tmp_path / "cache")
        assert right(images) == 0 and not images.put(b"new", tile(1))
        del images
    images = ImageStore.open(tmp_path / "cache")
    assert right(images) == 60 and images.check() == []


def test_an_interrupt_while_a_segment_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = filled(tmp_path / "cache", 10)

    class Interrupted(list):  # type: ignore[type-arg]
        def append(self, end: Any) -> None:
            self.append = super().append  # type: ignore[method-assign]
            raise KeyboardInterrupt

    images._region.ends = Interrupted(images._region.ends)
    with pytest.raises(KeyboardInterrupt):
        images.put(b"large", np.zeros(2_000_000, np.uint8))
    for i in range(10, 60):
        assert images.put(b"%d" % i, tile(i), tag=i)
    assert images.put(b"large", np.full(2_000_000, 5, np.uint8))
    assert right(images) == 60 and (images.get(b"large").array == 5).all()  # type: ignore[union-attr]


def test_of_two_records_with_one_key_the_later_one_is_kept(tmp_path: Path) -> None:
    "The order in the log does not matter: a killed purge may leave an old record behind a newer one."
    images = ImageStore.open(tmp_path / "cache")
    images.put(b"first", np.zeros(1_000, np.uint8))
    images.put(b"k", np.full(1000, 1, np.uint8))
    images._header.index, images._header.tail = 0, PAGE
    images._header.generation += layout.PURGE
    images._header.records = images._header.nbytes = images._header.slots = 0
    images.put(b"k", np.full(100, 2, np.uint8))
    images._header.busy = 1
    del images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ImageStore.open(tmp_path / "cache")
    assert (images.get(b"k").array == 2).all()  # type: ignore[union-attr]
