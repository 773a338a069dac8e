"""`compare`: run the same code with fastai's list and with ours, and show where the time goes."""

from __future__ import annotations

import contextlib
import gc
import html
import io
import random
from functools import partial
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.basic_data import DataBunch
from fastai.core import defaults, ifnone
from fastai.vision.data import ImageList

from ..cache.progress import in_notebook, print_line, progress
from ..cache.randomness import random_states
from ..timing.epochs import Epoch, Watch
from ..timing.plot import draw_epochs
from .bunch import MemoryImageDataBunch
from .lists import MemoryImageList
from .mixin import InMemory
from .waiting import DataWait, TimedBunch


class Run(NamedTuple):
    "One side of a comparison: its epochs, when its cache became warm, and the training loss of its last epoch."

    name: str
    epochs: List[Epoch]
    warm: Optional[float]
    loss: Optional[float]

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

        Draws into `axes`, one per run, or into a new figure. Returns the figure if `return_fig` or fastai's
        `defaults.return_fig` is true.
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
        return flat[0].figure if ifnone(return_fig, defaults.return_fig) else None

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


def compare(
    make: Callable[[Any], Any],
    learner: Optional[Callable[[Any], Any]] = None,
    epochs: int = 3,
    classes: Tuple[type, type] = (ImageList, MemoryImageList),
    also: Optional[Dict[str, Callable[[], Any]]] = None,
    seed: int = 0,
    show: bool = True,
) -> Comparison:
    """Run the same code with fastai's list and with ours, under a progress bar, and show both.

    - `make`: a function that builds a `DataBunch` with the list class it is given: `lambda cls: cls.from_folder(…)…`
    - `learner`: a function from a `DataBunch` to a `Learner`, which is trained. Without it, batches are only loaded, so
      that the whole epoch is waiting
    - `epochs`: the number of epochs per side. The first one fills the cache, unless it is already full: because
      `make` ends in `load_data()`, or because a list over the same path is still alive. The table then says "warm"
    - `classes`: fastai's list and its twin, such as `(SegmentationItemList, MemorySegmentationItemList)`; the two data
      bunches, `(ImageDataBunch, MemoryImageDataBunch)`; or your own list and its in-memory twin
    - `also`: more data bunches to run, each made by a function without arguments: `{"batch_tfms=True": lambda: …}`
    - `seed`: seeds the models and every epoch. The states of random generators are restored afterwards
    - `show`: draw the plot in a notebook (which shows the result as a table); elsewhere print the table

    The sides take turns, epoch by epoch, so that other work on the machine slows all of them. fastai's list goes first:
    only its first epoch may have to read from a cold disk. Costs `epochs` epochs and the memory of one model per side.
    Raises TypeError if `make` does not use the class that it is given.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs={epochs!r}: use a number of epochs for each side")
    states = random_states()
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # for the GPUs' generators, which `states` lacks
        try:
            sides = [_RunningSide(cls.__name__, partial(make, cls), learner, seed) for cls in classes]
            sides += [_RunningSide(name, other, learner, seed) for name, other in (also or {}).items()]
            for side, cls in zip(sides, classes):
                held = side.watch.in_memory
                if issubclass(cls, (InMemory, MemoryImageDataBunch)) != held:
                    raise TypeError(
                        f"compare: the data bunch made with {cls.__name__} holds {'an' if held else 'no'} "
                        "in-memory list: please build it with the class that your function is given."
                    )
            _take_turns(sides, epochs, seed)
        finally:
            states.restore()
    found = Comparison([side.close() for side in sides])
    if show and in_notebook():
        found.plot(return_fig=False)
    elif show:
        print_line(repr(found))
    return found


def _take_turns(sides: Sequence[_RunningSide], epochs: int, seed: int) -> None:
    shown, done = progress(epochs * len(sides), "compare", "epochs"), 0
    try:
        for epoch in range(epochs):
            for side in sides:
                _seed(seed + epoch)
                gc.collect()
                side.run()
                done += 1
                shown.update(done, f"{side.name}: {side.watch.epochs[-1].seconds:.2f} s")
    finally:
        shown.close(done)


class _RunningSide:
    "One side of a comparison while it runs."

    def __init__(self, name: str, make: Callable[[], Any], learner: Optional[Callable[[Any], Any]], seed: int) -> None:
        self.name = name
        _seed(seed)
        self.data = make()
        if not isinstance(self.data, DataBunch):
            raise TypeError(f"compare: {name} made a {type(self.data).__name__}: please let it return a DataBunch.")
        _seed(seed)
        self.learn = None if learner is None else learner(self.data)
        self.watch = Watch(TimedBunch(self.data))

    def run(self) -> None:
        "Run one epoch."
        if self.learn is not None:
            with _quiet():
                self.learn.fit(1, callbacks=[DataWait(self.learn, self.watch)])
            return
        self.watch.begin()
        for train, loader in ((True, self.data.train_dl), (False, () if self.data.empty_val else self.data.valid_dl)):
            for _ in self.watch.timed(loader, train):
                pass
        self.watch.end()

    def close(self) -> Run:
        "End the run and return its times."
        self.watch.close()
        loss = None if self.learn is None else float(self.learn.recorder.losses[-1])
        return Run(self.name, self.watch.epochs, self.watch.warm(), loss)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    "Hide the table and the progress bar that each `fit` of one epoch would show."
    if in_notebook():
        from IPython.utils.capture import capture_output

        with capture_output(stdout=True, stderr=False, display=True):
            yield
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
