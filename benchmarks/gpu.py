"""Take every figure of `batch_tfms=True` that needs a GPU: `python benchmarks/gpu.py`, about 5 minutes.

Writes all samples to results/gpu.json and the page gpu.md. `--render` only makes the page. `--device cpu --quick` takes
the same steps without a GPU, with few images, into a temporary folder; its figures mean nothing.

The steps, by their key in results/gpu.json:

- `equality`: batches on the device against stock's, under one seed: of pictures of several sizes, and with workers.
- `synchronisations`: how often the processor waits for the device while a batch is made, as torch counts it.
- `sent`: the bytes of a batch on its way from a worker, over those of the batch made, by the size of the pictures.
- `memory`: the most memory on the device that making a batch takes, besides the batch itself.
- `fused`: the kernel that makes a batch against the formulas in torch: values, and times.
- `parts`: where the time of a batch goes: gathering and drawing, starting the device's work, waiting for it.
- `waiting`: the share of a ResNet-18 epoch in mixed precision that a step waits for its batch.
- `long`: images/s of the loader alone by number of workers, over epochs that are long compared with their start.
- `alone`: the same over short ones, and stock's: photographs of 500x375 to 224, default transforms.
- `training`: the losses of one training, stock and ours.
"""

import argparse
import contextlib
import json
import random
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import gpu_kernel
import numpy as np
import page_gpu
import pictures
import PIL.Image
import torch
import torchvision
from bunches import bunch
from fastai.torch_core import to_device
from fastai.vision import ImageList, Learner, crop_pad, cutout, get_transforms, imagenet_stats, rotate
from machine import surroundings
from measure import HERE, exhaust, say

from memlist import MemoryImageList
from memlist.batch.buffers import Buffers
from memlist.batch.threads import Threads
from memlist.fastai1.collate import Collate
from memlist.fastai1.loader import BatchDeviceDataLoader

STOCK = "stock", ImageList, False
CACHE = "cache alone", MemoryImageList, False
OURS = "batch_tfms", MemoryImageList, True


class Setting(NamedTuple):
    "Hold what all steps share."

    files: List[Path]
    device: torch.device
    bs: int
    rounds: int
    quick: bool

    def bunch(self, kind: Tuple[str, Any, bool], workers: int, bs: int = 0, repeat: int = 1, **kwargs: Any) -> Any:
        "Return a data bunch on the device, its cache filled; `repeat` makes an epoch so many times as long."
        _, cls, batch_tfms = kind
        given = {"bs": bs or self.bs, "device": self.device, "batch_tfms": batch_tfms, **kwargs}
        data = bunch(cls, self.files * repeat, given.pop("tfms", get_transforms()), workers, **given)
        return data.load_data(progress=False) if cls is MemoryImageList else data

    def workers(self, *given: int) -> Iterator[int]:
        "Give these numbers of workers, the small ones only in a quick run."
        return (n for n in given if n <= 2 or not self.quick)

    def wait(self) -> None:
        "Wait until the device has done all its work."
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def wait_for_batch(self) -> None:
        "Wait until the device has the batch that was taken; others may be under way in another stream."
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def collate(self, data: Any) -> Collate:
        "Return what gathers a batch."
        return Collate(data.train_ds, data.train_dl.dl.collate_fn, True, data.train_dl._norm()[0])


def seed(k: int) -> None:
    "Seed every generator that a batch draws from."
    random.seed(k)
    np.random.seed(k)
    torch.manual_seed(k)


# Pictures that take each way to the device: sent as they are, averaged down there, made before.
WAYS: Dict[str, Tuple[int, int, int]] = {
    "500x375 to 224": (500, 375, 224),
    "640x480 to 224": (640, 480, 224),
    "2000x1500 to 64": (2000, 1500, 64),
}


@contextlib.contextmanager
def resized(at: Setting, n: int, width: int, height: int) -> Iterator[Setting]:
    "Give a setting with the first `n` photographs in another size."
    with tempfile.TemporaryDirectory(prefix="memlist-gpu-") as folder:
        files = [Path(folder) / file.name for file in at.files[:n]]
        for file, made in zip(at.files, files):
            with PIL.Image.open(file) as image:
                image.resize((width, height), PIL.Image.BILINEAR).save(made, quality=90)
        yield at._replace(files=files)


def equality(at: Setting) -> Dict[str, Any]:
    "Compare batches on the device with stock's, under one seed."
    found: Dict[str, Any] = {"cases": {}}
    turned = [rotate(degrees=(-60, 60)), cutout(n_holes=(1, 3), length=(20, 60)), crop_pad(padding_mode="zeros")]
    for name, (width, height, size) in WAYS.items():
        with resized(at, 32, width, height) as small:
            for case, workers, kwargs in (
                (name, 0, {}),
                (f"{name}, 2 workers", 2, {}),
                (f"{name}, turned, with holes", 0, {"tfms": (turned, [])}),
            ):
                one = _compared(small, workers, bs=16, size=size, **kwargs)
                found["cases"][case] = one
                say(f"equality, {case}: {100 * one['within 1e-3']:.3f} % within 1e-3, mean {one['mean']:.1e}")
    found.update(_compared(at, 0, bs=64))
    say(f"equality: {100 * found['within 1e-3']:.3f} % within 1e-3, mean {found['mean']:.1e}")
    return found


def _compared(at: Setting, workers: int, **kwargs: Any) -> Dict[str, float]:
    "Compare the first batch with stock's: the share of values within 1e-3, and the mean difference."
    made = []
    for kind in (STOCK, OURS):
        data = at.bunch(kind, workers, **kwargs)
        seed(1)
        made.append(next(iter(data.train_dl))[0].float().cpu() * torch.tensor(imagenet_stats[1])[:, None, None])
    away = (made[0] - made[1]).abs()
    return {"within 1e-3": float((away <= 1e-3).float().mean()), "mean": float(away.mean())}


def synchronisations(at: Setting) -> Dict[str, Any]:
    "Count the waits for the device while batches are made, and say where they come from; none without a GPU."
    found: Dict[str, Any] = {"counted": at.device.type == "cuda", "batches": {}, "where": []}
    for name, (width, height, size) in WAYS.items():
        with resized(at, 64, width, height) as small:
            for workers in (0, 2):
                data = small.bunch(OURS, workers, bs=16, size=size)
                list(data.train_dl)  # what the first epoch sets up
                with _counted(at.device) as counts:
                    batches = sum(1 for _ in data.train_dl)
                case = f"{name}, {workers} workers"
                found["batches"][case] = {"batches": batches, "synchronisations": len(counts)}
                found["where"] += [f"{case}: {one}" for one in counts[:3]]
                say(f"synchronisations, {case}: {len(counts)} in {batches} batches")
    for line in found["where"]:
        say(line)
    return found


@contextlib.contextmanager
def _counted(device: torch.device) -> Iterator[List[str]]:
    "Collect the places where torch waits for the device, in any thread."
    places: List[str] = []
    if device.type != "cuda":
        yield places
        return

    def note(message: Any, *args: Any, **kwargs: Any) -> None:
        if "synchroniz" in str(message):
            places.append(
                " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_stack()[-7:-1])
            )

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        places.clear()  # the mode itself warns that it is a prototype
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")


def sent(at: Setting) -> Dict[str, Any]:
    "Return the bytes that a worker sends per batch, and those of the batch."
    found = {}
    for name, (width, height, size) in WAYS.items():
        with resized(at, 32, width, height) as small:
            batch = small.collate(small.bunch(OURS, 0, bs=32, size=size))(list(range(len(small.files))))
            sent = batch.x.data.numel()
            x, _ = batch.on(at.device, to_device)
            found[name] = {"sent": sent, "batch": x.numel() * x.element_size()}
            say(f"sent, {name}: {found[name]['sent'] / found[name]['batch']:.2f} batches")
    return found


def memory(at: Setting) -> float:
    "Return the most memory on the device besides the batch, in batches; 0 without a GPU: see figure_batches.py."
    if at.device.type != "cuda":
        return 0.0
    collate = at.collate(at.bunch(OURS, 0))
    collate(list(range(at.bs))).on(at.device, to_device)  # whatever is made once has been made
    batch = collate(list(range(at.bs)))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(at.device)
    before = torch.cuda.memory_allocated(at.device)
    x, _ = batch.on(at.device, to_device)
    size = x.numel() * x.element_size()
    above = (torch.cuda.max_memory_allocated(at.device) - before - size) / size
    say(f"memory above the batch: {above:.2f} batches")
    return above


def fused(at: Setting) -> Dict[str, Any]:
    "Compare the kernel with the formulas in torch: batches of all kinds, and of photographs, of which it times some."
    bs = min(256, len(at.files))
    found: Dict[str, Any] = {"used": gpu_kernel.used(at.device), "bs": bs, "cases": {}, "times": {}}
    if not found["used"]:
        say(f"kernel: Triton is not used on {at.device}; nothing to compare")
        return found
    for name, sent in gpu_kernel.by_hand():
        found["cases"][name] = gpu_kernel.compared(name, sent, at.device)
        found["used"] = gpu_kernel.used(at.device)
        if not found["used"]:  # a warning has said why
            return found
    turned = [rotate(degrees=(-60, 60)), cutout(n_holes=(1, 3), length=(20, 60)), crop_pad(padding_mode="zeros")]
    for name in ("500x375 to 224", "640x480 to 224"):  # others are made before they are sent
        width, height, size = WAYS[name]
        with resized(at, bs, width, height) as small:
            for case, kwargs in ((name, {}), (f"{name}, turned, with holes", {"tfms": (turned, [])})):
                data = small.bunch(OURS, 0, bs, size=size, **kwargs)
                seed(1)
                sent = small.collate(data)(list(range(len(small.files)))).x
                found["cases"][case] = gpu_kernel.compared(case, sent, at.device)
                if not kwargs:
                    found["times"][name] = gpu_kernel.timed(sent, at.device, 2 * at.rounds)
    return found


def parts(at: Setting) -> Dict[str, List[float]]:
    "Time the parts of making a batch, in seconds per batch; the last part waits until the device has done its work."
    collate = at.collate(at.bunch(OURS, 0))
    collate.memory, collate.threads = Buffers(), Threads(torch.get_num_threads())  # as the loader has it
    found: Dict[str, List[float]] = {
        "gather and draw": [],
        "start the copy to the device and the transforms": [],
        "wait for them": [],
    }
    for k in range(4 * at.rounds + 2):
        order = np.random.RandomState(k).permutation(len(at.files))[: at.bs].tolist()
        clock = [time.perf_counter()]
        batch = collate(order)
        clock.append(time.perf_counter())
        batch.on(at.device, to_device)
        clock.append(time.perf_counter())
        at.wait()
        clock.append(time.perf_counter())
        if k >= 2:
            for name, seconds in zip(found, np.diff(clock).tolist()):
                found[name].append(seconds)
    for name, samples in found.items():
        say(f"a batch of {at.bs}: {name}: {1e3 * np.median(samples):.2f} ms")
    return found


def alone(at: Setting) -> Dict[str, Any]:
    "Time the loader, in seconds per image, the device's work included."
    found: Dict[str, Any] = {}
    for kind in (STOCK, OURS):
        for workers in at.workers(0, 2, 4, 8, 16):
            data, samples = at.bunch(kind, workers, repeat=2 if kind is OURS else 1), []
            warm = 1 if kind is OURS else 0  # stock keeps nothing
            for k in range((at.rounds if kind is OURS else 1) + warm):
                seed(k)
                begun = time.perf_counter()
                exhaust(data.train_dl)
                at.wait()
                samples.append((time.perf_counter() - begun) / (len(data.train_dl) * at.bs))
            name = f"{kind[0]}, {workers} workers"
            found[name] = samples[warm:]
            say(f"loader alone, {name}: {1 / np.median(samples[warm:]):,.0f} images/s")
    return found


def long(at: Setting) -> Dict[str, Any]:
    "Time our loader over epochs of 16 times the files."
    at = at._replace(rounds=min(at.rounds, 2))
    found: Dict[str, Any] = {"images": 16 * len(at.files) // at.bs * at.bs}
    for workers in at.workers(0, 1, 2, 4, 8):
        data = at.bunch(OURS, workers, repeat=16)
        seconds, first = [], []
        for k in range(at.rounds + 1):
            seed(k)
            begun, there = time.perf_counter(), 0.0
            for _ in data.train_dl:
                there = there or time.perf_counter() - begun
            at.wait()
            seconds.append(time.perf_counter() - begun)
            first.append(there)
        found[f"{workers} workers"] = {"seconds": seconds[1:], "first batch": first[1:]}
        rate, ms = found["images"] / np.median(seconds[1:]), 1e3 * np.median(first[1:])
        say(f"long epochs, {workers} workers: {rate:,.0f} images/s, the first batch after {ms:.0f} ms")
    return found


def waiting(at: Setting) -> Dict[str, Any]:
    "Time how long the steps of a ResNet-18 wait for their batches; where they wait little, over a longer epoch."
    found = {}
    for kind in (STOCK, CACHE, OURS):
        for workers in at.workers(*((0, 2, 4, 8) if kind is OURS else (0, 16))):
            step = _step(at.device)
            data = at.bunch(kind, workers, repeat=40 if kind is OURS else 1)
            _epoch(data, step, at.wait_for_batch, True)  # sets up what a training needs
            one = {**_epoch(data, step, at.wait_for_batch, at.quick), "bs": at.bs}
            name = f"{kind[0]}, {workers} workers"
            found[name] = one
            later = 100 * (one["waited"] - one["first"]) / (one["total"] - one["first"])
            share, rate = 100 * one["waited"] / one["total"], one["batches"] * at.bs / one["total"]
            say(f"ResNet-18, {name}: {share:.1f} % waiting, {later:.1f} % after the first batch, {rate:,.0f} images/s")
    return found


def _step(device: torch.device) -> Callable[[Any, Any], None]:
    "Return a training step of a new ResNet-18."
    model = torchvision.models.resnet18(num_classes=2).to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16

    def step(x: Any, y: Any) -> None:
        with torch.autocast(device.type, kind):
            found = model(x.contiguous(memory_format=torch.channels_last))
            loss = torch.nn.functional.cross_entropy(found, y.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()  # as fastai does after every batch: the device is idle from here on

    return step


def _epoch(data: Any, step: Callable[[Any, Any], None], wait: Callable[[], None], begins: bool) -> Dict[str, Any]:
    "Train for one epoch, or for how it `begins`: the seconds that it waits, for the first batch and at all, and all."
    waits: List[float] = []
    begun = last = time.perf_counter()
    for x, y in data.train_dl:
        wait()  # until the device has made the batch
        waits.append(time.perf_counter() - last)
        step(x, y)
        last = time.perf_counter()
        if begins and len(waits) == 2:
            break
    total = time.perf_counter() - begun
    return {"waited": sum(waits), "first": waits[0], "total": total, "batches": len(waits)}


def training(at: Setting) -> Dict[str, List[float]]:
    "Return the smoothed losses of one training, stock and ours, in mixed precision on a GPU."
    if at.quick:
        at = at._replace(files=at.files[: at.bs])
    found = {}
    for kind in (STOCK, OURS):
        data = at.bunch(kind, 2 if at.quick else 4, at.bs // 4)
        seed(2)
        learn = Learner(data, torchvision.models.resnet18(num_classes=2), silent=True)
        with contextlib.suppress(AssertionError):  # fastai's needs a GPU
            learn = learn.to_fp16()
        seed(3)
        learn.fit_one_cycle(1 if at.quick else 3, 1e-3)
        losses = found[kind[0]] = [float(loss) for loss in learn.recorder.losses]
        say(f"training, {kind[0]}: loss {losses[0]:.4f} to {losses[-1]:.4f}")
    return found


STEPS: Tuple[Callable[[Setting], Any], ...] = (
    equality,
    synchronisations,
    sent,
    memory,
    fused,
    parts,
    waiting,
    long,
    alone,
    training,
)


def run(device: torch.device, quick: bool, only: List[str], raw: Path) -> Dict[str, Any]:
    "Take every step, or `only` these, and write what is there into the file `raw` after each."
    n, bs, rounds = (96, 16, 1) if quick else (1024, 256, 5)
    results: Dict[str, Any] = {"surroundings": surroundings(), "quick": quick, "device": str(device)}
    if device.type == "cuda":
        results["device"] = torch.cuda.get_device_name(device)
    else:
        BatchDeviceDataLoader.on_device = True  # what is done for a GPU
    with tempfile.TemporaryDirectory(prefix="memlist-gpu-") as folder:
        say(f"making {n} photographs")
        files, results["photographs"] = pictures.photographs(Path(folder) / "photographs", n, 100)
        for step in STEPS:
            if only and step.__name__ not in only:
                continue
            try:
                results[step.__name__] = step(Setting(files, device, bs, rounds, quick))
            except Exception:  # the other steps are worth having
                results.setdefault("failed", []).append(step.__name__)
                say(f"{step.__name__} FAILED\n{traceback.format_exc()}")
            raw.write_text(json.dumps(results, indent=1) + "\n")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few and small, into a temporary folder")
    names = [step.__name__ for step in STEPS]
    parser.add_argument("--only", nargs="+", choices=names, default=[], help="these steps, into a temporary folder")
    parser.add_argument("--render", action="store_true", help="only make the page from the raw figures")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick or given.only else HERE
    raw = folder / "results" / "gpu.json"
    raw.parent.mkdir(exist_ok=True)
    device = torch.device(given.device)
    results = json.loads(raw.read_text()) if given.render else run(device, given.quick, given.only, raw)
    (folder / "gpu.md").write_text(page_gpu.render(results))
    print(folder / "gpu.md")
    if results.get("failed"):
        raise SystemExit(f"These steps failed: {', '.join(results['failed'])}")


if __name__ == "__main__":
    main()
