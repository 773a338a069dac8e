"""The protocol of a decoder, and the decoder that uses Pillow.

A `Decoder` tells `ImageCache` which keys an item has, decodes it into records, and restores the image from its records.
It does not know where records are kept. To add a decoder, write a class with these methods; see `PillowDecoder`.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
import PIL.Image
import PIL.ImageFile

from ..store import brief
from . import keys, plain

NEAREST, LANCZOS = PIL.Image.NEAREST, PIL.Image.LANCZOS  # type: ignore[attr-defined]
# Two builds of the same Pillow version may use different libraries.
_LIBRARIES = [getattr(PIL.Image.core, f"{name}_version", "") for name in ("jpeglib", "libjpeg_turbo")]  # type: ignore
#: The name of this decoder, which is stored with the records of a cache file.
DECODER = f"Pillow {PIL.__version__}, libjpeg {' '.join(filter(None, map(str, _LIBRARIES)))}".encode()
#: The longest side in pixels that the tag of a reduced image can hold.
LONGEST = 0xFFFF

Keys = Tuple[bytes, ...]
Size = Tuple[int, int]


class Piece(NamedTuple):
    "One record to store: its array, and a tag that says how to read it."

    array: np.ndarray
    tag: int = 0


class Decoded(NamedTuple):
    """An image and the records that restore it, one per key; or no records and the reason why.

    - `original`: height and width before the image was reduced, if it was
    - `moved`: whether a global random generator advanced while a user's function ran
    """

    image: Any
    pieces: Sequence[Piece] = ()
    reason: str = ""
    original: Optional[Size] = None
    moved: bool = False


class Decoder(Protocol):
    """Decode items into records, and make images from records: the protocol of a decoder.

    `one_for_all`: one function of the user's makes all images. So a reason not to store one image holds for all, and
    the function may keep references to the images that it returned.
    """

    one_for_all: bool

    def keys(self, item: Any) -> Keys:
        "Return the keys of the records of `item`; raise `keys.Unkeyable` if no key can identify it."

    def open(self, item: Any, keep: bool = True) -> Decoded:
        "Decode `item`, with its records if `keep`. Raises whatever opening it raises."

    def pieces(self, item: Any) -> Decoded:
        "Decode `item` into its records; no image needs to be made."

    def trusted(self) -> bool:
        "Return whether stored records may be served."

    def restore(self, records: Sequence[Any]) -> Any:
        "Return an image made from `records`, in memory of its own, or the argument for `finish`; raise UnknownClass."

    def finish(self, restored: Any) -> Any:
        "Make the image from what `restore` returned, once that is known to be valid. Random code runs only here."

    def original(self, records: Sequence[Any]) -> Optional[Size]:
        "Return height and width of the image before it was reduced; None if it was not."

    def nbytes(self, item: Any) -> Optional[int]:
        "Return how many bytes `item` will take, by the header of its file; None if only decoding it can tell."


class UnknownClass(Exception):
    "Raised for a record whose image class can't be found in this process."


def reduced(size: Size, most: Optional[int]) -> Size:
    "Return `size`, in either order, with its shorter side reduced to `most` and the other in proportion."
    shorter = min(size)
    if most is None or shorter <= most:
        return size
    width, height = (most if side == shorter else max(1, round(side * most / shorter)) for side in size)
    return width, height


def original_size(tag: int) -> Optional[Size]:
    "Return the height and width that the tag of a reduced image holds; None for any other image's tag."
    return (tag >> 16, tag & 0xFFFF) if tag else None


def check_max_size(max_size: Any) -> None:
    "Raise ValueError if `max_size` is not a number of pixels."
    if isinstance(max_size, bool) or not isinstance(max_size, int) or max_size < 1:
        raise ValueError(f"max_size={brief(max_size)}: use a number of pixels for the shorter side, or None")


class PillowDecoder:
    """Decode with Pillow into `mode`.

    The key consists of the file and the mode. With `whole`, a second record holds the rest of the PIL image (info,
    EXIF, palette). With `most`, images whose shorter side exceeds `most` are reduced to it: with an antialiasing
    filter, or by nearest neighbour if `labels` (masks and palettes, whose values are labels). The tag of the record
    holds the original size: the width in its low 16 bits, the height above.
    """

    one_for_all = False

    def __init__(self, mode: str, most: Optional[int] = None, labels: bool = False, whole: bool = False) -> None:
        self.mode, self.most, self.labels, self.whole = mode, most, labels, whole
        truncated = PIL.ImageFile.LOAD_TRUNCATED_IMAGES
        self.prefix = f"stock {mode} {'truncated ' * bool(truncated)}".encode()
        if most is not None:
            self.prefix += f"most {most}{' nearest' * labels} ".encode()

    def keys(self, item: Any) -> Keys:
        "Return the key of the pixels and, with `whole`, that of the rest; raise `keys.Unkeyable`."
        pixels = self.prefix + keys.file_key(item)
        return (pixels, b"rest " + pixels) if self.whole else (pixels,)

    def trusted(self) -> bool:
        return True

    def original(self, records: Sequence[Any]) -> Optional[Size]:
        return original_size(records[0].tag)

    def nbytes(self, item: Any) -> Optional[int]:
        with PIL.Image.open(item) as image:
            width, height = reduced(image.size, self.most)
        return width * height * PIL.Image.getmodebands(self.mode) * {"I": 4, "F": 4}.get(self.mode, 1)

    def restore(self, records: Sequence[Any]) -> Any:
        "Return the array of the pixels, or with `whole` the PIL image."
        pixels = records[0].array
        return restored(pixels, records[1].array.tobytes()) if self.whole else self.image(pixels)

    def finish(self, restored: Any) -> Any:
        return self.after(restored) if self.whole else restored

    def open(self, item: Any, keep: bool = True) -> Decoded:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image, original = self._decode(item)
        made = self._pieces(image, original)  # before `after`, which may work in place
        if self.whole:
            return made._replace(image=self.after(image))
        pixels = made.pieces[0].array if made.pieces else np.asarray(image)
        del image  # so that its memory can be used again
        return made._replace(image=self.image(pixels))

    def pieces(self, item: Any) -> Decoded:
        "Decode into records. The caller has to set warning filters: threads share them, so they are left alone here."
        return self._pieces(*self._decode(item))

    def image(self, pixels: np.ndarray) -> Any:
        "Make the image from `pixels`, (height, width) or (height, width, channels); here, a copy of them."
        return pixels.copy()

    def after(self, image: PIL.Image.Image) -> Any:
        "Make the image from a PIL image; here, return it unchanged."
        return image

    def _pieces(self, image: PIL.Image.Image, original: Optional[Size]) -> Decoded:
        height, width = original or (0, 0)
        if max(height, width) > LONGEST:
            return Decoded(None, (), "max_size supports at most 65,535 pixels per side", original)
        pixels = Piece(np.asarray(image), height << 16 | width)
        if not self.whole:
            return Decoded(None, (pixels,), "", original)
        rest = rest_of(image, pixels.array)
        if rest is None:
            return Decoded(None, (), "its PIL image can't be rebuilt for after_open", original)
        return Decoded(None, (pixels, Piece(np.frombuffer(rest, np.uint8))), "", original)

    def _decode(self, item: Any) -> Tuple[PIL.Image.Image, Optional[Size]]:
        "Return the PIL image, and its height and width before it was reduced, if it was."
        with PIL.Image.open(item) as image:  # Pillow leaves a file open that is cut off or has several pictures
            return self._from_open(image)

    def _from_open(self, image: PIL.Image.Image) -> Tuple[PIL.Image.Image, Optional[Size]]:
        if self.most is not None and min(image.size) > self.most:
            size, original = reduced(image.size, self.most), image.size[::-1]
            # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size at little cost. Ask for at least twice the size wanted.
            if not self.labels:
                image.draft(None, (2 * size[0], 2 * size[1]))
            image = image.convert(self.mode)
            return image.resize(size, NEAREST if self.labels else LANCZOS), original
        if not self.whole:
            # `convert` would copy an image that already has the mode; only user code, with `whole`, could tell.
            image.load()
            if image.mode == self.mode:
                return image, None
        return image.convert(self.mode), None


def rest_of(image: PIL.Image.Image, pixels: np.ndarray) -> Optional[bytes]:
    "Return all of a PIL image except its pixels; None if an equal image can't be restored."
    palette = image.palette and (image.palette.mode, bytes(image.palette.palette))
    try:
        data = plain.dumps([image.mode, image.info, palette])
        again = restored(pixels, data)
    except (TypeError, ValueError, OSError, MemoryError):
        return None
    same = (
        type(image) is type(again)
        and image.size == again.size
        and image.mode == again.mode
        and repr(image.info) == repr(again.info)
        and image.tobytes() == again.tobytes()
        and (palette is None or image.convert("RGBA").tobytes() == again.convert("RGBA").tobytes())
        and set(vars(image)) == set(vars(again))
        and (again.palette and (again.palette.mode, bytes(again.palette.palette))) == palette
    )
    return data if same else None


def restored(pixels: np.ndarray, rest: bytes) -> PIL.Image.Image:
    "Return the PIL image with these `pixels` and this `rest`, in memory of its own."
    mode, info, palette = plain.loads(rest)
    raw = np.packbits(pixels, axis=1) if mode == "1" else pixels
    image = PIL.Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), raw.tobytes())
    if palette:
        image.putpalette(palette[1], palette[0])
    image.info = info
    return image
