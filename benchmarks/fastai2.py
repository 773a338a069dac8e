"""Take the figures of fastai 2's front end: `python benchmarks/fastai2.py`, about 6 minutes on two cores.

It runs in the environment of fastai 2: `make bench-fastai2`. Writes all samples to results/fastai2.json and the page
fastai2.md. `--render` only makes the page. `--quick` takes few images, into a temporary folder; with `--device cpu` it
takes the steps of a GPU, too, and then its figures mean nothing. `--only gpu --only pinned` adds those of a GPU to
figures that were taken elsewhere.

The steps, by their key in results/fastai2.json:

- `alone`: processor time per image of the loader alone, on one thread
- `loader`: images/s of the loader alone, by number of workers and of torch's threads
- `training`: `fine_tune` of a ResNet-18 at 128 pixels on the processor: seconds, and the share that it waits
- `gpu`: an epoch of a ResNet-18 in mixed precision on a GPU: the same; `pinned`: the same with `pin_memory=True`
"""

import argparse
import json
import random
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import machine
import numpy as np
import page_fastai2
import pictures
import PIL.Image
import torch
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    RandomResizedCrop,
    Resize,
    aug_transforms,
    resnet18,
    vision_learner,
)
from measure import HERE, interleave, say

from memlist.fastai2 import in_memory

BATCH = 64
#: The transforms of single items, and the size of the photographs, by name.
PIPELINES: Dict[str, Tuple[Callable[[], Any], str]] = {
    "Resize(224)": (partial(Resize, 224), "500x375"),
    "RandomResizedCrop(224)": (partial(RandomResizedCrop, 224), "500x375"),
    "Resize(460)": (partial(Resize, 460), "500x375"),
    "Resize(224) of 1600x1200": (partial(Resize, 224), "1600x1200"),
}
#: Pipelines whose images per second are measured.
WALL = "Resize(224)", "RandomResizedCrop(224)", "Resize(460)"


class Scale(NamedTuple):
    """How many photographs of each size, and rounds.

    - `trained`: those that a training on the processor sees per epoch; `gpu`: those on a GPU
    """

    photographs: int
    large: int
    rounds: int
    trained: int
    trainings: int
    gpu: int


FULL, QUICK = Scale(512, 128, 5, 512, 2, 8192), Scale(64, 64, 1, 64, 1, 64)


class Setting(NamedTuple):
    "Hold what all steps share."

    scale: Scale
    #: The photographs by their size.
    files: Dict[str, List[Path]]
    device: torch.device

    def loaders(self, ours: bool, files: List[Path], workers: int, **kwargs: Any) -> Any:
        "Return DataLoaders of photographs in two classes, filled if they are ours."
        given = {"bs": BATCH, "num_workers": workers, "seed": 7, "device": torch.device("cpu"), **kwargs}
        made = ImageDataLoaders.from_path_func(files[0].parent, files, _label, **given)
        return in_memory(made).load_data(progress=False) if ours else made


def _label(file: Path) -> str:
    return "even" if int(file.stem) % 2 == 0 else "odd"


def _seed(k: int) -> None:
    "Set every generator that fastai draws from."
    random.seed(k)
    np.random.seed(k)
    torch.manual_seed(k)


def _name(ours: bool) -> str:
    return "memlist" if ours else "fastai"


def _cpu() -> float:
    "Return the processor time of this process and of its workers that have ended, in seconds."
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


# -- the loader alone ---------------------------------------------------------------------------------------------


def _alone(at: Setting, pipeline: str, ours: bool, workers: int) -> Any:
    """Return the loader of a pipeline's training items.

    Without the transforms of whole batches: the device does them, and they are fastai's own on both sides.
    """
    tfms, size = PIPELINES[pipeline]
    _seed(3)  # a loader draws the seed of its own generator, which shuffles, when it is made
    loader = at.loaders(ours, at.files[size], workers, item_tfms=tfms(), valid_pct=0.0).train
    loader.after_batch.fs.clear()
    return loader


def _equal(loaders: Dict[str, Any]) -> bool:
    "Return whether the loaders make the same batches under one seed: to the bit, in type and strides."
    epochs = []
    for loader in loaders.values():
        _seed(1)
        epochs.append([next(iter(loader)), torch.rand(1).item(), random.random(), np.random.rand()])
    (one, *drawn), (other, *as_well) = epochs
    alike = all(type(a) is type(b) and a.stride() == b.stride() and torch.equal(a, b) for a, b in zip(one, other))
    return alike and drawn == as_well


class Epoch:
    "Iterate over a loader with so many of torch's threads; return seconds per image, and note those of a processor."

    def __init__(self, loader: Any, threads: int) -> None:
        self.loader, self.threads = loader, threads
        self.cpu: List[float] = []

    def __call__(self, k: int) -> float:
        torch.set_num_threads(self.threads)
        _seed(k + 1)
        begun, before = time.perf_counter(), _cpu()
        images = sum(len(x) for x, _ in self.loader)
        taken = time.perf_counter() - begun
        if k >= 0:
            self.cpu.append((_cpu() - before) / images)
        return taken / images


def _in_turns(at: Setting, pipeline: str, ways: List[Tuple[int, int]]) -> Dict[str, Any]:
    "Let both sides run in turns, in each of the `ways`: a number of workers and one of torch's threads."
    epochs: Dict[str, Epoch] = {}
    found: Dict[str, Any] = {"equal": True, "ways": {}}
    own = torch.get_num_threads()
    for workers, threads in ways:
        loaders = {_name(ours): _alone(at, pipeline, ours, workers) for ours in (False, True)}
        found["equal"] = found["equal"] and _equal(loaders)
        for name, loader in loaders.items():
            epochs[f"{name}, {workers}, {threads}"] = Epoch(loader, threads)
    samples = interleave(dict(epochs), at.scale.rounds)
    torch.set_num_threads(own)
    for key, one in epochs.items():
        name, workers, threads = key.split(", ")
        way = {"system": name, "workers": int(workers), "threads": int(threads)}
        found["ways"][key] = {**way, "samples": samples[key], "cpu": one.cpu}
        say(f"{pipeline}, {key} threads: {page_fastai2.brief(found['ways'][key])}")
    return found


def alone(at: Setting) -> Dict[str, Any]:
    "Measure both sides on one thread, without workers."
    return {pipeline: _in_turns(at, pipeline, [(0, 1)]) for pipeline in PIPELINES}


def loader(at: Setting) -> Dict[str, Any]:
    "Measure both sides without workers, on one thread and on all, and with two workers."
    own = torch.get_num_threads()
    ways = sorted({(0, 1), (0, own), (2, own)})
    return {pipeline: _in_turns(at, pipeline, ways) for pipeline in WALL}


# -- training -----------------------------------------------------------------------------------------------------


class Waits(Callback):
    """Count the seconds in which a training has no batch to work on.

    - `transformed`: the part that goes into the transforms of whole batches, which are fastai's own on both sides
    - `first`: the part before the loader's first batch of an epoch, in which workers start
    """

    order = 1000

    def __init__(self, device: torch.device) -> None:
        self.waited, self.first, self.transformed, self.batches = 0.0, 0.0, 0.0, 0
        self._device = device

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _begin(self) -> None:
        "Begin to wait for the first batch of an epoch."
        self._loader, self._transforms = self.dl, self.dl.after_batch
        self._loader.after_batch = self._transform
        self._since, self._at_first = self._now(), True

    before_train = before_validate = _begin

    def _transform(self, batch: Any) -> Any:
        "Transform a batch that the loader has made, and wait until the device has done so."
        begun = self._now()
        self.waited += begun - self._since
        if self._at_first:
            self.first += begun - self._since
        made = self._transforms(batch)
        transformed = self._now() - begun
        self.transformed += transformed
        self.waited += transformed
        self.batches += 1
        return made

    def after_batch(self) -> None:
        "Begin to wait for the next batch."
        self._since, self._at_first = self._now(), False

    def _end(self) -> None:
        "Give the loader its transforms back."
        self._loader.after_batch = self._transforms

    after_train = after_validate = _end


def _trainings(
    at: Setting, ways: List[Tuple[bool, int]], make: Callable[[bool, int], Any], train: Callable[[Any], None]
) -> Dict[str, Any]:
    """Train a new ResNet-18 per round and way, in turns; return seconds, seconds waited, and images per second.

    `make`: the DataLoaders of a side and a number of workers; `train`: what is timed.
    """
    loaders = {f"{_name(ours)}, {workers}": make(ours, workers) for ours, workers in ways}
    counted = "waited", "first", "transformed", "batches"
    found: Dict[str, Any] = {key: {"seconds": [], **{name: [] for name in counted}} for key in loaders}

    def once(key: str, k: int) -> float:
        _seed(5)
        waits = Waits(at.device)
        learn = vision_learner(loaders[key], resnet18, pretrained=False, cbs=waits)
        if at.device.type == "cuda":
            learn = learn.to_fp16()
        with learn.no_bar(), learn.no_logging():
            begun = time.perf_counter()
            train(learn)
            taken = time.perf_counter() - begun
        if k >= 0:
            for name in counted:
                found[key][name].append(getattr(waits, name))
        return taken

    seconds = interleave({key: partial(once, key) for key in loaders}, at.scale.trainings)
    for (ours, workers), (key, one) in zip(ways, found.items()):
        one.update(system=_name(ours), workers=workers, seconds=seconds[key])
        say(f"training, {key} workers: {page_fastai2.brief_training(one)}")
    return found


def training(at: Setting) -> Dict[str, Any]:
    "Train on the processor with `fine_tune`: an epoch of the head, and one of all layers."
    files = at.files["500x375"][: at.scale.trained]
    tfms = partial(RandomResizedCrop, 128, min_scale=0.35)

    def make(ours: bool, workers: int) -> Any:
        return at.loaders(ours, files, workers, item_tfms=tfms())

    ways = [(False, 0), (False, 2), (True, 0), (True, 2)]
    on_cpu = at._replace(device=torch.device("cpu"))
    return {"images": len(files), "ways": _trainings(on_cpu, ways, make, lambda learn: learn.fine_tune(1))}


def _on_gpu(at: Setting, ways: List[Tuple[bool, int]], pin_memory: bool) -> Dict[str, Any]:
    "Train on a GPU in mixed precision for one epoch, presized: `Resize(460)`, then fastai's augmentations to 224."
    files = at.files["500x375"]
    files = (files * -(-at.scale.gpu // len(files)))[: at.scale.gpu]

    def make(ours: bool, workers: int) -> Any:
        tfms = {"item_tfms": Resize(460), "batch_tfms": aug_transforms(size=224)}
        return at.loaders(ours, files, workers, device=at.device, pin_memory=pin_memory, **tfms)

    name = torch.cuda.get_device_name(at.device) if at.device.type == "cuda" else "no GPU: the processor"
    found = _trainings(at, ways, make, lambda learn: learn.fit_one_cycle(1))
    return {"device": name, "surroundings": machine.surroundings(), "images": len(files), "ways": found}


def gpu(at: Setting) -> Dict[str, Any]:
    "Train on a GPU as fastai does if it is told nothing else."
    cpus = machine.surroundings()["cpus"]
    ways = [(False, min(8, cpus)), (False, min(16, cpus)), (True, 0), (True, 2), (True, min(8, cpus))]
    return _on_gpu(at, ways, False)


def pinned(at: Setting) -> Dict[str, Any]:
    "Train on a GPU with `pin_memory=True`: a thread makes each batch of the workers ready for the copy to the device."
    cpus = machine.surroundings()["cpus"]
    return _on_gpu(at, [(False, min(16, cpus)), (True, 2), (True, min(8, cpus))], True)


STEPS: Dict[str, Callable[[Setting], Any]] = {
    "alone": alone,
    "loader": loader,
    "training": training,
    "gpu": gpu,
    "pinned": pinned,
}
ON_GPU = {"gpu", "pinned"}


def photographs(folder: Path, scale: Scale) -> Tuple[Dict[str, List[Path]], str]:
    "Write photographs of both sizes; the large ones are enlarged. Return them by size, and a line that describes them."
    files, said = pictures.photographs(folder / "500x375", scale.photographs, 100)
    large = folder / "1600x1200"
    large.mkdir()
    for file in files[: scale.large]:
        with PIL.Image.open(file) as image:
            image.resize((1600, 1200), PIL.Image.BICUBIC).save(large / file.name, quality=90)
    return {"500x375": files, "1600x1200": sorted(large.glob("*.jpg"))}, said


def run(given: Any, results: Dict[str, Any], raw: Path) -> None:
    "Take the steps, and write what is there into the file `raw` after each."
    device, scale = torch.device(given.device), QUICK if given.quick else FULL
    steps = given.only or [name for name in STEPS if name not in ON_GPU or given.quick or device.type == "cuda"]
    if not ON_GPU.issuperset(steps) or not results:
        results.update(surroundings=machine.surroundings(), quick=given.quick)
    with tempfile.TemporaryDirectory(prefix="memlist-fastai2-") as folder:
        files, said = photographs(Path(folder), scale)
        results.setdefault("photographs", said)
        for name in steps:
            results[name] = STEPS[name](Setting(scale, files, device))
            raw.write_text(json.dumps(results) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="few images, into a temporary folder")
    parser.add_argument("--only", choices=list(STEPS), action="append", help="take this step again and keep the others")
    parser.add_argument("--render", action="store_true", help="make the page from the raw results")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick else HERE
    raw = folder / "results" / "fastai2.json"
    raw.parent.mkdir(exist_ok=True)
    results: Dict[str, Any] = json.loads(raw.read_text()) if raw.exists() and (given.render or given.only) else {}
    if not given.render:
        run(given, results, raw)
    (folder / "fastai2.md").write_text(page_fastai2.render(results))
    print(folder / "fastai2.md")


if __name__ == "__main__":
    main()
