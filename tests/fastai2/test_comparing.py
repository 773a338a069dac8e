"""`compare`: both sides do the same work, take turns, and have no side effects."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Callable, Iterator, List

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from conftest import seed
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    ImageDataLoaders,
    Learner,
    RandomResizedCrop,
    RegressionBlock,
    nn,
)
from fastai2_pipelines import label, pictures

import memlist as m


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Any]:
    files = pictures(tmp_path / "images", 16)

    def make() -> Any:
        return ImageDataLoaders.from_path_func(
            tmp_path, files, label, valid_pct=0.25, seed=1, item_tfms=RandomResizedCrop(16), bs=3, num_workers=0
        )

    return make


def learner(dls: Any) -> Learner:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss())


def test_both_sides_do_the_same_work(make: Any, capsys: Any) -> None:
    found = m.compare(make, learner, epochs=3, show=False)
    stock, memory = found.runs
    assert (stock.name, memory.name) == ("fastai", "in_memory")
    assert stock.loss == memory.loss is not None  # the same models, batches and draws
    assert [len(run.epochs) for run in found.runs] == [3, 3]
    assert {len(epoch.steps) for run in found.runs for epoch in run.epochs} == {6}
    assert stock.warm is None and 0.5 < memory.warm <= 2.0
    said = capsys.readouterr().out
    assert "train_loss" not in said
    assert said.splitlines()[-1].startswith("compare: 6 epochs")


def test_a_script_prints_the_result(make: Any, capsys: Any) -> None:
    m.compare(make, learner, epochs=1)
    said = capsys.readouterr().out
    assert "times as fast" in said and "of that: waiting" in said
    assert not matplotlib.pyplot.get_fignums()
    kept = m.in_memory(make()).load_data(progress=False)
    assert kept.loaded and "warm, " in repr(m.compare(make, learner, epochs=1, show=False)).splitlines()[1]


def test_sides_take_turns(make: Any) -> None:
    order: List[str] = []

    class Note(Callback):
        def before_epoch(self) -> None:
            order.append(type(self.learn.dls.train).__name__)

    def noting(dls: Any) -> Learner:
        learn = learner(dls)
        learn.add_cb(Note())
        return learn

    m.compare(make, noting, epochs=2, show=False)
    assert order == ["TfmdDL", "MemoryTfmdDL"] * 2


def test_without_a_learner_all_time_is_waiting(make: Any) -> None:
    found = m.compare(make, epochs=2, show=False)
    assert [len(run.epochs[1].steps) for run in found.runs] == [6, 6]
    assert all(epoch.data_wait > 90 for run in found.runs for epoch in run.epochs)
    assert "loss" not in repr(found)


def test_more_sides_can_be_added(make: Any) -> None:
    also = {"batches=False": lambda: m.in_memory(make(), batches=False)}
    found = m.compare(make, learner, epochs=2, also=also, show=False)
    assert [run.name for run in found.runs] == ["fastai", "in_memory", "batches=False"]
    assert found.runs[0].loss == found.runs[2].loss
    figure = found.plot(return_fig=True)
    assert len(figure.axes) == 3 and found.plot() is None


def test_generators_are_left_as_they_were(make: Any) -> None:
    seed(3)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    seed(3)
    m.compare(make, learner, epochs=1, show=False)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted


def test_what_can_not_be_compared_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="are in memory already: please let it build"):
        m.compare(lambda: m.in_memory(make()), show=False)
    with pytest.raises(TypeError, match="fastai made a NoneType: please let it return DataLoaders"):
        m.compare(lambda: None, show=False)
    arrays = DataBlock((RegressionBlock, CategoryBlock), get_x=lambda i: i / 2, get_y=lambda i: i % 2)
    warned = pytest.warns(UserWarning, match="nothing is kept in memory")
    with warned, pytest.raises(TypeError, match="can't be kept in memory"):
        m.compare(lambda: arrays.dataloaders(list(range(8)), bs=2, num_workers=0), show=False)
    for epochs in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="use a number of epochs"):
            m.compare(make, epochs=epochs, show=False)  # type: ignore[arg-type]


def test_data_in_the_place_of_a_function_is_refused(make: Any) -> None:
    wanted = r"takes a function that builds the data, .* this is a DataLoaders: please write compare\(lambda: Image"
    with pytest.raises(TypeError, match=wanted):
        m.compare(make())


def test_the_table_says_how_much_is_in_memory_if_not_all_is(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from memlist.fastai2 import comparing

    monkeypatch.setattr(comparing, "in_memory", lambda dls: m.in_memory(dls, max_ram=6000))
    with pytest.warns(UserWarning, match="there is no room for all of them"):
        found = m.compare(make, epochs=2, show=False)
    cached, total = found.runs[1].cached
    assert found.runs[0].cached is None and 0 <= cached < total and f"{cached} of {total}" in repr(found)
