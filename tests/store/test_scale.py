"""A large index: how it grows, and that what is slow about it happens without the mutex."""

from __future__ import annotations

import functools
import sys
from typing import Any, List

import numpy as np
import pytest
from stores import Make, key
from stores import kind as kind  # the fixtures
from stores import make as make

from memlist.store import ImageStore, layout, table


def found(slots: np.ndarray, hash_: int, offset: int) -> bool:
    "Return whether a reader finds the block at `offset` as it probes from the slot of `hash_`."
    mask = len(slots) - 1
    slot = hash_ & mask
    while slots[slot]:
        if int(slots[slot]) == layout.pack_slot(offset, hash_):
            return True
        slot = slot + 1 & mask
    return False


@pytest.mark.parametrize("homes", ["random", "at the end", "one", "all"])
@pytest.mark.parametrize("share", [0, 0.01, 0.4, 0.8, 0.999])
def test_every_entry_of_a_table_is_found(homes: str, share: float) -> None:
    bits, draw = 9, np.random.default_rng(1)
    n = int(share * (1 << bits))
    hashes = draw.integers(0, 1 << 63, n, dtype=np.uint64) * np.uint64(2)
    low = {
        "random": draw.integers(0, 1 << bits, n),
        "at the end": draw.integers((1 << bits) - 9, 1 << bits, n),
        "one": np.full(n, (1 << bits) - 1),
        "all": np.arange(n),
    }[homes]
    hashes = hashes >> np.uint64(bits) << np.uint64(bits) | low.astype(np.uint64)
    offsets = (draw.permutation(5000)[:n] * 16 + 4096).astype(np.uint64)
    pairs = list(zip(hashes.tolist(), offsets.tolist()))
    slots = table.build(bits, hashes, offsets)
    assert (slots != 0).sum() == n and all(found(slots, *pair) for pair in pairs)
    assert sorted(table.entries(slots).tolist()) == sorted(offsets.tolist())
    slots = table.build(bits, hashes[: n // 2], offsets[: n // 2])
    table.insert(slots, hashes[n // 2 :], offsets[n // 2 :])
    assert (slots != 0).sum() == n and all(found(slots, *pair) for pair in pairs)


def fill(images: ImageStore, start: int, stop: int) -> None:
    for i in range(start, stop):
        assert images.put(key(i), np.full(3, i % 251, np.uint8))


def assert_holds(images: ImageStore, n: int) -> None:
    assert all((images.get(key(i)).array == i % 251).all() for i in range(n)) and len(images) == n  # type: ignore[union-attr]
    assert images.check() == []


def test_records_put_while_the_larger_index_is_built_are_in_it(make: Make) -> None:
    images = make()
    fill(images, 0, 1000)
    plan = images._index.plan(2000)
    fill(images, 1000, 1200)
    assert images.put(key(5), np.full(3, 5, np.uint8), replace=True)
    assert images.parts.locked(lambda: images._index.grow(plan))
    assert layout.table_bits(images._header.index) == 12
    assert_holds(images, 1200)


def test_an_index_built_for_another_one_is_not_used(make: Make) -> None:
    images = make()
    fill(images, 0, 1000)
    plan = images._index.plan(2000)
    images.purge(file=True)
    fill(images, 0, 20)
    assert images.parts.locked(lambda: images._index.grow(plan))
    assert_holds(images, 20)
    plan = images._index.plan(2000)
    fill(images, 20, 600)  # the index grows meanwhile
    assert images.parts.locked(lambda: images._index.grow(plan))
    assert_holds(images, 600)


def test_dropped_records_are_left_out_of_the_larger_index(make: Make) -> None:
    images = make()
    fill(images, 0, 800)
    for _ in range(3):
        for i in range(0, 800, 2):
            assert images.put(key(i), np.full(3, i % 251, np.uint8), replace=True)
    assert images.reserve(2000) and images._header.slots == 800
    assert_holds(images, 800)


def lines_of(task: Any) -> int:
    "Return how many lines of Python `task` runs."
    count = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        count[0] += event == "line"
        return trace

    sys.settrace(trace)
    try:
        task()
    finally:
        sys.settrace(None)
    return count[0]


def test_no_loop_in_python_grows_the_index_while_writers_wait() -> None:
    counts: List[int] = []
    for n in (500, 5000):
        images = ImageStore()
        fill(images, 0, n)
        plan = images._index.plan(4 * n)
        grow = functools.partial(images._index.grow, plan)
        counts.append(images.parts.locked(functools.partial(lines_of, grow)))
    assert counts[0] == counts[1]


def test_a_reserved_index_does_not_grow(make: Make) -> None:
    images = make()
    assert images.reserve(3000)
    index = images._header.index
    fill(images, 0, 3000)
    assert images._header.index == index
    assert_holds(images, 3000)
    assert not make("1MB").reserve(10_000) and make("1MB").reserve(100)
    small = make("20kB")
    assert not small.reserve(1000) and small.put(b"a", np.zeros(9, np.uint8)) and small.get(b"a") is not None
