"""Measure one system on one job, in an environment of its own: `python harness.py MODULE CLASS JOB`.

JOB is a `Job` as JSON. Prints one line of JSON: what `measure` returns, or `first_batch` where the job has no more than
that. With `turns` as the last argument it waits for its turns: what `serve` says. Needs only NumPy and what the
system's module imports; beside.py starts it and keeps the answers.
"""

import gc
import importlib
import json
import os
import platform
import resource
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

sys.path.append(str(Path(__file__).resolve().parents[1]))
from measure import pss as of_processes
from systems import BATCH

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


class Work(NamedTuple):
    "The contents of a batch of a job, the same for every system."

    size: int
    #: Mirrored with a probability of a half.
    flip: bool = True
    #: Crop a random part of the area, at a ratio of 0.75 to 1.33, instead of the middle square.
    crops: bool = False
    #: The least and the largest part.
    scale: Tuple[float, float] = (0.5, 1.0)
    #: fastai's `get_transforms()`.
    default: bool = False
    #: Each image has a mask, transformed alike, int64.
    masks: bool = False
    #: So many values of noise per image are the input; the image is the target.
    noise: int = 0
    stats: Tuple[Tuple[float, ...], Tuple[float, ...]] = IMAGENET


WORKS: Dict[str, Work] = {
    "common": Work(224),
    "default": Work(224, default=True),
    "digits": Work(28, flip=False),
    "segmentation": Work(224, masks=True),
    "gan": Work(64, flip=False, noise=100, stats=HALF),
    "crops": Work(224, crops=True),
    "folder": Work(224, crops=True, scale=(0.08, 1.0)),
}


class Job(NamedTuple):
    "One job for one process."

    work: str
    #: The pictures: NNNNN.jpg or .png in the folders `a` and `b`; their masks are in `masks` beside this one.
    folder: str
    #: An empty folder for the system's own files, deleted afterwards.
    scratch: str
    n: int
    workers: int
    #: The share of the images that it may keep.
    share: float = 1.0
    #: Warm epochs; 0: the job is done with the first batch of all.
    warm: int = 5
    #: Seconds after which no further warm epoch begins; one runs in any case.
    enough: float = 5.0


class System:
    """Do one job with one system. The constructor may read the list of files; batches come from `epoch`.

    Batches are pairs of inputs, float32, and targets; `places` says in which files they are found. `workers` is a
    number that a system has, 0 to 2: processes for torch's loaders, threads where it has those.
    """

    #: The packages whose versions are noted.
    packages: Tuple[str, ...] = ()
    #: Height, width and channel of a batch: "NCHW" or "NHWC".
    layout = "NCHW"

    def __init__(self, job: Job) -> None:
        self.job, self.work = job, WORKS[job.work]
        self.files = files_of(job)

    def prepare(self) -> None:
        "Do what has to be done before the first epoch."

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        "Give the batches of one pass."
        raise NotImplementedError

    def release(self) -> None:
        "Return the memory, as the system's documentation describes."


def files_of(job: Job) -> List[Path]:
    "List the first n pictures of a job."
    found = sorted(file for kind in ("a", "b") for file in Path(job.folder, kind).iterdir())
    return sorted(found, key=lambda file: file.name)[: job.n]


def mask_of(file: Path) -> Path:
    "Return the mask of a picture."
    return file.parents[2] / "masks" / f"{file.stem}.png"


# -- memory ---------------------------------------------------------------------------------------------------


def tree(pid: int) -> List[int]:
    "List a process and its descendants."
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:  # that thread has ended
            continue
        for child in children:
            found += tree(int(child))
    return found


def pss() -> int:
    "Return the proportional memory of this process and its descendants, in bytes."
    total = 0
    for pid in tree(os.getpid()):
        try:
            total += of_processes([pid])["total"]
        except OSError:  # it has ended
            continue
    return total


# -- measuring ------------------------------------------------------------------------------------------------


class Epoch(NamedTuple):
    seconds: float
    #: Until the first batch was there.
    first: float
    images: int
    #: Seconds of processor time, of workers that have ended, too.
    cpu: float


def processor_time() -> float:
    "Return the seconds of processor time of this process and of those of its children that have ended."
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(system: System, look: bool) -> Tuple[Epoch, int, Any]:
    """Run one pass; return its time, the memory at its last batch, and that batch.

    The clocks stop while memory is measured: all batches have been made then, and workers have nothing to do.
    """
    gc.collect()
    last, images, found, first, kept = system.job.n // BATCH, 0, 0, 0.0, None
    begun, worked = time.perf_counter(), processor_time()
    for k, batch in enumerate(system.epoch(), 1):
        if k == 1:
            first = time.perf_counter() - begun
        images += len(batch[0])
        if k == last:
            at, work = time.perf_counter(), processor_time()
            if look:
                found = pss()
            kept = [one.clone() if hasattr(one, "clone") else one for one in batch]
            begun += time.perf_counter() - at
            worked += processor_time() - work
    return Epoch(time.perf_counter() - begun, first, images, processor_time() - worked), found, kept


def measure(make: Any, job: Job) -> Dict[str, Any]:
    "Return every figure of one system on one job."
    bare = pss()
    begun = time.perf_counter()
    system = make(job)
    made = time.perf_counter() - begun
    begun = time.perf_counter()
    system.prepare()
    prepared = time.perf_counter() - begun
    peaks = [pss()]
    cold, peak, _ = timed(system, True)
    peaks.append(peak)
    warm: List[Epoch] = []
    batch: Any = None
    while len(warm) < job.warm and sum(one.seconds for one in warm) < job.enough:
        epoch, peak, batch = timed(system, True)
        warm.append(epoch)
        peaks.append(peak)
    problem = wrong(system, batch)
    shape = [list(one.shape) for one in batch]
    del batch
    system.release()
    del system
    gc.collect()
    return {
        "made": made,
        "prepared": prepared,
        "cold": cold._asdict(),
        "warm": [epoch._asdict() for epoch in warm],
        "bare": bare,
        "peak": max(peaks),
        "released": pss(),
        "wrong": problem,
        "shape": shape,
    }


def first_batch(make: Any, job: Job) -> Dict[str, Any]:
    "Return the seconds from the list of files to the first batch, and what is wrong with that batch."
    begun = time.perf_counter()
    system = make(job)
    system.prepare()
    batch = next(iter(system.epoch()))
    return {"first": time.perf_counter() - begun, "wrong": wrong(system, batch)}


def serve(make: Any, job: Job, answer: Callable[[Dict[str, Any]], None]) -> None:
    """Take part in a comparison in turns: an epoch for each line of stdin, answered by its `Epoch`.

    The first answer, `ready`, comes when all is prepared. The end of stdin is answered by what is wrong with the last
    batch.
    """
    system = make(job)
    system.prepare()
    answer({"ready": True})
    batch: Any = None
    for _ in sys.stdin:
        epoch, _, batch = timed(system, False)
        answer(epoch._asdict())
    answer({"wrong": "no batch was made" if batch is None else wrong(system, batch)})


def wrong(system: System, batch: Any) -> Optional[str]:
    """Return what is wrong with a batch; None if nothing is.

    Its shape and type, and its mean colours against those of the files, by Pillow's own resize: a system that made
    less of the work, or delivered another image, would not pass.
    """
    import numpy as np
    from PIL import Image

    work = system.work
    if work.noise and (tuple(batch[0].shape)[:2] != (BATCH, work.noise) or "float32" not in str(batch[0].dtype)):
        return f"noise of {batch[0].shape}"
    found, target = (batch[1], None) if work.noise else batch
    images = np.asarray(found.numpy())
    if system.layout == "NHWC":
        images = images.transpose(0, 3, 1, 2)
    if images.shape != (BATCH, 3, work.size, work.size) or images.dtype != np.float32:
        return f"images of {images.shape}, {images.dtype}"
    if work.masks:
        masks = np.asarray(target.numpy()).reshape(BATCH, -1)
        if masks.shape[1] != work.size**2 or "int" not in str(masks.dtype) or masks.max() > 7:
            return f"masks of {target.shape}, {target.dtype}, up to {masks.max()}"
        return None
    mean, std = (np.array(one).reshape(1, 3, 1, 1) for one in work.stats)
    colours = (images * std + mean).mean((2, 3))
    if work.noise or work.default or work.crops:
        return None if colours.min() > 0 and colours.max() < 1 and colours.std(0).min() > 0.01 else "odd colours"
    for k, i in enumerate(np.asarray(target.numpy()).reshape(-1).astype(int).tolist()):
        image = Image.open(system.files[i]).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        away = np.abs(np.asarray(square).mean((0, 1)) / 255 - colours[k]).max()
        if away > 0.02:
            return f"image {i} is {away:.3f} away from its file"
    return None


def versions(packages: Tuple[str, ...]) -> Dict[str, str]:
    "Return the versions of Python and of the packages."
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def main() -> None:
    module, name, job, in_turns = sys.argv[1], sys.argv[2], Job(**json.loads(sys.argv[3])), "turns" in sys.argv[4:]
    # Libraries print to stdout too: only the answers may go there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: Dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    begun = time.perf_counter()
    make = getattr(importlib.import_module(module), name)
    imported = time.perf_counter() - begun
    if in_turns:
        serve(make, job, answer)
    else:
        found = measure(make, job) if job.warm else first_batch(make, job)
        answer({**found, "imported": imported, "versions": versions(make.packages)})
    answers.close()
    os._exit(0)  # some libraries leave threads that never end


if __name__ == "__main__":
    main()
