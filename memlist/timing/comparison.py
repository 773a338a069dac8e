"""Compare trainings: sides that take turns, and `Comparison`, a table and a plot of their epochs."""

from __future__ import annotations

import gc
import html
import random
from abc import ABC, abstractmethod
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch

from .epochs import Epoch, TimedData, Watch
from .plot import draw_epochs


class Run(NamedTuple):
    """One side of a comparison.

    - `epochs`: its epochs; `warm`: when its cache became warm; `loss`: the training loss of its last epoch
    - `cached`: how many of its images are in memory at the end, and of how many; None if it keeps none
    """

    name: str
    epochs: List[Epoch]
    warm: Optional[float]
    loss: Optional[float]
    cached: Optional[Tuple[int, int]] = None

    @property
    def later(self) -> List[Epoch]:
        "The epochs after the first, which fills the cache; the first one if there is no other."
        return self.epochs[1:] or self.epochs

    @property
    def seconds(self) -> float:
        "Median seconds of a later epoch."
        return median(epoch.seconds for epoch in self.later)

    @property
    def wait(self) -> float:
        "Median seconds that a later epoch waits for its batches."
        return median(epoch.wait for epoch in self.later)


class Comparison:
    "The result of `compare`: its `runs`, fastai's own first. It prints, and shows in a notebook, as a table."

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = list(runs)

    def plot(self, axes: Optional[Sequence[Any]] = None, return_fig: Optional[bool] = None) -> Any:
        """Draw the runs side by side on the same scale, with their epochs as in `DataWait.plot`.

        Draws into `axes`, one per run, or into a new figure. Returns the figure if `return_fig` is true, or, with
        fastai 1, its `defaults.return_fig`.
        """
        from matplotlib import pyplot

        n = len(self.runs)
        own: Dict[str, Any] = {"sharey": True, "squeeze": False, "constrained_layout": True}
        own["figsize"] = (3.4 * n, 3.4)
        drawn: Any = pyplot.subplots(1, n, **own)[1] if axes is None else axes
        flat = list(np.ravel(np.asarray(drawn, object)))
        for axis, run, times in zip(flat, self.runs, self._times()):
            draw_epochs(axis, run.epochs, run.warm)
            axis.set_title(run.name if run is self.runs[0] else f"{run.name}\n{times}")
            if axis is not flat[0]:
                axis.set_ylabel("")
        most = max(epoch.seconds for run in self.runs for epoch in run.epochs)
        flat[0].set_ylim(0, 1.35 * most)  # with room for the legend
        named = {label: handle for axis in flat for handle, label in zip(*axis.get_legend_handles_labels())}
        flat[-1].legend(named.values(), named.keys(), loc="upper right", fontsize=8)
        return flat[0].figure if self._returns(return_fig) else None

    def _returns(self, return_fig: Optional[bool]) -> bool:
        "Return whether `plot` returns its figure."
        return bool(return_fig)

    def _times(self) -> List[str]:
        return [f"{self.runs[0].seconds / max(run.seconds, 1e-9):.1f} times as fast" for run in self.runs]

    def _table(self) -> List[Tuple[str, List[str]]]:
        first = [f"{'warm, ' if run.warm == 0 else ''}{run.epochs[0].seconds:.2f} s" for run in self.runs]
        rows = [("first epoch", first)]
        if any(len(run.epochs) > 1 for run in self.runs):
            rows.append(("later epochs, median", [f"{run.seconds:.2f} s" for run in self.runs]))
        rows.append(("  of that: waiting", [f"{run.wait:.2f} s" for run in self.runs]))
        rows.append(("  per cent", [f"{100 * run.wait / max(run.seconds, 1e-9):.0f} %" for run in self.runs]))
        rows.append(("", ["", *self._times()[1:]]))
        if any(run.cached is not None and run.cached[0] < run.cached[1] for run in self.runs):
            rows.append(("images in memory", [_share(run.cached) for run in self.runs]))
        if any(run.loss is not None for run in self.runs):
            rows.append(("loss of the last epoch", [f"{run.loss:.6f}" for run in self.runs]))
        return rows

    def __repr__(self) -> str:
        rows = [("", [run.name for run in self.runs]), *self._table()]
        width = max(len(cell) for _, cells in rows for cell in cells) + 2
        return "\n".join(
            (f"{name:<24}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip() for name, cells in rows
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(run.name)}</th>" for run in self.runs)
        body = "".join(
            f"<tr><th style='text-align:left'>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            for name, cells in self._table()
        )
        return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _share(cached: Optional[Tuple[int, int]]) -> str:
    return "" if cached is None else f"{cached[0]:,} of {cached[1]:,}"


class Side(ABC):
    """One side of a comparison while it runs: data, perhaps a learner that trains on it, and a watch that times epochs.

    - `name`: the name in the table
    - `make`: makes the data; `learner`: makes a learner of it
    - `seed`: seeds all generators before either
    """

    #: The class of the data, and what a message calls it.
    kind: type
    wanted: str

    def __init__(self, name: str, make: Callable[[], Any], learner: Optional[Callable[[Any], Any]], seed: int) -> None:
        self.name = name
        seed_all(seed)
        self.data = make()
        if not isinstance(self.data, self.kind):
            raise TypeError(f"compare: {name} made a {type(self.data).__name__}: please let it return {self.wanted}.")
        seed_all(seed)
        self.learn = None if learner is None else learner(self.data)
        self.watch = Watch(self._timed())

    @abstractmethod
    def _timed(self) -> TimedData:
        "Return the data as a watch times it."

    @abstractmethod
    def _fit(self, learn: Any) -> None:
        "Train for one epoch, timed by the watch, without a table or a progress bar."

    @abstractmethod
    def _loaders(self) -> Sequence[Any]:
        "Return the loaders for training and validation."

    @abstractmethod
    def _cached(self) -> Optional[Tuple[int, int]]:
        "Return how many images of the data are in memory, and of how many; None if none are kept."

    def run(self) -> None:
        "Run one epoch: train, or only load the batches."
        if self.learn is not None:
            self._fit(self.learn)
            return
        self.watch.begin()
        for train, loader in zip((True, False), self._loaders()):
            for _ in self.watch.timed(loader, train):
                pass
        self.watch.end()

    def close(self) -> Run:
        "End the run and return its times."
        self.watch.close()
        loss = None if self.learn is None else float(self.learn.recorder.losses[-1])
        return Run(self.name, self.watch.epochs, self.watch.warm(), loss, self._cached())


class Progress(Protocol):
    "Show how far the comparison is."

    def update(self, done: int, text: str) -> None:
        "Show that `done` epochs are done."

    def close(self, done: int) -> None:
        "Show the end."


def check_given(make: Any, kind: type, example: str, epochs: Any) -> None:
    """Raise TypeError if `make` is data, or no function, and ValueError if `epochs` is no number of epochs.

    `kind`: the class of the data; `example`: how `compare` is called.
    """
    if isinstance(make, kind) or not callable(make):
        raise TypeError(
            f"compare takes a function that builds the data, because it builds it more than once, and this is a "
            f"{type(make).__name__}: please write {example}."
        )
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs={epochs!r}: use a number of epochs for each side")


def seed_all(seed: int) -> None:
    "Seed the generators of Python, NumPy and torch."
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def take_turns(sides: Sequence[Side], epochs: int, seed: int, shown: Progress) -> None:
    "Run `epochs` epochs of each side, by turns: other work on the machine then slows all of them. Seed each epoch."
    done = 0
    try:
        for epoch in range(epochs):
            for side in sides:
                seed_all(seed + epoch)
                gc.collect()
                side.run()
                done += 1
                shown.update(done, f"{side.name}: {side.watch.epochs[-1].seconds:.2f} s")
    finally:
        shown.close(done)
