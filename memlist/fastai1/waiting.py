"""How long training waits for its batches, and how long it computes: `DataWait`, and the picture of it."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from typing import Any, Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fastai.basic_train import LearnerCallback
from fastai.core import defaults, ifnone

from ..cache.filling import distinct, one_a_store
from .lists import lists_of

# A cache counts as warm from where on at most this share of what is read is a miss: a shuffled training set that drops
# its last batch finds some images only in the second epoch or the third.
WARM_MISSES = 0.05
WAIT_COLOUR, COMPUTE_COLOUR = "#d95f02", "#7f9fbf"  # told apart in grey, too


class Step(NamedTuple):
    "One batch: seconds waited for it, seconds until the next was asked for, and the store's reads since the start."

    wait: float
    compute: float
    train: bool
    hits: int
    misses: int


class Epoch(NamedTuple):
    "One epoch, training and validation: its steps, its seconds from end to end, and those in which loaders ended."

    steps: List[Step]
    seconds: float
    ending: float = 0.0

    @property
    def wait(self) -> float:
        "Seconds waited for batches, and for the workers of loaders to end."
        return self.ending + sum(step.wait for step in self.steps)

    @property
    def compute(self) -> float:
        "All other seconds."
        return max(0.0, self.seconds - self.wait)

    @property
    def data_wait(self) -> float:
        "Per cent of the epoch waited."
        return min(100.0, 100 * self.wait / self.seconds) if self.seconds else 0.0


class HostClock:
    "Time as the process sees it."

    def mark(self) -> Any:
        "Now."
        return time.perf_counter()

    def passed(self, mark: Any) -> bool:
        "Whether the time of `mark` is known."
        return True

    def seconds(self, first: Any, last: Any) -> float:
        "From one mark to the other; waits until both are known."
        return float(last - first)


class CudaClock(HostClock):
    """Time as a GPU sees it, by events on its stream: Python only queues work, and is past it long before it is done.

    A batch has arrived when it is on the GPU, copied and (with `batch_tfms`) transformed. Nothing is synchronised while
    training goes on: an event's time is asked for once it has passed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def passed(self, mark: Any) -> bool:
        return bool(mark.query())

    def seconds(self, first: Any, last: Any) -> float:
        if not self.passed(last):
            last.synchronize()
        return float(first.elapsed_time(last)) / 1000


class Watch:
    """Takes the times of epochs over a `DataBunch`: `begin`, then `timed` around each of its loaders, then `end`.

    Where a loader can't be watched: `arrived` and `done` for each of its batches.
    """

    def __init__(self, data: Any) -> None:
        self.epochs: List[Epoch] = []
        self.hits = self.misses = 0
        self.began: Optional[float] = None
        self.loaded: Optional[bool] = None
        self.look_at(data)

    def look_at(self, data: Any) -> None:
        "Time what `data` gives from now on."
        self.data = data
        self.lists = lists_of(data)
        self.stores = [il.store for il in one_a_store(self.lists)]
        self.in_memory = bool(self.stores)
        device = torch.device(data.device)
        on_gpu = device.type == "cuda" and torch.cuda.is_available()
        self.clock: HostClock = CudaClock(device) if on_gpu else HostClock()
        self._forget()

    def _forget(self) -> None:
        self.steps: List[Step] = []
        # Batches whose marks have not all passed: when each was asked for, when it was there, when the next was asked
        # for, and what else a step knows.
        self.open: Deque[List[Any]] = deque()
        self.ends: List[Tuple[Any, Any]] = []
        self.since: Any = None
        self.timing = False

    @property
    def running(self) -> bool:
        "Whether an epoch has begun and not ended."
        return self.began is not None

    def begin(self) -> None:
        "An epoch begins. What others read from the same store between two epochs is not counted."
        hits, misses = self._reads()
        self.before = hits - self.hits, misses - self.misses
        self._forget()
        self.began, self.since = time.perf_counter(), self.clock.mark()

    def timed(self, batches: Iterable[Any], train: bool) -> Iterator[Any]:
        "What `batches` gives, timed; a loader that is gone over inside the step of another is part of that step."
        if self.timing or not self.running:
            yield from batches
            return
        self.timing = True
        try:
            iterator = iter(batches)
            while True:
                self._asked(self.clock.mark())
                try:
                    batch = next(iterator)
                except StopIteration:
                    self.ends.append((self.since, self.clock.mark()))
                    return
                self.arrived(train)
                yield batch
        finally:
            self.timing = False

    def arrived(self, train: bool) -> None:
        "A batch is there."
        self.hits, self.misses = (reads - before for reads, before in zip(self._reads(), self.before))
        self.open.append([self.since, self.clock.mark(), None, train, self.hits, self.misses])

    def done(self) -> None:
        "The step is over; what comes next is waited for."
        self._asked(self.clock.mark())

    def _asked(self, now: Any) -> None:
        self.since = now
        if self.open and self.open[-1][2] is None:
            self.open[-1][2] = now
        while self.open and self.open[0][2] is not None and self.clock.passed(self.open[0][2]):
            self._close_step()

    def _close_step(self) -> None:
        asked, there, after, train, hits, misses = self.open.popleft()
        wait, compute = self.clock.seconds(asked, there), self.clock.seconds(there, after)
        self.steps.append(Step(wait, compute, train, hits, misses))

    def end(self) -> Epoch:
        "The epoch is over."
        assert self.began is not None
        if self.open and self.open[-1][2] is None:  # nothing was asked for after the last batch
            self.open[-1][2] = self.clock.mark()
        while self.open:
            self._close_step()
        ending = sum(self.clock.seconds(first, last) for first, last in self.ends)
        self.epochs.append(Epoch(self.steps, time.perf_counter() - self.began, ending))
        self.began = None
        self._forget()
        return self.epochs[-1]

    def close(self) -> None:
        "Training is over, perhaps within an epoch, which then counts as far as it came; lets go of the data."
        try:
            if self.running and (self.open or self.steps):
                self.end()
            self.loaded = self._nearly_loaded()
        finally:
            self.began = None
            self._forget()
            self.data, self.lists, self.stores = None, [], []

    def _nearly_loaded(self) -> bool:
        "Whether all that is trained and validated with is cached, but for a share of `WARM_MISSES`."
        lists = lists_of(self.data, ("train_ds", "valid_ds"))
        if any(il.known_by_running() for il in lists):  # what they open is not worth running a user's code again
            last = self.epochs[-2:]
            return len(last) == 2 and self._missed(last[1].steps, last[0].steps[-1:]) <= WARM_MISSES
        most = WARM_MISSES * sum(len(il.items) for il in lists)
        missing = 0
        for there in distinct(lists):
            missing += not there
            if missing > most:
                return False
        return self.in_memory

    @staticmethod
    def _missed(steps: Sequence[Step], before: Sequence[Step]) -> float:
        "The share of misses in `steps`, which came after the step in `before`."
        if not steps or not before:
            return 1.0
        hits, misses = steps[-1].hits - before[-1].hits, steps[-1].misses - before[-1].misses
        return misses / (hits + misses) if hits + misses else 1.0

    def warm(self) -> Optional[float]:
        """When the cache became warm, in epochs since the start: 0 before the first, 1.5 in the middle of the second.

        From there on at most a share of `WARM_MISSES` was a miss. None where nothing is in memory, or where at the end
        more than that share was not.
        """
        steps = [step for epoch in self.epochs for step in epoch.steps]
        if not self.in_memory or not steps or not (self._nearly_loaded() if self.loaded is None else self.loaded):
            return None
        places, reads, misses = [0.0], [0], [0]
        for i, epoch in enumerate(self.epochs):
            passed = 0.0
            for step in epoch.steps:
                passed += step.wait + step.compute
                places.append(i + min(1.0, passed / max(epoch.seconds, 1e-9)))
                reads.append(step.hits + step.misses)
                misses.append(step.misses)
            places[-1] = float(i + 1)
        if not reads[-1]:  # of a list that opens nothing
            return None
        return next(
            place
            for place, read, missed in zip(places, reads, misses)
            if misses[-1] - missed <= WARM_MISSES * (reads[-1] - read)
        )

    def _reads(self) -> Tuple[int, int]:
        counts = [store.reads() for store in self.stores]
        return sum(hits for hits, _ in counts), sum(misses for _, misses in counts)


class Watched:
    "What a loader's class is mixed with while an epoch runs: going over it is timed, and all else is as it was."

    def __iter__(self) -> Iterator[Any]:
        batches: Iterator[Any] = super().__iter__()  # type: ignore[misc]
        for watch, train in vars(self).get("_watches", ()):
            batches = watch.timed(batches, train)
        return batches


def _follow(loader: Any, watch: Watch, train: bool) -> None:
    "Let `watch` time `loader`, which may be timed by others, too."
    watches = vars(loader).setdefault("_watches", [])
    if not isinstance(loader, Watched):
        cls = type(loader)
        loader.__class__ = type(cls.__name__, (Watched, cls), {"__module__": cls.__module__})
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
    """Shows how much of training is waiting for images: `learn.fit(3, callbacks=[DataWait(learn)])`.

    Adds a column `data_wait` to the table of results: per cent of the epoch's seconds in which the model had no batch
    to work on. Afterwards `learn.data_wait` has `epochs`, each with `wait` and `compute` in seconds and its `steps`;
    `warm`, when the cache became warm; and `plot()`. It works with fastai's own lists as well.

    Waiting is what the loop spends in its data loaders, until a batch is there; on a GPU, until it has been copied, as
    events on the GPU's stream tell: nothing is synchronised for them. Starting and ending workers is waiting, too. The
    rest is computing, the work of other callbacks included. Costs some twenty microseconds a batch. A `fit` starts
    anew; one that is interrupted keeps its last epoch as far as it came.

    Give it to `fit` rather than to the learner; an exported learner leaves it out in either case.
    """

    _order = -1000  # before the recorder, whose table it adds to, and before those that change what it looks at

    def __init__(self, learn: Any, watch: Optional[Watch] = None) -> None:
        super().__init__(learn)
        self.watch, self.given = watch, watch is not None  # one that is given goes on from one `fit` to the next
        self.active, self.nested, self.n_metrics = False, False, 0
        self.loaders: List[Any] = []

    @property
    def epochs(self) -> List[Epoch]:
        "The epochs of the last `fit`."
        return [] if self.watch is None else self.watch.epochs

    @property
    def warm(self) -> Optional[float]:
        "When the cache became warm, in epochs since the start of `fit`; see `Watch.warm`."
        return None if self.watch is None else self.watch.warm()

    def on_train_begin(self, pbar: Any = None, metrics_names: Sequence[str] = (), **kwargs: Any) -> None:
        "Begin anew, and announce the column; `validate`, perhaps in the midst of a `fit`, has no table."
        self.nested = pbar is None
        if self.nested:
            return
        if not self.given:
            self.watch = Watch(self.learn.data)
        self.active, self.n_metrics = True, len(metrics_names)
        self.learn.data_wait = self
        self.learn.recorder.add_metric_names(["data_wait"])

    def on_epoch_begin(self, **kwargs: Any) -> None:
        "The first batch is waited for."
        if self.watch is None or not self.active or self.nested:
            return
        self._leave_loaders()
        data = self.learn.data
        if data is not self.watch.data:
            self.watch.look_at(data)
        for loader, train in ((data.train_dl, True), (data.valid_dl, False)):
            if loader is not None:
                with suppress(TypeError):  # a class that can't be mixed with is timed by what callbacks hear
                    _follow(loader, self.watch, train)
                    self.loaders.append(loader)
        self.watch.begin()

    def on_batch_begin(self, train: bool = True, **kwargs: Any) -> None:
        "A batch is there: of a loader that is not watched, such as one that came in the midst of the epoch."
        if self.watch is not None and self.watch.running and not (self.nested or self.watch.timing):
            self.watch.arrived(train)

    def on_batch_end(self, **kwargs: Any) -> None:
        "The next one is waited for."
        if self.watch is not None and self.watch.running and not (self.nested or self.watch.timing):
            self.watch.done()

    def on_epoch_end(self, last_metrics: Any = None, **kwargs: Any) -> Optional[Dict[str, Any]]:
        "Fill the column, the last of those that are there so far."
        nested, self.nested = self.nested, False
        if nested or self.watch is None or not self.watch.running:
            return None
        self._leave_loaders()
        share = round(self.watch.end().data_wait, 1)
        known = list(last_metrics or [None])
        # Without a validation fastai has no metrics either, and would put ours below one of them.
        known += [None] * (1 + self.n_metrics - len(known))
        return {"last_metrics": [*known, share]}

    def on_train_end(self, **kwargs: Any) -> None:
        "Keep what there is of an epoch that was broken off."
        self._leave_loaders()
        if self.watch is not None and self.active and not self.given:
            with suppress(RuntimeError):  # of a GPU that has failed: the other callbacks are to hear of it
                self.watch.close()
        self.active = self.nested = False

    def _leave_loaders(self) -> None:
        while self.loaders and self.watch is not None:
            _leave(self.loaders.pop(), self.watch)

    def get_state(self, minimal: bool = True) -> Dict[str, Any]:
        "Nothing: what was timed is not the learner's."
        return {}

    def plot(self, ax: Any = None, return_fig: Optional[bool] = None) -> Any:
        """Draw the epochs as stacked bars, computing below waiting, in seconds, and where the cache became warm.

        Into `ax`, or a figure of its own, which is returned where `return_fig` or fastai's `defaults.return_fig` asks.
        """
        if not self.epochs:
            raise ValueError("DataWait has seen no epoch yet: please run `learn.fit(1, callbacks=[DataWait(learn)])`.")
        from matplotlib import pyplot

        axes = pyplot.subplots()[1] if ax is None else ax
        draw(axes, self.epochs, self.warm)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncol=3, frameon=False)
        return axes.figure if ifnone(return_fig, defaults.return_fig) else None

    def __repr__(self) -> str:
        rows = [f"{i:>5}  {e.seconds:>8.2f}  {e.wait:>8.2f}  {e.data_wait:>5.1f} %" for i, e in enumerate(self.epochs)]
        return "\n".join(["epoch   seconds   waiting  data_wait", *rows])


def draw(axes: Any, epochs: Sequence[Epoch], warm: Optional[float] = None) -> None:
    "Draw `epochs` into `axes` as stacked bars, numbered as fastai numbers them, and a line where the cache got `warm`."
    from matplotlib.ticker import MaxNLocator

    width, numbers = 0.8, list(range(len(epochs)))
    compute, wait = [epoch.compute for epoch in epochs], [epoch.wait for epoch in epochs]
    axes.bar(numbers, compute, width, color=COMPUTE_COLOUR, label="computing")
    axes.bar(numbers, wait, width, bottom=compute, color=WAIT_COLOUR, label="waiting for images")
    if len(epochs) <= 12:
        for number, epoch in zip(numbers, epochs):
            top = (number, epoch.compute + epoch.wait)
            axes.annotate(f"{epoch.data_wait:.0f} %", top, (0, 2), textcoords="offset points", ha="center", size=8)
    if warm is not None:
        whole, share = warm // 1, warm % 1
        # Between two bars at the end of an epoch, at its share of a bar's width within one.
        place = whole - 0.5 if share == 0 else whole + width * (share - 0.5)
        axes.axvline(place, color="black", linestyle="--", linewidth=1, label="cache warm")
    axes.set_xlabel("epoch")
    axes.set_ylabel("seconds")
    axes.set_xlim(-0.7, len(epochs) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
