"""Figure 1: every item of every in-memory list against its stock class, over formats, modes, workers, start methods."""

import hashlib
import itertools
import multiprocessing
import random
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from fastai.core import ItemBase
from fastai.vision import (
    ImageImageList,
    ImageList,
    ObjectItemList,
    PointsItemList,
    SegmentationItemList,
    get_transforms,
)
from fastai.vision.gan import GANItemList
from inputs import Inputs
from measure import apart, value
from pictures import formats
from torch.utils.data import DataLoader, Dataset

import memlist  # repairs fastai for a current torch and NumPy, for stock and twins alike

MODES = ("L", "RGB", "RGBA")
SIZE = 24
EPOCHS = 2
SEED = 7
PARTS = "data", "labels"


def _name(file: Path) -> str:
    return file.name.split("_")[0]


def _other(file: Path) -> Path:
    "Return an image target: the other file of the same format, which has another size."
    return file.with_name(file.name.replace("_0.", "_9.").replace("_1.", "_0.").replace("_9.", "_1."))


def _boxes(file: Path) -> List[Any]:
    return [[[2, 3, 20, 25], [5, 5, 28, 30]][: 1 + len(file.name) % 2], ["a", "b"][: 1 + len(file.name) % 2]]


def _points(file: Path) -> torch.Tensor:
    return torch.tensor([[3.0, 4.0], [10.0 + len(file.name), 12.0]])


Label = Callable[[Any, str, Any], Any]
# name: stock class, twin, how to label, stock and in-memory target class where one has to be named
TWINS: Dict[str, Tuple[type, type, Label, Any, Any]] = {
    "MemoryImageList": (
        ImageList,
        memlist.MemoryImageList,
        lambda il, mode, target: il.label_from_func(_name),
        None,
        None,
    ),
    "MemoryImageLabelList": (
        ImageList,
        memlist.MemoryImageList,
        lambda il, mode, target: il.label_from_func(_other, label_cls=target, convert_mode=mode),
        ImageList,
        memlist.MemoryImageLabelList,
    ),
    "MemoryImageImageList": (
        ImageImageList,
        memlist.MemoryImageImageList,
        lambda il, mode, target: il.label_from_func(_other, convert_mode=mode),
        None,
        None,
    ),
    "MemorySegmentationItemList": (
        SegmentationItemList,
        memlist.MemorySegmentationItemList,
        lambda il, mode, target: il.label_from_func(lambda file: file, classes=[str(i) for i in range(256)]),
        None,
        None,
    ),
    "MemoryObjectItemList": (
        ObjectItemList,
        memlist.MemoryObjectItemList,
        lambda il, mode, target: il.label_from_func(_boxes),
        None,
        None,
    ),
    "MemoryPointsItemList": (
        PointsItemList,
        memlist.MemoryPointsItemList,
        lambda il, mode, target: il.label_from_func(_points),
        None,
        None,
    ),
    "MemoryGANItemList": (
        GANItemList,
        memlist.MemoryGANItemList,
        lambda il, mode, target: il.label_from_func(_other, convert_mode=mode),
        None,
        None,
    ),
}


def label_list(twin: str, in_memory: bool, mode: str, tfms: bool, files: List[Path], folder: Path) -> Any:
    "Return the train set of `twin` or of its stock class over `files`."
    stock, memory, label, stock_target, target = TWINS[twin]
    il = (memory if in_memory else stock)(files, path=folder, convert_mode=mode)
    train = label(il.split_none(), mode, target if in_memory else stock_target).train
    if tfms:
        images = twin in ("MemoryImageLabelList", "MemoryImageImageList", "MemoryGANItemList")
        tfm_y = images or twin != "MemoryImageList"
        # A GAN's input is noise, which has no transforms to share with its target.
        train.transform(None if twin == "MemoryGANItemList" else get_transforms()[0], size=SIZE, tfm_y=tfm_y)
    return train


def describe(thing: Any) -> Any:
    "Describe an item so that any difference shows: type, repr, and of tensors dtype, shape, strides and bits."
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if isinstance(thing, torch.Tensor):
        bits = hashlib.sha1(thing.contiguous().numpy().tobytes()).hexdigest()
        return [kind, str(thing.dtype), list(thing.shape), list(thing.stride()), bits]
    if isinstance(thing, np.ndarray):
        values = repr(thing.tolist()) if thing.dtype.hasobject else hashlib.sha1(thing.tobytes()).hexdigest()
        return [kind, str(thing.dtype), thing.shape, thing.strides, values]
    if isinstance(thing, (list, tuple)):
        return [kind, *map(describe, thing)]
    names = PARTS if isinstance(thing, ItemBase) else ()  # not an image's `flow`: to ask for it makes one
    return [kind, repr(thing), *(describe(getattr(thing, name, None)) for name in names)]


class Described(Dataset):
    "Describe the items of label lists in the process that reads them; an error is a description too."

    def __init__(self, lists: List[Any]) -> None:
        self.lists = lists

    def __len__(self) -> int:
        return sum(map(len, self.lists))

    def __getitem__(self, i: int) -> str:
        for ll in self.lists:
            if i < len(ll):
                break
            i -= len(ll)
        try:
            x, y = ll[i]
            return repr([describe(x), describe(y), ll.x.sizes.get(i), getattr(ll.y, "sizes", {}).get(i)])
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def seed_worker(number: int) -> None:
    np.random.seed((torch.initial_seed() + number) % (1 << 32))


def descriptions(dataset: Dataset, workers: int) -> List[str]:
    "Return the descriptions of one epoch, in order, under one seed."
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=list, worker_init_fn=seed_worker)
    return [one for batch in loader for one in batch]


def compare(start: str, workers: int) -> Dict[str, Any]:
    "Compare all lists, formats and modes, in one loader per side and epoch because workers start slowly."
    multiprocessing.set_start_method(start, force=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        kinds = formats(Path(folder) / "files")
        files = [file for group in kinds.values() for file in group]
        where = {file: kind for kind, group in kinds.items() for file in group}
        plan = list(itertools.product(TWINS, MODES, (False, True)))
        sides = [
            Described([label_list(twin, side, mode, tfms, files, Path(folder)) for twin, mode, tfms in plan])
            for side in (False, True)
        ]
        names = [(twin, where[file], mode) for twin, mode, _ in plan for file in files]
        unequal: Dict[Tuple[str, str, str], str] = {}
        compared, errors, misses = 0, 0, []
        stock = descriptions(sides[0], workers)
        for _ in range(EPOCHS):
            memory = descriptions(sides[1], workers)
            for name, one, other in zip(names, stock, memory):
                compared += 1
                errors += not one.startswith("[")
                if one != other:
                    unequal.setdefault(name, f"{one} | {other}"[:600])
            misses.append(sides[1].lists[0].cache_info().misses)
    return {
        "combinations": len(set(names)),
        "items": compared,
        "raised_in_stock": errors,
        "misses_by_epoch": np.diff([0, *misses]).tolist(),
        "unequal": [[*name, text] for name, text in unequal.items()],
    }


def equal(inputs: Inputs) -> Dict[str, Any]:
    "Figure 1: compare in the main process, in forked and in spawned workers."
    cases, notes = [], []
    for start, workers in (("fork", 0), ("fork", 2), ("spawn", 2)):
        found = apart("figure_equality", "compare", start, workers)
        name = f"{workers} workers" + f", {start}" * (workers > 0)
        count = found["combinations"]
        facts = {"of": count, "items": found["items"], "different": found["unequal"][:20]}
        cases.append(value(name, len(found["unequal"]), f"of {count} combinations differ", ("<=", 0), **facts))
        misses = " and ".join(map(str, found["misses_by_epoch"]))
        raised = f", {found['raised_in_stock']} of them errors in stock too" if found["raised_in_stock"] else ""
        notes.append(f"{name}: {found['items']:,} items compared{raised}; misses in the two epochs: {misses}.")
    return {"cases": cases, "notes": notes}
