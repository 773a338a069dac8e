"""FFCV on the job of the figures: a random resized crop to 224 and a flip, from a folder of photographs, raw in a file.

Run by the Python of FFCV's own environment, which has neither memlist nor fastai, and talked to line by line:

    python ffcv_rival.py FOLDER BETON

writes BETON first if it is missing (every picture of FOLDER, decoded), and prints `{"ready": versions}`. Each line
`{"pipeline": "uint8" or "float", "workers": 1 or 2, "epochs": 1}` on stdin is answered by a line
`{"seconds_per_image": s, "images": n}`, so that whoever asks can let other contenders run in between. A loader is made
when it is first asked for and kept; one epoch that is not counted follows at once, in which numba compiles the pipeline
and the pages of the file are mapped. The end of stdin ends the process; a fault is told on stderr and exits non-zero.

The environment, on Debian (FFCV 1.0.2 has no wheels; it needs Python 3.11 or older, or setuptools for `distutils`):

    apt-get install libopencv-dev libturbojpeg0-dev pkg-config
    make bench-ffcv

FFCV is set up as its tuning guide has it for a dataset that fits in memory: raw pixels, `os_cache=True`, random order,
transforms of its own only, which it compiles; all else is left at its defaults. `ToTorchImage` keeps `channels_last`:
the batch is a view, where a contiguous NCHW batch would be copied once more by torch.

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
from typing import Any, Dict, List, Tuple

import ffcv.writer
import numba
import numpy as np
import PIL.Image
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage

BATCH = 64
SIZE = 224, 224
# What the crop may be: its part of the picture's area, and its width over its height. The other contenders' are the
# same; FFCV resizes by averaging areas (OpenCV's INTER_AREA) and cannot be told otherwise.
SCALE = 0.5, 1.0
RATIO = 0.75, 1.33
# ImageNet's, of values from 0 to 1; FFCV wants them from 0 to 255.
MEAN = 0.485, 0.456, 0.406
STD = 0.229, 0.224, 0.225
SEED = 20
PACKAGES = ("ffcv", "numba", "torch", "numpy", "pillow")


class Photographs:
    "The pictures of a folder, decoded, each with its place in the sorted folder as its label."

    def __init__(self, folder: Path) -> None:
        self.files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tuple[PIL.Image.Image, int]:
        with PIL.Image.open(self.files[i]) as image:
            return image.convert("RGB"), int(i)


class Worker(multiprocessing.Process):
    "A process of `DatasetWriter` that takes its parent along when it fails."

    def run(self) -> None:
        try:
            super().run()
        except BaseException:
            traceback.print_exc()
            os.kill(os.getppid(), signal.SIGTERM)


def write(photographs: Photographs, beton: Path) -> None:
    "Write the pictures, decoded, into the file `beton`; it has its name only once it is complete."
    # `DatasetWriter` waits for ever when one of its processes dies, of a file that is no picture or of a full disk. It
    # is one process here, as a second one would in turn wait for ever for the dead one's page.
    ffcv.writer.Process = Worker
    part = beton.with_name(beton.name + ".part")
    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    ffcv.writer.DatasetWriter(str(part), fields, num_workers=1).from_indexed_dataset(photographs)
    os.replace(part, beton)


def pipeline(name: str) -> List[Any]:
    "The operations on an image: 'uint8' is the bytes, 'float' is normalised in the loader."
    operations = [RandomResizedCropRGBImageDecoder(SIZE, scale=SCALE, ratio=RATIO), RandomHorizontalFlip()]
    if name == "float":
        # Before `ToTensor`: on a CPU it is compiled code over an array, height by width by channel, as those before it.
        operations.append(NormalizeImage(np.array(MEAN) * 255, np.array(STD) * 255, np.float32))
    elif name != "uint8":
        raise ValueError(f"no pipeline {name!r}")
    return [*operations, ToTensor(), ToTorchImage()]


def make(beton: Path, name: str, workers: int) -> Loader:
    "The loader of one pipeline with so many workers."
    return Loader(
        str(beton),
        batch_size=BATCH,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=SEED,
        drop_last=True,
        pipelines={"image": pipeline(name), "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )


def epoch(loader: Loader) -> Tuple[float, int]:
    "Seconds that one pass over `loader` takes, and the images it gave."
    gc.collect()
    images = 0
    begun = time.perf_counter()
    for batch, _ in loader:
        images += len(batch)
    return time.perf_counter() - begun, images


def versions() -> Dict[str, str]:
    "What the figures hold for; the OpenCV that FFCV's resize is linked to is not the one that Python imports."
    linked = re.search(r"libopencv_core\.so\.([\d.]+)", Path("/proc/self/maps").read_text())
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},  # `ffcv.__version__` is an old one's
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
            loaders[key] = make(beton, *key)
            epoch(loaders[key])
        passes = [epoch(loaders[key]) for _ in range(int(asked.get("epochs", 1)))]
        images = sum(n for _, n in passes)
        seconds = sum(taken for taken, _ in passes)
        print(json.dumps({"seconds_per_image": seconds / images, "images": images}), file=answers, flush=True)


def end_with_threads() -> None:
    """Let a fault in any thread end the process.

    An epoch's thread that fails, to compile say, never tells the loop over the loader, which waits for ever.
    """
    tell = threading.excepthook

    def end(fault: Any) -> None:
        tell(fault)
        sys.stderr.flush()
        os._exit(1)

    threading.excepthook = end


def main() -> None:
    folder, beton = map(Path, sys.argv[1:])
    # FFCV prints here and there: what goes to stdout but is no answer goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    end_with_threads()
    photographs = Photographs(folder)
    if len(photographs) < BATCH:
        raise ValueError(f"{folder}: {len(photographs)} pictures do not fill a batch of {BATCH}")
    if not beton.exists():
        write(photographs, beton)
    held = Reader(str(beton)).num_samples
    if held != len(photographs):
        raise ValueError(f"{beton} holds {held} pictures, {folder} has {len(photographs)}: remove the file")
    print(json.dumps({"ready": versions()}), file=answers, flush=True)
    serve(beton, answers)


if __name__ == "__main__":
    main()
