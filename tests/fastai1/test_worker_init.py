"""A `worker_init_fn` meets the dataset that makes the batch, and what it does there has its effect, as in stock."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any, Callable

import fastai.vision as fv
import numpy as np
import pytest
import torch
from batch_helpers import assert_same_epochs, bunches, classification
from conftest import photo
from fastai.data_block import LabelList
from fastai.vision import Image, ImageList

import memlist as m


def dataset() -> Any:
    info = torch.utils.data.get_worker_info()
    assert info is not None and info.num_workers == 2
    return info.dataset


def meet_it(worker: int) -> None:
    found = dataset()
    assert type(found) is LabelList and type(found[0][0]) is Image
    random.seed(len(found.x.items) + worker)


def seed_anew(worker: int) -> None:
    random.seed(10 + worker)
    np.random.seed(20 + worker)
    torch.manual_seed(30 + worker)


def other_transforms(worker: int) -> None:
    dataset().tfms = [fv.rotate(degrees=(-40, 40), p=1.0), fv.crop_pad()]


def no_transforms_in_one_worker(worker: int) -> None:
    if worker:
        del dataset().tfms[:-1]


def other_parameters(worker: int) -> None:
    for one in dataset().tfms:
        one.p = 1.0
        if "scale" in one.kwargs:
            one.kwargs["scale"] = (1.6, 1.9)


def other_size(worker: int) -> None:
    dataset().tfmargs["size"] = 20


def _halved(x):  # type: ignore[no-untyped-def]  # fastai reads annotations, and can't read strings
    return x * 0.5


def unknown_transform(worker: int) -> None:
    dataset().tfms = [fv.TfmPixel(_halved)()]


class Brighter(LabelList):
    def __getitem__(self, i: Any) -> Any:
        x, y = super().__getitem__(i)
        return Image(x.data * 0.5 + 0.25), y


def other_class(worker: int) -> None:
    dataset().__class__ = Brighter


def patched_fastai(worker: int) -> None:
    resolve = fv.image.RandTransform.resolve

    def patched(self: Any) -> None:
        resolve(self)
        self.do_run = True

    fv.image.RandTransform.resolve = patched


def reversed_items(worker: int) -> None:
    dataset().x.items = dataset().x.items[::-1]


def own_get(worker: int) -> None:
    x = dataset().x
    x.get = lambda i: x.open(x.items[-1])


def one_item(worker: int) -> None:
    dataset().set_item(Image(fv.pil2tensor(photo(3), np.float32).div_(255)))


CHANGES = [
    meet_it,
    seed_anew,
    other_transforms,
    no_transforms_in_one_worker,
    other_parameters,
    other_size,
    unknown_transform,
    other_class,
    patched_fastai,
    reversed_items,
    own_get,
    one_item,
]


@pytest.mark.filterwarnings("ignore:batch_tfms of .* since in a worker")  # by workers
@pytest.mark.parametrize("change", CHANGES)
def test_what_it_does_has_its_effect(change: Callable[[int], None], photos: Path) -> None:
    ours, stock = (classification(cls, photos) for cls in (m.MemoryImageList, ImageList))
    assert_same_epochs(*bunches(ours, stock, num_workers=2, worker_init_fn=change), epochs=1)


class Scaled(ImageList):
    "Read a factor and a file from attributes that only workers have; the file is at another place in each worker."

    factor, handle = 0.0, None

    def open(self, fn: Any) -> Image:
        return Image(super().open(fn).px * self.factor)

    def get(self, i: Any) -> Image:
        return Image(super().get(i).px * (float(self.handle.read(3)) if self.handle else 1.0))


class MemoryScaled(m.InMemory, Scaled):
    pass


def open_a_file(worker: int) -> None:
    x = dataset().x
    x.factor = 0.5
    x.handle = (x.path.parent / "numbers").open()
    x.handle.seek(60 * worker)


def test_attributes_and_files_of_the_list_are_used(photos: Path) -> None:
    (photos.parent / "numbers").write_text("".join(f"0.{k:02}"[1:] for k in range(10, 90)))
    made = [classification(cls, photos) for cls in (MemoryScaled, Scaled)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = bunches(*made, num_workers=2, worker_init_fn=open_a_file, no_check=True)
        for data in both:
            data.valid_dl = data.train_dl
        assert_same_epochs(*both)


class Asking(ImageList):
    "Ask for the worker's dataset while an image is opened."

    def open(self, fn: Any) -> Image:
        info = torch.utils.data.get_worker_info()
        return Image(super().open(fn).px * (0.5 if info and info.dataset.x is self else 0.25))


class MemoryAsking(m.InMemory, Asking):
    cache = False  # images depend on the process


def test_user_code_meets_the_dataset_without_a_worker_init_fn(photos: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [classification(cls, photos) for cls in (MemoryAsking, Asking)]
        assert_same_epochs(*bunches(*made, num_workers=2))


def test_an_error_in_it_is_raised_as_in_stock(photos: Path) -> None:
    def fails(worker: int) -> None:
        raise KeyError(f"no worker {worker}")

    ours, stock = (classification(cls, photos) for cls in (m.MemoryImageList, ImageList))
    for data in bunches(ours, stock, num_workers=1, worker_init_fn=fails):
        with pytest.raises(KeyError, match="no worker 0"):
            list(data.train_dl)


def test_workers_say_once_that_stock_makes_their_batches(photos: Path) -> None:
    told = photos.parent / "told"

    def change(worker: int) -> None:
        def note(message: Any, *args: Any, **kwargs: Any) -> None:
            with told.open("a") as file:
                file.write(f"{message}\n")

        warnings.showwarning = note
        warnings.simplefilter("always")
        unknown_transform(worker)

    ours, stock = (classification(cls, photos) for cls in (m.MemoryImageList, ImageList))
    assert_same_epochs(*bunches(ours, stock, num_workers=2, worker_init_fn=change))
    (line,) = told.read_text().splitlines()
    assert "image by image, since" in line and "halved is not" in line
