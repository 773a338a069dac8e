"""Make the page doors.md from results/doors.json and templates/doors.md."""

from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
from measure import met
from page import fill, machine, table, template
from systems import DOORS, THREADS, THREADS_OF, WORKERS

OURS, STOCK, NO_RIVALS = ("memlist", "ahead", "reduced"), ("stock", "single", "tensors"), ("limit",)
#: What the ratios to stock have to be.
CPU, NO_WORKERS, TWO_WORKERS, BEST, HIT = (">=", 8), (">=", 6), (">=", 4), (">=", 5), ("<=", 1.3)


def render(results: Dict[str, Any]) -> str:
    "Return the whole page; a section whose step was not taken is left out."
    return fill(template("doors"), values_of(results))


def values_of(results: Dict[str, Any]) -> Dict[str, Any]:
    "Return everything that the template asks for, by name."
    values = {"photographs": results["photographs"], "quick": results["quick"], **machine(results["surroundings"])}
    values["absent"] = "; ".join(f"{name}: {why}" for name, why in results["absent"].items())
    for name, tables in STEPS.items():
        if name in results:
            values.update(tables(results[name]))
    return values


def brief(found: Dict[str, Any]) -> str:
    "Write what a contender measured for the terminal."
    if "failed" in found:
        return f"FAILED {found['failed']}"
    wrong = f" WRONG: {found['wrong']}" if found["wrong"] else ""
    return f"{1e3 * _of(found):.3f} ms, of a processor {1e3 * _of(found, 'cpu'):.3f} ms{wrong}"


def _of(found: Dict[str, Any], what: str = "samples") -> float:
    return float(np.median(found[what]))


def _named(found: Dict[str, Any]) -> List[str]:
    "Return the name of a contender and its workers, or its threads where it has those."
    entry = DOORS[found["system"]]
    name = f"**{entry.name}**" if entry.ours else entry.name
    return [name, (THREADS_OF if entry.workers == THREADS else WORKERS)[found["workers"]]]


def _contenders(found: Dict[str, Any]) -> str:
    "Return the table of a comparison in turns, the fastest first."
    able = sorted((one for one in found.values() if "failed" not in one), key=_of)
    lines = [
        [
            *_named(one),
            f"{1 / _of(one):,.0f}",
            f"{1e3 * _of(one):.3f}",
            f"{1e3 * _of(one, 'cpu'):.3f}",
        ]
        for one in able
    ]
    lines += [[*_named(one), "failed", "", ""] for one in found.values() if "failed" in one]
    return table(("", "", "images/s", "ms per image", "ms of a processor"), lines, 2)


def _able(found: Dict[str, Any], systems: Sequence[str], workers: Optional[int] = None) -> Iterator[Dict[str, Any]]:
    able = (one for one in found.values() if "failed" not in one and one["system"] in systems)
    return (one for one in able if workers in (None, one["workers"]))


def best(found: Dict[str, Any], systems: Sequence[str], workers: Optional[int] = None) -> Dict[str, Any]:
    "Return the fastest of these systems."
    return min(_able(found, systems, workers), key=_of)


def _judged(number: float, bound: Any) -> str:
    return f"{'≥' if bound[0] == '>=' else '≤'} {bound[1]}" + ("" if met(number, bound) else ", **missed**")


def over_stock(found: Dict[str, Any], workers: Optional[int] = None) -> float:
    "Return memlist's images per second over torchvision's, with this number of workers, or each at its best."
    return _of(best(found, STOCK, workers)) / _of(best(found, OURS, workers))


def cpu_over_stock(found: Dict[str, Any]) -> float:
    "Return torchvision's processor time per image over memlist's, without workers, each at its least."
    stock, ours = (min(_of(one, "cpu") for one in _able(found, kind, 0)) for kind in (STOCK, OURS))
    return stock / ours


def _folder(found: Dict[str, Any]) -> Dict[str, Any]:
    ratios = [
        ("processor time per image, no workers", cpu_over_stock(found), CPU),
        ("images/s, no workers", over_stock(found, 0), NO_WORKERS),
        ("images/s, 2 workers", over_stock(found, 2), TWO_WORKERS),
        ("images/s, each at its best", over_stock(found), BEST),
    ]
    lines = [[what, f"{ratio:.1f}", _judged(ratio, bound)] for what, ratio, bound in ratios]
    rates = {f"{one['system']}_rate": f"{1 / _of(one):,.0f}" for one in _able(found, ("memlist", "ahead"), 0)}
    return {"folder": _contenders(found), "folder_ratios": table(("against stock", "times", "target"), lines), **rates}


def _square(found: Dict[str, Any]) -> Dict[str, Any]:
    ours = _of(best(found, OURS))
    behind: List[str] = []
    for one in found.values():
        if one["system"] not in (*OURS, *NO_RIVALS) and "failed" not in one and _of(one) < ours:
            behind.append(f"{', '.join(_named(one))} ({ours / _of(one):.1f} times)")
    return {"square": _contenders(found), "behind": ", ".join(behind)}


def _resampling(found: Dict[str, Any]) -> Dict[str, Any]:
    lines = []
    for name, times in found["times"].items():
        ours, pillow = (1e3 * float(np.median(times[key])) for key in ("kernels", "Pillow"))
        lines.append([name, f"{ours:.2f}", f"{pillow:.2f}", f"{pillow / ours:.1f}"])
    return {"resampling": table(("", "kernels, ms", "Pillow, ms", "times"), lines)}


def _hits(found: Dict[str, Any]) -> Dict[str, Any]:
    lines = [[str(k), f"{one['hits']:,}", f"{one['misses']:,}"] for k, one in enumerate(found["epochs"], 1)]
    return {"hits": table(("epoch", "hits", "files opened"), lines), "images": f"{found['images']:,}"}


def _hit(found: Dict[str, Any]) -> Dict[str, Any]:
    ours, copy = (float(np.median(found[name])) for name in ("cached", "array.copy()"))
    return {
        "hit": f"{1e6 * ours:.0f}",
        "copy": f"{1e6 * copy:.0f}",
        "hit_ratio": f"{ours / copy:.2f}",
        "hit_target": _judged(ours / copy, HIT),
    }


STEPS = {"folder": _folder, "square": _square, "resampling": _resampling, "hits": _hits, "hit": _hit}
