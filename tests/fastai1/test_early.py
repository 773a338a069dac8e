"""Batches for a device that are made before they are asked for: the images, draws and side effects of stock."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any, Callable, List, Tuple

import numpy as np
import PIL.Image
import pytest
import torch
from batch_helpers import TRAIN, VALID, photo
from fastai.vision import ImageList, cutout, dihedral, flip_lr, get_transforms, imagenet_stats

import memlist as m
from memlist.batch.maker import Maker
from memlist.batch.sending import Batch
from memlist.fastai1 import early, loader

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    "Twenty photographs of one size in two folders, and a mask beside each."
    for k in range(20):
        folder = tmp_path / "ab"[k % 2]
        folder.mkdir(exist_ok=True)
        photo(k, 40, 60).save(folder / f"{k}.png")
        mask = np.random.RandomState(k).randint(0, 3, (40, 60)).astype(np.uint8)
        PIL.Image.fromarray(mask).save(folder / f"{k}.mask.bmp")
    return tmp_path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    "Which batches were handed out: made 'early', or 'late'; on a CPU, which stands in for a device."
    monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", True)
    found: List[str] = []
    taken, on = early.EarlyBatches._taken, Batch.on

    def watched(self: Any, *given: Any) -> Any:
        pair = taken(self, *given)
        found.extend([] if pair is None else ["early"])
        return pair

    def watched_on(self: Batch, *given: Any) -> Any:
        found.append("late")
        return on(self, *given)

    monkeypatch.setattr(early.EarlyBatches, "_taken", watched)
    monkeypatch.setattr(Batch, "on", watched_on)
    return found


def classes(cls: Any, folder: Path, tfms: Any = (TRAIN, VALID)) -> Any:
    images = cls.from_folder(folder, extensions=[".png"]).split_by_rand_pct(0.2, seed=1).label_from_folder()
    return images.transform(tfms, size=24)


def masks(cls: Any, folder: Path) -> Any:
    images = m.MemorySegmentationItemList.from_folder(folder, extensions=[".png"]).split_by_rand_pct(0.2, seed=1)
    labelled = images.label_from_func(lambda path: path.with_suffix(".mask.bmp"), classes=["0", "1", "2"])
    return labelled.transform((TRAIN, VALID), size=24, tfm_y=True)


def bunch(lists: Any, bs: int = 2) -> Any:
    return lists.databunch(batch_tfms=True, bs=bs, num_workers=0, device=CPU).normalize(imagenet_stats)


def generators() -> Tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def epoch(data: Any, between: Callable[[int], Any] = int) -> List[Any]:
    "Return the batches of two epochs, and what the generators draw after each batch; `between` is called after each."
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    found: List[Any] = []
    for _ in range(2):
        for k, (x, y) in enumerate(data.train_dl):
            found += [x.clone(), y.clone()]
            between(k)
            found.append(torch.tensor(hash(str(generators()))))
    return found


def same(some: List[Any], others: List[Any]) -> bool:
    return len(some) == len(others) > 12 and all(map(torch.equal, some, others))


@pytest.mark.parametrize("kind", [classes, masks])
def test_all_batches_but_the_first_are_made_early_and_equal_those_made_when_asked_for(
    kind: Any, pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = kind(m.MemoryImageList, pictures).load_data(progress=False)
    ours = epoch(bunch(lists))
    assert made == ["late", *["early"] * 7] * 2
    monkeypatch.setattr(early, "MOST_IN_VAIN", 0)
    made.clear()
    assert same(ours, epoch(bunch(lists))) and set(made) == {"late"}
    assert "memlist-early" not in {one.name[:13] for one in threading.enumerate()}


def test_they_are_those_of_stock_fastai(pictures: Path, made: List[str]) -> None:
    ours = epoch(bunch(classes(m.MemoryImageList, pictures).load_data(progress=False)))
    stock = classes(ImageList, pictures).databunch(bs=2, num_workers=0, device=CPU).normalize(imagenet_stats)
    for one, other in zip(ours, epoch(stock)):
        if one.dtype is torch.float32:
            assert (one - other).abs().max() < 1e-3
        else:
            assert torch.equal(one, other)  # labels, and the generators after each batch


@pytest.mark.parametrize("draw, kept", [(np.random.rand, True), (random.random, False), (lambda: torch.rand(1), False)])
def test_a_training_that_draws_gets_the_numbers_of_stock_and_so_do_the_transforms(
    draw: Callable[[], Any], kept: bool, pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    "Nothing of a batch is drawn from NumPy; after three batches in vain no more are made early in that epoch."
    lists = classes(m.MemoryImageList, pictures).load_data(progress=False)
    drawn: List[float] = []

    def training(k: int) -> None:
        drawn.append(float(draw()))

    ours = epoch(bunch(lists), training)
    assert made.count("early") == (14 if kept else 0)
    first, drawn = drawn, []
    monkeypatch.setattr(early, "MOST_IN_VAIN", 0)
    assert same(ours, epoch(bunch(lists), training)) and first == drawn


def test_a_training_that_draws_once_costs_one_batch(pictures: Path, made: List[str]) -> None:
    data = bunch(classes(m.MemoryImageList, pictures).load_data(progress=False))
    epoch(data, lambda k: random.random() if k == 3 else None)
    assert made == [*["late", *["early"] * 3], "late", *["early"] * 3] * 2


def _tfms_off(data: Any) -> None:
    data.train_ds.tfms = []


def _size(data: Any) -> None:
    data.train_ds.tfmargs = {**data.train_ds.tfmargs, "size": 16}


def _label(data: Any) -> None:
    data.train_ds.y.items[:] = 1 - data.train_ds.y.items


def _items(data: Any) -> None:
    data.train_ds.x.items[:] = data.train_ds.x.items[::-1].copy()


def _purge(data: Any) -> None:
    data.purge()


def _purge_and_load_others(data: Any) -> None:
    "Their records lie where those of the former images lay."
    for k, file in enumerate(data.train_ds.x.items):
        photo(50 + k, 40, 60).save(file)
    data.purge()
    data.train_ds.load_data(progress=False)


def _item(data: Any) -> None:
    data.train_ds.item = photo_item()


def photo_item() -> Any:
    from fastai.vision import pil2tensor
    from fastai.vision.image import Image

    return Image(pil2tensor(photo(99, 40, 60), np.float32).div_(255))


@pytest.mark.parametrize("change", [_tfms_off, _size, _label, _items, _purge, _purge_and_load_others, _item])
def test_what_is_changed_between_two_batches_counts_for_the_next(
    change: Callable[[Any], None], pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def both() -> List[Any]:
        for k, file in enumerate(sorted(pictures.rglob("*.png"))):
            photo(k, 40, 60).save(file)
        data = bunch(classes(m.MemoryImageList, pictures).load_data(progress=False))
        found = epoch(data, lambda k: change(data) if k == 2 else None)
        data.train_ds.item = None
        return found

    ours = both()
    assert "early" in made
    monkeypatch.setattr(early, "MOST_IN_VAIN", 0)
    made.clear()
    assert same(ours, both()) and "early" not in made


@pytest.mark.parametrize("where", ["while it is made", "before it is asked for"])
def test_a_batch_of_images_that_are_purged_is_made_anew_even_if_others_lie_in_their_place(
    where: str, pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bunch(classes(m.MemoryImageList, pictures).load_data(progress=False))
    monkeypatch.setattr(early.np, "array_equal", lambda one, other: len(one) == len(other))  # as if they did
    make_all, calls = Maker.make_all, []

    def purged(self: Maker, parts: Any) -> Any:
        calls.append(threading.current_thread().name[:13])
        if where == "while it is made" and calls == ["MainThread", *["memlist-early"] * 3]:
            _purge_and_load_others(data)
        return make_all(self, parts)

    monkeypatch.setattr(Maker, "make_all", purged)
    for k, _ in enumerate(data.train_dl):
        if where != "while it is made" and k == 2:
            _purge_and_load_others(data)
    assert made == ["late", "early", "early", "late", *["early"] * 4]


def test_a_target_that_repeats_a_draw_from_elsewhere_repeats_the_last_one(
    pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def turned() -> List[Any]:
        data = bunch(masks(None, pictures).load_data(progress=False))
        own = flip_lr(p=0.5)
        own.resolve()
        own.do_run = True  # whatever was drawn
        data.train_ds.tfms_y = [own]
        return epoch(data, lambda k: setattr(own, "do_run", k % 3 == 1))

    ours = turned()
    monkeypatch.setattr(early, "MOST_IN_VAIN", 0)
    assert same(ours, turned())


def test_an_epoch_that_is_left_leaves_the_generators_sizes_and_hits_of_the_batches_that_were_taken(
    pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def left() -> Tuple[Any, ...]:
        lists = classes(m.MemoryImageList, pictures).load_data(progress=False)
        data = bunch(lists)
        lists.train.x.sizes.clear()
        hits = lists.train.x.cache_info().hits
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(7)
        for k, _ in enumerate(data.train_dl):
            if k == 3:
                break
        transforms = [(one.resolved, one.do_run) for one in data.train_ds.tfms]
        return generators(), sorted(lists.train.x.sizes), lists.train.x.cache_info().hits - hits, str(transforms)

    ours = left()
    assert "early" in made and len(ours[1]) == 8 == ours[2]
    monkeypatch.setattr(early, "MOST_IN_VAIN", 0)
    assert ours == left()


@pytest.mark.parametrize(
    "tfms, all_early",
    [(get_transforms(flip_vert=True), True), ([dihedral(), *get_transforms()[0]], True), ([cutout(p=1.0)], False)],
)
def test_transforms_that_draw_in_another_way_are_made_when_asked_for(
    tfms: Any, all_early: bool, pictures: Path, made: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    "`cutout` draws from NumPy once the size of its image is known."
    tfms = tfms if isinstance(tfms, tuple) else (tfms, [])
    lists = classes(m.MemoryImageList, pictures, tfms).load_data(progress=False)
    ours = epoch(bunch(lists))
    assert ("early" in made) is all_early
    monkeypatch.setattr(early, "MOST_IN_VAIN", 0)
    assert same(ours, epoch(bunch(lists)))


def test_an_error_comes_with_its_batch(pictures: Path, made: List[str]) -> None:
    data = bunch(classes(m.MemoryImageList, pictures).load_data(progress=False))
    arrived = 0
    with pytest.raises(IndexError):
        for k, _ in enumerate(data.train_dl):
            arrived = k + 1
            if k == 2:
                data.train_ds.y.items = data.train_ds.y.items[:0]
    assert arrived == 3
