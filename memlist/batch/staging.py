"""Lend page-locked memory, from which a GPU copies while the processor goes on.

torch's own allocator of such memory rounds every size up to a power of two. Here blocks have the size of a batch and an
eighth more, and are used again. A block is lent again once its tensor is gone and the copy from it is done.
"""

from __future__ import annotations

import functools
import mmap
import os
from typing import Any, Dict, Optional, Tuple
from weakref import finalize, ref

import numpy as np
import torch
from torch import Tensor

from .lent import Lent

# Free blocks to keep: as many batches as a loader with two workers has under way.
KEPT = 4
# Copies from free blocks that may be under way before the processor waits for the first of them.
UNDER_WAY = 4


class _Block:
    "Hold page-locked memory, and the event after which the copies from it are done."

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory
        self.event: Any = None

    @property
    def done(self) -> bool:
        "Return whether nothing is copied from it any more."
        return self.event is None or bool(self.event.query())


class Staging:
    """Lend blocks of page-locked memory. Any thread may use it: torch's loaders fill blocks in a thread of their own.

    `cuda` is `torch.cuda`, or what stands for it in a test. A forked child must not use it.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda, self._pid = cuda, os.getpid()
        #: The memory of workers.
        self.lent = Lent(cuda)
        self._free: Dict[Tuple[int, int], _Block] = {}  # by size and address
        self._lent: Dict[int, _Block] = {}  # by address

    def clear(self) -> None:
        "Give the free blocks back to the system, once nothing is copied from them."
        for key in list(self._free):
            self._drop(key)

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Return an uninitialised tensor in page-locked memory."
        kind = torch.empty(0, dtype=dtype).numpy().dtype
        nbytes = int(np.prod(shape)) * kind.itemsize
        block = self._taken(nbytes) or self._locked(max(nbytes, 1))
        lease = block.memory[:nbytes].view(kind).reshape(shape)
        address = block.memory.ctypes.data
        self._lent[address] = block
        finalize(lease, _back, ref(self), address).atexit = False
        return torch.from_numpy(lease)

    def staged(self, tensor: Tensor) -> Tensor:
        "Return a tensor of locked memory with the same values: itself, or a copy."
        if tensor.data_ptr() in self._lent or self.lent.holds(tensor):
            return tensor
        return self.empty(tuple(tensor.shape), tensor.dtype).copy_(tensor)

    def sent(self, tensor: Tensor, device: torch.device) -> None:
        "Note that copies from `tensor`, one of locked memory, have been put into the stream of `device`."
        block = self._lent.get(tensor.data_ptr())
        if block is None:
            self.lent.sent(tensor, device)
            return
        event = self._cuda.Event()
        event.record(self._cuda.current_stream(device))
        block.event = event

    def _taken(self, nbytes: int) -> Optional[_Block]:
        "Take a free block of about this size; None if there is none that may be written to."
        under_way = []
        for key in list(self._free):
            if not nbytes <= key[0] <= 2 * nbytes:
                continue
            block = self._free.pop(key, None)  # one step, so two threads can't take the same
            if block is None:
                continue
            if block.done:
                return block
            self._free[key] = block
            under_way.append(key)
        if len(under_way) < UNDER_WAY:
            return None
        block = self._free.pop(under_way[0], None)
        if block is not None:
            block.event.synchronize()
        return block

    def _locked(self, nbytes: int) -> _Block:
        "Return new page-locked memory, in whole pages."
        size = -(-(nbytes + nbytes // 8) // mmap.PAGESIZE) * mmap.PAGESIZE
        # Memory of a mapping that is shared stays in place when workers are forked while the device copies from it.
        memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        runtime, address = self._cuda.cudart(), memory.ctypes.data
        if hasattr(runtime, "cudaHostUnregister") and int(runtime.cudaHostRegister(address, size, 0)) == 0:
            finalize(memory, _unlock, runtime, address, self._pid).atexit = False
            return _Block(memory)
        return _Block(torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy())

    def _drop(self, key: Tuple[int, int]) -> None:
        block = self._free.pop(key, None)
        if block is not None and block.event is not None:
            block.event.synchronize()


def _back(staging: Any, address: int) -> None:
    "Add a block that was lent to the free ones of `staging`, a weak reference, if that object still exists."
    owner: Optional[Staging] = staging()
    if owner is None or os.getpid() != owner._pid:
        return
    block = owner._lent.pop(address)
    owner._free[block.memory.nbytes, address] = block
    for key in list(owner._free)[:-KEPT]:
        owner._drop(key)


def _unlock(runtime: Any, address: int, pid: int) -> None:
    "Unlock memory, unless this is a forked child, which must not call the device's driver."
    if os.getpid() == pid:
        runtime.cudaHostUnregister(address)


@functools.lru_cache(maxsize=1)
def staging() -> Staging:
    "Return the memory of this process: torch's thread that fills it is given nothing but the batch."
    return Staging()
