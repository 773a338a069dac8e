"""Figures 13 to 18: transforms a batch at a time, against stock, against FFCV and against `memcpy`."""

import gc
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import numpy as np
import torch
from fastai.vision import (
    AdaptiveConcatPool2d,
    Flatten,
    ImageList,
    Learner,
    flip_lr,
    get_transforms,
    imagenet_stats,
    rand_resize_crop,
)
from measure import HERE, case, exhaust, interleave, ratio, say, value
from sklearn.datasets import load_digits
from torch import nn

from memlist import MemoryImageList
from memlist.batch import cpu, render
from memlist.batch.buffers import Buffers
from memlist.batch.gathered import gather as gathered
from memlist.batch.maker import Maker
from memlist.batch.pixels import Pixels
from memlist.batch.threads import Threads
from memlist.fastai1.pipelines import pipeline_of
from memlist.fastai1.planner import plan_batch

BATCH, SIZE = 64, 224
CPU = torch.device("cpu")
# The Python of FFCV's own environment; see ffcv_rival.py for how that is made.
FFCV = os.environ.get("MEMLIST_FFCV", str(HERE.parent / ".venv-ffcv" / "bin" / "python"))


def crop_and_flip() -> Any:
    "The common job: a random part of half to all of the area, at a ratio of 0.75 to 1.33, resized; and a flip."
    return [*rand_resize_crop(SIZE), flip_lr(p=0.5)], []


def bunch(cls: type, files: List[Path], tfms: Any, size: int, workers: Optional[int], batch_tfms: bool = False) -> Any:
    "A data bunch of `files`, normalised; its train set is all of them. `workers`: None for the default."
    labelled = cls(files, path=files[0].parent).split_none().label_from_func(label)  # type: ignore[call-arg]
    given: Dict[str, Any] = {} if workers is None else {"num_workers": workers}
    if batch_tfms:
        given["batch_tfms"] = True
    data = labelled.transform(tfms, size=size).databunch(bs=BATCH, no_check=True, device=CPU, **given)
    return data.normalize(imagenet_stats)


def label(file: Path) -> int:
    return int(file.stem) % 2


def epoch(data: Any, threads: Optional[int] = None) -> Callable[[int], float]:
    "A contender: seconds an image of one epoch, with so many torch threads, under the draws of its round."

    def run(k: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        torch.manual_seed(k)
        try:
            return exhaust(data.train_dl) / (len(data.train_dl) * BATCH)
        finally:
            torch.set_num_threads(before)

    return run


def against_stock(files: List[Path], small: List[Path], rounds: int) -> Dict[str, Any]:
    "Warm epochs with fastai's default transforms: stock, the cache alone, and batches made at once."
    cases = []
    for name, some, size, bound in (("500x375 to 224", files, SIZE, 4.0), ("digits, 28x28", small, 28, 20.0)):
        contenders: Dict[str, Callable[[int], float]] = {}
        for workers in (0, 2):
            contenders[f"stock, {workers} workers"] = epoch(bunch(ImageList, some, get_transforms(), size, workers))
        cached = bunch(MemoryImageList, some, get_transforms(), size, 2)
        cached.load_data(progress=False)
        contenders["cache alone, 2 workers"] = epoch(cached)
        for workers in (0, 1, 2):
            made = bunch(MemoryImageList, some, get_transforms(), size, workers, True)
            contenders[f"batch_tfms, {workers} workers"] = epoch(made)
        samples = interleave(contenders, rounds)
        ours = "batch_tfms, 0 workers"  # the default on a CPU
        ratios = [
            ratio("images/s over stock's without workers", "stock, 0 workers", ours, (">=", bound)),
            ratio("images/s over stock's with 2 workers", "stock, 2 workers", ours, (">=", bound)),
            ratio("images/s over the cache's alone", "cache alone, 2 workers", ours),
            ratio("with 2 workers, over stock's with 2", "stock, 2 workers", "batch_tfms, 2 workers"),
        ]
        cases.append(case(name, samples, ratios))
    return {"cases": cases, "notes": [f"{len(files)} photographs, {len(small)} digits; normalised on both sides."]}


# -- FFCV -----------------------------------------------------------------------------------------------------


class Rival:
    "FFCV in a process of its own, asked for an epoch at a time."

    def __init__(self, folder: Path, beton: Path) -> None:
        script = str(HERE / "ffcv_rival.py")
        command = [FFCV, "-W", "ignore", script, str(folder), str(beton)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()["ready"]

    def _answer(self) -> Dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)  # type: ignore[no-any-return]
        raise RuntimeError("FFCV ended; its error is above")

    def epoch(self, pipeline: str, workers: int) -> Callable[[int], float]:
        def run(k: int) -> float:
            assert self.process.stdin is not None
            question = {"pipeline": pipeline, "workers": workers, "epochs": 1}
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            return float(self._answer()["seconds_per_image"])

        return run

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def against_ffcv(files: List[Path], folder: Path, rounds: int) -> Dict[str, Any]:
    "Random resized crop to 224 and flip: FFCV's home ground; and our heavier job beside it."
    if not Path(FFCV).exists():
        return {"cases": [], "notes": [f"FFCV's environment, {FFCV}, is not there: see ffcv_rival.py."]}
    rival = Rival(files[0].parent, folder / "photographs.beton")
    try:
        common = bunch(MemoryImageList, files, crop_and_flip(), SIZE, 0, True)
        heavy = bunch(MemoryImageList, files, get_transforms(), SIZE, 0, True)
        common.load_data(progress=False)
        cases = []
        for n in (1, 2):
            contenders = {
                "memlist, crop and flip": epoch(common, n),
                "memlist, default transforms": epoch(heavy, n),
                "FFCV, floats": rival.epoch("float", n),
                "FFCV, bytes": rival.epoch("uint8", n),
            }
            samples = interleave(contenders, rounds)
            ratios = [
                ratio("images/s over FFCV's, normalised floats", "FFCV, floats", "memlist, crop and flip", (">=", 1.0)),
                ratio("images/s over FFCV's where it stops at bytes", "FFCV, bytes", "memlist, crop and flip"),
                ratio("default transforms, images/s over FFCV's crop and flip", "FFCV, floats", HEAVY),
            ]
            cases.append(case(f"{n} thread{'s' * (n > 1)}", samples, ratios))
    finally:
        rival.close()
    named = ", ".join(f"{name} {version}" for name, version in rival.versions.items())
    return {"cases": cases, "notes": [f"{len(files)} photographs. FFCV's process: {named}."]}


HEAVY = "memlist, default transforms"


# -- gathering, memory ----------------------------------------------------------------------------------------


@contextmanager
def threads(n: int) -> Iterator[Maker]:
    "What a loader without workers has, with so many threads."
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    maker = Maker(Buffers(), Threads(n), True)
    try:
        yield maker
    finally:
        torch.set_num_threads(before)
        maker.threads.close()


def gathering(files: List[Path], rounds: int) -> Dict[str, Any]:
    "From indices to one tensor of bytes, keys and look-ups included, against copies of as many bytes and threads."
    il = MemoryImageList(files, path=files[0].parent)
    il.load_data(progress=False)
    blocks = [range(at, at + BATCH) for at in range(0, len(files) - BATCH + 1, BATCH)]
    arrays = [il.reader()(i).array.copy() for i in range(len(files))]
    kept = torch.empty(BATCH * arrays[0].size, dtype=torch.uint8).numpy()
    cases = []
    for n in (1, 2):
        with threads(n) as maker:

            def gather(k: int, maker: Maker = maker) -> float:
                block = blocks[k % len(blocks)]
                begun = time.perf_counter()
                read = il.reader()
                gathered([Pixels(read(i).array, 255) for i in block], maker.memory, maker.threads)
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
                "gather": gather,
                "memcpy into new memory": lambda k, copy=copy: copy(k, True),
                "memcpy into memory in use": lambda k, copy=copy: copy(k, False),
            }
            samples = interleave(contenders, rounds, len(blocks))
        ratios = [
            ratio("bytes/s over memcpy's into new memory", "memcpy into new memory", "gather", (">=", 0.7)),
            ratio("bytes/s over memcpy's into memory in use", "memcpy into memory in use", "gather", (">=", 0.7)),
        ]
        cases.append(case(f"{n} thread{'s' * (n > 1)}", samples, ratios))
    return {"cases": cases, "notes": [f"{len(files)} distinct images a side; batches of {BATCH}, plain memory."]}


def memory_above(files: List[Path]) -> Dict[str, Any]:
    "The most memory that making a batch takes besides the batch, in batches: of the CPU's way and of the GPU's."
    il = MemoryImageList(files, path=files[0].parent)
    read = il.reader()
    sources = [Pixels(read(i).array, 255) for i in range(BATCH)]
    pipeline = pipeline_of(get_transforms()[0], {"size": SIZE})
    assert pipeline is not None
    drawn = pipeline.drawn([pipeline.draw() for _ in sources], [None] * BATCH)
    plan = plan_batch(pipeline, drawn, [source.shape for source in sources])
    out = torch.empty(BATCH, 3, SIZE, SIZE)
    with threads(1) as maker:
        pixels = gathered(sources, maker.memory, maker.threads)
        ways = {
            "on a GPU (taken on the CPU): torch's allocations, the bytes themselves included": (
                lambda: render.render(plan, pixels, out),
                pixels.data.numel(),
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
    "The most that torch has allocated at one time while it ran."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        make()
    total, most = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


def _grown(make: Callable[[], Any]) -> int:
    "By how much the peak of the process's memory goes up, after a first run."
    make()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    make()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


# -- one training ---------------------------------------------------------------------------------------------


def digit(file: Path) -> int:
    targets = load_digits().target
    return int(targets[int(file.stem) % len(targets)])


def noisy(generator: torch.Generator) -> Callable[[Any], Any]:
    def add(b: Any) -> Any:
        return b[0] + 1e-6 * torch.randn(b[0].shape, generator=generator), b[1]

    return add


NOISY = "stock, noise of 1e-6 added"


def curves(small: List[Path], epochs: int) -> Dict[str, Any]:
    """One seed, one small network, the digits: the losses of every batch, stock and batches made at once.

    And stock with noise of a millionth added to its pixels, to show what any difference in the last bits comes to.
    """
    losses: Dict[str, List[float]] = {}
    for name, cls in (("stock", ImageList), ("batch_tfms", MemoryImageList), (NOISY, ImageList)):
        labelled = cls(small, path=small[0].parent).split_by_rand_pct(0.2, seed=1).label_from_func(digit)
        kwargs = {"batch_tfms": True} if name == "batch_tfms" else {}
        tfms = get_transforms(do_flip=False)
        data = labelled.transform(tfms, size=28).databunch(bs=BATCH, num_workers=0, device=CPU, **kwargs)
        data = data.normalize(imagenet_stats)
        if name == NOISY:
            data.add_tfm(noisy(torch.Generator().manual_seed(0)))
        random.seed(3)
        np.random.seed(3)
        torch.manual_seed(3)
        body = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
        model = nn.Sequential(*body, AdaptiveConcatPool2d(1), Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))
        learn = Learner(data, model, silent=True)
        with redirect_stdout(io.StringIO()):  # fastai's bars
            learn.fit_one_cycle(epochs, 1e-2)
        losses[name] = [float(loss) for loss in learn.recorder.losses]
    cases = []
    for name in ("batch_tfms", NOISY):
        away = np.abs(np.array(losses["stock"]) - np.array(losses[name]))
        cases.append(
            value(f"{name}: largest difference from stock in the first 10 batches", float(away[:10].max()), "")
        )
        cases.append(value(f"{name}: mean difference from stock over all {len(away)}", float(away.mean()), ""))
    cases += [value(f"{name}: loss at the end", found[-1], "") for name, found in losses.items()]
    return {"cases": cases, "notes": ["![The curves](results/curves.svg)"], "losses": losses}


def draw_curves(losses: Dict[str, List[float]], path: Path) -> None:
    "Both curves in one picture."
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.2))
    axes.plot(losses["stock"], lw=3.5, color="#f4a259", label="stock fastai")
    axes.plot(losses[NOISY], lw=1.5, color="#9aa5b1", label="stock fastai, noise of 1e-6 added")
    axes.plot(losses["batch_tfms"], lw=1.1, color="#1d3557", label="memlist, batch_tfms=True")
    axes.set_xlabel("batch")
    axes.set_ylabel("training loss (smoothed)")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":  # a quick look, outside the page
    import pictures

    with tempfile.TemporaryDirectory() as made:
        files, _ = pictures.photographs(Path(made) / "photographs", 256, 100)
        small = pictures.digits(Path(made) / "digits", 1024)
        for found in (
            against_stock(files, small, 3),
            against_ffcv(files, Path(made), 5),
            gathering(files, 20),
            memory_above(files),
        ):
            for one in found["cases"]:
                say(one["name"] + (f": {one['value']:.3f} {one['unit']}" if "value" in one else ""))
                for name, samples in one.get("samples", {}).items():
                    say(f"    {name}: {1e6 * np.median(samples):.0f} µs")
                for wanted in one.get("ratios", ()):
                    number = np.median(one["samples"][wanted["above"]]) / np.median(one["samples"][wanted["below"]])
                    say(f"    {wanted['what']}: {number:.2f}")
        sys.stdout.flush()
