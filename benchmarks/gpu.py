"""Every figure of `batch_tfms=True` that needs a GPU, in one command: `python benchmarks/gpu.py`, some 8 minutes.

Prints a line a figure and writes all samples to benchmarks/results/gpu.json. `--device cpu --quick` goes through the
same motions without a GPU; its figures mean nothing.

1. The loader alone, batches of 256, photographs of 500x375 to 224, default transforms, normalised, on the device:
   images/s by number of workers, and where the time of a batch goes: gathering and drawing, the copy to the device, the
   transforms there (CUDA events), normalisation.
   Then the same over epochs long enough for the start of workers not to count.
2. The share of a ResNet-18 epoch in mixed precision that a step waits for its batch: the clock runs from the end of a
   step, when the device has nothing left to do, to the moment the next batch is there; stock and cache alone beside it.
3. The most memory that making a batch takes on the device besides the batch itself.
4. Equality: a batch on the device against stock's under one seed.
5. One training on the device, stock and ours: the losses.
"""

import argparse
import contextlib
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pictures
import torch
import torchvision
from batching import label
from fastai.torch_core import to_device
from fastai.vision import ImageList, Learner, get_transforms, imagenet_stats
from measure import HERE, say, surroundings

from memlist import MemoryImageList
from memlist.fastai1.collate import Collate
from memlist.fastai1.loader import BatchDeviceDataLoader

SIZE = 224


def bunch(cls: type, files: List[Path], device: torch.device, bs: int, workers: int, batch_tfms: bool) -> Any:
    "A data bunch with the default transforms; all files are trained on."
    labelled = cls(files, path=files[0].parent).split_none().label_from_func(label)  # type: ignore[call-arg]
    given = {"batch_tfms": True} if batch_tfms else {}
    made = labelled.transform(get_transforms(), size=SIZE)
    data = made.databunch(bs=bs, num_workers=workers, device=device, no_check=True, **given)
    return data.normalize(imagenet_stats)


def wait(device: torch.device) -> None:
    "Until the device has done all that it was given."
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seed(k: int) -> None:
    random.seed(k)
    np.random.seed(k)
    torch.manual_seed(k)


def alone(files: List[Path], device: torch.device, bs: int, rounds: int) -> Dict[str, Any]:
    "Images/s of the loader, by workers, the device's work included."
    found: Dict[str, Any] = {}
    for name, cls, batch_tfms in (("stock", ImageList, False), ("batch_tfms", MemoryImageList, True)):
        for workers in (0, 2, 4, 8, 16):
            data = bunch(cls, files, device, bs, workers, batch_tfms)
            if batch_tfms:
                data.load_data(progress=False)
            samples = []
            for k in range((rounds if batch_tfms else 1) + 1):
                seed(k)
                begun = time.perf_counter()
                for _ in data.train_dl:
                    pass
                wait(device)
                samples.append((time.perf_counter() - begun) / (len(data.train_dl) * bs))
            found[f"{name}, {workers} workers"] = samples[1:]
            say(f"loader alone, {name}, {workers} workers: {1 / np.median(samples[1:]):,.0f} images/s")
    return found


def long(files: List[Path], device: torch.device, bs: int, rounds: int) -> Dict[str, Any]:
    "Measure our loader over epochs of 16 times the files, which are long compared with the start of the workers."
    found: Dict[str, Any] = {"images": 16 * len(files) // bs * bs}
    for workers in (0, 1, 2, 4, 8):
        data = bunch(MemoryImageList, files * 16, device, bs, workers, True).load_data(progress=False)
        seconds, first = [], []
        for k in range(rounds + 1):
            seed(k)
            begun, there = time.perf_counter(), 0.0
            for _ in data.train_dl:
                there = there or time.perf_counter() - begun
            wait(device)
            seconds.append(time.perf_counter() - begun)
            first.append(there)
        found[f"{workers} workers"] = {"seconds": seconds[1:], "first batch": first[1:]}
        rate, ms = found["images"] / np.median(seconds[1:]), 1e3 * np.median(first[1:])
        say(f"long epochs, {workers} workers: {rate:,.0f} images/s, the first batch after {ms:.0f} ms")
    return found


def parts(files: List[Path], device: torch.device, bs: int, rounds: int) -> Dict[str, List[float]]:
    "Seconds a batch: where they go."
    data = bunch(MemoryImageList, files, device, bs, 0, True)
    data.load_data(progress=False)
    collate = Collate(data.train_ds, data.train_dl.dl.collate_fn, True)
    norm = data.train_dl.tfms[0]
    found: Dict[str, List[float]] = {"gather and draw": [], "copy to the device": [], "transforms": [], "normalise": []}
    for k in range(rounds + 2):
        order = np.random.RandomState(k).permutation(len(files))[:bs].tolist()
        clock = [time.perf_counter()]
        batch = collate(order)
        clock.append(time.perf_counter())
        packed = batch.x
        data_there = packed.pixels.data.to(device, non_blocking=True)
        wait(device)
        clock.append(time.perf_counter())
        x = packed._replace(pixels=packed.pixels._replace(data=data_there)).make(device)
        wait(device)
        clock.append(time.perf_counter())
        norm((x, batch.y))
        wait(device)
        clock.append(time.perf_counter())
        if k >= 2:
            for name, seconds in zip(found, np.diff(clock).tolist()):
                found[name].append(seconds)
    for name, samples in found.items():
        say(f"a batch of {bs}: {name}: {1e3 * np.median(samples):.2f} ms")
    return found


def waiting(files: List[Path], device: torch.device, bs: int, batches_: int) -> Dict[str, Any]:
    "The share of an epoch that a ResNet-18's step waits for its batch."
    found = {}
    kinds = (
        ("stock", ImageList, False),
        ("cache alone", MemoryImageList, False),
        ("batch_tfms", MemoryImageList, True),
    )
    for name, cls, batch_tfms in kinds:
        for workers in (0, 4, 16):
            data = bunch(cls, files, device, bs, workers, batch_tfms)
            if cls is MemoryImageList:
                data.load_data(progress=False)
            model = torchvision.models.resnet18(num_classes=2).to(device).to(memory_format=torch.channels_last)
            optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
            for _ in range(2):  # the first pass sets up what there is to set up
                waited, begun, n, last = 0.0, time.perf_counter(), 0, time.perf_counter()
                for x, y in data.train_dl:
                    waited += time.perf_counter() - last
                    with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
                        loss = torch.nn.functional.cross_entropy(
                            model(x.contiguous(memory_format=torch.channels_last)), y.to(device)
                        )
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    loss.item()  # as fastai does after every batch: the device is idle from here on
                    n, last = n + 1, time.perf_counter()
                    if n >= batches_:
                        break
                total = time.perf_counter() - begun
            found[f"{name}, {workers} workers"] = {"waited": waited, "total": total, "batches": n, "bs": bs}
            share, rate = 100 * waited / total, n * bs / total
            say(f"ResNet-18, {name}, {workers} workers: {share:.1f} % waiting, {rate:,.0f} images/s")
    return found


def memory(files: List[Path], device: torch.device, bs: int) -> float:
    "The most memory on the device besides the batch, in batches; 0 without a GPU, where batching.py measures it."
    if device.type != "cuda":
        return 0.0
    data = bunch(MemoryImageList, files, device, bs, 0, True)
    batch = Collate(data.train_ds, data.train_dl.dl.collate_fn, True)(list(range(bs)))
    batch.on(device, to_device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x, _ = batch.on(device, to_device)
    size = x.numel() * x.element_size()
    above = (torch.cuda.max_memory_allocated(device) - before - size) / size
    say(f"memory above the batch: {above:.2f} batches")
    return above


def equality(files: List[Path], device: torch.device) -> Dict[str, float]:
    "One batch, ours on the device against stock's, under one seed."
    made = []
    for cls, batch_tfms in ((ImageList, False), (MemoryImageList, True)):
        data = bunch(cls, files, device, 64, 0, batch_tfms)
        seed(1)
        made.append(next(iter(data.train_dl))[0].float().cpu() * torch.tensor(imagenet_stats[1])[:, None, None])
    away = (made[0] - made[1]).abs()
    found = {"within 1e-3": float((away <= 1e-3).float().mean()), "mean": float(away.mean())}
    say(f"equality: {100 * found['within 1e-3']:.3f} % within 1e-3, mean {found['mean']:.1e}")
    return found


def training(files: List[Path], device: torch.device, bs: int, epochs: int) -> Dict[str, List[float]]:
    "The smoothed losses of one training, stock and ours, with `to_fp16` on a GPU."
    found = {}
    for name, cls, batch_tfms in (("stock", ImageList, False), ("batch_tfms", MemoryImageList, True)):
        data = bunch(cls, files, device, bs, 4, batch_tfms)
        seed(2)
        learn = Learner(data, torchvision.models.resnet18(num_classes=2), silent=True)
        with contextlib.suppress(AssertionError):  # fastai's needs a GPU
            learn = learn.to_fp16()
        seed(3)
        learn.fit_one_cycle(epochs, 1e-3)
        found[name] = [float(loss) for loss in learn.recorder.losses]
        say(f"training, {name}: loss {found[name][0]:.4f} to {found[name][-1]:.4f}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few and small, into a temporary folder")
    given = parser.parse_args()
    device, quick = torch.device(given.device), given.quick
    n, bs, rounds = (96, 16, 1) if quick else (2048, 256, 5)
    if device.type != "cuda":
        BatchDeviceDataLoader.on_device = True  # what is done for a GPU
    folder = Path(tempfile.mkdtemp()) if quick else HERE / "results"
    results: Dict[str, Any] = {"surroundings": surroundings(), "device": str(device)}
    if device.type == "cuda":
        results["device"] = torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory() as made:
        say(f"making {n} photographs")
        files, results["photographs"] = pictures.photographs(Path(made) / "photographs", n, 100)
        steps: Dict[str, Callable[[], Any]] = {
            "equality": lambda: equality(files, device),
            "memory": lambda: memory(files, device, bs),
            "parts": lambda: parts(files, device, bs, 4 * rounds),
            "alone": lambda: alone(files, device, bs, rounds),
            "long": lambda: long(files[: len(files) // 2], device, bs, 1 if quick else 3),
            "waiting": lambda: waiting(files, device, bs, 2 if quick else 10**9),
            "training": lambda: training(files, device, bs // 4, 1 if quick else 3),
        }
        for name, step in steps.items():
            results[name] = step()
            (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    print(folder / "gpu.json")


if __name__ == "__main__":
    main()
