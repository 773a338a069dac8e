"""Read many records at once."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from .layout import BLOCK_BYTES, DTYPES, Headers
from .lookup import Mapped
from .store import ImageStore


class Records(NamedTuple):
    """Hold what a store has for n digests, as it was read.

    - `there`, (n,) bool: whether the record may be served; where it is False, ask item by item. None: all are there
    - `addresses`, (n,) uint64: where the arrays lie in the memory of this process
    - `headers`: copies of their headers, with numbers, tags, dtypes and shapes
    - `alike`: whether all are there, and all arrays have the same dtype and shape
    - `generation`: the store's generation before they were read, see `ImageStore.current`
    - `offsets`, `mapped`: where they lie in the store, and the memory, mapped for as long as this object refers to it
    """

    there: Optional[np.ndarray]
    addresses: np.ndarray
    headers: Headers
    alike: bool
    generation: int
    offsets: np.ndarray
    mapped: Mapped

    def form(self, k: int = 0) -> Tuple[np.dtype, Tuple[int, ...]]:
        "Return dtype and shape of array `k`, which must be there."
        code, shape = self.headers.form(k)
        return DTYPES[code], shape

    def arrays(self) -> List[Optional[np.ndarray]]:
        "Return each array, None if it is not there: a view into shared memory, writable because torch wraps no other."
        maps, form = self.mapped.maps, self.form() if self.alike else None
        there = [True] * len(self.offsets) if self.there is None else self.there.tolist()
        made: List[Optional[np.ndarray]] = []
        for k, offset in enumerate(self.offsets.tolist()):
            if there[k]:
                dtype, shape = form or self.form(k)
                segment, at = self.mapped.place(offset + BLOCK_BYTES) if len(maps) > 1 else (0, offset + BLOCK_BYTES)
                made.append(np.ndarray(shape, dtype, maps[segment], at))
            else:
                made.append(None)
        return made

    def only(self, chosen: np.ndarray) -> Records:
        "Return these records, of which only the `chosen`, (n,) bool, may be served."
        if chosen.all():
            return self
        return self._replace(there=chosen if self.there is None else self.there & chosen, alike=False)


def read_many(store: ImageStore, digests: np.ndarray) -> Records:
    """Return the records of `digests`, (n, 16) uint8: where they lie, without an object per record.

    Only what needs no verifying and is mapped is there. Does not count hits. Costs some microseconds, and 0.3 per
    record where numba is installed; in a named file a system call per record, too.
    """
    parts, generation = store.parts, store.generation
    found, mapped = parts.index.find_many(digests)
    there = None if found.alike else found.addresses > 0
    records = Records(there, found.addresses, found.headers, found.alike, generation, found.offsets, mapped)
    if parts.trust.verifies:
        records = records.only(parts.trust.known_many(found.offsets, found.headers.numbers()))
    return records
