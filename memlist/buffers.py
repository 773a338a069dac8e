"""Memory for batches that is handed out again when nobody has it any more.

A batch of 64 float images of 224 × 224 is 39 MB. The C library asks the system for each block of that size and gives it
back at once, and the system then has to clear and map ten thousand pages for the next one: that can take as long as
making the batch.
"""

from __future__ import annotations

from typing import Any, List, Tuple
from weakref import finalize, ref

import numpy as np
import torch
from torch import Tensor

# Tensors begin where vector instructions like them to.
ALIGN = 64
# Blocks that are kept for later; a training loop has one batch in hand while the next is made.
KEPT = 2
# Below this the C library keeps blocks by itself.
LEAST = 1 << 20


class Buffers:
    """Tensors over memory that is used again once the tensor, and all that shares its memory, is gone.

    Whoever keeps a batch keeps its memory: nothing is ever handed out twice at a time. The last `KEPT` blocks that came
    back wait to be asked for again, whatever their sizes; they go with this object.
    """

    def __init__(self) -> None:
        self._free: List[np.ndarray] = []

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "An uninitialised tensor, as `torch.empty` makes one."
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        nbytes = int(np.prod(shape)) * kind.itemsize
        if nbytes < LEAST:
            return torch.empty(shape, dtype=dtype)
        found = [k for k, block in enumerate(self._free) if block.nbytes == nbytes + ALIGN]
        block = self._free.pop(found[0]) if found else np.empty(nbytes + ALIGN, np.uint8)
        start = -block.ctypes.data % ALIGN
        # torch holds on to this very array object for as long as any tensor uses its memory.
        lease = block[start : start + nbytes].view(kind).reshape(shape)
        finalize(lease, _back, ref(self), block).atexit = False
        return torch.from_numpy(lease)


def _back(buffers: Any, block: np.ndarray) -> None:
    "Keep `block` for later, if there is somebody to ask for it."
    them = buffers()
    if them is not None:
        them._free.append(block)
        del them._free[:-KEPT]
