"""Input that is no DataLoaders of image files, and uses that are rare: equal to fastai, or one clear sentence."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
import torch
from conftest import Opens, seed
from fastai.text.data import SortedDL
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    DataLoaders,
    Datasets,
    ImageDataLoaders,
    Normalize,
    RegressionBlock,
    Resize,
    aug_transforms,
    imagenet_stats,
)
from fastai2_helpers import batches, both, classes, generators, learner, used
from fastai2_pipelines import label, pictures, same

import memlist
from memlist.fastai2 import DataWait, MemoryImageBlock, in_memory
from memlist.fastai2.loader import BatchLoader


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


def texts() -> DataLoaders:
    "Return loaders of sentences as numbers, sorted by their length."
    words = [torch.arange(1 + i % 5) for i in range(12)]
    lists = Datasets(words, [[lambda one: one + 1]], splits=[list(range(8)), list(range(8, 12))])
    return lists.dataloaders(bs=1, dl_type=SortedDL, num_workers=0, device="cpu")


def test_texts_stay_as_they_are() -> None:
    seed(1)
    stock = texts()
    seed(1)
    dls = texts()
    kinds = [type(dl) for dl in dls.loaders]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert memlist.in_memory(dls) is dls
    found = [str(one.message) for one in said if "memlist" in one.filename or "in_memory" in str(one.message)]
    assert len(found) == 1 and "nothing is kept in memory and they stay as they are" in found[0]
    assert [type(dl) for dl in dls.loaders] == kinds
    same(used(dls, batches), used(stock, batches))


class Bunch:
    "An object with loaders that is no DataLoaders."

    def __init__(self, dls: Any) -> None:
        self.train_dl, self.valid_dl, self.path = dls.train, dls.valid, dls.path


@pytest.mark.parametrize("call", [in_memory, memlist.in_memory], ids=["fastai2", "memlist"])
def test_what_only_has_loaders_is_refused(call: Any, files: List[Path]) -> None:
    with pytest.raises(TypeError, match=r"in_memory.*Bunch"):
        call(Bunch(classes(files)))


def test_a_block_and_a_call_are_one(files: List[Path], opens: Opens) -> None:
    block = DataBlock((MemoryImageBlock(max_ram=10**9), CategoryBlock), get_y=label, item_tfms=Resize(12))
    dls = block.dataloaders(files, bs=3, num_workers=0, device="cpu").load_data(progress=False)
    before = [type(dl) for dl in dls.loaders], dls.cache_info(), list(dls.train_ds.tls[0].tfms.fs)
    opens.take()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert in_memory(dls) is dls
    assert before == ([type(dl) for dl in dls.loaders], dls.cache_info(), list(dls.train_ds.tls[0].tfms.fs))
    batches(dls)
    assert opens.take() == {}


def _between(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    "Return a use of loaders that changes them between two epochs, and once more in the middle of the third."

    def use(dls: Any) -> Any:
        made = [batches(dls)]
        change(dls)
        made.append(batches(dls))
        for batch in dls.train:
            made.append(batch)
            change(dls)
        return made

    return use


def _shuffled_order(dls: Any) -> None:
    "Change the order of transforms, as `Pipeline.add` sorts them."
    pipeline = dls.train.after_item
    for f in pipeline.fs:
        f.order = -f.order
    pipeline.fs = pipeline.fs.sorted(key="order")


EDITS: Dict[str, Callable[[Any], Any]] = {
    "add_tfms": lambda dls: dls.add_tfms([Resize(11)], "after_item", "train"),
    "order": _shuffled_order,
    "reversed": lambda dls: dls.train.after_item.fs.items.reverse(),
    "without tensors": lambda dls: dls.train.after_item.fs.pop(),
    "of the other side": lambda dls: setattr(dls.train.after_item, "split_idx", 1),
    "of lists": lambda dls: dls.train_ds.tls[0].tfms.fs.append(Resize(9)),
    "of batches": lambda dls: dls.train.after_batch.add(Normalize.from_stats(*imagenet_stats, cuda=False)),
    "to": lambda dls: dls.to(torch.device("cpu")),
    "cpu": lambda dls: dls.cpu(),
}


def _or_error(use: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def tried(dls: Any) -> Any:
        try:
            return use(dls)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    return tried


@pytest.mark.filterwarnings("ignore:the batches of this")
@pytest.mark.parametrize("name", EDITS)
def test_edits_between_epochs_and_batches(name: str, files: List[Path]) -> None:
    both(lambda: classes(files, bs=2), _or_error(_between(EDITS[name])), times=1, known=False)


def test_batches_go_to_another_device(files: List[Path]) -> None:
    "The device `meta` keeps shapes and types, and no values."

    def use(dls: Any) -> Any:
        made = [next(iter(dls.train))]
        dls.to(torch.device("meta"))
        for dl in dls.loaders:
            dl.after_batch.fs.clear()
        found = [[(type(one), one.dtype, one.shape, one.device) for one in batch] for batch in batches(dls)]
        assert all(one[3].type == "meta" for batch in found for one in batch)
        dls.to(torch.device("cpu"))
        return [made, found, batches(dls)]

    both(lambda: classes(files), use)


NEW: Dict[str, Callable[[Any], Any]] = {
    "dls.new": lambda dls: dls.new(bs=2),
    "not shuffled": lambda dls: dls.train.new(shuffle=False),
    "shuffled": lambda dls: dls.valid.new(shuffle=True),
    "over the other list": lambda dls: dls.train.new(dls.valid_ds, drop_last=False),
    "of a class": lambda dls: dls.train.new(cls=SortedDL, sort_func=lambda one: 1, bs=2),
    "with other transforms": lambda dls: dls.train.new(after_item=dls.valid.after_item),
    "with labels": lambda dls: dls.test_dl(dls.train_ds.items[:5], with_labels=True),
    "of one class": lambda dls: dls.test_dl(dls.train_ds.items[:5], rm_type_tfms=0, bs=3),
    "empty": lambda dls: [*dls.new_empty().train],
}


@pytest.mark.parametrize("name", NEW)
def test_loaders_made_of_loaders(name: str, files: List[Path]) -> None:
    both(lambda: classes(files), lambda dls: list(NEW[name](dls)))


def test_threads_that_share_a_shuffled_loader(files: List[Path]) -> None:
    "Check that each batch has the images it names; what a thread draws depends on the others, as with fastai's loader."
    dls = in_memory(ImageDataLoaders.from_lists(".", files * 2, list(range(len(files))) * 2, **_NUMBERED))
    dls.load_data(progress=False)
    wanted = {int(y): x for x, y in dls.train.new(bs=1, shuffle=False)}
    found: List[Any] = []
    start = threading.Barrier(3)

    def read() -> None:
        start.wait()
        loader = dls.train.new(shuffle=True)
        for _ in range(5):
            found.extend(loader)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * 5 * len(dls.train)
    for x, y in found:
        for one, number in zip(x, y):
            assert torch.equal(one, wanted[int(number)][0])


_NUMBERED: Dict[str, Any] = {
    **{"valid_pct": 0.2, "seed": 1, "item_tfms": Resize(8, method="squish"), "bs": 3},
    **{"num_workers": 0, "device": "cpu", "y_block": RegressionBlock},
}


def test_loaders_that_are_pickled(files: List[Path]) -> None:
    "A pickle holds fastai's own loaders, without images; `in_memory` makes it what it was."
    seed(1)
    stock = classes(files, batch_tfms=aug_transforms(size=12))
    seed(1)
    ours = in_memory(classes(files, batch_tfms=aug_transforms(size=12)))
    wanted = pickle.dumps(stock)
    given = pickle.dumps(ours)
    assert b"memlist" not in given and len(given) < len(wanted) + 200
    received = pickle.loads(given)
    assert not isinstance(received.train, BatchLoader)
    same(used(received, batches), used(pickle.loads(wanted), batches))
    again = in_memory(received)
    assert isinstance(again.train, BatchLoader)
    list(again.train)
    assert again.cache_info().cached > 0


def test_a_copy_of_a_learner(files: List[Path], opens: Opens) -> None:
    made = []
    for wrap in (lambda dls: dls, in_memory):
        seed(1)
        learn = learner(wrap(classes(files)), cbs=DataWait())
        with learn.no_bar(), learn.no_logging():
            seed(2)
            learn.fit(1)
            other = copy.deepcopy(learn)
            opens.take()
            seed(3)
            other.fit(2)
        made.append([list(map(list, zip(*other.recorder.values)))[:3], *other.model.parameters(), *generators()])
    assert opens.take() == {} and isinstance(other.dls.train, BatchLoader)
    same(made[1], made[0])
    ours, theirs = learn.data_wait, other.data_wait
    assert type(theirs) is DataWait and theirs is not ours and theirs in list(other.cbs)
    assert (len(ours.epochs), len(theirs.epochs)) == (1, 2)
    assert theirs.learn is other and ours.learn is learn and theirs.warm == 0.0


@pytest.mark.parametrize("kept", [False, True])
def test_a_copy_in_the_middle_of_a_fit(kept: bool, files: List[Path]) -> None:
    "Before the first batch: from then on fastai can copy no learner that is being trained."
    copies: List[Any] = []
    pickled: List[bytes] = []

    class Copying(Callback):
        order = 99

        def before_train(self) -> None:
            if not copies:
                copies.append(copy.deepcopy(self.learn))
                pickled.append(pickle.dumps(self.learn.dl))

    dls = classes(files)
    learn, wait = learner(in_memory(dls) if kept else dls), DataWait()
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=[wait, Copying()])
        (other,) = copies
        mine = next(one for one in other.cbs if isinstance(one, DataWait))
        assert not mine.epochs and type(other.dl).__name__ != "TimedLoader"
        other.remove_cbs([one for one in other.cbs if type(one).__name__ == "Copying"])
        other.fit(1)
    assert len(wait.epochs) == 2 and len(mine.epochs) == 1
    assert b"memlist" not in pickled[0]


def test_loaders_without_a_path_share_a_store(files: List[Path], tmp_path: Path, opens: Opens) -> None:
    "Share a store, as a notebook does with a larger size later; each loader counts its own images."
    first = in_memory(classes(files, Resize(8)))
    others = pictures(tmp_path / "others", 4)
    second = in_memory(
        ImageDataLoaders.from_path_func(".", others, label, item_tfms=Resize(8), bs=1, num_workers=0, device="cpu")
    )
    first.load_data(progress=False)
    second.load_data(progress=False)
    assert (first.cache_info().total, second.cache_info().total) == (12, 4)
    third = in_memory(classes(files, Resize(16)))
    opens.take()
    batches(third)
    assert third.loaded and opens.take() == {}
    assert first.cache_info().nbytes == second.cache_info().nbytes == third.cache_info().nbytes
