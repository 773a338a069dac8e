"""Reuse the memory of batches once no tensor refers to it.

`Buffers` is for batches that are used in the process that makes them, `SharedBuffers` for those that a worker makes and
sends, `NewMemory` for memory that is not worth reusing.

A batch of 64 float images of 224 × 224 takes 39 MB. The C library gets each block of that size from the system, and
returns it as soon as it is freed. For the next one the system has to clear and map ten thousand pages again, which can
take as long as making the batch.
"""

from __future__ import annotations

import math
import os
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Tuple
from weakref import finalize, ref

import numpy as np
import torch
from torch import Tensor

# Tensors begin at multiples of this many bytes, as vector instructions prefer.
_ALIGN = 64
# Free blocks to keep; a training loop uses one batch while the next is made.
KEPT = 2
# New shared blocks have one part in so many more than was asked for: packed batches differ a little in size.
_HEADROOM = 16
# Smaller blocks, in bytes, are reused by the C library itself.
LEAST = 1 << 20
# Batches whose memory a worker keeps, besides those that torch lets it make ahead: the training loop uses one, and
# one is in transit.
SHARED = 2


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
    for reuse until `clear` is called or this object is garbage-collected. Any thread may use it: each change of the
    free blocks is a single step, since a lock could be held where the garbage collector gives a block back.
    """

    def __init__(self) -> None:
        self._free: Dict[Tuple[int, int], np.ndarray] = {}  # by size and address

    def __reduce__(self) -> Tuple[Any, ...]:
        return Buffers, ()  # a copy has its own memory

    def clear(self) -> None:
        "Give the free blocks back to the system; tensors in use are not affected."
        self._free.clear()

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised tensor; its memory is aligned to 64 bytes if it is reused."
        if math.prod(shape) < LEAST // 8:  # no dtype of ours has more bytes
            return torch.empty(shape, dtype=dtype)
        empty = torch.empty(0, dtype=dtype)
        nbytes = math.prod(shape) * empty.element_size()
        if nbytes < LEAST:
            return torch.empty(shape, dtype=dtype)
        kind = empty.numpy().dtype
        block = self._taken(nbytes + _ALIGN)
        if block is None:
            block = np.empty(nbytes + _ALIGN, np.uint8)
        start = -block.ctypes.data % _ALIGN
        # torch keeps a reference to this array object as long as any tensor uses its memory.
        lease = block[start : start + nbytes].view(kind).reshape(shape)
        finalize(lease, _back, ref(self), block).atexit = False
        return torch.from_numpy(lease)

    def _taken(self, nbytes: int) -> Optional[np.ndarray]:
        "Take a free block of this size; None if there is none."
        for key in list(self._free):
            block = self._free.pop(key, None) if key[0] == nbytes else None
            if block is not None:  # else another thread was faster
                return block
        return None


def _back(buffers: Any, block: np.ndarray) -> None:
    "Add `block` to the free blocks of `buffers`, a weak reference, if that object still exists."
    owner = buffers()
    if owner is not None:
        owner._free[block.nbytes, block.ctypes.data] = block
        for key in list(owner._free)[:-KEPT]:
            owner._free.pop(key, None)


class SharedBuffers:
    """Make tensors over memory that a worker shares with the main process, and reuse it once they are gone there.

    A block begins with a mark, which is one while the block is in use. The worker sets it and sends the tensor.
    `leased`, in the main process, clears it when the last tensor over that memory is gone. A tensor that never arrives
    costs one block: if no block is free, a new one is made.

    The memory of `batches` batches is kept, however many tensors each of them has: call `begin` before each batch.
    """

    def __init__(self, batches: int = 4) -> None:
        self._batches, self._most, self._now = batches, 1, 0  # tensors per batch
        self._blocks: List[_Block] = []

    def begin(self) -> None:
        "Begin a batch."
        self._now = 0

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised tensor in shared memory."
        kind = torch.empty(0, dtype=dtype)
        n, offset = int(np.prod(shape)), _ALIGN // kind.element_size()
        self._now += 1
        self._most = max(self._most, self._now)
        block = next((one for one in self._blocks if one.fits(dtype, n) and not one.mark[0]), None)
        if block is None:
            room = n + n // _HEADROOM
            storage = _shared_storage(kind, room + offset)
            block = _Block(storage, dtype, room, _mark(storage, kind))
            self._keep(block)
        block.mark[0] = 1
        return _over(block.storage, kind, offset, shape)

    def _keep(self, block: _Block) -> None:
        "Keep a new block, in the place of a free one if there are enough; if all of those are in use, don't."
        most = self._batches * self._most
        free = [k for k, one in enumerate(self._blocks) if not one.mark[0]]
        if len(self._blocks) >= most and free:  # of another size
            del self._blocks[free[0]]
        if len(self._blocks) < most:
            self._blocks.append(block)


class _Block(NamedTuple):
    "Hold shared memory for `room` values of `dtype`, and its mark: an array, which inference mode does not protect."

    storage: Any
    dtype: Any
    room: int
    mark: np.ndarray

    def fits(self, dtype: Any, n: int) -> bool:
        "Return whether it is for values of that type, and not much larger than `n`."
        return self.dtype == dtype and n <= self.room <= 2 * n + 2 * n // _HEADROOM


def _mark(storage: Any, kind: Tensor) -> np.ndarray:
    return _over(storage, kind, 0, (1,)).numpy()


def leased(tensor: Tensor) -> Tensor:
    "Return `tensor`, from a worker's `SharedBuffers`; once the result is gone, the worker may reuse its memory."
    mark = _mark(storage_of(tensor), torch.empty(0, dtype=tensor.dtype))
    lease = tensor.numpy()
    finalize(lease, _unmark, mark, os.getpid()).atexit = False
    return torch.from_numpy(lease)


def _unmark(mark: np.ndarray, pid: int) -> None:
    "Clear the mark, unless this is a forked child: its parent may still use the tensor."
    if os.getpid() == pid:
        mark[0] = 0


def storage_of(tensor: Any) -> Any:
    "Return the memory that a tensor lies in."
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
