"""`compare`: run the same code with fastai's loaders and with images in memory, and show where the time goes."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence

import torch

from ..cache.progress import in_notebook, print_line, progress
from ..cache.randomness import random_states
from ..timing.comparison import Comparison, Run, quiet, seed_all, take_turns
from ..timing.epochs import Watch
from .stock import DataLoaders
from .waiting import DataWait, TimedLoaders
from .wrapping import in_memory


def compare(
    make: Callable[[], Any],
    learner: Optional[Callable[[Any], Any]] = None,
    epochs: int = 3,
    also: Optional[Dict[str, Callable[[], Any]]] = None,
    seed: int = 0,
    show: bool = True,
) -> Comparison:
    """Run the same code with fastai's loaders and with `in_memory`, under a progress bar, and show both.

    - `make`: a function that builds `DataLoaders`; it is called once per side
    - `learner`: a function from `DataLoaders` to a `Learner`, which is trained. Without it, batches are only loaded, so
      that the whole epoch is waiting
    - `epochs`: the number of epochs per side. The first one fills the memory
    - `also`: more DataLoaders to run, each made by a function without arguments
    - `seed`: seeds the models and every epoch. The states of random generators are restored afterwards
    - `show`: draw the plot in a notebook (which shows the result as a table); elsewhere print the table

    The sides take turns, epoch by epoch, so that other work on the machine slows all of them. Costs `epochs` epochs and
    the memory of one model per side. Raises TypeError if `make` returns no DataLoaders.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs={epochs!r}: use a number of epochs for each side")
    states = random_states()
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # for the GPUs' generators, which `states` lacks
        try:
            makers = {"fastai": make, "in memory": lambda: in_memory(make()), **(also or {})}
            sides = [_RunningSide(name, one, learner, seed) for name, one in makers.items()]
            _take_turns(sides, epochs, seed)
        finally:
            states.restore()
    found = Comparison([side.close() for side in sides])
    if show and in_notebook():
        found.plot()
    elif show:
        print_line(repr(found))
    return found


def _take_turns(sides: Sequence[_RunningSide], epochs: int, seed: int) -> None:
    shown = progress(epochs * len(sides), "compare", "epochs")
    try:
        take_turns(sides, epochs, seed, shown.update)
    finally:
        shown.close(sum(len(side.watch.epochs) for side in sides))


class _RunningSide:
    "One side of a comparison while it runs."

    def __init__(self, name: str, make: Callable[[], Any], learner: Optional[Callable[[Any], Any]], seed: int) -> None:
        self.name = name
        seed_all(seed)
        self.dls = make()
        if not isinstance(self.dls, DataLoaders):
            raise TypeError(f"compare: {name} made a {type(self.dls).__name__}: please let it return DataLoaders.")
        seed_all(seed)
        self.learn = None if learner is None else learner(self.dls)
        self.watch = Watch(TimedLoaders(self.dls))

    def run(self) -> None:
        "Run one epoch."
        if self.learn is not None:
            with quiet(in_notebook()):
                self.learn.fit(1, cbs=DataWait(self.watch))
            return
        self.watch.begin()
        for number, dl in enumerate(self.dls.loaders[:2]):
            for _ in self.watch.timed(dl, number == 0):
                pass
        self.watch.end()

    def close(self) -> Run:
        "End the run and return its times."
        self.watch.close()
        loss = None if self.learn is None else float(self.learn.recorder.losses[-1])
        return Run(self.name, self.watch.epochs, self.watch.warm(), loss)
