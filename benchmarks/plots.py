"""Draw the plots of the documentation from the raw samples: `python benchmarks/plots.py` writes results/*.svg.

Everything drawn is in results/figures.json and results/beside.json, except two computed bars, which say so. Bars are
medians, whiskers the 10th and 90th percentile. drawing.py says how it is drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

import page_doors
import page_fastai2
from answers import best, of, warm
from drawing import BATCH, CACHE, PALE, RIVAL, STOCK, Bar, Curve, Panel, Plot, curves, draw
from measure import spread
from page_brief import jobs
from page_losses import SHORT
from systems import SYSTEMS

RESULTS = Path(__file__).resolve().parent / "results"
OVER_STOCK = "images per second over those of fastai 1"
PHOTOGRAPH = 500 * 375 * 3  # bytes of its pixels


def per_second(label: str, colour: str, seconds: Sequence[float]) -> Bar:
    "Return a bar of images per second, of samples of seconds per image."
    median, low, high = spread(seconds)
    return Bar(label, colour, 1 / median, 1 / high, 1 / low)


def cases(rows: Dict[str, Any], key: str) -> Dict[str, Dict[str, Any]]:
    "Return the cases of a figure, by name."
    return {case["name"]: case for case in rows[key]["cases"]}


def plots(results: Dict[str, Any]) -> Dict[str, Plot]:
    "Return the plots of the figures, by the name of their file."
    rows = results["rows"]
    return {
        "warm": _warm(rows),
        "transforms": _transforms(rows),
        "first": _first(rows),
        "ffcv": _ffcv(rows),
        "memory": _memory(rows),
        "reopened": _reopened(rows),
        "tiny": _tiny(rows),
    }


def beside(results: Dict[str, Any]) -> Dict[str, Plot]:
    "Return the plots of the comparison with other loaders, by the name of their file."
    rows = [row for row in results["rows"] if "failed" not in row and not row["wrong"]]

    def bar(row: Dict[str, Any], label: str) -> Bar:
        entry = SYSTEMS[row["system"]]
        colour = BATCH if "batch_tfms" in entry.name else CACHE if entry.ours else STOCK
        colour = PALE if row["system"] == "limit" else RIVAL if colour == STOCK and row["system"] != "stock" else colour
        return per_second(label, colour, [epoch["seconds"] / epoch["images"] for epoch in row["warm"]])

    def plain(row: Dict[str, Any]) -> str:
        return SYSTEMS[row["system"]].name.replace("`", "")

    def multiples(rows: Sequence[Dict[str, Any]], stock: Dict[str, Any]) -> List[Bar]:
        "Return bars in multiples of fastai's images per second, the fastest first."
        bars = [bar(row, plain(row)) for row in sorted(rows, key=warm, reverse=True)]
        one = warm(stock)
        return [each._replace(median=each.median / one, low=each.low / one, high=each.high / one) for each in bars]

    leads = {SHORT[job.work]: multiples([*job.settings, job.rival], job.stock) for job in jobs(rows)}
    systems: Dict[str, List[Bar]] = {}
    for job in jobs(rows):
        if job.work in ("common", "crops"):
            found = (best(of(rows, job.work, system=key)) for key in SYSTEMS if key != "stock")
            systems[SHORT[job.work]] = multiples([row for row in found if row], job.stock)
    shares: Dict[str, List[Bar]] = {}
    for row in sorted(of(rows, "shares"), key=lambda row: row["share"]):
        shares.setdefault(f"{row['share']:.0%} kept", []).append(bar(row, plain(row)))
    counts: Dict[str, List[Bar]] = {}
    for row in sorted(of(rows, "counts", workers=0), key=lambda row: row["n"]):
        one = bar(row, plain(row))
        median, low, high = 1e6 / one.median, 1e6 / one.high, 1e6 / one.low
        counts.setdefault(f"{row['n']:,} images", []).append(one._replace(median=median, low=low, high=high))
    return {
        "beside": [Panel(OVER_STOCK, leads, multiples=True)],
        "systems": [Panel(OVER_STOCK, systems, multiples=True)],
        "shares": [Panel("images per second, warm, 2 workers", shares)],
        "counts": [Panel("microseconds per image of 28x28, warm, no workers", counts)],
    }


def doors(figures: Dict[str, Any], fastai2: Dict[str, Any], torchvision: Dict[str, Any]) -> Dict[str, Plot]:
    "Return the plot of what each library gains, without workers."
    pairs: Dict[str, List[Bar]] = {}
    resized = cases(figures["rows"], "warm")["100 kB, 0 workers"]["samples"]
    augmented = cases(figures["rows"], "batch_epochs")["500x375 to 224"]["samples"]
    swapped = ("memlist", CACHE, resized["memlist"])
    at_once = ("memlist, batch_tfms=True", BATCH, augmented["batch_tfms, 0 workers"])
    for job, library, stock, (label, colour, ours) in (
        ("fastai 1, resize to 224", "fastai 1", resized["stock"], swapped),
        ("fastai 1, default transforms", "fastai 1", augmented["stock, 0 workers"], at_once),
    ):
        pairs[job] = [per_second(library, STOCK, stock), per_second(label, colour, ours)]
    for pipeline in ("RandomResizedCrop(224)", "Resize(460)"):
        sides = [page_fastai2.best(fastai2["loader"][pipeline], side, 0)["samples"] for side in ("fastai", "memlist")]
        bars = [per_second("fastai 2", STOCK, sides[0]), per_second("memlist", BATCH, sides[1])]
        pairs[f"fastai 2, {pipeline}"] = bars
    stock, ours = (
        page_doors.best(torchvision["folder"], side, 0)["samples"] for side in (page_doors.STOCK, page_doors.OURS)
    )
    bars = [per_second("torchvision", STOCK, stock), per_second("memlist", BATCH, ours)]
    pairs["torchvision, training transforms, 224"] = bars
    return {"gains": [Panel("images per second of warm epochs, no workers", pairs)]}


def _named(name: str) -> str:
    return name.replace(", 0 workers", ", no workers")


def _warm(rows: Dict[str, Any]) -> Plot:
    shown = (("stock", "stock", STOCK), ("dict of bytes", "dict", RIVAL), ("memlist", "memlist", CACHE))
    groups = {
        _named(f"JPEGs of {name}"): [per_second(label, colour, case["samples"][key]) for label, key, colour in shown]
        for name, case in cases(rows, "warm").items()
    }
    return [Panel("images per second, resized to 224", groups)]


def _transforms(rows: Dict[str, Any]) -> Plot:
    shown = (
        ("stock, no workers", "stock, 0 workers", STOCK),
        ("stock, 2 workers", "stock, 2 workers", STOCK),
        ("memlist, 2 workers", "cache alone, 2 workers", CACHE),
        ("batch_tfms, no workers", "batch_tfms, 0 workers", BATCH),
        ("batch_tfms, 1 worker", "batch_tfms, 1 workers", BATCH),
        ("batch_tfms, 2 workers", "batch_tfms, 2 workers", BATCH),
    )
    titles = {"500x375 to 224": "photographs, 500x375 to 224", "digits, 28x28": "digits, 28x28"}
    return [
        Panel(
            "images per second",
            {titles[name]: [per_second(label, colour, case["samples"][key]) for label, key, colour in shown]},
        )
        for name, case in cases(rows, "batch_epochs").items()
    ]


def _first(rows: Dict[str, Any]) -> Plot:
    shown = (("stock", "stock", STOCK), ("memlist, first", "first", PALE), ("memlist, warm", "warm", CACHE))
    groups = {
        _named(name): [per_second(label, colour, case["samples"][key]) for label, key, colour in shown]
        for name, case in cases(rows, "first").items()
    }
    return [Panel("images per second, 100 kB photographs", groups)]


def _ffcv(rows: Dict[str, Any]) -> Plot:
    shown = (
        ("FFCV, floats", "FFCV, floats", RIVAL),
        ("FFCV, bytes", "FFCV, bytes", RIVAL),
        ("memlist, crop and flip", "memlist, crop and flip", BATCH),
        ("memlist, default transforms", "memlist, default transforms", BATCH),
    )
    groups = {
        name: [per_second(label, colour, case["samples"][key]) for label, key, colour in shown]
        for name, case in cases(rows, "ffcv").items()
    }
    return [Panel("images per second, 500x375 to 224", groups)]


def _memory(rows: Dict[str, Any]) -> Plot:
    measured = (
        ("forked workers, load_data()", "fork, load_data()"),
        ("forked workers, filled by them", "fork, filled by the workers"),
        ("spawned workers, load_data()", "spawn, load_data()"),
        ("spawned workers, filled by them", "spawn, filled by the workers"),
    )
    found = cases(rows, "pss")
    computed = (("floats, one copy", 4 * PHOTOGRAPH, STOCK), ("bytes, one copy", PHOTOGRAPH, RIVAL))
    groups = {
        "by arithmetic": [Bar(label, colour, n / 1e6, n / 1e6, n / 1e6) for label, n, colour in computed],
        "memlist, measured: main process and 4 workers together": [
            Bar(label, CACHE, *(found[key]["value"] * PHOTOGRAPH / 1e6 for _ in range(3))) for label, key in measured
        ],
    }
    return [Panel("MB per photograph of 500x375", groups)]


def _reopened(rows: Dict[str, Any]) -> Plot:
    found = cases(rows, "reopened")
    titles = {
        "in the page cache": "the cache file in the page cache, as a session leaves it",
        "dropped from memory first": "the cache file on the disk only; images still in the page cache",
    }
    shown = (
        ("stock", "stock's bunch and first batch", STOCK),
        ("memlist over a file", "open, build the bunch, serve the first batch", CACHE),
    )
    groups = {
        title: [Bar(label, colour, *spread(found[f"{where}: {key}"]["samples"])) for label, key, colour in shown]
        for where, title in titles.items()
    }
    return [Panel("seconds from the imports to the first batch of 64", groups)]


def _tiny(rows: Dict[str, Any]) -> Plot:
    (case,) = cases(rows, "small").values()
    shown = (("stock", "stock", STOCK), ("dict of bytes", "dict", RIVAL), ("memlist", "memlist", CACHE))
    bars = [per_second(label, colour, case["samples"][key]) for label, key, colour in shown]
    return [Panel("images per second", {"PNGs of 28x28, one process, no transforms": bars})]


def training(results: Dict[str, Any]) -> List[Curve]:
    "Return the losses of figure 18."
    losses = results["rows"]["curves"]["losses"]
    shown = (
        ("stock", "stock fastai", RIVAL, 3.5),
        ("stock, noise of 1e-6 added", "stock fastai, noise of 1e-6 added", STOCK, 1.5),
        ("batch_tfms", "memlist, batch_tfms=True", CACHE, 1.1),
    )
    return [Curve(label, colour, width, losses[key]) for key, label, colour, width in shown]


def raw(name: str) -> Dict[str, Any]:
    "Return the raw results of a page."
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def main(folder: Path = RESULTS) -> List[Path]:
    "Draw every plot."
    figures, others, fastai2, torchvision = map(raw, ("figures", "beside", "fastai2", "doors"))
    drawn = curves("curves", training(figures), ("batch", "training loss (smoothed)"), folder)
    for name, plot in {**plots(figures), **beside(others), **doors(figures, fastai2, torchvision)}.items():
        drawn += draw(name, plot, folder)
    return drawn


if __name__ == "__main__":
    for made in main():
        print(made)
