"""Draw bars and curves as SVG, once for light pages and once for dark ones.

Each bar carries what it shows in the `id` of its SVG element, so that a test can tell whether a plot shows the
committed samples. Pages name both files in a `<picture>`; NAME-dark.svg is the dark one.
"""

# ruff: noqa: RUF001  (a plot writes × for times)
from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

# Okabe and Ito's colours, which differ for every kind of colour vision, and in grey.
STOCK, RIVAL, CACHE, BATCH, PALE = "#8c8c8c", "#e69f00", "#0072b2", "#009e73", "#56b4e9"


class Theme(NamedTuple):
    "The colours of a page that a plot lies on; its own background is transparent."

    suffix: str
    text: str
    axis: str
    grid: str
    #: What replaces a colour that is hard to see on this page.
    instead: Dict[str, str]


LIGHT = Theme("", "#222222", "#555555", "#e4e4e4", {})
DARK = Theme(
    "-dark", "#e6e6e6", "#b0b0b0", "#3d3d3d", {STOCK: "#a6a6a6", CACHE: "#4aa3df", BATCH: "#2bb58c", PALE: "#a5d8f6"}
)
THEMES = (LIGHT, DARK)

WIDTH = 5.6  # inches: 538 pixels, which a phone shows at two thirds of their size
STYLE = {
    "svg.hashsalt": "memlist",
    "svg.fonttype": "none",  # text stays text: it can be searched, and read out
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "savefig.transparent": True,
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
    #: Bars are multiples of one, on a logarithmic scale; those below one point to the left.
    multiples: bool = False


Plot = List[Panel]


class Curve(NamedTuple):
    "A line through values, one per step."

    label: str
    colour: str
    width: float
    values: Sequence[float]


def number(value: float) -> str:
    "Write a number next to its bar."
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def written(bar: Bar, panel: Panel) -> str:
    "Return the text next to a bar."
    if not panel.multiples:
        return number(bar.median)
    return f"{bar.median:.1f} ×" if bar.median < 9.95 else f"{bar.median:.0f} ×"


def mark(name: str, group: str, bar: Bar) -> str:
    "Return the id of a bar's SVG element, which holds what it shows."
    text = re.sub(r"[^\w=.]+", "-", f"{name} {group} {bar.label}")
    return f"{text}={bar.median:.5g}={bar.low:.5g}={bar.high:.5g}"


def draw(name: str, plot: Plot, folder: Path) -> List[Path]:
    "Draw `plot` into `folder`, in each theme, its panels below one another."
    rows = [sum(len(bars) + 1.35 for bars in panel.groups.values()) for panel in plot]
    made = []
    for theme in THEMES:
        plt, style = _matplotlib(theme)
        with plt.rc_context(style):
            size = (WIDTH, 0.21 * sum(rows) + 0.65 * len(plot))
            options: Dict[str, Any] = {"gridspec_kw": {"height_ratios": rows}, "squeeze": False}
            figure, every = plt.subplots(len(plot), 1, figsize=size, constrained_layout=True, **options)
            for axes, panel in zip(every[:, 0], plot):
                _draw(axes, name, panel, theme)
            made.append(_saved(plt, figure, folder / f"{name}{theme.suffix}.svg"))
    return made


def curves(name: str, lines: Sequence[Curve], labels: Tuple[str, str], folder: Path) -> List[Path]:
    "Draw lines into `folder`, in each theme."
    made = []
    for theme in THEMES:
        plt, style = _matplotlib(theme)
        with plt.rc_context(style):
            figure, axes = plt.subplots(figsize=(WIDTH, 2.9), constrained_layout=True)
            for line in lines:
                colour = theme.instead.get(line.colour, line.colour)
                axes.plot(line.values, lw=line.width, color=colour, label=line.label)
            axes.set_xlabel(labels[0])
            axes.set_ylabel(labels[1])
            axes.legend(frameon=False)
            made.append(_saved(plt, figure, folder / f"{name}{theme.suffix}.svg"))
    return made


def _matplotlib(theme: Theme) -> Tuple[Any, Dict[str, Any]]:
    "Return pyplot without a window, and the style of a theme."
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"axes.edgecolor": theme.axis, "axes.labelcolor": theme.text, "text.color": theme.text}
    return pyplot, {**STYLE, **colours, "xtick.color": theme.axis, "ytick.color": theme.axis}


def _saved(plt: Any, figure: Any, path: Path) -> Path:
    "Write the SVG without a date and without the blanks that matplotlib leaves at the ends of lines."
    figure.savefig(path, metadata={"Date": None, "Creator": "benchmarks/plots.py"})
    plt.close(figure)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
    return path


def _draw(axes: Any, name: str, panel: Panel, theme: Theme) -> None:
    place, ticks, start = 0.0, [], 1.0 if panel.multiples else 0.0
    if panel.multiples:
        axes.set_xscale("log")
    for group, bars in panel.groups.items():
        # At the left edge of the plot, where a heading has the whole width.
        where = {"xycoords": ("figure fraction", "data"), "va": "center", "ha": "left"}
        axes.annotate(group, (0.006, place), weight="bold", **where).set_in_layout(False)
        for bar in bars:
            place += 1
            colour = theme.instead.get(bar.colour, bar.colour)
            (patch,) = axes.barh(place, bar.median - start, 0.78, left=start, color=colour)
            patch.set_gid(mark(name, group, bar))
            if bar.high > bar.low:
                sides = [[bar.median - bar.low], [bar.high - bar.median]]
                axes.errorbar(bar.median, place, xerr=sides, color=theme.text, capsize=2, elinewidth=0.9, capthick=0.9)
            beside = {"textcoords": "offset points", "va": "center", "ha": "left", "size": 8.5}
            axes.annotate(written(bar, panel), (max(bar.high, start), place), (5, 0), **beside)
            ticks.append((place, bar.label))
        place += 1.35
    axes.set_ylim(place - 0.6, -0.7)
    axes.set_yticks([at for at, _ in ticks])
    axes.set_yticklabels([label for _, label in ticks], color=theme.text)
    axes.tick_params(axis="y", length=0)
    _scale(axes, panel)
    axes.set_xlabel(panel.unit)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)


def _scale(axes: Any, panel: Panel) -> None:
    "Set limits and ticks of the horizontal axis, with room for the numbers beside the bars."
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    bars = [bar for group in panel.groups.values() for bar in group]
    most = max(bar.high for bar in bars)
    if not panel.multiples:
        axes.set_xlim(0, 1.18 * most)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        return
    axes.set_xlim(min(0.9, 0.9 * min(bar.low for bar in bars)), 2.2 * most)
    axes.xaxis.set_major_locator(FixedLocator([k for k in (0.1, 1, 3, 10, 30, 100, 300, 1000) if k <= 2 * most]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
