"""From a file to an array: what a decoder has to do, and the decoder that does what Pillow does.

`Decoder` is the protocol that `ImageCache` asks: which keys an item has, how it is decoded into records, and how an
image is made of its records again. No decoder knows where records are kept. To add one, write a class with these
methods; `PillowDecoder` is the example.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
import PIL.Image
import PIL.ImageFile

from . import keys, plain

NEAREST, LANCZOS = PIL.Image.NEAREST, PIL.Image.LANCZOS  # type: ignore[attr-defined]
# Two builds of one Pillow may have other libraries.
_LIBRARIES = [getattr(PIL.Image.core, f"{name}_version", "") for name in ("jpeglib", "libjpeg_turbo")]  # type: ignore
#: Names what decodes here, for the records of a cache file.
DECODER = f"Pillow {PIL.__version__}, libjpeg {' '.join(filter(None, map(str, _LIBRARIES)))}".encode()
#: The longest side in pixels that the tag of a reduced image can hold.
LONGEST = 0xFFFF

Keys = Tuple[bytes, ...]
Size = Tuple[int, int]


class Piece(NamedTuple):
    "One record to keep: its array, and the number that says how to read it."

    array: np.ndarray
    tag: int = 0


class Decoded(NamedTuple):
    """An image, and the records that would make it again, one per key; or no records and the reason why.

    - `original`: height and width before the image was reduced, if it was
    - `moved`: whether a global random generator moved while a user's function ran
    """

    image: Any
    pieces: Sequence[Piece] = ()
    reason: str = ""
    original: Optional[Size] = None
    moved: bool = False


class Decoder(Protocol):
    """Say how items are decoded, and how images are made of their records: the protocol of a decoder.

    `one_for_all`: what is decoded is the result of one function of the user's. A reason why one image is not kept holds
    for all of them, and the function may hold on to what it returned.
    """

    one_for_all: bool

    def keys(self, item: Any) -> Keys:
        "Return the keys of the records of `item`; raise `keys.Unkeyable` for an item that no key can tell from others."

    def open(self, item: Any, keep: bool = True) -> Decoded:
        "Decode `item`, with its records if it is to be kept. Raise what opening it raises."

    def pieces(self, item: Any) -> Decoded:
        "Decode `item` for its records alone; no image needs to be made."

    def trusted(self) -> bool:
        "Return whether records that are there may be served."

    def restore(self, records: Sequence[Any]) -> Any:
        "Make an image of `records`, in memory of its own, or what `finish` makes one of; raise UnknownClass."

    def finish(self, restored: Any) -> Any:
        "Return the image of what `restore` made, once that is known to be good: what is random runs here."

    def original(self, records: Sequence[Any]) -> Optional[Size]:
        "Return height and width of the image before it was reduced; None if it was not."

    def nbytes(self, item: Any) -> Optional[int]:
        "Return the bytes that `item` will take, from the header of its file; None if only decoding it tells."


class UnknownClass(Exception):
    "A record is of a class of images that this process can't find."


def reduced(size: Size, most: Optional[int]) -> Size:
    "Return `size`, in either order, with its shorter side reduced to `most` and the other in proportion."
    shorter = min(size)
    if most is None or shorter <= most:
        return size
    width, height = (most if side == shorter else max(1, round(side * most / shorter)) for side in size)
    return width, height


class PillowDecoder:
    """Decode with Pillow into `mode`.

    The key is the file and the mode. With `whole` a second record carries the rest of the PIL image (info, EXIF,
    palette). With `most`, images whose shorter side is longer than that are reduced to it: by an antialiasing filter,
    or to the nearest pixel if `labels` (masks and palettes, whose numbers are labels). The size that the image had goes
    into the tag of its record, height above 16 bits of width.
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
        tag = records[0].tag
        return (tag >> 16, tag & 0xFFFF) if tag else None

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
        return made._replace(image=self.after(image) if self.whole else self.image(np.asarray(image)))

    def pieces(self, item: Any) -> Decoded:
        "Decode without making an image, nor setting warning filters: threads share these, and the caller has set them."
        return self._pieces(*self._decode(item))

    def image(self, pixels: np.ndarray) -> Any:
        "Return what `pixels`, (height, width) or (height, width, channels), become: here a copy of them."
        return pixels.copy()

    def after(self, image: PIL.Image.Image) -> Any:
        "Return what a PIL image becomes: here, itself."
        return image

    def _pieces(self, image: PIL.Image.Image, original: Optional[Size]) -> Decoded:
        height, width = original or (0, 0)
        if max(height, width) > LONGEST:
            return Decoded(None, (), "with max_size no image of more than 65,535 pixels a side is", original)
        pixels = Piece(np.asarray(image), height << 16 | width)
        if not self.whole:
            return Decoded(None, (pixels,), "", original)
        rest = _rest(image, pixels.array)
        if rest is None:
            return Decoded(None, (), "its PIL image can't be rebuilt for after_open", original)
        return Decoded(None, (pixels, Piece(np.frombuffer(rest, np.uint8))), "", original)

    def _decode(self, item: Any) -> Tuple[PIL.Image.Image, Optional[Size]]:
        "Return the PIL image, and its height and width before it was reduced, if it was."
        image: PIL.Image.Image = PIL.Image.open(item)
        if self.most is not None and min(image.size) > self.most:
            size, original = reduced(image.size, self.most), image.size[::-1]
            # JPEG decodes to an eighth, a quarter or a half at little cost: to twice the size wanted, at the least.
            if not self.labels:
                image.draft(None, (2 * size[0], 2 * size[1]))
            image = image.convert(self.mode)
            return image.resize(size, NEAREST if self.labels else LANCZOS), original
        if not self.whole:
            # `convert` copies an image that has the mode already; only the caller's own code could tell.
            image.load()
            if image.mode == self.mode:
                return image, None
        return image.convert(self.mode), None


def _rest(image: PIL.Image.Image, pixels: np.ndarray) -> Optional[bytes]:
    "Return all of a PIL image but its pixels, or None if an equal one can't be made again."
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
    "Return the PIL image with these `pixels` and the `rest` of it, in memory of its own."
    mode, info, palette = plain.loads(rest)
    raw = np.packbits(pixels, axis=1) if mode == "1" else pixels
    image = PIL.Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), raw.tobytes())
    if palette:
        image.putpalette(palette[1], palette[0])
    image.info = info
    return image
