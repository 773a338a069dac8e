"""Two ways from an item to an image, behind one small interface: fastai's own decoding, and a user's `open`.

`Stock` keeps the decoded pixels as they are before `after_open`, which then runs on every read. `Whole` keeps what a
user's `open` returned, unless that was no function of its item alone. Both say which keys a read needs, make an image
of the records under them, or make image and records of the item itself. Neither knows where records are kept.
"""

from __future__ import annotations

import itertools
import random
import struct
import types
import warnings
import weakref
import zlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from fastai.vision import data as fastai_data
from fastai.vision import image as fastai_image
from fastai.vision.data import ImageList, SegmentationLabelList
from fastai.vision.image import Image, ImageSegment, pil2tensor

from ..store.layout import DTYPES
from . import keys, plain

_PLAIN_ATTRIBUTES = {"_px", "_logit_px", "_flow", "_affine_mat", "sample_kwargs"}
# The tag of what a user's `open` returned. Bits: the pixels were floats that uint8 / 255 restores, or floats that are
# whole numbers; a layout precedes the bytes. Then, from these bits on: what was returned, the order of the axes in
# memory, and the number of its class.
DIVIDED, WHOLE_NUMBERS, ODD, KIND, ORDER, NAME = 1, 2, 4, 3, 6, 11
OTHER, TENSOR, ARRAY = 2, 3, 4  # after Image and ImageSegment
ORDERS = [list(itertools.permutations(range(n))) for n in range(5)]
INVERSE = [[tuple(map(order.index, range(n))) for order in orders] for n, orders in enumerate(ORDERS)]
LAYOUT = struct.Struct("<B7xQ4Q4q")  # dtype, number of axes, shape, strides in bytes
_LIST_OPEN, _MASK_OPEN = ImageList.open, SegmentationLabelList.open
_IMAGE, _FILES, _FILE = PIL.Image, PIL.ImageFile, PIL.ImageFile.ImageFile
#: What decodes here. Two builds of one Pillow may have other libraries.
_LIBRARIES = [getattr(PIL.Image.core, f"{name}_version", "") for name in ("jpeglib", "libjpeg_turbo")]  # type: ignore
DECODER = f"Pillow {PIL.__version__}, libjpeg {' '.join(filter(None, map(str, _LIBRARIES)))}".encode()

_DIVISOR = np.float32(255)
# Elements from which two threads of torch convert sooner than one pass of NumPy.
SEVERAL_THREADS = 1 << 18

NEAREST, LANCZOS = PIL.Image.NEAREST, PIL.Image.LANCZOS  # type: ignore[attr-defined]

# Of so many records a list remembers, by a byte each, that it has looked at their files.
MOST_SEEN = 1 << 26

# Why nothing is kept of a user's code.
DRAWS = "it draws random numbers"
DIFFERS = "it gave two different images for one item: it is random, or depends on what was opened before"
VARIES = "what get sets on the list, which open may read, is something else each time"

Keys = Tuple[bytes, ...]
Size = Tuple[int, int]


class Piece(NamedTuple):
    "One record to keep: its array, and the number that says how to read it."

    array: np.ndarray
    tag: int = 0


class Decoded(NamedTuple):
    "An image and the records that would make it again, one for each key; or no records and the reason why."

    image: Image
    pieces: Sequence[Piece] = ()
    reason: str = ""
    original: Optional[Size] = None  # where the image was reduced
    moved: bool = False  # a global random generator, while a user's `open` was at it


class Bytes(NamedTuple):
    """The pixels of an image as they are kept: uint8, (height, width, channels); a `cls` has them divided by `divisor`.

    `viewed`: a view into a store, which is good for as long as that store's generation stands.
    """

    array: np.ndarray
    divisor: int
    cls: type
    viewed: bool = False

    @property
    def size(self) -> Tuple[int, int]:
        "Height and width, as an `Image` says them."
        return torch.Size(self.array.shape[:2])  # type: ignore[return-value]

    @property
    def shape(self) -> Tuple[int, int, int]:
        "Channels, height and width, as an `Image` says them."
        height, width, channels = self.array.shape
        return channels, height, width


def reduced(size: Size, most: Optional[int]) -> Size:
    "`size`, in either order, with its shorter side brought down to `most` and the other in proportion."
    shorter = min(size)
    if most is None or shorter <= most:
        return size
    width, height = (most if side == shorter else max(1, round(side * most / shorter)) for side in size)
    return width, height


def parts() -> Tuple[Any, ...]:
    "Return what decodes, by fastai's own `open`: a list with another part has another decoding."
    fastais = fastai_image.pil2tensor, fastai_image.open_image, fastai_data.open_image, fastai_data.open_mask
    return (_IMAGE.open, _IMAGE.Image.convert, _FILE.load, *fastais)


def stock_open(function: Any) -> Optional[type]:
    "Which of fastai's two `open` methods `function` is, by its class; None for a user's own or a patched one."
    plain = getattr(function, "__func__", function)
    if plain is not _LIST_OPEN and plain is not _MASK_OPEN:
        return None
    untouched = (  # as `parts() == _PARTS`, sooner
        _IMAGE.open is _PARTS[0]
        and _IMAGE.Image.convert is _PARTS[1]
        and _FILE.load is _PARTS[2]
        and fastai_image.pil2tensor is _PARTS[3]
        and fastai_image.open_image is _PARTS[4]
        and fastai_data.open_image is _PARTS[5]
        and fastai_data.open_mask is _PARTS[6]
    )
    return (ImageList if plain is _LIST_OPEN else SegmentationLabelList) if untouched else None


_PARTS = parts()


class Stock:
    """What fastai's `open_image` and `open_mask` do: `mode` pixels, divided by 255 if `div`, in a `cls`.

    The key is the file and the mode, so one record of bytes serves a file as image and as mask. With an `after_open`
    a second record carries the rest of the PIL image (info, EXIF, palette), since a crop or a transpose may ask for it.

    With `most`, images whose shorter side is longer than that are reduced to it, before `after_open` sees them: with an
    antialiasing filter, or to the nearest pixel where numbers are labels (masks and palettes). The size that the image
    had goes into the tag of its record, height above 16 bits of width.
    """

    def __init__(
        self,
        mode: str,
        div: bool,
        cls: type,
        after_open: Optional[Callable[[Any], Any]],
        most: Optional[int] = None,
        store: Any = None,
        since: int = 0,
    ) -> None:
        self.mode, self.div, self.cls, self.after_open, self.most = mode, div, cls, after_open, most
        self.store, self.since, self.seen = store, since, bytearray()
        self.settings = (mode, div, most, _FILES.LOAD_TRUNCATED_IMAGES)
        self.nearest = not div or mode in ("1", "P")
        self.prefix = f"stock {mode} {'truncated ' * bool(self.settings[3])}".encode()
        if most is not None:
            self.prefix += f"most {most}{' nearest' * self.nearest} ".encode()

    def fresh(self, record: Any, item: Any) -> bool:
        "Return whether `record` is of the file `item` as it is, or was since `since`; asks the store once per record."
        number = record.number
        if number < len(self.seen) and self.seen[number]:
            return True
        if not self.store.fresh(record, item, self.since):
            return False
        if number < MOST_SEEN:
            self.seen.extend(bytes(max(0, number + 1 - len(self.seen))))
            self.seen[number] = 1
        return True

    def keys(self, item: Any) -> Keys:
        "The record of pixels, and with `after_open` that of the rest; raises Unkeyable."
        pixels = self.prefix + keys.file_key(item)
        return (pixels,) if self.after_open is None else (pixels, b"rest " + pixels)

    def restore(self, pieces: Sequence[Any]) -> Any:
        "What its records make, in memory of its own: the image, in one pass from bytes to floats, or the PIL image."
        pixels = pieces[0].array
        if self.after_open is None:
            return self._image(pixels)
        return _restore(pixels, pieces[1].array.tobytes())

    def original(self, pieces: Sequence[Any]) -> Optional[Size]:
        "Height and width of the image before it was reduced; None if it was not."
        tag = pieces[0].tag
        return (tag >> 16, tag & 0xFFFF) if tag else None

    def nbytes(self, width: int, height: int) -> int:
        "Bytes that the pixels of an image of this size will take."
        width, height = reduced((width, height), self.most)
        return width * height * PIL.Image.getmodebands(self.mode) * {"I": 4, "F": 4}.get(self.mode, 1)

    def finish(self, restored: Any) -> Image:
        "The image of what `restore` made, once that is known to be good: `after_open` may draw random numbers."
        return restored if self.after_open is None else self._after(restored)

    def open(self, item: Any) -> Decoded:
        "Decode as fastai does, raising what it raises."
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            image, original = self._decode(item)
        packed = self._pack(image, original)  # before `after_open`, which may work in place
        made = self._image(np.asarray(image)) if self.after_open is None else self._after(image)
        return packed._replace(image=made)

    def pieces(self, item: Any) -> Decoded:
        """As `open`, for filling: no image is made, and `after_open` is not called.

        It leaves the warning filters alone, since threads can't share them: the caller has set them.
        """
        return self._pack(*self._decode(item))

    def _pack(self, image: PIL.Image.Image, original: Optional[Size]) -> Decoded:
        height, width = original or (0, 0)
        if max(height, width) > 0xFFFF:
            return Decoded(None, (), "with max_size no image of more than 65,535 pixels a side is", original)
        pixels = Piece(np.asarray(image), height << 16 | width)
        if self.after_open is None:
            return Decoded(None, (pixels,), "", original)
        rest = _rest(image, pixels.array)
        if rest is None:
            return Decoded(None, (), "its PIL image can't be rebuilt for after_open", original)
        return Decoded(None, (pixels, Piece(np.frombuffer(rest, np.uint8))), "", original)

    def _decode(self, item: Any) -> Tuple[PIL.Image.Image, Optional[Size]]:
        "The PIL image, and its height and width before it was reduced, if it was."
        image: PIL.Image.Image = PIL.Image.open(item)
        if self.most is not None and min(image.size) > self.most:
            size, original = reduced(image.size, self.most), image.size[::-1]
            # JPEG decodes to an eighth, a quarter or a half at little cost: to twice the size wanted, at the least.
            if not self.nearest:
                image.draft(None, (2 * size[0], 2 * size[1]))
            image = image.convert(self.mode)
            return image.resize(size, NEAREST if self.nearest else LANCZOS), original
        return self._stock(image), None

    def _stock(self, image: PIL.Image.Image) -> PIL.Image.Image:
        if self.after_open is None:
            # `convert` copies an image that has the mode already; only `after_open` could tell.
            image.load()
            if image.mode == self.mode:
                return image
        return image.convert(self.mode)

    def _after(self, image: PIL.Image.Image) -> Image:
        return self._floats(self.after_open(image))  # type: ignore[misc]

    def _floats(self, image: Any) -> Image:
        pixels = pil2tensor(image, np.float32)
        return self.cls(pixels.div_(255) if self.div else pixels)

    def _image(self, pixels: np.ndarray) -> Image:
        # The strides of `pil2tensor`, which torch's kernels may choose their order of summation by.
        if 1 in pixels.shape[:2] or pixels.dtype == np.float32:
            return self.cls(_floats_as_stock(pixels, self.div))
        pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels.reshape(1, *pixels.shape)
        return self.cls(_floats(pixels, self.div))


def _floats_as_stock(pixels: np.ndarray, divide: bool) -> torch.Tensor:
    "Do what `pil2tensor` does, on a copy: it leaves floats where they are, and gives axes of one element odd strides."
    planes = (np.expand_dims(pixels, 2) if pixels.ndim == 2 else pixels).transpose(2, 0, 1)
    px = torch.from_numpy(planes.astype(np.float32))
    if pixels.dtype == np.float32:
        px = px.as_strided(px.shape, [stride // 4 for stride in planes.strides])
    return px.div_(255) if divide else px


class Raw(Stock):
    "As `Stock`, under the same keys, but what it makes are `Bytes`; floats only of pixels that are none."

    def __init__(self, decoder: Stock) -> None:
        vars(self).update(vars(decoder))

    def restore(self, pieces: Sequence[Any]) -> Any:
        "As of `Stock`; without an `after_open` no copy is made."
        pixels = pieces[0].array
        if self.after_open is not None or pixels.dtype != np.uint8:
            return super().restore(pieces)
        return Bytes(pixels if pixels.ndim == 3 else pixels[..., None], 255 if self.div else 1, self.cls, True)

    def _image(self, pixels: np.ndarray) -> Any:
        if pixels.dtype != np.uint8:
            return super()._image(pixels)
        return Bytes(pixels if pixels.ndim == 3 else pixels[..., None], 255 if self.div else 1, self.cls)

    def _after(self, image: PIL.Image.Image) -> Any:
        made = self.after_open(image)  # type: ignore[misc]
        pixels = np.asarray(made)
        if isinstance(made, PIL.Image.Image) and pixels.dtype == np.uint8:
            return self._image(pixels)
        return self._floats(made)


def _floats(array: np.ndarray, divide: bool) -> torch.Tensor:
    """`array` as float32, divided by 255 if so asked, in the same order in memory; the same bits either way.

    In one pass of NumPy's, or, where torch may use several threads and there is enough to do, in two of torch's. The
    memory is NumPy's in both: torch aligns its own blocks, and glibc's heap grows without end between aligned blocks of
    megabytes.
    """
    if array.size < SEVERAL_THREADS or torch.get_num_threads() == 1 or not array.flags.writeable:
        floats = np.divide(array, _DIVISOR, dtype=np.float32) if divide else array.astype(np.float32)
        return torch.from_numpy(floats)
    px = torch.from_numpy(np.empty_like(array, np.float32)).copy_(torch.from_numpy(array))
    return px.div_(255) if divide else px


def _rest(image: PIL.Image.Image, pixels: np.ndarray) -> Optional[bytes]:
    "All of a PIL image but its pixels, or None if an equal one can't be made again."
    palette = image.palette and (image.palette.mode, bytes(image.palette.palette))
    try:
        data = plain.dumps([image.mode, image.info, palette])
        again = _restore(pixels, data)
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


def _restore(pixels: np.ndarray, data: bytes) -> PIL.Image.Image:
    mode, info, palette = plain.loads(data)
    raw = np.packbits(pixels, axis=1) if mode == "1" else pixels
    image = PIL.Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), raw.tobytes())
    if palette:
        image.putpalette(palette[1], palette[0])
    image.info = info
    return image


class UnknownClass(Exception):
    "A record is of a class of images that this process can't find."


class Whole:
    """What a user's `open` returns, kept as a whole, in the fewest bytes that restore it bit for bit.

    Kept are images of any class of fastai's that carry nothing but pixels, tensors and arrays. `family` is that of the
    list: `kinds` has the classes of images that this process has met. `context` is what the list's `get` has set on it,
    which `open` may read.
    """

    def __init__(self, function: Callable[[Any], Any], family: Any, context: bytes = b"", since: int = 0) -> None:
        # Not the list itself: its memory is to be freed as soon as nobody has it any more.
        bound = isinstance(function, types.MethodType)
        self._function: Callable[[], Any] = weakref.WeakMethod(function) if bound else lambda: function
        self.family, self.store = family, family.pixels
        self.prefix, self.since = family.prefix + context, since

    @property
    def function(self) -> Callable[[Any], Any]:
        "The user's `open`."
        return self._function()  # type: ignore[no-any-return]

    def keys(self, item: Any) -> Keys:
        "The key of the one record; raises Unkeyable."
        return (self.prefix + keys.item_key(item),)

    def restore(self, pieces: Sequence[Any]) -> Any:
        "Make what was returned of its record, in memory of its own; raises UnknownClass."
        array, tag = pieces[0].array, pieces[0].tag
        kind = tag >> KIND & 7
        if tag & (DIVIDED | WHOLE_NUMBERS) and not tag & ODD and kind < OTHER:  # as most are
            px = _floats(array.transpose(INVERSE[array.ndim][tag >> ORDER & 31]), bool(tag & DIVIDED))
            return (Image, ImageSegment)[kind](px)
        made = _unpacked(array, tag)
        if kind == ARRAY:
            return made
        px = torch.from_numpy(made)
        if kind == TENSOR:
            return px
        cls: Any = (Image, ImageSegment)[kind] if kind != OTHER else _image_class(tag >> NAME, self.family.kinds)
        made = cls.__new__(cls)
        Image.__init__(made, px)
        return made

    def finish(self, restored: Any) -> Any:
        "Nothing runs on every read."
        return restored

    def fresh(self, record: Any, item: Any) -> bool:
        "Return whether `record` is of the file `item` as it is, or was since `since`."
        return self.store.fresh(record, item, self.since)  # type: ignore[no-any-return]

    def original(self, pieces: Sequence[Any]) -> None:
        "Images of a user's own `open` are never reduced."

    def open(self, item: Any) -> Decoded:
        "Call the user's `open`, raising what it raises, and see whether what it returned can be kept."
        before = random_states()
        made = self.function(item)
        moved = not same_states(before, random_states())
        return Decoded(made, *packed(made, self.family.kinds), moved=moved)


def packed(made: Any, kinds: Dict[int, type]) -> Tuple[Sequence[Piece], str]:
    "Return the record of what a user's `open` returned, or none and the reason why; adds its class to `kinds`."
    cls, px, name = type(made), made, 0
    if isinstance(made, Image):
        state = vars(made)
        px = state.get("_px")
        more = [value for attribute, value in state.items() if attribute != "_px" and value not in (None, {})]
        more += [base for base in cls.__mro__ if vars(base).get("__slots__")]
        if set(state) != _PLAIN_ATTRIBUTES or more:
            return (), f"its images, of class {cls.__name__}, carry more than pixels"
        kind = (Image, ImageSegment, cls).index(cls)
        if kind == 2:
            kind, name = OTHER, _class_number(cls)
            if kinds.setdefault(name, cls) is not cls:
                return (), f"there are two classes with the name {cls.__name__}"
    elif cls is torch.Tensor or cls is np.ndarray:
        kind = TENSOR if cls is torch.Tensor else ARRAY
    elif made is None:
        return (), "it returned None"
    else:
        return (), f"it returns a {cls.__name__} and not an image, a tensor or an array"
    if type(px) is torch.Tensor:
        if px.device.type != "cpu" or px.requires_grad or px.layout != torch.strided:
            return (), "its pixels are no plain tensor on the CPU"
        try:
            px = px.numpy()
        except TypeError:
            return (), f"NumPy has no dtype for its {px.dtype} pixels"
        except RuntimeError as error:
            return (), f"its pixels are no plain tensor ({error})"
    elif kind != ARRAY:
        return (), f"its pixels are a {type(px).__name__}"
    if px.dtype.kind not in "uibf" or px.dtype not in DTYPES:
        return (), f"its pixels are {px.dtype}"
    if px.ndim > 4:
        return (), f"its pixels have {px.ndim} dimensions, and four are the most"
    for odd in (0, ODD):
        array, tag = _coded(px, odd)
        if _unpacked(array, tag).strides == px.strides:
            break
    return (Piece(array, tag | kind << KIND | name << NAME),), ""


def _coded(px: np.ndarray, odd: int) -> Tuple[np.ndarray, int]:
    """Return the array to store for `px`, and its tag.

    Axes lie in the order that they have in memory. An `odd` array is one whose strides do not follow from its shape and
    that order: expanded axes, gaps, or axes of one element. Its dtype, shape and strides precede its bytes.
    """
    orders = ORDERS[px.ndim]
    base = px[tuple(slice(0, 1) if odd and not stride else slice(None) for stride in px.strides)]
    order = min(orders, key=lambda axes: ([-base.strides[a] for a in axes], axes))
    array = np.ascontiguousarray(base.transpose(order)).reshape([base.shape[a] for a in order])
    tag = odd | orders.index(order) << ORDER
    if px.dtype == np.float32 and px.size and px.ndim:
        for flag, scale in ((DIVIDED, np.float32(255)), (WHOLE_NUMBERS, np.float32(1))):
            with np.errstate(all="ignore"):
                small = np.rint(array * scale).astype(np.uint8)
            # Division as torch does it, and a comparison of bits: -0.0 and NaN are not what bytes restore.
            again = torch.from_numpy(small).float().div_(float(scale)).numpy()
            if np.array_equal(again.view(np.int32), array.view(np.int32)):
                array, tag = small, tag | flag
                break
    if odd:
        shape, strides = (*px.shape, 0, 0, 0, 0)[:4], (*px.strides, 0, 0, 0, 0)[:4]
        head = LAYOUT.pack(DTYPES.index(array.dtype), px.ndim, *shape, *strides)
        array = np.frombuffer(head + array.tobytes(), np.uint8)
    return array, tag


def _unpacked(array: np.ndarray, tag: int) -> np.ndarray:
    "Return what `_coded` was given, in memory of its own."
    shape, strides = array.shape, None
    if tag & ODD:
        code, ndim, *numbers = LAYOUT.unpack_from(array.data)
        shape, strides = tuple(numbers[:ndim]), tuple(numbers[4 : 4 + ndim])
        array = array[LAYOUT.size :].view(DTYPES[code])
    order = ORDERS[len(shape)][tag >> ORDER & 31]
    if strides is not None:
        extents = [1 if not stride else extent for extent, stride in zip(shape, strides)]
        array = array.reshape([extents[a] for a in order])
    array = array.transpose(INVERSE[len(shape)][tag >> ORDER & 31])
    if tag & (DIVIDED | WHOLE_NUMBERS):
        array = _floats(array, bool(tag & DIVIDED)).numpy()
    elif strides is None:
        array = array.copy("K")
    if strides is None:
        return array
    steps = [(extent - 1) * stride for extent, stride in zip(array.shape, strides)]
    room = np.zeros(max(0, array.itemsize + sum(map(abs, steps))), np.uint8)
    made: np.ndarray = np.ndarray(array.shape, array.dtype, room, -sum(min(0, step) for step in steps), strides)
    made[...] = array
    return np.lib.stride_tricks.as_strided(made, shape, strides)


def _class_number(cls: type) -> int:
    "Return 21 bits of a class's name, by which processes tell one another what to make."
    return zlib.crc32(f"{cls.__module__}.{cls.__qualname__}".encode()) & 0x1FFFFF


def _image_class(number: int, kinds: Dict[int, type]) -> type:
    "Return the class of images with that number, or raise UnknownClass where none or several have it."
    if number not in kinds:
        queue, found = [Image], set()
        for cls in queue:  # which grows meanwhile
            queue += cls.__subclasses__()
            if _class_number(cls) == number:
                found.add(cls)
        if len(found) != 1:
            raise UnknownClass(number)
        kinds[number] = found.pop()
    return kinds[number]


def random_states() -> List[Any]:
    "The states of Python's, NumPy's and torch's global generators, for `same_states` and `restore_states`."
    return [random.getstate(), np.random.get_state(), torch.get_rng_state()]


def same_states(one: List[Any], other: List[Any]) -> bool:
    "Whether no number was drawn in between."
    return (
        one[0] == other[0]
        and one[1][2:] == other[1][2:]
        and bool(np.array_equal(one[1][1], other[1][1]))
        and bool(torch.equal(one[2], other[2]))
    )


def restore_states(states: List[Any]) -> None:
    "Put the generators back to what `random_states` returned."
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
