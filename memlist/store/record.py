"""The records that a store returns."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

from .layout import Block


class Record(NamedTuple):
    """Hold a record as it was read.

    - `array`: a view of the stored array
    - `tag`: the number of 32 bits that the caller stored with it
    - `generation`: that of the store when it was read, see `ImageStore.current`
    - `number`: a number that no other record of this store has
    - `block`: a copy of its header
    """

    array: np.ndarray
    tag: int
    generation: int
    number: int
    block: Block

    @property
    def version(self) -> bytes:
        "Return bytes that are equal where two records were made from the same version of a file."
        return self.block.version

    @property
    def source(self) -> Optional[Tuple[int, int]]:
        "Return `Source.version` of the file that the record was made from; None if it was made from none."
        return self.block.source
