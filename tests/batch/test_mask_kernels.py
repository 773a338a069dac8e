"""Masks made by their own kernel equal those of the general one, which takes only what is no plain mask."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
import torch
from conftest import noise

from memlist.batch import cpu
from memlist.batch.cpu import on_cpu
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Norm, Plan
from memlist.batch.threads import ONE_THREAD

pytest.importorskip("numba")
from memlist.batch import compiled, mask_kernels

ROTATED = [[0.9, 0.25, 0.1], [-0.3, 0.8, 0.05], [0.0, 0.0, 1.0]]
MATRICES: Dict[str, Any] = {
    "as it is": np.eye(3),
    "zoomed out": np.diag([1.4, 1.7, 1.0]),
    "mirrored and moved": [[-1.0, 0.0, 0.2], [0.0, 1.0, -0.3], [0.0, 0.0, 1.0]],
    "upside down": np.diag([1.0, -1.0, 1.0]),
    "rotated": ROTATED,
    "turned": [[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]],
    "sheared along x": [[1.0, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "sheared along y": [[1.0, 0.0, 0.0], [0.4, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "tilted": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.2, 1.0]],
    "warped": [[1.0, 0.1, 0.0], [0.0, 1.1, 0.0], [0.2, 0.1, 1.0]],
    "no number": np.full((3, 3), np.nan),
}
SIZES = [(37, 53), (1, 9), (9, 1), (1, 1), (40, 40)]


def plan_of(matrix: Any, padding: str, sampled: bool, aligned: bool = False, size: Tuple[int, int] = (31, 29)) -> Plan:
    n, (height, width) = len(SIZES), size
    columns, rows = (
        np.linspace(-1, 1, k, dtype=np.float32) if sampled else np.arange(k, dtype=np.float32) for k in (width, height)
    )
    return Plan(
        height=height,
        width=width,
        matrix=np.broadcast_to(np.array(matrix, np.float64), (n, 3, 3)),
        columns=np.broadcast_to(columns, (n, width)).copy(),
        rows=np.broadcast_to(rows, (n, height)).copy(),
        sampled=np.full(n, sampled),
        pooled=np.zeros((n, 2), np.int64),
        lit=np.zeros(n, bool),
        gain=np.ones(n),
        bias=np.zeros(n),
        mode="nearest",
        padding=padding,
        aligned=aligned,
    )


def masks(divisor: int = 1, channels: int = 1) -> List[Pixels]:
    return [Pixels(noise(h, w, channels, i).reshape(h, w, channels), divisor) for i, (h, w) in enumerate(SIZES)]


def made(plan: Plan, pixels: List[Pixels], norm: Any = None, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    out = torch.full((len(pixels), pixels[0].array.shape[2], plan.height, plan.width), -7, dtype=dtype)
    on_cpu(plan, pixels, out, norm, ONE_THREAD)
    return out


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
@pytest.mark.parametrize("name", list(MATRICES))
def test_masks_equal_those_of_the_general_kernel(name: str, padding: str, monkeypatch: Any) -> None:
    for sampled in (True, False):
        for aligned in (True, False):
            plan, pixels = plan_of(MATRICES[name], padding, sampled, aligned), masks()
            ours = made(plan, pixels)
            with monkeypatch.context() as patch:
                patch.setattr(compiled, "_unchanged", lambda *given: False)
                assert torch.equal(ours, made(plan, pixels))


def test_copies_of_a_part_and_of_all(monkeypatch: Any) -> None:
    for size in ((31, 29), (37, 53), (1, 1)):
        columns = MATRICES["as it is"]
        plan = plan_of(columns, "border", False, size=size)
        expected = masks()[0].array[: size[0], : size[1], 0]
        assert made(plan, masks())[0, 0].numpy().tolist() == expected.tolist()
        mirrored = plan._replace(columns=plan.columns[:, ::-1].copy())
        assert made(mirrored, masks())[0, 0].numpy().tolist() == expected[:, ::-1].tolist()


def test_only_plain_masks_come_here(monkeypatch: Any) -> None:
    "Values that are divided, lit or normalised, and floats, are made by the general kernel."
    calls: List[str] = []
    for name in ("_nearest", "_nearest_bytes"):
        kernel = getattr(compiled, name)
        monkeypatch.setattr(compiled, name, lambda *given, n=name[1:], k=kernel: calls.append(n) or k(*given))
    plan = plan_of(ROTATED, "reflection", True)
    norm = Norm(np.float32([0.5]), np.float32([2.0]))

    def used(plan: Plan, pixels: List[Pixels], **given: Any) -> List[str]:
        calls.clear()
        made(plan, pixels, **given)
        return sorted(set(calls))

    assert used(plan, masks()) == ["nearest_bytes"]
    floats = [one._replace(array=one.array.astype(np.float32)) for one in masks()]
    assert used(plan, floats) == ["nearest"]
    assert used(plan, [masks()[0], *floats[1:]]) == ["nearest", "nearest_bytes"]
    assert used(plan, [masks()[0], *masks(255)[1:]]) == ["nearest", "nearest_bytes"]
    assert used(plan, masks(), norm=norm) == ["nearest"]
    assert used(plan, masks(), dtype=torch.float32) == ["nearest"]
    assert used(plan, masks(channels=3)) == ["nearest"]
    assert used(plan._replace(lit=np.arange(len(SIZES)) == 2), masks()) == ["nearest"]


def test_masks_equal_torch(monkeypatch: Any) -> None:
    plan, pixels = plan_of(ROTATED, "reflection", True), masks()
    ours = made(plan, pixels)
    monkeypatch.setattr(cpu, "_kernels", lambda: None)
    assert float((ours != made(plan, pixels)).double().mean()) < 0.01
    assert callable(mask_kernels.nearest_bytes)
