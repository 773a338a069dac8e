"""`compare`: run the same code with images from files and from memory, and show where the time goes."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch

from ..cache.info import cache_info
from ..cache.progress import in_notebook, print_line, progress
from ..cache.randomness import random_states
from ..timing.comparison import Comparison, Side, check_given, take_turns
from .stock import DataLoaders
from .waiting import DataWait, TimedLoaders
from .work import works_of
from .wrapping import in_memory

Make = Callable[[], Any]
STOCK, OURS = "fastai", "in_memory"


def compare(
    make: Make,
    learner: Optional[Callable[[Any], Any]] = None,
    epochs: int = 3,
    also: Optional[Dict[str, Make]] = None,
    seed: int = 0,
    show: bool = True,
) -> Comparison:
    """Run the same code with images from files and from memory, under a progress bar, and show where the time goes::

        compare(lambda: ImageDataLoaders.from_folder(path, item_tfms=Resize(224)), epochs=3)

    - `make`: a function without arguments that builds `DataLoaders`. They are used as they are on one side, and by
      `in_memory(make())` on the other
    - `learner`: a function from `DataLoaders` to a `Learner`, which is trained. Without it, batches are only loaded, so
      that the whole epoch is waiting
    - `epochs`: the number of epochs per side. The first one fills the store, unless it is already full, because other
      DataLoaders over the same path are still alive. The table then says "warm"
    - `also`: more DataLoaders to run, each made by a function: `{"batches=False": lambda: in_memory(make(), …)}`
    - `seed`: seeds the models and every epoch. The states of random generators are restored afterwards
    - `show`: draw the plot in a notebook (which shows the result as a table); elsewhere print the table

    The sides take turns, epoch by epoch, so that other work on the machine slows all of them. Files go first: only
    their first epoch may have to read from a cold disk. Costs `epochs` epochs and the memory of one model per side.
    Raises TypeError if `make` returns no DataLoaders, or some whose images are in memory already, and ValueError for
    `epochs` below 1.
    """
    check_given(make, DataLoaders, "compare(lambda: ImageDataLoaders.from_folder(…))", epochs)
    states = random_states()
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # for the GPUs' generators, which `states` lacks
        try:
            makers: Dict[str, Make] = {STOCK: make, OURS: partial(_in_memory, make), **(also or {})}
            sides = [_Side(name, one, learner, seed) for name, one in makers.items()]
            held = sides[0].watch.in_memory, sides[1].watch.in_memory
            if held != (False, True):
                reason = "are in memory already" if held[0] else "can't be kept in memory, as a warning says"
                raise TypeError(
                    f"compare: the images of the DataLoaders that your function made {reason}: please let it build "
                    "them without memlist, of image files that fastai's own PILImage opens."
                )
            take_turns(sides, epochs, seed, progress(epochs * len(sides), "compare", "epochs"))
        finally:
            states.restore()
    found = Comparison([side.close() for side in sides])
    if show and in_notebook():
        found.plot()
    elif show:
        print_line(repr(found))
    return found


def _in_memory(make: Make) -> Any:
    dls = make()
    return in_memory(dls) if isinstance(dls, DataLoaders) else dls


class _Side(Side):
    "One side of a comparison, of DataLoaders."

    kind, wanted = DataLoaders, "DataLoaders"

    def _timed(self) -> TimedLoaders:
        return TimedLoaders(self.data)

    def _cached(self) -> Optional[Tuple[int, int]]:
        works = works_of([dl for dl in self.data.loaders if hasattr(dl, "dataset")])
        return cache_info(works)[:2] if works else None

    def _fit(self, learn: Any) -> None:
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=DataWait(self.watch))

    def _loaders(self) -> Sequence[Any]:
        return self.data.loaders  # type: ignore[no-any-return]
