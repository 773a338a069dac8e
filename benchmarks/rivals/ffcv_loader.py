"""Measure FFCV: systems for harness.py, and a process that answers line by line for figure 14.

FFCV is set up as its tuning guide describes for a dataset that fits in memory: raw pixels in a file, `os_cache=True`,
random order, only transforms of its own, which it compiles; all else is left at its defaults. `ToTorchImage` keeps
channels last in memory: the batch is a view, where a contiguous NCHW batch would be copied once more by torch. FFCV
resizes by averaging areas (OpenCV's INTER_AREA) and offers no other method.

Figure 14 lets FFCV and memlist take turns, epoch by epoch. So FFCV runs in a process of its own, by the Python of its
environment (`make bench-ffcv`), which has neither memlist nor fastai:

    python ffcv_loader.py FOLDER BETON

writes BETON first if it is missing and prints `{"ready": versions}`. Each line
`{"pipeline": "uint8" or "float", "workers": 1 or 2}` on stdin is answered by a line
`{"seconds_per_image": s, "images": n}` after one epoch. A loader is made when it is first asked for and kept; one epoch
that is not counted follows at once, in which numba compiles the pipeline and the pages of the file are mapped. The end
of stdin ends the process; an error is printed on stderr and exits non-zero.

Threads: an epoch runs on a Python thread of its own, up to three batches ahead, into buffers that are used in turn and
allocated for every epoch; the calling thread only waits. With one worker everything is compiled without `parallel`, and
that thread does all the work. With n workers the loops over a batch's images are `prange`, over n threads of numba's
pool, of which the epoch's thread is one. `Loader` also calls `torch.set_num_threads(n)`. OpenCV's resize stays on the
thread that calls it. `NUMBA_NUM_THREADS` must not be below n in the environment; `OMP_NUM_THREADS` changes nothing.
"""

import gc
import json
import multiprocessing
import os
import platform
import re
import signal
import sys
import threading
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import ffcv.writer
import numba
import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from harness import BATCH, WORKS, System, Work
from PIL import Image

SEED = 20
PACKAGES = ("ffcv", "numba", "torch", "numpy", "pillow")

# -- FFCV's file and loader -----------------------------------------------------------------------------------


class Pictures:
    "Give the writer each file, decoded, and its place in the list."

    def __init__(self, files: List[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tuple[Image.Image, int]:
        with Image.open(self.files[i]) as image:
            return image.convert("RGB"), int(i)


class Worker(multiprocessing.Process):
    "End the parent too when this process of `DatasetWriter` fails: it would wait forever for this one."

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            traceback.print_exc()
            os.kill(os.getppid(), signal.SIGTERM)


def write(files: List[Path], beton: Path, processes: int, **options: Any) -> None:
    "Write the pictures into the file `beton`, which has its name only once it is complete."
    ffcv.writer.Process = Worker
    part = beton.with_name(beton.name + ".part")
    fields = {"image": RGBImageField(**options), "place": IntField()}
    ffcv.writer.DatasetWriter(str(part), fields, num_workers=processes).from_indexed_dataset(Pictures(files))
    os.replace(part, beton)


def operations(work: Work, normalised: bool = True) -> List[Any]:
    "List the operations on an image: floats, normalised in the loader, or the bytes."
    size = work.size, work.size
    if work.crops:
        decoder: Any = RandomResizedCropRGBImageDecoder(size, scale=work.scale, ratio=(0.75, 1.33))
    else:
        decoder = CenterCropRGBImageDecoder(size, ratio=1)
    found = [decoder, *([RandomHorizontalFlip()] if work.flip else [])]
    if normalised:
        # Before `ToTensor`: on a CPU it is compiled code over an array, height by width by channel, as those before it.
        mean, std = (255 * np.array(one) for one in work.stats)
        found.append(NormalizeImage(mean, std, np.float32))
    return [*found, ToTensor(), ToTorchImage()]


def load(beton: Path, steps: List[Any], workers: int) -> Loader:
    "Return the loader of a file."
    return Loader(
        str(beton),
        batch_size=BATCH,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=SEED,
        drop_last=True,
        pipelines={"image": steps, "place": [IntDecoder(), ToTensor(), Squeeze()]},
    )


# -- the systems of the comparison ----------------------------------------------------------------------------


class Raw(System):
    "Keep pixels in a file."

    packages = PACKAGES
    mode = "raw"
    reduced = False

    def prepare(self) -> None:
        beton = Path(self.job.scratch) / "photographs.beton"
        options: Dict[str, Any] = {"write_mode": self.mode}
        if self.reduced:
            options["max_resolution"] = round(self.work.size * 500 / 375)
        write(self.files, beton, 2, **options)
        self.loader = load(beton, operations(self.work), self.job.workers)

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        for x, place in self.loader:
            yield (torch.randn(BATCH, self.work.noise), x) if self.work.noise else (x, place)

    def release(self) -> None:
        del self.loader


class Jpeg(Raw):
    "Keep JPEGs in a file, written at its default quality of 90 and decoded by libjpeg-turbo in every epoch."

    mode = "jpg"


class RawReduced(Raw):
    "Keep pixels reduced by its `max_resolution`, the shorter side to the size that is trained on."

    reduced = True


# -- the process of figure 14 ---------------------------------------------------------------------------------


def timed(loader: Loader) -> Tuple[float, int]:
    "Return the seconds that one pass over `loader` takes, and the images it gave."
    gc.collect()
    images = 0
    begun = time.perf_counter()
    for batch, _ in loader:
        images += len(batch)
    return time.perf_counter() - begun, images


def versions() -> Dict[str, str]:
    "Return what the figures hold for; FFCV's resize is linked to another OpenCV than the one that Python imports."
    linked = re.search(r"libopencv_core\.so\.([\d.]+)", Path("/proc/self/maps").read_text())
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},  # `ffcv.__version__` is that of an older release
        "opencv": linked.group(1) if linked else "unknown",
        "threads": numba.threading_layer(),
    }


def serve(beton: Path, answers: Any) -> None:
    "Answer the lines of stdin until there are no more."
    loaders: Dict[Tuple[str, int], Loader] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        key = str(asked["pipeline"]), int(asked["workers"])
        if key not in loaders:
            normalised = {"uint8": False, "float": True}[key[0]]
            loaders[key] = load(beton, operations(WORKS["crops"], normalised), key[1])
            timed(loaders[key])
        seconds, images = timed(loaders[key])
        print(json.dumps({"seconds_per_image": seconds / images, "images": images}), file=answers, flush=True)


def end_with_threads() -> None:
    """Let an error in any thread end the process.

    When an epoch's thread fails, while compiling for instance, the loop over the loader waits forever.
    """
    tell = threading.excepthook

    def end(error: Any) -> None:
        tell(error)
        sys.stderr.flush()
        os._exit(1)

    threading.excepthook = end


def main() -> None:
    folder, beton = map(Path, sys.argv[1:])
    # FFCV prints here and there: what is printed on stdout and is no answer goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    end_with_threads()
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg"))
    if len(files) < BATCH:
        raise ValueError(f"{folder}: {len(files)} pictures do not fill a batch of {BATCH}")
    if not beton.exists():
        write(files, beton, 1, write_mode="raw")  # a second process would wait forever for the page of a dead one
    held = Reader(str(beton)).num_samples
    if held != len(files):
        raise ValueError(f"{beton} holds {held} pictures, {folder} has {len(files)}: remove the file")
    print(json.dumps({"ready": versions()}), file=answers, flush=True)
    serve(beton, answers)


if __name__ == "__main__":
    main()
