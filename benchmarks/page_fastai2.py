"""Make the page fastai2.md from results/fastai2.json and templates/fastai2.md."""

from typing import Any, Dict, Iterable, List, Optional, Tuple

import numpy as np
from measure import met
from page import fill, machine, table, template

#: What is wanted: times stock's processor time, and its images/s without and with workers; the share that is waited.
CPU, NO_WORKERS, TWO_WORKERS = (">=", 8), (">=", 6), (">=", 3.5)
WAITING, WAITING_ON_GPU = ("<=", 5), ("<=", 2)
STOCK, OURS = "fastai", "memlist"


def render(results: Dict[str, Any]) -> str:
    "Return the whole page; a section whose step was not taken is left out."
    return fill(template("fastai2"), values_of(results))


def values_of(results: Dict[str, Any]) -> Dict[str, Any]:
    "Return everything that the template asks for, by name."
    values = {"photographs": results["photographs"], "quick": results["quick"], **machine(results["surroundings"])}
    values["differing"] = _differing(results)
    for name, tables in STEPS.items():
        if name in results:
            values.update(tables(results[name]))
    return values


def brief(one: Dict[str, Any]) -> str:
    "Write what a way measured for the terminal."
    return f"{1e3 * _of(one):.3f} ms, of a processor {1e3 * _of(one, 'cpu'):.3f} ms"


def brief_training(one: Dict[str, Any]) -> str:
    "Write what a training measured for the terminal."
    return f"{_of(one, 'seconds'):.2f} s, {share_of(one):.1f} % waiting"


def _of(one: Dict[str, Any], what: str = "samples") -> float:
    return float(np.median(one[what]))


def share_of(one: Dict[str, Any], part: str = "waited") -> float:
    "Return the percentage of a training's seconds that went into a part of it: the median of its rounds."
    return float(np.median(100 * np.array(one[part]) / np.array(one["seconds"])))


def _judged(number: float, bound: Tuple[str, float], unit: str = "") -> str:
    return f"{'≥' if bound[0] == '>=' else '≤'} {bound[1]}{unit}" + ("" if met(number, bound) else ", **missed**")


def _workers(n: int) -> str:
    return "no workers" if n == 0 else f"{n} worker{'s' * (n > 1)}"


def _side(found: Dict[str, Any], system: str, workers: Optional[int] = None) -> Iterable[Dict[str, Any]]:
    ways = (one for one in found["ways"].values() if one["system"] == system)
    return [one for one in ways if workers in (None, one["workers"])]


def best(found: Dict[str, Any], system: str, workers: Optional[int] = None) -> Dict[str, Any]:
    "Return the fastest way of a side."
    return min(_side(found, system, workers), key=_of)


def over_stock(found: Dict[str, Any], workers: Optional[int] = None) -> float:
    "Return memlist's images per second over fastai's, with this number of workers, or each at its best."
    return _of(best(found, STOCK, workers)) / _of(best(found, OURS, workers))


def cpu_over_stock(found: Dict[str, Any]) -> float:
    "Return fastai's processor time per image over memlist's, both on one thread."
    stock, ours = (_of(best(found, side), "cpu") for side in (STOCK, OURS))
    return stock / ours


def _alone(results: Dict[str, Any]) -> Dict[str, Any]:
    lines = []
    for name, found in results.items():
        stock, ours = (_of(best(found, side), "cpu") for side in (STOCK, OURS))
        ratio = cpu_over_stock(found)
        lines.append([name, f"{1e3 * stock:.2f}", f"{1e3 * ours:.2f}", f"{ratio:.1f}", _judged(ratio, CPU)])
    return {"alone": table(("ms of a processor per image", "fastai", "memlist", "times", "target"), lines)}


def _differing(results: Dict[str, Any]) -> str:
    "Name the pipelines of either step whose first batches were not equal."
    steps = [results.get(name, {}) for name in ("alone", "loader")]
    return ", ".join(dict.fromkeys(name for step in steps for name, found in step.items() if not found["equal"]))


def _loader(results: Dict[str, Any]) -> Dict[str, Any]:
    rates: List[List[str]] = []
    ratios: List[List[str]] = []
    for name, found in results.items():
        for one in sorted(found["ways"].values(), key=_of):
            system = "**memlist**" if one["system"] == OURS else one["system"]
            words = [name, system, _workers(one["workers"]), str(one["threads"])]
            rates.append([*words, f"{1 / _of(one):,.0f}", f"{1e3 * _of(one, 'cpu'):.2f}"])
        for what, workers, bound in (
            ("no workers", 0, NO_WORKERS),
            ("2 workers", 2, TWO_WORKERS),
            ("each at its best", None, None),
        ):
            ratio = over_stock(found, workers)
            ratios.append([name, what, f"{ratio:.1f}", "" if bound is None else _judged(ratio, bound)])
    head = "", "", "", "torch's threads", "images/s", "ms of a processor per image"
    return {
        "loader": table(head, rates, 4),
        "loader_ratios": table(("against fastai", "", "times", "target"), ratios, 2),
    }


def _waits(found: Dict[str, Any], bound: Tuple[str, float]) -> Tuple[str, str]:
    "Return the table of trainings, and a sentence on the least share that memlist waits."
    lines = []
    for one in found["ways"].values():
        system = "**memlist**" if one["system"] == OURS else one["system"]
        shares = (f"{share_of(one, part):.1f} %" for part in ("waited", "first", "transformed"))
        lines.append([system, _workers(one["workers"]), f"{_of(one, 'seconds'):.2f}", *shares])
    least = min(share_of(one) for one in _side(found, OURS))
    head = "", "", "seconds", "waiting", "of it, for first batches", "transforms of batches"
    return table(head, lines, 2), f"{least:.1f} % (target: {_judged(least, bound, ' %')})"


def _training(found: Dict[str, Any]) -> Dict[str, Any]:
    lines, least = _waits(found, WAITING)
    return {"training": lines, "training_least": least, "training_images": f"{found['images']:,}"}


def _gpu(found: Dict[str, Any]) -> Dict[str, Any]:
    lines, least = _waits(found, WAITING_ON_GPU)
    around = found["surroundings"]
    return {
        "gpu": lines,
        "gpu_least": least,
        "gpu_images": f"{found['images']:,}",
        "gpu_device": found["device"],
        "gpu_cpu": f"{around['cpu']}, {around['cpus']} CPUs",
        "gpu_versions": machine(around)["versions"],
    }


STEPS = {"alone": _alone, "loader": _loader, "training": _training, "gpu": _gpu}
