"""Figures 4 to 6: warm epochs, `load_data()`, first epochs."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List

from bunches import DictList, bunch, decoded, epoch, same_items
from fastai.vision import ImageList, get_transforms
from inputs import Inputs
from measure import case, in_child, interleave, ratio

from memlist import MemoryImageList


def warm(inputs: Inputs) -> Dict[str, Any]:
    "Figure 4: time warm epochs, resize only, of memlist, the dict and stock in turn."
    cases, notes = [], []
    for kilobytes, (files, line) in inputs.sets().items():
        DictList.preload(files)
        for workers in (0, 2):
            classes = {"memlist": MemoryImageList, "dict": DictList, "stock": ImageList}
            bunches = {name: bunch(cls, files, None, workers, normalised=False) for name, cls in classes.items()}
            bunches["memlist"].load_data(progress=False)
            assert same_items(bunches["memlist"], bunches["dict"]) and same_items(bunches["dict"], bunches["stock"])
            before = bunches["memlist"].cache_info().misses
            samples = interleave({name: epoch(data) for name, data in bunches.items()}, inputs.scale.epochs)
            ratios = [
                ratio("images/s over the dict's", "dict", "memlist", (">=", 1.0)),
                ratio("images/s over stock's", "stock", "memlist"),
            ]
            cases.append(case(f"{kilobytes} kB, {workers} workers", samples, ratios))
            assert bunches["memlist"].cache_info().misses == before
        notes.append(f"{kilobytes} kB: {line}.")
        DictList.pixels = {}
    return {"cases": cases, "notes": notes}


def load(inputs: Inputs) -> Dict[str, Any]:
    "Figure 5: compare `load_data()` with a pool of as many threads that decodes with Pillow and keeps the arrays."
    cases = []
    for kilobytes, (files, _) in inputs.sets().items():

        def load_data(files: List[Path] = files) -> float:
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

        contenders = {"load_data": load_data, "Pillow": pool}
        runs = {name: lambda k, run=run: in_child(run) for name, run in contenders.items()}
        samples = interleave(runs, inputs.scale.epochs + 2)
        ratios = [ratio("images/s over the pool's", "Pillow", "load_data", (">=", 0.9))]
        cases.append(case(f"{kilobytes} kB", samples, ratios))
    note = "2 threads on both sides; each run in a forked process of its own, where all memory is new."
    return {"cases": cases, "notes": [note]}


def first(inputs: Inputs) -> Dict[str, Any]:
    "Figure 6: compare the first epoch, which fills the cache, with stock; and time the warm epoch that follows."
    files, rounds, cases = inputs.files(), 2 * inputs.scale.epochs, []
    for name, tfms in (("default transforms", True), ("resize only", False)):
        for workers in (0, 2):
            given = get_transforms() if tfms else None
            stock, memory = (
                bunch(cls, files, given, workers, normalised=False) for cls in (ImageList, MemoryImageList)
            )
            stock_epoch, memory_epoch = epoch(stock), epoch(memory)
            warm: List[float] = []

            def fill(k: int, data: Any = memory, run: Any = memory_epoch, warm: List[float] = warm) -> float:
                data.purge()
                before = data.cache_info().misses
                seconds = run(k)
                assert data.loaded and data.cache_info().misses - before == len(data.train_ds)
                warm.append(run(k))
                return seconds  # type: ignore[no-any-return]

            samples = interleave({"first": fill, "stock": stock_epoch}, rounds)
            samples["warm"] = warm[-rounds:]
            ratios = [
                ratio("first epoch, images/s over stock's", "stock", "first", (">=", 0.95)),
                ratio("warm epoch, images/s over stock's", "stock", "warm"),
            ]
            cases.append(case(f"{name}, {workers} workers", samples, ratios))
    return {"cases": cases, "notes": [f"{len(files)} photographs of the 100 kB set; the store is purged in between."]}
