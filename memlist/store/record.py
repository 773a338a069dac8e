"""The record that a store returns."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

from .layout import Block


class Record(NamedTuple):
    """Hold a record as it was read.

    - `array`: a view of the stored array
    - `tag`: the 32-bit number that the caller stored with it
    - `generation`: the store's generation when the record was read, see `ImageStore.current`
    - `number`: unique among the records of the store
    - `block`: a copy of its header
    """

    array: np.ndarray
    tag: int
    generation: int
    number: int
    block: Block

    @property
    def version(self) -> bytes:
        "Return bytes that are equal for records made from the same version of a file."
        return self.block.version

    @property
    def source(self) -> Optional[Tuple[int, int]]:
        "Return `Trust.version` of the file that the record was made from; None if it was made from none."
        return self.block.source
