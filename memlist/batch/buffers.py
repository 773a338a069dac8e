"""Reuse the memory of batches once no tensor refers to it.

`Buffers` is for batches that are used in the process that makes them, `SharedBuffers` for those that a worker makes and
sends, `NewMemory` for memory that is not worth reusing.

A batch of 64 float images of 224 × 224 takes 39 MB. The C library gets each block of that size from the system, and
returns it as soon as it is freed. For the next one the system has to clear and map ten thousand pages again, which can
take as long as making the batch.
"""

from __future__ import annotations

import os
from typing import Any, List, Protocol, Tuple
from weakref import finalize, ref

import numpy as np
import torch
from torch import Tensor

# Tensors begin at multiples of this many bytes, as vector instructions prefer.
_ALIGN = 64
# Free blocks to keep; a training loop uses one batch while the next is made.
KEPT = 2
# Smaller blocks, in bytes, are reused by the C library itself.
LEAST = 1 << 20
# Blocks per worker: torch lets it make two batches ahead, the training loop uses one, and one is in transit.
SHARED = 4


class Memory(Protocol):
    "Provide the memory that batches are made in."

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised, dense tensor."


class NewMemory:
    "Allocate every tensor anew."

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised tensor."
        return torch.empty(shape, dtype=dtype)


class Buffers:
    """Make tensors over memory that is reused once the tensor, and all tensors that share its memory, are gone.

    A live tensor keeps its memory: two live tensors never share a block. The last `KEPT` free blocks, of any size, wait
    for reuse until `clear` is called or this object is garbage-collected.
    """

    def __init__(self) -> None:
        self._free: List[np.ndarray] = []

    def __reduce__(self) -> Tuple[Any, ...]:
        return Buffers, ()  # a copy has its own memory

    def clear(self) -> None:
        "Give the free blocks back to the system; tensors in use are not affected."
        self._free.clear()

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised tensor; its memory is aligned to 64 bytes if it is reused."
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        nbytes = int(np.prod(shape)) * kind.itemsize
        if nbytes < LEAST:
            return torch.empty(shape, dtype=dtype)
        found = [k for k, block in enumerate(self._free) if block.nbytes == nbytes + _ALIGN]
        block = self._free.pop(found[0]) if found else np.empty(nbytes + _ALIGN, np.uint8)
        start = -block.ctypes.data % _ALIGN
        # torch keeps a reference to this array object as long as any tensor uses its memory.
        lease = block[start : start + nbytes].view(kind).reshape(shape)
        finalize(lease, _back, ref(self), block).atexit = False
        return torch.from_numpy(lease)


def _back(buffers: Any, block: np.ndarray) -> None:
    "Add `block` to the free blocks of `buffers`, a weak reference, if that object still exists."
    owner = buffers()
    if owner is not None:
        owner._free.append(block)
        del owner._free[:-KEPT]


class SharedBuffers:
    """Make tensors over memory that a worker shares with the main process, and reuse it once they are gone there.

    A block begins with a mark, which is one while the block is in use. The worker sets it and sends the tensor.
    `leased`, in the main process, clears it when the last tensor over that memory is gone. A tensor that never arrives
    costs one block: if no block is free, a new one is made.
    """

    def __init__(self) -> None:
        self._blocks: List[Tuple[Any, int, Tensor]] = []  # storage, values that fit, mark

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised tensor in shared memory."
        kind = torch.empty(0, dtype=dtype)
        n, offset = int(np.prod(shape)), _ALIGN // kind.element_size()
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
    "Return `tensor`, from a worker's `SharedBuffers`; once the result is gone, the worker may reuse its memory."
    mark = _over(_storage(tensor), torch.empty(0, dtype=tensor.dtype), 0, (1,))
    lease = tensor.numpy()
    finalize(lease, _unmark, mark, os.getpid()).atexit = False
    return torch.from_numpy(lease)


def _unmark(mark: Tensor, pid: int) -> None:
    "Clear the mark, unless this is a forked child: its parent may still use the tensor."
    if os.getpid() == pid:
        mark.zero_()


def _storage(tensor: Any) -> Any:
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()


def _shared_storage(kind: Any, n: int) -> Any:
    "Allocate memory that processes share, for `n` values of the dtype of `kind`."
    if hasattr(kind, "untyped_storage"):
        return kind.untyped_storage()._new_shared(n * kind.element_size(), device=kind.device)
    return kind.storage()._new_shared(n)


def _over(storage: Any, kind: Tensor, offset: int, shape: Tuple[int, ...]) -> Tensor:
    "Return a dense tensor over a part of a storage, with the dtype of `kind`."
    made: Any = torch.empty(0, dtype=kind.dtype)
    return made.set_(storage, offset, shape)
