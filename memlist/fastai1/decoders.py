"""Decode as fastai's own `open` does, for one image or for a batch."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from fastai.vision import data as fastai_data
from fastai.vision import image as fastai_image
from fastai.vision.data import ImageList, SegmentationLabelList
from fastai.vision.image import Image, pil2tensor

from ..batch.pixels import Pixels
from ..cache.decode import PillowDecoder

_LIST_OPEN, _MASK_OPEN = ImageList.open, SegmentationLabelList.open
_IMAGE, _FILES, _FILE = PIL.Image, PIL.ImageFile, PIL.ImageFile.ImageFile
_DIVISOR = np.float32(255)
#: From this many elements on, two passes of torch convert faster than one of NumPy.
TWO_PASSES = 1 << 17


def decoding_functions() -> Tuple[Any, ...]:
    "Return the functions with which fastai's own `open` decodes. If one is replaced, it decodes differently."
    fastais = fastai_image.pil2tensor, fastai_image.open_image, fastai_data.open_image, fastai_data.open_mask
    return (_IMAGE.open, _IMAGE.Image.convert, _FILE.load, *fastais)


_DECODING = decoding_functions()


def stock_open(function: Any) -> Optional[type]:
    """Return the fastai class whose `open` `function` is; None if it is a user's own, or if fastai is patched.

    The comparison is written out because it runs on every read: this is five times faster than comparing tuples.
    """
    plain = getattr(function, "__func__", function)
    if plain is not _LIST_OPEN and plain is not _MASK_OPEN:
        return None
    untouched = (
        _IMAGE.open is _DECODING[0]
        and _IMAGE.Image.convert is _DECODING[1]
        and _FILE.load is _DECODING[2]
        and fastai_image.pil2tensor is _DECODING[3]
        and fastai_image.open_image is _DECODING[4]
        and fastai_data.open_image is _DECODING[5]
        and fastai_data.open_mask is _DECODING[6]
    )
    return (ImageList if plain is _LIST_OPEN else SegmentationLabelList) if untouched else None


class Stock(PillowDecoder):
    """Decode as fastai's `open_image` and `open_mask` do: to a `cls` of `mode` pixels, divided by 255 if `div`.

    The record holds the pixels before `after_open`, which runs on every read. One record serves a file both as an image
    and as a mask.
    """

    def __init__(
        self, mode: str, div: bool, cls: type, after_open: Optional[Callable[[Any], Any]], most: Optional[int] = None
    ) -> None:
        super().__init__(mode, most, labels=not div or mode in ("1", "P"), whole=after_open is not None)
        self.div, self.cls, self.after_open = div, cls, after_open
        self.settings = self.settings_now(mode, div, most)

    @staticmethod
    def settings_now(mode: str, div: bool, most: Optional[int]) -> Tuple[Any, ...]:
        "Return everything that the keys and pixels of a decoder depend on, except `after_open`."
        return mode, div, most, _FILES.LOAD_TRUNCATED_IMAGES

    def image(self, pixels: np.ndarray) -> Any:
        "Return `pixels` as an image, in one pass from bytes to floats, with the strides of `pil2tensor`."
        # The strides matter, because torch's kernels may choose their order of summation by them.
        if 1 in pixels.shape[:2] or pixels.dtype == np.float32:
            return self.cls(_floats_as_stock(pixels, self.div))
        pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels.reshape(1, *pixels.shape)
        return self.cls(floats(pixels, self.div))

    def after(self, image: PIL.Image.Image) -> Any:
        "Apply `after_open` to a PIL image, and return the result as an image."
        return self._converted(self.after_open(image))  # type: ignore[misc]

    def _converted(self, image: Any) -> Image:
        pixels = pil2tensor(image, np.float32)
        return self.cls(pixels.div_(255) if self.div else pixels)


class Raw(Stock):
    "Make `Pixels` from the records of another `Stock`, or images if the pixels are not bytes."

    def __init__(self, decoder: Stock) -> None:
        vars(self).update(vars(decoder))

    def restore(self, records: Any) -> Any:
        "Return `Pixels`, a view into the store if there is no `after_open`."
        pixels = records[0].array
        if self.whole or pixels.dtype != np.uint8:
            return super().restore(records)
        return self.pixels(pixels, True)

    def image(self, pixels: np.ndarray) -> Any:
        return super().image(pixels) if pixels.dtype != np.uint8 else self.pixels(pixels, False)

    @property
    def divisor(self) -> int:
        "Return the divisor of `Pixels`."
        return 255 if self.div else 1

    def pixels(self, array: np.ndarray, viewed: bool) -> Pixels:
        "Return the `Pixels` of bytes, (height, width) or (height, width, channels); `viewed`: they lie in a store."
        return Pixels(array if array.ndim == 3 else array[..., None], self.divisor, self.cls, viewed)

    def after(self, image: PIL.Image.Image) -> Any:
        made = self.after_open(image)  # type: ignore[misc]
        pixels = np.asarray(made)
        if isinstance(made, PIL.Image.Image) and pixels.dtype == np.uint8:
            return self.image(pixels)
        return self._converted(made)


def _floats_as_stock(pixels: np.ndarray, divide: bool) -> torch.Tensor:
    "Do as `pil2tensor`, but on a copy: it shares the memory of floats, and gives axes of one element odd strides."
    planes = (np.expand_dims(pixels, 2) if pixels.ndim == 2 else pixels).transpose(2, 0, 1)
    px = torch.from_numpy(planes.astype(np.float32))
    if pixels.dtype == np.float32:
        px = px.as_strided(px.shape, [stride // 4 for stride in planes.strides])
    return px.div_(255) if divide else px


def floats(array: np.ndarray, divide: bool) -> torch.Tensor:
    """Return `array` as float32 in the same memory order, divided by 255 if `divide`.

    Takes one pass of NumPy or, for a large array, two passes of torch, which are faster together and may use several
    threads. Both give the same bits. NumPy allocates the memory in both cases: torch aligns its blocks, and glibc's
    heap would grow without bound between aligned blocks of megabytes.
    """
    if array.size < TWO_PASSES:
        return torch.from_numpy(np.divide(array, _DIVISOR, dtype=np.float32) if divide else array.astype(np.float32))
    if array.flags.writeable:
        px = torch.from_numpy(np.empty_like(array, np.float32)).copy_(torch.from_numpy(array))
    else:  # torch warns of an array that it must not write to
        px = torch.from_numpy(array.astype(np.float32))
    return px.div_(255) if divide else px
