"""Figures 13, 16 and 17: batches made at once, against stock and against `memcpy`, and the memory that making takes."""

import gc
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import numpy as np
import torch
from bunches import BATCH, SIZE, Contender, blocks_of, bunch, epoch
from fastai.vision import ImageList, get_transforms
from inputs import Inputs
from measure import case, interleave, ratio, value

from memlist import MemoryImageList
from memlist.batch import cpu
from memlist.batch.buffers import Buffers
from memlist.batch.maker import Maker
from memlist.batch.packed import pack
from memlist.batch.pixels import Pixels
from memlist.batch.threads import Threads
from memlist.fastai1.pipelines import pipeline_of
from memlist.fastai1.planner import plan_batch


def batch_epochs(inputs: Inputs) -> Dict[str, Any]:
    "Figure 13: time warm epochs with fastai's default transforms: stock, the cache alone, and batches made at once."
    files, small, cases = inputs.files(), inputs.digits(inputs.scale.digits), []
    for name, some, size, bound in (("500x375 to 224", files, SIZE, 4.0), ("digits, 28x28", small, 28, 20.0)):
        contenders: Dict[str, Contender] = {}
        for workers in (0, 2):
            contenders[f"stock, {workers} workers"] = epoch(
                bunch(ImageList, some, get_transforms(), workers, size=size)
            )
        cached = bunch(MemoryImageList, some, get_transforms(), 2, size=size)
        cached.load_data(progress=False)
        contenders["cache alone, 2 workers"] = epoch(cached)
        for workers in (0, 1, 2):
            made = bunch(MemoryImageList, some, get_transforms(), workers, size=size, batch_tfms=True)
            contenders[f"batch_tfms, {workers} workers"] = epoch(made)
        samples = interleave(contenders, inputs.scale.epochs + 1)
        ours = "batch_tfms, 0 workers"  # the default on a CPU
        ratios = [
            ratio("images/s over stock's without workers", "stock, 0 workers", ours, (">=", bound)),
            ratio("images/s over stock's with 2 workers", "stock, 2 workers", ours, (">=", bound)),
            ratio("images/s over the cache's alone", "cache alone, 2 workers", ours),
            ratio("with 2 workers, over stock's with 2", "stock, 2 workers", "batch_tfms, 2 workers"),
        ]
        cases.append(case(name, samples, ratios))
    return {"cases": cases, "notes": [f"{len(files)} photographs, {len(small)} digits; normalised on both sides."]}


# -- gathering, memory ----------------------------------------------------------------------------------------


@contextmanager
def threads(n: int) -> Iterator[Maker]:
    "Give what a loader without workers has, with so many threads."
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    maker = Maker(Buffers(), Threads(n), True)
    try:
        yield maker
    finally:
        torch.set_num_threads(before)
        maker.threads.close()


def gather(inputs: Inputs) -> Dict[str, Any]:
    "Figure 16: compare gathering, from indices to one tensor of bytes, with bare copies of as many bytes."
    files = inputs.files()
    il = MemoryImageList(files, path=files[0].parent)
    il.load_data(progress=False)
    blocks = blocks_of(len(files))
    arrays = [il._reader()(i).array.copy() for i in range(len(files))]
    pipeline = pipeline_of([], {"size": arrays[0].shape[:2]})  # all of each picture is needed
    assert pipeline is not None
    drawn = pipeline.drawn([[]] * BATCH, [None] * BATCH)
    plan = plan_batch(pipeline, drawn, [(arrays[0].shape[2], *arrays[0].shape[:2])] * BATCH)
    kept = torch.empty(BATCH * arrays[0].size, dtype=torch.uint8).numpy()
    cases = []
    for n in (1, 2):
        with threads(n) as maker:

            def ours(k: int, maker: Maker = maker) -> float:
                block = blocks[k % len(blocks)]
                begun = time.perf_counter()
                read = il._reader()
                pixels = [Pixels(read(i).array, 255) for i in block]
                pack(plan, pixels, torch.float32, None, maker.memory, maker.threads)
                return (time.perf_counter() - begun) / BATCH

            def copy(k: int, fresh: bool, maker: Maker = maker) -> float:
                block = blocks[k % len(blocks)]
                begun = time.perf_counter()
                into = torch.empty(BATCH * arrays[0].size, dtype=torch.uint8).numpy() if fresh else kept
                size = arrays[0].size

                def some(which: np.ndarray) -> None:
                    for b in which.tolist():
                        np.copyto(into[b * size : (b + 1) * size], arrays[block[b]].reshape(-1))

                maker.threads.map(some, np.arange(BATCH), into.size)
                return (time.perf_counter() - begun) / BATCH

            contenders = {
                "gather": ours,
                "memcpy into new memory": lambda k, copy=copy: copy(k, True),
                "memcpy into memory in use": lambda k, copy=copy: copy(k, False),
            }
            samples = interleave(contenders, inputs.scale.blocks, len(blocks))
        ratios = [
            ratio("bytes/s over memcpy's into new memory", "memcpy into new memory", "gather", (">=", 0.7)),
            ratio("bytes/s over memcpy's into memory in use", "memcpy into memory in use", "gather", (">=", 0.7)),
        ]
        cases.append(case(f"{n} thread{'s' * (n > 1)}", samples, ratios))
    return {"cases": cases, "notes": [f"{len(files)} distinct images on each side; batches of {BATCH}, plain memory."]}


def above(inputs: Inputs) -> Dict[str, Any]:
    "Figure 17: measure the most memory that making a batch takes besides the batch, as a multiple of it."
    files = inputs.files()
    il = MemoryImageList(files, path=files[0].parent)
    read = il._reader()
    sources = [Pixels(read(i).array, 255) for i in range(BATCH)]
    pipeline = pipeline_of(get_transforms()[0], {"size": SIZE})
    assert pipeline is not None
    drawn = pipeline.drawn([pipeline.draw() for _ in sources], [None] * BATCH)
    plan = plan_batch(pipeline, drawn, [source.shape for source in sources])
    out = torch.empty(BATCH, 3, SIZE, SIZE)
    with threads(1) as maker:
        packed = pack(plan, sources, torch.float32, None, maker.memory, maker.threads)
        ways = {
            "code of a GPU, run on the CPU: torch's allocations and the gathered bytes": (
                lambda: packed.make(out.device),
                packed.data.numel() - out.numel() * out.element_size(),
            ),
            "on a CPU without numba: torch's allocations": (
                lambda: _without_kernels(plan, sources, out, maker.threads),
                0,
            ),
            "on a CPU: growth of the process": (None, 0),
        }
        cases = []
        for name, (make, extra) in ways.items():
            if make is None:
                most = _grown(lambda: cpu.on_cpu(plan, sources, out, None, maker.threads))
            else:
                most = _allocated(make) + extra
            cases.append(value(name, most / (out.numel() * 4), "batches", ("<=", 3.0)))
    return {
        "cases": cases,
        "notes": [f"A batch of {BATCH} x 3 x {SIZE} x {SIZE} floats is {out.numel() * 4 / 1e6:.1f} MB."],
    }


def _without_kernels(plan: Any, sources: Any, out: Any, threads: Threads) -> None:
    kernels, cpu._kernels = cpu._kernels, lambda: None  # type: ignore[assignment]
    try:
        cpu.on_cpu(plan, sources, out, None, threads)
    finally:
        cpu._kernels = kernels


def _allocated(make: Callable[[], Any]) -> int:
    "Return the most bytes that torch has allocated at one time during `make`."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        make()
    total, most = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


def _grown(make: Callable[[], Any]) -> int:
    "Return the bytes by which the peak of the process's memory grows in a second run."
    make()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    make()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
