"""Make the page README.md, memlist compared with other loaders, from results/beside.json and templates/beside.md."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import page_brief
import page_losses
from answers import Row, best, cold, decoded, first, first_warm, named, of, ours, peak, preload, rivals, warm
from page import fill, machine, number, seconds, table, template
from page_losses import TITLES
from systems import SYSTEMS, WORKS
from targets import Measured


def render(results: Dict[str, Any], figures: Dict[str, Any]) -> str:
    "Return the whole page; `figures` is results/figures.json, for the targets that are measured there."
    return fill(template("beside"), values_of(results, figures))


def values_of(results: Dict[str, Any], figures: Dict[str, Any]) -> Dict[str, Any]:
    "Return everything that the template asks for, by name."
    every, turns = results["rows"], results.get("turns", {})
    rows = [row for row in every if "failed" not in row and not row["wrong"]]
    measured = Measured(rows, turns, figures["rows"])
    values: Dict[str, Any] = {
        "quick": results["quick"],
        "targets": page_losses.judged(measured),
        **page_losses.missed(measured),
        "best": _best(rows),
        **page_brief.lines(measured),
        **page_losses.losses(rows),
        **page_losses.turned(turns),
        **page_losses.memory(rows),
        **page_losses.took(results, figures),
        **_machine(results),
    }
    for key in SYSTEMS:
        values[f"{key}_versions"] = _versions(results["versions"].get(key, {}))
    for work in WORKS:
        found = of(every, work)
        if found:
            values[work], values[f"{work}_n"] = _work(found), f"{found[0]['n']:,}"
            values[f"{work}_settings"] = page_losses.every_setting(rows, work)
    shares, counts = of(rows, "shares"), of(rows, "counts")
    if shares:
        values["shares"], values["shares_n"] = _shares(shares), f"{shares[0]['n']:,}"
    if counts:
        values["counts"] = _counts(counts)
    values["absent"] = "\n".join(_absent(*one) for one in results.get("absent", {}).items())
    return values


# -- how a name is written ------------------------------------------------------------------------------------


def bold(key: str) -> str:
    "Write the name of a system, ours in bold."
    return f"**{SYSTEMS[key].name}**" if SYSTEMS[key].ours else SYSTEMS[key].name


# -- the sections before the jobs -----------------------------------------------------------------------------


def _best(rows: Sequence[Row]) -> str:
    lines = []
    for work in WORKS:
        found = of(rows, work)
        a, b = best(ours(found)), best(rivals(found))
        limit, stock = best(of(found, work, system="limit")), best(of(found, work, system="stock"))
        if a is None or b is None or stock is None:
            continue
        share = f"{warm(a) / warm(limit):.0%}" if limit else ""
        us, them = f"{named(a)}: **{number(warm(a))}**", f"{named(b)}: {number(warm(b))}"
        times = f"**{warm(a) / warm(b):.2f}**", f"{warm(a) / warm(stock):.1f}"
        lines.append([TITLES[work], us, them, *times, share])
    head = ("job", "memlist's best, images/s", "best of the others, images/s", "times theirs", "times stock's best")
    return table((*head, "of the limit"), lines, 3)


def _machine(results: Dict[str, Any]) -> Dict[str, Any]:
    if "surroundings" not in results or not results["rows"]:
        return {}
    times = sorted(row["at"] for row in results["rows"])
    probes = [row["probe"] for row in results["rows"]]
    low, middle, high = (1000 * float(np.percentile(probes, q)) for q in (10, 50, 90))
    return {
        **machine(results["surroundings"]),
        "begun": times[0],
        "ended": times[-1],
        "probe": f"{middle:.0f}",
        "probe_low": f"{low:.0f}",
        "probe_high": f"{high:.0f}",
        "probe_ratio": f"{high / low:.2f}",
        "sets": " ".join(f"{what}." for what in results["sets"].values()),
    }


def _versions(versions: Dict[str, str]) -> str:
    shown = [f"{name} {version}" for name, version in versions.items() if name not in ("pillow", "python")]
    return ", ".join(shown) or "not measured"


def _absent(environment: str, why: str) -> str:
    names = [entry.name for entry in SYSTEMS.values() if entry.environment == environment]
    return f"- **{', '.join(names)}**: {why}"


# -- jobs -----------------------------------------------------------------------------------------------------


def _work(found: Sequence[Row]) -> str:
    "Return both tables of a job: speed, and first batches and memory."
    good = [row for row in found if "failed" not in row and not row["wrong"]]
    limit = best([row for row in good if row["system"] == "limit"])
    speeds, others = [], []
    for key in SYSTEMS:
        every = [row for row in found if row["system"] == key]
        if every:
            measured = [row for row in good if row["system"] == key]
            speeds.append([bold(key), *_speeds(key, every, measured, limit)])
            if measured and key != "limit":
                others.append([bold(key), *_others(measured)])
    head = ("images/s", "warm: no workers", "1", "2", "of the limit", "cold: no workers", "1", "2")
    beside = ("first batch", "warm: no workers / 2", "preload, images/s", "peak", "of the decoded bytes")
    return table(head, speeds) + "\n\n" + table(("", *beside, "after release"), others)


def _speeds(key: str, every: Sequence[Row], good: Sequence[Row], limit: Optional[Row]) -> List[str]:
    "Return the images per second of one system, by workers, warm and cold."
    by_workers = [_at(good, workers) for workers in (0, 1, 2)]
    cells = [number(warm(row)) if row else _why_not(_at(every, k)) for k, row in enumerate(by_workers)]
    top = best(good)
    if top is None:
        return [*cells, "", "", "", ""]
    cells.append(f"{warm(top) / warm(limit):.0%}" if limit and key != "limit" else "")
    return cells + [number(cold(row)) if row and key != "limit" else "-" for row in by_workers]


def _others(good: Sequence[Row]) -> List[str]:
    "Return first batches, preloading and memory of one system."
    starts = [seconds(first_warm(row)) if row else "-" for row in (_at(good, 0), _at(good, 2))]
    loads = [one for one in map(preload, good) if one]
    most = max(good, key=peak)
    return [
        seconds(min(map(first, good))),
        " / ".join(starts),
        number(max(loads)) if loads else "-",
        f"{peak(most) / 1e6:,.0f} MB",
        f"{peak(most) / decoded(most):.2f}",
        f"{max(row['released'] - row['bare'] for row in good) / 1e6:,.0f} MB",
    ]


def _at(rows: Sequence[Row], workers: int) -> Optional[Row]:
    return next((row for row in rows if row["workers"] == workers), None)


def _why_not(row: Optional[Row]) -> str:
    if row is None:
        return "-"
    if row.get("wrong"):
        return f"wrong: {row['wrong']}"
    return "out of memory" if "out of memory" in row.get("failed", "") else "failed"


# -- by share, by count ---------------------------------------------------------------------------------------


def _shares(found: Sequence[Row]) -> str:
    lines, kept = [], sorted({row["share"] for row in found})
    for key in dict.fromkeys(row["system"] for row in found):
        rates = {row["share"]: number(warm(row)) for row in found if row["system"] == key}
        lines.append([bold(key), *(rates.get(share, "-") for share in kept)])
    return table(("images/s, warm, 2 workers", *(f"{share:.0%}" for share in kept)), lines)


def _counts(found: Sequence[Row]) -> str:
    counts = sorted({row["n"] for row in found})
    figures: Tuple[Any, ...] = (
        ("first batch of a warm epoch, no workers", 0, lambda row: seconds(first_warm(row))),
        ("the same with 2 workers, which start first", 2, lambda row: seconds(first_warm(row))),
        ("per image, no workers", 0, lambda row: f"{1e6 / warm(row):.1f} µs"),
        ("from list of files to first batch, no workers", 0, lambda row: seconds(first(row))),
    )
    lines = []
    for key in dict.fromkeys(row["system"] for row in found):
        for name, workers, measured in figures:
            at = {row["n"]: measured(row) for row in found if row["system"] == key and row["workers"] == workers}
            lines.append([bold(key), name, *(at.get(n, "-") for n in counts)])
    return table(("", "", *(f"{n:,}" for n in counts)), lines, 2)
