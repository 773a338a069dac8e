"""Cache the results of a user's own `open` as a whole, unless they are random."""

from __future__ import annotations

import types
import weakref
import zlib
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.vision.image import Image, ImageSegment

from ..cache import arrays, keys
from ..cache.arrays import DIVIDED, INVERSE, ODD, ORDER, WHOLE_NUMBERS
from ..cache.decode import Decoded, Keys, Piece, UnknownClass
from ..cache.function import FunctionDecoder, ProcessNote
from ..cache.randomness import VARIES, Judge
from ..store import DTYPES, ImageStore
from .decoders import floats

_PLAIN_ATTRIBUTES = {"_px", "_logit_px", "_flow", "_affine_mat", "sample_kwargs"}
# Bits of the tag besides those of `cache.arrays`: the kind of result from bit 3 on (0 for an `Image`, 1 for an
# `ImageSegment`), and the number of its class from bit 11 on.
KIND, NAME = 3, 11
OTHER, TENSOR, ARRAY = 2, 3, 4


class Whole(FunctionDecoder):
    """Cache the results of a list's `open`, in the fewest bytes that restore them bit for bit.

    Results may be tensors, arrays and images of any subclass of fastai's `Image` that hold only pixels. `function` is
    the `open`, bound to its list; `call` calls it with an item. `context` stands for the values that the list's `get`
    has set, which `open` may read; `vary(prefix)` returns whether they differ each time for one item.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        call: Callable[[Callable[[Any], Any], Any], Any],
        family: Any,
        context: bytes = b"",
        vary: Optional[Callable[[bytes], bool]] = None,
    ) -> None:
        # Keep no reference to the list: its memory must be freed with the user's last reference.
        bound = isinstance(function, types.MethodType)
        self._function: Callable[[], Any] = weakref.WeakMethod(function) if bound else lambda: function
        self._call, self.family, self.prefix, self.vary = call, family, family.prefix + context, vary

    @property
    def function(self) -> Callable[[Any], Any]:
        "Return the user's `open`."
        return self._function()  # type: ignore[no-any-return]

    @property
    def judge(self) -> Judge:  # type: ignore[override]
        return self.family.judge  # type: ignore[no-any-return]

    @property
    def process(self) -> ProcessNote:  # type: ignore[override]
        return self.family.process  # type: ignore[no-any-return]

    @property
    def pixels(self) -> ImageStore:  # type: ignore[override]
        return self.family.pixels  # type: ignore[no-any-return]

    def call(self, item: Any) -> Any:
        "Call the user's `open`. Raises whatever it raises."
        return self._call(self.function, item)

    def keys(self, item: Any) -> Keys:
        "Return the key of the one record; raise Unkeyable."
        return (self.prefix + keys.item_key(item),)

    def record(self, made: Any) -> Tuple[Sequence[Piece], str]:
        return record_of(made, self.family.kinds)

    def restore(self, records: Sequence[Any]) -> Any:
        "Restore a result from its record, in memory of its own; raise UnknownClass."
        array, tag = records[0].array, records[0].tag
        kind = tag >> KIND & 7
        if tag & (DIVIDED | WHOLE_NUMBERS) and not tag & ODD and kind < OTHER:  # the usual case
            px = floats(array.transpose(INVERSE[array.ndim][tag >> ORDER & 31]), bool(tag & DIVIDED))
            return (Image, ImageSegment)[kind](px)
        made = arrays.unpacked(array, tag)
        if kind == ARRAY:
            return made
        px = torch.from_numpy(made)
        if kind == TENSOR:
            return px
        cls: Any = (Image, ImageSegment)[kind] if kind != OTHER else _image_class(tag >> NAME, self.family.kinds)
        made = cls.__new__(cls)
        Image.__init__(made, px)
        return made

    def reviewed(self, decoded: Decoded) -> Decoded:
        family, il = self.family, getattr(self.function, "__self__", None)
        if il is not None and getattr(il, "_family", family) is not family:  # the list was changed meanwhile
            return decoded._replace(pieces=(), reason="")
        if self.vary is not None and not family.judge.reason() and self.vary(self.prefix):
            family.judge.drop(VARIES)
        return super().reviewed(decoded)


def record_of(made: Any, kinds: Dict[int, type]) -> Tuple[Sequence[Piece], str]:
    "Return the record of what a user's `open` returned, or none and the reason why; add its class to `kinds`."
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
    array, reason = _array_of(px, kind)
    if reason:
        return (), reason
    stored, tag = arrays.packed(array)
    return (Piece(stored, tag | kind << KIND | name << NAME),), ""


def _array_of(px: Any, kind: int) -> Tuple[Any, str]:
    "Return pixels as an array that can be stored, or None and the reason why they can't be."
    if type(px) is torch.Tensor:
        if px.device.type != "cpu" or px.requires_grad or px.layout != torch.strided:
            return None, "its pixels are not a plain tensor on the CPU"
        try:
            px = px.numpy()
        except TypeError:
            return None, f"NumPy has no dtype for its {px.dtype} pixels"
        except RuntimeError as error:
            return None, f"its pixels are not a plain tensor ({error})"
    elif kind != ARRAY:
        return None, f"its pixels are a {type(px).__name__}"
    if px.dtype.kind not in "uibf" or px.dtype not in DTYPES:
        return None, f"its pixels are {px.dtype}"
    if px.ndim > 4:
        return None, f"its pixels have {px.ndim} dimensions, but at most four can be kept"
    return px, ""


def _class_number(cls: type) -> int:
    "Return a 21-bit hash of a class's name, by which other processes find the class."
    return zlib.crc32(f"{cls.__module__}.{cls.__qualname__}".encode()) & 0x1FFFFF


def _image_class(number: int, kinds: Dict[int, type]) -> type:
    "Return the image class with this number; raise UnknownClass if none or several have it."
    if number not in kinds:
        queue, found = [Image], set()
        for cls in queue:  # the queue grows meanwhile
            queue += cls.__subclasses__()
            if _class_number(cls) == number:
                found.add(cls)
        if len(found) != 1:
            raise UnknownClass(number)
        kinds[number] = found.pop()
    return kinds[number]
