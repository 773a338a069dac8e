"""Page-locked memory: of the size wanted, lent again only after copies from it are done. A device is stood in for."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from typing import Any, List

import pytest
import torch

from memlist.batch.staging import KEPT, UNDER_WAY, Staging

CPU = torch.device("cpu")


class Event:
    "Stand in for `torch.cuda.Event`."

    def __init__(self) -> None:
        self.over, self.waited = False, False

    def record(self, stream: Any) -> None:
        assert stream == "stream"

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        self.over = self.waited = True


class Device:
    "Stand in for `torch.cuda`: note what is locked, and hand out events."

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.locked, self.events = refuses, {}, []  # type: ignore[var-annotated]

    def cudart(self) -> Any:
        return self

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert address % mmap.PAGESIZE == size % mmap.PAGESIZE == 0 and address not in self.locked
        if not self.refuses:
            self.locked[address] = size
        return int(self.refuses)

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0

    def Event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]

    def current_stream(self, device: torch.device) -> str:
        return "stream"


def test_blocks_have_the_size_wanted_and_are_lent_again() -> None:
    device = Device()
    staging = Staging(device)
    n = (1 << 20) + 1  # torch's own allocator would take twice as much
    tensor = staging.empty((n,), torch.uint8).fill_(3)
    (size,) = device.locked.values()
    assert n <= size <= n + n // 8 + mmap.PAGESIZE
    address = tensor.data_ptr()
    second = staging.empty((n,), torch.uint8)
    assert second.data_ptr() != address
    del tensor
    assert staging.empty((n + n // 16,), torch.uint8).data_ptr() == address  # batches differ a little in size
    floats = staging.empty((5, 7), torch.float32)
    assert floats.shape == (5, 7) and floats.dtype == torch.float32


def test_a_block_is_not_lent_while_it_is_copied_from() -> None:
    device = Device()
    staging = Staging(device)
    tensor = staging.empty((5000,), torch.uint8)
    address = tensor.data_ptr()
    staging.sent(tensor, CPU)
    del tensor
    second = staging.empty((5000,), torch.uint8)
    assert second.data_ptr() != address
    device.events[0].over = True
    assert staging.empty((5000,), torch.uint8).data_ptr() == address
    assert not device.events[0].waited


def test_the_processor_waits_once_many_copies_are_under_way() -> None:
    device = Device()
    staging = Staging(device)
    for _ in range(3 * UNDER_WAY):
        staging.sent(staging.empty((5000,), torch.uint8), CPU)
    assert len(device.locked) == UNDER_WAY <= KEPT
    assert [event.waited for event in device.events] == [True] * 2 * UNDER_WAY + [False] * UNDER_WAY


def test_memory_is_unlocked_before_it_goes() -> None:
    device = Device()
    staging = Staging(device)
    kept = staging.empty((5000,), torch.uint8)
    many = [staging.empty((5000 * k,), torch.uint8) for k in range(1, 3 * KEPT)]
    for one in many:
        staging.sent(one, CPU)
    many.clear()
    del one
    assert len(device.locked) == KEPT + 1
    assert sum(event.waited for event in device.events) == len(device.events) - KEPT
    staging.clear()
    assert len(device.locked) == 1 and all(event.waited for event in device.events)
    del staging
    gc.collect()
    kept.fill_(1)
    del kept
    assert not device.locked


def test_without_the_driver_s_help_torch_locks_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: List[bool] = []
    empty = torch.empty

    def watched(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        asked.extend([True] * pin_memory)
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", watched)
    device = Device(refuses=True)
    staging = Staging(device)
    tensor = staging.empty((5000,), torch.uint8)
    assert asked == [True] and not device.locked
    address = tensor.data_ptr()
    staging.sent(tensor, CPU)
    device.events[0].over = True
    del tensor
    assert staging.empty((5000,), torch.uint8).data_ptr() == address


def test_tensors_are_copied_once() -> None:
    staging = Staging(Device())
    tensor = torch.arange(5000)
    staged = staging.staged(tensor)
    assert torch.equal(staged, tensor) and staged.data_ptr() != tensor.data_ptr()
    assert staging.staged(staged) is staged


def test_threads_never_share_a_block() -> None:
    staging = Staging(Device())
    wrong: List[Any] = []

    def work(k: int) -> None:
        try:
            for n in range(300):
                tensor = staging.empty((4096 * (1 + n % 3),), torch.uint8).fill_(k)
                staging.sent(tensor, CPU)
                staging._lent[tensor.data_ptr()].event.over = True
                if not bool((tensor == k).all()):
                    wrong.append(n)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def test_a_forked_child_leaves_the_device_alone() -> None:
    device = Device()
    staging = Staging(device)
    held = [staging.empty((5000,), torch.uint8) for _ in range(2 * KEPT)]
    pid = os.fork()
    if not pid:
        held.clear()
        del staging
        gc.collect()
        os._exit(len(device.locked) != 2 * KEPT)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(device.locked) == 2 * KEPT
    held.clear()
    assert len(device.locked) == KEPT
