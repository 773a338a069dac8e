"""Code of a user's that could change an image or a draw: batches stay equal to fastai's, whatever it does."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import torch
from conftest import photo, seed
from fastai.vision import core
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    Datasets,
    DihedralItem,
    FlipItem,
    ImageBlock,
    ItemTransform,
    MaskBlock,
    PILImage,
    PILImageBW,
    PILMask,
    Pipeline,
    RandomResizedCrop,
    RandTransform,
    Resize,
    TensorCategory,
    TensorImage,
    TensorImageBW,
    ToTensor,
    Transform,
)
from fastai2_helpers import batches, both, classes, used
from fastai2_pipelines import label, mask, pictures, same

from memlist.fastai2 import in_memory, memory

pytestmark = pytest.mark.filterwarnings("ignore:the batches of this", "ignore:in_memory")


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


class Early(Transform):
    "Runs before all others."

    order = -5

    def encodes(self, x: PILImage) -> Any:
        return PILImage(x.rotate(90, expand=True))


class Noise(RandTransform):
    "Draws by all generators."

    def before_call(self, b: Any, split_idx: Any) -> None:
        super().before_call(b, split_idx)
        self.value = int(np.random.randint(50)) + int(torch.randint(50, (1,)))

    def encodes(self, x: PILImage) -> Any:
        return x.point(lambda one: (one + self.value) % 256)


class DrawnLabel(Transform):
    "Draws for each label, after the image of the item and before the next."

    def encodes(self, x: TensorCategory) -> Any:
        return TensorCategory(x + random.randint(0, 5))


class Seen(ItemTransform):
    "Makes the label from pixels."

    order = 2

    def encodes(self, item: Any) -> Any:
        x, _ = item
        return x, TensorCategory(int(np.asarray(x).sum()) % 7)


class Moved(Resize):
    "Has another way to tell where it cuts."

    pcts = property(lambda self: (0.0, 1.0), lambda self, value: None)


class Grown(Resize):
    "Has a size that depends on how often it was asked for."

    asked = 0
    size = property(lambda self: self._grown(), lambda self, value: None)

    def _grown(self) -> Any:
        self.asked += 1
        return type(PILImage(photo(0)).size)(10, 10 + self.asked // 1000)


class Named(RandomResizedCrop):
    "Has nothing of its own but a name."


class Sometimes(Resize):
    "Is left out for some items, as every transform with a `p`."

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.p = 0.5


def doubled(x: Any) -> Any:
    "Change whatever it is given."
    return PILImage(x.transpose(1)) if isinstance(x, PIL.Image.Image) else x


TRANSFORMS: Dict[str, Callable[[], Any]] = {
    "an early one": lambda: [Resize(12), Early()],
    "one that draws": lambda: [FlipItem(), Noise(), Resize(12)],
    "one for labels that draws": lambda: [FlipItem(), DrawnLabel(), RandomResizedCrop(12)],
    "one for items": lambda: [Resize(12), Seen()],
    "a function": lambda: [doubled, Resize(12)],
    "a property that cuts": lambda: [Moved(12)],
    "a property for the size": lambda: [Grown(12)],
    "a subclass by name": lambda: [Named(12)],
    "for some items": lambda: [Sometimes(12)],
    "twice the same": lambda: [*([FlipItem(0.5)] * 2), Resize(12)],
    "turned before it is cut": lambda: [_ordered(DihedralItem(), -1), RandomResizedCrop(12)],
    "cut after it is a tensor": lambda: [Resize(12), _ordered(FlipItem(), 9)],
}


def _ordered(f: Any, order: int) -> Any:
    f.order = order
    return f


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str, files: List[Path]) -> None:
    def use(dls: Any) -> Any:
        try:
            return batches(dls)
        except Exception as error:  # of images that differ in size
            return str(error)

    both(lambda: classes(files, TRANSFORMS[name]()), use, times=3, known=False)


class Shown(PILImage):
    "Shows itself in another way, which no batch depends on."

    _show_args = {"cmap": "jet"}  # noqa: RUF012  # as fastai writes it

    def show(self, ctx: Any = None, **kwargs: Any) -> Any:
        return super().show(ctx=ctx, title="own", **kwargs)


class Grey(PILImage):
    _tensor_cls = TensorImageBW


class Flat(PILImageBW):
    _tensor_cls = TensorImage


class Turned(PILImage):
    def crop_pad(self, *args: Any, **kwargs: Any) -> Any:
        return super().crop_pad(*args, **kwargs).rotate(180)


class Interfaced(PILImage):
    "Gives other bytes to NumPy."

    @property
    def __array_interface__(self) -> Any:
        return {**super().__array_interface__, "data": bytes(len(self.tobytes()))}


class Large(PILImage):
    "Is opened by more arguments."

    _open_args = {"mode": "RGB", "other": 3}  # noqa: RUF012


class Converted(PILImage):
    "Opens files in a mode that fastai's own classes do not."

    _open_args = {"mode": "HSV"}  # noqa: RUF012


class Later(PILImage):
    "Is changed by tests."


CLASSES = [Shown, Grey, Flat, Turned, Interfaced, Large, Converted]


def of_class(cls: Any, files: List[Path], tfms: Any = None) -> DataLoaders:
    block = DataBlock((ImageBlock(cls), CategoryBlock), get_y=label, item_tfms=tfms or [FlipItem(), Resize(12)])
    return block.dataloaders(files, bs=3, num_workers=0, device="cpu")


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_classes_of_images(cls: Any, files: List[Path]) -> None:
    def use(dls: Any) -> Any:
        try:
            return batches(dls)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def make() -> DataLoaders:
        dls = of_class(PILImage, files)  # fastai opens one image to make loaders
        for dl in dls.loaders:
            dl.dataset.tls[0].tfms = Pipeline([cls.create], split_idx=dl.dataset.tls[0].tfms.split_idx)
        return dls

    both(make, use, times=3, known=cls is Shown)


def _patched(cls: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(cls, name, value, raising=False)


def _rotated(image: Any, *args: Any, **kwargs: Any) -> Any:
    return type(image)(image.rotate(180))


_LOAD = PIL.ImageFile.ImageFile.load


def _loaded_dark(image: Any) -> Any:
    "Load an image, and make it dark."
    found = _LOAD(image)
    image.im.paste(0, (0, 0, image.width // 2, image.height))
    return found


PATCHES: Dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "flip_lr of a subclass": _patched(Later, "flip_lr", _rotated),
    "crop_pad of images": _patched(PILImage, "crop_pad", lambda x, sz, *args, **kwargs: x.resize((9, 9))),
    "what tensors are made": _patched(Later, "_tensor_cls", TensorImageBW),
    "how files are opened": _patched(Later, "_open_args", {"mode": "L"}),
    "create": _patched(Later, "create", classmethod(lambda cls, fn: cls(PIL.Image.open(fn).convert("RGB").rotate(90)))),
    "create of all": _patched(
        core.PILBase, "create", classmethod(lambda cls, fn: cls(PIL.Image.open(fn).convert("RGB").rotate(90)))
    ),
    "bytes of images": _patched(PIL.Image.Image, "tobytes", lambda image, *args: bytes(3 * image.width * image.height)),
    "arrays of images": _patched(
        PIL.Image.Image,
        "__array_interface__",
        property(
            lambda x: {
                "shape": (*x.size[::-1], 3),
                "typestr": "|u1",
                "data": bytes(3 * x.width * x.height),
                "version": 3,
            }
        ),
    ),
    "how files are loaded": _patched(PIL.ImageFile.ImageFile, "load", _loaded_dark),
    "before each call": _patched(FlipItem, "before_call", lambda f, b, split_idx: setattr(f, "do", True)),
    "encodes": _patched(Resize, "encodes", lambda f, x: x.resize((7, 7)) if isinstance(x, PIL.Image.Image) else x),
}


@pytest.mark.parametrize("name", PATCHES)
def test_what_is_replaced_between_two_epochs(name: str, files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def use(dls: Any) -> Any:
        made = [batches(dls) for _ in range(3)]
        with monkeypatch.context() as patch:
            PATCHES[name](patch)
            try:
                made.append(batches(dls))
            except Exception as error:
                made.append(f"{type(error).__name__}: {error}")
        made.append(batches(dls))
        return made

    both(lambda: of_class(Later, files), use, times=1, known=False)


class Registered(PILImage):
    "Gets functions of its own."


class Late(Resize):
    "Gets a function for labels."


def _for_labels() -> None:
    @Late
    def encodes(self: Any, x: TensorCategory) -> Any:
        return TensorCategory(x + random.randint(0, 9))


def _for_tensors() -> None:
    @ToTensor
    def encodes(self: Any, x: Registered) -> Any:
        return TensorImage(core.image2tensor(x) // 2)


def test_functions_that_are_registered_later(files: List[Path]) -> None:
    made = []
    for wrap in (in_memory, lambda dls: dls):
        seed(4)
        made.append(wrap(of_class(Registered, files, [FlipItem(1.0), Late(12)])))
    found = [[used(dls, batches, k) for k in range(3)] for dls in made]
    same(*found)
    for register in (_for_labels, _for_tensors):
        register()
        before, found = found, [[used(dls, batches, k) for k in range(3)] for dls in made]
        same(*found)
        with pytest.raises(AssertionError):
            same(found, before)


GIVEN: Dict[str, Callable[[Path], Any]] = {
    "strings": lambda path: str(path),
    "bytes": lambda path: path.read_bytes(),
    "images": lambda path: PILImage(PIL.Image.open(path).convert("RGB").rotate(90)),
    "plain images": lambda path: PIL.Image.open(path).convert("RGB"),
    "arrays": lambda path: np.asarray(PIL.Image.open(path).convert("RGB")),
    "some of each": lambda path: path if int(path.stem) % 2 else PIL.Image.open(path).convert("RGB"),
    "another file": lambda path: path.parent / sorted(one.name for one in path.parent.iterdir())[random.randrange(3)],
    "relative names": lambda path: Path(path.name),
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_get_x_returns(name: str, files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files[0].parent)

    def make() -> DataLoaders:
        block = DataBlock((ImageBlock, CategoryBlock), get_x=GIVEN[name], get_y=label, item_tfms=Resize(12))
        return block.dataloaders(files, bs=3, num_workers=0, device="cpu")

    both(make, batches, times=3)


def test_relative_names_in_another_folder(files: List[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tmp_path / "others"
    others.mkdir()
    for k, path in enumerate(files):
        photo(50 + k, 40, 40).save(others / path.name)

    def use(dls: Any) -> Any:
        made = []
        for folder in (files[0].parent, others) * 3:
            monkeypatch.chdir(folder)
            made.append(batches(dls))
        return made

    monkeypatch.chdir(files[0].parent)
    names = [Path(path.name) for path in files]
    both(lambda: classes(names, Resize(12)), use, times=1)


def test_files_that_are_replaced_are_seen_by_new_loaders(files: List[Path]) -> None:
    def use(dls: Any) -> Any:
        pictures(files[0].parent)
        made = [batches(dls) for _ in range(3)]
        for k, path in enumerate(files[:6]):
            photo(random.randrange(99), 30 + k, 40).save(path)
        tests = dls.test_dl(files[:6], with_labels=True)
        return [*made, *tests, *dls.train.new(), *tests.new(bs=1)]

    both(lambda: classes(files, Resize(12)), use, times=1)


def test_a_cache_file_of_another_pillow(files: List[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "It is decoded again: another version may decode to other pixels."
    file, real = tmp_path / "images.cache", memory.FileDecoder._decode

    def fill() -> None:
        monkeypatch.setattr(memory, "DECODER", b"Pillow 1.0")
        monkeypatch.setattr(memory.FileDecoder, "_decode", lambda *given: (real(*given)[0].rotate(180), None))
        assert in_memory(classes(files, Resize(12)), cache_file=file).load_data(progress=False).loaded

    other = multiprocessing.get_context("fork").Process(target=fill)
    other.start()
    other.join()
    assert other.exitcode == 0 and file.stat().st_size > 0
    stock, ours = classes(files, Resize(12)), in_memory(classes(files, Resize(12)), cache_file=file)
    for _ in range(3):
        same(list(ours.valid), list(stock.valid))
    assert (ours.cache_info().hits, ours.cache_info().misses) == (8, 4)


def test_a_dataset_with_code_of_its_own(files: List[Path]) -> None:
    class Mixed(Datasets):
        def __getitem__(self, i: Any) -> Any:
            x, y = super().__getitem__(i)
            return PILImage(x.rotate(90)), y

    def make() -> DataLoaders:
        lists = Mixed(files, [[PILImage.create], [label, len]], splits=[list(range(8)), list(range(8, 12))])
        return lists.dataloaders(bs=3, after_item=[Resize(12), ToTensor], num_workers=0, device="cpu")

    both(make, batches, known=False)


def test_images_and_masks_that_share_a_file(files: List[Path]) -> None:
    def make() -> DataLoaders:
        block = DataBlock((ImageBlock, MaskBlock, ImageBlock(PILImageBW)), n_inp=1, get_x=mask, get_y=[mask, mask])
        dls = block.new(item_tfms=[FlipItem(), RandomResizedCrop(12)]).dataloaders(
            files, bs=3, num_workers=0, device="cpu"
        )
        assert isinstance(dls.train_ds[0][1], PILMask)
        return dls

    both(make, batches, times=3)
