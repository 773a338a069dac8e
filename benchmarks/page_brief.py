"""Make the first lines of the comparison, and what its first chart shows: where memlist leads, and where others do."""

# ruff: noqa: RUF001  (the page writes × for times)

from typing import Any, Dict, List, NamedTuple, Sequence

import targets
from answers import Row, best, decoded, in_turns, of, ours, peak, rivals, times_as_fast, warm
from page_losses import SHORT
from systems import FIRST, SYSTEMS, WORKS

#: How the settings of memlist are called where they are compared with fastai.
HOW = {
    "memlist": "where only the names of classes change",
    "batches": "with `batch_tfms=True`",
    "reduced": "with `max_size` as well",
}


class Job(NamedTuple):
    "Warm epochs of one job, each system at its best number of workers."

    work: str
    stock: Row
    #: The best of all others, fastai included.
    rival: Row
    #: Every setting of memlist.
    settings: List[Row]

    @property
    def ours(self) -> Row:
        "The fastest setting of memlist."
        return max(self.settings, key=warm)

    @property
    def lead(self) -> float:
        "How many times as fast memlist's best is as the best of the others."
        return warm(self.ours) / warm(self.rival)


def jobs(rows: Sequence[Row]) -> List[Job]:
    "List the jobs that memlist, fastai and others did, those first in which memlist leads most."
    found = []
    for work in WORKS:
        here = of(rows, work)
        stock, rival = best(of(here, work, system="stock")), best(rivals(here))
        settings = [row for key in SYSTEMS for row in [best(ours(of(here, work, system=key)))] if row]
        if stock and rival and settings:
            found.append(Job(work, stock, rival, settings))
    return sorted(found, key=lambda job: -job.lead)


def lines(found: targets.Measured) -> Dict[str, Any]:
    "Return what the first lines of the page state."
    every = jobs(found.rows)
    ahead, behind = ([job for job in every if (job.lead >= 1) == leads] for leads in (True, False))
    values: Dict[str, Any] = {
        "jobs": len(every),
        "ahead_count": len(ahead),
        "behind_count": len(behind),
        "ahead": "; ".join(map(_led, ahead)),
        "behind": "; ".join(map(_led, reversed(behind))),
    }
    gains = []
    for key, how in HOW.items():
        ratios = [warm(row) / warm(job.stock) for job in every for row in job.settings if row["system"] == key]
        if ratios:
            gains.append(f"{_range(ratios)} {how}")
    values["over_stock"] = ", ".join(gains)
    contenders = ("memlist", 0), ("torchvision", 0)
    starts = [times_as_fast(in_turns(found.turns, f"first_{work}"), *contenders) for work in FIRST]
    known = [ratio for ratio in starts if ratio is not None]
    peaks = [peak(row) / decoded(row) for row in of(found.rows, "memory")]
    verdicts = [one.met for one in targets.verdicts(found)]
    if known:
        values["started"] = _range(known)
    if peaks:
        values["peaked"] = _range(peaks)
    return {**values, "targets_met": verdicts.count(True), "targets_count": len(verdicts)}


def _led(job: Job) -> str:
    return f"{SHORT[job.work]} ({_times(job.lead)} × {SYSTEMS[job.rival['system']].name})"


def _range(ratios: Sequence[float]) -> str:
    low, high = _times(min(ratios)), _times(max(ratios))
    return f"{low} ×" if low == high else f"{low} to {high} ×"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1.5 else f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
