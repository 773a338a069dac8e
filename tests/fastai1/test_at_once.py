"""Batches that are opened at once equal stock's, and notice whatever changes."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import PIL.Image
import pytest
import torch
from batch_helpers import TRAIN, VALID, assert_close, assert_same_epochs, bunches, same_mask
from batch_helpers import masks as masks
from batch_helpers import schedule as schedule
from conftest import photo, seed
from fastai.vision import ImageList, SegmentationItemList, crop_pad, dihedral, flip_lr, get_transforms

import memlist as m
from memlist.cache import keys
from memlist.fastai1 import stored
from memlist.fastai1.at_once import AtOnce

FAST = importlib.util.find_spec("numba") is not None


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> List[bool]:
    "Note of each batch whether it was opened at once."
    found: List[bool] = []
    plain = AtOnce.open

    def noting(*args: Any) -> Any:
        opened = plain(*args)
        found.append(opened is not None)
        return opened

    monkeypatch.setattr(AtOnce, "open", noting)
    return found


@pytest.fixture
def gathered(monkeypatch: pytest.MonkeyPatch) -> List[bool]:
    "Note of each batch that is a gather whether it was made so."
    found: List[bool] = []
    plain = stored.gather

    def noting(*args: Any) -> Any:
        made = plain(*args)
        found.append(made is not None)
        return made

    monkeypatch.setattr(stored, "gather", noting)
    return found


def of_one_size(folder: Path, n: int = 14, height: int = 24, width: int = 24) -> Path:
    for i in range(n):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        photo(i, height, width).save(folder / "ab"[i % 2] / f"{i:02}.png")
    return folder


def labelled(cls: Any, folder: Path, tfms: Any = None, change: Any = None, **kwargs: Any) -> Callable[[], Any]:
    def make() -> Any:
        lists = cls.from_folder(folder).split_by_rand_pct(0.3, seed=1).label_from_folder()
        lists = lists.transform(tfms, **kwargs)
        return change(lists) if change else lists

    return make


def pair(folder: Path, *args: Any, **kwargs: Any) -> Any:
    data = bunches(*(labelled(cls, folder, *args, **kwargs) for cls in (m.MemoryImageList, ImageList)))
    data[0].load_data(progress=False)
    return data


FIXED = {
    "nothing at all": (None, {}),
    "its own size": (None, {"size": 24}),
    "the middle": (([crop_pad()], []), {"size": (12, 24), "resize_method": 1}),
    "resized": (None, {"size": 16}),
    "always flipped": (([flip_lr(p=1.0)], []), {"size": 24}),
    "padded by reflection": (None, {"size": 32, "resize_method": 2}),
}
DRAWN = {
    "flipped at random": (([flip_lr(p=0.5)], []), {"size": 24}),
    "default": (get_transforms(), {"size": 24}),
    "turned": (([dihedral(p=0.7)], []), {}),
}


@pytest.mark.parametrize("name", [*FIXED, *DRAWN])
@pytest.mark.parametrize("channels", ["RGB", "L"])
def test_batches_equal_stock(name: str, channels: str, tmp_path: Path, schedule: str, taken: Any) -> None:
    tfms, arguments = {**FIXED, **DRAWN}[name]

    def grey(lists: Any) -> Any:
        for one in (lists.train.x, lists.valid.x):
            one.convert_mode = channels
        return lists

    ours, stock = pair(of_one_size(tmp_path), tfms, grey, **arguments)
    assert_same_epochs(ours, stock)
    assert taken and all(taken)


@pytest.mark.skipif(not FAST, reason="needs numba")
def test_copies_are_gathered_with_the_bits_of_the_kernels(tmp_path: Path, gathered: Any, monkeypatch: Any) -> None:
    "So a batch does not depend on whether one of its images was missing."
    for name, (tfms, arguments) in FIXED.items():
        for mode in ("RGB", "L"):
            lists = labelled(m.MemoryImageList, of_one_size(tmp_path), tfms, **arguments)()
            lists.train.x.convert_mode = mode
            data = lists.databunch(batch_tfms=True, bs=4, num_workers=0, device="cpu").normalize(
                [torch.tensor(one) for one in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])] if mode == "RGB" else None
            )
            data.load_data(progress=False)
            del gathered[:]
            seed(3)
            one = [batch[0] for batch in data.train_dl]
            assert gathered == [True] * len(one) or name not in list(FIXED)[:3]
            with monkeypatch.context() as patch:
                patch.setattr(AtOnce, "open", lambda *args: None)
                seed(3)
                other = [batch[0] for batch in data.train_dl]
            for a, b in zip(one, other):
                assert torch.equal(a, b), (name, mode)


@pytest.mark.parametrize("tfms", [None, (TRAIN, VALID)], ids=["plain", "default"])
def test_masks_and_images_are_opened_at_once(tmp_path: Path, schedule: str, taken: Any, tfms: Any) -> None:
    folder = of_one_size(tmp_path / "x" / "images")
    (tmp_path / "x" / "masks").mkdir()
    for file in folder.rglob("*.png"):
        grey = np.asarray(PIL.Image.open(file).convert("L")) // 64
        PIL.Image.fromarray(grey).save(tmp_path / "x" / "masks" / f"{file.stem}.png")

    def make(cls: Any) -> Callable[[], Any]:
        lists = cls.from_folder(folder).split_by_rand_pct(0.3, seed=1)
        return lambda: lists.label_from_func(same_mask, classes=list(range(4))).transform(tfms, tfm_y=True, size=24)

    ours, stock = bunches(make(m.MemorySegmentationItemList), make(SegmentationItemList))
    ours.load_data(progress=False)
    assert_same_epochs(ours, stock)
    assert taken and all(taken)


def test_items_and_transforms_that_change_between_batches(tmp_path: Path, taken: Any) -> None:
    ours, stock = pair(of_one_size(tmp_path), None, size=24)
    changes: List[Callable[[Any], None]] = [
        lambda ds: None,
        lambda ds: ds.x.items.__setitem__(slice(0, 3), ds.x.items[3:6].copy()),  # in place
        lambda ds: setattr(ds.x, "items", ds.x.items[::-1].copy()),
        lambda ds: setattr(ds.x, "items", ds.x.items.astype(str)),
        lambda ds: setattr(ds, "tfmargs", {"size": 12}),
        lambda ds: setattr(ds, "tfms", [flip_lr(p=0.5), crop_pad()]),
        lambda ds: setattr(ds.tfms[0], "p", 1.0),
        lambda ds: setattr(ds.x, "convert_mode", "L"),
    ]
    seed(1)
    mine = []
    for change in changes:
        change(ours.train_ds)
        mine += [*ours.train_dl]
    after = random.getstate()
    seed(1)
    theirs = []
    for change in changes:
        change(stock.train_ds)
        theirs += [*stock.train_dl]
    assert after == random.getstate() and len(mine) == len(theirs)
    for one, other in zip(mine, theirs):
        assert_close(one, other)
    assert True in taken


def test_what_is_missing_or_of_another_size_is_opened_in_turn(tmp_path: Path, taken: Any) -> None:
    folder = of_one_size(tmp_path)
    for i in range(40, 44):
        photo(i, 24, 30).save(folder / "a" / f"{i}.png")
    ours, stock = pair(folder, None, size=24)
    assert_same_epochs(ours, stock)
    assert True in taken and False in taken
    ours.purge()
    del taken[:]
    assert_same_epochs(ours, stock, epochs=1)
    assert not taken[0]


def test_a_list_built_later_looks_at_its_files_first(tmp_path: Path, taken: Any) -> None:
    folder = of_one_size(tmp_path)
    first, _ = pair(folder, None, size=24)
    photo(77, 24, 24).save(folder / "a" / "00.png")
    ours, stock = bunches(*(labelled(cls, folder, None, size=24) for cls in (m.MemoryImageList, ImageList)))
    assert ours.train_ds.x.store is first.train_ds.x.store
    del taken[:]
    assert_same_epochs(ours, stock)
    assert not taken[0] and taken[-1]


@pytest.mark.skipif(not FAST, reason="needs numba")
def test_the_store_is_purged_while_a_batch_is_gathered(tmp_path: Path, taken: Any, monkeypatch: Any) -> None:
    ours, stock = pair(of_one_size(tmp_path), None, size=24)
    purged, plain = [], stored.gather

    def purging(*args: Any) -> Any:
        if ours.train_ds.x.store.info().records:
            purged.append(1)
            ours.purge()
        return plain(*args)

    monkeypatch.setattr(stored, "gather", purging)
    assert_same_epochs(ours, stock, epochs=1)
    assert purged


def test_reads_are_counted_and_sizes_noted(tmp_path: Path, taken: Any) -> None:
    ours, _ = pair(of_one_size(tmp_path), None, size=24)
    before = ours.cache_info().hits
    n = sum(len(batch[0]) for batch in ours.train_dl)
    assert all(taken) and ours.cache_info().hits == before + n
    assert {tuple(size) for size in ours.train_ds.x.sizes.values()} == {(24, 24)}
    with pytest.warns(UserWarning, match="with max_size=12"):
        reduced = m.MemoryImageList.from_folder(tmp_path, max_size=12).split_none().label_from_folder()
    data = reduced.databunch(batch_tfms=True, bs=4, num_workers=0, device="cpu")
    data.load_data(progress=False)
    del taken[:]
    batch = next(iter(data.train_dl))[0]
    assert taken == [True] and tuple(batch.shape) == (4, 3, 12, 12)
    assert {tuple(size) for size in data.train_ds.x.sizes.values()} == {(24, 24)}


def test_workers_open_batches_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    tfms = [flip_lr(p=1.0)], []
    made = [labelled(cls, of_one_size(tmp_path), tfms, size=24) for cls in (m.MemoryImageList, ImageList)]
    ours, stock = bunches(*made, num_workers=1)
    ours.load_data(progress=False)
    plain = AtOnce.open

    def surely(*args: Any) -> Any:
        opened = plain(*args)
        assert opened is not None
        return opened

    monkeypatch.setattr(AtOnce, "open", surely)
    assert_same_epochs(ours, stock, epochs=1)
    x = ours.train_ds.x
    monkeypatch.setattr(keys, "file_key", lambda item: pytest.fail("made before the workers were forked"))
    x.images().digests(x.images().decoder.prefix).of(x.items, list(range(len(x.items))))
