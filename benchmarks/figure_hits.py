"""Figures 3 and 19, and the cost of a hit without a target: reading one cached image."""

import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import torch
from bunches import BATCH, Contender, DictList, blocks_of, decoded, label, reads
from fastai.vision import Image, ImageList, open_image
from inputs import Inputs
from measure import case, interleave, ratio
from torch import Tensor

from memlist import ImageStore, MemoryImageList

# -- figure 3 -------------------------------------------------------------------------------------------------


def hits(inputs: Inputs) -> Dict[str, Any]:
    "Compare a hit with the bare conversion, over as many distinct images on both sides."
    files, rounds = inputs.files(), inputs.scale.blocks
    il = MemoryImageList(files, path=files[0].parent)
    ll = il.split_none().label_from_func(label).train
    il.load_data(progress=False)
    ll.load_data(progress=False)
    arrays = [decoded(file).copy() for file in files]

    def bare(i: int) -> Tensor:
        return torch.from_numpy(arrays[i]).float().div_(255)

    readers = {"il[i]": il.__getitem__, "label list": ll.__getitem__, "bare": bare}
    cases, threads = [], torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        for kept in (True, False):
            contenders = {name: _batches(read, len(files), kept) for name, read in readers.items()}
            samples = interleave(contenders, rounds, len(blocks_of(len(files))))
            ratios = [ratio(f"{name} / bare", name, "bare", ("<=", 1.3)) for name in ("il[i]", "label list")]
            how = "kept in a batch of 64" if kept else "discarded at once"
            cases.append(case(f"{n} torch thread{'s' * (n > 1)}, {how}", samples, ratios))
    torch.set_num_threads(threads)
    info = ll.cache_info()
    return {"cases": cases, "notes": [f"{len(files)} distinct images on each side; {info.misses} misses."]}


def _batches(read: Callable[[int], Any], n: int, kept: bool) -> Contender:
    "Time one batch of reads, another batch in each round; `kept` until the batch is full, as a loader does."
    blocks = blocks_of(n)

    def run(k: int) -> float:
        block = blocks[k % len(blocks)]
        batch: List[Any] = []
        begun = time.perf_counter()
        if kept:
            for i in block:
                batch.append(read(i))
        else:
            for i in block:
                read(i)
        return (time.perf_counter() - begun) / BATCH

    return run


# -- figure 19 ------------------------------------------------------------------------------------------------

#: What the module of an `open` may hold: 65 MB in a dict of arrays.
TABLE = {i: np.full((100, 100, 65), i % 251, np.uint8) for i in range(100)}


class OwnList(MemoryImageList):
    "Define an `open` that names the table and does what fastai's does."

    def open(self, fn: Path) -> Image:
        assert TABLE
        return open_image(fn)


def own(inputs: Inputs) -> Dict[str, Any]:
    "Compare a hit of an `open` of the user's own with one of the stock list, for the same images."
    files = inputs.files()
    lists = {"own": OwnList, "stock list": MemoryImageList}
    made = {name: cls(files, path=files[0].parent).load_data(progress=False) for name, cls in lists.items()}
    assert all(torch.equal(made["own"][i].px, made["stock list"][i].px) for i in range(0, len(files), 37))
    samples = interleave({name: reads(il, len(files)) for name, il in made.items()}, inputs.scale.blocks)
    size = sum(array.nbytes for array in TABLE.values()) / 1e6
    compared = case("500x375", samples, [ratio("own / stock list", "own", "stock list", ("<=", 1.3))])
    return {
        "cases": [compared],
        "notes": [f"{len(files)} images on each side; the module holds {size:.0f} MB of arrays."],
    }


# -- without a target -----------------------------------------------------------------------------------------


def records(inputs: Inputs) -> Dict[str, Any]:
    "Time a look-up in a store and a hit of a list, by number of records: images of 28x28, in random order."
    counts, rounds = inputs.scale.records, inputs.scale.epochs * 3
    looks, hits = {}, {}
    for n in counts:
        files = inputs.links(inputs.digits(inputs.scale.small), n)
        il = MemoryImageList(files, path=files[0].parent).load_data(progress=False)
        store, keys = ImageStore(1 << 30), [str(file).encode() for file in files]
        pixels = [decoded(file) for file in files[:64]]
        for i, key in enumerate(keys):
            store.put(key, pixels[i % len(pixels)])
        order = np.random.RandomState(1).randint(0, n, (rounds + 1, READS)).tolist()
        looks[f"{n:,}"] = _in_order(store.get, [[keys[i] for i in some] for some in order])
        hits[f"{n:,}"] = _in_order(il.__getitem__, order)
    first, last = f"{counts[0]:,}", f"{counts[-1]:,}"
    against = [ratio(f"{last} / {first}", last, first)]
    cases = [case("store.get(key)", interleave(looks, rounds), against)]
    return {"cases": [*cases, case("il[i]", interleave(hits, rounds), against)], "notes": []}


#: How many records one round reads.
READS = 2000


def _in_order(read: Callable[[Any], Any], order: List[List[Any]]) -> Contender:
    "Time reading a round's share of `order`."

    def run(k: int) -> float:
        begun = time.perf_counter()
        for one in order[k]:
            read(one)
        return (time.perf_counter() - begun) / READS

    return run


def small(inputs: Inputs) -> Dict[str, Any]:
    "Compare a hit, a dict and stock at 28x28, where nearly all of the time is Python's."
    files = inputs.digits(inputs.scale.small)
    DictList.preload(files)
    kinds = {"memlist": MemoryImageList, "dict": DictList, "stock": ImageList}
    lists = {name: cls(files, path=files[0].parent) for name, cls in kinds.items()}
    lists["memlist"].load_data(progress=False)
    samples = interleave({name: reads(il, len(files)) for name, il in lists.items()}, inputs.scale.epochs * 3)
    ratios = [ratio("images/s over stock's", "stock", "memlist"), ratio("images/s over the dict's", "dict", "memlist")]
    DictList.pixels = {}
    return {"cases": [case("il[i]", samples, ratios)], "notes": [f"{len(files)} PNG files of 28x28, RGB."]}
