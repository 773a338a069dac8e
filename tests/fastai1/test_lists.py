"""Lists: which of them share a store, what derived lists inherit, and what is cached."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import random
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import Any, List

import fastai.vision
import fresh
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import WITHOUT_MEMLIST, Opens, assert_same_bunches, assert_same_item, epoch, layout, photo, seed
from fastai.basic_data import load_data as fastai_load_data
from fastai.data_block import LabelList
from fastai.vision import (
    Image,
    ImageDataBunch,
    ImageList,
    Learner,
    ObjectItemList,
    PreProcessor,
    SegmentationLabelList,
    get_transforms,
    imagenet_stats,
    load_learner,
    noop,
    open_image,
    open_mask,
    simple_cnn,
)
from fastai.vision.gan import GANItemList

import memlist as m


def labelled(cls: Any, folder: Path, **kwargs: Any) -> Any:
    return cls.from_folder(folder, presort=True, **kwargs).split_by_idx([0, 1, 2]).label_from_folder()


def bunch(cls: Any, folder: Path, size: int = 16, **kwargs: Any) -> Any:
    return labelled(cls, folder, **kwargs).transform(size=size).databunch(bs=4, num_workers=0)


# -- names ------------------------------------------------------------------------------------------------------


def test_a_star_import_shadows_nothing_of_fastai() -> None:
    assert not set(m.__all__) & set(fastai.vision.__all__)
    space: dict = {}
    exec("from fastai.vision import *\nfrom memlist import *", space)
    assert space["load_data"] is fastai_load_data and space["MemoryImageList"] is m.MemoryImageList


def test_the_twins_carry_their_label_classes() -> None:
    assert m.MemoryImageImageList._label_cls is m.MemoryGANItemList._label_cls is m.MemoryImageLabelList
    assert m.MemorySegmentationItemList._label_cls is m.MemorySegmentationLabelList
    assert m.MemoryObjectItemList._label_cls is ObjectItemList._label_cls


# -- one store per dataset --------------------------------------------------------------------------------------


def test_splits_labels_and_slices_share_one_store(photos: Path) -> None:
    il = m.MemoryImageList.from_folder(photos, max_ram="1GB")
    store = il.store
    lists = il.split_by_idx([0, 1]).label_from_func(noop, label_cls=m.MemoryImageLabelList)
    data = lists.databunch(bs=4, num_workers=0)
    data.add_test([photos / "cat" / "01.jpg"])
    every = [ds for dl in data.dls for ds in [dl.dataset]]
    assert all(part.store is store for ds in every for part in (ds.x, ds.y) if isinstance(part, m.InMemory))
    assert il[np.array([1, 2])].store is store and il.use_partial_data(0.5).store is store
    assert data.train_ds.x.max_ram == "1GB" and store.rule == 10**9
    assert il.new([]).store is store and LabelList(il, il.new(il.items)).new(il, il).x.store is store


def test_lists_built_separately_over_one_path_share_one_store(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bunch(m.MemoryImageList, photos)
    epoch(one)
    monkeypatch.chdir(photos.parent)
    again = bunch(m.MemoryImageList, Path(photos.name), size=24)  # a cell run again, at another size
    assert again.train_ds.x.store is one.train_ds.x.store
    before = again.cache_info()
    epoch(again)
    assert again.cache_info().misses - before.misses == again.cache_info().cached - before.cached
    assert m.MemoryImageList.from_folder(photos / "cat").store is not one.train_ds.x.store


def test_labels_from_lists_join_the_store_of_their_inputs(photos: Path) -> None:
    il = m.MemoryImageList.from_folder(photos, presort=True)
    files = list(il.items)
    for x in (il, GANItemList.from_folder(photos, presort=True)):
        lists = x.split_by_idx([0]).label_from_lists(files[1:], files[:1], label_cls=m.MemoryImageLabelList)
        assert lists.train.y.store is lists.valid.y.store is il.store


def test_a_store_is_freed_with_its_last_list(photos: Path) -> None:
    src = m.MemoryImageList.from_folder(photos).load_data(progress=False)
    src = src.split_none().label_from_folder()  # the first list is gone
    gc.collect()
    assert src.loaded
    uid = src.train.x.store.uid
    del src
    gc.collect()
    assert m.MemoryImageList.from_folder(photos).store.uid != uid


def test_an_explicit_budget_applies_to_the_store_and_derived_lists_keep_it(photos: Path) -> None:
    first = labelled(m.MemoryImageList, photos, max_ram="2GB")
    assert first.cache_info().max_ram == 2 * 10**9
    again = labelled(m.MemoryImageList, photos, max_ram="3GB")
    assert first.train[[1, 2]].x.store.rule == 3 * 10**9 == again.cache_info().max_ram
    labelled(m.MemoryImageList, photos)
    assert first.cache_info().max_ram == 3 * 10**9


def test_purge_empties_only_its_own_store(photos: Path, formats: Path) -> None:
    one, other = m.MemoryImageList.from_folder(photos), m.MemoryImageList.from_folder(formats)
    one.load_data(progress=False), other.load_data(progress=False)
    nbytes = one.cache_info().nbytes
    assert one.purge() == nbytes > 0 and one.purge() == 0
    assert not one.loaded and other.loaded


def test_str_and_path_of_one_file_are_one_key(photos: Path, opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    file = photos / "cat" / "01.jpg"
    monkeypatch.chdir(photos)
    names = [str(file), file, np.str_(file), "cat/01.jpg", Path("cat/01.jpg"), "./cat//01.jpg", "dog/../cat/01.jpg"]
    il = m.MemoryImageList(np.array(names, dtype=object), path=photos)
    for i in range(len(names)):
        il[i]
    assert sum(opens.take().values()) == 1 and il.cache_info()[:2] == (1, 1)


def test_the_parent_of_a_symlink_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    photo(1).save(tmp_path / "x.png")
    photo(2).save(tmp_path / "a" / "x.png")
    os.symlink(tmp_path / "a" / "deep", tmp_path / "link")
    names = [f"{tmp_path}/x.png", f"{tmp_path}/link/../x.png"]  # the second is a/x.png
    ours, stock = m.MemoryImageList(names, path=tmp_path), ImageList(names, path=tmp_path)
    for i in (0, 1, 0, 1):
        assert_same_item(ours[i], stock[i])


def test_one_record_serves_a_file_as_image_and_as_target(photos: Path, opens: Opens) -> None:
    lists = m.MemoryImageImageList.from_folder(photos).split_none().label_from_func(noop)
    lists.load_data(progress=False, n_workers=0)
    assert lists.cache_info()[:2] == (24, 24) and lists.cache_info().nbytes == sum(
        np.asarray(PIL.Image.open(f)).nbytes for f in photos.rglob("*.jpg")
    )
    grey = m.MemoryImageList.from_folder(photos, convert_mode="L")
    grey.load_data(progress=False)
    masks = m.MemorySegmentationLabelList(grey.items, classes=[0, 1], path=photos)
    assert masks.loaded and masks[0].data.dtype == torch.int64


def test_items_may_be_filtered_or_reordered_in_place(photos: Path) -> None:
    ours, stock = (cls.from_folder(photos, presort=True) for cls in (m.MemoryImageList, ImageList))
    ours.load_data(progress=False)
    for il in (ours, stock):
        il.filter_by_func(lambda f: f.parent.name == "cat")
        il.items = il.items[::-1]
    for i in range(len(stock.items)):
        assert_same_item(ours[i], stock[i])


# -- GANs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [GANItemList, m.MemoryGANItemList])
def test_noise_opens_no_file(cls: Any, photos: Path, tmp_path: Path, opens: Opens) -> None:
    noise = tmp_path / "noise"
    noise.mkdir()
    for i in range(8):
        (noise / f"{i}.jpg").write_bytes(b"not to be opened")
    targets = sorted(photos.rglob("*.jpg"))
    kwargs = {} if cls is m.MemoryGANItemList else {"label_cls": m.MemoryImageLabelList}
    lists = cls.from_folder(noise, presort=True, noise_sz=5).split_by_idx([7])
    lists = lists.label_from_func(lambda f: targets[int(f.stem)], **kwargs)
    data = lists.transform(size=16, tfm_y=True).databunch(bs=2, num_workers=0)
    assert data.load_data(progress=False) is data and data.loaded and data.cache_info()[:2] == (8, 8)
    assert not any("/noise/" in name for name in opens.take())
    assert data.train_ds.x.loaded if cls is m.MemoryGANItemList else True
    x, y = next(iter(data.train_dl))
    assert x.shape == (2, 5, 1, 1) and y.shape == (2, 3, 16, 16) and not opens.take()


# -- custom lists -----------------------------------------------------------------------------------------------


class Square(ImageList):
    "A list with a custom `open` and custom constructor arguments."

    def __init__(self, items: Any, side: int, *, flag: bool = False, **kwargs: Any) -> None:
        super().__init__(items, **kwargs)
        self.side, self.flag = side, flag
        self.copy_new += ["side", "flag"]

    def open(self, fn: Any) -> Image:
        image = PIL.Image.open(fn).convert("RGB").resize((self.side, self.side))
        return Image(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)


class MemorySquare(m.InMemory, Square):
    pass


class Below(m.MemoryImageList):
    "A custom `open` that calls ours."

    def open(self, fn: Any) -> Image:
        image = super().open(fn)
        image.px = 1 - image.px
        return image


def test_one_line_makes_a_custom_list_in_memory(photos: Path, opens: Opens) -> None:
    ours, stock = (labelled(cls, photos, side=9, flag=True) for cls in (MemorySquare, Square))
    ours.load_data(progress=False)
    opens.take()
    items = [ours.train[i][0] for i in range(21)]
    assert not opens.take() and ours.loaded
    for i, item in enumerate(items):
        assert_same_item(item, stock.train[i][0])
    assert ours.train.x.side == 9 and ours.train.x.flag and ours.cache_info().nbytes == 24 * 9 * 9 * 3
    bigger = labelled(MemorySquare, photos, side=10)
    assert bigger.cache_info()[:2] == (0, 24) and bigger.train[0][0].shape == (3, 10, 10)


def test_an_open_that_calls_ours_is_cached_once(photos: Path, opens: Opens) -> None:
    class Stock(ImageList):
        def open(self, fn: Any) -> Image:
            image = super().open(fn)
            image.px = 1 - image.px
            return image

    ours, stock = Below.from_folder(photos, presort=True), Stock.from_folder(photos, presort=True)
    for _ in range(2):
        for i in range(24):
            assert_same_item(ours[i], stock[i])
    info = ours.cache_info()
    assert (info.cached, info.total, info.hits, info.misses) == (24, 24, 24, 24)
    assert len(ours.store) == 24  # the inner result is not cached as well


def test_edited_code_never_gets_its_old_pixels(photos: Path) -> None:
    source = """
class Mine(ImageList):
    def open(self, fn): return scaled(open_image(fn))
def scaled(image):
    image.px *= FACTOR
    return image
FACTOR = {}
"""
    got, kept = [], []
    for factor in ("0.5", "0.25", "0.5"):
        cell = types.ModuleType("cell")
        vars(cell).update(ImageList=ImageList, open_image=open_image, InMemory=m.InMemory)
        exec(source.format(factor) + "class MemoryMine(InMemory, Mine): pass", vars(cell))
        il = cell.MemoryMine(sorted(photos.rglob("*.jpg")), path=photos)
        kept.append(il)
        got.append(il[0].px.max().item())
    assert got[0] == got[2] == pytest.approx(2 * got[1])
    assert len({il.store.uid for il in kept}) == 3 and all(len(il.store) == 1 for il in kept)


class Noisy(ImageList):
    def open(self, fn: Any) -> Image:
        image = open_image(fn)
        image.px[0, 0, 0] = {"random": random.random, "numpy": np.random.rand, "torch": lambda: torch.rand(1)}[
            Path(fn).parent.name
        ]()
        return image


class MemoryNoisy(m.InMemory, Noisy):
    pass


@pytest.mark.parametrize("generator", ["random", "numpy", "torch"])
@pytest.mark.parametrize("n_workers", [0, 4])
def test_an_open_that_draws_is_never_cached_and_warns_once(tmp_path: Path, generator: str, n_workers: int) -> None:
    for i in range(20):
        (tmp_path / generator).mkdir(exist_ok=True)
        photo(i).save(tmp_path / generator / f"{i:02}.png")
    ours, stock = (cls.from_folder(tmp_path, presort=True) for cls in (MemoryNoisy, Noisy))
    with pytest.warns(UserWarning, match=r"MemoryNoisy over .*: what Noisy.open returns .* draws random .* leave"):
        ours[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        seed(1)
        before = torch.rand(1), random.random(), np.random.rand()
        seed(1)
        ours.load_data(n_workers=n_workers, progress=False)
        assert (torch.rand(1), random.random(), np.random.rand()) == before
        for i in range(20):
            seed(i)
            mine = ours[i]
            seed(i)
            assert_same_item(mine, stock[i])
    assert ours.cache_info()[:2] == (0, 20) and not ours.loaded and ours.cache_info().nbytes == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda image: (image, image), "returns a tuple and not an image, a tensor or an array"),
        (lambda image: (setattr(image, "name", 1), image)[1], "of class Image, carry more than pixels"),
        (lambda image: image.rotate(3.0), "carry more than pixels"),
        (lambda image: Image(image.px.requires_grad_()), "not a plain tensor"),
        (lambda image: Image(image.px.bfloat16()), "no dtype for its torch.bfloat16"),
        (lambda image: Image(image.px[None, None]), "have 5 dimensions, but at most four can be kept"),
        (lambda image: np.array([image], object), "its pixels are object"),
    ],
)
def test_results_with_more_than_pixels_are_not_cached(photos: Path, change: Any, reason: str) -> None:
    class Odd(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return change(open_image(fn))

    Odd.get = lambda self, i: self.open(self.items[i])
    il = Odd.from_folder(photos)
    with pytest.warns(UserWarning, match=reason):
        first = il[0]
    assert type(il[0]) is type(first) and il.cache_info().cached == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda u8: Image(u8.float() / 255),
        lambda u8: Image(u8.float()),
        lambda u8: Image(-u8.float() / 255),
        lambda u8: Image(torch.where(u8 > 9, u8.float(), torch.tensor(float("nan")))),
        lambda u8: Image(u8.double() / 255),
        lambda u8: Image(u8.half()),
        lambda u8: Image(u8.clone()),
        lambda u8: Image(u8.int() * 1000),
        lambda u8: Image(u8.permute(0, 2, 1).float() / 255),
        lambda u8: Image(u8[:1].float().expand(3, -1, -1)),
        lambda u8: Image(u8[:, ::2, ::3].float()),
        lambda u8: fastai.vision.ImageSegment(u8[:1].float()),
        lambda u8: Image(u8[:, :0].float()),
    ],
)
def test_every_kind_of_pixels_comes_back_bit_for_bit(photos: Path, make: Any) -> None:
    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return make(torch.from_numpy(np.array(PIL.Image.open(fn))).permute(2, 0, 1))

    Own.get = lambda self, i: self.open(self.items[i])
    il = Own.from_folder(photos, presort=True)
    first = make(torch.from_numpy(np.array(PIL.Image.open(il.items[0]))).permute(2, 0, 1))
    for _ in range(3):
        image = il[0]
        assert type(image) is type(first) and image.px.dtype == first.px.dtype and image.px.shape == first.px.shape
        assert image.px.contiguous().numpy().tobytes() == first.px.contiguous().numpy().tobytes()
        if first.px.is_contiguous() or first.px.numel() == first.px.storage().size():
            assert layout(image.px) == layout(first.px)
        image.px.zero_()
    assert il.cache_info().hits == 2


def test_masks_of_a_custom_open_take_one_byte_per_pixel(photos: Path) -> None:
    class Halves(SegmentationLabelList):
        def open(self, fn: Any) -> Any:
            return open_mask(fn, div=True)

    class MemoryHalves(m.InMemory, Halves):
        pass

    ours, stock = (cls(sorted(photos.rglob("*.jpg")), classes=[0, 1], path=photos) for cls in (MemoryHalves, Halves))
    for i in (0, 1, 0, 1):
        assert_same_item(ours[i], stock[i])
    assert ours.cache_info().nbytes == sum(ours[i].px.numel() for i in (0, 1))


class Pairs(ImageList):
    "A `get` that opens two files per item and combines them."

    def get(self, i: int) -> Image:
        first = super().get(i)
        second = self.open(self.items[(i + 1) % len(self.items)])
        return Image(torch.cat([first.px, second.px[:, : first.px.shape[1]]], 2) * random.random())


class MemoryPairs(m.InMemory, Pairs):
    pass


def test_code_around_open_in_a_custom_get_runs_on_every_read(tmp_path: Path, opens: Opens) -> None:
    for i in range(10):
        photo(i).save(tmp_path / f"{i}.png")
    ours, stock = (cls.from_folder(tmp_path, presort=True) for cls in (MemoryPairs, Pairs))
    ours = ours[[0, 2, 4]]
    stock = stock[[0, 2, 4]]
    assert not ours.loaded
    ours.load_data(progress=False)
    opens.take()
    assert ours.loaded and ours.cache_info()[:2] == (3, 3) and ours.cache_info().misses == 0
    for i in (0, 1, 2, 0):
        seed(i)
        mine = ours[i]
        assert not opens.take()
        seed(i)
        assert_same_item(mine, stock[i])
        opens.take()
    ours.load_data(progress=False)
    assert not opens.take()


def test_a_get_that_never_opens_warns(photos: Path) -> None:
    class Blank(m.MemoryImageList):
        def get(self, i: int) -> Image:
            return Image(torch.zeros(3, 4, 4))

    il = Blank.from_folder(photos)
    with pytest.warns(UserWarning, match="Blank.get never calls open"):
        il.load_data(progress=False)
    assert il.cache_info()[:2] == (0, 0) and il.loaded


def test_a_get_that_never_opens_warns_when_its_data_bunch_is_made(photos: Path) -> None:
    class Around(ImageList):
        def get(self, i: int) -> Image:
            np.random.rand()
            return open_image(self.items[i])

    class MemoryAround(m.InMemory, Around):
        pass

    def bunch(cls: Any) -> Any:
        lists = cls.from_folder(photos).split_by_rand_pct(0.25, seed=1).label_from_folder()
        seed()
        return lists.transform(size=16).databunch(bs=4, num_workers=0)

    bunch(Around)
    drawn = np.random.rand()
    with pytest.warns(UserWarning, match=r"MemoryAround over .*: MemoryAround.get never calls open.*self\.open"):
        data = bunch(MemoryAround)
    assert np.random.rand() == drawn
    learn = Learner(data, simple_cnn((3, 4, 2)))
    learn.fit(2, callbacks=[m.DataWait(learn)])
    assert learn.data_wait.warm is None  # nothing is cached, so nothing becomes warm


def test_items_that_are_no_paths_are_cached(tmp_path: Path) -> None:
    class Ids(ImageList):
        def open(self, item: Any) -> Image:
            fill = item["n"] if isinstance(item, dict) else item[0] if isinstance(item, tuple) else item
            return Image(torch.full((3, 4, 5), float(fill) / 255))

    class MemoryIds(m.InMemory, Ids):
        pass

    items = np.empty(6, dtype=object)
    items[:] = [1, 2.0, (3, "x"), {"n": 4}, np.int64(1), True]
    ours, stock = MemoryIds(items, path=tmp_path), Ids(items, path=tmp_path)
    for _ in range(2):
        for i in range(6):
            assert_same_item(ours[i], stock[i])
    assert ours.cache_info()[:2] == (6, 6) and ours.load_data(progress=False).loaded


def test_items_without_a_key_are_not_cached_and_warn(photos: Path) -> None:
    opened = m.MemoryImageList([io.BytesIO((photos / "cat" / "01.jpg").read_bytes())], path=photos)
    with pytest.warns(UserWarning, match="a .*BytesIO is not supported in a key"):
        opened[0]


def test_a_patched_open_image_is_used_and_kept_apart(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = m.MemoryImageList.from_folder(photos, presort=True)
    plain = ours[0].px.clone()

    def darker(fn: Any, **kwargs: Any) -> Image:
        image = open_image(fn, **kwargs)
        image.px /= 2
        return image

    monkeypatch.setattr(fastai.vision.data, "open_image", darker)
    stock = ImageList.from_folder(photos, presort=True)
    for _ in range(2):
        assert_same_item(ours[0], stock[0])
    monkeypatch.undo()
    assert torch.equal(ours[0].px, plain)


def test_threads_may_read_one_list(photos: Path) -> None:
    ours, stock = (
        MemorySquare.from_folder(photos, presort=True, side=7),
        Square.from_folder(photos, side=7, presort=True),
    )
    wanted = [stock[i].px for i in range(24)]
    wrong: List[int] = []

    def read() -> None:
        for _ in range(3):
            wrong.extend(i for i in range(24) if not torch.equal(ours[i].px, wanted[i]))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- copies and pickles -----------------------------------------------------------------------------------------


def test_copies_share_the_store(photos: Path) -> None:
    data = bunch(m.MemoryImageList, photos).load_data(progress=False)
    other = copy.deepcopy(data)
    assert other.loaded and other.train_ds.x.store is data.train_ds.x.store
    assert copy.copy(data.train_ds.x).store is data.train_ds.x.store


def test_saved_data_holds_no_pixels_and_shares_again(photos: Path) -> None:
    data = bunch(m.MemoryImageList, photos, max_ram="1GB").load_data(progress=False)
    want = epoch(data)
    buffer = io.BytesIO()
    data.save(buffer)
    assert len(buffer.getvalue()) < data.cache_info().nbytes / 2
    stores = data.train_ds.x.store
    again = fastai_load_data(photos, io.BytesIO(buffer.getvalue()), bs=4, num_workers=0)
    assert again.train_ds.x.store is again.valid_ds.x.store is stores
    del data, stores, again
    gc.collect()
    cold = fastai_load_data(photos, io.BytesIO(buffer.getvalue()), bs=4, num_workers=0)
    assert cold.train_ds.x.store is cold.valid_ds.x.store and cold.train_ds.x.store.rule == 10**9
    assert cold.cache_info().cached < 24
    for (x, y), (u, v) in zip(epoch(cold), want):
        assert torch.equal(x, u) and torch.equal(y, v)


class Remembering(PreProcessor):
    "fastai's base class keeps the list that a processor was made for."


def test_an_exported_learner_loads_where_memlist_is_not_installed(photos: Path, tmp_path: Path) -> None:
    lists = (
        m.MemoryImageImageList.from_folder(photos, processor=[Remembering()]).split_by_idx([0]).label_from_func(noop)
    )
    lists.train.x.processor[0].ref_ds = lists.train.x
    image = lists.transform(size=16, tfm_y=True).databunch(bs=4, num_workers=0, path=tmp_path).normalize(imagenet_stats)
    lists = m.MemoryImageList.from_folder(photos).split_by_idx([0]).label_from_folder()
    classes = lists.transform(get_transforms(), size=16).databunch(bs=4, num_workers=0, path=tmp_path)
    for name, data, model in [("image", image, torch.nn.Conv2d(3, 3, 1)), ("class", classes, simple_cnn((3, 8, 2)))]:
        learn = Learner(data, model, loss_func=torch.nn.MSELoss() if name == "image" else None)
        learn.fit(1)
        learn.export(f"{name}.pkl")
        data.export(f"{name}_data.pkl")
        picture = open_image(photos / "cat" / "01.jpg")
        wanted = learn.predict(picture)[2]
        assert torch.equal(load_learner(tmp_path, f"{name}.pkl").predict(picture)[2], wanted)
        torch.save(wanted, tmp_path / f"{name}.pt")
    code = f"""
import sys
sys.path[:0] = {sys.path[:1]!r}
{WITHOUT_MEMLIST}
import types
stand_in = types.ModuleType("test_lists")  # the user's own processor is importable there
exec("from fastai.vision import *\\nclass Remembering(PreProcessor): pass", vars(stand_in))
stand_in.Remembering.__module__ = "test_lists"
sys.modules["test_lists"] = stand_in
for name in ("image", "class"):
    learn = load_learner({str(tmp_path)!r}, name + ".pkl")
    assert type(learn.data.train_ds.x).__module__.startswith("fastai")
    got = learn.predict(open_image({str(photos / "cat" / "01.jpg")!r}))[2]
    assert torch.equal(got, torch.load({str(tmp_path)!r} + "/" + name + ".pt"))
    DataBunch.load_empty({str(tmp_path)!r}, name + "_data.pkl")
assert "memlist" not in sys.modules
"""
    for name in ("image", "class"):
        assert b"memlist" not in (tmp_path / f"{name}.pkl").read_bytes()
    done = fresh.run(code)
    assert done.returncode == 0, done.stderr[-3000:]


def test_state_names_a_users_class_without_our_mixin(photos: Path) -> None:
    pickle.dumps(MemorySquare.from_folder(photos, side=4))  # Python notes `__slotnames__` on the class
    assert labelled(MemorySquare, photos, side=4).train.get_state()["x_cls"] is Square
    assert labelled(Below, photos).train.get_state()["x_cls"] is Below  # it has its own code


def test_a_list_itself_can_be_pickled(photos: Path) -> None:
    il = m.MemoryImageList.from_folder(photos).load_data(progress=False)
    again = pickle.loads(pickle.dumps(il))
    assert again.loaded and again.store is il.store and again.open.__func__ is il.open.__func__


# -- the data bunch ---------------------------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path: Path) -> Path:
    "Make photographs in the layouts that the six factories read."
    for i in range(20):
        for part, names in (("train", range(12)), ("valid", range(12, 16)), ("test", range(16, 20))):
            if i in names:
                folder = tmp_path / part / ("cat" if i % 2 else "dog") if part != "test" else tmp_path / part
                folder.mkdir(parents=True, exist_ok=True)
                photo(i).save(folder / f"{'cat' if i % 2 else 'dog'}_{i:02}.jpg")
    rows = [f"{f.relative_to(tmp_path)},{f.parent.name}" for f in sorted(tmp_path.glob("*/*/*.jpg"))]
    (tmp_path / "labels.csv").write_text("\n".join(["name,label", *rows]))
    return tmp_path


def _factories(cls: Any, path: Path, **kwargs: Any) -> List[Any]:
    import pandas as pd

    files = sorted(path.glob("*/*/*.jpg"))
    labels = [f.parent.name for f in files]
    rest: Any = {
        "valid_pct": 0.25,
        "seed": 3,
        "size": 16,
        "bs": 4,
        "num_workers": 0,
        "ds_tfms": get_transforms(),
        **kwargs,
    }
    by_re = {name: value for name, value in rest.items() if name != "seed"}
    whole = {name: value for name, value in rest.items() if name not in ("valid_pct", "seed")}
    bunches = [
        cls.from_folder(path, test="test", classes=["cat", "dog"], **whole),
        cls.from_df(path, pd.read_csv(path / "labels.csv"), **rest),
        cls.from_csv(path, **rest),
        cls.from_lists(path, files, labels, **rest),
        cls.from_name_func(path, files, lambda f: f.parent.name, **rest),
    ]
    np.random.seed(3)
    return [*bunches, cls.from_name_re(path, files, r"/([^/_]+)_\d+.jpg$", **by_re)]


def test_the_six_factories_equal_stock(named: Path) -> None:
    seed()
    ours = _factories(m.MemoryImageDataBunch, named, lazy=True, max_ram="1GB", convert_mode="RGB")
    seed()
    stock = _factories(ImageDataBunch, named)
    for mine, theirs in zip(ours, stock):
        assert type(mine) is m.MemoryImageDataBunch and mine.classes == theirs.classes
        assert isinstance(mine.train_ds.x, m.MemoryImageList) and mine.train_ds.x.store.rule == 10**9
        # from_folder uses the system's order of files, which is the same for both
        assert_same_bunches(mine, theirs)
        assert mine.load_data(progress=False).loaded
    assert ours[0].cache_info().total == 20 and len({id(b.train_ds.x.store) for b in ours}) == 1
    with pytest.raises(TypeError, match="nonsense"):
        m.MemoryImageDataBunch.from_folder(named, nonsense=1)


def test_methods_cover_all_datasets_inputs_and_targets(named: Path) -> None:
    files = sorted(named.glob("*/*/*.jpg"))
    lists = m.MemoryImageList(files, path=named).split_by_idx([0, 1])
    assert lists.load_data(progress=False) is lists and isinstance(lists.train, m.MemoryImageList)
    assert lists.loaded and lists.cache_info().total == 16 and lists.purge() > 0
    labelled = lists.label_from_func(noop, label_cls=m.MemoryImageLabelList, convert_mode="L")
    assert labelled.load_data(progress=False) is labelled and labelled.cache_info()[:2] == (32, 32)
    assert labelled.train.cache_info().total == 28 and labelled.train.load_data(progress=False) is labelled.train
    data = labelled.transform(size=8).databunch(bs=2, num_workers=0)
    data.add_test(sorted((named / "test").iterdir()))
    # fastai opens the first test image, to see whether transforms apply to it
    assert data.cache_info()[:2] == (33, 36) and not data.loaded
    assert data.load_data(progress=False) is data and data.cache_info()[:2] == (36, 36)
    assert data.purge() > 0 and data.cache_info().cached == 0


def test_an_image_made_for_one_caller_is_not_cloned(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bunch(m.MemoryImageList, photos).load_data(progress=False)
    clones: List[Any] = []
    stock = Image.clone
    monkeypatch.setattr(Image, "clone", lambda self: (clones.append(self), stock(self))[1])
    x = data.train_ds[0][0]
    assert not clones and "clone" not in vars(x) and "clone" not in vars(Image(x.px))
    data.train_ds.x[0].apply_tfms(None, size=8)  # another caller may hold this one
    assert len(clones) == 1
    keeping: List[Any] = []

    class Keeping(m.MemoryImageList):
        def get(self, i: int) -> Image:
            keeping.append(super().get(i))
            return keeping[-1]

    data = bunch(Keeping, photos)
    clones.clear()
    data.train_ds[0]
    assert clones and keeping[-1].shape[-1] == 40
