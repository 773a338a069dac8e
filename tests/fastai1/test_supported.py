"""Data that cannot be transformed per batch runs as in stock, with one warning that names the reason."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import fastai.vision as fv
import pytest
import torch
from batch_helpers import (
    FAST,
    TRAIN,
    VALID,
    MemoryTinted,
    assert_close,
    assert_same_epochs,
    bunches,
    classification,
    generators,
    told,
)
from conftest import assert_same_data, seed
from fastai.vision import (
    Image,
    ImageList,
    get_transforms,
    noop,
)

import memlist as m
from memlist.batch import cpu
from memlist.batch.maker import Job, Maker
from memlist.fastai1 import loader


def _tinted(x: torch.Tensor, change: Any = 0.1) -> torch.Tensor:
    return x.mul_(1 - change)


_tinted.__annotations__ = {"change": fv.uniform}  # fastai calls these to draw arguments


def unknown(name: str) -> Any:
    "Return transforms that include a custom one, or one of fastai's in an unusual order."
    if name == "tinted":
        return [*TRAIN, fv.TfmPixel(_tinted)(change=(0.1, 0.3))]
    if name == "lightened":  # fastai's function, with a custom order
        known = copy.copy(fv.brightness)
        known.order = 3
        return [*TRAIN, fv.RandTransform(known, kwargs={"change": (0.4, 0.6)})]
    raise ValueError(name)


@pytest.mark.parametrize("name, named", [("tinted", "tinted"), ("lightened", "brightness")])
def test_an_unknown_transform_runs_as_stock_and_is_named(photos: Path, name: str, named: str) -> None:
    tfms = (unknown(name), VALID)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours, stock = bunches(*(classification(cls, photos, tfms) for cls in (m.MemoryImageList, ImageList)))
        for k in range(2):
            seed(k)
            mine = [*ours.train_dl]
            seed(k)
            for one, other in zip(mine, stock.train_dl):
                assert_same_data(one, other)  # to the bit: it is stock's code
        list(ours.valid_dl)
    assert len(told(caught)) == 1
    assert named in told(caught)[0]


def own_collate(samples: Any) -> Any:
    return fv.data_collate(samples)


def test_a_custom_collate_function_gets_items(photos: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), collate_fn=own_collate)
    assert len(told(caught)) == 1 and "own_collate" in told(caught)[0]
    for k in range(2):
        seed(k)
        mine = [*made[0].train_dl]
        seed(k)
        for one, other in zip(mine, made[1].train_dl):
            assert_same_data(one, other)


def test_images_of_a_custom_class_are_named(photos: Path) -> None:
    lists = MemoryTinted.from_folder(photos).split_none().label_from_func(noop).transform(([], []), size=24, tfm_y=True)
    seed(0)
    stock = next(iter(lists.databunch(bs=4, num_workers=0, no_check=True).train_dl))
    after = generators()
    seed(0)
    with pytest.warns(UserWarning, match="image by image, since its images are of your class OwnImage"):
        ours = next(iter(lists.databunch(bs=4, num_workers=0, batch_tfms=True, no_check=True).train_dl))
    assert generators() == after
    assert all(float((one - other).abs().max()) < 1e-3 for one, other in zip(ours, stock))


class Pair(fv.ItemBase):
    def __init__(self, one: Image, two: Image) -> None:
        self.obj, self.data = (one, two), [one.data, two.data]

    def apply_tfms(self, tfms: Any, **kwargs: Any) -> Any:
        return Pair(*(one.apply_tfms(tfms, **kwargs) for one in self.obj))


def test_items_of_a_custom_class_are_named(photos: Path) -> None:
    class Siamese(m.MemoryImageList):
        def get(self, i: int) -> Pair:
            return Pair(self.open(self.items[i]), self.open(self.items[i - 1]))

    lists = Siamese.from_folder(photos).split_none().label_const(0).transform(None, size=20)
    data = lists.databunch(bs=4, num_workers=0, batch_tfms=True, no_check=True)
    with pytest.warns(UserWarning, match="image by image, since its items are of your class Pair"):
        next(iter(data.train_dl))


def test_pixels_of_another_dtype_and_mixed_lists_are_named(photos: Path) -> None:
    class Doubles(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return Image(fv.open_image(fn).px.double()[:, :20])

    lists = Doubles.from_folder(photos).split_none().label_const(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = lists.databunch(bs=4, num_workers=0, batch_tfms=True, no_check=True)
        for _ in range(2):
            assert next(iter(data.train_dl))[0].dtype == torch.float64
        parts = [m.MemoryImageList.from_folder(photos, presort=True) for _ in range(2)]
        mixed = fv.MixedItemList(parts, path=photos, inner_df=None).split_by_idx([0])
        mixed.label_from_lists([0] * 23, [0], classes=[0]).databunch(bs=2, num_workers=0, batch_tfms=True)
    assert len(told(caught)) == 2
    assert "since its pixels are torch.float64, and not torch.float32" in told(caught)[0]
    assert "since the inputs are a MixedItemList" in told(caught)[1]


def test_a_cpu_without_numba_warns(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_prepared", lambda: ImportError("No module named 'numba'"))
    lists = classification(m.MemoryImageList, photos)()
    with pytest.warns(UserWarning, match=r"No module named 'numba'.*pip install numba"):
        lists.databunch(bs=4, batch_tfms=True)


def test_batch_tfms_must_be_true_or_false(photos: Path) -> None:
    with pytest.raises(TypeError, match=r"transform\("):
        classification(m.MemoryImageList, photos)().databunch(bs=4, batch_tfms=get_transforms())
    with pytest.raises(TypeError, match=r"transform\("):
        m.MemoryImageDataBunch.from_folder(photos, valid_pct=0.3, size=24, batch_tfms="yes")


def test_the_default_number_of_workers(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "It is 0 on a CPU, 4 for a GPU, and fastai's default if stock makes the batches."
    monkeypatch.setattr(fv.defaults, "cpus", 5)
    monkeypatch.setattr(loader, "WORTH_WORKERS", 2)
    for tfms, workers in (((TRAIN, VALID), 0), (([fv.TfmPixel(_tinted)()], []), 5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = classification(m.MemoryImageList, photos, tfms)().databunch(device="cpu", bs=4, batch_tfms=True)
        assert data.train_dl.num_workers == workers
        n = len(data.train_ds)
        assert loader.default_workers(data.label_list, "cuda", bs=n // 2) == (4 if workers == 0 else 5)
        assert loader.default_workers(data.label_list, "cuda", bs=n) == (0 if workers == 0 else 5)  # a short epoch
    monkeypatch.setattr(fv.defaults, "cpus", 1)
    assert loader.default_workers(classification(m.MemoryImageList, photos)(), "cuda", bs=1) == 1


@pytest.mark.parametrize("factory", [False, True])
def test_an_ordinary_data_bunch_makes_every_batch_at_once(
    photos: Path, monkeypatch: pytest.MonkeyPatch, factory: bool
) -> None:
    "There is no warning, and the maker makes every batch: none falls back to stock silently."
    made, make = [], Maker.make_all

    def counted(self: Maker, parts: Any) -> Any:
        made.extend(len(part.pixels) for part in parts if isinstance(part, Job))
        return make(self, parts)

    monkeypatch.setattr(Maker, "make_all", counted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if factory:
            data = m.MemoryImageDataBunch.from_folder(
                photos, valid_pct=0.3, seed=1, ds_tfms=get_transforms(), size=24, bs=4, num_workers=0, batch_tfms=True
            )
        else:
            data, _ = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
        made.clear()
        batches = [*data.train_dl, *data.valid_dl]
    assert not told(caught)
    assert made == [len(y) for _, y in batches]


@pytest.mark.skipif(not FAST, reason="numba is not installed")
def test_the_kernels_make_every_batch_on_a_cpu(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memlist.batch import compiled

    ran, run = [], compiled.run

    def counted(plan: Any, pixels: Any, *args: Any) -> None:
        ran.append(len(pixels))
        run(plan, pixels, *args)

    monkeypatch.setattr(compiled, "run", counted)
    data, _ = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    ran.clear()
    assert [len(y) for _, y in data.train_dl] == ran


def test_transforms_may_be_exchanged_within_an_epoch(photos: Path) -> None:
    "`ds.tfms` is read for every batch: TTA exchanges it, and a callback may do so inside an epoch."
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), bs=2)
    found = []
    for data in made:
        seed(0)
        seen, before = [], data.train_ds.tfms
        for k, b in enumerate(data.train_dl):
            seen.append(b)
            data.train_ds.tfms = [fv.rotate(degrees=90.0), fv.crop_pad()] if k % 2 else before
        data.train_ds.tfms = before
        found.append(seen)
    for one, other in zip(*found):
        assert_close(one, other)


@pytest.mark.parametrize(
    "owner, name", [(Image, "lighting"), (fv.RandTransform, "resolve"), (fv.LabelList, "__getitem__")]
)
def test_a_patched_fastai_runs_as_stock(owner: Any, name: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, *args, **kwargs: known(self, *args, **kwargs))
    with pytest.warns(UserWarning, match=name):
        ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    seed(0)
    mine = list(ours.train_dl)
    seed(0)
    for one, other in zip(mine, stock.train_dl):
        assert_same_data(one, other)


def test_odd_parameters_behave_as_in_stock(photos: Path) -> None:
    tfms = [fv.flip_lr(p=torch.tensor(0.5)), fv.contrast(scale=(-1.0, 2.0), p=0.0)]  # the logarithm of -1 is NaN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = bunches(*(classification(cls, photos, (tfms, [])) for cls in (m.MemoryImageList, ImageList)))
        assert_same_epochs(*made)


def test_parameters_may_be_changed_within_an_epoch(photos: Path) -> None:
    "The arguments of transforms are read for every batch, however they were changed."
    found = []
    for data in bunches(
        *(
            classification(
                cls, photos, ([fv.rotate(degrees=[0, 0]), fv.flip_lr(p=0.5), fv.contrast(scale=(1.0, 1.0))], [])
            )
            for cls in (m.MemoryImageList, ImageList)
        ),
        bs=2,
    ):
        turn, flip, contrast = data.train_ds.tfms
        seed(0)
        seen = []
        for k, b in enumerate(data.train_dl):
            seen.append(b)
            if k == 1:
                turn.kwargs["degrees"][1] = 40  # in place
            if k == 2:
                flip.p = 1.0
            if k == 3:
                contrast.kwargs["scale"] = (2.0, 2.0)
            if k == 4:
                data.train_ds.tfmargs["padding_mode"] = "zeros"
        found.append(seen)
    for one, other in zip(*found):
        assert_close(one, other)
