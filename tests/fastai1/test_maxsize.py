"""`max_size` reduces images to that shorter side; labels in coordinates of the original image stay correct."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any, List

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import assert_same_bunches, assert_same_item, epoch, photo, seed
from fastai.vision import (
    ImageList,
    ObjectItemList,
    PointsItemList,
    bb_pad_collate,
    get_transforms,
    open_image,
)

import memlist as m
from memlist.cache.decode import reduced

SIZES = [(120, 160), (160, 120), (97, 201), (64, 64), (40, 300), (48, 33), (301, 200), (111, 333)]  # height, width


@pytest.fixture
def large(tmp_path: Path) -> Path:
    "Make JPEG and PNG photographs of several sizes; two of them are small already."
    (tmp_path / "large").mkdir()
    for i, (height, width) in enumerate(SIZES):
        photo(i, height, width).save(tmp_path / "large" / f"{i}.{'jpg' if i % 2 else 'png'}", quality=95)
    return tmp_path / "large"


def make(cls: Any, folder: Path, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls.from_folder(folder, presort=True, **kwargs)


@pytest.mark.parametrize(
    ("size", "most", "want"),
    [((4000, 3000), 512, (683, 512)), ((3000, 4000), 512, (512, 683)), ((500, 375), 512, (500, 375)),
     ((100, 100), 30, (30, 30)), ((10_000, 3), 1, (3333, 1)), ((7, 9), None, (7, 9))],
)  # fmt: skip
def test_reduced_sizes(size: Any, most: Any, want: Any) -> None:
    assert reduced(size, most) == want


def test_images_are_reduced_and_look_the_same(large: Path) -> None:
    il, stock = make(m.MemoryImageList, large, max_size=48), make(ImageList, large)
    for i, (height, width) in enumerate(SIZES):
        image = il[i]
        assert type(image) is type(stock[i]) and tuple(image.size) == reduced((height, width), 48)
        assert tuple(il.sizes[i]) == (height, width) == tuple(stock[i].size)
        want = stock[i].clone().resize(torch.Size([3, *image.size])).px
        assert (image.px - want).abs().mean() < 0.06
        assert_same_item(il[i], image)
        if min(height, width) <= 48:
            assert_same_item(image, stock[i])
    assert il.cache_info()[:2] == (8, 8) and il.cache_info().hits >= 8
    assert il.store.info().nbytes == sum(3 * a * b for a, b in (reduced(size, 48) for size in SIZES))


@pytest.mark.parametrize("fill", ["lazy", "load", "file"])
def test_a_hit_equals_the_first_open(large: Path, tmp_path: Path, fill: str) -> None:
    first = make(m.MemoryImageList, large, max_size=30, max_ram=0)  # nothing is kept: opened every time
    want = [first[i] for i in range(8)]
    sizes = dict(first.sizes)
    del first
    gc.collect()
    kwargs = {"cache_file": tmp_path / "cache"} if fill == "file" else {}
    il = make(m.MemoryImageList, large, max_size=30, **kwargs)
    if fill != "lazy":
        il.load_data(progress=False)
    if fill == "file":
        del il
        il = make(m.MemoryImageList, large, max_size=30, **kwargs)
    for _ in range(2):
        for i in range(8):
            assert_same_item(il[i], want[i])
        assert il.sizes == sizes
    assert il.cache_info().misses == (8 if fill == "lazy" else 0)


def test_each_size_has_its_own_records_and_warns_once_that_pixels_differ(large: Path) -> None:
    with pytest.warns(UserWarning, match="max_size=40.*pixels of larger ones differ") as caught:
        il = m.MemoryImageList.from_folder(large, presort=True, max_size=40)
        m.MemoryImageList.from_folder(large, presort=True, max_size=40)
    assert len([w for w in caught if "max_size" in str(w.message)]) == 1
    other, full = make(m.MemoryImageList, large, max_size=20), make(m.MemoryImageList, large)
    stock = make(ImageList, large)
    for i in range(8):
        _ = il[i], other[i]
        assert_same_item(full[i], stock[i])
    assert min(il[0].size) == 40 and min(other[0].size) == 20 and il.store is full.store


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "512"])
def test_an_invalid_max_size_is_refused(large: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=f"max_size={value!r}: use a number of pixels"):
        m.MemoryImageList.from_folder(large, max_size=value)


def test_a_custom_open_is_refused_with_the_reason(large: Path) -> None:
    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return open_image(fn)

    with pytest.raises(ValueError, match=r"max_size=9: .*Own\.open is your own.*please reduce the images there"):
        Own.from_folder(large, max_size=9)
    with pytest.raises(ValueError, match=r"Own[.]open is your own"):
        lists = make(m.MemoryImageList, large, max_size=9).split_none()
        lists.label_from_func(lambda f: f, label_cls=Own)


def test_masks_are_reduced_to_the_nearest_label(large: Path, tmp_path: Path) -> None:
    for i, (height, width) in enumerate(SIZES):
        mask = np.random.default_rng(i).integers(0, 2, (height, width)).astype(np.uint8) * 7
        path = tmp_path / "masks" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(mask).save(path)
    lists = make(m.MemorySegmentationItemList, large, max_size=48).split_none()
    lists = lists.label_from_func(lambda f: tmp_path / "masks" / f"{f.stem}.png", classes=list(range(8)))
    for i in range(8):
        x, y = lists.train[i]
        assert x.shape[1:] == y.shape[1:] == torch.Size(reduced(SIZES[i], 48))
        assert set(y.data.unique().tolist()) <= {0, 7}
    assert lists.train.y.max_size == 48
    data = lists.transform(get_transforms(), size=32, tfm_y=True).databunch(bs=2, num_workers=0)
    assert set(data.one_batch()[1].unique().tolist()) <= {0, 7}


def label(cls: Any, folder: Path, **kwargs: Any) -> Any:
    lists = make(cls, folder, **kwargs).split_none()
    if "Points" in cls.__name__:
        return lists.label_from_func(lambda f: points(int(Path(f).stem)))
    return lists.label_from_func(lambda f: [[points(int(Path(f).stem)).flatten().tolist()], ["thing"]])


def points(i: int) -> torch.Tensor:
    "Return a top left and a bottom right point, at fixed shares of the height and width of image `i`."
    height, width = SIZES[i]
    return torch.tensor([[0.25 * height, 0.3 * width], [0.7 * height, 0.8 * width]])


@pytest.mark.parametrize(
    "tfms", [None, {"size": 40}, {"size": 40, "resize_method": 2, "padding_mode": "zeros"}, {"size": (30, 50)}]
)
@pytest.mark.parametrize("cls", [m.MemoryPointsItemList, m.MemoryObjectItemList])
def test_points_and_boxes_equal_stock_within_a_pixel(large: Path, cls: Any, tfms: Any) -> None:
    stock = {m.MemoryPointsItemList: PointsItemList, m.MemoryObjectItemList: ObjectItemList}[cls]
    ours, theirs = label(cls, large, max_size=40), label(stock, large)
    if tfms:
        ours, theirs = (lists.transform(get_transforms(), tfm_y=True, **tfms) for lists in (ours, theirs))
    for i in range(8):
        seed(i)
        x, y = ours.train[i]
        seed(i)
        u, v = theirs.train[i]
        mine, want = (y.data, v.data) if cls is m.MemoryPointsItemList else (y.data[0], v.data[0])
        assert mine.shape == want.shape, (i, mine, want)
        # Coordinates run from -1 to 1: a pixel of the target is at most 2 / 30, and rounding is half a pixel.
        assert not mine.numel() or (mine - want).abs().max() < (0.05 if tfms else 1e-6), (i, mine, want)
        assert tuple(ours.train.x.sizes[i]) == SIZES[i]
        if tfms:
            assert x.shape == u.shape


def test_boxes_work_in_batches_and_after_a_split(large: Path) -> None:
    lists = make(m.MemoryObjectItemList, large, max_size=40).split_by_idx([0, 3])
    lists = lists.label_from_func(lambda f: [[points(int(Path(f).stem)).flatten().tolist()], ["thing"]])
    data = lists.transform(size=40).databunch(bs=2, num_workers=2, collate_fn=bb_pad_collate, no_check=True)
    assert lists.valid.x.max_size == lists.train.x[:2].max_size == 40
    for x, (boxes, _) in epoch(data.load_data(progress=False)):
        assert x.shape[2:] == (40, 40) and boxes.abs().max() <= 1
    assert data.cache_info().misses <= 2 and data.loaded


def test_a_custom_get_and_after_open_see_reduced_images(large: Path) -> None:
    class Seen(m.MemoryImageList):
        def get(self, i: Any) -> Any:
            image = super().get(i)
            self.seen: List[Any] = [*getattr(self, "seen", []), tuple(self.sizes[i])]
            return image

    il = make(Seen, large, max_size=20)
    assert [min(il[i].size) for i in range(8)] == [20] * 8 and il.seen == SIZES
    boxes: List[Any] = []
    il = make(m.MemoryImageList, large, max_size=20, after_open=lambda im: (boxes.append(im.size), im)[1])
    for _ in range(2):
        for i in range(8):
            il[i]
    assert boxes[:8] == boxes[8:] == [reduced((width, height), 20) for height, width in SIZES]


def test_targets_inherit_max_size_and_the_store(large: Path) -> None:
    def bunch(workers: int) -> Any:
        lists = make(m.MemoryImageImageList, large, max_size=24).split_by_idx([1]).label_from_func(lambda f: f)
        return lists.transform(get_transforms(), size=16, tfm_y=True).databunch(bs=2, num_workers=workers)

    data = bunch(0)
    x, y = data.train_ds[0]
    assert data.train_ds.y.max_size == 24 and data.train_ds.y.store is data.train_ds.x.store
    assert_same_bunches(bunch(2), bunch(2))
    assert bunch(0).load_data(progress=False).cache_info()[:2] == (8, 8)  # stored once
    assert x.shape == y.shape


def test_a_large_photograph_is_decoded_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "JPEG decodes directly to an eighth: the full size is never in memory."
    photo(2, 1200, 1600).save(tmp_path / "a.jpg")
    loaded = []
    stock = PIL.Image.Image.resize

    def spying(self: Any, *args: Any, **kwargs: Any) -> Any:
        loaded.append(self.size)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(PIL.Image.Image, "resize", spying)
    il = make(m.MemoryImageList, tmp_path, max_size=60)
    assert tuple(il[0].size) == (60, 80) and tuple(il.sizes[0]) == (1200, 1600)
    assert loaded == [(200, 150)]
