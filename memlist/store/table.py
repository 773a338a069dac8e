"""Build index tables with NumPy: arrays of slots with open addressing, see `layout`.

A loop in Python over two million entries would take many seconds.
"""

from __future__ import annotations

import numpy as np

from .layout import slot_offsets, slot_values


def build(bits: int, hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return a table of `1 << bits` slots for the blocks at `offsets`, which have these hashes (uint64 arrays).

    The table must have more slots than there are blocks. Costs a sort of the hashes.
    """
    table = np.zeros(1 << bits, np.uint64)
    homes = (hashes & np.uint64(len(table) - 1)).astype(np.int64)
    order = np.argsort(homes, kind="stable")
    homes, values = homes[order], slot_values(offsets, hashes)[order]
    # Each entry lies in its home slot, or behind the entry before it if that is further on.
    steps = np.arange(len(homes))
    places = np.maximum.accumulate(homes - steps) + steps if len(homes) else homes
    inside = places < len(table)
    table[places[inside]] = values[inside]
    # All slots from the homes of the others to the end are taken, so each goes to the first free slot from the start.
    others = values[~inside]
    table[np.flatnonzero(table == 0)[: len(others)]] = others
    return table


def insert(table: np.ndarray, hashes: np.ndarray, offsets: np.ndarray) -> None:
    "Add the blocks at `offsets`, which have these hashes, to `table`. Fast for a few."
    mask = len(table) - 1
    for hash_, value in zip(hashes.tolist(), slot_values(offsets, hashes).tolist()):
        slot = hash_ & mask
        while table[slot]:
            slot = slot + 1 & mask
        table[slot] = value


def entries(table: np.ndarray) -> np.ndarray:
    "Return the offsets of all blocks that `table` points to."
    return slot_offsets(table[table != 0])
