"""Figures 20 to 22: small images: loading them, workers or none, and a batch of them among a million records."""

import multiprocessing
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from bunches import BATCH, CPU, Contender, bunch, epoch
from fastai.vision import crop_pad, imagenet_stats, noop, open_image
from inputs import Inputs
from measure import case, in_child, interleave, ratio

from memlist import MemoryGANItemList, MemoryImageList

# -- figure 20 ------------------------------------------------------------------------------------------------


def preload(inputs: Inputs) -> Dict[str, Any]:
    "Figure 20: compare `load_data()` on digits with the forum's, which opens image after image and keeps the floats."
    files = inputs.digits(inputs.scale.digits)

    def load_data() -> float:
        il = MemoryImageList(files, path=files[0].parent)
        begun = time.perf_counter()
        il.load_data(progress=False)
        seconds = time.perf_counter() - begun
        assert il.loaded
        return seconds / len(il)

    def forum() -> float:
        begun = time.perf_counter()
        images = [open_image(file) for file in files]
        return (time.perf_counter() - begun) / len(images)

    samples = interleave(
        {"load_data": lambda _: in_child(load_data), "forum": lambda _: in_child(forum)}, inputs.scale.epochs + 2
    )
    ratios = [ratio("images/s over the forum's", "forum", "load_data", (">=", 1.0))]
    note = f"{len(files)} PNG files of 28x28; each run in a forked process of its own, where all memory is new."
    return {"cases": [case("digits, 28x28", samples, ratios)], "notes": [note]}


# -- figure 21 ------------------------------------------------------------------------------------------------

WORKERS = {"no workers": 0, "1 worker": 1, "2 workers": 2, "by default": None}


def workers(inputs: Inputs) -> Dict[str, Any]:
    "Figure 21: time warm epochs of small images by the number of workers, and with the number that is the default."
    scale, cases, chosen = inputs.scale, [], {}
    digits, long = inputs.digits(scale.digits), 4 * scale.digits
    jobs: Tuple[Tuple[str, List[Path], Any], ...] = (
        (f"digits, {len(digits):,}", digits, _digits),
        (f"digits, {long:,}", inputs.links(digits, long), _digits),
        (f"targets of 64 pixels, {len(digits):,}", inputs.links(inputs.small(256), len(digits)), _targets),
    )
    for name, files, make in jobs:
        bunches = {label: make(files, count) for label, count in WORKERS.items()}
        bunches["no workers"].load_data(progress=False)
        chosen[name] = bunches["by default"].num_workers
        samples = interleave({label: epoch(data) for label, data in bunches.items()}, 2 * scale.epochs)
        ratios = [
            ratio(f"no workers, images/s over {label}", label, "no workers")
            for label, count in WORKERS.items()
            if count
        ]
        fastest = min(("no workers", "1 worker", "2 workers"), key=lambda label: float(np.median(samples[label])))
        ratios.append(ratio(f"the default, images/s over the fastest, {fastest}", fastest, "by default", (">=", 0.9)))
        cases.append(case(name, samples, ratios))
    said = ", ".join(f"{name}: {count}" for name, count in chosen.items())
    return {"cases": cases, "notes": [f"Workers that `databunch(batch_tfms=True)` chose itself: {said}."]}


def _digits(files: List[Path], count: Any) -> Any:
    return bunch(MemoryImageList, files, None, count, size=28, batch_tfms=True)


def _targets(files: List[Path], count: Any) -> Any:
    labelled = MemoryGANItemList(files, path=files[0].parent, noise_sz=100, max_size=64)
    labelled = labelled.split_none().label_from_func(noop)
    given = {} if count is None else {"num_workers": count}
    made = labelled.transform([[crop_pad()], []], size=64, tfm_y=True)
    data = made.databunch(bs=BATCH, no_check=True, device=CPU, batch_tfms=True, **given)
    return data.normalize([torch.tensor([0.5] * 3)] * 2, do_x=False, do_y=True)


# -- figure 22 ------------------------------------------------------------------------------------------------

#: Batches that a round times, and those before them, while the epoch begins.
TIMED, SKIPPED = 12, 2


def lookup(inputs: Inputs) -> Dict[str, Any]:
    "Figure 22: time an image of a batch of 64 among few records and among many."
    lists = {}
    for n in (inputs.scale.records[0], inputs.scale.many):
        files = inputs.links(inputs.tiny(200), n)
        labelled = MemoryImageList(files, path=files[0].parent).split_none().label_const(0)
        _fill(labelled.train.x)
        lists[f"{n:,} records"] = labelled.transform(None, size=8)
    (first, last), cases = lists, []
    for name, given, bound in (("batch_tfms", {"batch_tfms": True}, ("<=", 1.2)), ("the swap alone", {}, None)):
        contenders = {}
        for label, labelled in lists.items():
            data = labelled.databunch(bs=BATCH, num_workers=0, no_check=True, device=CPU, **given)
            contenders[label] = _batches(data.normalize(imagenet_stats))
        samples = interleave(contenders, 5 * inputs.scale.epochs)
        cases.append(case(name, samples, [ratio(f"time among {last} over {first}", last, first, bound)]))
    note = f"Pictures of 8x8, each a file of its own name; no workers; {TIMED} batches in the middle of an epoch."
    return {"cases": cases, "notes": [note]}


def _fill(il: Any) -> None:
    "Load a list from two processes, each of which has a half: two threads would wait for each other on tiny files."
    context = multiprocessing.get_context("fork")
    halves = [il[half] for half in np.array_split(np.arange(len(il)), 2)]
    started = [context.Process(target=half.load_data, kwargs={"n_workers": 1, "progress": False}) for half in halves]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert il.load_data(progress=False).loaded


def _batches(data: Any) -> Contender:
    "Time batches in the middle of an epoch, per image."

    def run(k: int) -> float:
        batches = iter(data.train_dl)
        for _ in range(SKIPPED):
            next(batches)
        begun = time.perf_counter()
        for _ in range(TIMED):
            next(batches)
        seconds = time.perf_counter() - begun
        batches.close()
        return seconds / (TIMED * BATCH)

    return run
