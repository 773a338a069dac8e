"""Look up many digests at once: in a compiled loop where numba is installed, else one by one.

(In NumPy it would take longer than one by one: a batch has too few digests, and its probe sequences end one by one.)
"""

from __future__ import annotations

import bisect
import functools
import sys
from types import ModuleType
from typing import Callable, NamedTuple, Optional, Tuple

import numpy as np

from .layout import BLOCK_ALIGN, BLOCK_BYTES, DTYPES, FORM, Block, Headers
from .region import Region

_ITEM_BYTES = np.array([one.itemsize for one in DTYPES], np.uint64)
Find = Callable[[bytes], Optional[Tuple[int, Block]]]


class Found(NamedTuple):
    """Hold the blocks of n digests.

    - `offsets`, (n,) uint64: where they lie in the store; 0 for a digest that has none
    - `addresses`, (n,) uint64: where their arrays lie in the memory of this process; 0 for those that don't, because
      there is no block, or its array lies beyond what is mapped
    - `headers`: copies of their headers
    - `alike`: whether there is an array for each digest, and all have the same dtype and shape
    """

    offsets: np.ndarray
    addresses: np.ndarray
    headers: Headers
    alike: bool


class Mapped:
    """Know where the segments of a region lie in the memory of this process.

    `segments`, (n, 2) uint64: the end of each in the store, and the address of its first byte. Segments are mapped and
    unmapped at the end of the list only, so the last one tells whether all are still the same.
    """

    def __init__(self, region: Region) -> None:
        self.ends = list(region.ends)
        self.maps = region.maps[: len(self.ends)]  # another thread may be adding one at the moment
        views = [np.frombuffer(one, np.uint8) for one in self.maps] if region.mapped else []
        self.starts = [one.__array_interface__["data"][0] for one in views] or [0] * len(self.ends)
        self.segments = np.array([self.ends, self.starts], np.uint64).T.copy()

    def holds(self, region: Region) -> bool:
        "Return whether the region is still mapped as it was."
        n = len(self.maps)
        return len(region.ends) == n and region.maps[n - 1] is self.maps[n - 1]

    def place(self, offset: int) -> Tuple[int, int]:
        "Return `(segment, offset inside it)` of a byte."
        k = bisect.bisect_right(self.ends, offset)
        return k, offset - self.ends[k - 1] if k else offset

    def address(self, offset: int, nbytes: int) -> int:
        "Return the address of the `nbytes` at `offset`; 0 if they do not lie in one segment."
        k, at = self.place(offset)
        return self.starts[k] + at if k < len(self.maps) and offset + nbytes <= self.ends[k] else 0


def look_up(digests: np.ndarray, first_slot: int, mask: int, tail: int, mapped: Mapped) -> Optional[Found]:
    """Return the blocks of `digests`, (n, 16) uint8, that begin before `tail`; None without numba.

    `first_slot` is an address; `mask` is the number of slots less one. Costs some microseconds, and 0.2 per digest.
    """
    compiled = _compiled()
    if compiled is None:
        return None
    n = len(digests)
    offsets, addresses, headers = (
        np.empty(n, np.uint64),
        np.empty(n, np.uint64),
        Headers(np.empty((n, BLOCK_BYTES // 8), np.uint64)),
    )
    wanted = np.ascontiguousarray(digests).view(np.uint64)
    end, known = tail // BLOCK_ALIGN, (mapped.segments, FORM, _ITEM_BYTES, crc_tables())
    alike = compiled.probe(wanted, first_slot, mask, end, *known, offsets, addresses, headers.words)
    return Found(offsets, addresses, headers, alike)


def one_by_one(digests: np.ndarray, find: Find, mapped: Optional[Mapped]) -> Found:
    "Return the blocks that `find` finds for `digests`, (n, 16) uint8. Without `mapped`, no array has an address."
    n = len(digests)
    offsets, addresses, headers = (
        np.zeros(n, np.uint64),
        np.zeros(n, np.uint64),
        Headers(np.zeros((n, BLOCK_BYTES // 8), np.uint64)),
    )
    for k, digest in enumerate(digests):
        found = find(digest.tobytes())
        if found is None:
            continue
        offsets[k], headers.words[k] = found[0], np.frombuffer(found[1], np.uint64)
        code, shape = headers.form(k)
        if mapped is not None and code < len(DTYPES):
            nbytes = DTYPES[code].itemsize
            for extent in shape:
                nbytes *= extent
            addresses[k] = mapped.address(found[0] + BLOCK_BYTES, nbytes)
    alike = n > 0 and bool(addresses.all()) and len({headers.form(k) for k in range(n)}) == 1
    return Found(offsets, addresses, headers, alike)


@functools.lru_cache(maxsize=1)
def _compiled() -> Optional[ModuleType]:
    "Return the module with the compiled loop once it is compiled; None where numba can't do that."
    if sys.byteorder != "little":
        return None
    try:
        from numba import config

        from . import probing  # only now: importing numba takes a second

        if config.DISABLE_JIT:
            return None
        none, empty = np.zeros((0, 2), np.uint64), np.zeros(0, np.uint64)
        known = none, FORM, _ITEM_BYTES, crc_tables()
        probing.probe(none, 0, 0, 0, *known, empty, empty, none)
    except Exception:  # from numba, LLVM, or the files of numba's cache
        return None
    return probing


def prepare() -> None:
    "Compile the loop, or load it from numba's cache on disk: a second or two, once per machine."
    _compiled()


@functools.lru_cache(maxsize=1)
def crc_tables() -> np.ndarray:
    "Return the tables of CRC-32 for eight bytes at a time, (8, 256) uint32: [k, b] is that of `b` before k zeros."
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & np.uint32(1), table >> np.uint32(1) ^ np.uint32(0xEDB88320), table >> np.uint32(1))
    tables = [table]
    for _ in range(7):
        tables.append(tables[-1] >> np.uint32(8) ^ table[(tables[-1] & np.uint32(255)).astype(np.intp)])
    return np.array(tables)
