"""Draw the plots of the documentation from the raw samples: `python benchmarks/plots.py` writes results/*.svg.

Everything drawn is in results/figures.json and results/beside.json, except two computed bars, which say so. Bars are
medians, whiskers the 10th and 90th percentile. Each bar carries what it shows in the `id` of its SVG element, so that a
test can tell whether a plot shows the committed samples.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence

from answers import best, named, of
from measure import spread
from page_losses import TITLES
from systems import SYSTEMS, WORKS

RESULTS = Path(__file__).resolve().parent / "results"

# Okabe and Ito's colours, which differ for every kind of colour vision, and in grey.
STOCK, RIVAL, CACHE, BATCH, PALE = "#8c8c8c", "#e69f00", "#0072b2", "#009e73", "#56b4e9"
PHOTOGRAPH = 500 * 375 * 3  # bytes of its pixels
STYLE = {
    "svg.hashsalt": "memlist",
    "svg.fonttype": "none",  # text stays text: it can be searched, and read out
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "xtick.color": "#555555",
    "text.color": "#222222",
}


class Bar(NamedTuple):
    "A bar: its label and colour, its length, and where its whisker begins and ends."

    label: str
    colour: str
    median: float
    low: float
    high: float


class Panel(NamedTuple):
    "Bars on one scale, in groups with a heading each."

    unit: str
    groups: Dict[str, List[Bar]]


Plot = List[Panel]


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

    jobs: Dict[str, List[Bar]] = {}
    for work in WORKS[:2]:
        found = [best(of(rows, work, system=key)) for key in SYSTEMS]
        jobs[TITLES[work]] = [bar(row, named(row).replace("`", "")) for row in found if row is not None]
    shares: Dict[str, List[Bar]] = {}
    for row in sorted(of(rows, "shares"), key=lambda row: row["share"]):
        shares.setdefault(f"{row['share']:.0%} kept", []).append(bar(row, plain(row)))
    counts: Dict[str, List[Bar]] = {}
    for row in sorted(of(rows, "counts", workers=0), key=lambda row: row["n"]):
        one = bar(row, plain(row))
        median, low, high = 1e6 / one.median, 1e6 / one.high, 1e6 / one.low
        counts.setdefault(f"{row['n']:,} images", []).append(one._replace(median=median, low=low, high=high))
    return {
        "beside": [Panel("images per second, warm, at the best number of workers", jobs)],
        "shares": [Panel("images per second, warm, 2 workers", shares)],
        "counts": [Panel("microseconds per image of 28x28, warm, no workers", counts)],
    }


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
        "memlist, measured: the main process and 4 workers together": [
            Bar(label, CACHE, *(found[key]["value"] * PHOTOGRAPH / 1e6 for _ in range(3))) for label, key in measured
        ],
    }
    return [Panel("MB a photograph of 500x375", groups)]


def _reopened(rows: Dict[str, Any]) -> Plot:
    found = cases(rows, "reopened")
    titles = {
        "in the page cache": "the cache file in the page cache, as a session leaves it",
        "dropped from memory first": "the cache file on the disk only; stock's images still in the page cache",
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


def number(value: float) -> str:
    "Write a number next to its bar."
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def curves(results: Dict[str, Any], folder: Path) -> Path:
    "Draw the losses of figure 18 into curves.svg."
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    losses = results["rows"]["curves"]["losses"]
    shown = (
        ("stock", "stock fastai", 3.5, "#f4a259"),
        ("stock, noise of 1e-6 added", "stock fastai, noise of 1e-6 added", 1.5, "#9aa5b1"),
        ("batch_tfms", "memlist, batch_tfms=True", 1.1, "#1d3557"),
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.2))
        for key, label, width, colour in shown:
            axes.plot(losses[key], lw=width, color=colour, label=label)
        axes.set_xlabel("batch")
        axes.set_ylabel("training loss (smoothed)")
        axes.legend(frameon=False)
        figure.tight_layout()
        path = _saved(figure, folder / "curves.svg")
        plt.close(figure)
    return path


def mark(name: str, group: str, bar: Bar) -> str:
    "Return the id of a bar's SVG element, which holds what it shows."
    text = re.sub(r"[^\w=.]+", "-", f"{name} {group} {bar.label}")
    return f"{text}={bar.median:.5g}={bar.low:.5g}={bar.high:.5g}"


def draw(name: str, plot: Plot, folder: Path) -> Path:
    "Draw `plot` into `folder`."
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = max(sum(len(bars) + 1.1 for bars in panel.groups.values()) for panel in plot)
    with plt.rc_context(STYLE):
        size = (7.6, 0.75 + 0.215 * rows)
        figure, every = plt.subplots(1, len(plot), figsize=size, squeeze=False, constrained_layout=True)
        for axes, panel in zip(every[0], plot):
            _draw(axes, name, panel, labelled=axes is every[0][0])
        path = _saved(figure, folder / f"{name}.svg")
        plt.close(figure)
    return path


def _saved(figure: Any, path: Path) -> Path:
    "Write the SVG without a date and without the blanks that matplotlib leaves at the ends of lines."
    figure.savefig(path, metadata={"Date": None, "Creator": "benchmarks/plots.py"})
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    return path


def _draw(axes: Any, name: str, panel: Panel, labelled: bool) -> None:
    most = max(bar.high for bars in panel.groups.values() for bar in bars)
    place, ticks = 0.0, []
    for group, bars in panel.groups.items():
        axes.text(0, place, group, weight="bold", va="center", ha="left")
        for bar in bars:
            place += 1
            (patch,) = axes.barh(place, bar.median, 0.78, color=bar.colour)
            patch.set_gid(mark(name, group, bar))
            if bar.high > bar.low:
                sides = [[bar.median - bar.low], [bar.high - bar.median]]
                axes.errorbar(bar.median, place, xerr=sides, color="#222222", capsize=2, elinewidth=0.9, capthick=0.9)
            beside = {"textcoords": "offset points", "va": "center", "ha": "left", "size": 8.5}
            axes.annotate(number(bar.median), (bar.high, place), (5, 0), **beside)
            ticks.append((place, bar.label))
        place += 1.35
    axes.set_ylim(place - 0.6, -0.7)
    axes.set_xlim(0, 1.12 * most)
    axes.set_yticks([at for at, _ in ticks])
    axes.set_yticklabels([label if labelled else "" for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(_ticks())
    axes.set_xlabel(panel.unit)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(6)


def main(folder: Path = RESULTS) -> List[Path]:
    "Draw every plot."
    figures, others = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("figures", "beside"))
    drawn = [draw(name, plot, folder) for name, plot in {**plots(figures), **beside(others)}.items()]
    return [*drawn, curves(figures, folder)]


if __name__ == "__main__":
    for made in main():
        print(made)
