"""`DataWait`, a callback of fastai 2: show how long training waits for its batches, and how long it computes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Iterator, List, Optional, Tuple

import torch
from fastai.callback.core import Callback

from ..cache.info import distinct
from ..cache.jobs import stores_of
from ..timing.epochs import Epoch, Watch
from ..timing.plot import draw_epochs
from .work import works_of


class TimedLoaders:
    "Implement `TimedData` for `DataLoaders`."

    def __init__(self, dls: Any) -> None:
        self.loaders = list(dls.loaders)
        device = getattr(dls, "device", None)
        self.device = torch.device("cpu" if device is None else device)
        self.stores = stores_of(works_of(self.loaders))

    def nearly_cached(self, most_missing: float) -> Optional[bool]:
        "Return whether at most a share of `most_missing` of train and valid is not cached; None if it is not known."
        there = list(distinct(works_of(self.loaders[:2])))
        if not there:  # only the user's functions know the files, and they are not run for this
            return None
        return there.count(False) <= most_missing * len(there)


class TimedLoader:
    "Stand for a loader while an epoch runs: time its batches, and be it in everything else."

    def __init__(self, dl: Any, watch: Watch, train: bool) -> None:
        self._dl, self._watch, self._train = dl, watch, train

    def __iter__(self) -> Iterator[Any]:
        return self._watch.timed(self._dl, self._train)

    def __len__(self) -> int:
        return len(self._dl)

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":
            raise AttributeError(name)
        return getattr(self._dl, name)


class DataWait(Callback):
    """Show how much of training is waiting for images: `learn.fit(3, cbs=DataWait())`.

    This adds a column `data_wait` to the table of results: the percentage of the epoch in which the model had no batch
    to work on. Afterwards `learn.data_wait` has `epochs`, each with `wait` and `compute` in seconds and its `steps`;
    `warm`, when the cache became warm; and `plot()`. It works without images in memory as well.

    Waiting is the time that the loop spends in its loaders until a batch has arrived, its `after_batch` included. On a
    GPU a batch has arrived once it has been copied there, according to events on the GPU's stream, which need no
    synchronisation. Starting and ending workers counts as waiting. Everything else counts as computing, including other
    callbacks. The cost is about twenty microseconds per batch. Each `fit` starts anew.

    `learn.export` keeps a callback of fastai's in its place, which does nothing.
    """

    order = 55  # after the recorder has its columns and values, and before they are shown

    def __init__(self, watch: Optional[Watch] = None) -> None:
        super().__init__()
        self.watch, self.given = watch, watch is not None  # a given watch continues across calls of `fit`
        self.timed: Any = None  # which `watch` is timing

    @property
    def name(self) -> str:
        "The name under which fastai removes it from the learner after `fit`: not that of the result."
        return "data_wait_callback"

    @property
    def epochs(self) -> List[Epoch]:
        "The epochs of the last `fit`."
        return [] if self.watch is None else self.watch.epochs

    @property
    def warm(self) -> Optional[float]:
        "The moment at which the cache became warm, in epochs since the start of `fit`; see `Watch.warm`."
        return None if self.watch is None else self.watch.warm()

    def before_fit(self) -> None:
        "Add the column. fastai also calls this to validate, which has no table."
        names = getattr(getattr(self.learn, "recorder", None), "metric_names", None)
        if names is not None:
            names.insert(len(names) - bool(self.learn.recorder.add_time), "data_wait")

    def before_train(self) -> None:
        "Begin an epoch; the first one of a `fit` begins anew."
        self.learn.data_wait = self
        if self.learn.epoch == 0 and not self.given:
            self.watch = None
        if self.watch is None:
            self.watch = Watch(TimedLoaders(self.learn.dls))
        elif self.learn.dls is not self.timed:
            self.watch.set_data(TimedLoaders(self.learn.dls))
        self.timed = self.learn.dls
        self.watch.begin()
        self._follow(True)

    def before_validate(self) -> None:
        "Time the validation of an epoch."
        if self.watch is not None and self.watch.running:
            self._follow(False)

    def after_train(self) -> None:
        "Give the loader back."
        self._leave()

    def after_validate(self) -> None:
        "Fill the column."
        self._leave()
        if self.watch is None or not self.watch.running:
            return
        share = round(self.watch.end().data_wait, 1)
        recorder = getattr(self.learn, "recorder", None)
        if recorder is not None:
            recorder.log.append(share)

    def after_epoch(self) -> None:
        "Keep the timed part of an epoch that was cancelled."
        if self.watch is not None and self.watch.running:
            self.watch.end()

    def after_fit(self) -> None:
        "Drop the data."
        if self.watch is not None and self.timed is not None and not self.given:
            with suppress(RuntimeError):  # from a GPU that has failed: the other callbacks must still run
                self.watch.close()
        self.timed = None

    def _follow(self, train: bool) -> None:
        assert self.watch is not None
        self.learn.dl = TimedLoader(self.learn.dl, self.watch, train)

    def _leave(self) -> None:
        if isinstance(self.learn.dl, TimedLoader):
            self.learn.dl = self.learn.dl._dl

    def plot(self, ax: Any = None, return_fig: bool = False) -> Any:
        """Draw the epochs as stacked bars in seconds, waiting on top of computing, and when the cache became warm.

        Draws into `ax`, or into a new figure. Returns the figure if `return_fig`. Raises ValueError before any epoch.
        """
        if not self.epochs:
            raise ValueError("DataWait has seen no epoch yet: please run `learn.fit(1, cbs=DataWait())`.")
        from matplotlib import pyplot

        axes = pyplot.subplots()[1] if ax is None else ax
        draw_epochs(axes, self.epochs, self.warm)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, frameon=False)
        return axes.figure if return_fig else None

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return Callback, ()

    def __repr__(self) -> str:
        rows = [f"{i:>5}  {e.seconds:>8.2f}  {e.wait:>8.2f}  {e.data_wait:>5.1f} %" for i, e in enumerate(self.epochs)]
        return "\n".join(["epoch   seconds   waiting  data_wait", *rows])
