"""Make the first tables of the comparison: the targets, and every figure in which memlist is behind."""

import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import targets
from answers import (
    FIGURES,
    Contest,
    Row,
    contests,
    decoded,
    fastest,
    in_turns,
    name_of,
    named,
    of,
    ours,
    peak,
    settings,
    times_as_fast,
)
from measure import spread
from page import number, seconds, table, titles
from systems import IN_TURNS, SYSTEMS, WORKS

TITLES = {work: title for work, title in titles("beside").items() if work in WORKS}
SIGNS = {"<=": "≤", ">=": "≥"}
#: The first words of each title.
SHORT = {work: re.split("[:,]", title)[0] for work, title in TITLES.items()}


def times(ratio: float) -> str:
    "Write how many times as good memlist is, a loss in bold."
    text = f"{ratio:.3f}" if 0.995 <= ratio < 1 else f"{ratio:.2f}"
    return f"**{text}**" if ratio < 1 else text


# -- targets --------------------------------------------------------------------------------------------------


def judged(found: targets.Measured) -> str:
    "Return the table of the targets."
    lines = []
    for verdict in targets.verdicts(found):
        percent = verdict.target.percent
        sign, bound = verdict.target.bound
        said = {True: "met", False: "**missed**", None: "not measured"}[verdict.met]
        aim = f"{SIGNS[sign]} {bound:.0%}" if percent else f"{SIGNS[sign]} {bound:g}"
        lines.append([verdict.target.figure, aim, _numbers(verdict), said])
    return table(("figure", "target", "measured", "verdict"), lines, 4)


def missed(found: targets.Measured) -> Dict[str, Any]:
    "Return the names under which the template explains missed targets, and the figures that it needs for that."
    made: Dict[str, Any] = {
        f"missed_{one.target.key}": True for one in targets.verdicts(found) if one.target.key and one.met is False
    }
    made["any_missed"] = bool(made)
    stock = []
    for work in targets.FIRST:
        samples = in_turns(found.turns, f"first_{work}")
        ratio = times_as_fast(samples, ("stock", 0), ("torchvision", 0))
        if ratio is not None:
            stock.append(f"{work} {ratio:.2g}")
    imported = [(row["bare"], decoded(row)) for row in of(found.rows, "memory") if "bare" in row]
    if imported:
        made["bare_MB"] = f"{max(bare for bare, _ in imported) / 1e6:.0f}"
        made["bare_share"] = f"{max(bare / size for bare, size in imported):.2f}"
    for work in ("default", "crops"):
        limit = in_turns(found.turns, f"fast_{work}").get(("limit", 0))
        if limit:
            _, low, high = spread(limit)
            made[f"varied_{work}"] = f"{100 * (high / low - 1):.0f}"
    return {**made, "first_stock": ", ".join(stock) or "not measured"}


def _numbers(verdict: targets.Verdict) -> str:
    "Write each number with what it is of; many of one kind as their range, and those that miss."
    shown = []
    for name, value in verdict.numbers:
        text = "-" if value is None else f"{value:.0%}" if verdict.target.percent else f"{value:.3g}"
        missed = value is not None and not targets.met(value, verdict.target.bound)
        shown.append((f"{name}: {text}" if name else text, missed, value))
    if len(shown) <= 5:
        return "; ".join(text for text, _, _ in shown)
    known = [value for _, _, value in shown if value is not None]
    if not known:
        return "-"
    behind = "; ".join(text for text, missed, _ in shown if missed)
    cases = f"{len(known)} cases" if len(known) == len(shown) else f"{len(known)} of {len(shown)} cases"
    return f"{min(known):.3g} to {max(known):.3g} ({cases})" + (f", missed by {behind}" if behind else "")


# -- losses ---------------------------------------------------------------------------------------------------


def losses(rows: Sequence[Row]) -> Dict[str, Any]:
    "Return the tables of all that memlist loses, each worst first, and how many comparisons there were."
    best = sorted((one for one in contests(rows) if one.ratio < 1), key=lambda one: one.ratio)
    lines = [[SHORT[one.work], one.figure, named(one.ours), named(one.other), times(one.ratio)] for one in best]
    head = ("job", "figure", "memlist's best", "who is better", "times as good")
    every = list(settings(rows))
    with_stock = [(row, one) for row, _, one, _ in every if one]
    with_best = [one for _, _, _, one in every if one]
    return {
        "lost": table(head, lines, 4) if lines else "None, on these jobs.",
        "lost_to_stock": _to_stock(with_stock),
        "stock_count": f"{len(with_stock):,}",
        "stock_lost": f"{sum(one.ratio < 1 for _, one in with_stock):,}",
        "best_count": f"{len(with_best):,}",
        "best_lost": f"{sum(one.ratio < 1 for one in with_best):,}",
        **{f"lost_{one.work}": True for one in best},
    }


def _to_stock(found: Sequence[Tuple[Row, Contest]]) -> str:
    "Return the table of what settings lose to fastai with as many workers: a line per job and setting."
    cells: Dict[Tuple[str, str], Dict[str, List[str]]] = {}
    for row, one in found:
        if one.ratio < 1:
            line = cells.setdefault((one.work, row["system"]), {})
            line.setdefault(one.figure, []).append(f"{row['workers']}: {times(one.ratio)}")
    figures = [figure[0] for figure in FIGURES if any(figure[0] in line for line in cells.values())]
    lines = [
        [SHORT[work], SYSTEMS[system].name, *(", ".join(line.get(figure, ())) for figure in figures)]
        for (work, system), line in cells.items()
    ]
    return table(("job", "setting", *figures), lines, 2) if lines else "None, on these jobs."


# -- in turns -------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    "A setting of memlist and another system, in turns: the times of each, and how many times as fast memlist is."

    work: str
    figure: str
    ours: Tuple[str, int]
    other: Tuple[str, int]
    samples: Dict[Tuple[str, int], List[float]]
    ratio: float


def pairs(turns: Dict[str, Row]) -> Iterator[Pair]:
    "List every pair of a setting of memlist and another system that took turns."
    for name, row in turns.items():
        samples = in_turns(turns, name)
        for us in samples:
            for other in samples:
                if SYSTEMS[us[0]].ours and not SYSTEMS[other[0]].ours and other[0] != "limit":
                    ratio = times_as_fast(samples, us, other)
                    assert ratio is not None
                    figure = "first batch" if row["first"] else "warm"
                    yield Pair(row["work"], figure, us, other, samples, ratio)


def turned(turns: Dict[str, Row]) -> Dict[str, str]:
    "Return the table of all pairs, worst first, and that of the shares of the limit."
    lines = []
    for one in sorted(pairs(turns), key=lambda pair: pair.ratio):
        sides = [one.samples[side] for side in (one.ours, one.other)]
        low, high = spread(np.array(sides[1]) / np.array(sides[0]))[1:]
        write = (lambda found: seconds(float(np.median(found)))) if one.figure == "first batch" else _rate
        us, them = (f"{name_of(*side)}: {write(samples)}" for side, samples in zip((one.ours, one.other), sides))
        lines.append([SHORT[one.work], one.figure, us, them, times(one.ratio), f"{low:.2f} to {high:.2f}"])
    head = ("job", "figure", "memlist", "the other", "times as good", "in the rounds")
    shares = []
    for work in IN_TURNS:
        samples = in_turns(turns, f"fast_{work}")
        best = fastest(samples, True)
        share = times_as_fast(samples, best, ("limit", 0))
        if best and share:
            limit = _rate(samples["limit", 0])
            shares.append([SHORT[work], f"{name_of(*best)}: {_rate(samples[best])}", limit, f"{share:.0%}"])
    found = {"turns_failed": "\n".join(_failed(turns))}
    if lines:
        found["turned"] = table(head, lines, 4)
    if shares:
        found["shares_of_limit"] = table(("job", "memlist's fastest, images/s", "limit", "of the limit"), shares, 2)
    return found


def _failed(turns: Dict[str, Row]) -> Iterator[str]:
    "List the contenders that made no batches, or wrong ones."
    for name, row in turns.items():
        for one in row["contenders"].values():
            why = one.get("failed") or (one["wrong"] and f"wrong: {one['wrong']}")
            if why:
                yield f"- `{name}`, {name_of(one['system'], one['workers'])}: {' '.join(why.split())}"


def _rate(samples: Sequence[float]) -> str:
    return number(1 / float(np.median(samples)))


# -- every setting of a job -----------------------------------------------------------------------------------

WRITTEN = {
    "warm": number,
    "cold": number,
    "preload": number,
    "first batch": seconds,
    "first batch, warm": seconds,
    "peak memory": lambda value: f"{value / 1e6:,.0f} MB",
    "after release": lambda value: f"{value / 1e6:,.0f} MB",
}


def every_setting(rows: Sequence[Row], work: str) -> str:
    "Return the table of a job: each setting of memlist against fastai with as many workers, and against the best."
    cells: Dict[int, List[str]] = {}
    best: Dict[str, Contest] = {}
    found = of(rows, work)
    names = {id(row): named(row) for row in ours(found)}
    for row, figure, stock, other in settings(found):
        cells.setdefault(id(row), []).append(f"{_cell(stock)} / {_cell(other)}")
        if other:
            best[figure] = other
    lines = [[names[key], *line] for key, line in cells.items()]
    lines.append(["*the best of the others*", *(_who(figure, best.get(figure[0])) for figure in FIGURES)])
    return table(("times as good", *(figure[0] for figure in FIGURES)), lines)


def _cell(one: Optional[Contest]) -> str:
    return times(one.ratio) if one else "-"


def _who(figure: Any, one: Optional[Contest]) -> str:
    if one is None:
        return "-"
    return f"{named(one.other)}: {WRITTEN[figure[0]](figure[1](one.other))}"


# -- memory ---------------------------------------------------------------------------------------------------


def memory(rows: Sequence[Row]) -> Dict[str, str]:
    "Return the table of what the peak of the common job is made of."
    found = of(rows, "memory")
    lines = []
    for row in found:
        parts = decoded(row), row["bare"], peak(row) - decoded(row) - row["bare"]
        shown = [f"{part / 1e6:,.0f} MB ({part / decoded(row):.2f})" for part in parts]
        lines.append([named(row), f"{peak(row) / 1e6:,.0f} MB (**{peak(row) / decoded(row):.2f}**)", *shown])
    if not lines:
        return {}
    head = ("", "peak", "decoded bytes", "the process before it", "all else: batches, lists, index")
    return {"memory": table(head, lines), "memory_n": f"{found[0]['n']:,}"}


# -- how long it took -----------------------------------------------------------------------------------------


def took(results: Dict[str, Any], figures: Dict[str, Any]) -> Dict[str, str]:
    "Return the table of how long each part of a run takes."
    parts: Dict[str, float] = {}
    for row in results["rows"]:
        parts[f"table `{row['table']}`"] = parts.get(f"table `{row['table']}`", 0) + row.get("took", 0)
    for name, row in results.get("turns", {}).items():
        kind = f"in turns, `{name.split('_')[0]}_...`"
        parts[kind] = parts.get(kind, 0) + row["took"]
    for name, spent in figures.get("took", {}).items():
        parts[f"figure `{name}`"] = spent
    lines = [[name, f"{spent / 60:.1f}"] for name, spent in sorted(parts.items(), key=lambda item: -item[1]) if spent]
    if not lines:
        return {}
    total = ["all", f"{sum(parts.values()) / 60:.1f}"]
    return {"took": table(("part", "minutes"), [*lines, total])}
