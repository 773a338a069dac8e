"""Read the numbers of claims from results/*.json, by the functions that make the cells of the benchmark pages.

A value is a function of the raw results that returns a number; a text writes a value as a page has it; a truth is a
condition on values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import page_doors
import page_fastai2
import page_figures
import page_gpu
from answers import in_turns as samples_of
from answers import times_as_fast
from measure import spread

RESULTS = Path(__file__).resolve().parent / "results"


class Raw:
    "The raw results of every page, each read when it is first asked for."

    def __init__(self, folder: Path = RESULTS) -> None:
        self.folder = folder
        self._read: Dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        "Return the content of NAME.json."
        if name not in self._read:
            self._read[name] = json.loads((self.folder / f"{name}.json").read_text("utf-8"))
        return self._read[name]


Value = Callable[[Raw], float]
Text = Callable[[Raw], str]
Truth = Callable[[Raw], bool]

# -- values ---------------------------------------------------------------------------------------------------


def figure(key: str, case: str, what: str) -> Value:
    "Read a ratio of figures.json, by the names of its figure, its case and the ratio."

    def read(raw: Raw) -> float:
        ratio = page_figures.ratio_of(raw["figures"]["rows"], key, case, what)
        if ratio is None:
            raise KeyError(f"figures.json has no {what!r} of {case!r} in {key!r}")
        return ratio

    return read


def quotient(key: str, case: str, above: str, below: str) -> Value:
    "Read how many times as long `above` takes as `below`, in a case of a figure: for pairs that have no ratio there."

    def read(raw: Raw) -> float:
        samples = _case(raw, key, case)["samples"]
        return float(np.median(samples[above]) / np.median(samples[below]))

    return read


def number(key: str, case: str) -> Value:
    "Read a number of figures.json that is not a time, by the names of its figure and its case."
    return lambda raw: float(_case(raw, key, case)["value"])


def time(key: str, case: str, contender: str) -> Value:
    "Read the seconds per image of a contender of a figure: their median."
    return lambda raw: spread(_case(raw, key, case)["samples"][contender])[0]


def turns(name: str, ours: Tuple[str, int], other: Tuple[str, int]) -> Value:
    "Read how many times as fast `ours` is as `other`, in a comparison in turns of beside.json."

    def read(raw: Raw) -> float:
        ratio = times_as_fast(samples_of(raw["beside"]["turns"], name), ours, other)
        if ratio is None:
            raise KeyError(f"beside.json has no {ours} and {other} in {name!r}")
        return ratio

    return read


def first_batch(work: str, other: str) -> Value:
    "Read how many times as soon the first batch of a new list comes as another system's, in turns, without workers."
    return turns(f"first_{work}", ("memlist", 0), (other, 0))


def torchvision(workers: Any = None) -> Value:
    "Read `MemoryImageFolder`'s images per second over `ImageFolder`'s."
    return lambda raw: page_doors.over_stock(raw["doors"]["folder"], workers)


def torchvision_cpu(raw: Raw) -> float:
    "Read `ImageFolder`'s processor time per image over `MemoryImageFolder`'s."
    return page_doors.cpu_over_stock(raw["doors"]["folder"])


def fastai2(pipeline: str, workers: Any = None) -> Value:
    "Read the images per second of `in_memory` over those of fastai 2."
    return lambda raw: page_fastai2.over_stock(raw["fastai2"]["loader"][pipeline], workers)


def fastai2_cpu(pipeline: str) -> Value:
    "Read fastai 2's processor time per image over that of `in_memory`."
    return lambda raw: page_fastai2.cpu_over_stock(raw["fastai2"]["alone"][pipeline])


def fastai2_epoch(side: str) -> Value:
    "Read the seconds of an epoch on a GPU with fastai 2 and page-locked memory, of the number of workers that is best."
    return lambda raw: page_fastai2.fastest(raw["fastai2"]["pinned"], side)


def gpu_waited(kind: str) -> Value:
    "Read the percentage of a training on a GPU that was waited."
    return lambda raw: page_gpu.share_waited(raw["gpu"]["waiting"][kind])


def decoded(images: int, width: int, height: int, channels: int = 3) -> Value:
    "Compute the bytes of decoded images: arithmetic, not a measurement."
    return lambda raw: float(images * width * height * channels)


def scaled(value: Value, factor: float) -> Value:
    return lambda raw: factor * value(raw)


def least(*values: Value) -> Value:
    return lambda raw: min(value(raw) for value in values)


def most(*values: Value) -> Value:
    return lambda raw: max(value(raw) for value in values)


def _case(raw: Raw, key: str, name: str) -> Any:
    (found,) = (case for case in raw["figures"]["rows"][key]["cases"] if case["name"] == name)
    return found


# -- how they are written -------------------------------------------------------------------------------------


def times(value: Value) -> Text:
    "Write how many times: one decimal below ten, none above."
    return lambda raw: f"{value(raw):.1f}" if value(raw) < 9.95 else f"{value(raw):.0f}"


def whole(value: Value) -> Text:
    "Write a whole number."
    return lambda raw: f"{value(raw):,.0f}"


def decimals(value: Value, count: int) -> Text:
    "Write a number with so many decimals."
    return lambda raw: f"{value(raw):,.{count}f}"


def significant(value: Value, count: int) -> Text:
    "Write a number with so many significant digits, and zeros at its end only where these are digits of it."
    return lambda raw: f"{float(f'{value(raw):.{count}g}'):,.10g}"


def gigabytes(value: Value) -> Text:
    "Write bytes as gigabytes: two digits, one where they are few."
    return lambda raw: significant(scaled(value, 1e-9), 2 if value(raw) >= 1e9 else 1)(raw)


def on_page(page: str, name: str) -> Text:
    "Write what a benchmark page says where its template has `$name`."
    pages = {"gpu": page_gpu, "doors": page_doors, "fastai2": page_fastai2, "figures": page_figures}
    return lambda raw: str(pages[page].values_of(raw[page])[name])


# -- conditions -----------------------------------------------------------------------------------------------


def at_least(bound: float, *values: Value) -> Truth:
    "Tell whether all values are as large as a bound, or larger."
    return lambda raw: all(value(raw) >= bound for value in values)


def at_most(bound: float, *values: Value) -> Truth:
    "Tell whether all values are as small as a bound, or smaller."
    return lambda raw: all(value(raw) <= bound for value in values)


def both(*truths: Truth) -> Truth:
    "Tell whether all conditions are met."
    return lambda raw: all(truth(raw) for truth in truths)
