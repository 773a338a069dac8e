"""`DataWait`, a fastai callback: show how long training waits for its batches, and how long it computes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from fastai.basic_train import LearnerCallback
from fastai.core import defaults, ifnone

from ..cache.jobs import stores_of
from ..timing.epochs import Epoch, Watch
from ..timing.plot import as_table, draw_alone
from .lists import lists_of
from .work import distinct, works_of


class TimedBunch:
    "Implement `TimedData` for a `DataBunch`."

    def __init__(self, bunch: Any) -> None:
        self.bunch = bunch
        self.device = torch.device(bunch.device)  # fastai takes strings, too
        self.stores = stores_of(works_of(lists_of(bunch)))

    def nearly_cached(self, most_missing: float) -> Optional[bool]:
        """Return whether at most a share of `most_missing` of train and valid is not cached.

        Returns None if only user code knows which images a list opens: it is not run again for this.
        """
        lists = lists_of(self.bunch, ("train_ds", "valid_ds"))
        if any(il.known_by_running() for il in lists):
            return None
        most = most_missing * sum(len(il.items) for il in lists)
        missing = 0
        for cached in distinct(lists):
            missing += not cached
            if missing > most:
                return False
        return bool(self.stores)


class TimedLoader:
    "A mixin for a loader's class while an epoch runs: it times the iteration and changes nothing else."

    def __iter__(self) -> Iterator[Any]:
        batches: Iterator[Any] = super().__iter__()  # type: ignore[misc]
        for watch, train in vars(self).get("_watches", ()):
            batches = watch.timed(batches, train)
        return batches


def _follow(loader: Any, watch: Watch, train: bool) -> None:
    "Let `watch` time `loader`, which other watches may be timing already."
    watches = vars(loader).setdefault("_watches", [])
    if not isinstance(loader, TimedLoader):
        cls = type(loader)
        loader.__class__ = type(cls.__name__, (TimedLoader, cls), {"__module__": cls.__module__})
    watches.append((watch, train))


def _leave(loader: Any, watch: Watch) -> None:
    "Undo `_follow`."
    watches = vars(loader).get("_watches")
    if watches is not None:
        watches[:] = [pair for pair in watches if pair[0] is not watch]
        if not watches:
            del loader._watches
            loader.__class__ = type(loader).__mro__[2]


class DataWait(LearnerCallback):
    """Show how much of training is waiting for images: `learn.fit(3, callbacks=[DataWait(learn)])`.

    This adds a column `data_wait` to the table of results: the percentage of the epoch in which the model had no batch
    to work on. Afterwards `learn.data_wait` has `epochs`, each with `wait` and `compute` in seconds and its `steps`;
    `warm`, when the cache became warm; and `plot()`. It works with fastai's own lists as well.

    Waiting is the time that the loop spends in its data loaders until a batch has arrived. On a GPU a batch has arrived
    once it has been copied there, according to events on the GPU's stream, which need no synchronisation. Starting and
    ending workers counts as waiting. Everything else counts as computing, including other callbacks. The cost is about
    twenty microseconds per batch. Each `fit` starts anew; an interrupted one keeps the timed part of its last epoch.

    Pass it to `fit` rather than to the learner. `learn.export` leaves it out in either case.
    """

    _order = -1000  # before the recorder, whose table it adds to, and before callbacks that change the data

    def __init__(self, learn: Any, watch: Optional[Watch] = None) -> None:
        super().__init__(learn)
        self.watch, self.given = watch, watch is not None  # a given watch continues across calls of `fit`
        self.bunch: Any = None  # which `watch` is timing
        self.active, self.nested, self.n_metrics = False, False, 0
        self.loaders: List[Any] = []

    @property
    def epochs(self) -> List[Epoch]:
        "The epochs of the last `fit`."
        return [] if self.watch is None else self.watch.epochs

    @property
    def warm(self) -> Optional[float]:
        "The moment at which the cache became warm, in epochs since the start of `fit`; see `Watch.warm`."
        return None if self.watch is None else self.watch.warm()

    def on_train_begin(self, pbar: Any = None, metrics_names: Sequence[str] = (), **kwargs: Any) -> None:
        "Start anew and add the column. `validate`, perhaps in the middle of a `fit`, has no table."
        self.nested = pbar is None
        if self.nested:
            return
        if not self.given:
            self.watch = None
        self.active, self.n_metrics = True, len(metrics_names)
        self.learn.data_wait = self
        self.learn.recorder.add_metric_names(["data_wait"])

    def on_epoch_begin(self, **kwargs: Any) -> None:
        "Begin to wait for the first batch."
        if not self.active or self.nested:
            return
        self._leave_loaders()
        watch = self._watch(self.learn.data)
        for loader, train in ((self.bunch.train_dl, True), (self.bunch.valid_dl, False)):
            if loader is not None:
                with suppress(TypeError):  # its class can't be subclassed: the callbacks below time its batches
                    _follow(loader, watch, train)
                    self.loaders.append(loader)
        watch.begin()

    def _watch(self, bunch: Any) -> Watch:
        "Return the watch, set to `bunch`."
        if self.watch is None:
            self.watch = Watch(TimedBunch(bunch))
        elif bunch is not self.bunch:
            self.watch.set_data(TimedBunch(bunch))
        self.bunch = bunch
        return self.watch

    def on_batch_begin(self, train: bool = True, **kwargs: Any) -> None:
        "Note a batch of a loader that is not followed, such as one that was added during the epoch."
        if self.watch is not None and self.watch.running and not (self.nested or self.watch.timing):
            self.watch.arrived(train)

    def on_batch_end(self, **kwargs: Any) -> None:
        "Note that such a batch is done."
        if self.watch is not None and self.watch.running and not (self.nested or self.watch.timing):
            self.watch.done()

    def on_epoch_end(self, last_metrics: Any = None, **kwargs: Any) -> Optional[Dict[str, Any]]:
        "Fill the column, which is the last one so far."
        nested, self.nested = self.nested, False
        if nested or self.watch is None or not self.watch.running:
            return None
        self._leave_loaders()
        share = round(self.watch.end().data_wait, 1)
        known = list(last_metrics or [None])
        # Without validation, fastai omits the metrics, and would print ours in the column of one of them.
        known += [None] * (1 + self.n_metrics - len(known))
        return {"last_metrics": [*known, share]}

    def on_train_end(self, **kwargs: Any) -> None:
        "Keep the timed part of an interrupted epoch."
        self._leave_loaders()
        if self.watch is not None and self.active and not self.given:
            with suppress(RuntimeError):  # from a GPU that has failed: the other callbacks must still run
                self.watch.close()
        self.bunch = None
        self.active = self.nested = False

    def _leave_loaders(self) -> None:
        while self.loaders and self.watch is not None:
            _leave(self.loaders.pop(), self.watch)

    def get_state(self, minimal: bool = True) -> Dict[str, Any]:
        "Return an empty state: times are not saved with a learner."
        return {}

    def plot(self, ax: Any = None, return_fig: Optional[bool] = None) -> Any:
        """Draw the epochs as stacked bars in seconds, waiting on top of computing, and when the cache became warm.

        Draws into `ax`, or into a new figure. Returns the figure if `return_fig` or fastai's `defaults.return_fig` is
        true.
        """
        if not self.epochs:
            raise ValueError("DataWait has seen no epoch yet: please run `learn.fit(1, callbacks=[DataWait(learn)])`.")
        figure = draw_alone(self.epochs, self.warm, ax)
        return figure if ifnone(return_fig, defaults.return_fig) else None

    def __repr__(self) -> str:
        return as_table(self.epochs)
