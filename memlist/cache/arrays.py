"""Pack arrays of any strides into the fewest bytes that restore them bit for bit.

The tag of a record says how its array was packed. Bits 0 to 2: floats that uint8 / 255 restores; floats that are whole
numbers; a layout precedes the bytes. Bits 6 to 10: the order of the axes in memory. The caller may use all other bits.
"""

from __future__ import annotations

import itertools
import struct
from typing import Tuple

import numpy as np

from ..store import DTYPES

DIVIDED, WHOLE_NUMBERS, ODD, ORDER = 1, 2, 4, 6
ORDERS = [list(itertools.permutations(range(n))) for n in range(5)]
INVERSE = [[tuple(map(order.index, range(n))) for order in orders] for n, orders in enumerate(ORDERS)]
_LAYOUT = struct.Struct("<B7xQ4Q4q")  # dtype, number of axes, shape, strides in bytes
_DIVISOR = np.float32(255)


def packed(array: np.ndarray) -> Tuple[np.ndarray, int]:
    "Return the array to store for `array`, of up to four dimensions and one of the store's dtypes, and its tag."
    for odd in (0, ODD):
        stored, tag = _coded(array, odd)
        if unpacked(stored, tag).strides == array.strides:
            break
    return stored, tag


def _coded(px: np.ndarray, odd: int) -> Tuple[np.ndarray, int]:
    """Return the array to store for `px`, and its tag.

    Axes are stored in the order that they have in memory. The strides of an `odd` array do not follow from its shape
    and that order: expanded axes, gaps, or axes of one element. Its dtype, shape and strides precede its bytes.
    """
    orders = ORDERS[px.ndim]
    base = px[tuple(slice(0, 1) if odd and not stride else slice(None) for stride in px.strides)]
    order = min(orders, key=lambda axes: ([-base.strides[a] for a in axes], axes))
    array = np.ascontiguousarray(base.transpose(order)).reshape([base.shape[a] for a in order])
    tag = odd | orders.index(order) << ORDER
    if px.dtype == np.float32 and px.size and px.ndim:
        for flag, scale in ((DIVIDED, _DIVISOR), (WHOLE_NUMBERS, np.float32(1))):
            with np.errstate(all="ignore"):
                small = np.rint(array * scale).astype(np.uint8)
            # Compare bits, not values: -0.0 equals 0.0, but uint8 can't restore it.
            restored = np.divide(small, scale, dtype=np.float32)
            if np.array_equal(restored.view(np.int32), array.view(np.int32)):
                array, tag = small, tag | flag
                break
    if odd:
        shape, strides = (*px.shape, 0, 0, 0, 0)[:4], (*px.strides, 0, 0, 0, 0)[:4]
        head = _LAYOUT.pack(DTYPES.index(array.dtype), px.ndim, *shape, *strides)
        array = np.frombuffer(head + array.tobytes(), np.uint8)
    return array, tag


def unpacked(array: np.ndarray, tag: int) -> np.ndarray:
    "Return the array that `packed` was called with, in memory of its own."
    shape, strides = array.shape, None
    if tag & ODD:
        code, ndim, *numbers = _LAYOUT.unpack_from(array.data)
        shape, strides = tuple(numbers[:ndim]), tuple(numbers[4 : 4 + ndim])
        array = array[_LAYOUT.size :].view(DTYPES[code])
    order = ORDERS[len(shape)][tag >> ORDER & 31]
    if strides is not None:
        extents = [1 if not stride else extent for extent, stride in zip(shape, strides)]
        array = array.reshape([extents[a] for a in order])
    array = array.transpose(INVERSE[len(shape)][tag >> ORDER & 31])
    if tag & DIVIDED:
        array = np.divide(array, _DIVISOR, dtype=np.float32)
    elif tag & WHOLE_NUMBERS:
        array = array.astype(np.float32)
    elif strides is None:
        array = array.copy("K")
    if strides is None:
        return array
    steps = [(extent - 1) * stride for extent, stride in zip(array.shape, strides)]
    room = np.zeros(max(0, array.itemsize + sum(map(abs, steps))), np.uint8)
    made: np.ndarray = np.ndarray(array.shape, array.dtype, room, -sum(min(0, step) for step in steps), strides)
    made[...] = array
    return np.lib.stride_tricks.as_strided(made, shape, strides)
