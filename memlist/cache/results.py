"""Turn what a user's function returned into one record, and a record into an equal result.

Results are arrays, tensors, PIL images, and tuples, lists and dicts of these and of plain values (see `plain`). The
kind of a result is in its tag, besides the bits of `arrays`. Torch is used only if the function has returned a tensor,
or a record of one is read.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import PIL.Image

from ..store import DTYPES
from . import arrays, plain
from .decode import Piece, rest_of, restored

# Bits of the tag from this one on: the kind of the result.
KIND = 3
ARRAY, TENSOR, SEVERAL = 1, 2, 3
# Arrays begin at multiples of so many bytes in the record of a result of several parts.
_ALIGN = 64
_HEAD = struct.Struct("<Q")


class Part(NamedTuple):
    "An array in the record of several, as plain values: its tag, dtype and shape, and where it begins."

    tag: int
    dtype: int
    shape: Tuple[int, ...]
    begin: int


class Unkept(Exception):
    "Raised for a result that can't be kept, with the reason."


def record_of(made: Any) -> Tuple[Sequence[Piece], str]:
    "Return the record of a result, or none and the reason why it can't be kept."
    try:
        if type(made) in (np.ndarray, *_tensor_types(made)):
            stored, tag = _packed(made)
            return (Piece(stored, tag),), ""
        if made is None:
            raise Unkept("it returned None")
        blocks: List[np.ndarray] = []
        described = _described(made, blocks, _Room())
        if not blocks:
            raise Unkept(f"it returns {_named(made)} and not an image, an array or a tensor")
        return (Piece(_joined(plain.dumps(described), blocks), SEVERAL << KIND),), ""
    except Unkept as why:
        return (), str(why)


def result_of(array: np.ndarray, tag: int, copy: bool = True) -> Any:
    """Return the result whose record is `array` with this `tag`.

    It is in memory of its own. Without `copy`, arrays are read-only views where they lie in the store as they are.
    """
    kind = tag >> KIND & 7
    if kind != SEVERAL:
        return _unpacked(array, tag, copy)
    (length,) = _HEAD.unpack_from(array.data)
    body = array[_aligned(_HEAD.size + length) :]
    return _made(plain.loads(array[_HEAD.size : _HEAD.size + length].tobytes()), body, copy)


def picture_of(array: np.ndarray, tag: int) -> Optional[Tuple[np.ndarray, str]]:
    """Return the pixels and the mode of a result that is one PIL image of bytes, a view of its record; else None.

    The pixels are those that Pillow shows NumPy: (height, width) or (height, width, channels), uint8.
    """
    if tag >> KIND & 7 != SEVERAL:
        return None
    (length,) = _HEAD.unpack_from(array.data)
    described = plain.loads(array[_HEAD.size : _HEAD.size + length].tobytes())
    if described[0] != "image":
        return None
    stored_tag, dtype, shape, begin = described[1]
    mode, _, palette = plain.loads(described[2])
    if DTYPES[dtype] != np.uint8 or palette or mode == "1" or stored_tag & (arrays.ODD | arrays.DIVIDED):
        return None
    body = array[_aligned(_HEAD.size + length) :]
    stored = body[begin : begin + int(np.prod(shape, dtype=np.int64))].reshape(shape)
    pixels = stored.transpose(arrays.INVERSE[stored.ndim][stored_tag >> arrays.ORDER & 31])
    return pixels, mode


class _Room:
    "Count the bytes of the blocks so far."

    def __init__(self) -> None:
        self.used = 0

    def add(self, nbytes: int) -> int:
        "Return where a block of so many bytes begins."
        begin, self.used = self.used, self.used + _aligned(nbytes)
        return begin


def _described(made: Any, blocks: List[np.ndarray], room: _Room) -> Any:
    "Return a result as plain values, in which its arrays are replaced by parts; add those to `blocks`."
    kind = type(made)
    if kind in (tuple, list):
        return [kind.__name__, *(_described(one, blocks, room) for one in made)]
    if kind is dict:
        if not all(type(key) in (str, int, bool, float, bytes, type(None)) for key in made):
            raise Unkept("the keys of its dict are not strings or numbers")
        return ["dict", *([key, _described(one, blocks, room)] for key, one in made.items())]
    if kind is np.ndarray or kind in _tensor_types(made):
        return ["array", _part(made, blocks, room)]
    if isinstance(made, np.generic):
        return ["scalar", _part(np.array(made), blocks, room)]
    if isinstance(made, PIL.Image.Image):
        if kind is not PIL.Image.Image:
            raise Unkept(f"it returns a {kind.__name__}, which reads from an open file: please return image.convert(…)")
        pixels = np.asarray(made)
        rest = rest_of(made, pixels)
        if rest is None:
            raise Unkept(f"a PIL image of mode {made.mode} with this info can't be made again")
        return ["image", _part(pixels, blocks, room), rest]
    try:
        plain.dumps(made)
    except TypeError:
        raise Unkept(f"it returns {_named(made)}") from None
    return ["value", made]


def _part(made: Any, blocks: List[np.ndarray], room: _Room) -> List[Any]:
    stored, tag = _packed(made)
    blocks.append(stored)
    return list(Part(tag, DTYPES.index(stored.dtype), list(stored.shape), room.add(stored.nbytes)))  # type: ignore


def _joined(head: bytes, blocks: Sequence[np.ndarray]) -> np.ndarray:
    "Return the bytes of the description and of the arrays, one after another."
    first = _aligned(_HEAD.size + len(head))
    whole = np.zeros(first + sum(_aligned(one.nbytes) for one in blocks), np.uint8)
    whole[: _HEAD.size + len(head)] = np.frombuffer(_HEAD.pack(len(head)) + head, np.uint8)
    at = first
    for one in blocks:
        whole[at : at + one.nbytes] = np.frombuffer(one.tobytes(), np.uint8)
        at += _aligned(one.nbytes)
    return whole


def _made(described: Any, body: np.ndarray, copy: bool) -> Any:
    kind, *rest = described
    if kind == "tuple":
        return tuple(_made(one, body, copy) for one in rest)
    if kind == "list":
        return [_made(one, body, copy) for one in rest]
    if kind == "dict":
        return {key: _made(one, body, copy) for key, one in rest}
    if kind == "value":
        return rest[0]
    tag, dtype, shape, begin = rest[0]
    nbytes = DTYPES[dtype].itemsize * int(np.prod(shape, dtype=np.int64))
    stored = body[begin : begin + nbytes].view(DTYPES[dtype]).reshape(shape)
    if kind == "array":
        return _unpacked(stored, tag, copy)
    if kind == "scalar":
        return _unpacked(stored, tag, True)[()]
    return restored(arrays.unpacked(stored, tag), rest[1])


def _packed(made: Any) -> Tuple[np.ndarray, int]:
    "Return the array to store for an array or a tensor, and its tag; raise Unkept."
    if type(made) is np.ndarray:
        array, kind = made, ARRAY
    else:
        array, kind = _array_of(made), TENSOR
    if array.dtype.kind not in "uibf" or array.dtype not in DTYPES:
        raise Unkept(f"its values are {array.dtype}")
    if array.ndim > 4:
        raise Unkept(f"it has {array.ndim} dimensions, but at most four can be kept")
    stored, tag = arrays.packed(array)
    return stored, tag | kind << KIND


def _array_of(tensor: Any) -> np.ndarray:
    if tensor.device.type != "cpu" or tensor.requires_grad:
        raise Unkept("it returns a tensor that is not on the CPU, or that requires a gradient")
    if not tensor.numel():
        raise Unkept("it returns an empty tensor")  # NumPy does not keep its strides
    try:
        return tensor.numpy()  # type: ignore[no-any-return]
    except (TypeError, RuntimeError) as error:
        raise Unkept(f"NumPy can't read its tensor ({error})") from None


def _unpacked(array: np.ndarray, tag: int, copy: bool) -> Any:
    if tag >> KIND & 7 == TENSOR:
        torch = importlib.import_module("torch")  # a file may be read where nothing else has imported it
        return torch.from_numpy(arrays.unpacked(array, tag))
    if copy or tag & (arrays.DIVIDED | arrays.WHOLE_NUMBERS | arrays.ODD):
        made = arrays.unpacked(array, tag)
    else:
        made = array.transpose(arrays.INVERSE[array.ndim][tag >> arrays.ORDER & 31])
    if not copy:
        made = made.view()
        made.flags.writeable = False
    return made


def _tensor_types(made: Any) -> Tuple[type, ...]:
    "Return the class of tensors if `made` is one."
    kind = type(made)
    return (kind,) if kind.__module__ == "torch" and kind.__name__ == "Tensor" else ()


def _aligned(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


def _named(made: Any) -> str:
    return f"a {type(made).__name__}"
