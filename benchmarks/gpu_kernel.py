"""Compare the Triton kernel that makes a batch on a GPU with the formulas in torch: their values, and their times."""

import time
from typing import Any, Callable, Dict, Iterator, List, Tuple
from unittest import mock

import numpy as np
import torch
from measure import say

from memlist.batch import packed
from memlist.batch.buffers import NewMemory
from memlist.batch.fused import fused_on
from memlist.batch.packed import Packed, pack
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Extras, Norm, Plan
from memlist.batch.threads import ONE_THREAD

NORM = Norm(np.float32([0.485, 0.456, 0.406]), 1 / np.float32([0.229, 0.224, 0.225]))
# Sizes of the pictures; one is averaged down first. The images are of no size that a block of the kernel divides.
SIZES, SIZE = ((90, 120), (61, 61), (75, 40), (1, 80), (100, 2), (101, 119)), 61


def used(device: torch.device) -> bool:
    "Return whether the kernel makes batches on `device`."
    found = fused_on(device)
    return found is not None and not found.failed


def by_hand() -> Iterator[Tuple[str, Packed]]:
    "Yield batches of every kind that the kernel knows, with their names."
    draw = np.random.RandomState(1)
    arrays = [draw.randint(0, 256, (h, w, 3)).astype(np.uint8) for h, w in SIZES]
    bytes_ = [Pixels(one, 255) for one in arrays]
    floats = [Pixels(np.ascontiguousarray(one[..., :1] / np.float32(255)), 1) for one in arrays]
    masks = [Pixels(np.ascontiguousarray(one[..., :1]), 1) for one in arrays]
    wide = [Pixels(np.concatenate([one, one[..., ::-1]], 2), 255) for one in arrays]
    for mode in ("bilinear", "nearest"):
        for padding in ("reflection", "border", "zeros"):
            for aligned in (True, False):
                plan = _plan(mode, padding, aligned)
                name = f"{mode}, {padding}{', aligned' if aligned else ''}"
                yield f"bytes, {name}", _packed(plan, bytes_, torch.float32, NORM)
                if not aligned:
                    yield f"floats, {name}", _packed(plan, floats, torch.float32)
                if mode == "nearest":
                    plain = plan._replace(lit=plan.lit & False, pooled=plan.pooled * 0)
                    yield f"masks, {name}", _packed(plain, masks, torch.int64)
    yield "six channels", _packed(_plan("bilinear", "reflection", True), wide, torch.float32)
    yield "one image", _packed(_plan("bilinear", "reflection", True).of(slice(1)), bytes_[:1], torch.float32, NORM)


def _packed(plan: Plan, pixels: List[Pixels], dtype: torch.dtype, *norm: Norm) -> Packed:
    return pack(plan, pixels, dtype, norm[0] if norm else None, NewMemory(), ONE_THREAD)


def _plan(mode: str, padding: str, aligned: bool) -> Plan:
    "Return a plan that turns, projects and lights images, with holes; one's divisor is zero in places."
    n = len(SIZES)
    turn, flags, line = np.linspace(-0.4, 0.5, n), np.arange(n) % 3 != 1, np.linspace(-1, 1, SIZE, dtype=np.float32)
    matrix = np.tile(np.eye(3), (n, 1, 1))
    matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 2, 0], matrix[:, 0, 2] = turn, -turn, turn / 4, turn
    matrix[5, 0], matrix[5, 2] = 0, (1, 0, line[40])
    pooled = np.zeros((n, 2), np.int64)
    pooled[0] = 70, 61
    half = np.arange(SIZE) < 20
    return Plan(
        height=SIZE,
        width=SIZE,
        matrix=matrix,
        columns=np.tile(line, (n, 1)),
        rows=np.tile(line[::-1], (n, 1)),
        sampled=np.ones(n, bool),
        pooled=pooled,
        lit=flags,
        gain=np.where(flags, 1.3, 1.0),
        bias=np.where(flags, -0.3, 0.0),
        mode=mode,
        padding=padding,
        aligned=aligned,
        extras={1: Extras(holes=[(half, half), (~half, half[::-1])])},
    )


def by_torch(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    "Return what `make` makes without the kernel."
    with mock.patch.object(packed, "fused_on", lambda device: None):
        return make()


def compared(name: str, sent: Packed, device: torch.device) -> Dict[str, float]:
    "Compare a batch of the kernel with the same of torch."
    ours, theirs = sent.make(device), by_torch(lambda: sent.make(device))
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    away = torch.where(same, 0.0, (ours.double() - theirs.double()).abs()).nan_to_num_(float("inf"))
    shares = {"equal": same, "within 1e-3": away <= 1e-3}
    found = {key: float(one.double().mean()) for key, one in shares.items()}
    found.update(greatest=float(away.max()), images=len(ours))
    say(
        f"kernel, {name}: {100 * found['equal']:.4f} % equal, {100 * found['within 1e-3']:.5f} % within 1e-3, "
        f"greatest difference {found['greatest']:.1e}"
    )
    return found


def timed(sent: Packed, device: torch.device, rounds: int) -> Dict[str, Dict[str, List[float]]]:
    """Time a batch by the kernel and by torch, in seconds, in turns.

    `start`: until the processor has started everything; `done`: until the device has done it, the copy included;
    `device`: what the device takes if the bytes are there, and if it is started early enough.
    """
    ways: Dict[str, Callable[[Callable[[], Any]], Any]] = {"kernel": lambda make: make(), "torch": by_torch}
    found: Dict[str, Dict[str, List[float]]] = {way: {"start": [], "done": [], "device": []} for way in ways}
    there = sent._on(device)
    for k in range(rounds + 1):
        for way, run in ways.items():
            torch.cuda.synchronize(device)
            clock = [time.perf_counter()]
            run(lambda: sent.make(device))
            clock.append(time.perf_counter())
            torch.cuda.synchronize(device)
            clock.append(time.perf_counter())
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            for _ in range(4):
                run(lambda: sent._all(there, device))
            ended.record()
            torch.cuda.synchronize(device)
            if k:  # the first is slower
                for key, seconds in zip(
                    found[way], (*np.subtract(clock[1:], clock[0]), begun.elapsed_time(ended) / 4e3)
                ):
                    found[way][key].append(float(seconds))
    for way, samples in found.items():
        times = ", ".join(f"{key} {1e3 * np.median(values):.2f} ms" for key, values in samples.items())
        say(f"kernel or torch, a batch of {sent.size[0]} by {way}: {times}")
    return found
