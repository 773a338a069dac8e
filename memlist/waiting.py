"""How long training waits for its batches, and how long it computes: `DataWait`, and the picture of it."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fastai.basic_train import LearnerCallback
from fastai.core import defaults, ifnone

from .lists import InMemory, lists_of
from .loading import is_loaded, one_a_store

# A cache counts as warm from where on at most this share of what is read is a miss: a shuffled training set that drops
# its last batch finds some images only in the second epoch or the third.
WARM_MISSES = 0.05
WAIT_COLOUR, COMPUTE_COLOUR = "#d95f02", "#7f9fbf"  # told apart in grey, too


class Step(NamedTuple):
    "One batch: seconds waited for it, seconds computed with it, and the store's hits and misses since the start."

    wait: float
    compute: float
    train: bool
    hits: int
    misses: int


class Epoch(NamedTuple):
    "One epoch, training and validation: its steps, and its seconds from end to end."

    steps: List[Step]
    seconds: float

    @property
    def wait(self) -> float:
        "Seconds waited for batches."
        return sum(step.wait for step in self.steps)

    @property
    def compute(self) -> float:
        "All other seconds."
        return max(0.0, self.seconds - self.wait)

    @property
    def data_wait(self) -> float:
        "Per cent of the epoch waited for batches."
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
    """Time as the GPU sees it, by events on its stream: Python only queues work, and is past it long before it is done.

    A batch has arrived when it is on the GPU, copied and (with `batch_tfms`) transformed. Nothing is synchronised while
    training goes on: an event's time is asked for once it has passed.
    """

    def mark(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def passed(self, mark: Any) -> bool:
        return bool(mark.query())

    def seconds(self, first: Any, last: Any) -> float:
        if not self.passed(last):
            last.synchronize()
        return float(first.elapsed_time(last)) / 1000


class Watch:
    "Takes the times of epochs: `begin`, then `arrived` and `done` for each batch, then `end`."

    def __init__(self, lists: Sequence[InMemory], device: Optional[torch.device] = None) -> None:
        self.lists = list(lists)
        self.stores = [il.store for il in one_a_store(self.lists)]
        on_gpu = device is not None and device.type == "cuda" and torch.cuda.is_available()
        self.clock: HostClock = CudaClock() if on_gpu else HostClock()
        self.epochs: List[Epoch] = []
        self.hits = self.misses = 0
        self.began: Optional[float] = None
        self.loaded = False

    @property
    def running(self) -> bool:
        "Whether an epoch has begun and not ended."
        return self.began is not None

    def begin(self) -> None:
        "An epoch begins. What others read from the same store between two epochs is not counted."
        hits, misses = self._reads()
        self.before = hits - self.hits, misses - self.misses
        self.steps: List[Step] = []
        self.open: Deque[Tuple[Any, Any, Any, bool, int, int]] = deque()
        self.began, self.last, self.batch = time.perf_counter(), self.clock.mark(), None

    def arrived(self) -> None:
        "The batch is there."
        self.batch = self.clock.mark()

    def done(self, train: bool) -> None:
        "The step is over; what comes next is waited for."
        if self.batch is None:
            return
        now = self.clock.mark()
        self.hits, self.misses = (reads - before for reads, before in zip(self._reads(), self.before))
        self.open.append((self.last, self.batch, now, train, self.hits, self.misses))
        self.last, self.batch = now, None
        while self.open and self.clock.passed(self.open[0][2]):
            self._close()

    def end(self) -> Epoch:
        "The epoch is over."
        while self.open:
            self._close()
        assert self.began is not None
        self.epochs.append(Epoch(self.steps, time.perf_counter() - self.began))
        self.began = None
        return self.epochs[-1]

    def close(self) -> None:
        "Training is over, perhaps within an epoch, which then counts as far as it came."
        if self.running and (self.open or self.steps):
            self.end()
        self.began = None
        self.loaded = bool(self.lists) and is_loaded(self.lists)

    def warm(self) -> Optional[float]:
        """When the cache became warm, in epochs since the start: 0 before the first, 1.5 in the middle of the second.

        None where it never was, or nothing is in memory. See `WARM_MISSES`; a budget that was met leaves it cold.
        """
        steps = [step for epoch in self.epochs for step in epoch.steps]
        if not self.stores or not steps:
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
        # What follows has to be long enough to tell: half an epoch.
        enough = reads[-1] / len(self.epochs) / 2
        for place, read, missed in zip(places, reads, misses):
            left = reads[-1] - read
            if left < max(1, enough):
                break
            if misses[-1] - missed <= WARM_MISSES * left:
                return place
        return places[-1] if self.loaded else None

    def _close(self) -> None:
        last, batch, now, train, hits, misses = self.open.popleft()
        wait, compute = self.clock.seconds(last, batch), self.clock.seconds(batch, now)
        self.steps.append(Step(wait, compute, train, hits, misses))

    def _reads(self) -> Tuple[int, int]:
        counts = [store.reads() for store in self.stores]
        return sum(hits for hits, _ in counts), sum(misses for _, misses in counts)


class DataWait(LearnerCallback):
    """Shows how much of training is waiting for images: `learn.fit(3, callbacks=[DataWait(learn)])`.

    Adds a column `data_wait` to the table of results: per cent of the epoch's seconds in which the model had no batch
    to work on. Afterwards `learn.data_wait` has `epochs`, each with `wait` and `compute` in seconds and its `steps`;
    `warm`, when the cache became warm; and `plot()`. It works with fastai's own lists as well.

    A step waits from the end of the one before it until its batch is there; on a GPU, until it has been copied, as
    events on the GPU's stream tell: nothing is synchronised for them. The rest is computing, the work of other
    callbacks included. Starting workers is waiting. Costs some ten microseconds a batch. A `fit` starts anew; one that
    is interrupted keeps its last epoch as far as it came.

    Give it to `fit` rather than to the learner; an exported learner leaves it out in either case.
    """

    _order = -1000  # first to hear that a batch has come, and that a step is over

    def __init__(self, learn: Any, watch: Optional[Watch] = None) -> None:
        super().__init__(learn)
        self.watch, self.given = watch, watch is not None  # one that is given goes on from one `fit` to the next
        self.active, self.n_metrics = False, 0

    @property
    def epochs(self) -> List[Epoch]:
        "The epochs of the last `fit`."
        return [] if self.watch is None else self.watch.epochs

    @property
    def warm(self) -> Optional[float]:
        "When the cache became warm, in epochs since the start of `fit`; see `Watch.warm`."
        return None if self.watch is None else self.watch.warm()

    def on_train_begin(self, pbar: Any = None, metrics_names: Sequence[str] = (), **kwargs: Any) -> None:
        "Begin anew; announce the column, which `validate`, without a table, has no place for."
        self.active = pbar is not None
        if not self.active:
            return
        if not self.given:
            self.watch = Watch(lists_of(self.learn.data), self.learn.data.device)
        self.n_metrics = len(metrics_names)
        self.learn.recorder.add_metric_names(["data_wait"])

    def on_epoch_begin(self, **kwargs: Any) -> None:
        "The first batch is waited for."
        if self.watch is not None and self.active:
            self.watch.begin()

    def on_batch_begin(self, **kwargs: Any) -> None:
        "A batch is there."
        if self.watch is not None and self.watch.running:
            self.watch.arrived()

    def on_batch_end(self, train: bool = True, **kwargs: Any) -> None:
        "The next one is waited for."
        if self.watch is not None and self.watch.running:
            self.watch.done(train)

    def on_epoch_end(self, last_metrics: Any = None, **kwargs: Any) -> Optional[Dict[str, Any]]:
        "Fill the column, the last of those that are there so far."
        if self.watch is None or not self.watch.running:
            return None
        share = round(self.watch.end().data_wait, 1)
        known = list(last_metrics or [None])
        # Without a validation fastai has no metrics either, and would put ours below one of them.
        known += [None] * (1 + self.n_metrics - len(known))
        return {"last_metrics": [*known, share]}

    def on_train_end(self, **kwargs: Any) -> None:
        "Keep what there is of an epoch that was broken off."
        if self.watch is not None and self.active:
            self.watch.close()
        self.active = False

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
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(y=0.12)
