"""Odd parameters, settings and values: batches equal stock's, with a warning where stock makes them."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, List

import fastai.vision as fv
import numpy as np
import PIL.Image
import pytest
import torch
from batch_helpers import assert_close, bunches, classification, generators, told
from batch_helpers import schedule as schedule
from conftest import assert_same_data, seed
from fastai.vision import Image, ImageList, get_transforms

import memlist as m

TFMS = get_transforms()


def epochs(data: Any) -> List[Any]:
    seed(3)
    return [*data.train_dl, *data.valid_dl]


def both(photos: Path, tfms: Any, late: bool = False, **kwargs: Any) -> List[Any]:
    """Return ours, stock's and the warnings: the batches, or the error that making them raised.

    `late`: the transforms are set on the finished bunch, so that fastai does not try them first.
    """
    found: List[Any] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = ([], []) if late else tfms
        for data in bunches(
            *(classification(cls, photos, first, **kwargs) for cls in (m.MemoryImageList, ImageList)), no_check=True
        ):
            if late:
                data.train_ds.tfms = tfms[0]
            try:
                found.append((epochs(data), generators()))
            except Exception as error:
                found.append(type(error))
    return [*found, told(caught)]


def assert_same(ours: Any, stock: Any) -> None:
    if isinstance(stock, type):
        assert ours is stock
        return
    assert len(ours[0]) == len(stock[0]) and ours[1] == stock[1]
    for one, other in zip(ours[0], stock[0]):
        assert_close(one, other)


T = torch.tensor
#: Transforms whose parameters have a form that is not understood; those that stock can't apply either are marked.
ODD = [
    lambda: fv.zoom(scale=T(1.2)),
    lambda: fv.zoom(scale=(T(1.1), T(1.4))),
    lambda: fv.rotate(degrees=T([-10.0, 10.0])),
    lambda: fv.rotate(degrees=np.array([-10.0, 10.0])),
    lambda: fv.rotate(degrees=np.float32(10)),
    lambda: fv.rotate(degrees=range(3, 5)),
    lambda: fv.rotate(degrees=(-10, 10, 1)),
    lambda: fv.rotate(degrees=None),
    lambda: fv.rotate(degrees="10"),
    lambda: fv.rotate(degrees=lambda: 3),
    lambda: fv.rotate(degrees=float("nan")),
    lambda: fv.rotate(degrees=(0, 10), p=T(0.5)),
    lambda: fv.rotate(degrees=(0, 10), p=np.array(0.5)),
    lambda: fv.rotate(degrees=(0, 10), p=None),
    lambda: fv.rotate(degrees=(0, 10), turns=2),
    lambda: fv.crop_pad(row_pct=(1.0, 1.3)),
    lambda: fv.crop_pad(row_pct=1.7),
    lambda: fv.crop(size=20, col_pct=1.2),
    lambda: fv.crop(size="20"),
    lambda: fv.transform.zoom_squish(scale=(1.0, 2.0, 8), squish=(0.75, 1.33, 5), invert=(0.5, 3)),
    lambda: fv.transform.zoom_squish(scale=(1.0, 2.0), squish=(0.75, 1.33), invert=0.5),
    lambda: fv.cutout(n_holes=2, length=(3, 5)),
    lambda: fv.cutout(n_holes=(1, 3), length=T(3), is_random=False),
    lambda: fv.symmetric_warp(magnitude=(-1.0, -1.0)),
    lambda: fv.tilt(direction=(2, 6), magnitude=0.1),
    lambda: fv.brightness(change=(0.0, 1.0)),
    lambda: fv.contrast(scale=(-1.0, 2.0)),
    lambda: fv.contrast(scale=0.0, is_random=False),
    lambda: fv.dihedral(k=3),
    lambda: fv.pad(padding=-2),
    lambda: fv.pad(padding=3, mode="reflect"),
    lambda: fv.rgb_randomize(thresh=(0.1, 0.4)),
    lambda: fv.perspective_warp(magnitude=0.1, is_random=False),
    lambda: fv.flip_lr(axis=1),
]


@pytest.mark.parametrize("make", ODD)
def test_a_parameter_of_another_form_runs_as_stock(photos: Path, make: Callable[[], Any]) -> None:
    ours, stock, caught = both(photos, ([make()], []), late=True)
    assert len(caught) == 1 and make().tfm.func.__name__ in caught[0]
    if isinstance(stock, type):
        assert ours is stock
        return
    assert ours[1] == stock[1]
    for one, other in zip(ours[0][:4], stock[0][:4]):  # those of the training set: stock made them
        assert_same_data(one, other)


PLAIN = [
    lambda: fv.zoom(scale=np.float64(1.2)),
    lambda: fv.rotate(degrees=np.int64(10)),
    lambda: fv.rotate(degrees=[-10, 10]),
    lambda: fv.rotate(degrees=(10,)),
    lambda: fv.rotate(degrees=True, p=True),
    lambda: fv.symmetric_warp(magnitude=0.2),
    lambda: fv.cutout(n_holes=(np.int64(1), 3), length=(2, 9)),
    lambda: fv.pad(padding=(2,), mode="zeros"),
    lambda: fv.crop(size=[20, 18]),
]


@pytest.mark.parametrize("make", PLAIN)
def test_numbers_of_any_type_are_understood(photos: Path, make: Callable[[], Any], schedule: str) -> None:
    ours, stock, caught = both(photos, ([make()], TFMS[1]))
    assert_same(ours, stock)
    assert not caught


@pytest.mark.parametrize(
    "kwargs",
    [
        {"size": np.int64(24)},
        {"size": torch.tensor([24, 24])},
        {"size": "24"},
        {"size": 24.0},
        {"size": (0, 24)},
        {"size": (3, 24, 24)},
        {"size": 24, "mult": 2.5},
        {"size": 24, "mult": 0},
        {"size": 24, "resize_method": 0},
        {"size": 24, "resize_method": 2.5},
        {"size": 24, "padding_mode": "reflect"},
        {"size": 24, "mode": "bicubic"},
    ],
)
def test_an_argument_of_another_form_runs_as_stock(photos: Path, kwargs: Any) -> None:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), no_check=True):
            data.train_ds.tfmargs = kwargs
            try:
                found.append((epochs(data), generators()))
            except Exception as error:
                found.append(type(error))
    assert_same(*found)


@contextlib.contextmanager
def dtype(wanted: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(wanted)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = [
    ("torch.float64", lambda: dtype(torch.float64)),
    ("torch.float16", lambda: dtype(torch.float16)),
    *([("device is meta", device)] if hasattr(torch, "set_default_device") else []),
    *([("autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))] if hasattr(torch, "cpu") else []),
]


@pytest.mark.parametrize("named, setting", SETTINGS)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    "tfms", [[fv.pad(padding=3)], [fv.perspective_warp(magnitude=(-0.1, 0.1))], [fv.jitter(magnitude=0.1)]]
)
def test_settings_that_change_stock_make_stock_work(
    photos: Path, named: str, setting: Any, late: bool, tfms: Any
) -> None:
    "Also if they are made after the loader."
    found = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for cls, kwargs in ((m.MemoryImageList, {"batch_tfms": True}), (ImageList, {})):
            lists = classification(cls, photos, (tfms, []))()
            with contextlib.ExitStack() as stack:
                if not late:
                    stack.enter_context(setting())
                try:
                    data = lists.databunch(bs=4, num_workers=0, device="cpu", no_check=True, **kwargs)
                    if late:
                        stack.enter_context(setting())
                    found.append((epochs(data), generators()))
                except Exception as error:
                    found.append(type(error))
    if not isinstance(found[1], type):
        for one, other in zip(found[0][0], found[1][0]):
            assert_same_data(one, other)
    else:
        assert found[0] is found[1]
    # Where stock fails before there is a loader, nothing is said.
    assert isinstance(found[1], type) or len(told(caught)) == 1
    assert all(named in one for one in told(caught))


@pytest.mark.parametrize(
    "setting", [torch.no_grad, torch.enable_grad, lambda: np.errstate(all="raise")], ids=["no_grad", "grad", "numpy"]
)
def test_other_settings_change_nothing(photos: Path, setting: Any) -> None:
    with setting():
        ours, stock, caught = both(photos, TFMS)
    assert_same(ours, stock)
    assert not caught


class Holed(ImageList):
    "Return images of which some hold NaN and infinity."

    def open(self, fn: Any) -> Image:
        px = fv.open_image(fn).px[:, :28, :28] * 0.9
        px[:, 7, 5], px[:, 20, 9], px[0, 10, 10] = float("nan"), float("inf"), -float("inf")
        return Image(px.contiguous())


class MemoryHoled(m.InMemory, Holed):
    pass


@pytest.mark.parametrize(
    "tfms", [[fv.flip_lr(p=0.5)], [fv.rotate(degrees=(-30, 30))], [fv.crop(size=20)], [fv.pad(padding=2)]]
)
def test_nan_and_infinity_reach_the_pixels_that_they_reach_in_stock(photos: Path, tfms: Any, schedule: str) -> None:
    for kwargs in ({"size": 24}, {"size": None}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for one, other in zip(
                *(
                    epochs(data)
                    for data in bunches(
                        *(classification(cls, photos, (tfms, []), **kwargs) for cls in (MemoryHoled, Holed))
                    )
                )
            ):
                assert_same_data(one, other)
        assert len(told(caught)) == 1 and "hold NaN or infinity" in told(caught)[0]


@pytest.mark.filterwarnings("ignore:batch_tfms of .* hold NaN or infinity")
def test_nan_in_a_file_of_floats_stays_where_it_stays_in_stock(tmp_path: Path, schedule: str) -> None:
    "Such a file is cached as floats, which fastai's own `open` divides by 255."
    for i in range(6):
        levels = np.full((28, 28), 100.0 + i, np.float32)
        levels[5, 7] = np.nan
        PIL.Image.fromarray(levels).save(tmp_path / f"{i}.tif")

    def lists(cls: Any) -> Callable[[], Any]:
        split = cls.from_folder(tmp_path, convert_mode="F").split_by_idx([0, 1]).label_const(0)
        return lambda: split.transform(([fv.flip_lr(p=0.5)], []), size=28)

    ours, stock = bunches(lists(m.MemoryImageList), lists(ImageList), normalise=False)
    for _ in range(2):
        for one, other in zip(epochs(ours), epochs(stock)):
            assert_same_data(one, other)


def test_a_deviation_of_zero_makes_what_it_makes_in_stock(photos: Path, schedule: str) -> None:
    "A channel that is the same in all images has one: `normalize()` measures it."
    made = bunches(
        *(classification(cls, photos, ([], []), size=(30, 40)) for cls in (m.MemoryImageList, ImageList)),
        normalise=False,
    )
    for data in made:
        data.normalize(([0.5, 0.41, 0.3], [0.2, 0.0, 0.2]))
    for one, other in zip(*(epochs(data) for data in made)):
        finite = torch.isfinite(other[0])
        assert bool((torch.isfinite(one[0]) == finite).all()) and bool((one[0].isnan() == other[0].isnan()).all())
        assert float((one[0][finite] - other[0][finite]).abs().max()) < 1e-3


def test_a_single_transform_of_a_loader(photos: Path) -> None:
    "`tfms` of a loader may be one callable, or None."
    for tfms in (lambda b: [b[0] * 2, b[1]], None):
        made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
        for data in made:
            data.train_dl.tfms = tfms
        for one, other in zip(*(epochs(data) for data in made)):
            assert_close(one, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_boxes_come_in_lists(photos: Path, schedule: str, workers: int) -> None:
    "Stock makes lists of pairs on their way to a device."

    def lists(cls: Any) -> Callable[[], Any]:
        return lambda: (
            cls.from_folder(photos)
            .split_by_rand_pct(0.3, seed=1)
            .label_from_func(lambda path: [[[1, 2, 20, 25.0]], ["face"]])
            .transform(([fv.flip_lr(p=0.5)], []), size=24, tfm_y=True)
        )

    made = bunches(
        lists(m.MemoryObjectItemList), lists(fv.ObjectItemList), collate_fn=fv.bb_pad_collate, normalise=False,
        num_workers=workers,
    )  # fmt: skip
    for one, other in zip(*(epochs(data) for data in made)):
        assert type(one) is type(other) is list and type(one[1]) is type(other[1]) is list
        assert_close(one, other)
