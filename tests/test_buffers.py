"""Memory that is handed out again: never while anybody has it, and soon after nobody has."""

from __future__ import annotations

import gc
from typing import Any, Callable, Dict, List

import pytest
import torch

from memlist.buffers import KEPT, LEAST, Buffers

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
def test_whoever_holds_it_keeps_it(keep: str) -> None:
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


def test_little_is_kept_and_goes_with_it() -> None:
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
