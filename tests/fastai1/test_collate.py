"""Batches equal stock's for every kind of item and target, and while stores change."""

from __future__ import annotations

import multiprocessing
import random
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import fastai.vision as fv
import PIL.Image
import pytest
import torch
from batch_helpers import (
    TRAIN,
    VALID,
    MemoryTinted,
    Tinted,
    assert_close,
    assert_same_epochs,
    bunches,
    classification,
    same_mask,
)
from batch_helpers import masks as masks
from batch_helpers import schedule as schedule
from conftest import seed
from fastai.vision import (
    Image,
    ImageImageList,
    ImageList,
    ObjectItemList,
    PointsItemList,
    SegmentationItemList,
    bb_pad_collate,
    get_transforms,
    noop,
)
from fastai.vision.gan import GANItemList

import memlist as m
from memlist.fastai1 import collate


def dots(path: Any) -> torch.Tensor:
    return torch.tensor([[3.0, 4.0], [20.0, 30.0], [29.0, 1.0]])


def frames(path: Any) -> Any:
    n = 1 + int(Path(path).stem) % 3
    return [[[i, i + 1, 20 + i, 25.0] for i in range(n)], ["face"] * n]


def everything(photos: Path) -> Dict[str, Tuple[Callable[[], Any], Callable[[], Any], Dict[str, Any]]]:
    "Return each kind of dataset, with our and with stock's classes, and the arguments of its data bunch."
    rotated = get_transforms(max_rotate=30.0)

    def labelled(
        cls: Any, label: Any, tfms: Any = rotated, tfm_y: bool = True, change: Any = None, **kwargs: Any
    ) -> Any:
        def make() -> Any:
            lists = cls.from_folder(photos).split_by_rand_pct(0.3, seed=1).label_from_func(label, **kwargs)
            lists = lists.transform(tfms, size=24, tfm_y=tfm_y)
            return change(lists) if change else lists

        return make

    def larger(lists: Any) -> Any:
        return lists.transform_y(size=48)

    classes = list(range(4))
    mixed = {"label_cls": m.MemoryImageLabelList}
    return {
        "segmentation": (
            labelled(m.MemorySegmentationItemList, same_mask, classes=classes),
            labelled(SegmentationItemList, same_mask, classes=classes),
            {},
        ),
        "images": (labelled(m.MemoryImageImageList, noop), labelled(ImageImageList, noop), {}),
        "super-resolution": (
            labelled(m.MemoryImageImageList, noop, change=larger),
            labelled(ImageImageList, noop, change=larger),
            {},
        ),
        "only targets": (labelled(ImageList, noop, **mixed), labelled(ImageList, noop, label_cls=ImageList), {}),
        "targets untouched": (
            labelled(m.MemoryImageImageList, noop, tfms=([], []), tfm_y=False, change=_same_sizes),
            labelled(ImageImageList, noop, tfms=([], []), tfm_y=False, change=_same_sizes),
            {},
        ),
        "points": (labelled(m.MemoryPointsItemList, dots), labelled(PointsItemList, dots), {"bs": 1}),
        "boxes": (
            labelled(m.MemoryObjectItemList, frames),
            labelled(ObjectItemList, frames),
            {"collate_fn": bb_pad_collate},
        ),
        "GAN, transformed": (
            labelled(GANItemList, noop, **mixed),
            labelled(GANItemList, noop, label_cls=ImageList),
            {"normalise": False},
        ),
        "images of a class of a user's own": (
            labelled(MemoryTinted, noop),
            labelled(Tinted, noop),
            {},
        ),
        "GAN": (
            labelled(GANItemList, noop, tfms=None, **mixed),
            labelled(GANItemList, noop, tfms=None, label_cls=ImageList),
            {"normalise": False},
        ),
        "reduced": (
            labelled(_Reduced, dots),
            labelled(_Reduced, dots),
            {"bs": 1},
        ),
    }


class _Reduced:
    "Make a list with `max_size`, which stock does not have: both bunches are ours."

    @classmethod
    def from_folder(cls, path: Path) -> Any:
        return m.MemoryPointsItemList.from_folder(path, max_size=20)


def _same_sizes(lists: Any) -> Any:
    "Keep images of one size: targets that are not transformed must collate."
    return lists.filter_by_func(lambda x, y: int(Path(x).stem) % 3 != 0)


KINDS = [
    "segmentation",
    "images",
    "super-resolution",
    "only targets",
    "targets untouched",
    "points",
    "boxes",
    "GAN",
    "GAN, transformed",
    "images of a class of a user's own",
    "reduced",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_target_equals_stock(kind: str, masks: Path, schedule: str) -> None:
    ours, stock, kwargs = everything(masks)[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_epochs(*bunches(ours, stock, **kwargs))


def by_letter(path: Any) -> str:
    return Path(path).parent.name


def test_all_modes_and_channels_equal_stock(formats: Path, schedule: str) -> None:
    "Images have one, three or four channels, in bytes or in wider types, and come from any format."
    for mode in ("L", "RGB", "RGBA", "1", "F", "I"):
        made = [
            lambda cls=cls, mode=mode: (
                cls.from_folder(formats, convert_mode=mode)  # type: ignore[misc]
                .split_by_rand_pct(0.2, seed=1)
                .label_from_func(by_letter)
                .transform(([fv.rotate(degrees=(-20, 20)), fv.flip_lr(p=0.5)], []), size=20)
            )
            for cls in (m.MemoryImageList, ImageList)
        ]
        ours, stock = bunches(*made, normalise=False)
        for k in range(2):
            seed(k)
            mine = [*ours.train_dl]
            seed(k)
            for one, other in zip(mine, stock.train_dl):
                away = (one[0].double() - other[0].double()).abs()
                largest = max(1.0, float(other[0].abs().max()))
                assert float((away <= 1e-3 * largest).double().mean()) >= 0.999, mode


class Halves(ImageList):
    "Return floats that are no multiples of 1/255."

    def open(self, fn: Any) -> Image:
        image = super().open(fn)
        return Image(image.px * 0.37)


class MemoryHalves(m.InMemory, Halves):
    pass


class Drawing(ImageList):
    "Draw a random number in `open`, between the draws of transforms."

    def open(self, fn: Any) -> Image:
        return Image(super().open(fn).px * random.uniform(0.5, 1.0))


class MemoryDrawing(m.InMemory, Drawing):
    pass


@pytest.mark.parametrize("pair", [(MemoryHalves, Halves), (MemoryDrawing, Drawing)])
def test_batches_of_a_custom_open_equal_stock(pair: Any, photos: Path, schedule: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_epochs(*bunches(*(classification(cls, photos) for cls in pair)))


def test_presized_batches_equal_stock(photos: Path, schedule: str) -> None:
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    for data in made:
        data.presize(20)
    assert_same_epochs(*made)


def test_cold_and_warm_epochs_are_equal(photos: Path, schedule: str) -> None:
    "The first epoch fills the store, and the second finds everything in it."
    ours, stock = bunches(classification(m.MemoryImageList, photos), classification(ImageList, photos), bs=3)
    seed(0)
    first = [*ours.fix_dl, *ours.valid_dl]
    info = ours.cache_info()
    assert info.cached == info.total == 24
    misses = info.misses
    seed(0)
    second = [*ours.fix_dl, *ours.valid_dl]
    assert ours.cache_info().misses == misses
    seed(0)
    theirs = [*stock.fix_dl, *stock.valid_dl]
    for one, again, other in zip(first, second, theirs):
        assert torch.equal(one[0], again[0])
        assert_close(one, other)


def test_statistics_of_three_channels_broadcast_grey_images(photos: Path, schedule: str) -> None:
    "Turn a batch of one channel into one of three, as stock does with statistics of three channels."
    made = bunches(
        *(
            lambda cls=cls: (  # type: ignore[misc]
                cls.from_folder(photos, convert_mode="L")
                .split_by_rand_pct(0.3, seed=1)
                .label_from_folder()
                .transform((TRAIN, VALID), size=24)
            )
            for cls in (m.MemoryImageList, ImageList)
        )
    )
    assert_same_epochs(*made)
    assert made[0].one_batch()[0].shape[1] == 3


def test_targets_may_reuse_the_draws_of_another_dataset(masks: Path) -> None:
    def lists(cls: Any) -> Callable[[], Any]:
        def make() -> Any:
            seed(0)
            one, other = fv.rotate(degrees=(-40, 40)), fv.rotate(degrees=(-40, 40))
            split = cls.from_folder(masks).split_by_rand_pct(0.3, seed=1)
            labelled = split.label_from_func(same_mask, classes=list(range(4)))
            return labelled.transform(([one], [other]), size=20, tfm_y=True).transform_y(([other], [one]), size=20)

        return make

    found = []
    for data in bunches(lists(m.MemorySegmentationItemList), lists(SegmentationItemList)):
        seed(0)
        found.append([b for dl in (data.valid_dl, data.train_dl) * 2 for b in dl])
    for (x, y), (x0, y0) in zip(*found):
        assert_close(x, x0)
        assert float((y == y0).double().mean()) >= 0.995


def test_transforms_are_left_as_stock_leaves_them(photos: Path) -> None:
    made = bunches(*(classification(cls, photos, get_transforms()) for cls in (m.MemoryImageList, ImageList)))
    found = []
    for data in made:
        seed(0)
        list(data.train_dl)
        found.append([(t.resolved, t.do_run) for t in data.train_ds.tfms])
    for (ours, runs), (stock, ran) in zip(*found):
        assert runs == ran and list(map(str, ours.values())) == list(map(str, stock.values()))


def test_sizes_that_do_not_collate_raise_what_stock_raises(photos: Path) -> None:
    def lists(cls: Any) -> Any:
        return lambda: cls.from_folder(photos).split_none().label_from_folder().transform(([fv.flip_lr(p=0.5)], []))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = bunches(lists(m.MemoryImageList), lists(ImageList), no_check=True)
    messages = []
    for data in made:
        seed(0)
        with pytest.raises(RuntimeError, match="equal size") as raised:
            list(data.train_dl)
        messages.append(str(raised.value)[:60])
    assert messages[0] == messages[1]


def test_a_bad_file_raises_what_stock_raises(photos: Path) -> None:
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    bad = Path(made[1].train_ds.x.items[0])
    bad.write_bytes(b"no picture")
    made[0].purge()
    for data in made:
        with pytest.raises(PIL.UnidentifiedImageError, match=bad.name):
            list(data.fix_dl)


def test_batches_equal_stock_while_another_process_purges(photos: Path) -> None:
    "The other process purges in a loop."
    ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), num_workers=2)
    wanted = []
    for k in range(6):
        seed(k)
        wanted.append([*stock.train_dl])
    context = multiprocessing.get_context("fork")
    stop = context.Event()

    def purge() -> None:
        while not stop.wait(0.001):
            ours.purge()

    purger = context.Process(target=purge)
    purger.start()
    try:
        for k, theirs in enumerate(wanted):
            seed(k)
            for one, other in zip(ours.train_dl, theirs):
                assert_close(one, other)
    finally:
        stop.set()
        purger.join()


def test_images_purged_while_a_batch_is_made_are_read_again(photos: Path, schedule: str, monkeypatch: Any) -> None:
    "The store is purged each time between reading images and making a batch of them."
    ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    ours.load_data(progress=False)
    part_of, purged = collate.part_of, []

    def purging(*args: Any) -> Any:
        if ours.train_ds.x.store.info().records:
            purged.append(1)
            ours.purge()
        return part_of(*args)

    monkeypatch.setattr(collate, "part_of", purging)
    assert_same_epochs(ours, stock, epochs=1)
    assert purged
