"""Kinds of `open` and `get` from public notebooks and kernels, called forms, each for any base class.

A form is a function that takes a base class; it returns a subclass and a function that builds a list of that class
from a folder of pictures. The classes are set on this module, so that spawned processes find them.
"""

from __future__ import annotations

import functools
import io
import os
import random
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import numpy as np
import pandas as pd
import PIL.Image
import torch
from fastai.core import ItemBase
from fastai.vision import (
    Image,
    ImageList,
    ImageSegment,
    SegmentationLabelList,
    open_image,
    open_mask,
    open_mask_rle,
    pil2tensor,
    rle_encode,
)

import memlist as m

Maker = Callable[[Any, Path], Any]


class Form(NamedTuple):
    "The stock class, two in-memory ones, the function that builds a list, and whether it collates and can be spawned."

    stock: Any
    mixed: Any
    written_over: Any
    make: Maker
    batches: bool
    spawns: bool


FORMS: Dict[str, Form] = {}


def form(base: Any = ImageList, ours: Any = m.MemoryImageList, batches: bool = True, spawns: bool = True) -> Any:
    def keep(build: Any) -> Any:
        classes = []
        for name, over in (("Stock", base), ("Over", ours)):
            cls, make = build(over)
            cls.__name__ = cls.__qualname__ = f"{name}_{build.__name__}"
            classes.append(cls)
        mixed = type(f"Mixed_{build.__name__}", (m.InMemory, classes[0]), {"__module__": __name__})
        for cls in (*classes, mixed):
            setattr(sys.modules[__name__], cls.__name__, cls)
        FORMS[build.__name__] = Form(classes[0], mixed, classes[1], make, batches, spawns)
        return build

    return keep


def files(folder: Path) -> List[Path]:
    return sorted(folder.glob("*.png"))


def from_files(cls: Any, folder: Path) -> Any:
    return cls(files(folder), path=folder)


def pixels(file: Any) -> np.ndarray:
    return np.asarray(PIL.Image.open(file).convert("RGB"))


def image(array: np.ndarray) -> Image:
    return Image(pil2tensor(array, np.float32).div_(255))


class Handed(ItemBase):
    "Two images in one item, as in CycleGAN and siamese notebooks."

    def __init__(self, *images: Image) -> None:
        self.images, self.obj, self.data = images, images, [one.data for one in images]

    def __repr__(self) -> str:
        return f"Handed {self.images}"


class ImageWithMethods(Image):
    cmap = "hot"

    def brightest(self) -> float:
        return float(self.px.max())


class ImageSegmentFloat(ImageSegment):
    @property
    def data(self) -> Any:
        return self.px


class Numbered(int):
    "An int that has attributes."


@form()
def rows_of_a_frame(base: Any) -> Any:
    class Rows(base):
        def open(self, fn: Any) -> Image:
            row = self.inner_df[self.inner_df.name == Path(str(fn)).name].iloc[0]
            return image(np.asarray(row.pixels, np.uint8).reshape(20, 20, 3))

    def make(cls: Any, folder: Path) -> Any:
        frame = pd.DataFrame(
            {"name": [f.name for f in files(folder)], "pixels": [pixels(f).ravel() for f in files(folder)]}
        )
        return cls.from_df(frame, folder, cols="name")

    return Rows, make


@form()
def a_row_by_position(base: Any) -> Any:
    class Rows(base):
        def get(self, i: int) -> Image:
            self.at = i
            return super().get(i)

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px * float(self.inner_df.iloc[self.at].scale))

    def make(cls: Any, folder: Path) -> Any:
        names = [f.name for f in files(folder)][:4] * 3  # one file in several rows
        return cls.from_df(pd.DataFrame({"name": names, "scale": np.linspace(0.1, 1, 12)}), folder, cols="name")

    return Rows, make


@form(spawns=False)
def a_tar_with_a_handle_on_self(base: Any) -> Any:
    class Tar(base):
        def __init__(self, items: Any, tar: Any = None, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.tar = tarfile.open(tar)  # noqa: SIM115 - as notebooks do
            self.copy_new.append("tar_name")
            self.tar_name = tar

        def new(self, items: Any, processor: Any = None, **kwargs: Any) -> Any:
            self.copy_new = [name for name in self.copy_new if name != "tar_name"]
            return super().new(items, processor, tar=self.tar_name, **kwargs)

        def open(self, name: Any) -> Image:
            return image(pixels(self.tar.extractfile(str(name))))

    def make(cls: Any, folder: Path) -> Any:
        with tarfile.open(folder / "all.tar", "w") as tar:
            for file in files(folder):
                tar.add(file, file.name)
        return cls([f.name for f in files(folder)], tar=folder / "all.tar", path=folder)

    return Tar, make


@form()
def a_zip_opened_when_needed(base: Any) -> Any:
    class Zip(base):
        def __getstate__(self) -> Any:
            return {**vars(self), "zip": None}

        def open(self, name: Any) -> Image:
            if vars(self).get("zip") is None or self.opened_by != os.getpid():  # each worker needs its own handle
                self.opened_by = os.getpid()
                self.zip = zipfile.ZipFile(self.path / "all.zip")
            with self.zip.open(str(name)) as file:
                return image(pixels(io.BytesIO(file.read())))

    def make(cls: Any, folder: Path) -> Any:
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for file in files(folder):
                archive.write(file, file.name)
        return cls([f.name for f in files(folder)], path=folder)

    return Zip, make


@form()
def the_last_slide_on_self(base: Any) -> Any:
    class Patches(base):
        slide = name = None

        def open(self, item: Any) -> Image:
            name, x, y = item
            if name != self.name:
                self.slide, self.name = pixels(name), name
            return image(self.slide[y : y + 8, x : x + 8])

    def make(cls: Any, folder: Path) -> Any:
        items = np.empty(12, object)
        items[:] = [(str(files(folder)[i // 4]), 3 * (i % 4), i % 4) for i in range(12)]
        return cls(items, path=folder)

    return Patches, make


@form()
def a_slide_set_in_get(base: Any) -> Any:
    class Patches(base):
        def get(self, i: int) -> Any:
            self.corner = (i % 4, i % 3)
            return super().get(i)

        def open(self, name: Any) -> Image:
            x, y = self.corner
            return image(pixels(name)[y : y + 8, x : x + 8])

    return Patches, lambda cls, folder: cls([str(files(folder)[i // 4]) for i in range(12)], path=folder)


TABLE: Dict[str, np.ndarray] = {}


@form(spawns=False)
def a_global_dict_of_arrays(base: Any) -> Any:
    class Table(base):
        def open(self, fn: Any) -> Image:
            return image(TABLE[Path(fn).name])

    def make(cls: Any, folder: Path) -> Any:
        TABLE.update({f.name: pixels(f) for f in files(folder)})
        return from_files(cls, folder)

    return Table, make


@form()
def a_dict_of_arrays_on_self(base: Any) -> Any:
    class Table(base):
        def __init__(self, items: Any, table: Any = None, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.table = table
            self.copy_new.append("table")

        def open(self, fn: Any) -> Image:
            return image(self.table[Path(fn).name])

    def make(cls: Any, folder: Path) -> Any:
        return cls(files(folder), path=folder, table={f.name: pixels(f) for f in files(folder)})

    return Table, make


@form()
def numbers_into_an_array(base: Any) -> Any:
    class Digits(base):
        def __init__(self, items: Any, data: Any = None, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.data = data
            self.copy_new.append("data")

        def open(self, i: Any) -> Image:
            return Image(torch.from_numpy(self.data[i]).float().permute(2, 0, 1) / 255)

    return Digits, lambda cls, folder: cls(range(12), path=folder, data=np.stack([pixels(f) for f in files(folder)]))


@form()
def streams_as_items(base: Any) -> Any:
    class Streams(base):
        def open(self, stream: Any) -> Image:
            stream.seek(0)
            return image(pixels(stream))

    def make(cls: Any, folder: Path) -> Any:
        items = np.empty(12, object)
        items[:] = [io.BytesIO(file.read_bytes()) for file in files(folder)]
        return cls(items, path=folder)

    return Streams, make


@form(spawns=False)
def open_files_as_items(base: Any) -> Any:
    class Streams(base):
        def open(self, stream: Any) -> Image:
            stream.seek(0)
            return image(pixels(stream))

    def make(cls: Any, folder: Path) -> Any:
        items = np.empty(12, object)
        items[:] = [file.open("rb") for file in files(folder)]
        return cls(items, path=folder)

    return Streams, make


@form()
def numbers_that_know_more(base: Any) -> Any:
    class Known(base):
        def open(self, number: Any) -> Image:
            return Image(open_image(number.file).px * number.scale)

    def make(cls: Any, folder: Path) -> Any:
        items = np.empty(12, object)
        for i in range(12):
            items[i] = Numbered(7)
            items[i].file, items[i].scale = files(folder)[i], i / 12
        return cls(items, path=folder)

    return Known, make


@form(batches=False)
def cyclegan_tuples(base: Any) -> Any:
    class Tuples(base):
        def get(self, i: int) -> Handed:
            other = self.items[np.random.randint(len(self.items))]
            return Handed(super().get(i), self.open(other))

    return Tuples, from_files


@form(batches=False)
def siamese_pairs(base: Any) -> Any:
    class Pairs(base):
        def get(self, i: int) -> Handed:
            same = random.random() < 0.5
            other = i if same else (i + random.randint(1, len(self.items) - 1)) % len(self.items)
            return Handed(self.open(self.items[i]), self.open(self.items[other]))

    return Pairs, from_files


@form(SegmentationLabelList, m.MemorySegmentationLabelList, batches=False)
def run_length_masks(base: Any) -> Any:
    class Masks(base):
        def open(self, rle: Any) -> ImageSegment:
            return open_mask_rle(rle, shape=(20, 20))

    def make(cls: Any, folder: Path) -> Any:
        rles = [rle_encode(pixels(f)[..., 0] > 99) for f in files(folder)]
        return cls(np.array(rles, object), classes=[0, 1], path=folder)

    return Masks, make


@form()
def pixels_as_text(base: Any) -> Any:
    class Faces(base):
        def open(self, text: Any) -> Image:
            grey = np.array(str(text).split("/")[-1].split(), np.uint8).reshape(20, 20)
            return image(np.stack([grey] * 3, 2))

    def make(cls: Any, folder: Path) -> Any:
        frame = pd.DataFrame({"pixels": [" ".join(map(str, pixels(f)[..., 0].ravel())) for f in files(folder)]})
        return cls.from_df(frame, folder, cols="pixels")

    return Faces, make


@form()
def a_dicom_window(base: Any) -> Any:
    class Scans(base):
        def __init__(self, items: Any, window: Any = (0, 255), **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.window = window
            self.copy_new.append("window")

        def open(self, fn: Any) -> Image:
            low, high = self.window
            return image(np.clip((pixels(fn) - low) / (high - low) * 255, 0, 255))

    return Scans, from_files


@form()
def private_generator(base: Any) -> Any:
    class Noisy(base):
        def __init__(self, items: Any, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.rng = np.random.RandomState(3)

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px * self.rng.rand())

    return Noisy, from_files


@form()
def bound_random(base: Any) -> Any:
    class Noisy(base):
        def __init__(self, items: Any, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.draw = random.Random(0).random

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px * self.draw())

    return Noisy, from_files


@form()
def global_noise(base: Any) -> Any:
    class Noisy(base):
        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px + np.random.randn() / 99)

    return Noisy, from_files


@form()
def random_at_times(base: Any) -> Any:
    class Noisy(base):
        def open(self, fn: Any) -> Image:
            found = open_image(fn)
            return found if int(Path(fn).stem) % 3 else Image(found.px * torch.rand(1))

    return Noisy, from_files


@form()
def two_files_four_channels(base: Any) -> Any:
    class Channels(base):
        def open(self, fn: Any) -> Image:
            other = Path(fn).with_name(f"{(int(Path(fn).stem) + 1) % 12:02}.png")
            return image(np.concatenate([pixels(fn), pixels(other)[..., :1]], 2))

    return Channels, from_files


@form(batches=False)
def arrays_of_doubles(base: Any) -> Any:
    class Doubles(base):
        def open(self, fn: Any) -> Image:
            return Image(torch.from_numpy(pixels(fn).transpose(2, 0, 1) / 7.0))

    return Doubles, from_files


@form()
def sixteen_bits(base: Any) -> Any:
    class Deep(base):
        def open(self, fn: Any) -> Image:
            return Image(
                torch.from_numpy(pixels(fn).astype(np.uint16)[..., :1].transpose(2, 0, 1) * 257.0 / 65535).float()
            )

    return Deep, from_files


@form()
def one_channel_shown_as_three(base: Any) -> Any:
    class Grey(base):
        def open(self, fn: Any) -> Image:
            return Image(torch.from_numpy(pixels(fn)[..., 0].astype(np.float32) / 255)[None].expand(3, -1, -1))

    return Grey, from_files


@form()
def a_crop_by_a_class_attribute(base: Any) -> Any:
    class Crop(base):
        where = slice(2, 18)

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px[:, self.where, 1:-1])

    return Crop, from_files


@form()
def images_with_methods(base: Any) -> Any:
    class Methods(base):
        def open(self, fn: Any) -> ImageWithMethods:
            return open_image(fn, cls=ImageWithMethods)

    return Methods, from_files


@form(SegmentationLabelList, m.MemorySegmentationLabelList, batches=False)
def masks_of_floats(base: Any) -> Any:
    class Floats(base):
        def open(self, fn: Any) -> ImageSegmentFloat:
            return ImageSegmentFloat(open_mask(fn, div=True).px)

    return Floats, lambda cls, folder: cls(files(folder), classes=[0, 1], path=folder)


@form()
def blue_before_red(base: Any) -> Any:
    class Blue(base):
        def open(self, fn: Any) -> Image:
            return image(np.ascontiguousarray(pixels(fn)[..., ::-1]))

    return Blue, from_files


@form()
def something_done_to_what_super_opens(base: Any) -> Any:
    class Negative(base):
        def open(self, fn: Any) -> Image:
            found = super().open(fn)
            found.px = 1 - found.px
            return found

    return Negative, from_files


@form()
def attributes_added_in_get(base: Any) -> Any:
    class Named(base):
        def open(self, fn: Any) -> Image:
            return open_image(fn)

        def get(self, i: int) -> Image:
            found = super().get(i)
            found.name = self.items[i]
            return found

    return Named, from_files


@form()
def a_draw_in_get(base: Any) -> Any:
    class Flipped(base):
        def get(self, i: int) -> Image:
            found = super().get(i)
            return Image(found.px.flip(2)) if random.random() < 0.5 else found

    return Flipped, from_files


@form(batches=False)
def four_dimensions(base: Any) -> Any:
    class Frames(base):
        def open(self, fn: Any) -> Image:
            return Image(torch.stack([open_image(fn).px, open_image(fn).px / 2], 1))

        def get(self, i: int) -> Image:
            return self.open(self.items[i])

    return Frames, from_files


@form(batches=False)
def a_tensor(base: Any) -> Any:
    class Tensors(base):
        def open(self, fn: Any) -> torch.Tensor:
            return open_image(fn).px.half()

        def get(self, i: int) -> torch.Tensor:
            return self.open(self.items[i])

    return Tensors, from_files


@form(batches=False)
def an_array(base: Any) -> Any:
    class Arrays(base):
        def open(self, fn: Any) -> np.ndarray:
            return np.asfortranarray(pixels(fn))

        def get(self, i: int) -> np.ndarray:
            return self.open(self.items[i])

    return Arrays, from_files


@form()
def a_counter_on_self(base: Any) -> Any:
    class Counting(base):
        calls = 0

        def open(self, fn: Any) -> Image:
            self.calls += 1
            return open_image(fn)

    return Counting, from_files


@form()
def a_cached_helper(base: Any) -> Any:
    @functools.lru_cache(maxsize=4)
    def helper(fn: Any) -> np.ndarray:
        return pixels(fn)

    class Helped(base):
        def open(self, fn: Any) -> Image:
            return image(helper(fn))

    return Helped, from_files


@form()
def names_below_the_path(base: Any) -> Any:
    class Below(base):
        def open(self, name: Any) -> Image:
            return open_image(self.path / f"{name}.png", after_open=self.after_open, convert_mode=self.convert_mode)

    return Below, lambda cls, folder: cls([f.stem for f in files(folder)], path=folder)


@form()
def drawn_by_pyplot(base: Any) -> Any:
    class Plots(base):
        def open(self, i: Any) -> Image:
            from matplotlib import pyplot as plt

            plt.figure(figsize=(1, 1))
            plt.plot([0, int(i)])
            plt.ylim(0, 12)
            buffer = io.BytesIO()
            plt.savefig(buffer, format="png")
            plt.close()
            return image(pixels(buffer))

    return Plots, lambda cls, folder: cls(range(12), path=folder)
