"""Store several small arrays at once: one turn with the mutex for all of them costs less than one for each."""

from __future__ import annotations

import sys
from typing import Callable, List, NamedTuple, Optional, Sequence

import numpy as np

from .layout import digest_of, hash_of, storable
from .parts import Entry
from .source import NO_SOURCE, Source
from .store import ImageStore
from .threads import Result


class Put(NamedTuple):
    "Hold the arguments of `ImageStore.put` for one record."

    key: bytes
    array: np.ndarray
    tag: int = 0
    source: Optional[Source] = None


def put_all(store: ImageStore, puts: Sequence[Put], generation: int) -> List[bool]:
    "Do as `store.put` for each of `puts`, whose arrays can be of any shape; return what it would return for each."
    entries = [Entry(digest_of(one.key), storable(one.array), one.tag, one.source or NO_SOURCE) for one in puts]
    return store.parts.put(entries, False, generation) if entries else []


def claiming_all(store: ImageStore, keys: Sequence[bytes], work: Callable[[List[bool]], Result]) -> Result:
    "Do as `store.claiming` for several keys, without waiting; pass to `work` which of them are claimed."
    return store.parts.lock.claiming_all([hash_of(digest_of(key)) for key in keys], work)


def mean_bytes(store: ImageStore) -> int:
    "Return the mean size of the arrays in `store`; as much as possible if it is empty. Costs two reads of its header."
    header = store.parts.header
    records = header.records
    return header.nbytes // records if records else sys.maxsize
