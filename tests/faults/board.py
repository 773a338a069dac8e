"""A table of numbers in a small file that all actors of a storm map: each writes its own row, the driver reads all."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Dict

import numpy as np

#: The columns of a row. BEAT moves with every step of an actor; all others count what it did.
COLUMNS = (
    "beat", "right", "stale", "missing", "batches", "puts", "full", "purges", "checks", "problems",
    "opens", "refused", "interrupts", "reentries", "files",
)  # fmt: skip


class Row:
    "Give names to the numbers of one actor: `row.add('puts')`."

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def add(self, column: str, n: int = 1) -> None:
        self.numbers[COLUMNS.index(column)] += n

    def most(self, column: str, n: int) -> None:
        "Keep the largest number seen."
        at = COLUMNS.index(column)
        self.numbers[at] = max(int(self.numbers[at]), n)

    def __getitem__(self, column: str) -> int:
        return int(self.numbers[COLUMNS.index(column)])


class Board:
    "Hold one row per actor, and the word that ends the storm."

    def __init__(self, path: Path, rows: int) -> None:
        size = 8 * (1 + rows * len(COLUMNS))
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, size)
            self._mapping = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        words = np.frombuffer(self._mapping, np.int64)
        self._over, self.rows = words[:1], [Row(one) for one in words[1:].reshape(rows, -1)]

    @property
    def over(self) -> bool:
        "Return whether the storm has ended."
        return bool(self._over[0])

    def end(self) -> None:
        "End the storm: actors leave at their next step."
        self._over[0] = 1

    def totals(self) -> Dict[str, int]:
        "Return the sum of each column over all actors; of `files`, which is a level, the largest."
        return {name: (max if name == "files" else sum)(row[name] for row in self.rows) for name in COLUMNS}
