"""Memory for batches that is handed out again when nobody has it any more.

`Buffers` is for batches made where they are used, `SharedBuffers` for those that a worker makes and sends.

A batch of 64 float images of 224 × 224 is 39 MB. The C library asks the system for each block of that size and gives it
back at once, and the system then has to clear and map ten thousand pages for the next one: that can take as long as
making the batch.
"""

from __future__ import annotations

import os
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
# Blocks of one worker: torch lets it make two batches ahead, the training loop has one, and one is on its way.
SHARED = 4


class Buffers:
    """Tensors over memory that is used again once the tensor, and all that shares its memory, is gone.

    Whoever keeps a batch keeps its memory: nothing is ever handed out twice at a time. The last `KEPT` blocks that came
    back wait to be asked for again, whatever their sizes, until `clear` or as long as this object is there.
    """

    def __init__(self) -> None:
        self._free: List[np.ndarray] = []

    def __reduce__(self) -> Tuple[Any, ...]:
        return Buffers, ()  # a copy, or what is pickled, has memory of its own

    def clear(self) -> None:
        "Give what waits back to the system; what somebody has stays his."
        self._free.clear()

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


class SharedBuffers:
    """Of a worker: tensors over memory that the main process maps, too, used again once that one is done with them.

    A block begins with a mark: one while it is in use. The worker sets it and sends the tensor; `leased`, in the main
    process, has it taken off when the last that shares the tensor's memory is gone. A tensor that never gets there
    costs a block, no more: where none is free, memory is new.
    """

    def __init__(self) -> None:
        self._blocks: List[Tuple[Any, int, Tensor]] = []  # storage, values it has room for, mark

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "An uninitialised tensor in shared memory."
        kind = torch.empty(0, dtype=dtype)
        n, offset = int(np.prod(shape)), ALIGN // kind.element_size()
        fits = [one for one in self._blocks if one[2].dtype == dtype and n <= one[1] <= 2 * n and not one[2].item()]
        if fits:
            storage, _, mark = fits[0]
        else:
            storage = _shared_storage(kind, n + offset)
            mark = _over(storage, kind, 0, (1,))
            free = [k for k, one in enumerate(self._blocks) if not one[2].item()]
            if len(self._blocks) == SHARED and free:  # of another size
                del self._blocks[free[0]]
            if len(self._blocks) < SHARED:
                self._blocks.append((storage, n, mark))
        mark.fill_(1)
        return _over(storage, kind, offset, shape)


def leased(tensor: Tensor) -> Tensor:
    "A tensor of `SharedBuffers` that has come from a worker, which may use its memory again once nobody has it here."
    mark = _over(_storage(tensor), torch.empty(0, dtype=tensor.dtype), 0, (1,))
    lease = tensor.numpy()
    finalize(lease, _unmark, mark, os.getpid()).atexit = False
    return torch.from_numpy(lease)


def _unmark(mark: Tensor, pid: int) -> None:
    "Take the mark off, unless this is a child, which has copies of what its parent may have still."
    if os.getpid() == pid:
        mark.zero_()


def _storage(tensor: Any) -> Any:
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()


def _shared_storage(kind: Any, n: int) -> Any:
    "Memory for `n` values like those of `kind` that processes share."
    if hasattr(kind, "untyped_storage"):
        return kind.untyped_storage()._new_shared(n * kind.element_size(), device=kind.device)
    return kind.storage()._new_shared(n)


def _over(storage: Any, kind: Tensor, offset: int, shape: Tuple[int, ...]) -> Tensor:
    "A dense tensor like `kind` over a part of a storage."
    made: Any = torch.empty(0, dtype=kind.dtype)
    return made.set_(storage, offset, shape)
