"""Many digests are looked up at once, with the answers of one look-up per digest."""

from __future__ import annotations

import gc
import multiprocessing
import random
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import pytest
from stores import Make, filled, key, small_disk
from stores import kind as kind  # the fixtures
from stores import make as make

from memlist.store import ImageStore, digest_of, index, lookup, read_many, region
from memlist.store.parts import Entry
from memlist.store.source import NO_SOURCE
from memlist.store.system import PAGE


@pytest.fixture(params=["compiled", "one by one"])
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "compiled":
        pytest.importorskip("numba")
        assert lookup._compiled() is not None
    else:
        monkeypatch.setattr(lookup, "_compiled", lambda: None)
    return str(request.param)


def digests(keys: List[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(map(digest_of, keys)), np.uint8).reshape(-1, 16)


def same_answers(images: ImageStore, keys: List[bytes]) -> int:
    "Compare `find_many` and `read_many` with `find` and `read`; return how many records there are."
    found, _ = images.parts.index.find_many(digests(keys))
    for one in keys:  # verifies those of a file
        images.read(one)
    records = read_many(images, digests(keys))
    arrays, there = records.arrays(), 0
    for k, one in enumerate(keys):
        block = images.parts.index.find(digest_of(one))
        assert int(found.offsets[k]) == (0 if block is None else block[0])
        record = images.read(one)
        array = arrays[k]
        assert (record is None) == (array is None)
        if record is not None and array is not None:
            there += 1
            assert array.dtype == record.array.dtype and np.array_equal(array, record.array)
            assert array.ctypes.data == record.array.ctypes.data == int(records.addresses[k])
            assert (int(records.headers.tags()[k]), int(records.headers.numbers()[k])) == (record.tag, record.number)
    forms = {(one.dtype, one.shape) for one in arrays if one is not None}
    assert records.alike == (there == len(keys) > 0 and len(forms) == 1)
    assert records.generation == images.generation
    return there


def some_array(n: int) -> np.ndarray:
    kinds = np.uint8, np.float32, np.int16, np.bool_
    return np.full([(n,), (n % 7, 3), (3, 4, n % 5), (2, 1, 2, 2), ()][n % 5], n % 2, kinds[n % 4])


def test_random_changes(kind: str, make: Make, way: str, monkeypatch: Any) -> None:
    "Put, replace, purge, fill the index and the segments; look up what is there and what is not."
    for name in ("SEGMENT", "FILE_SEGMENT", "NAMED_SEGMENT"):
        monkeypatch.setattr(region, name, 16 * PAGE)
    images, chance, seen = make(), random.Random(5), 0
    for step in range(40):
        for _ in range(chance.choice([1, 5, 200])):
            i = chance.randrange(800)
            images.put(key(i), some_array(chance.randrange(2000)), tag=i, replace=chance.random() < 0.3)
        if step % 13 == 12:
            images.purge(file=True)
            assert same_answers(images, [key(i) for i in range(10)]) == 0
        seen += same_answers(images, [key(chance.randrange(800)) for _ in range(chance.choice([1, 2, 64]))])
    assert seen > 200 and len(images.parts.region.ends) > 2


def test_records_of_one_shape_are_alike(make: Make, way: str) -> None:
    images = make()
    for i in range(70):
        images.put(key(i), np.full((4, 5, 3), i, np.uint8))
    assert same_answers(images, [key(i) for i in range(70)]) == 70
    records = read_many(images, digests([key(3), key(9)]))
    assert records.alike and records.form() == (np.uint8, (4, 5, 3))
    images.put(key(70), np.zeros((5, 4, 3), np.uint8))
    for other in (key(70), b"absent"):
        assert not read_many(images, digests([key(3), other])).alike
    assert same_answers(images, []) == 0


def test_digests_that_share_a_slot_are_told_apart(make: Make, way: str) -> None:
    "Their hashes are equal, so that slots and tags are, too."
    images = make()
    alike = [b"same 8 b" + b"%08d" % i for i in range(12)]
    for i, digest in enumerate(alike[:10]):
        images.parts.put([Entry(digest, np.full(3, i, np.uint8), i, NO_SOURCE)], False, None)
    records = read_many(images, np.frombuffer(b"".join(alike), np.uint8).reshape(-1, 16))
    found: List[Optional[int]] = [None if one is None else int(one[0]) for one in records.arrays()]
    assert found == [*range(10), None, None]


@pytest.mark.parametrize("byte", [0, 4, 5, 9, 23, 33, 65, 77])
def test_a_damaged_header_is_no_hit(make: Make, way: str, byte: int) -> None:
    images = make()
    for i in range(20):
        images.put(key(i), np.full((2, 3), i, np.uint8))
    offset, block = images.parts.index.find(digest_of(key(7)))  # type: ignore[misc]
    images.parts.region.poke(offset + byte, bytes([block[byte] ^ 16]))
    assert same_answers(images, [key(i) for i in range(20)]) == 19


def test_the_index_is_replaced_meanwhile(make: Make, way: str, monkeypatch: Any) -> None:
    "Look up again what was read in the old table: its memory was given back, and may hold anything."
    images, done = make(), []
    for i in range(300):
        images.put(key(i), np.full(3, i % 251, np.uint8))

    def replacing(*args: Any) -> Any:
        found = look_up(*args)
        if not done and found is not None:
            done.append(1)
            assert images.parts.lock.run(lambda: images.parts.index.grow(None, 5000))
            found.offsets[:] = 0
        return found

    look_up = index.look_up
    monkeypatch.setattr(index, "look_up", replacing)
    assert same_answers(images, [key(i) for i in range(300)]) == 300
    assert done or way != "compiled"


def test_a_file_of_an_earlier_session_is_verified_first(tmp_path: Path, way: str) -> None:
    wanted = digests([b"%d" % i for i in (0, 7, 14)])  # of one shape
    filled(tmp_path / "cache")
    gc.collect()  # ends the session
    images = ImageStore.open(tmp_path / "cache")
    assert read_many(images, wanted).arrays() == [None, None, None]
    assert images.read(b"7") is not None
    records = read_many(images, wanted)
    assert not records.alike and [one is None for one in records.arrays()] == [True, False, True]
    assert same_answers(images, [b"%d" % i for i in range(60)]) == 60
    assert read_many(images, wanted).alike


def test_a_region_without_mapping_has_no_addresses(tmp_path: Path, way: str) -> None:
    with small_disk(tmp_path / "disk", "20m") as folder:
        images = ImageStore.open(folder / "cache")
        images.put(b"a", np.ones(5, np.uint8))
        wanted = digests([b"a", b"b"])
        found, _ = images.parts.index.find_many(wanted)
        assert int(found.offsets[0]) == images.parts.index.find(digest_of(b"a"))[0]  # type: ignore[index]
        records = read_many(images, wanted)
        assert not records.alike and records.arrays() == [None, None]
        del images


def _write(images: ImageStore, n: int, seed: int) -> None:
    chance = random.Random(seed)
    for step in range(n):
        i = chance.randrange(2000)
        images.put(key(i), np.full((6, 7, 3), i % 251, np.uint8), tag=i, replace=chance.random() < 0.2)
        if step % 400 == 399:
            images.purge(file=True)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.full)])
def test_others_write_replace_and_purge_meanwhile(kind: str, make: Make, way: str, method: str) -> None:
    "Serve what was found only if the generation is the same after it was read."
    images, context = make(), multiprocessing.get_context(method)
    writers = [context.Process(target=_write, args=(images, 1500, seed)) for seed in range(2)]
    for process in writers:
        process.start()
    chance, right = random.Random(9), 0
    while any(process.is_alive() for process in writers) or not right:
        numbers = [chance.randrange(2000) for _ in range(64)]
        records = read_many(images, digests([key(i) for i in numbers]))
        copies = [None if one is None else one.copy() for one in records.arrays()]
        tags = records.headers.tags().tolist()
        if images.generation != records.generation:
            continue
        for i, one, tag in zip(numbers, copies, tags):
            if one is not None:
                right += 1
                assert tag == i and one.shape == (6, 7, 3) and (one == i % 251).all()
        if not any(process.is_alive() for process in writers):
            break
    for process in writers:
        process.join()
        assert process.exitcode == 0
    same_answers(images, [key(i) for i in range(2000)])
