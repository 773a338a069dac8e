"""Instructions that numba does not expose, for the compiled kernels.

numba's own integer arithmetic has 64 bits, at half the speed of 32; it loads one byte at a time; and it neither asks
for memory ahead of its use nor writes past the caches.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32, _F32 = ir.IntType(32), ir.FloatType()
#: How many floats `stream` writes: the 64 bytes of a cache line.
LINE = 16


@intrinsic
def at(typing_context: Any, address: Any) -> Any:
    "Return an address as a pointer."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def copy(typing_context: Any, to: Any, source: Any, n: Any) -> Any:
    "Copy `n` bytes between two addresses, by the C library: it writes large blocks past the caches."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, source = (builder.inttoptr(one, cgutils.voidptr_t) for one in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@intrinsic
def load(typing_context: Any, address: Any, offset: Any) -> Any:
    "Load the four bytes at `address + offset`."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        pointer = builder.bitcast(builder.gep(base, [arguments[1]]), _I32.as_pointer())
        return builder.load(pointer, align=1)

    return types.uint32(types.int64, types.int64), code


@intrinsic
def byte(typing_context: Any, word: Any, shift: Any) -> Any:
    "Return the byte of `word` that begins at bit `shift`, as a float."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shifted = builder.lshr(arguments[0], builder.trunc(arguments[1], _I32))
        return builder.sitofp(builder.and_(shifted, _I32(255)), _F32)

    return types.float32(types.uint32, types.int64), code


_ROOT = 0x3F3504F3  # the bits of sqrt(1/2): subtracting them puts a mantissa into [sqrt(1/2), sqrt(2))


@intrinsic
def exponent(typing_context: Any, value: Any) -> Any:
    "Return n of value = m · 2^n with m in [sqrt(1/2), sqrt(2))."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        moved = builder.add(builder.bitcast(arguments[0], _I32), _I32(0x3F800000 - _ROOT))
        return builder.sitofp(builder.sub(builder.ashr(moved, _I32(23)), _I32(127)), _F32)

    return types.float32(types.float32), code


@intrinsic
def mantissa(typing_context: Any, value: Any) -> Any:
    "Return m of value = m · 2^n with m in [sqrt(1/2), sqrt(2))."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        moved = builder.add(builder.bitcast(arguments[0], _I32), _I32(0x3F800000 - _ROOT))
        return builder.bitcast(builder.add(builder.and_(moved, _I32(0x7FFFFF)), _I32(_ROOT)), _F32)

    return types.float32(types.float32), code


@intrinsic
def power(typing_context: Any, whole: Any) -> Any:
    "Return 2 to the power of a whole number between -126 and 127."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.add(builder.fptosi(arguments[0], _I32), _I32(127))
        return builder.bitcast(builder.shl(exponent, _I32(23)), _F32)

    return types.float32(types.float32), code


@intrinsic
def floor(typing_context: Any, value: Any) -> Any:
    "Round down, to a float. Python's own `floor` makes an integer of 64 bits."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_F32, [_F32])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.floor.f32"), arguments)

    return types.float32(types.float32), code


@intrinsic
def offset(typing_context: Any, x: Any, y: Any, pixel: Any, line: Any) -> Any:
    "Return `x * pixel + y * line` of two whole floats, computed in 32 bits."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, y = (builder.fptosi(one, _I32) for one in arguments[:2])
        pixel, line = (builder.trunc(one, _I32) for one in arguments[2:])
        return builder.add(builder.mul(x, pixel), builder.mul(y, line))

    return types.int32(types.float32, types.float32, types.int64, types.int64), code


def _fetch(typing_context: Any, address: Any, near: int) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        builder.call(function, [pointer, _I32(0), _I32(near), _I32(1)])  # to read; data, not code
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def fetch(typing_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address that will be read soon, for the first cache.

    Any address will do: a wrong one is ignored.
    """
    return _fetch(typing_context, address, 3)


@intrinsic
def fetch_far(typing_context: Any, address: Any) -> Any:
    "Ask for a cache line as `fetch` does, for the second cache: much at a time would displace what is in the first."
    return _fetch(typing_context, address, 2)


@intrinsic
def stream(typing_context: Any, to: Any, source: Any) -> Any:
    """Copy `LINE` floats from the address `source` to the address `to`, past the caches.

    The line at `to`, which begins at a multiple of 64, is not read first and not kept: for what is larger than the
    caches. `settle` has to be called before another thread reads it.
    """

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(_F32, LINE)
        goal, taken = (builder.inttoptr(one, kind.as_pointer()) for one in arguments)
        written = builder.store(builder.load(taken, align=4), goal, align=4 * LINE)
        written.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def settle(typing_context: Any) -> Any:
    "Wait until all that `stream` has written can be seen by other threads."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@intrinsic
def address_of(typing_context: Any, array: Any) -> Any:
    "Return the address of an array's first element."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.ptrtoint(made.data, ir.IntType(64))

    return types.int64(array), code
