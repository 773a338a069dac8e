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
    return f"{_of(one, 'seconds'):.2f} s, {share_waited(one):.1f} % waiting"


def _of(one: Dict[str, Any], what: str = "samples") -> float:
    return float(np.median(one[what]))


def fastest(found: Dict[str, Any], system: str) -> float:
    "Return the seconds of the fastest training of a side."
    return min(_of(one, "seconds") for one in _side(found, system))


def share_waited(one: Dict[str, Any]) -> float:
    "Return the percentage of a training that was waited: the median of its rounds."
    return _share(one, one["waited"])


def share_loader(one: Dict[str, Any]) -> float:
    "Return the percentage of a training that was waited for the loader, the transforms of whole batches left out."
    return _share(one, np.array(one["waited"]) - np.array(one["transformed"]))


def _share(one: Dict[str, Any], seconds: Any) -> float:
    return float(np.median(100 * np.array(seconds) / np.array(one["seconds"])))


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


def _training(found: Dict[str, Any]) -> Dict[str, Any]:
    lines = [[*_what(one), f"{share_waited(one):.1f} %"] for one in found["ways"].values()]
    least = min(map(share_waited, _side(found, OURS)))
    return {
        "training": table(("", "", "seconds", "waiting"), lines, 2),
        "training_least": f"{least:.1f} % (target: {_judged(least, WAITING, ' %')})",
        "training_images": f"{found['images']:,}",
    }


def _what(one: Dict[str, Any]) -> List[str]:
    "Return the system of a training, its workers, and the seconds it took."
    system = "**memlist**" if one["system"] == OURS else one["system"]
    return [system, _workers(one["workers"]), f"{_of(one, 'seconds'):.2f}"]


def _on_gpu(found: Dict[str, Any]) -> Tuple[str, str]:
    "Return the table of trainings on a GPU, and the least share that memlist waits for its loader."
    lines = []
    for one in found["ways"].values():
        shares = share_loader(one), _share(one, one["first"]), _share(one, one["transformed"])
        lines.append([*_what(one), *(f"{share:.1f} %" for share in shares)])
    least = min(map(share_loader, _side(found, OURS)))
    head = "", "", "seconds", "waiting for the loader", "of it, for first batches", "transforms of batches"
    return table(head, lines, 2), f"{least:.1f} % (target: {_judged(least, WAITING_ON_GPU, ' %')})"


def _pinned(found: Dict[str, Any]) -> Dict[str, Any]:
    lines, least = _on_gpu(found)
    rounds = min(len(one["seconds"]) for one in found["ways"].values())
    return {"pinned": lines, "pinned_least": least, "pinned_rounds": "one round" if rounds == 1 else f"{rounds} rounds"}


def _gpu(found: Dict[str, Any]) -> Dict[str, Any]:
    lines, least = _on_gpu(found)
    around = found["surroundings"]
    return {
        "gpu": lines,
        "gpu_least": least,
        "gpu_images": f"{found['images']:,}",
        "gpu_device": found["device"],
        "gpu_machine": f"{around['cpu']}, {around['cpus']} CPUs, {machine(around)['versions']}",
    }


STEPS = {"alone": _alone, "loader": _loader, "training": _training, "gpu": _gpu, "pinned": _pinned}
