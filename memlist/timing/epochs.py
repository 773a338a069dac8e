"""Time the batches of an epoch: `Watch` makes an `Epoch` of `Step`s."""

from __future__ import annotations

import copy
import time
from collections import deque
from typing import Any, Deque, Iterable, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import torch

from .clocks import clock_for

# The cache counts as warm from the point after which at most this share of all reads are misses. It is not 0, because
# a shuffled training set that drops its last batch reads some images only in the second or third epoch.
WARM_MISSES = 0.05


class Step(NamedTuple):
    "One batch: seconds of waiting for it, seconds until the next was requested, and all reads since the start."

    wait: float
    compute: float
    train: bool
    hits: int
    misses: int


class Epoch(NamedTuple):
    "One epoch, training and validation: its steps, its seconds, and the seconds in which loaders were shut down."

    steps: List[Step]
    seconds: float
    ending: float = 0.0

    @property
    def wait(self) -> float:
        "Seconds spent waiting for batches, and for the workers of loaders to end."
        return self.ending + sum(step.wait for step in self.steps)

    @property
    def compute(self) -> float:
        "All other seconds."
        return max(0.0, self.seconds - self.wait)

    @property
    def data_wait(self) -> float:
        "Per cent of the epoch spent waiting."
        return min(100.0, 100 * self.wait / self.seconds) if self.seconds else 0.0


class CountsReads(Protocol):
    "A store that counts its reads."

    def reads(self) -> Tuple[int, int]:
        "Return hits and misses so far."


class TimedData(Protocol):
    "The data whose batches a `Watch` times."

    @property
    def device(self) -> torch.device:
        "Return the device that batches are sent to."

    @property
    def stores(self) -> Sequence[CountsReads]:
        "Return the distinct stores that images are read from; none if no list is in memory."

    def nearly_cached(self, most_missing: float) -> Optional[bool]:
        "Return whether at most a share of `most_missing` is not cached; None if that is not known."


class _Pending:
    "A batch whose times may not be known yet."

    __slots__ = ("arrived", "finished", "hits", "misses", "requested", "train")

    def __init__(self, requested: Any, arrived: Any, train: bool, reads: Tuple[int, int]) -> None:
        self.requested, self.arrived, self.train = requested, arrived, train
        self.hits, self.misses = reads
        self.finished: Any = None


class Watch:
    """Time epochs: call `begin`, then iterate over `timed` for each loader, then `end`.

    If a loader can't be wrapped, call `arrived` and `done` for each of its batches instead.
    """

    def __init__(self, data: TimedData) -> None:
        self.epochs: List[Epoch] = []
        self.hits = self.misses = 0
        self.began: Optional[float] = None
        self.ended_warm: Optional[bool] = None
        self.set_data(data)

    def set_data(self, data: TimedData) -> None:
        "Time the batches of `data` from now on."
        self.data: Optional[TimedData] = data
        self.stores = list(data.stores)
        self.in_memory = bool(self.stores)
        self.clock = clock_for(data.device)
        self._reset()

    def _reset(self) -> None:
        self.steps: List[Step] = []
        self.pending: Deque[_Pending] = deque()
        self.endings: List[Tuple[Any, Any]] = []
        self.requested: Any = None
        self.timing = False

    @property
    def running(self) -> bool:
        "True from `begin` to `end` of an epoch."
        return self.began is not None

    def begin(self) -> None:
        "Begin an epoch. Reads of the same stores between two epochs are not counted."
        hits, misses = self._reads()
        self.before = hits - self.hits, misses - self.misses
        self._reset()
        self.began, self.requested = time.perf_counter(), self.clock.mark()

    def timed(self, batches: Iterable[Any], train: bool) -> Iterator[Any]:
        "Yield `batches` and time them. If another loader is being timed, its step includes the time of this one."
        if self.timing or not self.running:
            yield from batches
            return
        self.timing = True
        try:
            iterator = iter(batches)
            while True:
                self._request(self.clock.mark())
                try:
                    batch = next(iterator)
                except StopIteration:
                    self.endings.append((self.requested, self.clock.mark()))
                    return
                self.arrived(train)
                yield batch
        finally:
            self.timing = False

    def arrived(self, train: bool) -> None:
        "Note that a batch has arrived."
        hits, misses = self._reads()
        self.hits, self.misses = hits - self.before[0], misses - self.before[1]
        self.pending.append(_Pending(self.requested, self.clock.mark(), train, (self.hits, self.misses)))

    def done(self) -> None:
        "Note that the step is over, and that the next batch is being waited for."
        self._request(self.clock.mark())

    def _request(self, now: Any) -> None:
        self.requested = now
        if self.pending and self.pending[-1].finished is None:
            self.pending[-1].finished = now
        while self.pending and self.pending[0].finished is not None and self.clock.passed(self.pending[0].finished):
            self._close_step()

    def _close_step(self) -> None:
        batch = self.pending.popleft()
        wait = self.clock.seconds(batch.requested, batch.arrived)
        compute = self.clock.seconds(batch.arrived, batch.finished)
        self.steps.append(Step(wait, compute, batch.train, batch.hits, batch.misses))

    def end(self) -> Epoch:
        "End the epoch and return it; on a GPU, block until its last step is done."
        assert self.began is not None
        if self.pending and self.pending[-1].finished is None:  # no batch was requested after the last one
            self.pending[-1].finished = self.clock.mark()
        while self.pending:
            self._close_step()
        ending = sum(self.clock.seconds(first, last) for first, last in self.endings)
        self.epochs.append(Epoch(self.steps, time.perf_counter() - self.began, ending))
        self.began = None
        self._reset()
        return self.epochs[-1]

    def close(self) -> None:
        "End training and drop the data. If an epoch is running, keep the part that was timed."
        try:
            if self.running and (self.pending or self.steps):
                self.end()
            self.ended_warm = self._is_warm()
        finally:
            self.began = None
            self._reset()
            self.data, self.stores = None, []

    def ended(self) -> Watch:
        "Return a copy with the epochs so far, which times nothing."
        made = copy.copy(self)
        made.epochs, made.began = list(self.epochs), None
        if made.ended_warm is None:
            made.ended_warm = self._is_warm()
        made._reset()
        made.data, made.stores = None, []
        return made

    def _is_warm(self) -> bool:
        "Return whether at most a share of `WARM_MISSES` of the data is not cached now."
        known = False if self.data is None else self.data.nearly_cached(WARM_MISSES)
        if known is not None:
            return known
        last = self.epochs[-2:]
        return len(last) == 2 and _share_missed(last[0].steps[-1:], last[1].steps) <= WARM_MISSES

    def warm(self) -> Optional[float]:
        """Return when the cache became warm, in epochs: 0.0 is the start, 1.5 the middle of the second.

        After that point at most a share of `WARM_MISSES` of all reads were misses. None if no list is in memory, or if
        more than that share was still missing at the end.
        """
        steps = [step for epoch in self.epochs for step in epoch.steps]
        if not self.in_memory or not steps or not (self._is_warm() if self.ended_warm is None else self.ended_warm):
            return None
        times, reads, misses = [0.0], [0], [0]
        for i, epoch in enumerate(self.epochs):
            passed = 0.0
            for step in epoch.steps:
                passed += step.wait + step.compute
                times.append(i + min(1.0, passed / max(epoch.seconds, 1e-9)))
                reads.append(step.hits + step.misses)
                misses.append(step.misses)
            times[-1] = float(i + 1)
        if not reads[-1]:  # the lists open nothing
            return None
        return next(
            moment
            for moment, read, missed in zip(times, reads, misses)
            if misses[-1] - missed <= WARM_MISSES * (reads[-1] - read)
        )

    def _reads(self) -> Tuple[int, int]:
        counts = [store.reads() for store in self.stores]
        return sum(hits for hits, _ in counts), sum(misses for _, misses in counts)


def _share_missed(before: Sequence[Step], steps: Sequence[Step]) -> float:
    "Return the share of misses among the reads of `steps`, which followed the step in `before`."
    if not steps or not before:
        return 1.0
    hits, misses = steps[-1].hits - before[-1].hits, steps[-1].misses - before[-1].misses
    return misses / (hits + misses) if hits + misses else 1.0
