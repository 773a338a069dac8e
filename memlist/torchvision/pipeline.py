"""`Pipeline`: what a transform does, as far as it is known: windows and sizes, then a tensor, then values.

A pipeline is examined anew for every batch, which is cheaper than finding out whether it has changed.
"""

from __future__ import annotations

import numbers
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ..resampling import Crop, supported
from .known import (
    CONTAINER,
    CONVERSION,
    FUNCTIONAL_PIL,
    GEOMETRY,
    LIBRARY,
    V2_FORWARD,
    KnownClass,
    is_plain,
    on_cpu,
    tv_tensors,
)
from .standin import StandIn, Untold

# Conversions whose tensors have the bytes of the picture.
_BYTES_TO_TENSORS = "ToImage", "PILToTensor"
#: Of so many pixels is the picture that shows what becomes of each byte.
_SIDE = 16


class Unknown(Exception):
    """Raised for a transform that is left to torchvision, with the reason.

    `quiet`: there is nothing to say about it, since it is a matter of choice and not of what memlist knows.
    """

    def __init__(self, reason: str, quiet: bool = False) -> None:
        super().__init__(reason)
        self.quiet = quiet


class Values(NamedTuple):
    """The values that take the place of the bytes of a picture with `channels`.

    - `table`, (256, channels): the value for each byte, as bits that NumPy knows; None if it is the byte itself
    - `dtype`, `cls`: of the tensor that is made for one picture
    - `probe`: such a tensor
    """

    channels: int
    table: Optional[np.ndarray]
    dtype: torch.dtype
    cls: type
    probe: Tensor

    def same(self, other: Values) -> bool:
        "Return whether both make the same tensors, to the bit."
        alike = self[:1] + self[2:4] == other[:1] + other[2:4] and (self.table is None) == (other.table is None)
        return alike and (self.table is None or other.table is None or self.table.tobytes() == other.table.tobytes())


class Pipeline:
    """Do what `transform` does, in two steps: `draw` for each picture, then `values` for all of them.

    Raises Unknown for a transform that is not known, or whose code was replaced. Costs some 30 µs.
    """

    def __init__(self, transform: Any) -> None:
        if transform is None:
            raise Unknown("there is no transform", quiet=True)
        if not LIBRARY.unchanged():
            raise Unknown(f"code of torchvision or Pillow was replaced{LIBRARY.replaced and f': {LIBRARY.replaced}'}")
        if not on_cpu():
            raise Unknown("tensors are not made on the CPU here", quiet=True)
        geometry: List[Tuple[Calling, Any]] = []
        tail: List[Any] = []
        kinds: List[str] = []
        for one, known in _leaves(transform):
            if known.kind == GEOMETRY and not tail:
                geometry.append((_drawing(one, known), one))
            else:
                tail.append(one)
                kinds.append(known.kind)
        if CONVERSION not in kinds:
            raise Unknown("it makes no tensors", quiet=True)
        self.on_tensors = GEOMETRY in kinds
        if self.on_tensors and (geometry or type(tail[0]).__name__ not in _BYTES_TO_TENSORS):
            raise Unknown("it cuts or resizes tensors", quiet=True)
        self._geometry, self._tail = geometry, tail
        self._values: Dict[str, Values] = {}

    def from_bytes(self, pixels: np.ndarray) -> Any:
        """Return what is made of a picture where windows and sizes come after the conversion: `on_tensors`.

        All is torchvision's own but the conversion, which needs no picture: `pixels`, (height, width) or (height,
        width, channels), become the tensor that it makes of one, over the same memory.
        """
        height, width = pixels.shape[:2]
        tensor = torch.as_tensor(pixels).view(height, width, -1).permute((2, 0, 1))
        made: Any = tv_tensors.Image(tensor) if type(self._tail[0]).__name__ == "ToImage" else tensor
        for one in self._tail[1:]:
            made = one(made)
        return made

    def draw(self, mode: str, size: Tuple[int, int]) -> StandIn:
        """Draw for a picture of `mode` and `size`, (width, height), as stock does; return it with its steps.

        Raises what the transforms raise for it, and `Untold` for what only stock can do: its random numbers are drawn.
        """
        picture = StandIn(mode, size)
        for draw, one in self._geometry:
            picture = draw(one, picture)
            if type(picture) is not StandIn:
                raise Untold("it makes something else than a picture")
        return picture

    def values(self, mode: str) -> Values:
        "Return what becomes of the bytes of pictures of `mode`; raise Unknown if that can't be told."
        if mode not in self._values:
            self._values[mode] = self._found_values(mode)
        return self._values[mode]

    def _found_values(self, mode: str) -> Values:
        if not supported(mode):
            raise Unknown(f"images of mode {mode} are not known", quiet=True)
        channels = PIL.Image.getmodebands(mode)
        levels = np.repeat(np.arange(_SIDE * _SIDE, dtype=np.uint8)[:, None], channels, 1)
        item = self.finished(PIL.Image.frombytes(mode, (_SIDE, _SIDE), levels.tobytes()))
        if item.shape != (channels, _SIDE, _SIDE) or item.device.type != "cpu" or item.requires_grad:
            raise Unknown("its tensors are not those of images")
        table = bits(item.as_subclass(Tensor)).numpy().transpose(1, 2, 0).reshape(-1, channels)
        same = table.dtype == np.uint8 and np.array_equal(table, levels)
        return Values(channels, None if same else np.ascontiguousarray(table), item.dtype, type(item), item)

    def finished(self, picture: Any) -> Tensor:
        "Return the tensor that is made of a picture after all windows and sizes; raise Unknown if none is made."
        try:
            for one in self._tail:
                picture = one(picture)
        except Exception as error:
            raise Unknown(f"it raises {type(error).__name__}: {error}", quiet=True) from error
        if not isinstance(picture, Tensor):
            raise Unknown("it makes no tensors", quiet=True)
        return picture


def bits(tensor: Tensor) -> Tensor:
    "Return a tensor of the same bits, of a type that NumPy knows."
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def _leaves(transform: Any) -> Iterator[Tuple[Any, KnownClass]]:
    "Yield the transforms that run one after the other, and what is known of each; raise Unknown."
    cls = type(transform)
    known = LIBRARY.classes.get(cls)
    if known is None:
        raise Unknown(f"{getattr(transform, '__qualname__', cls.__qualname__)} is not known")
    if not is_plain(transform, known):
        raise Unknown(f"a method or a hook of {cls.__name__} was set")
    if known.kind != CONTAINER:
        yield transform, known
        return
    children = transform.children() if isinstance(transform, torch.nn.Sequential) else transform.transforms
    if not isinstance(transform, torch.nn.Sequential) and type(children) not in (list, tuple):
        raise Unknown(f"{cls.__name__} holds a {type(children).__name__}")
    for one in children:
        yield from _leaves(one)


# -- geometry -----------------------------------------------------------------------------------------------------

Calling = Callable[[Any, StandIn], Any]


def _drawing(transform: Any, known: KnownClass) -> Calling:
    "Return how to call a transform. Pillow pads by pasting into a new picture, which a stand-in can't note."
    name = type(transform).__name__
    if name == "CenterCrop":
        return _center_crop
    if name == "RandomCrop" and (transform.padding or transform.pad_if_needed):
        return _random_crop if known.v2 else _random_crop_v1
    if known.v2 and type(transform).forward is V2_FORWARD:
        return _called_inside
    return _called


def _called_inside(transform: Any, picture: StandIn) -> Any:
    "Do what `Transform.forward` of the second generation does for one picture, without looking for others."
    return transform.transform(picture, transform.make_params([picture]))


def _called(transform: Any, picture: StandIn) -> Any:
    return transform(picture)


def _center_crop(transform: Any, picture: StandIn) -> Any:
    "Pad a picture that is smaller than the crop as torchvision does; then let it crop."
    height, width = _pair(transform.size)
    down, right = max(0, height - picture.height), max(0, width - picture.width)
    if down or right:
        sides = right // 2, down // 2, (right + 1) // 2, (down + 1) // 2
        picture = _padded(picture, sides, 0, "constant")
    return transform(picture)


def _random_crop(transform: Any, picture: StandIn) -> Any:
    "Pad and crop by what the transform draws: `RandomCrop.transform` of the second generation."
    drawn = transform.make_params([picture])
    if drawn["needs_pad"]:
        fills = transform._fill
        fill = fills[PIL.Image.Image] if PIL.Image.Image in fills else fills["others"]
        picture = _padded(picture, drawn["padding"], fill, transform.padding_mode)
    if drawn["needs_crop"]:
        top, left = drawn["top"], drawn["left"]
        picture = picture.crop((left, top, left + drawn["width"], top + drawn["height"]))
    return picture


def _random_crop_v1(transform: Any, picture: StandIn) -> Any:
    "Pad, then crop by what the transform draws: `RandomCrop.forward` of the first generation."
    fill, mode, (height, width) = transform.fill, transform.padding_mode, transform.size
    if transform.padding is not None:
        picture = _padded(picture, transform.padding, fill, mode)
    if transform.pad_if_needed and picture.width < width:
        picture = _padded(picture, [width - picture.width, 0], fill, mode)
    if transform.pad_if_needed and picture.height < height:
        picture = _padded(picture, [0, height - picture.height], fill, mode)
    top, left, height, width = transform.get_params(picture, transform.size)
    return picture.crop((left, top, left + width, top + height))


def _padded(picture: StandIn, padding: Any, fill: Any, mode: str) -> StandIn:
    "Note what `torchvision.transforms.functional.pad` does to a picture: `padding` is that of its sides."
    sides = _sides(padding)
    if not all(type(side) is int and side >= 0 for side in sides):
        raise Untold("its padding is not known")
    left, top, right, bottom = sides
    filled: Tuple[int, ...] = (0,)
    if mode == "constant":
        found = FUNCTIONAL_PIL._parse_fill(fill, picture, name="fill")["fill"]
        filled = found if isinstance(found, tuple) else (found,)
        if not all(0 <= one <= 255 for one in filled):
            raise Untold("its fill is no byte")
    elif mode not in ("edge", "reflect", "symmetric"):
        raise Untold("its mode of padding is not known")
    width, height = picture.width + left + right, picture.height + top + bottom
    return picture.windowed(Crop(-left, -top, width, height, filled, mode))


def _sides(padding: Any) -> Sequence[Any]:
    "Return the padding of the left, upper, right and lower side, of the forms that torchvision takes."
    if isinstance(padding, numbers.Number):
        return (padding,) * 4
    given = tuple(padding)
    return given * (4 // len(given)) if len(given) in (1, 2, 4) else ()


def _pair(size: Any) -> Tuple[int, int]:
    "Return height and width of a size as torchvision takes it."
    if isinstance(size, numbers.Number):
        return int(size), int(size)  # type: ignore[call-overload]
    given = tuple(size)
    if len(given) not in (1, 2):
        raise Untold("its size is not known")
    return int(given[0]), int(given[-1])
