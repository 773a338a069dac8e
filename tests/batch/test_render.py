"""Plans made by hand: the compiled kernels, torch and what a GPU does agree, whatever the images and the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np
import pytest
import torch
from batch_helpers import FAST
from conftest import in_child, noise

from memlist.batch import cpu, render
from memlist.batch.buffers import NewMemory
from memlist.batch.maker import PLAIN_MAKER, Job, Maker
from memlist.batch.packed import Packed, pack
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Extras, Norm, Plan
from memlist.batch.threads import ONE_THREAD, Threads

NORM = Norm(np.float32([0.4, 0.5, 0.6]), np.float32([2.0, 3.0, 4.0]))


def plan_of(n: int, size: int, **changes: Any) -> Plan:
    "Return a plan that turns, moves and lights `n` images a little, each differently."
    turn = np.linspace(-0.3, 0.4, n)
    matrix = np.tile(np.eye(3), (n, 1, 1))
    matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 2, 0], matrix[:, 0, 2] = turn, -turn, turn / 4, turn / 2
    line = np.tile(np.linspace(-1, 1, size, dtype=np.float32), (n, 1))
    flags = np.arange(n) % 2 == 0
    made = Plan(
        height=size,
        width=size,
        matrix=matrix,
        columns=line,
        rows=line[:, ::-1],
        sampled=np.ones(n, bool),
        pooled=np.zeros((n, 2), np.int64),
        lit=flags,
        gain=np.where(flags, 1.2, 1.0),
        bias=np.where(flags, 0.3, 0.0),
        mode="bilinear",
        padding="reflection",
        aligned=True,
    )
    return made._replace(**changes)


def images(channels: int = 3, floats: bool = False) -> List[Pixels]:
    sizes = ((40, 50), (33, 20), (25, 25), (1, 30), (60, 2))
    arrays = [noise(h, w, max(channels, 2), i)[..., :channels] for i, (h, w) in enumerate(sizes)]
    return [
        Pixels((array / np.float32(255)).astype(np.float32), 1) if floats else Pixels(np.ascontiguousarray(array), 255)
        for array in arrays
    ]


def all_ways(plan: Plan, pixels: List[Pixels], norm: Optional[Norm], monkeypatch: Any) -> Tuple[torch.Tensor, ...]:
    "Return the batch by kernels (if there are any), by torch on the CPU, and packed for a device."
    found = []
    for kernels in (True, False) if FAST else (False,):
        with monkeypatch.context() as patch:
            if not kernels:
                patch.setattr(cpu, "_kernels", lambda: None)
            found.append(PLAIN_MAKER.make_all([Job(plan, pixels, torch.float32, norm)])[0])
    packed = Maker(NewMemory(), ONE_THREAD, True).make_all([Job(plan, pixels, torch.float32, norm)])[0]
    assert isinstance(packed, Packed)
    return (*found, packed.make(torch.device("cpu")))


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("aligned", [True, False])
def test_all_ways_agree(padding: str, channels: int, aligned: bool, monkeypatch: Any) -> None:
    for floats in (False, True):
        pixels = images(channels, floats)
        plan = plan_of(len(pixels), 17, padding=padding, aligned=aligned)
        first, *others = all_ways(plan, pixels, NORM if channels == 3 else None, monkeypatch)
        assert first.shape == (5, channels, 17, 17)
        for other in others:
            assert float((first - other).abs().max()) < 1e-3


def test_all_ways_agree_on_pooling_holes_planes_and_grids(monkeypatch: Any) -> None:
    pixels = images()
    pooled = np.array([[20, 25], [0, 0], [5, 5], [0, 0], [0, 0]])
    grid = torch.rand(17, 17, 2) * 2 - 1
    half, plane = np.arange(17) < 8, torch.full((17, 17), 0.25)
    extras = {1: Extras(grid=grid), 2: Extras(holes=[(half, half)]), 4: Extras(planes=[(1, plane)])}
    blank = np.tile(np.arange(17) == 16, (5, 1))
    plan = plan_of(5, 17, pooled=pooled, extras=extras, blank=(blank, np.zeros_like(blank)))
    first, *others = all_ways(plan, pixels, None, monkeypatch)
    for other in others:
        assert float((first - other).abs().max()) < 1e-3
    assert not first[:, :, 16].any() and not first[2, :, :8, :8].any()
    assert (first[4, 1, :16] == 0.25).all()


def test_identity_copies_the_image(monkeypatch: Any) -> None:
    array = noise(17, 17, 3, 1)
    line = np.arange(17, dtype=np.float32)[None]
    nothing = {"sampled": np.zeros(1, bool), "lit": np.zeros(1, bool), "matrix": np.eye(3)[None]}
    plan = plan_of(1, 17, columns=line, rows=line, **nothing)
    wanted = torch.from_numpy(array.transpose(2, 0, 1) / np.float32(255))
    for made in all_ways(plan, [Pixels(array, 255)], None, monkeypatch):
        assert float((made[0] - wanted).abs().max()) < 1e-6


def test_threads_share_a_batch_and_pass_on_what_one_raises() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    threads = Threads(2)
    try:
        seen: List[np.ndarray] = []
        threads.map(seen.append, np.arange(7), 1 << 20)
        assert sorted(len(part) for part in seen) == [3, 4]
        assert np.sort(np.concatenate(seen)).tolist() == list(range(7))

        def fail(which: np.ndarray) -> None:
            if 6 in which:
                raise ValueError("of a thread")

        with pytest.raises(ValueError, match="of a thread"):
            threads.map(fail, np.arange(7), 1 << 20)
        pixels = [Pixels(noise(300, 300, 3, i), 255) for i in range(7)]
        plan = plan_of(7, 200)
        one, two = (
            Maker(NewMemory(), by, False).make_all([Job(plan, pixels, torch.float32)])[0]
            for by in (ONE_THREAD, threads)
        )
        assert torch.equal(one, two)  # type: ignore[arg-type]
    finally:
        threads.close()
        torch.set_num_threads(before)


def test_memory_besides_the_batch() -> None:
    "Without kernels, making a batch takes at most three times its memory besides the batch."

    def peak() -> int:
        return next(
            int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
        )

    def measure() -> None:
        n, side = 32, 224
        pixels = [Pixels(noise(250, 260, 3, i), 255) for i in range(n)]
        plan = plan_of(n, side)
        render.LEAST = 0
        packed = pack(plan, pixels, torch.float32, None, NewMemory(), ONE_THREAD)
        pack(plan.of(slice(0, 1)), pixels[:1], torch.float32, None, NewMemory(), ONE_THREAD).make(torch.device("cpu"))
        out = torch.zeros(n, 3, side, side)
        before = peak()
        packed.make(torch.device("cpu"))
        cpu._kernels = lambda: None  # type: ignore[assignment]
        cpu.on_cpu(plan, pixels, out, None, ONE_THREAD)
        assert peak() - before <= 4 * out.numel() * 4 / 1024

    assert in_child(measure) == 0
