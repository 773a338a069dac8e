"""Memory is reused once no tensor refers to it, and never before."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import sys
import threading
from typing import Any, Callable, Dict, List

import pytest
import torch

from memlist.batch.buffers import KEPT, LEAST, Buffers, SharedBuffers, leased

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
    return [int(block.mark[0]) for block in shared._blocks]


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
    shared = SharedBuffers(batches=4)
    out = []
    for k in range(7):
        shared.begin()
        out.append(leased(shared.empty(SHAPE, torch.float32).fill_(k)))
    assert len(shared._blocks) == 4
    assert [float(one.mean()) for one in out] == list(range(7))
    out.clear()
    assert marks(shared) == [0] * 4
    for n in range(1, 20):
        shared.begin()
        leased(shared.empty((n, 1000), torch.uint8))
    assert len(shared._blocks) == 4


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.float32, torch.int64], [torch.float32] * 3])
def test_a_worker_keeps_the_memory_of_four_batches(dtypes: List[Any]) -> None:
    "However many tensors a batch has, none is made anew once four batches have been on their way at a time."
    shared = SharedBuffers(batches=4)
    out: List[Any] = []
    seen = []
    for _ in range(30):
        shared.begin()
        made = [shared.empty(SHAPE, dtype) for dtype in dtypes]
        seen.append({address(one) for one in made})
        out.append([leased(one) for one in made])
        del made
        del out[:-3]
    used = set().union(*seen)
    assert len(used) == 4 * len(dtypes) == len(shared._blocks)


def test_batches_of_about_a_size_share_blocks() -> None:
    "Packed batches differ by a few bytes each."
    shared = SharedBuffers()
    seen = set()
    for n in range(LEAST, LEAST + 3000, 100):
        shared.begin()
        seen.add(address(leased(shared.empty((n,), torch.uint8))))
    assert len(seen) == 1


def test_threads_never_share_a_block() -> None:
    "Several loaders of one data bunch, each in a thread, use the same buffers."
    buffers = Buffers()
    wrong: List[Any] = []

    def work(k: int) -> None:
        try:
            for n in range(400):
                tensor = buffers.empty((1 + n % 3, LEAST // 4), torch.float32)
                tensor[:, ::4096] = k
                if not bool((tensor[:, ::4096] == k).all()):
                    wrong.append(n)
        except Exception as error:
            wrong.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong and len(buffers._free) <= KEPT


@pytest.mark.skipif(not hasattr(torch, "inference_mode"), reason="torch has no inference mode")
def test_a_batch_received_in_inference_mode_may_be_dropped_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: List[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", raised.append)
    shared, buffers = SharedBuffers(), Buffers()
    for make in (lambda: leased(shared.empty(SHAPE, torch.float32)), lambda: buffers.empty(SHAPE, torch.float32)):
        with torch.inference_mode():
            received = make()
        del received
        gc.collect()
    assert not raised and marks(shared) == [0] and len(buffers._free) == 1
    with torch.inference_mode():
        received = leased(shared.empty(SHAPE, torch.float32))
    assert marks(shared) == [1]
    received = leased(shared.empty(SHAPE, torch.float32))  # the worker is not in that mode
    del received
    assert marks(shared) == [0, 0]


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
