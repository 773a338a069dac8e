"""`compare`: both sides do the same work, take turns, and have no side effects."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any, Iterator, List

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from conftest import seed
from fastai.basic_train import Learner
from fastai.callback import Callback
from fastai.metrics import accuracy
from fastai.vision import ImageDataBunch, ImageList, SegmentationItemList, get_transforms, simple_cnn
from fastai.vision.gan import GANItemList

import memlist as m
from memlist.timing.comparison import Run
from memlist.timing.epochs import Epoch, Step


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def make(photos: Path) -> Any:
    def make(cls: Any, **kwargs: Any) -> Any:
        lists = cls.from_folder(photos, presort=True).split_by_rand_pct(0.25, seed=1).label_from_folder()
        return lists.transform(get_transforms(), size=16).databunch(bs=3, num_workers=0, **kwargs)

    return make


def learner(data: Any) -> Learner:
    return Learner(data, simple_cnn((3, 4, data.c)), metrics=accuracy)


def test_both_sides_do_the_same_work(make: Any, capsys: Any) -> None:
    found = m.compare(make, learner, epochs=3, show=False)
    stock, memory = found.runs
    assert (stock.name, memory.name) == ("ImageList", "MemoryImageList")
    assert stock.loss == memory.loss is not None  # the same models, batches and draws
    assert [len(run.epochs) for run in found.runs] == [3, 3]
    assert {len(epoch.steps) for run in found.runs for epoch in run.epochs} == {8}
    assert stock.warm is None and 0.5 < memory.warm <= 1.0
    said = capsys.readouterr().out
    assert "train_loss" not in said and "█" not in said
    assert said.splitlines()[-1].startswith("compare: 6 epochs")


def test_a_script_prints_the_result(make: Any, capsys: Any) -> None:
    m.compare(make, learner, epochs=1)
    said = capsys.readouterr().out
    assert "times as fast" in said and "of that: waiting" in said
    assert not matplotlib.pyplot.get_fignums()
    data = make(m.MemoryImageList).load_data(progress=False)
    assert data.loaded and "warm, " in repr(m.compare(make, learner, epochs=1, show=False)).splitlines()[1]


def test_sides_take_turns(make: Any) -> None:
    order: List[str] = []

    class Note(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch_begin(self, **kwargs: Any) -> None:
            order.append(self.name)

    def noting(data: Any) -> Learner:
        learn = learner(data)
        learn.callbacks.append(Note(type(data.train_ds.x).__name__))
        return learn

    m.compare(make, noting, epochs=2, show=False)
    assert order == ["ImageList", "MemoryImageList"] * 2


def test_without_a_learner_all_time_is_waiting(make: Any) -> None:
    found = m.compare(make, epochs=2, show=False)
    assert [len(run.epochs[1].steps) for run in found.runs] == [8, 8]
    assert all(epoch.data_wait > 90 for run in found.runs for epoch in run.epochs)
    assert "loss" not in repr(found)


def test_more_sides_can_be_added(make: Any) -> None:
    also = {"batch_tfms=True": lambda: make(m.MemoryImageList, batch_tfms=True)}
    found = m.compare(make, learner, epochs=2, also=also)
    assert [run.name for run in found.runs] == ["ImageList", "MemoryImageList", "batch_tfms=True"]
    assert found.runs[2].warm == 0.0  # reads of the side before it are not counted
    assert found.runs[0].loss == pytest.approx(found.runs[2].loss, abs=1e-3)


def test_other_classes_can_be_compared(photos: Path) -> None:
    def targets(cls: Any) -> Any:
        noise = GANItemList.from_folder(photos, noise_sz=4, presort=True).split_none()
        return noise.label_from_func(lambda o: o, label_cls=cls).transform(size=16, tfm_y=True).databunch(bs=4)

    found = m.compare(targets, epochs=1, classes=(ImageList, m.MemoryImageLabelList), show=False)
    assert [run.name for run in found.runs] == ["ImageList", "MemoryImageLabelList"]

    def masks(cls: Any) -> Any:
        lists = cls.from_folder(photos).split_by_idx([0, 1, 2]).label_from_func(lambda o: o, classes=["a", "b"])
        return lists.transform(size=16, tfm_y=True).databunch(bs=4, num_workers=0)

    m.compare(masks, epochs=1, classes=(SegmentationItemList, m.MemorySegmentationItemList), show=False)


def test_data_bunches_can_be_compared(photos: Path) -> None:
    def make(cls: Any) -> Any:
        return cls.from_folder(photos, valid_pct=0.25, seed=1, size=16, bs=3, num_workers=2)

    found = m.compare(make, epochs=1, classes=(ImageDataBunch, m.MemoryImageDataBunch), show=False)
    assert all(epoch.data_wait > 90 for run in found.runs for epoch in run.epochs)  # workers end while it waits


def test_generators_are_left_as_they_were(make: Any) -> None:
    seed(3)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    seed(3)
    m.compare(make, learner, epochs=1, show=False)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted


def test_a_function_that_ignores_its_class_is_refused(make: Any) -> None:
    with pytest.raises(TypeError, match="made with MemoryImageList holds no in-memory list: please build it with"):
        m.compare(lambda cls: make(ImageList), show=False)
    with pytest.raises(TypeError, match="made with ImageList holds an in-memory list"):
        m.compare(lambda cls: make(m.MemoryImageList), show=False)
    with pytest.raises(TypeError, match="ImageList made a NoneType: please let it return a DataBunch"):
        m.compare(lambda cls: None, show=False)
    for epochs in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="use a number of epochs"):
            m.compare(make, epochs=epochs, show=False)  # type: ignore[arg-type]


def runs(*seconds: Any) -> m.Comparison:
    "Return a comparison of sides whose epochs took these seconds, one second of it computing."
    made = []
    for i, side in enumerate(seconds):
        epochs = [Epoch([Step(s - 1.0, 1.0, True, 0, 0)], s) for s in side]
        made.append(Run(f"side {i}", epochs, 1.0 if i else None, 0.25))
    return m.Comparison(made)


def test_the_table_and_the_plot_show_the_same_figures() -> None:
    found = runs([10.0, 8.0, 9.0, 7.0], [11.0, 2.0, 4.0, 2.0])
    lines = [line.split() for line in repr(found).splitlines()]
    assert lines[1] == ["first", "epoch", "10.00", "s", "11.00", "s"]
    assert lines[2] == ["later", "epochs,", "median", "8.00", "s", "2.00", "s"]
    assert lines[3] == ["of", "that:", "waiting", "7.00", "s", "1.00", "s"]
    assert lines[4] == ["per", "cent", "88", "%", "50", "%"]
    assert lines[5] == ["4.0", "times", "as", "fast"]
    axes = found.plot(return_fig=True).axes
    assert [ax.get_title() for ax in axes] == ["side 0", "side 1\n4.0 times as fast"]
    assert [[bar.get_height() for bar in ax.containers[1]] for ax in axes] == [
        [9.0, 7.0, 8.0, 6.0],
        [10.0, 1.0, 3.0, 1.0],
    ]
    assert [len(ax.lines) for ax in axes] == [0, 1] and axes[0].get_ylim() == axes[1].get_ylim()
    assert sum(ax.get_legend() is not None for ax in axes) == 1
    for text in ("4.0 times as fast", "first epoch", "11.00 s"):
        assert text in found._repr_html_()


def test_one_epoch_has_no_median_and_names_are_escaped() -> None:
    found = runs([2.0], [1.0])
    assert "later" not in repr(found) and "2.0 times as fast" in repr(found)
    found.runs[0] = found.runs[0]._replace(name="<b>")
    assert "<b>" not in found._repr_html_()
