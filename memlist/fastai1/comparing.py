"""`compare`: run the same code with fastai's list and with ours, and show where the time goes."""

from __future__ import annotations

import contextlib
import io
from functools import partial
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

import torch
from fastai.basic_data import DataBunch
from fastai.core import defaults, ifnone
from fastai.vision.data import ImageList

from ..cache.progress import in_notebook, print_line, progress
from ..cache.randomness import random_states
from ..timing import comparison as timing
from ..timing.comparison import Side, check_given, take_turns
from .bunch import MemoryImageDataBunch
from .lists import MemoryImageList, lists_of
from .mixin import InMemory
from .waiting import DataWait, TimedBunch
from .work import cache_info


class Comparison(timing.Comparison):
    __doc__ = timing.Comparison.__doc__

    def _returns(self, return_fig: Optional[bool]) -> bool:
        return bool(ifnone(return_fig, defaults.return_fig))


def compare(
    make: Callable[[Any], Any],
    learner: Optional[Callable[[Any], Any]] = None,
    epochs: int = 3,
    classes: Tuple[type, type] = (ImageList, MemoryImageList),
    also: Optional[Dict[str, Callable[[], Any]]] = None,
    seed: int = 0,
    show: bool = True,
) -> Comparison:
    """Run the same code with fastai's list and with ours, under a progress bar, and show where the time goes::

        def make(cls):
            return cls.from_folder(path).split_by_rand_pct().label_from_folder().transform(size=64).databunch()

        compare(make, lambda data: Learner(data, simple_cnn((3, 16, data.c))), epochs=3)

    - `make`: a function that builds a `DataBunch` with the list class it is given
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
    Raises TypeError if `make` is a data bunch, or does not use the class that it is given, and ValueError for `epochs`
    below 1.
    """
    check_given(make, DataBunch, "compare(lambda cls: cls.from_folder(…)….databunch())", epochs)
    states = random_states()
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # for the GPUs' generators, which `states` lacks
        try:
            sides = [_Side(cls.__name__, partial(make, cls), learner, seed) for cls in classes]
            sides += [_Side(name, other, learner, seed) for name, other in (also or {}).items()]
            for side, cls in zip(sides, classes):
                held = side.watch.in_memory
                if issubclass(cls, (InMemory, MemoryImageDataBunch)) != held:
                    raise TypeError(
                        f"compare: the data bunch made with {cls.__name__} holds {'an' if held else 'no'} "
                        "in-memory list: please build it with the class that your function is given."
                    )
            take_turns(sides, epochs, seed, progress(epochs * len(sides), "compare", "epochs"))
        finally:
            states.restore()
    found = Comparison([side.close() for side in sides])
    if show and in_notebook():
        found.plot(return_fig=False)
    elif show:
        print_line(repr(found))
    return found


class _Side(Side):
    "One side of a comparison, of a `DataBunch`."

    kind, wanted = DataBunch, "a DataBunch"

    def _timed(self) -> TimedBunch:
        return TimedBunch(self.data)

    def _cached(self) -> Optional[Tuple[int, int]]:
        lists = lists_of(self.data)
        return cache_info(lists)[:2] if lists else None

    def _fit(self, learn: Any) -> None:
        with _quiet():
            learn.fit(1, callbacks=[DataWait(learn, self.watch)])

    def _loaders(self) -> Sequence[Any]:
        return self.data.train_dl, () if self.data.empty_val else self.data.valid_dl


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
