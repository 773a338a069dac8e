"""Make the page gpu.md from results/gpu.json and templates/gpu.md."""

from typing import Any, Dict, List

import numpy as np
from page import fill, machine, table, template

#: What is compared, as named in the results and on the page.
KINDS = ("stock", "cache alone", "batch_tfms")
#: Batches after which the losses are shown.
SHOWN = (1, 2, 5, 10, 20, 40, 96)


def render(results: Dict[str, Any]) -> str:
    "Return the whole page; a section whose step was not taken is left out."
    return fill(template("gpu"), values_of(results))


def values_of(results: Dict[str, Any]) -> Dict[str, Any]:
    "Return everything that the template asks for, by name."
    values = {"device": results["device"], "photographs": results["photographs"], **machine(results["surroundings"])}
    values["quick"], values["notes"] = results.get("quick"), " ".join(results.get("notes", ()))
    for name, tables in STEPS.items():
        if name in results:
            values.update(tables(results[name]))
    return values


def _rate(seconds_per_image: List[float]) -> float:
    return 1 / float(np.median(seconds_per_image))


def _workers(n: int) -> str:
    return "no workers" if n == 0 else f"{n} worker{'s' * (n > 1)}"


def _numbers(found: Dict[str, Any]) -> List[int]:
    "List the numbers of workers that keys like `stock, 4 workers` and `4 workers` name."
    return sorted({int(key.split()[-2]) for key in found if key.endswith(" workers")})


def _alone(found: Dict[str, List[float]]) -> Dict[str, Any]:
    numbers = _numbers(found)
    rates = {key: _rate(samples) for key, samples in found.items()}
    kinds = [kind for kind in KINDS if f"{kind}, 0 workers" in found]
    lines = [[kind, *(f"{rates[f'{kind}, {n} workers']:,.0f}" for n in numbers)] for kind in kinds]
    ours = [rates[f"batch_tfms, {n} workers"] for n in numbers]
    return {
        "alone": table(("images/s", *map(_workers, numbers)), lines),
        "alone_none": f"{ours[0]:,.0f}",
        "alone_many": f"{ours[-1]:,.0f}",
        "many": numbers[-1],
        "workers_cost": max(ours) == ours[0],
    }


def _long(found: Dict[str, Any]) -> Dict[str, Any]:
    numbers, images = _numbers(found), found["images"]
    rates = [images / float(np.median(found[f"{n} workers"]["seconds"])) for n in numbers]
    starts = [1e3 * float(np.median(found[f"{n} workers"]["first batch"])) for n in numbers]
    lines = [
        ["batch_tfms, images/s", *(f"{rate:,.0f}" for rate in rates)],
        ["first batch after, ms", *(f"{start:.0f}" for start in starts)],
    ]
    return {
        "long": table(("", *map(_workers, numbers)), lines),
        "long_least": f"{min(rates):,.0f}",
        "long_most": f"{max(rates):,.0f}",
        "long_best": numbers[int(np.argmax(rates))],
        "long_many": f"{rates[-1]:,.0f}",
        "long_workers": numbers[-1],
        "images": f"{images:,}",
    }


def _parts(found: Dict[str, List[float]]) -> Dict[str, Any]:
    medians = {name: 1e3 * float(np.median(samples)) for name, samples in found.items()}
    total = sum(medians.values())
    lines = [[name, f"{ms:.2f}", f"{ms / total:.0%}"] for name, ms in medians.items()]
    return {"parts": table(("part", "ms per batch", "share"), [*lines, ["**sum**", f"**{total:.2f}**", ""]])}


def share_waited(one: Dict[str, float]) -> float:
    "Return the percentage of a training that was waited."
    return 100 * one["waited"] / one["total"]


def _waiting(found: Dict[str, Dict[str, float]]) -> Dict[str, Any]:
    shares = {key: share_waited(one) for key, one in found.items()}
    later = {key: 100 * (one["waited"] - one["first"]) / (one["total"] - one["first"]) for key, one in found.items()}
    steps = {key: 1e3 * (one["total"] - one["waited"]) / one["batches"] for key, one in found.items()}
    lines = []
    for key, one in found.items():
        kind, workers = key.split(", ")
        words = [kind, _workers(int(workers.split()[0]))]
        rate = one["batches"] * one["bs"] / one["total"]
        cells = f"{shares[key]:.1f} %", f"{1e3 * one['first']:.0f}", f"{later[key]:.1f} %", f"{rate:,.0f}"
        lines.append([*words, *cells, f"{steps[key]:.1f}", str(one["batches"])])
    workers = [key for key in found if key.startswith("batch_tfms") and key != "batch_tfms, 0 workers"]
    ours = [shares[key] for key in workers]
    alone = found["batch_tfms, 0 workers"]
    step = min(steps[key] for key in workers)
    return {
        "waiting": table(
            (
                "",
                "",
                "waiting",
                "for the first batch, ms",
                "waiting after it",
                "images/s",
                "rest of a step, ms",
                "batches",
            ),
            lines,
            2,
        ),
        "waiting_least": f"{min(ours):.1f}",
        "waiting_most": f"{max(ours):.1f}",
        "waiting_none": f"{shares['batch_tfms, 0 workers']:.0f}",
        "waits": min(ours) > 2,
        "later_least": f"{min(later[key] for key in workers):.1f}",
        "later_most": f"{max(later[key] for key in workers):.1f}",
        "first_least": f"{1e3 * min(found[key]['first'] for key in workers):.0f}",
        "first_most": f"{1e3 * max(found[key]['first'] for key in workers):.0f}",
        "step_none": f"{steps['batch_tfms, 0 workers']:.0f}",
        "slowed": steps["batch_tfms, 0 workers"] > 1.1 * step,
        "step": f"{step:.0f}",
        "step_rate": f"{1e3 * alone['bs'] / step:,.0f}",
        "batches": alone["batches"],
        "batch": alone["bs"],
        "batch_MB": f"{alone['bs'] * 3 * 224 * 224 * 4 / 1e6:.0f}",
    }


def _memory(above: float) -> Dict[str, Any]:
    return {"memory": f"{above:.2f}"}


def _equality(found: Dict[str, Any]) -> Dict[str, Any]:
    lines = [
        [name, f"{100 * one['within 1e-3']:.3f} %", f"{one['mean']:.1e}"]
        for name, one in found.get("cases", {}).items()
    ]
    return {
        "within": f"{100 * found['within 1e-3']:.3f}",
        "mean": f"{found['mean']:.1e}",
        "equality_cases": table(("pictures", "within 1e-3", "mean difference"), lines) if lines else "",
    }


def _synchronisations(found: Dict[str, Any]) -> Dict[str, Any]:
    lines = [[name, str(one["batches"]), str(one["synchronisations"])] for name, one in found["batches"].items()]
    return {"synchronisations": table(("pictures", "batches", "synchronisations"), lines) if found["counted"] else ""}


def _sent(found: Dict[str, Dict[str, int]]) -> Dict[str, Any]:
    lines = [[name, f"{one['batch']:,}", f"{one['sent'] / one['batch']:.2f}"] for name, one in found.items()]
    return {"sent": table(("pictures", "bytes of a batch of 32", "sent, in batches"), lines)}


def _fused(found: Dict[str, Any]) -> Dict[str, Any]:
    cases = [
        [name, f"{100 * one['equal']:.3f} %", f"{100 * one['within 1e-3']:.4f} %", f"{one['greatest']:.1e}"]
        for name, one in found["cases"].items()
    ]
    times = []
    for name, ways in found["times"].items():
        for way, samples in ways.items():
            milliseconds = (1e3 * float(np.median(samples[key])) for key in ("start", "done", "device"))
            times.append([name, way, *(f"{one:.2f}" for one in milliseconds)])
    compared = found["used"] and cases and times
    return {
        "fused": table(("pictures", "", "to start, ms", "until done, ms", "on the device alone, ms"), times, 2)
        if compared
        else "",
        "fused_batch": found["bs"],
        "fused_cases": table(("batch", "equal", "within 1e-3", "greatest difference"), cases) if compared else "",
    }


def _training(found: Dict[str, Any]) -> Dict[str, Any]:
    stock, ours = (np.array(found[name]) for name in ("stock", "batch_tfms"))
    shown = [n for n in SHOWN if n <= len(stock)]
    lines = [
        [name, *(f"{losses[n - 1]:.4f}" for n in shown)] for name, losses in (("stock", stock), ("batch_tfms", ours))
    ]
    return {
        "training": table(("loss after batch", *map(str, shown)), lines),
        "training_batches": len(stock),
        "apart": f"{np.abs(stock - ours)[:10].max():.4f}",
    }


STEPS = {
    "equality": _equality,
    "synchronisations": _synchronisations,
    "sent": _sent,
    "memory": _memory,
    "fused": _fused,
    "parts": _parts,
    "alone": _alone,
    "long": _long,
    "waiting": _waiting,
    "training": _training,
}
