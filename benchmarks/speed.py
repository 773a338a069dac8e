"""Figures 3 to 6 and the rows without a target: hits, warm epochs, `load_data()`, first epochs."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, List, Tuple

import numpy as np
import PIL.Image
import torch
from fastai.vision import Image, ImageList, get_transforms, open_image
from measure import case, exhaust, in_child, interleave, ratio
from torch import Tensor

from memlist import ImageStore, MemoryImageList

BATCH = 64
SIZE = 224


def decoded(file: Path) -> np.ndarray:
    "The pixels of `file`, as Pillow gives them: height, width, channels."
    return np.asarray(PIL.Image.open(file).convert("RGB"))


class DictList(ImageList):
    """The ceiling of any cache of items: a dict of byte tensors in stock's memory layout, filled before the fork.

    It has no budget, no purge and no key to compute, and its workers must be forked.
    """

    pixels: ClassVar[Dict[Path, Tensor]] = {}

    def open(self, fn: Path) -> Image:
        return Image(self.pixels[fn].float().div_(255))

    @classmethod
    def preload(cls, files: List[Path]) -> None:
        cls.pixels = {file: torch.from_numpy(decoded(file).copy()).permute(2, 0, 1) for file in files}


def bunch(cls: type, files: List[Path], tfms: Any, workers: int) -> Any:
    "A data bunch of `files` at 224, batches of 64; its train set is all of them, in whole batches."
    il = cls(files, path=files[0].parent)  # type: ignore[call-arg]
    labelled = il.split_none().label_from_func(lambda file: int(file.stem) % 2)
    data = labelled.transform(tfms, size=SIZE)
    return data.databunch(bs=BATCH, num_workers=workers, no_check=True, device=torch.device("cpu"))


def epoch(data: Any) -> Callable[[int], float]:
    "A contender: seconds an image of one epoch over the train set, in the order and under the draws of its round."

    def run(k: int) -> float:
        torch.manual_seed(k)
        np.random.seed(k % 1000)
        return exhaust(data.train_dl) / len(data.train_ds)

    return run


def same_items(one: Any, other: Any) -> bool:
    "Whether a few items are equal to the bit and lie in memory alike."
    pairs = [(one.train_ds.x[i].px, other.train_ds.x[i].px) for i in range(0, len(one.train_ds), 37)]
    return all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


# -- figure 3 -----------------------------------------------------------------------------------------------


def hits(files: List[Path], rounds: int) -> Dict[str, Any]:
    "A hit against the bare conversion, over as many distinct images on both sides."
    il = MemoryImageList(files, path=files[0].parent)
    ll = il.split_none().label_from_func(lambda file: int(file.stem) % 2).train
    il.load_data(progress=False)
    ll.load_data(progress=False)
    arrays = [decoded(file).copy() for file in files]
    blocks = [range(at, at + BATCH) for at in range(0, len(files) - BATCH + 1, BATCH)]

    def contender(read: Callable[[int], Any], kept: bool) -> Callable[[int], float]:
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

    def bare(i: int) -> Tensor:
        return torch.from_numpy(arrays[i]).float().div_(255)

    readers = {"il[i]": il.__getitem__, "label list": ll.__getitem__, "bare": bare}
    cases, threads = [], torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        for kept in (True, False):
            samples = interleave({name: contender(read, kept) for name, read in readers.items()}, rounds, len(blocks))
            ratios = [ratio(f"{name} / bare", name, "bare", ("<=", 1.3)) for name in ("il[i]", "label list")]
            how = "kept in a batch of 64" if kept else "discarded at once"
            cases.append(case(f"{n} torch thread{'s' * (n > 1)}, {how}", samples, ratios))
    torch.set_num_threads(threads)
    info = ll.cache_info()
    return {"cases": cases, "notes": [f"{len(files)} distinct images a side; {info.misses} misses."]}


# -- figure 19 ----------------------------------------------------------------------------------------------

#: What the module of an `open` may hold, and once was hashed at every read: 65 MB in a dict of arrays.
TABLE = {i: np.full((100, 100, 65), i % 251, np.uint8) for i in range(100)}


class OwnList(MemoryImageList):
    "An `open` of its own that names the table, and does what fastai's does."

    def open(self, fn: Path) -> Image:
        assert TABLE
        return open_image(fn)


def own_hits(files: List[Path], rounds: int) -> Dict[str, Any]:
    "A hit of an `open` of a user's own against one of the stock list, for the same images."
    lists = {"own": OwnList, "stock list": MemoryImageList}
    made = {name: cls(files, path=files[0].parent).load_data(progress=False) for name, cls in lists.items()}
    assert all(torch.equal(made["own"][i].px, made["stock list"][i].px) for i in range(0, len(files), 37))

    def contender(il: Any) -> Callable[[int], float]:
        def run(k: int) -> float:
            begun = time.perf_counter()
            for i in range(len(files)):
                il[i]
            return (time.perf_counter() - begun) / len(files)

        return run

    samples = interleave({name: contender(il) for name, il in made.items()}, rounds)
    size = sum(array.nbytes for array in TABLE.values()) / 1e6
    compared = case("500x375", samples, [ratio("own / stock list", "own", "stock list", ("<=", 1.3))])
    return {"cases": [compared], "notes": [f"{len(files)} images a side; the module holds {size:.0f} MB of arrays."]}


# -- figure 4 -----------------------------------------------------------------------------------------------


def warm_epochs(sets: Dict[int, Tuple[List[Path], str]], rounds: int) -> Dict[str, Any]:
    "Whole warm epochs, resize only: memlist, the ceiling and stock in turn."
    cases, notes = [], []
    for kilobytes, (files, line) in sets.items():
        DictList.preload(files)
        for workers in (0, 2):
            classes = {"memlist": MemoryImageList, "dict": DictList, "stock": ImageList}
            bunches = {name: bunch(cls, files, None, workers) for name, cls in classes.items()}
            bunches["memlist"].load_data(progress=False)
            assert same_items(bunches["memlist"], bunches["dict"]) and same_items(bunches["dict"], bunches["stock"])
            before = bunches["memlist"].cache_info().misses
            samples = interleave({name: epoch(data) for name, data in bunches.items()}, rounds)
            ratios = [
                ratio("images/s over the dict's", "dict", "memlist", (">=", 1.0)),
                ratio("images/s over stock's", "stock", "memlist"),
            ]
            cases.append(case(f"{kilobytes} kB, {workers} workers", samples, ratios))
            assert bunches["memlist"].cache_info().misses == before
        notes.append(f"{kilobytes} kB: {line}.")
        DictList.pixels = {}
    return {"cases": cases, "notes": notes}


# -- figure 5 -----------------------------------------------------------------------------------------------


def loads(sets: Dict[int, Tuple[List[Path], str]], rounds: int) -> Dict[str, Any]:
    "`load_data()` against a pool of as many threads that decodes with Pillow and keeps the arrays."
    cases = []
    for kilobytes, (files, _) in sets.items():

        def load(files: List[Path] = files) -> float:
            il = MemoryImageList(files, path=files[0].parent)
            begun = time.perf_counter()
            il.load_data(n_workers=2, progress=False)
            seconds = time.perf_counter() - begun
            assert il.loaded
            return seconds / len(il)

        def pool(files: List[Path] = files) -> float:
            begun = time.perf_counter()
            with ThreadPoolExecutor(2) as threads:
                kept = list(threads.map(decoded, files))
            return (time.perf_counter() - begun) / len(kept)

        contenders = {"load_data": load, "Pillow": pool}
        samples = interleave({name: lambda k, run=run: in_child(run) for name, run in contenders.items()}, rounds)
        ratios = [ratio("images/s over the pool's", "Pillow", "load_data", (">=", 0.9))]
        cases.append(case(f"{kilobytes} kB", samples, ratios))
    return {
        "cases": cases,
        "notes": ["2 threads on both sides; each run in a forked process of its own, where all memory is new."],
    }


# -- figure 6 and the epochs with default transforms --------------------------------------------------------


def first_epochs(files: List[Path], rounds: int) -> Dict[str, Any]:
    "The first epoch, which fills, against stock; and the warm epoch that follows."
    cases = []
    for name, tfms, bound in (("default transforms", True, 0.95), ("resize only", False, 0.9)):
        for workers in (0, 2):
            given = get_transforms() if tfms else None
            stock, memory = (bunch(cls, files, given, workers) for cls in (ImageList, MemoryImageList))
            stock_epoch, memory_epoch = epoch(stock), epoch(memory)
            warm: List[float] = []

            def first(k: int, data: Any = memory, run: Any = memory_epoch, warm: List[float] = warm) -> float:
                data.purge()
                before = data.cache_info().misses
                seconds = run(k)
                assert data.loaded and data.cache_info().misses - before == len(data.train_ds)
                warm.append(run(k))
                return seconds  # type: ignore[no-any-return]

            samples = interleave({"first": first, "stock": stock_epoch}, rounds)
            samples["warm"] = warm[-rounds:]
            ratios = [
                ratio("first epoch, images/s over stock's", "stock", "first", (">=", bound)),
                ratio("warm epoch, images/s over stock's", "stock", "warm"),
            ]
            cases.append(case(f"{name}, {workers} workers", samples, ratios))
    return {"cases": cases, "notes": [f"{len(files)} photographs of the 100 kB set; everything is purged in between."]}


# -- rows without a target ----------------------------------------------------------------------------------


def many_records(counts: Tuple[int, ...], rounds: int) -> Dict[str, Any]:
    "A look into the index and a hit, by the number of records: 28x28 RGB images that are put in without files."
    pixels = np.random.RandomState(0).randint(0, 256, (64, 28, 28, 3)).astype(np.uint8)
    reads = 2000
    looks, opens, hold = {}, {}, []
    for n in counts:
        files = [Path(f"/none/{n}/train/{i % 100}/{i:07}.png") for i in range(n)]
        store = ImageStore(1 << 30)
        il = MemoryImageList(files, path=files[0].parent, store=store)
        wanted = [il.decoder().keys(file)[0] for file in files]
        for i, key in enumerate(wanted):
            store.put(key, pixels[i % len(pixels)])
        hold.append((il, store))
        order = np.random.RandomState(1).randint(0, n, (rounds + 1, reads)).tolist()

        def look(k: int, store: Any = store, wanted: Any = wanted, order: Any = order) -> float:
            chosen = [wanted[i] for i in order[k]]
            begun = time.perf_counter()
            for key in chosen:
                store.get(key)
            return (time.perf_counter() - begun) / reads

        def hit(k: int, il: Any = il, order: Any = order) -> float:
            begun = time.perf_counter()
            for i in order[k]:
                il[i]
            return (time.perf_counter() - begun) / reads

        looks[f"{n:,}"], opens[f"{n:,}"] = look, hit
    first, last = f"{counts[0]:,}", f"{counts[-1]:,}"
    against = [ratio(f"{last} / {first}", last, first)]
    return {
        "cases": [
            case("store.get(key)", interleave(looks, rounds), against),
            case("il[i]", interleave(opens, rounds), against),
        ],
        "notes": [],
    }


def small_images(files: List[Path], rounds: int) -> Dict[str, Any]:
    "Images of 28x28, where Python's own time is all there is: a hit, the dict, and stock's decoding of a PNG."
    path = files[0].parent
    DictList.preload(files)
    lists = {"memlist": MemoryImageList(files, path=path), "dict": DictList(files, path=path)}
    lists["stock"] = ImageList(files, path=path)
    lists["memlist"].load_data(progress=False)

    def contender(il: Any) -> Callable[[int], float]:
        def run(k: int) -> float:
            begun = time.perf_counter()
            for i in range(len(files)):
                il[i]
            return (time.perf_counter() - begun) / len(files)

        return run

    samples = interleave({name: contender(il) for name, il in lists.items()}, rounds)
    ratios = [ratio("images/s over stock's", "stock", "memlist"), ratio("images/s over the dict's", "dict", "memlist")]
    DictList.pixels = {}
    return {"cases": [case("il[i]", samples, ratios)], "notes": [f"{len(files)} PNG files of 28x28, RGB."]}
