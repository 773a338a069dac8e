"""Read results/beside.json: the figures of one row, and which row is best."""

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from systems import SYSTEMS, WORKS

Row = Dict[str, Any]
#: Bytes of the pixels of one image.
DECODED = {"photographs": 500 * 375 * 3, "digits": 28 * 28 * 3, "masks": 500 * 375}
WORKERS = ("no workers", "1 worker", "2 workers")
THREADS = ("", "1 thread", "2 threads")


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


def decoded(row: Row) -> int:
    "Return the bytes of the pixels of all its images, masks included."
    kind = "digits" if row["table"] in ("digits", "counts") else "photographs"
    masks = DECODED["masks"] if row["table"] == "segmentation" else 0
    return int(row["n"] * (DECODED[kind] + masks))


def named(row: Row) -> str:
    "Return the name of its system and its number of workers."
    entry = SYSTEMS[row["system"]]
    return f"{entry.name}, {(WORKERS if 0 in entry.workers else THREADS)[row['workers']]}"


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


class Contest(NamedTuple):
    "One figure of one job: memlist's best, the best of the others, and how many times as good memlist's is."

    work: str
    figure: str
    ours: Row
    other: Row
    ratio: float


#: A figure, how to read it from a row, and whether less is better.
Figure = Tuple[str, Callable[[Row], float], bool]
FIGURES: Tuple[Figure, ...] = (
    ("warm", warm, False),
    *((f"warm, {name}", warm, False) for name in WORKERS),
    ("cold", cold, False),
    ("preload", lambda row: preload(row) or 0.0, False),
    ("first batch", first, True),
    ("first batch, warm", first_warm, True),
    ("peak memory", peak, True),
)


def contests(rows: Sequence[Row]) -> Iterator[Contest]:
    "Compare memlist with the best of the others, by job and figure."
    for work in WORKS:
        for name, measured, least in FIGURES:
            found = [row for row in of(rows, work) if _competes(row, name)]
            if not ours(found) or not rivals(found):
                continue
            choose = min if least else max
            a, b = choose(ours(found), key=measured), choose(rivals(found), key=measured)
            yield Contest(work, name, a, b, measured(b) / measured(a) if least else measured(a) / measured(b))


def _competes(row: Row, figure: str) -> bool:
    if figure == "preload":
        return preload(row) is not None
    if figure == "peak memory":  # a system that keeps nothing needs none
        return SYSTEMS[row["system"]].keeps
    return figure not in WORKERS_OF or row["workers"] == WORKERS_OF[figure]


WORKERS_OF = {f"warm, {name}": k for k, name in enumerate(WORKERS)}
