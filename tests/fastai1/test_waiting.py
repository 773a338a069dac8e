"""`DataWait` tells waiting from computing, adds a column to the table, and leaves the learner unchanged."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import warnings
import weakref
from pathlib import Path
from typing import Any, ClassVar, Iterator, List

import fresh
import matplotlib.pyplot
import pytest
from conftest import WITHOUT_MEMLIST, seed
from fastai.basic_train import Learner
from fastai.callback import Callback
from fastai.callbacks import CSVLogger, SaveModelCallback
from fastai.data_block import DatasetType
from fastai.metrics import accuracy
from fastai.vision import ImageList, simple_cnn

import memlist as m
from memlist.fastai1.waiting import TimedBunch
from memlist.timing import clocks
from memlist.timing.epochs import Epoch, Step, Watch


def bunch(photos: Path, cls: Any = m.MemoryImageList, valid: float = 0.25, **kwargs: Any) -> Any:
    "Return data with six batches of three for training and two for validation."
    lists = cls.from_folder(photos, presort=True, **kwargs)
    lists = (lists.split_by_rand_pct(valid, seed=1) if valid else lists.split_none()).label_from_folder()
    return lists.transform(size=16).databunch(bs=3, num_workers=0)


def learner(data: Any, **kwargs: Any) -> Learner:
    seed()
    return Learner(data, simple_cnn((3, 4, data.c)), metrics=accuracy, **kwargs)


@pytest.fixture(autouse=True)
def quiet(capsys: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    matplotlib.pyplot.close("all")


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


def moving(hands: Hands, data: Any, seconds: float) -> None:
    "Make every image of `data` take this many seconds."
    for ds in (data.train_ds, data.valid_ds):
        stock = type(ds.x).get

        def get(i: int, x: Any = ds.x, stock: Any = stock) -> Any:
            hands.now += seconds
            return stock(x, i)

        ds.x.get = get


class Working(Callback):
    "Stand in for a model and callbacks: take the given seconds at each event."

    def __init__(self, hands: Hands, **seconds: float) -> None:
        self.hands, self.seconds = hands, seconds

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda **kwargs: setattr(self.hands, "now", self.hands.now + self.seconds.get(name[3:], 0.0))


# -- what is waiting and what is not ------------------------------------------------------------------------------


def test_every_second_counts_as_waiting_or_computing(photos: Path, hands: Hands) -> None:
    data = bunch(photos, ImageList)
    moving(hands, data, 2.0)
    learn = learner(data)
    others = Working(hands, epoch_begin=100.0, batch_begin=0.25, loss_begin=4.0, batch_end=0.75)
    learn.fit(2, callbacks=[others, m.DataWait(learn)])
    assert len(learn.data_wait.epochs) == 2
    for epoch in learn.data_wait.epochs:
        assert [step.train for step in epoch.steps] == [True] * 6 + [False] * 2
        assert [step.wait for step in epoch.steps] == [6.0] * 8  # three images of two seconds
        assert [step.compute for step in epoch.steps] == [5.0] * 8  # time in other callbacks is no waiting
        assert epoch.wait == 48.0 and epoch.compute == 140.0 and epoch.seconds == 188.0
        assert epoch.data_wait == pytest.approx(100 * 48 / 188)
    assert learn.recorder.names == ["epoch", "train_loss", "valid_loss", "accuracy", "data_wait", "time"]
    assert [metrics[-1] for metrics in learn.recorder.metrics] == [25.5, 25.5]


def test_loaders_are_restored_after_a_fit(photos: Path) -> None:
    data = bunch(photos)
    loaders = data.train_dl, data.valid_dl
    classes, states = [type(loader) for loader in loaders], [set(vars(loader)) for loader in loaders]

    class Look(Callback):
        def on_batch_end(self, iteration: int, **kwargs: Any) -> None:
            assert isinstance(data.train_dl, classes[0]) and len(data.train_dl) == 6
            if iteration == 9:
                raise RuntimeError

    learn = learner(data)
    ours = [m.DataWait(learn), m.DataWait(learn)]
    with pytest.raises(RuntimeError):
        learn.fit(3, callbacks=[*ours, Look()])
    assert (data.train_dl, data.valid_dl) == loaders
    assert [type(loader) for loader in loaders] == classes
    assert [set(vars(loader)) for loader in loaders] == states
    assert [len(one.epochs[0].steps) for one in ours] == [8, 8]


def test_a_loader_replaced_during_a_fit_is_timed_by_callbacks(photos: Path, hands: Hands) -> None:
    data, other = bunch(photos, ImageList), bunch(photos, ImageList)
    moving(hands, other, 2.0)

    class Replace(Callback):
        def on_epoch_begin(self, **kwargs: Any) -> None:
            learn.data = other

    learn = learner(data)
    learn.fit(1, callbacks=[Replace(), Working(hands, loss_begin=4.0), m.DataWait(learn)])
    assert [step.wait for step in learn.data_wait.epochs[0].steps] == [6.0] * 8
    assert [step.compute for step in learn.data_wait.epochs[0].steps] == [4.0] * 8


def test_batches_of_batch_tfms_are_timed(photos: Path) -> None:
    lists = m.MemoryImageList.from_folder(photos).split_by_rand_pct(0.25, seed=1).label_from_folder()
    data = lists.transform(size=16).databunch(bs=3, batch_tfms=True, device="cpu")
    learn = learner(data)
    learn.fit(1, callbacks=[m.DataWait(learn)])
    assert len(learn.data_wait.epochs[0].steps) == 8 and learn.data_wait.epochs[0].wait > 0


def test_with_workers_only_the_wait_of_the_model_counts(photos: Path) -> None:
    lists = m.MemoryImageList.from_folder(photos).split_by_rand_pct(0.25, seed=1).label_from_folder()
    learn = learner(lists.transform(size=16).databunch(bs=3, num_workers=2))
    learn.fit(2, callbacks=[m.DataWait(learn)])
    for epoch in learn.data_wait.epochs:
        assert len(epoch.steps) == 8
        assert 0 < epoch.wait < epoch.seconds
        assert epoch.steps[0].wait > 0  # the start of the workers counts as waiting


def test_data_wait_does_not_change_training(photos: Path) -> None:
    losses: List[Any] = []
    for watched in (False, True):
        learn = learner(bunch(photos))
        seed(1)
        learn.fit(2, callbacks=[m.DataWait(learn)] if watched else [])
        losses.append([loss.item() for loss in learn.recorder.losses])
        losses[-1] += [float(loss) for loss in learn.recorder.val_losses]
    assert losses[0] == losses[1]


# -- the table and other callbacks --------------------------------------------------------------------------------


def test_columns_keep_their_order_without_validation(photos: Path) -> None:
    learn = learner(bunch(photos, valid=0))
    learn.fit(1, callbacks=[m.DataWait(learn)])
    assert learn.recorder.names[3:5] == ["accuracy", "data_wait"]
    assert learn.recorder.metrics[0][0] is None and 0 <= learn.recorder.metrics[0][1] <= 100


def test_callbacks_that_read_the_table_still_work(photos: Path, tmp_path: Path) -> None:
    learn = learner(bunch(photos), path=tmp_path)
    callbacks = [SaveModelCallback(learn, monitor="accuracy"), CSVLogger(learn), m.DataWait(learn)]
    learn.fit(2, callbacks=callbacks)
    table = learn.csv_logger.read_logged_file()
    assert list(table.columns) == ["epoch", "train_loss", "valid_loss", "accuracy", "data_wait", "time"]
    assert table["data_wait"].between(0, 100).all() and table["accuracy"].between(0, 1).all()
    learn.recorder.plot_metrics()
    learn.recorder.plot_losses()


def test_other_callbacks_may_add_columns(photos: Path) -> None:
    class Two(Callback):
        _order = -20

        def on_train_begin(self, **kwargs: Any) -> None:
            learn.recorder.add_metric_names(["two"])

        def on_epoch_end(self, last_metrics: Any, **kwargs: Any) -> Any:
            return {"last_metrics": [*last_metrics, 2.0]}

    for first in (True, False):
        learn = learner(bunch(photos))
        ours = m.DataWait(learn)
        learn.fit(1, callbacks=[ours, Two()] if first else [Two(), ours])
        row = dict(zip(learn.recorder.names[3:], learn.recorder.metrics[0]))
        assert row["two"] == 2.0 and row["data_wait"] == round(ours.epochs[0].data_wait, 1)


def test_validation_and_prediction_outside_a_fit_are_not_timed(photos: Path) -> None:
    stock, learn = learner(bunch(photos)), learner(bunch(photos))
    learn.callbacks.append(m.DataWait(learn))
    learn.fit(1)
    stock.model = learn.model
    assert len(learn.validate()) == len(stock.validate()) == 2
    learn.get_preds(ds_type=DatasetType.Valid)
    learn.predict(learn.data.valid_ds[0][0])
    assert len(learn.data_wait.epochs) == 1 and len(learn.data_wait.epochs[0].steps) == 8


def test_validation_within_a_step_is_part_of_the_step(photos: Path) -> None:
    class Validate(Callback):
        def on_train_begin(self, **kwargs: Any) -> None:
            self.recorder = learn.recorder  # which get_preds replaces

        def on_batch_end(self, iteration: int, train: bool, **kwargs: Any) -> None:
            if train and iteration % 5 == 0:
                learn.validate()
                learn.get_preds()

        def on_epoch_end(self, **kwargs: Any) -> None:
            learn.validate()

    learn = learner(bunch(photos))
    learn.callbacks.append(m.DataWait(learn))
    validate = Validate()
    learn.fit(3, callbacks=[validate])
    assert [len(epoch.steps) for epoch in learn.data_wait.epochs] == [8, 8, 8]
    assert [len(metrics) for metrics in validate.recorder.metrics] == [2, 2, 2]


def test_a_fit_without_a_validation_loader_is_timed(photos: Path) -> None:
    data = bunch(photos)
    data.valid_dl = None
    learn = learner(data)
    learn.fit(1, callbacks=[m.DataWait(learn)])
    assert len(learn.data_wait.epochs[0].steps) == 6 and data.cache_info().total == 18


def test_data_wait_does_not_keep_the_data(photos: Path) -> None:
    learn = learner(bunch(photos))
    learn.fit(1, callbacks=[m.DataWait(learn)])
    store = weakref.ref(learn.data.train_ds.x.store)
    learn.data, ours = bunch(photos, ImageList), learn.data_wait
    learn.fit(1)  # the recorder keeps its loader until then
    gc.collect()
    assert store() is None and ours.warm == 1.0


def test_a_learner_can_be_copied_after_a_fit(photos: Path) -> None:
    learn = learner(bunch(photos))
    learn.callbacks.append(m.DataWait(learn))
    learn.fit(1)
    copy.deepcopy(learn)


def test_data_wait_does_not_call_get_again(photos: Path) -> None:
    class Own(ImageList):
        calls: ClassVar[List[int]] = []

        def get(self, i: int) -> Any:
            self.calls.append(i)
            return super().get(i)

    class MemoryOwn(m.InMemory, Own):
        pass

    calls = []
    for watched in (False, True):
        learn = learner(bunch(photos, MemoryOwn))
        learn.data.purge()
        Own.calls.clear()
        learn.fit(2, callbacks=[m.DataWait(learn)] if watched else [])
        assert not watched or 0.5 < learn.data_wait.warm <= 1.0
        calls.append(len(Own.calls))
    assert calls[0] == calls[1]


def test_lr_find_is_not_counted_in_the_next_fit(photos: Path, tmp_path: Path) -> None:
    learn = learner(bunch(photos), path=tmp_path, callback_fns=[m.DataWait])
    learn.lr_find(num_it=3)
    learn.fit(2)
    assert len(learn.data_wait.epochs) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_steps_of_an_interrupted_epoch_are_kept(photos: Path, error: type) -> None:
    class Stop(Callback):
        def on_batch_end(self, iteration: int, train: bool, **kwargs: Any) -> None:
            if train and iteration == 9:
                raise error

    learn = learner(bunch(photos))
    with pytest.raises(error):
        learn.fit(3, callbacks=[m.DataWait(learn), Stop()])
    assert [len(epoch.steps) for epoch in learn.data_wait.epochs] == [8, 4]
    learn.data_wait.plot()


# -- when the cache became warm -----------------------------------------------------------------------------------


def test_warm_after_the_first_epoch_that_fills(photos: Path) -> None:
    learn = learner(bunch(photos))
    learn.fit(3, callbacks=[m.DataWait(learn)])
    assert 0.5 < learn.data_wait.warm <= 1.0


def test_warm_from_the_start_after_load_data(photos: Path) -> None:
    learn = learner(bunch(photos).load_data(progress=False))
    learn.fit(2, callbacks=[m.DataWait(learn)])
    assert learn.data_wait.warm == 0.0


def test_one_epoch_that_fills_everything_ends_warm(photos: Path) -> None:
    data = bunch(photos)
    data.add_test(sorted(photos.rglob("*.jpg"))[:3])  # which training does not open
    learn = learner(data)
    learn.fit(1, callbacks=[m.DataWait(learn)])
    assert learn.data_wait.warm == 1.0


def test_an_interrupted_epoch_does_not_hide_a_warm_cache(photos: Path) -> None:
    class Stop(Callback):
        def on_batch_end(self, iteration: int, train: bool, **kwargs: Any) -> None:
            if train and iteration == 7:
                raise KeyboardInterrupt

    learn = learner(bunch(photos))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3, callbacks=[m.DataWait(learn), Stop()])
    assert 0.5 < learn.data_wait.warm <= 1.0


def test_a_gan_is_warm_when_its_targets_are_cached(photos: Path) -> None:
    noise = m.MemoryGANItemList.from_folder(photos, noise_sz=4).split_by_rand_pct(0.25, seed=1)
    data = noise.label_from_func(lambda o: o).transform(size=16, tfm_y=True).databunch(bs=3, num_workers=0)
    watch = Watch(TimedBunch(data))
    watch.begin()
    for dl, train in ((data.train_dl, True), (data.valid_dl, False)):
        list(watch.timed(dl, train))
    watch.end()
    watch.close()
    assert watch.warm() == 1.0


def test_never_warm_without_a_cache_or_room(photos: Path) -> None:
    for data in (bunch(photos, ImageList), bunch(photos, max_ram=20_000)):
        learn = learner(data)
        learn.fit(3, callbacks=[m.DataWait(learn)])
        assert learn.data_wait.warm is None


# -- the plot -----------------------------------------------------------------------------------------------------


def test_the_plot_shows_the_timed_epochs(photos: Path, hands: Hands) -> None:
    learn = learner(bunch(photos))
    learn.fit(3, callbacks=[Working(hands, loss_begin=1.0), m.DataWait(learn)])
    learn.data_wait.watch.epochs = [Epoch([Step(w, 8.0, True, 3, 0)], 8.0 + w) for w in (6.0, 2.0, 1.0)]
    axes = learn.data_wait.plot(return_fig=True).axes[0]
    compute, wait = axes.containers
    assert [bar.get_height() for bar in compute] == [8.0] * 3
    assert [(bar.get_y(), bar.get_height()) for bar in wait] == [(8.0, 6.0), (8.0, 2.0), (8.0, 1.0)]
    assert [text.get_text() for text in axes.texts] == ["43 %", "20 %", "11 %"]
    assert len(axes.lines) == 1 and axes.get_ylabel() == "seconds"
    assert axes.lines[0].get_xdata()[0] == -0.5  # warm before the first bar
    assert learn.data_wait.plot() is None
    given = matplotlib.pyplot.figure().add_subplot()
    assert learn.data_wait.plot(ax=given, return_fig=True) is given.figure
    assert "42.9 %" in repr(learn.data_wait)


def test_a_plot_before_a_fit_is_refused(photos: Path) -> None:
    learn = learner(bunch(photos))
    with pytest.raises(ValueError, match=r"learn\.fit\(1, callbacks=\[DataWait\(learn\)\]\)"):
        m.DataWait(learn).plot()


# -- export -------------------------------------------------------------------------------------------------------


def test_an_exported_learner_loads_where_memlist_is_not_installed(photos: Path, tmp_path: Path) -> None:
    for how in ("fit", "callbacks", "callback_fns", "partial"):
        learn = learner(bunch(photos), path=tmp_path)
        if how == "callbacks":
            learn.callbacks.append(m.DataWait(learn))
        elif how == "callback_fns":
            learn.callback_fns.append(m.DataWait)
        elif how == "partial":
            learn.callback_fns.append(functools.partial(m.DataWait))
        callbacks, makers = list(learn.callbacks), list(learn.callback_fns)
        learn.fit(1, callbacks=[m.DataWait(learn)] if how == "fit" else [])
        learn.export(f"{how}.pkl")
        assert learn.callbacks == callbacks and learn.callback_fns == makers
        assert b"memlist" not in (tmp_path / f"{how}.pkl").read_bytes()
    code = f"""{WITHOUT_MEMLIST}
for how in ("fit", "callbacks", "callback_fns", "partial"):
    learn = load_learner({str(tmp_path)!r}, how + ".pkl")
    print(len(learn.callbacks), len(learn.callback_fns))
"""
    done = fresh.run(code)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:4] == ["0 1"] * 4


def test_export_may_destroy_the_learner_and_restores_callbacks_on_errors(photos: Path, tmp_path: Path) -> None:
    learn = learner(bunch(photos), path=tmp_path)
    learn.export("gone.pkl", destroy=True)
    assert (tmp_path / "gone.pkl").exists() and "Zombie" in type(learn).__name__
    broken = learner(bunch(photos), path=tmp_path / "no such folder", callback_fns=[m.DataWait])
    with contextlib.suppress(OSError):
        broken.export()
    assert broken.callback_fns[-1] is m.DataWait
