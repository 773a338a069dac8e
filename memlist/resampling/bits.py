"""Operations on sixteen bytes at a time, which numba does not expose: for the kernels.

LLVM turns these vectors into the instructions that the processor has.
"""

from __future__ import annotations

from typing import Any, List

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
#: How many bytes a vector has.
LANES = 16
_BYTES, _INTS = ir.VectorType(_I8, LANES), ir.VectorType(_I32, LANES)
#: The bits behind the point of a weight: PRECISION_BITS in Pillow's Resample.c.
PRECISION = 32 - 8 - 2


def _all(value: int) -> ir.Constant:
    "Return a vector of one value."
    return ir.Constant(_INTS, [value] * LANES)


def _bytes_at(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, _BYTES.as_pointer()), align=1)


def _put_bytes(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, _BYTES.as_pointer()), align=1)


def _weigh(vectors: int) -> Any:
    "Return the intrinsic that mixes so many vectors at a time."

    @intrinsic
    def weigh(typing_context: Any, to: Any, source: Any, step: Any, count: Any, weights: Any) -> Any:
        """Write at `to` the rounded sum of `count` vectors, one every `step` bytes from `source` on.

        Each is multiplied by its weight, int32; sums begin with a half, lose the bits behind the point and are cut off
        at 0 and 255.
        """

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            to, source, step, count, weights = arguments
            sums = [cgutils.alloca_once_value(builder, _all(1 << (PRECISION - 1))) for _ in range(vectors)]
            with cgutils.for_range(builder, count) as loop:
                at = builder.add(source, builder.mul(loop.index, step))
                place = builder.add(weights, builder.shl(loop.index, _I64(2)))
                weight = builder.load(builder.inttoptr(place, _I32.as_pointer()), align=4)
                first = builder.insert_element(ir.Constant(_INTS, ir.Undefined), weight, _I32(0))
                weight = builder.shuffle_vector(first, ir.Constant(_INTS, ir.Undefined), _all(0))
                for k, total in enumerate(sums):
                    wide = builder.zext(_bytes_at(builder, builder.add(at, _I64(k * LANES))), _INTS)
                    builder.store(builder.add(builder.load(total), builder.mul(wide, weight)), total)
            for k, total in enumerate(sums):
                whole = builder.ashr(builder.load(total), _all(PRECISION))
                whole = builder.select(builder.icmp_signed(">", whole, _all(0)), whole, _all(0))
                whole = builder.select(builder.icmp_signed("<", whole, _all(255)), whole, _all(255))
                _put_bytes(builder, builder.trunc(whole, _BYTES), builder.add(to, _I64(k * LANES)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), code

    return weigh


#: The same for 16, 32, 48 and 64 bytes at a time.
weigh_1, weigh_2, weigh_3, weigh_4 = _weigh(1), _weigh(2), _weigh(3), _weigh(4)


def _exchanged(builder: Any, rows: List[Any]) -> List[Any]:
    """Return the columns of a square of bytes.

    Each round interleaves the bytes of rows k and k + 8, which moves one bit of a byte's row number to its column.
    """
    low = [k // 2 + k % 2 * LANES for k in range(LANES)]
    masks = [ir.Constant(_INTS, [k + half for k in low]) for half in (0, LANES // 2)]
    for _ in range(4):
        rows = [builder.shuffle_vector(rows[k // 2], rows[k // 2 + 8], masks[k % 2]) for k in range(LANES)]
    return rows


@intrinsic
def columns_of(typing_context: Any, to: Any, lines: Any, offset: Any) -> Any:
    """Write the columns of a square of sixteen bytes by sixteen at `to`, one after the other.

    Row k begins `offset` bytes after the k-th address of those at `lines`, int64.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, lines, offset = arguments
        places = [builder.inttoptr(builder.add(lines, _I64(8 * k)), _I64.as_pointer()) for k in range(LANES)]
        rows = [_bytes_at(builder, builder.add(builder.load(place), offset)) for place in places]
        for k, column in enumerate(_exchanged(builder, rows)):
            _put_bytes(builder, column, builder.add(to, _I64(k * LANES)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def rows_of(typing_context: Any, to: Any, pitch: Any, source: Any) -> Any:
    "Write the rows of a square whose sixteen columns lie at `source`, one every `pitch` bytes from `to` on."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, pitch, source = arguments
        columns = [_bytes_at(builder, builder.add(source, _I64(k * LANES))) for k in range(LANES)]
        for k, row in enumerate(_exchanged(builder, columns)):
            _put_bytes(builder, row, builder.add(to, builder.mul(pitch, _I64(k))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), code


@intrinsic
def put(typing_context: Any, address: Any, value: Any) -> Any:
    "Write a whole number at an address."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, number = arguments
        builder.store(number, builder.inttoptr(address, number.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, value), code
