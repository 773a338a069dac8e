"""Page-locked memory: of the size wanted, lent again only after copies from it are done. A device is stood in for."""

from __future__ import annotations

import gc
import mmap
import os
import threading
import weakref
from typing import Any, List

import pytest
import torch
from devices import Device

from memlist.batch.staging import KEPT, UNDER_WAY, Staging

CPU = torch.device("cpu")


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


# -- the memory of workers ----------------------------------------------------------------------------------------


def shared(n: int = 5000) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.uint8).share_memory_()


def test_a_workers_block_is_locked_once_and_used_where_it_lies() -> None:
    device = Device()
    staging, data = Staging(device), shared()
    with staging.lent.during(2):
        for _ in range(3):
            staging.lent.lock(data)
            part = data[64:]
            assert staging.staged(part) is part
        assert len(device.locked) == 1
        other = shared()
        assert staging.staged(other) is not other  # it was not locked
    assert data.data_ptr() not in device.locked and staging.staged(part) is not part


def test_a_worker_gets_a_block_back_once_the_copies_from_it_are_done() -> None:
    device, freed = Device(), []
    staging, data = Staging(device), shared()
    with staging.lent.during(2):
        staging.lent.lock(data)
        lease = data.numpy()[64:]
        weakref.finalize(lease, freed.append, True)
        staging.sent(torch.from_numpy(lease), CPU)
        del lease
        staging.sent(staging.staged(data[:9]), CPU)
        assert not freed
        device.events[0].over = True
        staging.sent(staging.staged(data[:9]), CPU)
        assert freed == [True] and not device.events[0].waited
    assert [event.waited for event in device.events] == [False, True, True]


def test_blocks_are_let_go_with_the_last_loader_and_never_by_a_forked_child() -> None:
    device = Device()
    lent, data = Staging(device).lent, shared()
    lent.lock(data)
    assert not device.locked  # no loader runs
    with lent.during(1):
        with lent.during(1):
            lent.lock(data)
        assert device.locked
        pid = os.fork()
        if not pid:
            with lent.during(1):
                pass
            lent._room = 0
            with lent.during(0):
                pass
            os._exit(0 if device.locked else 1)
        assert os.waitpid(pid, 0)[1] == 0
    assert not device.locked and not lent.holds(data)


def test_where_memory_cannot_be_locked_it_is_copied() -> None:
    device = Device(refuses=True)
    staging, data = Staging(device), shared()
    with staging.lent.during(2):
        staging.lent.lock(data)
        assert not staging.lent.holds(data)
        device.refuses = False
        staging.lent.lock(data)  # is not tried again for each batch
        assert not device.locked
        assert torch.equal(staging.staged(data), data)


def test_a_block_that_a_worker_gave_up_makes_room_for_another() -> None:
    device = Device()
    staging, blocks = Staging(device), [shared() for _ in range(3)]
    with staging.lent.during(2):
        for k in (0, 1, 0, 2):  # the second has not come for the longest time
            staging.lent.lock(blocks[k])
            staging.sent(staging.staged(blocks[k]), CPU)
        assert [staging.lent.holds(one) for one in blocks] == [True, False, True]
        assert [event.waited for event in device.events] == [True] * 3 + [False]
        assert set(device.locked) == {blocks[0].data_ptr(), blocks[2].data_ptr()}
    assert not device.locked
