"""Build the data bunches and the contenders that several figures time."""

import time
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, Optional, Sequence

import numpy as np
import PIL.Image
import torch
from fastai.vision import Image, ImageList, imagenet_stats
from measure import exhaust
from torch import Tensor

BATCH, SIZE = 64, 224
CPU = torch.device("cpu")
#: Takes the number of a round and returns seconds per image.
Contender = Callable[[int], float]


def decoded(file: Path) -> np.ndarray:
    "Return the pixels of `file` as Pillow gives them: height, width, channels."
    return np.asarray(PIL.Image.open(file).convert("RGB"))


def label(file: Path) -> int:
    "Label a file by its number: 0 or 1."
    return int(file.stem) % 2


class DictList(ImageList):
    """Keep byte tensors in a dict that is filled before the workers are forked: the most that a cache can gain.

    It has no budget, no purge and no key to compute, and its workers must be forked.
    """

    pixels: ClassVar[Dict[Path, Tensor]] = {}

    def open(self, fn: Path) -> Image:
        return Image(self.pixels[fn].float().div_(255))

    @classmethod
    def preload(cls, files: List[Path]) -> None:
        "Decode all files into tensors that lie in memory as stock's do."
        cls.pixels = {file: torch.from_numpy(decoded(file).copy()).permute(2, 0, 1) for file in files}


def bunch(
    cls: Any,
    files: List[Path],
    tfms: Any,
    workers: Optional[int],
    *,
    size: int = SIZE,
    bs: int = BATCH,
    device: torch.device = CPU,
    batch_tfms: bool = False,
    normalised: bool = True,
) -> Any:
    "Return a data bunch of which every file is trained on, in whole batches; `workers` None is fastai's default."
    labelled = cls(files, path=files[0].parent).split_none().label_from_func(label)
    given: Dict[str, Any] = {} if workers is None else {"num_workers": workers}
    if batch_tfms:
        given["batch_tfms"] = True
    data = labelled.transform(tfms, size=size).databunch(bs=bs, no_check=True, device=device, **given)
    return data.normalize(imagenet_stats) if normalised else data


def epoch(data: Any, threads: Optional[int] = None) -> Contender:
    "Time one epoch with so many torch threads, in the order and under the random numbers of its round."

    def run(k: int) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        torch.manual_seed(k)
        np.random.seed(k % 1000)
        try:
            return exhaust(data.train_dl) / (len(data.train_dl) * BATCH)
        finally:
            torch.set_num_threads(before)

    return run


def reads(items: Any, n: int) -> Contender:
    "Time reading the first `n` items in order."

    def run(k: int) -> float:
        begun = time.perf_counter()
        for i in range(n):
            items[i]
        return (time.perf_counter() - begun) / n

    return run


def same_items(one: Any, other: Any) -> bool:
    "Tell whether a sample of the items is equal to the bit, and has the same strides."
    pairs = [(one.train_ds.x[i].px, other.train_ds.x[i].px) for i in range(0, len(one.train_ds), 37)]
    return all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


def blocks_of(n: int) -> Sequence[range]:
    "Split the numbers below `n` into whole batches."
    return [range(at, at + BATCH) for at in range(0, n - BATCH + 1, BATCH)]
