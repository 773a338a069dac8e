"""Figures 2 and 7 to 9: misses of workers, proportional memory, the index, and the memory that a purge returns."""

import gc
import multiprocessing
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import torch
from bunches import label
from fastai.vision import ImageList
from inputs import Inputs
from measure import apart, pss, value
from torch.utils.data import DataLoader, Dataset

from memlist import ImageStore, MemoryImageList

STARTS = "fork", "spawn"
WORKERS = 4
# A loader's workers are this many images ahead of what was asked of them: batches of 4, two a worker.
BATCH, AHEAD = 4, 2 * 4 * WORKERS


def _files(folder: str, n: int) -> List[Path]:
    return sorted(Path(folder).iterdir())[:n]


# -- figure 2 -----------------------------------------------------------------------------------------------


def misses(start: str, folder: str, n: int) -> Dict[str, int]:
    "Count misses of two epochs that fill lazily and of one after `load_data()`. Runs in a process of its own."
    multiprocessing.set_start_method(start, force=True)
    il = MemoryImageList(_files(folder, n), path=folder)
    labelled = il.split_none().label_from_func(label).transform(None, size=32)
    data = labelled.databunch(bs=16, num_workers=2, no_check=True, device=torch.device("cpu"))
    misses = [0]
    for k in range(3):
        if k == 2:
            data.purge()
            data.load_data(progress=False)
        for _ in data.train_dl:
            pass
        misses.append(data.cache_info().misses)
    first, second, after_load = np.diff(misses).tolist()
    return {"first": first, "second": second, "loaded": after_load}


def missing(inputs: Inputs) -> Dict[str, Any]:
    "Figure 2: count the misses of an epoch that follows one by other workers, and of one after `load_data()`."
    n, folder, cases = inputs.scale.photographs // 2, str(inputs.files()[0].parent), []
    for start in STARTS:
        found = apart("figure_memory", "misses", start, folder, n)
        cases.append(value(f"{start}, first epoch (each image is decoded once)", found["first"], "misses"))
        cases.append(value(f"{start}, second epoch", found["second"], "misses", ("<=", 0)))
        cases.append(value(f"{start}, first epoch after load_data()", found["loaded"], "misses", ("<=", 0)))
    return {"cases": cases, "notes": [f"{n} photographs, 2 workers, every epoch opens every image."]}


# -- figures 7 and 9 ----------------------------------------------------------------------------------------


class Opens(Dataset):
    "Open images and return one number each, so that batches are no part of the memory that is measured."

    def __init__(self, ll: Any) -> None:
        self.ll = ll

    def __len__(self) -> int:
        return len(self.ll)

    def __getitem__(self, i: int) -> int:
        return int(self.ll[i][0].px.shape[0])


class Watched:
    "Read on with live workers when told, and measure the memory of all the processes."

    def __init__(self, il: Any, order: List[int]) -> None:
        self.ll = il.split_none().label_from_func(label).train
        gc.collect()
        gc.freeze()  # else the first collection in a forked worker copies every object that it looks at
        self.batches = iter(DataLoader(Opens(self.ll), BATCH, sampler=order, num_workers=WORKERS))

    def read(self, images: int) -> None:
        for _ in range(images // BATCH):
            next(self.batches)

    def pss(self) -> Dict[str, int]:
        "Return the memory of main process and workers, once the workers have nothing left to do."
        time.sleep(1)
        return pss(["self", *(worker.pid for worker in self.batches._workers)])


# glibc keeps freed blocks, tens of MB per process, and how many depends on chance, not on
# the dataset. With these thresholds fixed (by default they grow) it returns them at once, on both sides.
TIDY = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "2"}


def loaded(start: str, folder: str, n: int) -> Dict[str, Any]:
    "Measure before and after `load_data()` and after a purge, with the same workers. A process of its own."
    multiprocessing.set_start_method(start, force=True)
    il = MemoryImageList(_files(folder, n), path=folder, lazy=False)
    watched = Watched(il, [i % n for i in range(4 * n + AHEAD)])
    watched.read(n)
    before, allocated = watched.pss(), il.store.allocated()
    il.load_data(n_workers=2, progress=False)
    watched.read(2 * n)
    full, most, info = watched.pss(), il.store.allocated(), il.cache_info()
    begun = time.perf_counter()
    il.purge()
    seconds = time.perf_counter() - begun
    emptied = watched.pss()
    watched.read(n)
    after = watched.pss()
    sizes = {"before": before, "full": full, "emptied": emptied, "after": after}
    store = {"before": allocated, "full": most, "after": il.store.allocated()}
    hits = info.hits  # of the reads that came after the load, some were ordered before it
    return {"pss": sizes, "store": store, "nbytes": info.nbytes, "cached": info.cached, "hits": hits, "purge": seconds}


def filled(start: str, folder: str, n: int, in_memory: bool) -> Dict[str, Any]:
    "Measure after two epochs that the workers fill, or with the stock list. Runs in a process of its own."
    multiprocessing.set_start_method(start, force=True)
    il = (MemoryImageList if in_memory else ImageList)(_files(folder, n), path=folder)
    watched = Watched(il, [i % n for i in range(2 * n + AHEAD)])
    watched.read(2 * n)
    return {"pss": watched.pss(), "nbytes": il.cache_info().nbytes if in_memory else 0}


def proportional(inputs: Inputs) -> Dict[str, Any]:
    "Figures 7 and 9, from the same processes: medians of several runs, and one run with the allocator's defaults."
    n, repeats = inputs.scale.memory, inputs.scale.repeats
    folder = str(inputs.files(n)[0].parent)
    added: List[Dict[str, Any]] = []
    left: List[Dict[str, Any]] = []
    for start in STARTS:
        runs = [apart("figure_memory", "loaded", start, folder, n, **TIDY) for _ in range(repeats)]
        fills = [
            [apart("figure_memory", "filled", start, folder, n, in_memory, **TIDY) for in_memory in (False, True)]
            for _ in range(repeats)
        ]
        as_is = apart("figure_memory", "loaded", start, folder, n)
        nbytes = as_is["nbytes"]
        assert all(run["nbytes"] == nbytes and run["cached"] == n and run["hits"] >= n for run in [*runs, as_is])
        assert all(fill[1]["nbytes"] == nbytes for fill in fills)

        def moved(then: str, run: Any, which: str = "total", nbytes: int = nbytes) -> float:
            return float(run["pss"][then][which] - run["pss"]["before"][which]) / nbytes

        def median(what: str, samples: List[float], unit: str, bound: Any = None, start: str = start) -> Dict[str, Any]:
            return value(f"{start}, {what}", float(np.median(samples)), unit, bound, samples=samples)

        bound = "<=", 1.05
        added += [
            median("load_data()", [moved("full", run) for run in runs], OF, bound),
            median("filled by the workers", [_added(fill, "total") / nbytes for fill in fills], OF, bound),
            median("load_data(), without the pages of files", [moved("full", run, "own") for run in runs], OF),
            median("filled by the workers, without the pages of files", [_added(f, "own") / nbytes for f in fills], OF),
            median("memory that the system gave the store", [run["store"]["full"] / nbytes for run in runs], OF),
            median("load_data(), with the allocator's defaults", [moved("full", as_is)], OF),
        ]
        bound = "<=", 0.01
        held = [(run["store"]["after"] - run["store"]["before"]) / nbytes for run in runs]
        left += [
            median("right after purge()", [moved("emptied", run) for run in runs], OF, bound),
            median("after another epoch from disk", [moved("after", run) for run in runs], OF, bound),
            median("memory that the system gave the store", held, OF, bound),
            median("right after purge(), no pages of files", [moved("emptied", run, "own") for run in runs], OF),
            median("right after purge(), with the allocator's defaults", [moved("emptied", as_is)], OF),
            median("time that purge() takes", [run["purge"] for run in runs], "s"),
        ]
    note = f"{n} photographs, {nbytes / 1e6:.0f} MB of pixels; main process and {WORKERS} workers; runs: {repeats}."
    return {"pss": {"cases": added, "notes": [note]}, "purge": {"cases": left, "notes": [note]}}


OF = "of the dataset"


def _added(fill: List[Dict[str, Any]], which: str) -> float:
    return float(fill[1]["pss"][which] - fill[0]["pss"][which])


# -- figure 8 -----------------------------------------------------------------------------------------------


def growth(nbytes: int, counts: Tuple[int, ...]) -> Iterator[Tuple[int, float, float]]:
    "`(records, bytes a record beyond the pixels that the store counts, and that the system gave)` at every record."
    store = ImageStore(1 << 30)
    array = np.zeros(nbytes, np.uint8)
    for n in range(1, counts[-1] + 1):
        store.put(n.to_bytes(8, "little"), array)
        yield n, store.taken / n - nbytes, store.allocated() / n - nbytes


def index(inputs: Inputs) -> Dict[str, Any]:
    "Figure 8: count the bytes per record at round numbers of records, and at the worst number in between."
    counts, cases = inputs.scale.records, []
    for nbytes, what in ((784, "28x28 bytes"), (97, "97 bytes, the worst alignment")):
        rows = list(growth(nbytes, counts))
        for n in counts:
            _, taken, given = rows[n - 1]
            cases.append(value(f"{n:,} records of {what}", max(taken, given), "bytes", ("<=", 128), taken=taken))
        worst = max(rows[counts[0] - 1 :], key=lambda row: max(row[1:]))
        name = f"worst in between, at {worst[0]:,} records of {what}"
        cases.append(value(name, max(worst[1:]), "bytes", ("<=", 128), taken=worst[1]))
        ten = rows[9]
        cases.append(value(f"10 records of {what}", max(ten[1:]), "bytes", None, taken=ten[1]))
    return {"cases": cases, "notes": ["The larger of what the store counts and what the system gave it."]}
