"""What the tests of batches share: data bunches of ours and of stock, and how their batches are compared."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import fastai.vision as fv
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import assert_same_data, photo, seed
from fastai.vision import (
    Image,
    ImageImageList,
    ImageSegment,
    get_transforms,
    imagenet_stats,
    noop,
)

import memlist as m
from memlist.batch import cpu
from memlist.batch.buffers import NewMemory
from memlist.batch.maker import Maker
from memlist.batch.packed import Packed
from memlist.batch.pixels import Pixels
from memlist.batch.threads import ONE_THREAD
from memlist.fastai1 import images, loader, pipelines

FAST = importlib.util.find_spec("numba") is not None
SCHEDULES = ["compiled", "torch", "device"] if FAST else ["torch", "device"]
TRAIN, VALID = get_transforms()


def generators() -> List[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def assert_close(ours: Any, stock: Any) -> None:
    "Check floats: 99.9 % of the values within 1e-3, and a mean difference of at most 1e-5; all else is equal."
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
    "Run the compiled kernels, torch without them, and what a GPU does, on the CPU."
    if request.param == "torch":
        monkeypatch.setattr(cpu, "_kernels", lambda: None)
    if request.param == "device":
        monkeypatch.setattr(loader.BatchDeviceDataLoader, "on_device", True)
    return str(request.param)


def bunches(
    ours: Callable[[], Any], stock: Callable[[], Any], normalise: bool = True, **kwargs: Any
) -> Tuple[Any, Any]:
    "Return the two data bunches, ours with `batch_tfms`."
    kwargs = {"bs": 4, "num_workers": 0, "device": torch.device("cpu"), **kwargs}
    made = ours().databunch(batch_tfms=True, **kwargs), stock().databunch(**kwargs)
    return tuple(one.normalize(imagenet_stats) if normalise else one for one in made)  # type: ignore[return-value]


def assert_same_epochs(ours: Any, stock: Any, epochs: int = 2) -> None:
    "Compare train and valid batch by batch, and the generators after each epoch."
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


def array_of(height: int, width: int, i: int) -> np.ndarray:
    return np.asarray(photo(i, height, width))


PADDINGS = ["reflection", "border", "zeros"]


def stock_images(arrays: Sequence[np.ndarray], tfms: Any, mask: bool, **arguments: Any) -> torch.Tensor:
    made = []
    for array in arrays:
        px = fv.pil2tensor(array, np.float32)
        image = ImageSegment(px) if mask else Image(px.div_(255))
        made.append(image.apply_tfms(tfms, **arguments).data)
    return torch.stack(made)


def our_images(arrays: Sequence[np.ndarray], tfms: Any, mask: bool, on_device: bool, **arguments: Any) -> torch.Tensor:
    pipeline = pipelines.pipeline_of(tfms, arguments)
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
    arrays = [array_of(h, w, i) for i, (h, w) in enumerate(sizes)]
    results, states = [], []
    for make in (
        lambda: our_images(arrays, tfms, False, schedule == "device", **arguments),
        lambda: stock_images(arrays, tfms, False, **arguments),
    ):
        seed(start)
        try:
            results.append(make())
        except Exception as error:  # too little to reflect, or a hole that is larger than the image
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
    # So small an image has few values, and where a rotation shows zeros, one of them is an edge.
    assert float((away <= 1e-3).double().mean()) >= 0.999
    assert float(away.mean()) <= 1e-5


@pytest.fixture
def masks(photos: Path) -> Path:
    folder = photos.parent / "masks"
    folder.mkdir()
    for file in sorted(photos.rglob("*.jpg")):
        grey = np.asarray(PIL.Image.open(file).convert("L")) // 64
        PIL.Image.fromarray(grey).save(folder / f"{file.stem}.png")
    return photos


def same_mask(path: Path) -> Path:
    return path.parent.parent.parent / "masks" / f"{path.stem}.png"


class OwnImage(Image):
    "Be no plain `Image`: stock applies the transforms to it."


class Tinted(ImageImageList):
    def get(self, i: Any) -> Any:
        return OwnImage(super().get(i).px * 0.5)


class MemoryTinted(m.InMemory, Tinted):
    _label_cls = m.MemoryImageLabelList


def labelled_images(cls: Any, photos: Path) -> Callable[[], Any]:
    return lambda: (
        cls.from_folder(photos)
        .split_by_rand_pct(0.3, seed=1)
        .label_from_func(noop)
        .transform((TRAIN, VALID), size=24, tfm_y=True)
    )


def small_learner(data: Any) -> Any:
    seed(5)
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), fv.AdaptiveConcatPool2d(1), fv.Flatten())
    model = torch.nn.Sequential(body, torch.nn.Dropout(0.3), torch.nn.Linear(8, 2))
    return fv.Learner(data, model, metrics=[fv.accuracy])


def told(caught: Any) -> List[str]:
    return [str(one.message) for one in caught if "batch_tfms" in str(one.message)]
