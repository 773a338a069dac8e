"""`DataWait`, a fastai callback: show how long training waits for its batches, and how long it computes."""

from __future__ import annotations

import copy
from contextlib import suppress
from operator import itemgetter
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from fastai.callback.core import Callback

from ..cache.info import distinct
from ..cache.jobs import stores_of
from ..timing.epochs import Epoch, Watch
from ..timing.plot import as_table, draw_alone
from .stock import DataLoaders
from .work import works_of


class TimedLoaders:
    "Implement `TimedData` for `DataLoaders`."

    def __init__(self, dls: DataLoaders) -> None:
        device = getattr(dls, "device", None)
        self.device = torch.device("cpu" if device is None else device)
        self.loaders = [dl for dl in dls.loaders if hasattr(dl, "dataset")]
        self.stores = stores_of(works_of(self.loaders))

    def nearly_cached(self, most_missing: float) -> Optional[bool]:
        """Return whether at most a share of `most_missing` of train and valid is not cached.

        Returns None if only user code knows which images a dataset opens: it is not run again for this.
        """
        works = works_of(self.loaders[:2])
        if any(work.known_by_running() for work in works):
            return None
        there = list(distinct(works))
        return bool(self.stores) and there.count(False) <= most_missing * len(there)


class TimedLoader:
    "Stand in for a loader during one part of an epoch: time its batches, and pass on everything else."

    def __init__(self, loader: Any, watch: Watch, train: bool) -> None:
        vars(self).update(_loader=loader, _watch=watch, _train=train)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        "The class of the loader, for `isinstance`."
        return type(self._loader)

    def __iter__(self) -> Iterator[Any]:
        return self._watch.timed(self._loader, self._train)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_loader"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._loader, name, value)

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        "Copies and pickles of a learner that is being trained have the loader itself."
        return itemgetter(0), ((self._loader,),)


class DataWait(Callback):
    """Show how much of training is waiting for images: `learn.fit(3, cbs=DataWait())`.

    This adds a column `data_wait` to the table of results: the percentage of the epoch in which the model had no batch
    to work on. Afterwards `learn.data_wait` has `epochs`, each with `wait` and `compute` in seconds and its `steps`;
    `warm`, when the cache became warm; and `plot()`. It works with images that are not in memory as well.

    Waiting is the time that the loop spends in its data loaders until a batch has arrived, transforms of batches
    included. On a GPU a batch has arrived once it is there, according to events on the GPU's stream, which need no
    synchronisation. Starting and ending workers counts as waiting. Everything else until the end of validation counts
    as computing, including other callbacks. The cost is about twenty microseconds per batch. Each `fit` starts anew; an
    interrupted one keeps the timed part of its last epoch. `validate` and `get_preds` are not timed.

    `learn.export` leaves it out: an exported learner has a `Callback` that does nothing in its place. A copy of a
    learner by `copy.deepcopy` has a `DataWait` of its own.
    """

    order = 55  # after the recorder, which makes the table, and before the progress bar, which shows it

    def __init__(self, watch: Optional[Watch] = None) -> None:
        super().__init__()
        self._watch, self._given = watch, watch is not None  # a given watch continues across calls of `fit`
        self._dls: Any = None  # which the watch is timing
        self._fitting = self._nested = False

    @property
    def name(self) -> str:
        "The attribute that fastai deletes from the learner after `fit`: not `data_wait`, which stays."
        return "data_wait_callback"

    @property
    def epochs(self) -> List[Epoch]:
        "The epochs of the last `fit`."
        if self.learn is None:  # an exception ended the `fit`: fastai has only taken this callback away
            self._close()
        return [] if self._watch is None else self._watch.epochs

    @property
    def warm(self) -> Optional[float]:
        "The moment at which the cache became warm, in epochs since the start of `fit`; see `Watch.warm`."
        return None if self._watch is None or not self.epochs else self._watch.warm()

    def before_fit(self) -> None:
        "Start anew and add the column. `validate`, perhaps in the middle of a `fit`, has no table."
        self._nested = not self.learn.create_mbar
        if not self._nested:
            if not self._given:
                self._watch = None
            self._dls, self._fitting = None, True
            self.learn.data_wait = self
        recorder = getattr(self.learn, "recorder", None)
        if self._fitting and recorder is not None:
            names = recorder.metric_names
            names.insert(len(names) - bool(recorder.add_time), "data_wait")

    def before_epoch(self) -> None:
        "Begin to wait for the first batch."
        if self._nested or not self._fitting:
            return
        if self._watch is None:
            self._watch = Watch(TimedLoaders(self.learn.dls))
        elif self._dls is not self.learn.dls:
            self._watch.set_data(TimedLoaders(self.learn.dls))
        self._dls = self.learn.dls
        self._watch.begin()

    def before_train(self) -> None:
        "Time the loader, after what other callbacks have put in its place."
        self._follow(True)

    def before_validate(self) -> None:
        "Time the loader, after what other callbacks have put in its place."
        self._follow(False)

    def _follow(self, train: bool) -> None:
        if self._watch is not None and self._watch.running and not self._nested:
            self.learn.dl = TimedLoader(self.learn.dl, self._watch, train)

    def after_train(self) -> None:
        "Give the loader back."
        self._leave()

    def after_validate(self) -> None:
        "Give the loader back, and fill the column, which is the last one so far."
        self._leave()
        if self._watch is not None and self._watch.running and not self._nested:
            share = round(self._watch.end().data_wait, 1)
            recorder = getattr(self.learn, "recorder", None)
            if recorder is not None:
                recorder.log += [share]

    def _leave(self) -> None:
        if type(self.learn.dl) is TimedLoader and not self._nested:
            self.learn.dl = vars(self.learn.dl)["_loader"]

    def after_epoch(self) -> None:
        "End an epoch that was cancelled before its validation."
        if self._watch is not None and self._watch.running and not self._nested:
            self._watch.end()

    def after_fit(self) -> None:
        "End the timing, unless this was a `validate`."
        if self._nested:
            self._nested = False
            return
        self._close()
        self._fitting, self._dls = False, None

    def _close(self) -> None:
        "Keep the timed part of an interrupted epoch."
        if self._watch is not None and self._fitting and not self._given:
            self._fitting = False
            with suppress(RuntimeError):  # from a GPU that has failed
                self._watch.close()

    def __reduce__(self) -> Tuple[Any, ...]:
        return Callback, ()

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        "Return a callback for the copy of a learner, with the epochs so far: it times what that learner trains."
        made: Any = type(self).__new__(type(self))
        memo[id(self)] = made
        own: Dict[str, Any] = dict.fromkeys(("_given", "_fitting", "_nested"), False)
        own.update(_watch=self._watch and self._watch.ended(), _dls=None)
        vars(made).update(copy.deepcopy({**vars(self), **own}, memo))
        return made

    def plot(self, ax: Any = None, return_fig: bool = False) -> Any:
        """Draw the epochs as stacked bars in seconds, waiting on top of computing, and when the cache became warm.

        Draws into `ax`, or into a new figure. Returns the figure if `return_fig` is true. Raises ValueError before the
        first epoch.
        """
        if not self.epochs:
            raise ValueError("DataWait has seen no epoch yet: please run `learn.fit(1, cbs=wait)` with it.")
        figure = draw_alone(self.epochs, self.warm, ax)
        return figure if return_fig else None

    def __repr__(self) -> str:
        return as_table(self.epochs)
