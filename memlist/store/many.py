"""Read many records at once."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from .layout import BLOCK_BYTES, DTYPES
from .lookup import Found, Mapped
from .store import ImageStore


class Records(NamedTuple):
    """Hold what a store has for n digests, as it was read.

    - `there`, (n,) bool: whether the record may be served. Where it is False, ask item by item
    - `addresses`, (n,) uint64: where the arrays lie in the memory of this process
    - `numbers`, (n,) uint32: see `Record`
    - `alike`: whether all are there, and all arrays have the same dtype and shape
    - `generation`: the store's generation before they were read, see `ImageStore.current`
    - `found`, `mapped`: what was read, and the memory, which stays mapped for as long as this object refers to it
    """

    there: np.ndarray
    addresses: np.ndarray
    numbers: np.ndarray
    alike: bool
    generation: int
    found: Found
    mapped: Mapped

    def form(self, k: int = 0) -> Tuple[np.dtype, Tuple[int, ...]]:
        "Return dtype and shape of array `k`, which must be there."
        head = self.found.heads[k]
        return DTYPES[head["dtype"]], tuple(head["shape"][: head["ndim"]].tolist())

    @property
    def tags(self) -> np.ndarray:
        "Return the tag of each record, (n,) uint32, see `Record`."
        return self.found.heads["tag"]  # type: ignore[no-any-return]

    def arrays(self) -> List[Optional[np.ndarray]]:
        "Return each array, None if it is not there: a view into shared memory, writable because torch wraps no other."
        there, maps = self.there.tolist(), self.mapped.maps
        form = self.form() if self.alike else None
        made: List[Optional[np.ndarray]] = []
        for k, offset in enumerate(self.found.offsets.tolist()):
            if there[k]:
                dtype, shape = form or self.form(k)
                segment, at = self.mapped.place(offset + BLOCK_BYTES) if len(maps) > 1 else (0, offset + BLOCK_BYTES)
                made.append(np.ndarray(shape, dtype, maps[segment], at))
            else:
                made.append(None)
        return made

    def without(self, chosen: np.ndarray) -> Records:
        "Return these records without those that are `chosen`, (n,) bool."
        return self._replace(there=self.there & ~chosen, alike=self.alike and not chosen.any())


def read_many(store: ImageStore, digests: np.ndarray) -> Records:
    """Return the records of `digests`, (n, 16) uint8: where they lie, without an object per record.

    Only what needs no verifying and is mapped is `there`. Does not count hits. Costs some microseconds, and 0.3 per
    record where numba is installed; in a named file a system call per record, too.
    """
    parts = store.parts
    generation = store.generation
    found, mapped = parts.index.find_many(digests)
    there, numbers = found.addresses > 0, found.heads["number"]
    records = Records(there, found.addresses, numbers, found.alike, generation, found, mapped)
    return records.without(~parts.trust.known_many(found.offsets, numbers))
