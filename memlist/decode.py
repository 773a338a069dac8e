"""Two ways from an item to an image, behind one small interface: fastai's own decoding, and a user's `open`.

`Stock` keeps the decoded pixels as they are before `after_open`, which then runs on every read. `Whole` keeps what a
user's `open` returned, unless that was no function of its item alone. Both say which keys a read needs, make an image
of the records under them, or make image and records of the item itself. Neither knows where records are kept.
"""

from __future__ import annotations

import random
import warnings
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import PIL.Image
import torch
from fastai.vision import data as fastai_data
from fastai.vision import image as fastai_image
from fastai.vision.data import ImageList, SegmentationLabelList
from fastai.vision.image import Image, ImageSegment, pil2tensor

from . import keys, plain

_PLAIN_ATTRIBUTES = {"_px", "_logit_px", "_flow", "_affine_mat", "sample_kwargs"}
# Bits of a record's tag, for what a user's `open` returned: pixels were floats that uint8 / 255 restores, or floats
# that are whole numbers; the class; and above them the order of the axes in memory.
DIVIDED, WHOLE_NUMBERS, SEGMENT, ORDER = 1, 2, 4, 3
# As they were at import: who exchanges one of them wants another decoding.
_OPEN_IMAGE, _OPEN_MASK = fastai_image.open_image, fastai_image.open_mask
_LIST_OPEN, _MASK_OPEN = ImageList.open, SegmentationLabelList.open
_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

_DIVISOR = np.float32(255)
# Elements from which two threads of torch convert sooner than one pass of NumPy.
SEVERAL_THREADS = 1 << 18

NEAREST, LANCZOS = PIL.Image.NEAREST, PIL.Image.LANCZOS  # type: ignore[attr-defined]

RANDOM = "it draws random numbers"

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


def stock_open(function: Any) -> Optional[type]:
    "Which of fastai's two `open` methods `function` is, by its class; None for a user's own or a patched one."
    plain = getattr(function, "__func__", function)
    if fastai_image.pil2tensor is not pil2tensor:
        return None
    if plain is _LIST_OPEN:
        return ImageList if fastai_data.open_image is _OPEN_IMAGE else None
    if plain is _MASK_OPEN:
        untouched = fastai_data.open_mask is _OPEN_MASK and fastai_image.open_image is _OPEN_IMAGE
        return SegmentationLabelList if untouched else None
    return None


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
    ) -> None:
        self.mode, self.div, self.cls, self.after_open, self.most = mode, div, cls, after_open, most
        self.nearest = not div or mode in ("1", "P")
        self.prefix = f"stock {mode} ".encode()
        if most is not None:
            self.prefix += f"most {most}{' nearest' * self.nearest} ".encode()

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
        pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels.reshape(1, *pixels.shape)
        return self.cls(_floats(pixels, self.div))


class Raw(Stock):
    "As `Stock`, under the same keys, but what it makes are `Bytes`; floats only of pixels that are none."

    def __init__(self, decoder: Stock) -> None:
        super().__init__(decoder.mode, decoder.div, decoder.cls, decoder.after_open, decoder.most)

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


class Whole:
    """What a user's `open` returns, kept as a whole, in the fewest bytes that restore it bit for bit.

    Not kept is what moved the state of `random`, NumPy or torch, and what is not exactly an `Image` or `ImageSegment`
    of three-dimensional pixels with nothing pending and nothing added. `prefix` stands for the function and all that
    it reads.
    """

    def __init__(self, function: Callable[[Any], Any], prefix: bytes) -> None:
        self.function, self.prefix = function, prefix

    def keys(self, item: Any) -> Keys:
        "One record; raises Unkeyable."
        return (b"whole " + self.prefix + keys.item_key(item),)

    def restore(self, pieces: Sequence[Any]) -> Image:
        "The image of its record, in memory of its own."
        array, tag = pieces[0].array, pieces[0].tag
        order = np.argsort(_ORDERS[tag >> ORDER])
        array = array.transpose(order)
        if tag & (DIVIDED | WHOLE_NUMBERS):
            px = _floats(array, bool(tag & DIVIDED))
        else:
            px = torch.from_numpy(array.copy("K"))
        return (ImageSegment if tag & SEGMENT else Image)(px)

    def finish(self, restored: Image) -> Image:
        return restored

    def open(self, item: Any) -> Decoded:
        "Call the user's `open`, raising what it raises, and see whether what it returned can be kept."
        before = random_states()
        image = self.function(item)
        if not same_states(before, random_states()):
            return Decoded(image, reason=RANDOM)
        return Decoded(image, *_packed(image))


def _packed(image: Any) -> Tuple[Sequence[Piece], str]:
    if type(image) not in (Image, ImageSegment):
        return (), f"it returns a {type(image).__name__} and not a plain Image or ImageSegment"
    state: Dict[str, Any] = vars(image)
    px = state.get("_px")
    pending = [state.get(name) for name in ("_logit_px", "_flow", "_affine_mat")]
    if set(state) != _PLAIN_ATTRIBUTES or state["sample_kwargs"] or any(p is not None for p in pending):
        return (), "its images carry more than pixels"
    if type(px) is not torch.Tensor or px.dim() != 3 or px.device.type != "cpu" or px.requires_grad:
        return (), "its pixels are no plain three-dimensional tensor on the CPU"
    strides = px.stride()
    order = min(_ORDERS, key=lambda axes: ([-strides[a] for a in axes], axes))
    if not px.permute(order).is_contiguous():
        order = (0, 1, 2)  # not dense: a copy is, and so is the clone that transforms start with
    try:
        array = np.ascontiguousarray(px.detach().permute(order).numpy())
    except TypeError:
        return (), f"NumPy has no dtype for its {px.dtype} pixels"
    if array.dtype.kind not in "uibf":
        return (), f"its pixels are {array.dtype}"
    tag = (SEGMENT if type(image) is ImageSegment else 0) | _ORDERS.index(order) << ORDER
    if array.dtype == np.float32 and array.size:
        for flag, scale in ((DIVIDED, np.float32(255)), (WHOLE_NUMBERS, np.float32(1))):
            with np.errstate(all="ignore"):
                small = np.rint(array * scale).astype(np.uint8)
            # Division as torch does it, and a comparison of bits: -0.0 and NaN are not what bytes restore.
            again = torch.from_numpy(small).float().div_(float(scale)).numpy()
            if np.array_equal(again.view(np.int32), array.view(np.int32)):
                return (Piece(small, tag | flag),), ""
    return (Piece(array, tag),), ""


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
