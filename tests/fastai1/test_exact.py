"""Promise 1: every twin equals its stock class bit for bit, in every format, mode and kind of worker."""

from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import PIL
import pytest
import torch
from conftest import assert_same_bunches, assert_same_data, assert_same_item, epoch, photo, seed
from fastai.vision import (
    ImageImageList,
    ImageList,
    MixedItemList,
    ObjectItemList,
    PointsItemList,
    SegmentationItemList,
    bb_pad_collate,
    get_transforms,
    imagenet_stats,
    noop,
    open_image,
)
from fastai.vision.gan import GANItemList
from PIL import ImageOps
from torchvision import transforms as tvt

import memlist as m

MODES = ["L", "RGB", "RGBA"]


def by_name(path: Any) -> str:
    return str(Path(path).name)[0]


def same_file(path: Any) -> Any:
    return path


def corners(path: Any) -> torch.Tensor:
    return torch.tensor([[1.0, 2.0], [20.0, 30.0 - len(Path(path).name)]])


def boxes(path: Any) -> Any:
    n = 1 + len(Path(path).name) % 3
    return [[[i, i + 1, 20 + i, 25.0] for i in range(n)], [by_name(path)] * n]


class Twin:
    "The data block code of a twin, with either our class or stock's."

    def __init__(
        self, ours: type, stock: type, label: Callable[[Any], Any], targets: Any = (None, None), **kwargs: Any
    ) -> None:
        self.classes, self.label, self.targets, self.kwargs = (ours, stock), label, targets, kwargs

    def lists(self, which: int, folder: Path, mode: str) -> Any:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        lists = self.classes[which](files, path=folder, convert_mode=mode).split_by_idx([0, 3, 5])
        extra = dict(self.kwargs)
        if self.targets[which]:
            extra.update(label_cls=self.targets[which], convert_mode=mode)
        return lists.label_from_func(self.label, **extra)


TWINS = {
    "classification": Twin(m.MemoryImageList, ImageList, by_name),
    "image targets": Twin(m.MemoryImageList, ImageList, same_file, (m.MemoryImageLabelList, ImageList)),
    "stock inputs": Twin(ImageList, ImageList, same_file, (m.MemoryImageLabelList, ImageList)),
    "image to image": Twin(m.MemoryImageImageList, ImageImageList, same_file),
    "segmentation": Twin(m.MemorySegmentationItemList, SegmentationItemList, same_file, classes=list(range(256))),
    "boxes": Twin(m.MemoryObjectItemList, ObjectItemList, boxes),
    "points": Twin(m.MemoryPointsItemList, PointsItemList, corners),
    "GAN": Twin(m.MemoryGANItemList, GANItemList, same_file),
    "GAN, stock inputs": Twin(GANItemList, GANItemList, noop, (m.MemoryImageLabelList, ImageList)),
}


def both(name: str, folder: Path, mode: str) -> List[Any]:
    return [TWINS[name].lists(which, folder, mode) for which in (0, 1)]


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(TWINS, MODES)))
def test_every_item_equals_stock(name: str, mode: str, formats: Path) -> None:
    ours, stock = both(name, formats, mode)
    for reading in range(3):  # decoded, then from RAM, then after load_data
        if reading == 2:
            ours.purge()
            ours.load_data(progress=False)
            assert ours.loaded
        for mine, theirs in zip(ours.lists, stock.lists):
            seed(reading)
            ours_items = [mine[i] for i in range(len(mine))]
            seed(reading)
            for (x, y), (stock_x, stock_y) in zip(ours_items, [theirs[i] for i in range(len(theirs))]):
                assert_same_item(x, stock_x)
                assert_same_item(y, stock_y)
            for part in ("x", "y"):
                assert getattr(getattr(mine, part), "sizes", None) == getattr(getattr(theirs, part), "sizes", None)


def bunch(lists: Any, name: str, workers: int, tfms: bool) -> Any:
    lists = lists.transform(get_transforms() if tfms else None, size=24, tfm_y=name != "classification")
    if name == "points":  # keep points that leave the image, so that all images have as many
        lists.transform(lists.train.tfms and get_transforms(), size=24, tfm_y=True, remove_out=False)
    collate = {"collate_fn": bb_pad_collate} if name == "boxes" else {}
    return lists.databunch(bs=4, num_workers=workers, no_check=True, **collate)


@pytest.mark.parametrize("name", list(TWINS))
def test_every_batch_without_workers_equals_stock(name: str, formats: Path) -> None:
    "Transforms are fastai's default random ones, under one seed."
    ours, stock = both(name, formats, "RGB")
    assert_same_bunches(bunch(ours, name, 0, True), bunch(stock, name, 0, True))


def sampled(sample: List[Any]) -> List[Any]:
    "Return all pairs of twin and mode; those not in `sample` run only in `make test-full`."
    pairs = itertools.product(TWINS, MODES)
    return [pytest.param(*pair, marks=() if pair in sample else pytest.mark.full) for pair in pairs]


def assert_hits_from_now_on(data: Any) -> None:
    before = data.cache_info()
    epoch(data)
    after = data.cache_info()
    # Only images that `drop_last` and the shuffle had left out of the first epochs were decoded.
    assert after.misses - before.misses == after.cached - before.cached
    data.load_data(progress=False)
    assert data.loaded
    before = data.cache_info()
    epoch(data)
    after = data.cache_info()
    assert after.misses == before.misses and after.hits > before.hits


@pytest.mark.parametrize(
    ("name", "mode"),
    sampled([("classification", "RGBA"), ("GAN, stock inputs", "RGB"), ("segmentation", "L"), ("boxes", "RGB")]),
)
def test_every_batch_with_forked_workers_equals_stock(name: str, mode: str, formats: Path) -> None:
    ours, stock = (bunch(lists, name, 2, True) for lists in both(name, formats, mode))
    assert_same_bunches(ours, stock)
    assert_hits_from_now_on(ours)


@pytest.fixture
def spawn() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(("name", "mode"), sampled([("image to image", "RGBA")]))
def test_every_batch_with_spawned_workers_equals_stock(name: str, mode: str, formats: Path, spawn: None) -> None:
    """There are no random transforms, which can't be pickled, so stock's batches are made without workers.

    A spawned worker takes seconds to start, hence the small sample and so few of them: they fill the store with the
    training set, and read the validation set from memory.
    """
    ours, stock = both(name, formats, mode)
    ours, stock = bunch(ours, name, 1, False), bunch(stock, name, 0, False)
    for part in ("train_dl", "valid_dl"):
        if part == "valid_dl":
            filled = ours.cache_info()
            assert filled.misses == filled.cached > 0  # each image was decoded once, for all processes
            assert ours.load_data(progress=False).loaded
            before = ours.cache_info()
        seed()
        mine = list(getattr(ours, part))
        seed()
        theirs = list(getattr(stock, part))
        if name.startswith("GAN"):  # the noise is drawn in the workers
            mine, theirs = ([y for _, y in batches] for batches in (mine, theirs))
        assert len(mine) == len(theirs) > 0
        assert_same_data(mine, theirs)
    after = ours.cache_info()
    assert after.misses == before.misses and after.hits > before.hits


@pytest.mark.filterwarnings("ignore:MemoryImageList over .* dtype >u2 can't be stored")
@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "HSV", "YCbCr", "LAB", "I", "F", "LA", "I;16", "I;16B"])
def test_unusual_modes_equal_stock(mode: str, formats: Path) -> None:
    files = [p for p in sorted(formats.iterdir()) if not (mode == "LAB" and p.suffix != ".jpg")]
    ours, stock = (cls(files, path=formats, convert_mode=mode) for cls in (m.MemoryImageList, ImageList))
    good = 0
    for _ in range(2):
        for i in range(len(files)):
            try:
                theirs = stock[i]
            except Exception as error:  # a conversion that Pillow does not have
                with pytest.raises(type(error)):
                    ours[i]
                continue
            assert_same_item(ours[i], theirs)
            good += 1
    if not good:
        pytest.skip(f"this Pillow converts nothing to {mode}")
    info = ours.cache_info()
    if mode == "I;16B":  # the other byte order is not kept
        assert info.cached == 0
        return
    channels = {"CMYK": 4, "HSV": 3, "YCbCr": 3, "LAB": 3, "I": 4, "F": 4, "LA": 2, "I;16": 2}.get(mode, 1)
    assert info.cached == good // 2 and info.nbytes == info.cached * 30 * 40 * channels


class Reds(ImageList):
    "A custom `open` that depends on a constructor argument in `copy_new`."

    def __init__(self, items: Any, strength: float = 1.0, **kwargs: Any) -> None:
        super().__init__(items, **kwargs)
        self.strength = strength
        self.copy_new.append("strength")

    def open(self, fn: Any) -> Any:
        image = open_image(fn)
        image.px[0] *= self.strength
        return image


class MemoryReds(m.InMemory, Reds):
    pass


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_a_custom_open_equals_stock(strength: float, formats: Path) -> None:
    ours, stock = (
        cls.from_folder(formats, presort=True, strength=strength).split_by_idx([1, 2]).label_from_func(by_name)
        for cls in (MemoryReds, Reds)
    )
    for _ in range(2):
        for one, other in zip(ours.lists, stock.lists):
            for i in range(len(one)):
                assert_same_item(one[i][0], other[i][0])
    info = ours.cache_info()
    assert info.cached == info.total
    # One byte per value if nothing was scaled, which is lossless; otherwise floats.
    assert info.nbytes == info.total * 30 * 40 * 3 * (1 if strength == 1.0 else 4)


AFTER = {
    "exif": ImageOps.exif_transpose,
    "crop": tvt.RandomResizedCrop(16),
    "resize": tvt.Resize((12, 14)),
    "array": lambda image: np.asarray(image)[::2],
    "info": lambda image: image.rotate(len(repr(image.info)) % 4 * 90, expand=True),
    "in place": lambda image: (image.paste(0, (0, 0, 9, 9)), image)[1],
    "palette": lambda image: image.convert("RGB"),
}


@pytest.mark.filterwarnings("ignore:MemoryImageList over .* can't be rebuilt for after_open")  # by an old Pillow
@pytest.mark.parametrize(
    ("after", "mode"),
    [
        *itertools.product(["exif", "crop", "resize", "array", "info", "in place"], MODES),
        ("palette", "P"),
        ("exif", "1"),
    ],
)
def test_after_open_runs_on_every_read(after: str, mode: str, formats: Path) -> None:
    "Promise 10: `after_open` gets stock's PIL image, so crops stay random and EXIF rotation works on a hit."
    kwargs: Any = {"presort": True, "convert_mode": mode, "after_open": AFTER[after]}
    ours, stock = (cls.from_folder(formats, **kwargs) for cls in (m.MemoryImageList, ImageList))
    for reading in range(4):
        if reading == 2:
            ours.purge()
            ours.load_data(progress=False)
        for i in range(len(stock.items)):
            seed(reading)
            theirs, after_theirs = stock[i], torch.rand(1)
            seed(reading)
            assert_same_item(ours[i], theirs)
            assert torch.equal(torch.rand(1), after_theirs)  # the same number of draws was made
    info = ours.cache_info()
    if mode != "P" or PIL.__version__ > "9":  # older ones lose the palette's order, so nothing is kept
        assert info.cached == info.total and info.hits == 3 * info.total


def test_presized_batches_equal_stock(photos: Path) -> None:
    ours, stock = (
        cls.from_folder(photos, presort=True).split_by_idx([1, 2, 3]).label_from_folder().presize(16, 4)
        for cls in (m.MemoryImageList, ImageList)
    )
    ours, stock = (lists.databunch(bs=4, num_workers=0, no_check=True) for lists in (ours, stock))
    assert_same_bunches(ours, stock, epochs=3)
    # Presize again, using the same decoded images.
    ours, stock = (data.presize(20, 4) for data in (ours, stock))
    assert_same_bunches(ours, stock, epochs=2)
    assert ours.load_data(progress=False).cache_info().misses == 24


def test_mixed_lists_may_have_one_part_in_memory(photos: Path) -> None:
    def mixed(cls: type) -> Any:
        parts = [c.from_folder(photos, presort=True, convert_mode=mode) for c, mode in ((cls, "RGB"), (ImageList, "L"))]
        lists = MixedItemList(parts, path=photos, inner_df=None).split_by_idx([0, 1])
        return lists.label_from_lists([0] * 22, [0, 1], classes=[0, 1])

    ours, stock = mixed(m.MemoryImageList), mixed(ImageList)
    assert ours.load_data(progress=False).loaded and ours.cache_info()[:2] == (24, 24)
    for i in range(5):
        for mine, theirs in zip(ours.train[i][0].obj, stock.train[i][0].obj):
            assert_same_item(mine, theirs)
    assert ours.cache_info().hits == 5


def test_changes_by_a_caller_do_not_affect_the_next_read(photos: Path) -> None:
    ours, stock = m.MemoryImageList.from_folder(photos), ImageList.from_folder(photos)
    files = list(stock.items)
    ours.items = stock.items = np.array(sorted(map(str, files)))
    lists = ours.split_none().label_from_func(len)
    lists.transform([get_transforms()[0], None], size=20)
    for i in range(10):
        image = ours[i]
        image.px.zero_()
        image.px[0] = 9
        _ = ours[i].lighting(lambda x: x.mul_(0)).px
        lists.train[i][0].px.zero_()
        assert_same_item(ours[i], stock[i])


def test_normalised_batches_equal_stock(photos: Path) -> None:
    ours, stock = (
        cls.from_folder(photos, presort=True).split_by_idx([0]).label_from_folder().transform(size=16)
        for cls in (m.MemoryImageList, ImageList)
    )
    for stats in (None, imagenet_stats):
        seed()
        one = ours.databunch(bs=4, num_workers=0).normalize(stats)
        seed()
        other = stock.databunch(bs=4, num_workers=0).normalize(stats)
        assert_same_bunches(one, other)


def test_pictures_of_one_pixel_or_row_equal_stock(tmp_path: Path) -> None:
    for width, height in ((1, 1), (1, 5), (5, 1)):
        photo(0, height, width).save(tmp_path / f"{width}x{height}.png")
    for mode in MODES:
        ours, stock = (
            cls.from_folder(tmp_path, presort=True, convert_mode=mode) for cls in (m.MemoryImageList, ImageList)
        )
        for i in (0, 1, 2, 0, 1, 2):
            assert_same_item(ours[i], stock[i])
