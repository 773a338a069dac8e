"""Lock the memory that workers share where it lies, so that a GPU copies from it and the processor does not."""

from __future__ import annotations

import mmap
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

import torch
from torch import Tensor

from .buffers import storage_of


class Lent:
    """Keep the blocks of workers mapped and locked while a loader runs, from the first time that each arrives.

    A worker fills its blocks in turn. Without this, torch would map a block whenever it arrives, and one thread would
    copy the bytes into locked memory: 40 ms per batch of 150 MB. Locking a block takes about as long, but once.

    `cuda` is `torch.cuda`, or what stands for it in a test. A forked child must not use it.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda, self._pid = cuda, os.getpid()
        self._room, self._refused = 0, False
        self._blocks: Dict[int, Any] = {}  # storages by address, the one that arrived last at the end
        self._sent: List[Tuple[Any, Tensor]] = []  # events, and what is copied until then

    @contextmanager
    def during(self, blocks: int) -> Iterator[None]:
        "Keep so many blocks locked while this context lasts; with others at the same time, as many as all of them say."
        self._room += blocks
        try:
            yield
        finally:
            self._room -= blocks
            if os.getpid() == self._pid:
                self._drop(self._room)

    def lock(self, data: Tensor) -> None:
        "Lock the memory that a worker shares and `data`, uint8, lies in, if that is possible and there is room."
        storage = storage_of(data)
        address = storage.data_ptr()
        known = self._blocks.pop(address, None)
        if known is not None:
            self._blocks[address] = known
        if self._refused or not self._room or known is not None:
            return
        self._drop(self._room - 1)  # of blocks that a worker has given up
        runtime = self._cuda.cudart()
        size = -(-len(storage) // mmap.PAGESIZE) * mmap.PAGESIZE  # as much as is mapped
        if hasattr(runtime, "cudaHostUnregister") and int(runtime.cudaHostRegister(address, size, 0)) == 0:
            self._blocks[address] = storage
        else:
            self._refused = True

    def holds(self, data: Tensor) -> bool:
        "Return whether `data` lies in a block that is locked."
        at = data.data_ptr()
        return any(start <= at < start + len(block) for start, block in list(self._blocks.items()))

    def sent(self, data: Tensor, device: torch.device) -> None:
        "Keep `data`, so that the worker does not write there, until the copies put into the current stream are done."
        event = self._cuda.Event()
        event.record(self._cuda.current_stream(device))
        self._sent = [one for one in self._sent if not one[0].query()]
        self._sent.append((event, data))

    def _drop(self, most: int) -> None:
        "Unlock the blocks that arrived first, down to `most`, once nothing is copied from any."
        surplus = list(self._blocks)[: max(len(self._blocks) - most, 0)]
        if not surplus and most:
            return
        sent, self._sent = self._sent, []
        for event, _ in sent:
            event.synchronize()
        for address in surplus:
            self._cuda.cudart().cudaHostUnregister(address)
            del self._blocks[address]
