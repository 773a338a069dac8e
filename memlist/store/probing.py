"""Probe the index of a store for many digests at once, compiled by numba. Importing this module needs numba.

It reads the mapped memory of the store by address. The numbers of the format come from `layout`. `lookup` calls it.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_U = np.uint64
_BYTE, _HALF = _U(255), _U(0xFFFFFFFF)
# Larger sizes are damage: they might not fit into 64 bits.
_MOST = float(1 << 62)


def _can_cache() -> bool:
    "Return whether numba finds a folder for its cache: next to this file, or in the user's cache."
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


_OPTIONS = {"nogil": True, "cache": _can_cache()}


@intrinsic
def _word(typing_context: Any, address: Any) -> Any:
    "Load the 64-bit word at an address."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        return builder.load(builder.bitcast(pointer, ir.IntType(64).as_pointer()), align=8)

    return types.uint64(types.uint64), code


@njit(**_OPTIONS)
def _located(offset: Any, nbytes: Any, segments: Any) -> Any:
    "Return the address of the `nbytes` at `offset`, which lie in one of the `segments`; 0 if they don't."
    begin = _U(0)
    for k in range(len(segments)):
        end = segments[k, 0]
        if offset < end:
            return segments[k, 1] + (offset - begin) if offset >= begin and offset + nbytes <= end else _U(0)
        begin = end
    return _U(0)


@njit(**_OPTIONS)
def _intact(words: Any, residue: Any, crc: Any) -> Any:
    "Return whether the CRC-32 of `words`, which end with their own, is `residue`. Takes eight bytes at a time."
    state = _HALF
    for k in range(len(words)):
        word = words[k] ^ state
        state = _U(0)
        for n in range(8):
            state ^= _U(crc[7 - n, np.intp(word >> _U(8 * n) & _BYTE)])
    return state ^ _HALF == residue


@njit(**_OPTIONS)
def _array_address(offset: Any, head: Any, segments: Any, form: Any, item_bytes: Any) -> Any:
    "Return the address of the array behind the header `head` at `offset`; 0 if it does not lie in one segment."
    code, ndim = np.intp(head[0] >> form[5] & _BYTE), np.intp(head[0] >> form[6] & _BYTE)
    if code >= len(item_bytes) or ndim > 4:
        return _U(0)
    nbytes, size = item_bytes[code], float(item_bytes[code])
    for k in range(ndim):
        extent = head[np.intp(form[7]) + k // 2] >> _U(32 * (k % 2)) & _HALF
        nbytes *= extent
        size *= float(extent)
    return _located(offset + form[2], nbytes, segments) if size < _MOST else _U(0)


@njit(**_OPTIONS)
def probe(
    digests: Any,
    table: Any,
    mask: Any,
    tail: Any,
    segments: Any,
    form: Any,
    item_bytes: Any,
    crc: Any,
    offsets: Any,
    addresses: Any,
    heads: Any,
) -> bool:
    """Find the blocks of `digests`, (n, 2) uint64; return whether all are there, and their arrays alike.

    - `table`, `mask`: the address of the first slot, and the number of slots less one
    - `tail`: the end of the log, in units of a slot; `segments`: see `lookup.Mapped`
    - `form`, of the format: the bit of a slot where its tag begins, the unit of its offset, the bytes of a header, the
      word of it where the digest begins, the CRC-32 of an intact one, the bits of its first word where dtype and number
      of dimensions begin, and the word where the extents begin, two per word
    - `item_bytes`: the bytes of an item of each dtype; `crc`: see `lookup.crc_tables`
    - `offsets` (n,), `addresses` (n,), `heads` (n, words of a header), uint64: the results, see `lookup.Found`

    Each loop reads memory for all digests before the next one needs it, so that the processor waits for many words at
    the same time and not for one after another: in a large store each of them is far from its caches.
    """
    table, mask, tail = _U(table), _U(mask), _U(tail)
    shift, align, nbytes, at, residue = form[0], form[1], form[2], np.intp(form[3]), form[4]
    low, n_words, n = (_U(1) << shift) - _U(1), heads.shape[1], len(digests)
    for i in range(n):
        offsets[i] = _word(table + _U(8) * (digests[i, 0] & mask))
    for i in range(n):
        value, place = offsets[i], _U(0)
        if value >> shift == digests[i, 0] >> shift and value & low < tail:
            place = _located((value & low) * align, nbytes, segments)
        for k in range(n_words):
            heads[i, k] = _word(place + _U(8 * k)) if place else _U(0)
    alike = n > 0
    for i in range(n):
        one, other, slot, value = digests[i, 0], digests[i, 1], digests[i, 0] & mask, offsets[i]
        offsets[i], addresses[i] = 0, 0
        for _ in range(mask + _U(1)):
            if value == 0:
                break
            pointed = value >> shift == one >> shift and value & low < tail and heads[i, at] == one
            if pointed and heads[i, at + 1] == other and _intact(heads[i], residue, crc):
                offsets[i] = (value & low) * align
                addresses[i] = _array_address(offsets[i], heads[i], segments, form, item_bytes)
                break
            # This slot belongs to another digest: follow the probe sequence, one header at a time.
            slot = (slot + _U(1)) & mask
            value, place = _word(table + _U(8) * slot), _U(0)
            if value >> shift == one >> shift and value & low < tail:
                place = _located((value & low) * align, nbytes, segments)
            for k in range(n_words):
                heads[i, k] = _word(place + _U(8 * k)) if place else _U(0)
        alike &= addresses[i] != 0 and heads[i, 0] == heads[0, 0]
        for k in range(np.intp(form[7]), np.intp(form[7]) + 2):
            alike &= heads[i, k] == heads[0, k]
    return alike
