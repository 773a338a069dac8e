"""Read results/beside.json: the figures of one row, which row is best, and what was measured in turns."""

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from systems import SYSTEMS, THREADS_OF, WORKERS, WORKS

Row = Dict[str, Any]
#: Bytes of the pixels of one image.
DECODED = {"photographs": 500 * 375 * 3, "digits": 28 * 28 * 3, "masks": 500 * 375}


# -- one row --------------------------------------------------------------------------------------------------


def warm(row: Row) -> float:
    "Return the images per second of the later epochs: their median."
    return float(np.median([epoch["images"] / epoch["seconds"] for epoch in row["warm"]]))


def cold(row: Row) -> float:
    "Return the images per second of the first epoch and of all that comes before it."
    return float(row["cold"]["images"] / (row["made"] + row["prepared"] + row["cold"]["seconds"]))


def first(row: Row) -> float:
    "Return the seconds from the list of files to the first batch."
    return float(row["made"] + row["prepared"] + row["cold"]["first"])


def first_warm(row: Row) -> float:
    "Return the seconds to the first batch of a later epoch: their median."
    return float(np.median([epoch["first"] for epoch in row["warm"]]))


def preload(row: Row) -> Optional[float]:
    "Return the images per second of loading or writing before the first epoch; None for a system that does neither."
    return row["n"] / row["prepared"] if SYSTEMS[row["system"]].preloads and row["prepared"] > 0.05 else None


def peak(row: Row) -> float:
    "Return the most memory that it took, in bytes."
    return float(row["peak"])


def released(row: Row) -> float:
    "Return the bytes that are left above an idle process, at least one megabyte: less can't be told from nothing."
    return float(max(row["released"] - row["bare"], 1_000_000))


def decoded(row: Row) -> int:
    "Return the bytes of the pixels of all its images, masks included."
    kind = "digits" if row["table"] in ("digits", "counts") else "photographs"
    masks = DECODED["masks"] if row["table"] == "segmentation" else 0
    return int(row["n"] * (DECODED[kind] + masks))


def named(row: Row) -> str:
    "Return the name of its system and its number of workers."
    return name_of(row["system"], row["workers"])


def name_of(system: str, workers: int) -> str:
    "Return the name of a system and its number of workers."
    entry = SYSTEMS[system]
    return f"{entry.name}, {(WORKERS if 0 in entry.workers else THREADS_OF)[workers]}"


# -- several rows ---------------------------------------------------------------------------------------------


def of(rows: Sequence[Row], table: str, **wanted: Any) -> List[Row]:
    "List the rows of a table in which these keys have these values."
    return [row for row in rows if row["table"] == table and all(row[k] == v for k, v in wanted.items())]


def best(rows: Sequence[Row]) -> Optional[Row]:
    "Return the row with the fastest warm epochs; None of no rows."
    return max(rows, key=warm) if rows else None


def rivals(rows: Sequence[Row]) -> List[Row]:
    "List the rows of other systems, without the limit, which is none."
    return [row for row in rows if not SYSTEMS[row["system"]].ours and row["system"] != "limit"]


def ours(rows: Sequence[Row]) -> List[Row]:
    "List the rows of memlist."
    return [row for row in rows if SYSTEMS[row["system"]].ours]


#: A figure, how to read it from a row (None where it has no such figure), and whether less is better.
Figure = Tuple[str, Callable[[Row], Optional[float]], bool]
FIGURES: Tuple[Figure, ...] = (
    ("warm", warm, False),
    ("cold", cold, False),
    ("first batch", first, True),
    ("first batch, warm", first_warm, True),
    ("preload", preload, False),
    ("peak memory", peak, True),
    ("after release", released, True),
)
#: Of systems that keep nothing these are no achievement: only fastai itself is compared there.
OF_KEEPERS = ("peak memory", "after release")


class Contest(NamedTuple):
    "One figure of one job: a setting of memlist, what it is compared with, and how many times as good memlist is."

    work: str
    figure: str
    ours: Row
    other: Row
    ratio: float


def compared(figure: Figure, work: str, ours: Sequence[Row], others: Sequence[Row]) -> Optional[Contest]:
    "Compare the best of `ours` with the best of the others in one figure; None where either side has no such figure."
    name, measured, least = figure
    values = [[(value, row) for row in rows if (value := measured(row)) is not None] for rows in (ours, others)]
    if not all(values):
        return None
    (a, one), (b, other) = ((min if least else max)(side, key=lambda found: found[0]) for side in values)
    return Contest(work, name, one, other, b / a if least else a / b)


def competitors(rows: Sequence[Row], figure: str) -> List[Row]:
    "List the rows of other systems that a figure of ours is compared with."
    return [row for row in rivals(rows) if figure not in OF_KEEPERS or SYSTEMS[row["system"]].keeps]


def contests(rows: Sequence[Row]) -> Iterator[Contest]:
    "Compare memlist's best setting with the best of the others, by job and figure; warm also by workers."
    for work in WORKS:
        here = of(rows, work)
        for figure in FIGURES:
            found = compared(figure, work, ours(here), competitors(here, figure[0]))
            if found:
                yield found
            for k, name in enumerate(WORKERS if figure[0] == "warm" else ()):
                same = [row for row in here if row["workers"] == k]
                found = compared((f"warm, {name}", *figure[1:]), work, ours(same), rivals(same))
                if found:
                    yield found


def settings(rows: Sequence[Row]) -> Iterator[Tuple[Row, str, Optional[Contest], Optional[Contest]]]:
    """Compare every setting of memlist by itself, by job and figure.

    Gives its row, the figure, and two contests: with fastai at as many workers, and with the best of all others.
    """
    for work in WORKS:
        here = of(rows, work)
        for row in ours(here):
            stock = [other for other in here if other["system"] == "stock" and other["workers"] == row["workers"]]
            for figure in FIGURES:
                yield (
                    row,
                    figure[0],
                    compared(figure, work, [row], stock),
                    compared(figure, work, [row], competitors(here, figure[0])),
                )


# -- in turns -------------------------------------------------------------------------------------------------


def in_turns(turns: Dict[str, Row], name: str) -> Dict[Tuple[str, int], List[float]]:
    "Map each contender of a comparison that measured something, by system and workers, to its samples."
    found = turns.get(name, {}).get("contenders", {}).values()
    return {(one["system"], one["workers"]): one["samples"] for one in found if one.get("samples") and not one["wrong"]}


def times_as_fast(samples: Dict[Tuple[str, int], List[float]], ours: Any, other: Any) -> Optional[float]:
    "Return how many times as fast one contender is as another: the ratio of medians."
    if ours not in samples or other not in samples:
        return None
    return float(np.median(samples[other]) / np.median(samples[ours]))


def fastest(samples: Dict[Tuple[str, int], List[float]], ours: bool) -> Optional[Tuple[str, int]]:
    "Return the fastest contender among memlist's settings, or among the others."
    able = [key for key in samples if SYSTEMS[key[0]].ours == ours and key[0] != "limit"]
    return min(able, key=lambda key: float(np.median(samples[key]))) if able else None
