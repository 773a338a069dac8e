"""Judge the targets at the top of the comparison: a bound each, and the numbers of one run that are held against it."""

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from answers import Row, decoded, fastest, in_turns, of, peak, times_as_fast
from measure import met
from systems import FIRST, SYSTEMS, WORKERS, WORKS

#: What a number is of, and the number; it is None where it was not measured.
Number = Tuple[str, Optional[float]]


class Measured(NamedTuple):
    "Everything that was measured: rows and turns of results/beside.json, rows of results/figures.json."

    rows: Sequence[Row]
    turns: Dict[str, Row]
    figures: Dict[str, Row]


class Target(NamedTuple):
    "A figure, the bound that each of its numbers has to keep, and how the numbers are read."

    figure: str
    bound: Tuple[str, float]
    numbers: Callable[[Measured], List[Number]]
    percent: bool = False
    #: The page explains a miss where the template asks for `missed_KEY`.
    key: str = ""


# -- in turns -------------------------------------------------------------------------------------------------


def against(name: str, ours: Tuple[str, int], other: Tuple[str, int]) -> Callable[[Measured], List[Number]]:
    "Read how many times as fast one setting is as another system, in turns."
    return lambda found: [("", times_as_fast(in_turns(found.turns, name), ours, other))]


def small_against_ffcv(found: Measured) -> List[Number]:
    "Read digits against FFCV: with two workers and two threads, and each at its best number of them."
    samples = in_turns(found.turns, "fast_digits")
    us, them = (
        fastest(samples, True),
        max((key for key in samples if key[0] == "ffcv"), key=_speed(samples), default=None),
    )
    return [
        ("2 workers, 2 threads", times_as_fast(samples, ("batches", 2), ("ffcv", 2))),
        ("each at its best", times_as_fast(samples, us, them)),
    ]


def common_against_ffcv(found: Measured) -> List[Number]:
    "Read the common job against FFCV on two threads: with the faster of two workers and two threads, which is named."
    samples = in_turns(found.turns, "fast_common")
    ratios = {
        name: times_as_fast(samples, ("reduced", workers), ("ffcv_reduced", 2))
        for name, workers in (("2 workers", 2), ("2 threads", 0))
    }
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if len(known) < len(ratios):
        return [*ratios.items()]
    best = max(known, key=lambda name: known[name])
    others = ", ".join(f"{name} {ratio:.3g}" for name, ratio in known.items() if name != best)
    return [(f"{best} (with {others})", known[best])]


def pairs_against_tensordict(found: Measured) -> List[Number]:
    samples = in_turns(found.turns, "fast_segmentation")
    return [("", times_as_fast(samples, fastest(samples, True), ("tensordict", 0)))]


def of_the_limit(work: str) -> Callable[[Measured], List[Number]]:
    "Read memlist's fastest setting as a share of the limit, in turns."

    def read(found: Measured) -> List[Number]:
        samples = in_turns(found.turns, f"fast_{work}")
        return [("", times_as_fast(samples, fastest(samples, True), ("limit", 0)))]

    return read


def swap(works: Sequence[str], workers: Sequence[int]) -> Callable[[Measured], List[Number]]:
    "Read the swap alone against fastai, in turns."

    def read(found: Measured) -> List[Number]:
        return [
            (
                f"{work}, {WORKERS[k]}" if len(works) > 1 else "",
                times_as_fast(in_turns(found.turns, f"swap_{work}_{k}"), ("memlist", k), ("stock", k)),
            )
            for work in works
            for k in workers
        ]

    return read


def first_batches(found: Measured) -> List[Number]:
    ours, other = ("memlist", 0), ("torchvision", 0)
    return [(work, times_as_fast(in_turns(found.turns, f"first_{work}"), ours, other)) for work in FIRST]


def _speed(samples: Dict[Any, List[float]]) -> Callable[[Any], float]:
    return lambda key: -float(np.median(samples[key]))


# -- single rows, figures -------------------------------------------------------------------------------------


def memory(found: Measured) -> List[Number]:
    "Read the peak of the common job over the decoded bytes, at every setting that keeps whole pictures."
    rows = of(found.rows, "memory")
    numbers: List[Number] = [
        (f"{SYSTEMS[row['system']].name}, {WORKERS[row['workers']]}", peak(row) / decoded(row)) for row in rows
    ]
    return numbers or [("", None)]


def figure(key: str, what: str) -> Callable[[Measured], List[Number]]:
    "Read the ratios of a figure that have a target, in every case: those named `what`, or all."

    def read(found: Measured) -> List[Number]:
        numbers: List[Number] = []
        for case in found.figures.get(key, {}).get("cases", ()):
            for wanted in case["ratios"]:
                if wanted["bound"] and what in ("", wanted["what"]):
                    above, below = (float(np.median(case["samples"][wanted[side]])) for side in ("above", "below"))
                    name = f"{case['name']}, {wanted['what']}" if what != wanted["what"] else case["name"]
                    numbers.append((name, above / below))
        return numbers or [("", None)]

    return read


TARGETS: Tuple[Target, ...] = (
    Target(
        "digits, no workers, against tensordict",
        (">=", 1.0),
        against("fast_digits", ("batches", 0), ("tensordict", 0)),
        key="digits",
    ),
    Target(
        "digits, 2 workers, against FFCV's 2 threads; each at its best", (">=", 1.0), small_against_ffcv, key="ffcv"
    ),
    Target(
        "GAN targets at 64 pixels, against tensordict",
        (">=", 1.0),
        against("fast_gan", ("reduced", 0), ("tensordict", 0)),
        key="gan",
    ),
    Target("segmentation pairs, against tensordict", (">=", 1.1), pairs_against_tensordict),
    Target("common job, with 2 workers or threads, against FFCV's 2 threads", (">=", 1.1), common_against_ffcv),
    Target("common job, of the limit", (">=", 0.45), of_the_limit("common"), True),
    Target("default transforms, of the limit", (">=", 0.2), of_the_limit("default"), True, "default"),
    Target("crops, of the limit", (">=", 0.3), of_the_limit("crops"), True, "crops"),
    Target(
        "the swap alone, warm, default transforms, no workers, against fastai",
        (">=", 1.6),
        swap(("default",), (0,)),
        key="swap",
    ),
    Target("the same with 2 workers", (">=", 1.3), swap(("default",), (2,))),
    Target("the swap alone, warm, on every job, against fastai", (">=", 1.0), swap(WORKS, (0, 2))),
    Target("a hit against its conversion alone ([figure 3](figures.md))", ("<=", 1.3), figure("hit", ""), key="hit"),
    Target(
        "first epoch against fastai ([figure 6](figures.md))",
        (">=", 0.95),
        figure("first", "first epoch, images/s over stock's"),
    ),
    Target(
        "preload of digits against the forum's `load_data` ([figure 20](figures.md))",
        (">=", 1.0),
        figure("preload", "images/s over the forum's"),
    ),
    Target("first batch, cold, against torchvision", (">=", 0.9), first_batches, key="first"),
    Target("peak memory of the common job (PSS), over the decoded bytes", ("<=", 1.1), memory, key="memory"),
    Target(
        "workers on small images: the default against the fastest ([figure 21](figures.md))",
        (">=", 0.9),
        figure("workers", ""),
    ),
    Target(
        "an image of a batch of 64, among many records over few ([figure 22](figures.md))",
        ("<=", 1.2),
        figure("lookup", ""),
        key="lookup",
    ),
)


# -- verdicts -------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    "A target, the numbers that were measured, and whether all of them keep it; None where one is missing."

    target: Target
    numbers: List[Number]
    met: Optional[bool]


def verdicts(found: Measured) -> Iterator[Verdict]:
    "Judge every target."
    for target in TARGETS:
        numbers = target.numbers(found)
        known = [number for _, number in numbers if number is not None]
        kept = [met(number, target.bound) for number in known]
        # One number that misses is a miss, whatever is not known.
        judged = False if not all(kept) else True if len(known) == len(numbers) else None
        yield Verdict(target, numbers, judged)
