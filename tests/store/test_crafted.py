"""Files that lie under right checksums, as if who made them knew the format."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
from stores import filled, right, tile
from stores import small_segments as small_segments  # a fixture

from memlist.store import ImageStore, layout
from memlist.store.system import PAGE

BLOCK = struct.Struct("<4sBBBx16sQ4IQqIII")
NBYTES, SHAPE, NUMBER = 5, 6, 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    filled(tmp_path / "cache", 40)
    return tmp_path / "cache"


def with_words(path: Path, **words: int) -> None:
    "Change words of the header, and give it a right checksum."
    with open(path, "r+b") as file:
        page = bytearray(file.read(PAGE))
        header = layout.Header.of_page(page)
        for name, value in words.items():
            setattr(header, name, value)
        header.state = header.state_checksum()
        file.seek(0)
        file.write(page)


def word(path: Path, name: str) -> int:
    with open(path, "rb") as file:
        return int(getattr(layout.Header.of_page(file.read(PAGE)), name))


def found(path: Path, key: bytes) -> Tuple[int, layout.Block]:
    images = ImageStore.open(path)
    offset, block = images._index.find(layout.digest_of(key))  # type: ignore[misc]
    return offset, block


def with_fields(path: Path, key: bytes, **fields: Any) -> int:
    "Change fields of a record's header, and give it a right checksum; return its offset."
    offset, block = found(path, key)
    values = list(BLOCK.unpack(block[:-4]))
    for name, value in fields.items():
        first = {"nbytes": NBYTES, "shape": SHAPE, "number": NUMBER, "ndim": 3}[name]
        values[first : first + (len(value) if name == "shape" else 1)] = value if name == "shape" else [value]
    body = BLOCK.pack(*values)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(body + zlib.crc32(body).to_bytes(4, "little"))
    return offset


def use(images: ImageStore) -> None:
    assert images.put(b"new", tile(1)) and images.put(b"new", tile(2), replace=True) and images.note(b"a")
    images.purge()
    images.check(fix=True)
    assert images.check() == []
    right(images, 40)
    images.purge(file=True)
    assert images.put(b"0", tile(0)) and len(images) == 1


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


MOST = (1 << 64) - 1


@pytest.mark.parametrize("name", ["generation", "releases", "ordinal", "records", "nbytes", "slots", "freed", "tail"])
@pytest.mark.parametrize("value", [MOST, MOST - 1, (1 << 63) - 1, 1 << 63, (1 << 32) - 1, 1 << 32])
def test_words_near_their_maximum(path: Path, name: str, value: int) -> None:
    with_words(path, **{name: value})
    images = ImageStore.open(path)
    assert right(images, 40) == 40
    use(images)


def test_a_tail_in_the_middle_of_the_log_overwrites_no_record(path: Path) -> None:
    at, _ = found(path, b"20")
    with_words(path, tail=at + 512, records=1, nbytes=0, freed=0)
    images = ImageStore.open(path)
    assert right(images, 40) == 40
    for i in range(40):
        assert images.put(b"new %d" % i, np.full(100, 9, np.uint8))
    assert right(images, 40) == 40


@pytest.mark.parametrize("how", ["full", "half", "other", "no table", "small", "unaligned"])
def test_an_index_that_is_none(path: Path, how: str) -> None:
    index = word(path, "index")
    start = layout.table_offset(index) + layout.BLOCK_BYTES
    if how == "full":
        with open(path, "r+b") as file:
            file.seek(start)
            file.write(b"\x55" * 4096)
        with_words(path, slots=512)
    elif how == "half":
        with_words(path, index=layout.pack_table(start - layout.BLOCK_BYTES, 8))
    elif how == "other":
        with_words(path, index=layout.pack_table(found(path, b"3")[0], 6))
    elif how == "no table":
        with_words(path, index=layout.pack_table(start, 9))
    elif how == "small":
        with_words(path, index=layout.pack_table(start - layout.BLOCK_BYTES, 0), slots=1)
    else:
        with_words(path, index=index + (1 << 8))
    images = ImageStore.open(path)
    assert right(images, 40) == 40 and images.get(b"missing") is None
    use(images)


@pytest.mark.parametrize("shape", [(0, *[(1 << 32) - 1] * 3), ((1 << 32) - 1, 0, (1 << 32) - 1, (1 << 32) - 1)])
def test_a_shape_that_numpy_cannot_make(path: Path, shape: Tuple[int, ...]) -> None:
    with_fields(path, b"0", shape=shape, ndim=4)  # a black one: what follows the array then names no source
    for busy in (0, 1):
        with_words(path, busy=busy)
        images = ImageStore.open(path)
        assert images.get(b"0") is None and right(images, 40) == 39
        del images
    use(ImageStore.open(path))


def test_a_record_of_gigabytes_in_a_hole(path: Path) -> None:
    "Reading the hole would take half a minute."
    end = word(path, "end") + (41 << 30)
    with_fields(path, b"39", nbytes=40 << 30, shape=(40 << 10, 1 << 20), ndim=2)
    os.truncate(path, end)
    with_words(path, ends=[end], tail=end)
    images = ImageStore.open(path)
    assert images.get(b"39") is None and right(images, 40) == 39
    use(images)


def test_a_record_that_claims_its_neighbours_takes_none_with_it(path: Path) -> None:
    "Dropping it must not empty the pages of those that were verified before."
    _, block = found(path, b"10")
    with_fields(path, b"10", nbytes=block.length * 12)
    for replaced in (False, True):
        images = ImageStore.open(path)
        for i in range(40):
            assert i == 10 or (images.get(b"%d" % i).array == i).all()  # type: ignore[union-attr]
        if replaced:
            assert images.put(b"10", tile(10), tag=10, replace=True)
        assert right(images, 40) == 39 + replaced
        del images


def test_two_records_with_one_number_are_both_verified(path: Path) -> None:
    _, first = found(path, b"5")
    offset = with_fields(path, b"6", number=first.number)
    with open(path, "r+b") as file:
        file.seek(offset + 500)
        file.write(b"other pixels")
    images = ImageStore.open(path)
    for _ in range(2):
        assert (images.get(b"5").array == 5).all() and images.get(b"6") is None  # type: ignore[union-attr]


def test_a_trailer_that_is_too_long_is_refused(path: Path) -> None:
    images = ImageStore.open(path, maker=bytes(layout.MAX_TRAILER + 1))
    assert not images.put(b"new", tile(1)) and images.get(b"new") is None
