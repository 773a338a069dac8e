"""`databunch(batch_tfms=True)`: under one seed the batches that stock makes, whatever is drawn; all else as stock."""

from __future__ import annotations

import copy
import gc
import importlib.util
import multiprocessing
import random
import threading
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import fastai.vision as fv
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import assert_same_data, in_child, photo, seed
from fastai.vision import (
    Image,
    ImageImageList,
    ImageList,
    ImageSegment,
    ObjectItemList,
    PointsItemList,
    ResizeMethod,
    SegmentationItemList,
    bb_pad_collate,
    get_transforms,
    imagenet_stats,
    noop,
)
from fastai.vision.gan import GANItemList
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import memlist as m
from memlist.batch import cpu, render
from memlist.batch.buffers import NewMemory
from memlist.batch.gathered import gather
from memlist.batch.maker import Maker
from memlist.batch.pixels import Pixels
from memlist.batch.sending import Packed
from memlist.batch.threads import ONE_THREAD
from memlist.fastai1 import collate, images, loader, planner
from memlist.fastai1 import pipelines as pipes

FAST = importlib.util.find_spec("numba") is not None
SCHEDULES = ["compiled", "torch", "device"] if FAST else ["torch", "device"]
TRAIN, VALID = get_transforms()


def generators() -> List[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def assert_close(ours: Any, stock: Any) -> None:
    "Promise 3 of the issue: 99.9 % of the values within 1e-3, 1e-5 in the mean; all else equal."
    assert type(ours) is type(stock)
    if isinstance(stock, (tuple, list)):
        assert len(ours) == len(stock)
        for one, other in zip(ours, stock):
            assert_close(one, other)
    elif isinstance(stock, torch.Tensor) and stock.is_floating_point() and stock.dim() == 4:
        assert ours.dtype == stock.dtype and ours.shape == stock.shape
        away = (ours.double() - stock.double()).abs()
        assert float((away <= 1e-3).double().mean()) >= 0.999
        assert float(away.mean()) <= 1e-5
    else:
        assert_same_data(ours, stock)


def assert_near(one: torch.Tensor, other: torch.Tensor, most: float) -> None:
    assert one.shape == other.shape and one.dtype == other.dtype
    assert float((one.double() - other.double()).abs().max()) <= most


@pytest.fixture(params=SCHEDULES)
def schedule(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    "The compiled kernels, torch's form without them, and what is done for a GPU, on the CPU."
    if request.param == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    if request.param == "device":
        monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", True)
    return str(request.param)


def bunches(
    ours: Callable[[], Any], stock: Callable[[], Any], normalise: bool = True, **kwargs: Any
) -> Tuple[Any, Any]:
    "The two data bunches, ours with `batch_tfms`."
    kwargs = {"bs": 4, "num_workers": 0, "device": torch.device("cpu"), **kwargs}
    made = ours().databunch(batch_tfms=True, **kwargs), stock().databunch(**kwargs)
    return tuple(one.normalize(imagenet_stats) if normalise else one for one in made)  # type: ignore[return-value]


def assert_same_epochs(ours: Any, stock: Any, epochs: int = 2) -> None:
    "Train and valid, batch for batch, and the generators after each epoch."
    assert type(ours.train_dl) is loader.BatchDeviceDataLoader
    for k in range(epochs):
        seed(k)
        mine = [*ours.train_dl, *ours.valid_dl]
        after = generators()
        seed(k)
        theirs = [*stock.train_dl, *stock.valid_dl]
        assert len(mine) == len(theirs) > 0
        for one, other in zip(mine, theirs):
            assert_close(one, other)
        assert after == generators()


def classification(cls: type, folder: Path, tfms: Any = (TRAIN, VALID), **kwargs: Any) -> Callable[[], Any]:
    kwargs = {"size": 24, **kwargs}
    return lambda: cls.from_folder(folder).split_by_rand_pct(0.3, seed=1).label_from_folder().transform(tfms, **kwargs)  # type: ignore[attr-defined]


# -- every transform, in any combination ----------------------------------------------------------------------


def one_transform() -> Any:
    "Any transform of fastai's, with parameters that it is used with."
    p = st.sampled_from([1.0, 0.5])
    span = st.sampled_from([(-0.2, 0.2), (0.0, 0.3)])
    return st.one_of(
        st.builds(lambda p: fv.flip_lr(p=p), p),
        st.builds(lambda p: fv.dihedral(p=p), p),
        st.builds(lambda p: fv.dihedral_affine(p=p), p),
        st.builds(lambda p: fv.flip_affine(p=p), p),
        st.builds(lambda d, p: fv.rotate(degrees=(-d, d), p=p), st.sampled_from([10, 45, 180]), p),
        st.builds(lambda p: fv.rand_zoom(scale=(0.8, 1.5), p=p), p),
        st.builds(lambda p: fv.zoom(scale=(1.0, 1.2), p=p), p),
        st.builds(lambda p: fv.squish(scale=(0.7, 1.4), row_pct=(0, 1), col_pct=(0, 1), p=p), p),
        st.builds(lambda s, p: fv.symmetric_warp(magnitude=s, p=p), span, p),
        st.builds(lambda s, i, p: fv.perspective_warp(magnitude=s, invert=i, p=p), span, st.booleans(), p),
        st.builds(lambda s, p: fv.tilt(direction=(0, 3), magnitude=s, p=p), span, p),
        st.builds(lambda s, p: fv.skew(direction=(0, 7), magnitude=s, p=p), span, p),
        st.builds(lambda p: fv.brightness(change=(0.1, 0.9), p=p), p),
        st.builds(lambda p: fv.contrast(scale=(0.5, 2.0), p=p), p),
        st.builds(lambda p: fv.jitter(magnitude=(-0.02, 0.02), p=p), p),
        st.builds(lambda p: fv.cutout(n_holes=(1, 3), length=(2, 9), p=p), p),
        st.builds(lambda p: fv.rgb_randomize(thresh=0.8, p=p), p),
        st.builds(lambda n, mode: fv.pad(padding=n, mode=mode), st.integers(1, 4), st.sampled_from(PADDINGS)),
        st.builds(lambda p: fv.rand_crop(p=p), st.just(1.0)),
        st.builds(lambda: fv.rand_resize_crop(16)[0]),
        st.builds(lambda: fv.brightness(change=0.7, is_random=False)),
        st.builds(lambda: fv.zoom(scale=1.3, row_pct=1, col_pct=0, is_random=False)),
    )


PADDINGS = ["reflection", "border", "zeros"]
SIZES = st.tuples(st.integers(20, 90), st.integers(20, 90))


@st.composite
def pipelines(draw: Any) -> Tuple[List[Any], Dict[str, Any]]:
    tfms = draw(st.lists(one_transform(), max_size=5))
    n = draw(st.sampled_from([16, 24, 33]))
    size = draw(st.sampled_from([n, (n, n + 7)]))
    arguments: Dict[str, Any] = {"size": size}
    method = draw(st.sampled_from([None, ResizeMethod.CROP, ResizeMethod.PAD, ResizeMethod.SQUISH]))
    if method is not None:
        arguments["resize_method"] = method
    arguments["padding_mode"] = draw(st.sampled_from(PADDINGS))
    if draw(st.booleans()):
        arguments["mult"] = draw(st.sampled_from([4, 8]))
    if draw(st.integers(0, 7)) == 0:
        arguments["mode"] = "nearest"
    return tfms, arguments


def picture(height: int, width: int, i: int) -> np.ndarray:
    return np.asarray(photo(i, height, width))


def stock_images(arrays: Sequence[np.ndarray], tfms: Any, mask: bool, **arguments: Any) -> torch.Tensor:
    made = []
    for array in arrays:
        px = fv.pil2tensor(array, np.float32)
        image = ImageSegment(px) if mask else Image(px.div_(255))
        made.append(image.apply_tfms(tfms, **arguments).data)
    return torch.stack(made)


def our_images(arrays: Sequence[np.ndarray], tfms: Any, mask: bool, on_device: bool, **arguments: Any) -> torch.Tensor:
    pipeline = pipes.pipeline_of(tfms, arguments)
    assert pipeline is not None
    tasks = []
    for array in arrays:
        pixels = Pixels(
            array if array.ndim == 3 else array[..., None], 1 if mask else 255, ImageSegment if mask else Image
        )
        drawn = pipeline.draw()
        tasks.append(images.ImageTask(pixels, pipeline, drawn, pipeline.draw_for_size(drawn, pixels.shape)))
    made = images.make_images(tasks, Maker(NewMemory(), ONE_THREAD, on_device))
    return made.make(torch.device("cpu")) if isinstance(made, Packed) else made


def compared(case: Tuple[List[Any], Dict[str, Any]], sizes: List[Tuple[int, int]], schedule: str, start: int) -> None:
    tfms, arguments = case
    arrays = [picture(h, w, i) for i, (h, w) in enumerate(sizes)]
    results, states = [], []
    for make in (
        lambda: our_images(arrays, tfms, False, schedule == "device", **arguments),
        lambda: stock_images(arrays, tfms, False, **arguments),
    ):
        seed(start)
        try:
            results.append(make())
        except Exception as error:  # too little to reflect, a hole that is larger than the picture: as in stock
            results.append(type(error))
        states.append(generators())
    if isinstance(results[1], type):
        assert results[0] is results[1]
        return
    assert states[0] == states[1]
    near, stock = results
    assert near.shape == stock.shape and near.dtype == stock.dtype
    away = (near.double() - stock.double()).abs()
    if arguments.get("mode") == "nearest":  # a coordinate may lie on a tie
        assert float((away <= 1e-3).double().mean()) >= 0.97
        return
    # A picture so small has few values, and a rotation that shows zeros beside it an edge of one of them.
    assert float((away <= 1e-3).double().mean()) >= 0.999
    assert float(away.mean()) <= 1e-5


SWEEP = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=150, **SWEEP)
@given(pipelines(), st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 1000))
@pytest.mark.parametrize("how", SCHEDULES)
def test_any_combination(how: str, case: Any, sizes: Any, start: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if how == "torch":
            patch.setattr(cpu, "_kernels", lambda: None)
        compared(case, sizes, how, start)


@pytest.mark.full
@settings(max_examples=3000, **SWEEP)
@given(pipelines(), st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 1000))
@pytest.mark.parametrize("how", SCHEDULES)
def test_any_combination_at_length(how: str, case: Any, sizes: Any, start: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if how == "torch":
            patch.setattr(cpu, "_kernels", lambda: None)
        compared(case, sizes, how, start)


# -- what the sweep is too small for --------------------------------------------------------------------------


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [(28, 28), (224, 299), (1, 7), (640, 333)])
def test_pixels_that_need_no_mixing_are_the_source_s_own(
    how: str, mirrored: bool, size: Tuple[int, int], monkeypatch: Any
) -> None:
    "A picture that has the size that is asked for: sampled at its own pixels, up to the error of their coordinates."
    if how == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    array, flips = picture(*size, 3), [fv.flip_lr(p=1.0)] if mirrored else []
    wanted = torch.from_numpy(array.copy()).permute(2, 0, 1).float().div(255)
    wanted = wanted.flip(-1) if mirrored else wanted
    side = min(size)
    for tfms, arguments, (top, left) in (
        (flips, {"size": size}, (0, 0)),  # through coordinates between -1 and 1
        # The shorter side is what is asked for, and the longer one is cropped.
        ([*flips, fv.crop_pad()], {"size": side}, ((size[0] - side + 1) // 2, (size[1] - side + 1) // 2)),
    ):
        made = our_images([array], tfms, False, how == "device", **arguments)[0]
        height, width = made.shape[1:]
        assert_near(made, wanted[:, top : top + height, left : left + width], 1e-4)
        seed(0)
        stock = stock_images([array], tfms, False, **arguments)[0]
        assert_near(made, stock, 1e-4)


def test_one_column_or_row_off_the_grid_is_mixed() -> None:
    "What is copied must not be taken for what lies half a pixel, or a tenth of one, beside it."
    arrays = [picture(60, 80, 1)]
    for size in ((60, 79), (59, 80), (61, 80), (60, 82), (120, 80)):
        ours, stock = (
            make(arrays, *rest, size=size, resize_method=fv.ResizeMethod.SQUISH)
            for make, rest in ((our_images, ([], False, False)), (stock_images, ([], False)))
        )
        assert_near(ours, stock, 1e-4)


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize("size", [(375, 500), (1000, 700), (2, 300), (28, 28)])
def test_shrinking_averages_first_as_stock_does(how: str, size: Tuple[int, int], monkeypatch: Any) -> None:
    "The area prefilter: whether, by how much, and decided from the whole flow and not from the crop."
    if how == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    for tfms in (TRAIN, VALID, [*fv.rand_resize_crop(64), fv.flip_lr(p=0.5)], [fv.zoom(scale=1.9), fv.rand_crop()]):
        compared((tfms, {"size": 64}), [size, (size[1], size[0])], how, 3)


def tie_distance(height: int, width: int, tfms: Any, **arguments: Any) -> torch.Tensor:
    "How far stock's coordinates in a mask are from a tie between two pixels, where they are sampled last."
    seen: List[torch.Tensor] = []
    sample = fv.image._grid_sample

    def spy(x: Any, coords: Any, **kwargs: Any) -> Any:
        n = torch.tensor([x.shape[2] - 1, x.shape[1] - 1]) / 2
        at = (coords.flow[0].double() + 1) * n
        seen.append(((at - at.floor()) - 0.5).abs().min(2)[0])
        return sample(x, coords, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fv.image, "_grid_sample", spy)
        ImageSegment(torch.zeros(1, height, width)).apply_tfms(tfms, **arguments)
    return seen[-1]


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_masks_are_equal_but_for_ties(how: str, padding: str, monkeypatch: Any) -> None:
    if how == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    # No pixel transforms, which would move pixels away from the coordinates they were sampled at.
    tfms = [t for t in get_transforms(do_flip=False, max_rotate=40.0)[0] if t.__name__ != "crop_pad"]
    arguments = {"size": (60, 70), "padding_mode": padding}
    for k in range(6):
        mask = np.random.RandomState(k).randint(0, 5, (90 + k, 130, 1)).astype(np.uint8)
        seed(k)
        ours = our_images([mask], tfms, True, how == "device", **arguments)
        seed(k)
        stock = stock_images([mask], tfms, True, **arguments)
        seed(k)
        clear = tie_distance(90 + k, 130, tfms, **arguments) > 1e-3
        assert ours.dtype == stock.dtype == torch.int64
        assert clear.float().mean() > 0.99
        same = (ours == stock)[0, 0][clear]
        assert float(same.double().mean()) >= 0.999


@pytest.mark.parametrize("how", SCHEDULES)
def test_old_torch_does_not_align_corners(how: str, monkeypatch: Any) -> None:
    "fastai compares versions as strings: '1.13.1' is below '1.2.0', and corners are not aligned then."

    class Old:
        __version__ = "1.13.1"

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    monkeypatch.setattr(fv.image, "torch", Old())
    if how == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    for padding in PADDINGS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compared((get_transforms(max_rotate=40.0)[0], {"size": 24, "padding_mode": padding}), [(50, 40)], how, 1)


def test_kernel_lighting_is_the_sigmoid_of_the_logit() -> None:
    pytest.importorskip("numba")
    from memlist.batch import kernels

    values = np.concatenate([[0, 1e-8, 1e-7, 1e-6, 1 - 1e-7, 1], np.linspace(0, 1, 20_000)]).astype(np.float32)
    for gain in (0.5, 0.8, 1.0, 1.25, 3.0):
        for bias in (-3.0, -0.2, 0.0, 0.4, 3.0):
            ours = values.copy()
            kernels._light(ours, np.float32(gain), np.float32(bias))
            # fastai's 1 / v - 1 has few digits where v is near 1, and it is fastai's that we are after.
            odds = torch.from_numpy(values).clamp(1e-7, 1 - 1e-7).reciprocal().sub(1).double()
            wanted = torch.sigmoid(bias - gain * torch.log(odds)).numpy()
            assert np.abs(ours - wanted).max() < 5e-7


# -- bunches --------------------------------------------------------------------------------------------------


def by_letter(path: Any) -> str:
    return Path(path).parent.name


def same_mask(path: Path) -> Path:
    return path.parent.parent.parent / "masks" / f"{path.stem}.png"


@pytest.fixture
def masks(photos: Path) -> Path:
    folder = photos.parent / "masks"
    folder.mkdir()
    for file in sorted(photos.rglob("*.jpg")):
        grey = np.asarray(PIL.Image.open(file).convert("L")) // 64
        PIL.Image.fromarray(grey).save(folder / f"{file.stem}.png")
    return photos


def dots(path: Any) -> torch.Tensor:
    return torch.tensor([[3.0, 4.0], [20.0, 30.0], [29.0, 1.0]])


def frames(path: Any) -> Any:
    n = 1 + int(Path(path).stem) % 3
    return [[[i, i + 1, 20 + i, 25.0] for i in range(n)], ["face"] * n]


def everything(photos: Path) -> Dict[str, Tuple[Callable[[], Any], Callable[[], Any], Dict[str, Any]]]:
    "Each kind of dataset, with ours and with stock's classes, and what its data bunch is asked for."
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


class OwnImage(Image):
    "Stock applies the transforms to what is not exactly an `Image`."


class Tinted(ImageImageList):
    def get(self, i: Any) -> Any:
        return OwnImage(super().get(i).px * 0.5)


class MemoryTinted(m.InMemory, Tinted):
    _label_cls = m.MemoryImageLabelList


class _Reduced:
    "`max_size` has no like in stock: the same list, with the keyword and without."

    @classmethod
    def from_folder(cls, path: Path) -> Any:
        return m.MemoryPointsItemList.from_folder(path, max_size=20)


def _same_sizes(lists: Any) -> Any:
    "Batches of targets as they are want them all of one size."
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
def test_every_kind_of_target(kind: str, masks: Path, schedule: str) -> None:
    ours, stock, kwargs = everything(masks)[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_epochs(*bunches(ours, stock, **kwargs))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_draw_what_stock_workers_draw(photos: Path, workers: int) -> None:
    ours, stock = (classification(cls, photos) for cls in (m.MemoryImageList, ImageList))
    assert_same_epochs(*bunches(ours, stock, num_workers=workers))


@pytest.mark.parametrize("strategy", sorted(torch.multiprocessing.get_all_sharing_strategies()))
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_stay_as_they_are_for_as_long_as_somebody_has_them(photos: Path, workers: int, strategy: str) -> None:
    "Memory is used again, in this epoch and the next, and never that of a batch of which somebody has a part."
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
                if at % 3 == 0:  # the others go, and their memory is free for those that follow
                    kept.append((x[:, 1:], x[:, 1:].clone()))
                del x, _y
    finally:
        torch.multiprocessing.set_sharing_strategy(before)
    assert len(kept) > 6
    for x, x_then in kept:
        assert torch.equal(x, x_then)


def test_the_next_epoch_finds_the_memory_of_the_last_and_purge_gives_it_back(photos: Path) -> None:
    made = classification(m.MemoryImageList, photos, size=400)().databunch(
        batch_tfms=True, bs=3, num_workers=0, device=torch.device("cpu")
    )
    places: List[List[int]] = []
    for _ in range(3):
        places.append([])
        for x, _y in made.train_dl:
            places[-1].append(x.data_ptr())
    assert set(places[1]) == set(places[2]) <= set(places[0])
    made.valid_dl.new(shuffle=False)  # one more of the same kind
    buffers = made.train_dl.buffers
    assert buffers is made.valid_dl.buffers and buffers is made.train_dl.new(shuffle=False).buffers
    del x
    assert buffers._free
    made.purge()
    assert not buffers._free


def test_spawned_workers(photos: Path) -> None:
    "Half of fastai's transforms can't be pickled, `get_transforms()` among them; these can, and need no repair."
    tfms = ([fv.rand_zoom(scale=(1.0, 1.5)), fv.crop_pad()], [])
    ours, stock = (classification(cls, photos, tfms) for cls in (m.MemoryImageList, ImageList))
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert_same_epochs(*bunches(ours, stock, num_workers=1), epochs=1)
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("moment", ["before", "after", "never", "targets too"])
def test_normalize(photos: Path, moment: str, schedule: str) -> None:
    "What is normalised as it is made, and what a transform that was put before it leaves to stock's code."

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


def labelled_images(cls: Any, photos: Path) -> Callable[[], Any]:
    return lambda: (
        cls.from_folder(photos)
        .split_by_rand_pct(0.3, seed=1)
        .label_from_func(noop)
        .transform((TRAIN, VALID), size=24, tfm_y=True)
    )


def test_a_transform_taken_away_in_an_epoch(photos: Path) -> None:
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


def test_cold_and_warm(photos: Path, schedule: str) -> None:
    "The first epoch fills the store, and the second finds all of it there."
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


def test_modes_and_channels(formats: Path, schedule: str) -> None:
    "L, RGB and RGBA, from any format, decoded to bytes, and to what bytes can't hold."
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
    "An `open` of a user's own: floats that are no bytes."

    def open(self, fn: Any) -> Image:
        image = super().open(fn)
        return Image(image.px * 0.37)


class MemoryHalves(m.InMemory, Halves):
    pass


class Drawing(ImageList):
    "An `open` that draws, between the draws of transforms."

    def open(self, fn: Any) -> Image:
        return Image(super().open(fn).px * random.uniform(0.5, 1.0))


class MemoryDrawing(m.InMemory, Drawing):
    pass


@pytest.mark.parametrize("pair", [(MemoryHalves, Halves), (MemoryDrawing, Drawing)])
def test_an_open_of_a_users_own(pair: Any, photos: Path, schedule: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_epochs(*bunches(*(classification(cls, photos) for cls in pair)))


def test_presize_and_after_open(photos: Path, schedule: str) -> None:
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    for data in made:
        data.presize(20)
    assert_same_epochs(*made)


# -- everything else as stock ---------------------------------------------------------------------------------


def small_learner(data: Any) -> Any:
    seed(5)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), fv.AdaptiveConcatPool2d(1), fv.Flatten())
    model = torch.nn.Sequential(body, torch.nn.Dropout(0.3), torch.nn.Linear(8, 2))
    return fv.Learner(data, model, metrics=[fv.accuracy])


def test_fit_predict_tta_and_interpretation(photos: Path, tmp_path: Path, schedule: str) -> None:
    "One seed, one training: losses, predictions, TTA, interpretation and predict."
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


def test_half_precision(photos: Path) -> None:
    "`to_fp16` adds a transform to the loaders; on a CPU no more than that can be looked at."
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    for data in made:
        data.add_tfm(fv.batch_to_half)
    seed(0)
    one = next(iter(made[0].train_dl))
    seed(0)
    other = next(iter(made[1].train_dl))
    assert one[0].dtype == other[0].dtype == torch.float16
    assert (one[0].float() - other[0].float()).abs().max() < 4e-3


def test_test_sets_export_save_and_copies(photos: Path, tmp_path: Path) -> None:
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


def test_the_factories_pass_it_on(photos: Path) -> None:
    data = m.MemoryImageDataBunch.from_folder(
        photos, valid_pct=0.3, seed=1, ds_tfms=get_transforms(), size=24, bs=4, num_workers=0, batch_tfms=True
    )
    assert type(data.train_dl) is loader.BatchDeviceDataLoader
    assert data.one_batch()[0].shape == (4, 3, 24, 24)


def test_loaders_that_are_changed(photos: Path) -> None:
    "Another batch size, a sampler, no dropping of the last batch: as stock's loaders take them."
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


def test_grey_images_and_statistics_of_three_channels(photos: Path, schedule: str) -> None:
    "Stock broadcasts: a batch of one channel comes out with three."
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


def test_iterations_side_by_side_and_broken_off(photos: Path) -> None:
    "Two at once over one loader, one left in the middle: each is stock's, and no thread stays."
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


def test_a_batch_is_the_callers(photos: Path) -> None:
    "What is done to it in place, and how long it is kept, changes nothing of what comes after."
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


def test_mixup(photos: Path) -> None:
    "A callback that makes a batch of two."
    losses = []
    for data in bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList))):
        learn = small_learner(data).mixup()
        seed(1)
        learn.fit(2)
        losses.append(torch.tensor([float(loss) for loss in learn.recorder.losses]))
    assert_near(losses[0], losses[1], 1e-4)


# -- never a silent change ------------------------------------------------------------------------------------


def _tinted(x: torch.Tensor, change: Any = 0.1) -> torch.Tensor:
    return x.mul_(1 - change)


_tinted.__annotations__ = {"change": fv.uniform}  # fastai calls what it finds there


def told(caught: Any) -> List[str]:
    return [str(one.message) for one in caught if "batch_tfms" in str(one.message)]


def unknown(name: str) -> Any:
    "Transforms that are a user's own, or fastai's used as fastai doesn't."
    if name == "tinted":
        return [*TRAIN, fv.TfmPixel(_tinted)(change=(0.1, 0.3))]
    if name == "lightened":  # fastai's function, in an order of the user's own
        known = copy.copy(fv.brightness)
        known.order = 3
        return [*TRAIN, fv.RandTransform(known, kwargs={"change": (0.4, 0.6)})]
    raise ValueError(name)


@pytest.mark.parametrize("name, said", [("tinted", "tinted"), ("lightened", "brightness")])
def test_an_unknown_transform_runs_as_stock_and_is_named(photos: Path, name: str, said: str) -> None:
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
    assert said in told(caught)[0]


def own_collate(samples: Any) -> Any:
    return fv.data_collate(samples)


def test_a_collate_function_of_a_users_own_gets_items(photos: Path) -> None:
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


def test_images_of_a_users_own_class_are_named(photos: Path) -> None:
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


def test_items_of_a_users_own_class_are_named(photos: Path) -> None:
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


def test_without_numba_a_cpu_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_imported", lambda: ImportError("No module named 'numba'"))
    lists = classification(m.MemoryImageList, photos)()
    with pytest.warns(UserWarning, match=r"No module named 'numba'.*memlist\[fast\]"):
        lists.databunch(bs=4, batch_tfms=True)


def test_the_keyword_is_true_or_false(photos: Path) -> None:
    with pytest.raises(TypeError, match=r"transform\("):
        classification(m.MemoryImageList, photos)().databunch(bs=4, batch_tfms=get_transforms())
    with pytest.raises(TypeError, match=r"transform\("):
        m.MemoryImageDataBunch.from_folder(photos, valid_pct=0.3, size=24, batch_tfms="yes")


def test_the_default_of_workers(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "None on a CPU, two for a GPU, as many as fastai takes if stock makes the batches."
    monkeypatch.setattr(fv.defaults, "cpus", 3)
    for tfms, workers in (((TRAIN, VALID), 0), (([fv.TfmPixel(_tinted)()], []), 3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = classification(m.MemoryImageList, photos, tfms)().databunch(device="cpu", bs=4, batch_tfms=True)
        assert data.train_dl.num_workers == workers
        assert loader.default_workers(data.label_list, "cuda") == (2 if workers == 0 else 3)
    monkeypatch.setattr(fv.defaults, "cpus", 1)
    assert loader.default_workers(classification(m.MemoryImageList, photos)(), "cuda") == 1


def test_nothing_is_said_where_all_is_known(photos: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours, _ = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
        list(ours.train_dl)
    assert not told(caught)


def test_a_dataset_whose_transforms_are_exchanged(photos: Path) -> None:
    "`ds.tfms` is read for every batch; TTA does that, and so may a callback inside an epoch."
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


# -- errors and faults ----------------------------------------------------------------------------------------


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


def test_purging_while_batches_are_made(photos: Path) -> None:
    "Another process purges in a loop: no batch has a pixel that is not stock's."
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


def test_what_is_purged_while_a_batch_is_made_is_read_again(photos: Path, schedule: str, monkeypatch: Any) -> None:
    "Between reading and making, every single time."
    ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    ours.load_data(progress=False)
    make_images, purged = collate.make_images, []

    def purging(*args: Any) -> Any:
        if ours.train_ds.x.store.info().records:
            purged.append(1)
            ours.purge()
        return make_images(*args)

    monkeypatch.setattr(collate, "make_images", purging)
    assert_same_epochs(ours, stock, epochs=1)
    assert purged


def test_a_killed_worker_leaves_nothing_behind(photos: Path) -> None:
    ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), num_workers=2)

    def die() -> None:
        for _ in ours.train_dl:
            import os

            os.kill(os.getpid(), 9)

    in_child(die)
    assert_same_epochs(ours, stock, epochs=1)


def test_memory_above_the_batch() -> None:
    "What is done for a GPU, and for a CPU without numba: no more than thrice the batch besides the batch."

    def peak() -> int:
        return next(
            int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
        )

    def measure() -> None:
        n, side = 32, 224
        arrays = [picture(250, 260, i) for i in range(n)]
        pipeline = pipes.pipeline_of(TRAIN, {"size": side})
        assert pipeline is not None
        drawn = pipeline.drawn([pipeline.draw() for _ in arrays], [None] * n)
        plan = planner.plan_batch(pipeline, drawn, [(3, 250, 260)] * n)
        pixels = [Pixels(array, 255) for array in arrays]
        gathered = gather(pixels, NewMemory(), ONE_THREAD)
        out = torch.zeros(n, 3, side, side)
        render.render(plan.of(slice(0, 1)), gathered.of(slice(0, 1)), out[:1])  # what the first call sets up
        before = peak()
        render.render(plan, gathered, out)
        cpu._kernels = lambda: None  # type: ignore[assignment]
        cpu.on_cpu(plan, pixels, out, None, ONE_THREAD)
        assert peak() - before <= 3 * out.numel() * 4 / 1024

    assert in_child(measure) == 0


# -- what a review found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SCHEDULES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_coordinates_that_are_no_numbers_read_no_foreign_memory(how: str, padding: str, monkeypatch: Any) -> None:
    if how == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    for tfms in (
        [fv.zoom(scale=1e-39, is_random=False)],
        [fv.rotate(degrees=float("nan"), is_random=False)],
        [fv.tilt(magnitude=-1.6, direction=0, is_random=False)],
    ):
        with np.errstate(all="ignore"):
            for mask in (False, True):
                array = picture(40, 50, 1)[..., :1] if mask else picture(40, 50, 1)
                made = our_images([array], tfms, mask, how == "device", size=17, padding_mode=padding)
                assert made.shape == (1, 1 if mask else 3, 17, 17)
                assert float(made.min()) >= 0 and float(made.max()) <= (255 if mask else 1)


def test_a_transform_that_is_listed_twice_does_the_same_twice() -> None:
    turn, light = fv.rotate(degrees=(-30, 30), p=0.7), fv.brightness(change=(0.2, 0.8), p=0.5)
    for tfms in ([turn, fv.rand_zoom(scale=(1.0, 1.5)), turn], [light, light, fv.contrast(scale=(0.5, 2.0))]):
        for k in range(8):
            compared((tfms, {"size": 24}), [(40, 50), (60, 33)], SCHEDULES[0], k)


def test_transforms_are_left_as_stock_leaves_them(photos: Path) -> None:
    made = bunches(*(classification(cls, photos, get_transforms()) for cls in (m.MemoryImageList, ImageList)))
    found = []
    for data in made:
        seed(0)
        list(data.train_dl)
        found.append([(t.resolved, t.do_run) for t in data.train_ds.tfms])
    for (ours, runs), (stock, ran) in zip(*found):
        assert runs == ran and list(map(str, ours.values())) == list(map(str, stock.values()))


def test_targets_that_follow_what_another_dataset_drew(masks: Path) -> None:
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


@pytest.mark.parametrize(
    "owner, name", [(Image, "lighting"), (fv.RandTransform, "resolve"), (fv.LabelList, "__getitem__")]
)
def test_a_patched_fastai_is_asked_itself(owner: Any, name: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda self, *args, **kwargs: known(self, *args, **kwargs))
    with pytest.warns(UserWarning, match=name):
        ours, stock = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)))
    seed(0)
    mine = list(ours.train_dl)
    seed(0)
    for one, other in zip(mine, stock.train_dl):
        assert_same_data(one, other)


def test_statistics_of_doubles_make_doubles(photos: Path) -> None:
    made = bunches(*(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)), normalise=False)
    for data in made:
        data.normalize((np.array([0.5] * 3), np.array([0.2] * 3)))
    assert_same_epochs(*made)
    assert next(iter(made[0].train_dl))[0].dtype == torch.float64


def look_at_the_dataset(worker: int) -> None:
    info = torch.utils.data.get_worker_info()
    assert info is not None
    random.seed(len(info.dataset.x))  # type: ignore[attr-defined]


def test_a_worker_finds_its_dataset(photos: Path) -> None:
    made = bunches(
        *(classification(cls, photos) for cls in (m.MemoryImageList, ImageList)),
        num_workers=1,
        worker_init_fn=look_at_the_dataset,
    )
    assert_same_epochs(*made)


def test_odd_parameters_do_what_they_do_in_stock(photos: Path) -> None:
    tfms = [fv.flip_lr(p=torch.tensor(0.5)), fv.contrast(scale=(-1.0, 2.0), p=0.0)]  # whose logarithm is no number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = bunches(*(classification(cls, photos, (tfms, [])) for cls in (m.MemoryImageList, ImageList)))
        assert_same_epochs(*made)


def test_what_is_no_number_stays_none() -> None:
    pytest.importorskip("numba")
    from memlist.batch import kernels

    values = np.array([0.3, np.nan, 0.7], np.float32)
    kernels._light(values, np.float32(1.2), np.float32(0.1))
    assert np.isnan(values).tolist() == [False, True, False]


def test_parameters_changed_inside_an_epoch(photos: Path) -> None:
    "What a transform is made with is looked at for every batch, too, however it was changed."
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
