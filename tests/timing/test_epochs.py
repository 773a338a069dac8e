"""`Watch` assigns seconds and reads to the right step, and needs no front end."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Iterator, List, Optional, Tuple

import matplotlib.pyplot
import pytest
import torch

from memlist.timing import clocks
from memlist.timing.clocks import CudaClock, HostClock, clock_for
from memlist.timing.epochs import Epoch, Step, Watch
from memlist.timing.plot import draw_epochs


class Counts:
    "Stand in for a store: it counts the reads that a test makes."

    hits = misses = 0

    def reads(self) -> Tuple[int, int]:
        return self.hits, self.misses


class Data:
    "Stand in for a front end's data."

    def __init__(self, *stores: Counts, device: str = "cpu", cached: Optional[bool] = False) -> None:
        self.stores, self.device, self.cached = stores, torch.device(device), cached

    def nearly_cached(self, most_missing: float) -> Optional[bool]:
        return self.cached


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[float]]:
    "Replace the clock by a number that only the test changes."
    now = [0.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    yield now


def run(watch: Watch, now: List[float], store: Counts, reads: Any) -> Epoch:
    "Time an epoch of one batch per pair of hits and misses: one second of waiting each, then two of computing."

    def batches() -> Iterator[int]:
        for i, (hits, misses) in enumerate(reads):
            now[0] += 1.0
            store.hits += hits
            store.misses += misses
            yield i

    watch.begin()
    for _ in watch.timed(batches(), True):
        now[0] += 2.0
    return watch.end()


def test_seconds_and_reads_go_to_their_step(now: List[float]) -> None:
    store = Counts()
    watch = Watch(Data(store, store))  # the reads of all stores are summed
    epoch = run(watch, now, store, [(0, 3), (2, 1)])
    assert epoch.steps == [Step(1.0, 2.0, True, 0, 6), Step(1.0, 2.0, True, 4, 8)]
    assert (epoch.seconds, epoch.wait, epoch.compute) == (6.0, 2.0, 4.0)
    assert epoch.data_wait == pytest.approx(100 / 3)
    store.hits += 100  # by another reader, between two epochs
    assert run(watch, now, store, [(3, 0)]).steps == [Step(1.0, 2.0, True, 10, 8)]


def test_a_loader_within_a_step_is_part_of_it(now: List[float]) -> None:
    watch = Watch(Data())
    watch.begin()
    for _ in watch.timed(range(2), True):
        assert list(watch.timed(range(5), False)) == list(range(5))
    assert [step.train for step in watch.end().steps] == [True] * 2
    assert list(watch.timed(range(3), True)) == [0, 1, 2] and len(watch.epochs) == 1  # no epoch runs


def test_an_epoch_without_steps_and_seconds(now: List[float]) -> None:
    watch = Watch(Data())
    watch.begin()
    assert watch.end() == Epoch([], 0.0) and watch.epochs[0].data_wait == 0.0
    assert watch.warm() is None


def test_the_end_of_a_loader_counts_as_waiting(now: List[float]) -> None:
    def batches() -> Iterator[int]:
        yield 1
        now[0] += 5.0  # workers end

    watch = Watch(Data())
    watch.begin()
    for _ in watch.timed(batches(), True):
        now[0] += 2.0
    epoch = watch.end()
    assert (epoch.ending, epoch.wait, epoch.compute) == (5.0, 5.0, 2.0)


def test_an_epoch_that_is_interrupted_is_kept(now: List[float]) -> None:
    watch = Watch(Data(Counts()))
    watch.begin()
    batches = watch.timed(range(3), True)
    next(batches)
    next(batches)
    watch.close()
    assert len(watch.epochs[0].steps) == 2 and not watch.running and watch.data is None


FILLS, HITS = [(0, 3)] * 4, [(3, 0)] * 4


@pytest.mark.parametrize(
    ("epochs", "cached", "wanted"),
    [
        ([FILLS, HITS], True, 1.0),
        ([HITS, HITS], True, 0.0),
        ([FILLS, HITS], None, 1.0),  # the last epoch missed nothing
        ([FILLS, FILLS], None, None),
        ([FILLS], None, None),  # unknown after one epoch
        ([FILLS, HITS], False, None),
        ([FILLS[:2] + HITS[:2], HITS], True, 0.5),
        ([[(0, 0)] * 4], True, None),  # opens nothing
    ],
)
def test_when_the_cache_became_warm(now: List[float], epochs: Any, cached: Optional[bool], wanted: Any) -> None:
    store = Counts()
    watch = Watch(Data(store, cached=cached))
    for reads in epochs:
        run(watch, now, store, reads)
    assert watch.warm() == wanted
    watch.close()
    assert watch.warm() == wanted  # without the data


def test_data_without_a_store_is_never_warm(now: List[float]) -> None:
    watch = Watch(Data(cached=True))
    run(watch, now, Counts(), HITS)
    assert watch.warm() is None and not watch.in_memory


# -- clocks -------------------------------------------------------------------------------------------------------


class Event:
    "Stand in for a GPU's event: the GPU passes it when the test says so."

    made: ClassVar[List[Event]] = []
    gpu, waited = 0.0, 0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at, self.known = 0.0, False
        Event.made.append(self)

    def record(self, stream: Any) -> None:
        assert stream == "the stream of cuda:1"
        Event.gpu += 1.5
        self.at = Event.gpu

    def query(self) -> bool:
        return self.known

    def synchronize(self) -> None:
        Event.waited += 1
        for event in Event.made[: Event.made.index(self) + 1]:
            event.known = True

    def elapsed_time(self, other: Event) -> float:
        assert self.known and other.known, "an event that has not passed has no time"
        return 1000 * (other.at - self.at)


def test_on_a_gpu_nothing_is_synchronised_before_the_epoch_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Event.made, Event.gpu, Event.waited = [], 0.0, 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    watch = Watch(Data(device="cuda:1"))
    watch.begin()
    batches = watch.timed(range(5), True)
    for i in batches:
        assert Event.waited == 0
        if i == 3:  # the GPU has finished the second step
            for event in Event.made[:6]:
                event.known = True
    assert Event.waited == 0 and len(watch.steps) == 2
    epoch = watch.end()
    assert [(step.wait, step.compute) for step in epoch.steps] == [(1.5, 1.5)] * 5
    assert epoch.ending == 1.5
    copy.deepcopy(watch)  # it holds no event: events can't be copied


def test_a_gpu_clock_is_used_only_if_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert type(clock_for(torch.device("cuda"))) is HostClock
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert type(clock_for(torch.device("cuda"))) is CudaClock
    assert type(clock_for(torch.device("cpu"))) is HostClock


# -- the plot -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("warm", "place"), [(0.0, -0.5), (1.0, 0.5), (1.25, 0.8), (1.5, 1.0)])
def test_a_line_marks_when_the_cache_became_warm(warm: float, place: float) -> None:
    axes = matplotlib.pyplot.figure().add_subplot()
    draw_epochs(axes, [Epoch([Step(1.0, 3.0, True, 0, 0)], 4.0)] * 3, warm)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(place)
    assert [text.get_text() for text in axes.texts] == ["25 %"] * 3
    matplotlib.pyplot.close("all")


def test_many_epochs_are_drawn_without_percentages() -> None:
    axes = matplotlib.pyplot.figure().add_subplot()
    draw_epochs(axes, [Epoch([], 1.0)] * 13)
    assert not axes.texts and not axes.lines
    matplotlib.pyplot.close("all")
