"""Threads that share the work on a batch."""

from __future__ import annotations

import threading
from typing import Iterator, List

import numpy as np
import pytest
import torch

from memlist.batch.threads import WORTH_THREADS, Threads


@pytest.fixture
def torch_threads() -> Iterator[None]:
    "Put torch's number of threads back."
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def parts(threads: Threads, values: int) -> List[List[int]]:
    "Return the parts into which ten images are split."
    found: List[List[int]] = []
    threads.map(lambda which: found.append(which.tolist()), np.arange(10), values)
    return sorted(found)


def test_work_is_split_among_all_threads_if_it_is_worth_it() -> None:
    threads = Threads(3)
    assert parts(threads, WORTH_THREADS + 1) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert parts(threads, WORTH_THREADS) == [list(range(10))]
    threads.close()


def test_a_later_thread_has_as_many_after_torch_pinned_memory(torch_threads: None) -> None:
    "torch's thread that pins memory sets the number of threads to one: for itself, and for all that begin later."
    threads, found = Threads(2), []
    for run in (lambda: torch.set_num_threads(1), lambda: found.append(parts(threads, WORTH_THREADS + 1))):
        one = threading.Thread(target=run)
        one.start()
        one.join()
    threads.close()
    assert found == [[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]]


@pytest.mark.parametrize("broken", [0, 9])
def test_an_error_in_a_part_is_raised_once_all_parts_are_done(broken: int) -> None:
    threads, done = Threads(2), []

    def make(which: np.ndarray) -> None:
        if broken in which:
            raise ValueError("broken")
        done.append(which.tolist())

    with pytest.raises(ValueError, match="broken"):
        threads.map(make, np.arange(10), WORTH_THREADS + 1)
    threads.close()
    assert len(done) == 1
