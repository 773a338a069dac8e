"""`Sketch`: an image that is not made yet. It has a size, and notes what fastai's own transforms do to it."""

from __future__ import annotations

import operator
from typing import Any, Callable, List, Optional, Tuple

import PIL.Image
from fastai.vision import augment
from fastcore.basics import fastuple
from fasttransform.cast import retain_type

from ..resampling import Crop, Resize, Step, Turn, supported
from .memory import Pixels
from .stock import STOCK, PILImage

_ZEROS = (0,)
#: Turns that exchange width and height, by Pillow's numbers.
_EXCHANGE = 2, 4, 5, 6
FLIP_LEFT_RIGHT = 0


class Odd(Exception):
    "Raised for a call that has to be made on the image itself."


class Sketch:
    """Stand in for an image of a class `kind` while fastai's own code draws for it and computes where it is cut.

    - `pixels`: those of its file; `mode`: their mode
    - `size`: width and height at present
    - `steps`: what has to be done to the pixels
    - `to_tensor`: the function that turns the image into a tensor, with its transform; None before that

    It has the methods that fastai's transforms call on an image. Each changes it, notes the step, and returns it; where
    that is not possible, it returns the image itself, on which the call was made.
    """

    __slots__ = ("_calls", "_open", "kind", "mode", "pixels", "size", "steps", "to_tensor")

    def __init__(self, kind: Any, mode: str, pixels: Pixels, open: Callable[[], Any]) -> None:
        self.kind, self.mode, self.pixels, self._open = kind, mode, pixels, open
        height, width = pixels.array.shape[:2]
        self.size: Tuple[int, int] = fastuple(width, height)  # as an image of fastai's has it
        self.steps: List[Step] = []
        self.to_tensor: Optional[Tuple[Callable[..., Any], Any]] = None
        self._calls: List[Tuple[str, Tuple[Any, ...], Any]] = []

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # type: ignore[override]
        "The class of the image: fastai asks `isinstance(x, PILMask)` to choose the filter of a resize."
        return self.kind

    def crop_pad(self, *args: Any, **kwargs: Any) -> Any:
        "Do as an image does: compute sizes and corners, and call `_do_crop_pad`."
        return PIL.Image.Image.crop_pad(self, *args, **kwargs)  # type: ignore[attr-defined]

    def _do_crop_pad(self, *args: Any, **kwargs: Any) -> Any:
        return self._noted("_do_crop_pad", args, kwargs, lambda: self._cut(*args, **kwargs))

    def flip_lr(self) -> Any:
        "Exchange left and right."
        return self._noted("flip_lr", (), {}, lambda: self._turn(FLIP_LEFT_RIGHT))

    def dihedral(self, k: int) -> Any:
        "Flip or turn by right angles: nothing for 0, else Pillow's number `k` - 1."
        return self._noted("dihedral", (k,), {}, lambda: self._dihedral(k))

    def encoded(self, function: Callable[..., Any], f: Any) -> Any:
        "Return what the transform `f` makes of it by its `function`: this sketch, or else the image itself."
        if function in STOCK.tensors:
            self.to_tensor = function, f
            return self
        return function(f, self)

    def made(self) -> Any:
        "Return the image itself, or its tensor, made by fastai's own code."
        image = self._open()
        for name, args, kwargs in self._calls:
            image = retain_type(getattr(image, name)(*args, **kwargs), image)
        if self.to_tensor is not None:
            function, f = self.to_tensor
            image = function(f, image)
        return image

    def _noted(self, name: str, args: Tuple[Any, ...], kwargs: Any, note: Callable[[], None]) -> Any:
        "Note a call; return this sketch, or if that is not possible the image on which the call was made."
        self._calls.append((name, args, kwargs))
        try:
            note()
        except Odd:
            return self.made()
        return self

    def _cut(
        self,
        sz: Any,
        tl: Any,
        orig_sz: Any,
        pad_mode: Any = augment.PadMode.Zeros,
        resize_mode: Any = augment.BILINEAR,
        resize_to: Any = None,
    ) -> None:
        "Do what `_do_crop_pad` of an image does: cut inside of `orig_sz`, pad outside of it, and resize."
        (width, height), (left, top), (whole_width, whole_height) = (_two(one) for one in (sz, tl, orig_sz))
        right, bottom = left + width, top + height
        if left >= 0 or top >= 0 or right <= whole_width or bottom <= whole_height:
            first, upper = max(left, 0), max(top, 0)
            self._window(Crop(first, upper, min(right, whole_width) - first, min(bottom, whole_height) - upper))
        if left < 0 or top < 0 or right >= whole_width or bottom >= whole_height:
            mode = augment._pad_modes.get(pad_mode)
            if mode not in ("constant", "edge", "reflect"):
                raise Odd
            before = max(-left, 0), max(-top, 0)
            after = max(right - whole_width, 0), max(bottom - whole_height, 0)
            across, down = (own + some + more for own, some, more in zip(self.size, before, after))
            self._window(Crop(-before[0], -before[1], across, down, _ZEROS, mode))
        if resize_to is not None:
            self._resize(_two(resize_to), resize_mode)

    def _window(self, step: Crop) -> None:
        if step.width < 1 or step.height < 1:
            raise Odd
        if (step.left, step.top, step.width, step.height) != (0, 0, *self.size):
            self.steps.append(step)
            self.size = fastuple(step.width, step.height)

    def _resize(self, size: Tuple[int, int], filter: Any) -> None:
        try:
            number = operator.index(filter)
        except TypeError:
            raise Odd from None
        if min(size) < 1 or not supported(self.mode, number):
            raise Odd
        if size != self.size:
            self.steps.append(Resize(*size, number))
            self.size = fastuple(size)

    def _dihedral(self, k: int) -> None:
        if not issubclass(self.kind, PILImage) or type(k) is not int or not 0 <= k <= 7:
            raise Odd
        if k:
            self._turn(k - 1)

    def _turn(self, code: int) -> None:
        self.steps.append(Turn(code))
        if code in _EXCHANGE:
            self.size = fastuple(self.size[::-1])


def _two(pair: Any) -> Tuple[int, int]:
    "Return two whole numbers."
    try:
        one, other = map(operator.index, pair)
    except (TypeError, ValueError):
        raise Odd from None
    return one, other
