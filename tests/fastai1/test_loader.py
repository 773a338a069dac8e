"""The loaders of `batch_tfms=True`: workers, memory, normalisation, and everything that fastai does with a loader."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import threading
from pathlib import Path
from typing import Any, List, Set

import fastai.vision as fv
import numpy as np
import PIL.Image
import pytest
import torch
from batch_helpers import (
    TRAIN,
    VALID,
    assert_close,
    assert_near,
    assert_same_epochs,
    bunches,
    classification,
    labelled_images,
    same_mask,
    small_learner,
)
from batch_helpers import masks as masks
from batch_helpers import schedule as schedule
from conftest import in_child, photo, seed
from devices import Device
from fastai.data_block import LabelList
from fastai.vision import (
    Image,
    ImageImageList,
    ImageList,
    get_transforms,
    imagenet_stats,
    noop,
)
from torch.utils.data import RandomSampler

import memlist as m
from memlist.batch import packed, sending
from memlist.batch.buffers import SHARED
from memlist.batch.packed import Packed
from memlist.batch.sending import Batch
from memlist.batch.staging import Staging
from memlist.fastai1 import loader


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_draw_what_stock_workers_draw(photos: Path, workers: int) -> None:
    ours, stock = (classification(cls, photos) for cls in (m.MemoryImageList, ImageList))
    assert_same_epochs(*bunches(ours, stock, num_workers=workers))


@pytest.mark.parametrize("strategy", sorted(torch.multiprocessing.get_all_sharing_strategies()))
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_batch_keeps_its_memory_while_a_part_of_it_is_in_use(photos: Path, workers: int, strategy: str) -> None:
    "Memory is reused in this epoch and the next, except that of a batch of which a slice is still in use."
    made = classification(m.MemoryImageList, photos, size=320)().databunch(
        batch_tfms=True, bs=1, num_workers=workers, device=torch.device("cpu")
    )
    kept: List[Any] = []
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy(strategy)
    try:
        for k in range(3):
            seed(k)
            for at, (x, _y) in enumerate(made.train_dl):
                if at % 3 == 0:  # the others are dropped, and later batches reuse their memory
                    kept.append((x[:, 1:], x[:, 1:].clone()))
                del x, _y
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
    assert len(kept) > 6
    for x, x_then in kept:
        assert torch.equal(x, x_then)


@pytest.mark.parametrize("kind", ["images", "image targets", "masks"])
def test_a_worker_shares_at_most_four_times_the_batch_with_a_device(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Pictures of 1200 x 900 for images of 64 x 64; what arrives is what lies in shared memory."
    for k in range(8):
        photo(k, 900, 1200).save(tmp_path / f"{k}.png")
        PIL.Image.fromarray(np.full((900, 1200), k, np.uint8)).save(tmp_path / f"{k}.mask.png")
    cls, label, known = {
        "images": (m.MemoryImageList, lambda path: "one", {}),
        "image targets": (m.MemoryImageImageList, noop, {}),
        "masks": (m.MemorySegmentationItemList, lambda path: path.with_suffix(".mask.png"), {"classes": range(8)}),
    }[kind]
    chosen = cls.from_folder(tmp_path).filter_by_func(lambda path: "mask" not in path.name)
    lists = chosen.split_by_rand_pct(0.25, seed=1).label_from_func(label, **known)
    lists = lists.transform(get_transforms(), size=64, tfm_y=kind != "images")
    monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", True)
    arrived: List[int] = []
    on = Batch.on

    def watched(self: Batch, device: Any, move: Any) -> Any:
        arrived.append(sum(shared_bytes(one.data) for one in (self.x, self.y) if isinstance(one, Packed)))
        return on(self, device, move)

    monkeypatch.setattr(Batch, "on", watched)
    data = lists.databunch(batch_tfms=True, bs=3, num_workers=2, device=torch.device("cpu"))
    made = [sum(one.numel() * one.element_size() for one in b if one.dim() == 4) for b in data.train_dl]
    assert len(made) == len(arrived) == 2
    for n, most in zip(arrived, made):
        assert 0 < n <= 4 * most


@pytest.mark.parametrize("sampler", ["stock", "own"])
def test_batches_are_taken_to_the_device_ahead_unless_a_sampler_may_draw_in_between(
    photos: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", True)
    threads: Set[str] = set()
    on = Batch.on

    def watched(self: Batch, device: Any, move: Any) -> Any:
        threads.add(threading.current_thread().name)
        return on(self, device, move)

    monkeypatch.setattr(Batch, "on", watched)

    class Draws(RandomSampler):
        "Draw for each index; training draws, too."

        def __iter__(self) -> Any:
            return (int(torch.randint(len(self.data_source), (1,))) for _ in self.data_source)

    def epoch(kind: Any, **kwargs: Any) -> List[torch.Tensor]:
        data = classification(kind, photos)().databunch(bs=2, num_workers=2, device=torch.device("cpu"), **kwargs)
        if sampler == "own":
            data.train_dl = data.train_dl.new(shuffle=False, sampler=Draws(data.train_ds))
        torch.manual_seed(3)
        return [one for x, y in data.train_dl for one in (x, y, torch.rand(2))]

    ours = epoch(m.MemoryImageList, batch_tfms=True)
    assert threads == ({"memlist-ahead"} if sampler == "stock" else {threading.current_thread().name})
    stock = epoch(ImageList)
    assert len(ours) == len(stock) > 6
    assert all(torch.allclose(a.float(), b.float(), atol=1e-3) for a, b in zip(ours, stock))


def shared_bytes(tensor: torch.Tensor) -> int:
    "Return the bytes of the shared memory that `tensor` lies in."
    storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()
    assert storage.is_shared()
    return len(storage) * storage.element_size()


def test_an_epoch_reuses_the_memory_of_the_last_one_and_purge_frees_it(photos: Path) -> None:
    made = classification(m.MemoryImageList, photos, size=400)().databunch(
        batch_tfms=True, bs=3, num_workers=0, device=torch.device("cpu")
    )
    addresses: List[List[int]] = []
    for _ in range(3):
        addresses.append([])
        for x, _y in made.train_dl:
            addresses[-1].append(x.data_ptr())
    assert set(addresses[1]) == set(addresses[2]) <= set(addresses[0])
    made.valid_dl.new(shuffle=False)  # one more of the same kind
    buffers = made.train_dl.buffers
    assert buffers is made.valid_dl.buffers and buffers is made.train_dl.new(shuffle=False).buffers
    del x
    assert buffers._free
    made.purge()
    assert not buffers._free


def other_scale(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None and type(info.dataset) is LabelList
    info.dataset.tfms[0].kwargs["scale"] = (1.7, 1.9)


def test_spawned_workers_equal_stock(photos: Path) -> None:
    "These transforms can be pickled; half of fastai's cannot, `get_transforms()` among them."
    tfms = ([fv.rand_zoom(scale=(1.0, 1.5)), fv.crop_pad()], [])
    ours, stock = (classification(cls, photos, tfms) for cls in (m.MemoryImageList, ImageList))
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        made = bunches(ours, stock, num_workers=1, worker_init_fn=other_scale)
        for data in made:
            data.valid_dl = []  # each loader imports fastai in its workers
        assert_same_epochs(*made, epochs=1)
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("moment", ["before", "after", "never", "targets too"])
def test_normalised_batches_equal_stock(photos: Path, moment: str, schedule: str) -> None:
    "Batches are normalised as they are made, targets too if so asked, unless a transform comes before that."

    def halved(b: Any) -> Any:
        return b[0] / 2, b[1]

    made = bunches(
        labelled_images(m.MemoryImageImageList, photos), labelled_images(ImageImageList, photos), normalise=False
    )
    for data in made:
        if moment == "after":
            data.add_tfm(halved)
        if moment != "never":
            data.normalize(imagenet_stats, do_y=moment == "targets too")
        if moment == "before":
            data.add_tfm(halved)
    assert_same_epochs(*made)


@pytest.mark.parametrize("do_x", [True, False])
@pytest.mark.parametrize("kind", ["masks", "labels"])
def test_targets_other_than_images_are_normalised_by_fastai(masks: Path, kind: str, do_x: bool) -> None:
    "If one side can't be normalised as it is made, fastai normalises both."

    def of(cls: Any) -> Any:
        lists = cls.from_folder(masks).split_by_rand_pct(0.3, seed=1)
        if kind == "labels":
            return lambda: lists.label_from_folder().transform((TRAIN, VALID), size=24)
        labelled = lists.label_from_func(same_mask, classes=list(range(4)))
        return lambda: labelled.transform((TRAIN, VALID), size=24, tfm_y=True)

    ours = m.MemorySegmentationItemList if kind == "masks" else m.MemoryImageList
    made = bunches(of(ours), of(fv.SegmentationItemList if kind == "masks" else ImageList), normalise=False)
    for data in made:
        data.normalize(imagenet_stats, do_x=do_x, do_y=True)
    assert_same_epochs(*made)


def test_the_normalisation_of_targets_may_be_removed_within_an_epoch(photos: Path) -> None:
    made = bunches(
        labelled_images(m.MemoryImageImageList, photos), labelled_images(ImageImageList, photos), normalise=False
    )
    seen: List[List[Any]] = [[], []]
    for data, batches in zip(made, seen):
        data.normalize(imagenet_stats, do_x=False, do_y=True)
        seed(0)
        for k, b in enumerate(data.train_dl):
            batches.append(b)
            if k == 1:
                data.train_dl.remove_tfm(data.train_dl.tfms[0])
    for one, other in zip(*seen):
        assert_near(one[0], other[0], 1e-3)
        assert_near(one[1], other[1], 5e-3)


def test_a_transform_may_be_removed_within_an_epoch(photos: Path) -> None:
    ours, stock = bunches(classification(m.MemoryImageList, photos), classification(ImageList, photos))
    for data in (ours, stock):
        seed(0)
        data.seen = []
        for k, b in enumerate(data.train_dl):
            data.seen.append(b)
            if k == 1:
                data.train_dl.remove_tfm(data.train_dl.tfms[0])
    for one, other in zip(ours.seen, stock.seen):
        assert_near(one[0], other[0], 1e-3)


def test_fit_predict_tta_and_interpretation_equal_stock(photos: Path, tmp_path: Path, schedule: str) -> None:
    "Losses, predictions, TTA, interpretation and `predict` equal stock's under the same seed."
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    found = []
    for data in made:
        learn = small_learner(data)
        seed(1)
        learn.fit(2)
        losses = torch.tensor([float(loss) for loss in learn.recorder.losses])
        seed(2)
        tta = learn.TTA()[0]
        interpretation = fv.ClassificationInterpretation.from_learner(learn)
        item = data.valid_ds[0][0]
        found.append(
            [
                losses,
                learn.get_preds()[0],
                learn.get_preds(fv.DatasetType.Fix)[0],
                tta,
                interpretation.losses,
                learn.predict(item)[2],
                data.one_batch()[0],
                data.one_item(item)[0],
            ]
        )
        data.show_batch(2)
        interpretation.plot_top_losses(2, heatmap=False)
        fv.plt.close("all")
        seed(3)
        learn.lr_find(num_it=3)
    for one, other in zip(*found):
        assert_near(one, other, 2e-3)
    assert (found[0][0] - found[1][0]).abs().max() < 1e-4


def test_half_precision_equals_stock(photos: Path) -> None:
    "`to_fp16` adds a transform to the loaders; on a CPU that is all there is to test."
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    for data in made:
        data.add_tfm(fv.batch_to_half)
    seed(0)
    one = next(iter(made[0].train_dl))
    seed(0)
    other = next(iter(made[1].train_dl))
    assert one[0].dtype == other[0].dtype == torch.float16
    assert (one[0].float() - other[0].float()).abs().max() < 4e-3


def test_predictions_of_test_sets_exports_and_saved_data_equal_stock(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    found = []
    for k, data in enumerate(made):
        data.add_test(files[:5])
        assert (type(data.test_dl) is loader.BatchDeviceDataLoader) == (k == 0)
        learn = small_learner(data)
        found.append(learn.get_preds(fv.DatasetType.Test)[0])
        learn.export(tmp_path / f"{k}.pkl")
        assert b"memlist" not in (tmp_path / f"{k}.pkl").read_bytes()
        again = fv.load_learner(tmp_path, f"{k}.pkl", test=ImageList(files[:5], path=photos))
        found.append(again.get_preds(fv.DatasetType.Test)[0])
        data.path = tmp_path
        data.save(f"{k}.data")
    for other in found[1:]:
        assert_near(found[0], other, 1e-4)
    loaded = fv.load_data(tmp_path, "0.data", bs=4, num_workers=0, batch_tfms=True)
    assert type(loaded.train_dl) is loader.BatchDeviceDataLoader
    twin = copy.deepcopy(made[0])
    seed(0)
    one = next(iter(twin.train_dl))
    seed(0)
    assert torch.equal(one[0], next(iter(made[0].train_dl))[0])


def test_the_factories_pass_batch_tfms_on(photos: Path) -> None:
    data = m.MemoryImageDataBunch.from_folder(
        photos, valid_pct=0.3, seed=1, ds_tfms=get_transforms(), size=24, bs=4, num_workers=0, batch_tfms=True
    )
    assert type(data.train_dl) is loader.BatchDeviceDataLoader
    assert data.one_batch()[0].shape == (4, 3, 24, 24)


def test_loaders_can_be_changed(photos: Path) -> None:
    "Batch size, order and `drop_last` can be changed as in stock's loaders."
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    for data in made:
        data.batch_size = 5
        data.train_dl = data.train_dl.new(shuffle=False, drop_last=False)
        data.valid_dl.dl = data.valid_dl.dl.__class__(data.valid_ds, 2, num_workers=0, collate_fn=fv.data_collate)
    assert_same_epochs(*made)
    assert type(made[0].train_dl.dl) is torch.utils.data.DataLoader
    assert made[0].train_dl.dataset is made[0].train_ds
    x, _ = made[0].train_dl.dataset[0]
    assert type(x) is Image


def test_parallel_and_interrupted_iterations_equal_stock(photos: Path) -> None:
    "Two iterations over one loader at once, and one left early, give stock's batches and leave no thread."
    torch.set_num_threads(2)
    try:
        ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
        before = threading.active_count()
        for k in range(3):
            found = []
            for data in (ours, stock):
                seed(k)
                found.append([(a, b) for a, b in zip(data.train_dl, data.valid_dl)])
                for b in data.train_dl:
                    found[-1].append((b, b))
                    break
            for one, other in zip(*found):
                assert_close(list(one), list(other))
        gc.collect()
        assert threading.active_count() == before
    finally:
        torch.set_num_threads(1)


def test_callers_may_change_and_keep_batches(photos: Path) -> None:
    "Changing or keeping a batch does not affect later ones."
    ours, stock = bunches(*(classification(cls, photos, size=120) for cls in (m.MemoryImageList, ImageList)))
    kept, wanted = [], []
    seed(0)
    for _ in range(3):
        for x, _ in ours.train_dl:
            kept.append(x)
            x[:, :, ::2] = -1.0
    seed(0)
    for _ in range(3):
        for x, _ in stock.train_dl:
            x[:, :, ::2] = -1.0
            wanted.append(x)
    for one, other in zip(kept, wanted):
        assert_close(one, other)


def test_losses_with_mixup_equal_stock(photos: Path) -> None:
    "Losses equal stock's with a callback that mixes images."
    losses = []
    for data in bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList))):
        learn = small_learner(data).mixup()
        seed(1)
        learn.fit(2)
        losses.append(torch.tensor([float(loss) for loss in learn.recorder.losses]))
    assert_near(losses[0], losses[1], 1e-4)


def test_batches_equal_stock_after_a_process_is_killed(photos: Path) -> None:
    ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), num_workers=2)

    def die() -> None:
        for _ in ours.train_dl:
            import os

            os.kill(os.getpid(), 9)

    in_child(die)
    assert_same_epochs(ours, stock, epochs=1)


def test_statistics_in_float64_give_batches_in_float64(photos: Path) -> None:
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), normalise=False)
    for data in made:
        data.normalize((np.array([0.5] * 3), np.array([0.2] * 3)))
    assert_same_epochs(*made)
    assert next(iter(made[0].train_dl))[0].dtype == torch.float64


@pytest.mark.parametrize(
    "former", ["batches.BatchDeviceDataLoader", "batches.Batch", "buffers.Buffers", "draws.Pipeline", "geometry.Plan"]
)
def test_old_pickles_find_classes_in_former_modules(former: str) -> None:
    module, name = former.split(".")
    assert pickle.loads(f"cmemlist.{module}\n{name}\n.".encode()).__name__ == name


class Cycle:
    "Be garbage that only a collection frees, and write down in which process that is."

    def __init__(self, told: Path) -> None:
        self.told, self.me = told, self

    def __del__(self) -> None:
        with self.told.open("a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.mark.parametrize("on_device", [True, False])
def test_a_worker_leaves_the_garbage_of_the_process_that_forked_it_alone(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    "It may hold tensors of a GPU, and a forked process that frees one is ended."
    monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", on_device)
    data = classification(m.MemoryImageList, photos)().databunch(
        batch_tfms=True, bs=4, num_workers=2, device=torch.device("cpu"), worker_init_fn=lambda _: gc.collect()
    )
    gc.collect()
    gc.disable()
    try:
        Cycle(tmp_path / "told")
        assert len(list(data.train_dl)) > 1 and gc.get_freeze_count() == 0
        assert not (tmp_path / "told").exists()
    finally:
        gc.enable()
    gc.collect()
    assert (tmp_path / "told").read_text().split() == [str(os.getpid())]


def test_workers_blocks_stay_mapped_and_locked_for_an_epoch(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A device is stood in for: batches are pinned as torch's loaders pin them where there is one."
    device = Device()
    memory, locked = Staging(device), []
    on = Batch.on

    def pinned(self: Batch, *given: Any) -> Any:
        made = on(self.pin_memory(), *given)
        locked.append(set(device.locked))
        return made

    for module in (packed, loader):
        monkeypatch.setattr(module, "staging", lambda: memory)
    monkeypatch.setattr(sending, "pin_memory", noop)
    monkeypatch.setattr(Batch, "on", pinned)
    monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", True)

    def epoch(kind: Any, **kwargs: Any) -> List[torch.Tensor]:
        data = classification(kind, photos)().databunch(bs=1, num_workers=2, device=torch.device("cpu"), **kwargs)
        seed(3)
        return [one for x, y in data.train_dl for one in (x.clone(), y)]

    ours, stock = epoch(m.MemoryImageList, batch_tfms=True), epoch(ImageList)
    assert len(locked) > 12 and max(map(len, locked)) <= 2 * (2 + SHARED) and not device.locked
    assert len(set.union(*locked)) < len(locked)
    assert all(torch.allclose(a.float(), b.float(), atol=1e-3) for a, b in zip(ours, stock))
