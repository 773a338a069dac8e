"""Draw epochs as bars: waiting on top of computing."""

from __future__ import annotations

from typing import Any, Optional, Sequence

from .epochs import Epoch

WAIT_COLOUR, COMPUTE_COLOUR = "#d95f02", "#7f9fbf"  # they also differ in greyscale
BAR_WIDTH = 0.8
# With more bars than this, there is no room for a number on each.
MOST_LABELLED = 12


def draw_epochs(axes: Any, epochs: Sequence[Epoch], warm: Optional[float] = None) -> None:
    """Draw `epochs` into matplotlib's `axes` as stacked bars in seconds, numbered from 0.

    `warm`, in epochs since the start as `Watch.warm` returns it, becomes a dashed line.
    """
    from matplotlib.ticker import MaxNLocator

    numbers = list(range(len(epochs)))
    compute, wait = [epoch.compute for epoch in epochs], [epoch.wait for epoch in epochs]
    axes.bar(numbers, compute, BAR_WIDTH, color=COMPUTE_COLOUR, label="computing")
    axes.bar(numbers, wait, BAR_WIDTH, bottom=compute, color=WAIT_COLOUR, label="waiting for images")
    if len(epochs) <= MOST_LABELLED:
        for number, epoch in zip(numbers, epochs):
            top = (number, epoch.compute + epoch.wait)
            axes.annotate(f"{epoch.data_wait:.0f} %", top, (0, 2), textcoords="offset points", ha="center", size=8)
    if warm is not None:
        axes.axvline(_line_at(warm), color="black", linestyle="--", linewidth=1, label="cache warm")
    axes.set_xlabel("epoch")
    axes.set_ylabel("seconds")
    axes.set_xlim(-0.7, len(epochs) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)


def draw_alone(epochs: Sequence[Epoch], warm: Optional[float] = None, axes: Any = None) -> Any:
    "Draw as `draw_epochs` does, with a legend, into `axes` or into a new figure; return the figure."
    from matplotlib import pyplot

    drawn = pyplot.subplots()[1] if axes is None else axes
    draw_epochs(drawn, epochs, warm)
    drawn.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, frameon=False)
    return drawn.figure


def as_table(epochs: Sequence[Epoch]) -> str:
    "Return a line per epoch: its number, its seconds, those of waiting, and the share of waiting."
    rows = [f"{i:>5}  {e.seconds:>8.2f}  {e.wait:>8.2f}  {e.data_wait:>5.1f} %" for i, e in enumerate(epochs)]
    return "\n".join(["epoch   seconds   waiting  data_wait", *rows])


def _line_at(warm: float) -> float:
    "Return the x of the line: between two bars if `warm` is the end of an epoch, else inside the epoch's bar."
    whole, share = warm // 1, warm % 1
    return whole - 0.5 if share == 0 else whole + BAR_WIDTH * (share - 0.5)
