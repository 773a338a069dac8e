"""Inputs and targets of a batch are one piece of work for the threads."""

from __future__ import annotations

import importlib.util
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest
import torch
from conftest import noise

from memlist.batch import cpu, maker
from memlist.batch.buffers import NewMemory
from memlist.batch.maker import Job, Maker
from memlist.batch.packed import Packed
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Extras, Norm, Plan
from memlist.batch.threads import ONE_THREAD, Threads

NORM = Norm(np.float32([0.4, 0.5, 0.6]), np.float32([2.0, 3.0, 4.0]))
compiled = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs numba")


class Counted(Threads):
    "Note how the work is split."

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.parts: List[List[List[int]]] = []

    def map(self, function: Callable[[np.ndarray], None], which: np.ndarray, values: int) -> None:
        self.parts.append([])

        def noted(part: np.ndarray) -> None:
            self.parts[-1].append(part.tolist())
            function(part)

        super().map(noted, which, values)


@pytest.fixture
def threads() -> Iterator[Counted]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    made = Counted(2)
    yield made
    made.close()
    torch.set_num_threads(before)


def job(n: int, size: int, mask: bool = False, **changed: Any) -> Job:
    matrix = np.repeat(np.eye(3)[None], n, 0)
    matrix[:, 0, 1] = np.linspace(-0.3, 0.3, n)  # each image differs
    line = np.repeat(np.linspace(-1, 1, size, dtype=np.float32)[None], n, 0)
    plan = Plan(
        height=size,
        width=size,
        matrix=matrix,
        columns=line,
        rows=line.copy(),
        sampled=np.ones(n, bool),
        pooled=np.zeros((n, 2), np.int64),
        lit=np.arange(n) % 2 == int(not mask),
        gain=np.full(n, 1.2),
        bias=np.linspace(-0.2, 0.2, n),
        mode="nearest" if mask else "bilinear",
        padding="reflection",
        aligned=False,
    )
    pixels = [
        Pixels(noise(90 + i, 80, 1 if mask else 3, i).reshape(90 + i, 80, -1), 1 if mask else 255) for i in range(n)
    ]
    if mask:
        plan = plan._replace(lit=np.zeros(n, bool))
    return Job(plan._replace(**changed), pixels, torch.int64 if mask else torch.float32, None if mask else NORM)


def apart(jobs: List[Job]) -> List[Any]:
    return [Maker(NewMemory(), ONE_THREAD, False).make_all([Job(*one)])[0] for one in jobs]


@compiled
def test_both_are_made_in_one_pass_and_equal_those_made_one_by_one(threads: Counted) -> None:
    jobs = [job(7, 200), job(7, 150, mask=True)]
    made = Maker(NewMemory(), threads, False).make_all(jobs)
    assert [sorted(parts) for parts in threads.parts] == [[[0, 1, 2, 3], [4, 5, 6]]]
    for one, other in zip(made, apart(jobs)):
        assert torch.equal(one, other) and one.dtype == other.dtype and one.stride() == other.stride()


@compiled
def test_sides_too_small_for_threads_share_them(threads: Counted) -> None:
    jobs = [job(4, 160), job(4, 260, mask=True)]
    assert all(one.plan.height**2 * len(one.pixels) * (1 if k else 3) < 1 << 19 for k, one in enumerate(jobs))
    made = Maker(NewMemory(), threads, False).make_all(jobs)
    assert len(threads.parts) == 1 and len(threads.parts[0]) == 2
    assert all(torch.equal(one, other) for one, other in zip(made, apart(jobs)))
    threads.parts.clear()
    Maker(NewMemory(), threads, False).make_all([job(2, 40), job(2, 40, mask=True)])
    assert threads.parts == [[[0, 1]]]


@pytest.mark.parametrize("case", ["holes", "blank rows", "a deviation of zero", "no kernels", "more targets"])
def test_what_torch_has_a_part_in_is_made_side_by_side(case: str, threads: Counted, monkeypatch: Any) -> None:
    "torch is called in the calling thread only."
    first, second = job(6, 200), job(8 if case == "more targets" else 6, 150, mask=True)
    if case == "holes":
        hole = np.arange(200) < 9, np.arange(200) > 190
        first = first._replace(plan=first.plan._replace(extras={2: Extras(holes=[hole])}))
    if case == "blank rows":
        blank = np.zeros((6, 150), bool), np.ones((6, 150), bool) & (np.arange(150) < 3)
        second = second._replace(plan=second.plan._replace(blank=(blank[0], blank[1])))
    if case == "a deviation of zero":
        first = first._replace(norm=Norm(NORM.mean, np.float32([2, np.inf, 4])))
    if case == "no kernels":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    seen: List[Any] = []
    monkeypatch.setattr(maker, "on_cpu", lambda *given: seen.append(given[-1]) or cpu.on_cpu(*given))
    made = Maker(NewMemory(), threads, False).make_all([first, second])
    assert seen == [threads, threads]
    for one, other in zip(made, apart([first, second])):
        assert torch.equal(torch.nan_to_num(one.double()) if one.is_floating_point() else one, _plain(other))


def _plain(one: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(one.double()) if one.is_floating_point() else one


@compiled
def test_what_a_thread_raises_is_raised(threads: Counted) -> None:
    jobs = [job(7, 200), job(7, 150, mask=True)]
    broken = jobs[1]._replace(pixels=[*jobs[1].pixels[:6], Pixels(None, 1)])  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        Maker(NewMemory(), threads, False).make_all([jobs[0], broken._replace(pixels=broken.pixels)])


def test_for_a_device_each_is_packed() -> None:
    jobs = [job(3, 50), job(3, 40, mask=True)]
    made = Maker(NewMemory(), ONE_THREAD, True).make_all(jobs)
    for one, other in zip(made, apart(jobs)):
        assert isinstance(one, Packed)
        found = one.make(torch.device("cpu"))
        assert found.dtype == other.dtype and float((found - other).abs().double().mean()) < 1e-3


def test_nothing_to_make() -> None:
    assert Maker(NewMemory(), ONE_THREAD, False).make_all([]) == []
