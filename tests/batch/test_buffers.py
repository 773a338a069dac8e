"""Memory is reused once no tensor refers to it, and never before."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from typing import Any, Callable, Dict, List

import pytest
import torch

from memlist.batch.buffers import KEPT, LEAST, SHARED, Buffers, SharedBuffers, leased

SHAPE = (2, LEAST // 4)


def address(tensor: torch.Tensor) -> int:
    return tensor.data_ptr() - tensor.storage_offset() * tensor.element_size()


def test_memory_comes_back_when_the_last_view_goes() -> None:
    buffers = Buffers()
    tensor = buffers.empty(SHAPE, torch.float32).fill_(3.0)
    assert tensor.shape == SHAPE and tensor.dtype == torch.float32 and tensor.is_contiguous()
    first = address(tensor)
    assert first % 64 == 0
    view = tensor[1, 5:9]
    del tensor
    other = buffers.empty(SHAPE, torch.float32).fill_(5.0)
    assert address(other) != first and view.tolist() == [3.0] * 4
    del view
    assert address(buffers.empty(SHAPE, torch.float32)) == first


@pytest.mark.parametrize("keep", ["detach", "numpy", "autograd", "list"])
def test_a_tensor_in_use_keeps_its_memory(keep: str) -> None:
    buffers = Buffers()
    tensor = buffers.empty(SHAPE, torch.float32).fill_(1.0)
    holders: Dict[str, Callable[[torch.Tensor], Any]] = {
        "detach": lambda one: one.detach(),
        "numpy": lambda one: one.numpy(),
        "autograd": lambda one: (one * torch.ones(1, requires_grad=True)).grad_fn,
        "list": lambda one: [one],
    }
    holder = holders[keep](tensor)
    first = address(tensor)
    del tensor
    gc.collect()
    others = [buffers.empty(SHAPE, torch.float32).fill_(2.0) for _ in range(4)]
    assert first not in [address(one) for one in others]
    del holder


def test_few_free_blocks_are_kept_and_go_with_their_owner() -> None:
    buffers = Buffers()
    many: List[torch.Tensor] = [buffers.empty(SHAPE, torch.int64) for _ in range(5)]
    many.clear()
    gc.collect()
    assert len(buffers._free) == KEPT
    for n in range(1, 20):  # every batch of another size
        buffers.empty((n, LEAST), torch.float32)
    assert len(buffers._free) == KEPT
    last = buffers.empty(SHAPE, torch.int64).fill_(7)
    del buffers
    gc.collect()
    assert int(last.sum()) == 7 * last.numel()


def marks(shared: SharedBuffers) -> List[int]:
    return [int(mark) for _, _, mark in shared._blocks]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_a_worker_reuses_memory_once_the_main_process_is_done(dtype: Any) -> None:
    shared = SharedBuffers()
    first = shared.empty(SHAPE, dtype).fill_(3)
    assert first.is_shared() and first.shape == SHAPE and first.is_contiguous() and marks(shared) == [1]
    begin = address(first)
    received = leased(first)  # in the other process it is another tensor over the same memory
    del first
    view = received[1, 5:9].detach()
    del received
    other = shared.empty(SHAPE, dtype).fill_(5)
    assert address(other) != begin and view.tolist() == [3] * 4 and marks(shared) == [1, 1]
    del view
    assert marks(shared) == [0, 1]
    assert address(shared.empty(SHAPE, dtype)) == begin


def test_a_worker_keeps_few_blocks_of_any_size() -> None:
    shared = SharedBuffers()
    out = [leased(shared.empty(SHAPE, torch.float32).fill_(k)) for k in range(SHARED + 3)]
    assert len(shared._blocks) == SHARED
    assert [float(one.mean()) for one in out] == list(range(SHARED + 3))
    out.clear()
    assert marks(shared) == [0] * SHARED
    for n in range(1, 20):
        leased(shared.empty((n, 1000), torch.uint8))
    assert len(shared._blocks) == SHARED


def test_a_forked_child_does_not_free_the_memory_of_its_parent() -> None:
    shared = SharedBuffers()
    received = [leased(shared.empty(SHAPE, torch.float32))]
    pid = os.fork()
    if not pid:
        received.clear()
        gc.collect()
        os._exit(0)
    os.waitpid(pid, 0)
    assert marks(shared) == [1]
    received.clear()
    assert marks(shared) == [0]


def test_a_copy_has_memory_of_its_own_and_free_blocks_can_be_released() -> None:
    buffers = Buffers()
    buffers.empty(SHAPE, torch.float32)
    assert len(buffers._free) == 1
    for other in (copy.deepcopy(buffers), pickle.loads(pickle.dumps(buffers))):
        assert type(other) is Buffers and not other._free
    buffers.clear()
    assert not buffers._free
