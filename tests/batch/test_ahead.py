"""Batches that are made ahead, in a thread: order, errors, the end, and those that nobody takes."""

from __future__ import annotations

import threading
from typing import Any, Iterator, List

import pytest
import torch

from memlist.batch.ahead import READY, Ahead

CPU = torch.device("cpu")


def test_batches_come_in_their_order_and_the_thread_ends_with_them() -> None:
    ahead = Ahead(iter(range(20)), lambda b: b * b, CPU)
    assert list(ahead) == [b * b for b in range(20)]
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()
    assert not ahead._thread.is_alive()


def test_the_next_batches_are_made_before_anybody_asks_for_them_and_no_more_of_them() -> None:
    made: List[int] = []
    enough = threading.Event()

    def make(b: int) -> int:
        made.append(b)
        if len(made) == READY + 1:
            enough.set()
        return b

    ahead = Ahead(iter(range(20)), make, CPU)
    assert enough.wait(30)  # one more is made, and waits for its place
    assert made == [*range(READY + 1)] and next(ahead) == 0
    ahead.close()
    assert len(made) <= READY + 2


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["batches", "make"])
def test_an_error_is_raised_after_the_batches_before_it_and_again(kind: Any, where: str) -> None:
    def broken(b: int) -> int:
        if b == 3:
            raise kind("the fourth")
        return b

    def batches() -> Iterator[int]:
        for b in range(6):
            yield broken(b) if where == "batches" else b

    ahead = Ahead(batches(), broken if where == "make" else int, CPU)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(kind, match="the fourth"):
            next(ahead)
    ahead.close()


def test_close_ends_a_thread_that_waits_for_somebody_to_take_a_batch() -> None:
    ahead = Ahead(iter(range(100)), int, CPU)
    assert next(ahead) == 0
    ahead.close()
    assert not ahead._thread.is_alive()
