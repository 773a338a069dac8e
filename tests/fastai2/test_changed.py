"""Transforms, loaders and functions that are changed, and what is not known: equal to fastai, with one warning."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Opens, seed
from fastai.data import load
from fastai.vision import augment, core
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    FlipItem,
    ImageBlock,
    IndexSplitter,
    PILImage,
    RandomResizedCrop,
    Resize,
    TensorImage,
    Transform,
    fastuple,
)
from fastai2_helpers import batches, classes, used
from fastai2_pipelines import label, photo, pictures, same

from memlist.fastai2 import MemoryImageBlock, in_memory


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


class Darker(Transform):
    "A transform of a user's own."

    def encodes(self, x: PILImage) -> Any:
        return x.point(lambda value: value // 2)


class Wider(Resize):
    "A subclass of a known transform, with code of its own."

    def encodes(self, x: PILImage) -> Any:
        return super().encodes(x).rotate(3)


class Own(PILImage):
    "Images that a user opens in another way."

    @classmethod
    def create(cls, name: Any, **kwargs: Any) -> Any:
        return cls(PILImage.create(name).rotate(90))


def pair(make: Callable[[], DataLoaders]) -> List[DataLoaders]:
    seed(1)
    stock = make()
    seed(1)
    return [stock, in_memory(make())]


def test_an_unknown_transform_is_named_once(files: List[Path]) -> None:
    stock, ours = pair(lambda: classes(files, [Darker(), RandomResizedCrop(16)]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for start in range(3):
            same(used(ours, batches, start), used(stock, batches, start))
    texts = [str(one.message) for one in said if "memlist" in str(one.message)]
    assert len(texts) == 1 and "Darker" in texts[0]
    assert ours.loaded


def _flip(dls: Any) -> Any:
    return next(f for f in dls.train.after_item.fs if type(f) is FlipItem)


CHANGES: Dict[str, Callable[[Any], Any]] = {
    "another transform": lambda dls: dls.train.after_item.fs.insert(0, Darker()),
    "a known transform": lambda dls: dls.train.after_item.fs.insert(0, FlipItem(1.0)),
    "one less": lambda dls: dls.train.after_item.fs.pop(0),
    "a size": lambda dls: setattr(next(f for f in dls.train.after_item.fs if type(f) is Resize), "size", (9, 11)),
    "a subclass": lambda dls: dls.train.after_item.fs.insert(0, Wider(20)),
    "draws per object": lambda dls: setattr(dls.train.after_item.fs[0], "before_call", lambda *a, **k: None),
    "a call per object": lambda dls: setattr(_flip(dls), "_call", lambda name, x, **kwargs: x),
    "code per object": lambda dls: setattr(_flip(dls), "_do_call", lambda name, x, **kwargs: x),
    "the device": lambda dls: setattr(dls, "device", torch.device("cpu")),
    "the batch size": lambda dls: setattr(dls.train, "bs", 2),
    "a method of the loader": lambda dls: setattr(dls.train, "create_item", lambda s: dls.train_ds[(s or 0) // 2]),
    "the last batch": lambda dls: setattr(dls.train, "drop_last", False),
}


@pytest.mark.filterwarnings("ignore:the batches of this")
@pytest.mark.parametrize("name", CHANGES)
def test_changes_in_place(name: str, files: List[Path]) -> None:
    stock, ours = pair(lambda: classes(files, [FlipItem(1.0), Resize(16)]))
    same(used(ours, batches), used(stock, batches))
    for dls in (stock, ours):
        CHANGES[name](dls)
    same(used(ours, batches), used(stock, batches))


def _tilted(image: Any, *args: Any, **kwargs: Any) -> Any:
    return PIL.Image.Image.rotate(image.copy(), 90).crop((0, 0, 16, 16))


def _opened(name: Any, mode: Any = None) -> Any:
    return PIL.Image.open(name).convert(mode).rotate(90)


REPLACED = [
    (augment, "_get_sz", lambda x: (17, 13)),
    (PIL.Image.Image, "resize", _tilted),
    (PIL.Image.Image, "flip_lr", lambda image: image.rotate(180)),
    (core, "image2tensor", lambda image: torch.zeros(3, 16, 16, dtype=torch.uint8)),
    (load, "default_collate", lambda rows: [torch.ones(2)]),
    (core, "load_image", _opened),
]


@pytest.mark.filterwarnings("ignore:the batches of this")
@pytest.mark.parametrize("where", REPLACED, ids=[one[1] for one in REPLACED])
def test_a_replaced_function_of_fastai(where: Any, files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stock, ours = pair(lambda: classes(files, [FlipItem(1.0), Resize(16)]))
    before = used(stock, batches)
    same(used(ours, batches), before)
    monkeypatch.setattr(*where)
    after = used(stock, batches)
    same(used(ours, batches), after)
    with pytest.raises(AssertionError):
        same(after, before)  # or the replacement would show nothing


@pytest.mark.filterwarnings("ignore:the batches of this")
def test_images_that_a_user_opens(files: List[Path]) -> None:
    def make() -> DataLoaders:
        block = DataBlock((ImageBlock(Own), CategoryBlock), get_y=label, item_tfms=Resize(16))
        return block.dataloaders(files, bs=3, num_workers=0, device="cpu")

    seed(1)
    stock = make()
    seed(1)
    with pytest.warns(UserWarning, match="nothing is kept"):
        ours = in_memory(make())
    same(used(ours, batches), used(stock, batches))
    with pytest.raises(TypeError, match="Own"):
        MemoryImageBlock(Own)


class Cropped(PILImage):
    "Images that do what transforms call in a way of their own."

    def crop(self, *args: Any, **kwargs: Any) -> Any:
        return super().crop(*args, **kwargs).rotate(90)


class Flipped(PILImage):
    def flip_lr(self) -> Any:
        return PILImage(self.rotate(180))


class Sized(PILImage):
    @property
    def size(self) -> Any:
        return fastuple(*(max(1, side - 3) for side in PIL.Image.Image.size.fget(self)))


class Bytes(PILImage):
    def tobytes(self, *args: Any) -> bytes:
        return bytes(len(super().tobytes(*args)))


class Tensor(TensorImage):
    pass


class Tensors(PILImage):
    _tensor_cls = Tensor


class Named(PILImage):
    "Images with something more, which no transform asks for."

    def name(self) -> str:
        return "image"


@pytest.mark.parametrize("cls", [Cropped, Flipped, Sized, Bytes, Tensors, Named], ids=lambda cls: cls.__name__)
def test_images_with_methods_of_their_own(cls: Any, files: List[Path]) -> None:
    def make() -> DataLoaders:
        given = {"get_y": label, "splitter": IndexSplitter([0, 3, 6, 9]), "item_tfms": [FlipItem(1.0), Resize(16)]}
        return DataBlock((ImageBlock(cls), CategoryBlock), **given).dataloaders(
            files, bs=3, num_workers=0, device="cpu"
        )

    stock, ours = pair(make)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        same(used(ours, batches), used(stock, batches))
    texts = [str(one.message) for one in said if "memlist" in str(one.message)]
    assert len(texts) == (cls is not Named) and all(f"{cls.__name__}." in one for one in texts)
    assert ours.loaded


@pytest.mark.filterwarnings("ignore:the batches of this")
def test_a_method_that_images_are_given_later(files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stock, ours = pair(lambda: classes(files, Resize(16)))
    same(used(ours, batches), used(stock, batches))
    monkeypatch.setattr(PILImage, "crop", lambda image, *args: PIL.Image.Image.crop(image, *args).rotate(90))
    same(used(ours, batches), used(stock, batches))


def test_arrays_are_left_alone(files: List[Path]) -> None:
    def array(path: Path) -> Any:
        return np.asarray(photo(int(path.stem)))

    def make() -> DataLoaders:
        given = {"get_x": array, "get_y": label, "splitter": IndexSplitter([0, 1, 2]), "item_tfms": Resize(16)}
        return DataBlock((ImageBlock, CategoryBlock), **given).dataloaders(files, bs=3, num_workers=0, device="cpu")

    stock, ours = pair(make)
    same(used(ours, batches), used(stock, batches))
    assert ours.cache_info().total == 0


def test_a_changed_file_is_read_anew(files: List[Path]) -> None:
    stock, ours = pair(lambda: classes(files, Resize(16)))
    same(used(ours, batches), used(stock, batches))
    photo(50, 33, 44).save(files[1])
    before = ours  # it keeps the store, which new loaders over the same path share
    stock, ours = pair(lambda: classes(files, Resize(16)))
    same(used(ours, batches), used(stock, batches))
    assert before.cache_info().cached == len(files)


def test_purged_images_are_decoded_again(files: List[Path], opens: Opens) -> None:
    stock, ours = pair(lambda: classes(files, Resize(16)))
    ours.load_data(progress=False)
    assert ours.loaded
    assert ours.purge() > 0 and not ours.loaded
    same(used(ours, batches), used(stock, batches))
    assert ours.loaded


@pytest.mark.filterwarnings("ignore:.*no room for all")
@pytest.mark.parametrize("most", [0, "12KB"])
def test_a_small_budget(most: Any, files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files[0].parent)  # whose store no earlier test has
    gc.collect()
    seed(1)
    stock = classes(files)
    seed(1)
    ours = in_memory(classes(files), max_ram=most)
    for start in range(2):
        same(used(ours, batches, start), used(stock, batches, start))
    assert not ours.loaded


def test_a_second_call_does_nothing(files: List[Path]) -> None:
    ours = in_memory(classes(files), max_ram=10**9).load_data(progress=False)
    before = [type(ours.train), list(ours.train_ds.tls[0].tfms.fs), ours.cache_info()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_memory(ours) is ours
    assert before == [type(ours.train), list(ours.train_ds.tls[0].tfms.fs), ours.cache_info()]


def test_the_store_goes_with_the_last_loaders(files: List[Path]) -> None:
    ours = in_memory(classes(files)).load_data(progress=False)
    batches(ours)
    store = weakref.ref(next(f.memory.store for f in ours.train_ds.tls[0].tfms.fs if hasattr(f, "memory")))
    assert store() is not None
    del ours
    gc.collect()
    assert store() is None


@pytest.mark.parametrize("given", [3, "dls", None, [1, 2]])
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="in_memory takes DataLoaders of fastai 2"):
        in_memory(given)


def test_a_list_of_loaders_is_refused(files: List[Path]) -> None:
    dls = classes(files)
    with pytest.raises(TypeError, match="one DataLoaders"):
        in_memory([dls, dls])
    with pytest.raises(TypeError, match="put it into a DataLoaders"):
        in_memory(dls.train)
