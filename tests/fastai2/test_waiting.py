"""`DataWait` tells waiting from computing, adds a column to the table, and leaves the learner unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List

import matplotlib.pyplot
import pytest
from conftest import seed
from fastai.vision.all import (
    Callback,
    CancelEpochException,
    CancelFitException,
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageDataLoaders,
    Learner,
    Resize,
    TfmdDL,
    accuracy,
    nn,
)
from fastai2_pipelines import label, pictures

import memlist as m
from memlist.fastai2.waiting import TimedLoader, TimedLoaders
from memlist.timing import clocks


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    return pictures(tmp_path_factory.mktemp("waiting") / "images", 16)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    matplotlib.pyplot.close("all")


def loaders(files: List[Path], **kwargs: Any) -> DataLoaders:
    "Return data with four batches of three for training and one of four for validation."
    given = {"item_tfms": Resize(16), "bs": 3, "valid_pct": 0.25, "seed": 1, "num_workers": 0, "device": "cpu"}
    seed(0)  # a loader draws its own generator from Python's
    path = kwargs.pop("path", files[0].parent)
    return ImageDataLoaders.from_path_func(path, files, label, **{**given, **kwargs})


def learner(dls: DataLoaders, **kwargs: Any) -> Learner:
    seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), metrics=accuracy, **kwargs)


class Hands:
    "A clock that moves only when the test moves it."

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    hands = Hands()
    monkeypatch.setattr(clocks.time, "perf_counter", hands)
    return hands


class Working(Callback):
    "Stand in for a model and callbacks: take the given seconds at each event."

    def __init__(self, hands: Hands, **seconds: float) -> None:
        self.hands, self.seconds = hands, seconds

    def __call__(self, event_name: str) -> Any:
        self.hands.now += self.seconds.get(event_name, 0.0)
        return super().__call__(event_name)


def moving(hands: Hands, dls: DataLoaders, seconds: float) -> None:
    "Make every batch take this many seconds."
    for dl in dls.loaders:

        def after(batch: Any, stock: Any = dl.after_batch) -> Any:
            hands.now += seconds
            return stock(batch)

        dl.after_batch = after


def test_every_second_counts_as_waiting_or_computing(files: List[Path], hands: Hands) -> None:
    dls = loaders(files)
    moving(hands, dls, 6.0)
    learn, wait = learner(dls), m.DataWait()
    others = Working(hands, before_batch=0.25, after_pred=4.0, after_batch=0.75)
    learn.fit(2, cbs=[others, wait])
    assert len(wait.epochs) == 2
    for epoch in wait.epochs:
        assert [step.train for step in epoch.steps] == [True] * 4 + [False] * 2
        assert [step.wait for step in epoch.steps] == [6.0] * 6
        assert [step.compute for step in epoch.steps] == [5.0] * 6
        assert epoch.wait == 36.0 and epoch.compute == 30.0 and epoch.seconds == 66.0
    assert list(learn.recorder.metric_names) == ["epoch", "train_loss", "valid_loss", "accuracy", "data_wait", "time"]
    assert [values[-1] for values in learn.recorder.values] == [54.5, 54.5]


def test_a_learner_trains_as_without_it(files: List[Path]) -> None:
    alone, timed = learner(m.in_memory(loaders(files))), learner(m.in_memory(loaders(files)))
    seed(3)
    alone.fit(2)
    seed(3)
    timed.fit(2, cbs=m.DataWait())
    assert alone.recorder.losses == timed.recorder.losses
    assert [v[:3] for v in timed.recorder.values] == [v[:3] for v in alone.recorder.values]


def test_the_table_has_a_column(files: List[Path], capsys: Any) -> None:
    learn = learner(loaders(files))
    written: List[Any] = []

    class Table(Callback):
        order = 61  # after the progress bar, which shows what is written

        def before_fit(self) -> None:
            written.append(list(self.learn.recorder.metric_names))
            self.learn.logger = written.append

    learn.fit(1, cbs=[Table(), m.DataWait()])
    names, row = written
    assert len(names) == len(row) and names[-2] == "data_wait" and 0 <= row[-2] <= 100


def test_other_callbacks_meet_a_loader(files: List[Path]) -> None:
    dls = loaders(files)
    seen: List[Any] = []

    class Look(Callback):
        def after_batch(self) -> None:
            seen.append(type(self.learn.dl))
            assert (isinstance(self.learn.dl, TfmdDL) and self.learn.dl.bs == 3) or not self.learn.training
            assert len(self.learn.dl) == self.learn.n_iter

    learn = learner(dls)
    learn.fit(1, cbs=[Look(), m.DataWait(), Look()])
    assert set(seen) == {TimedLoader}
    assert [type(dl) for dl in dls.loaders] == [TfmdDL, TfmdDL] and learn.dl is None


def test_validation_and_predictions_are_not_timed(files: List[Path]) -> None:
    wait = m.DataWait()
    learn = learner(loaders(files), cbs=wait)
    assert len(learn.validate()) == 2 and not wait.epochs
    learn.fit(1)
    assert learn.data_wait is wait and len(wait.epochs) == 1
    assert len(learn.validate()) == 2
    learn.get_preds()
    assert len(wait.epochs) == 1 and list(learn.recorder.metric_names).count("data_wait") == 0
    learn.fit(2)
    assert len(wait.epochs) == 2  # anew


def test_a_validation_in_the_middle_of_a_fit_counts_as_computing(files: List[Path], hands: Hands) -> None:
    dls = loaders(files)
    moving(hands, dls, 1.0)

    class Validating(Callback):
        order = 99

        def after_train(self) -> None:
            self.learn.validate()

    learn, wait = learner(dls), m.DataWait()
    learn.fit(2, cbs=[Validating(), wait])
    assert [epoch.wait for epoch in wait.epochs] == [6.0, 6.0]
    assert [epoch.compute for epoch in wait.epochs] == [2.0, 2.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CancelFitException, CancelEpochException])
def test_an_interrupted_fit_keeps_what_was_timed(files: List[Path], error: Any) -> None:
    class Stop(Callback):
        def after_batch(self) -> None:
            if self.learn.train_iter == 5:
                raise error

    learn, wait = learner(loaders(files)), m.DataWait()
    if error is KeyboardInterrupt:
        with pytest.raises(error):
            learn.fit(2, cbs=[wait, Stop()])
    else:
        learn.fit(2, cbs=[wait, Stop()])
    assert [len(epoch.steps) for epoch in wait.epochs] == [6, 1]
    assert "data_wait" in repr(wait)
    learn.fit(1, cbs=wait)
    assert [len(epoch.steps) for epoch in wait.epochs] == [6]


def test_when_the_cache_is_warm(files: List[Path], tmp_path: Path) -> None:
    learn, wait = learner(loaders(files)), m.DataWait()
    learn.fit(2, cbs=wait)
    assert wait.warm is None  # nothing is in memory
    learn = learner(m.in_memory(loaders(files, path=tmp_path)))
    learn.fit(3, cbs=wait)
    assert 0.5 < wait.warm <= 2.0  # each epoch leaves no image out
    learn = learner(m.in_memory(loaders(files)).load_data(progress=False))
    learn.fit(1, cbs=wait)
    assert wait.warm == 0.0


def test_what_only_user_code_opens_is_not_asked(files: List[Path]) -> None:
    asked: List[Any] = []

    def opened(item: Any) -> Path:
        asked.append(item)
        return files[int(item)]

    block = DataBlock((m.MemoryImageBlock(), CategoryBlock), get_x=opened, get_y=lambda i: i % 2, item_tfms=Resize(16))
    dls = block.dataloaders(list(range(16)), bs=4, num_workers=0, device="cpu")
    asked.clear()
    assert TimedLoaders(dls).nearly_cached(0.05) is None and not asked
    dls.load_data(progress=False)
    asked.clear()
    assert TimedLoaders(dls).nearly_cached(0.05) is True and not asked


def test_the_plot(files: List[Path]) -> None:
    wait = m.DataWait()
    with pytest.raises(ValueError, match="has seen no epoch yet: please run `learn"):
        wait.plot()
    learner(loaders(files)).fit(2, cbs=wait)
    figure = wait.plot(return_fig=True)
    computing, waiting = figure.axes[0].containers
    assert [bar.get_height() for bar in waiting] == [epoch.wait for epoch in wait.epochs]
    assert [bar.get_height() for bar in computing] == [epoch.compute for epoch in wait.epochs]
    axes = matplotlib.pyplot.subplots()[1]
    assert wait.plot(axes) is None and axes.containers


def test_an_exported_learner_needs_no_memlist(files: List[Path], tmp_path: Path) -> None:
    learn = learner(m.in_memory(loaders(files)), cbs=m.DataWait())
    learn.fit(1)
    learn.path = tmp_path
    learn.export("learner.pkl")
    code = (
        "import sys; sys.modules['memlist'] = None\n"
        "from fastai.vision.all import load_learner\n"
        "def label(path): pass\n"
        f"learn = load_learner({str(tmp_path / 'learner.pkl')!r})\n"
        f"print(learn.predict({str(files[0])!r})[0], [type(cb).__name__ for cb in learn.cbs])\n"
    )
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "Callback" in done.stdout and "DataWait" not in done.stdout
