"""Hand a batch that was made at once to torch's `default_collate`, and to nobody else.

torch asks a dataset for the items of a batch and passes them to the collate function. Where that is torch's own, each
item's picture may be a `Row`: `default_collate` knows what to do with it, by torch's own way to extend it, and returns
the whole batch. Any other collate function gets the tensors that it would get from torchvision.
"""

from __future__ import annotations

import os
from types import CodeType, FrameType
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils.data import Subset, get_worker_info
from torch.utils.data._utils import collate as torch_collate
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from ..batch.buffers import SHARED, Buffers, Memory, SharedBuffers, leased

# How torch collates types of its own or of a user's; None before torch 2, where items are always tensors.
MAP: Optional[Dict[Any, Any]] = getattr(torch_collate, "default_collate_fn_map", None)
_DEFAULT = torch_collate.default_collate
_OF_TENSORS = getattr(torch_collate, "collate_tensor_fn", None)
_FETCH: CodeType = _MapDatasetFetcher.fetch.__code__
_SUBSET: Optional[CodeType] = getattr(getattr(Subset, "__getitems__", None), "__code__", None)


class Row:
    "One picture of a batch that was made at once."

    __slots__ = ("batch", "number")

    def __init__(self, batch: MadeBatch, number: int) -> None:
        self.batch, self.number = batch, number


class MadeBatch:
    "The pictures of a batch as one tensor, (n, channels, height, width), and whether a worker lends its memory."

    def __init__(self, tensor: Tensor, lent: bool) -> None:
        self.tensor, self.lent = tensor, lent

    def rows(self) -> List[Row]:
        "Return a row for each picture."
        return [Row(self, number) for number in range(len(self.tensor))]


class _Sent:
    "A tensor on its way from a worker to the main process, where unpickling makes a plain tensor of it."

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __reduce__(self) -> Tuple[Any, ...]:
        return leased, (self.tensor,)


def _collate_rows(rows: Sequence[Row], *, collate_fn_map: Any = None) -> Any:
    "Return the whole batch, of which `rows` are all rows in their order."
    batch = rows[0].batch
    if len(rows) != len(batch.tensor) or any(row.batch is not batch or row.number != k for k, row in enumerate(rows)):
        raise RuntimeError("these rows are not those of one batch: please report this")
    return _Sent(batch.tensor) if batch.lent else batch.tensor


if MAP is not None:
    MAP[Row] = _collate_rows


def to_default_collate(frame: Optional[FrameType], item: Tensor) -> bool:
    """Return whether `frame` is torch's fetching of a batch for its own collate function, perhaps through subsets.

    `item`: a tensor such as each picture would be. A user may have told torch to collate those, or tuples, otherwise.
    """
    while frame is not None and frame.f_code is _SUBSET:
        frame = frame.f_back
    if MAP is None or frame is None or frame.f_code is not _FETCH:
        return False
    if getattr(frame.f_locals.get("self"), "collate_fn", None) is not _DEFAULT:
        return False
    if _collates(type(item)) is not _OF_TENSORS or _collates(tuple) is not None:
        return False
    pair = torch.stack([item, item])
    return type(pair) is Tensor and pair.is_contiguous()


def _collates(cls: type) -> Any:
    "Return how torch's collate function treats objects of a class."
    assert MAP is not None
    return MAP[cls] if cls in MAP else next((MAP[base] for base in MAP if issubclass(cls, base)), None)


class BatchMemory:
    """The memory in which this process makes batches: reused once no tensor refers to it.

    A worker's is shared with the main process, which gives it back when the batch is gone there.
    """

    def __init__(self) -> None:
        self._pid, self._own, self._shared = 0, Buffers(), None  # type: int, Buffers, Optional[SharedBuffers]

    def batch(self, shape: Tuple[int, ...], dtype: torch.dtype) -> MadeBatch:
        "Return an uninitialised batch."
        worker = get_worker_info()
        memory: Memory = self._private()
        if worker is not None:
            if self._shared is None:
                self._shared = SharedBuffers(2 + SHARED)
            self._shared.begin()
            memory = self._shared
        return MadeBatch(memory.empty(shape, dtype), worker is not None)

    def scratch(self, shape: Tuple[int, ...], dtype: torch.dtype) -> Tensor:
        "Return an uninitialised tensor that stays in this process."
        return self._private().empty(shape, dtype)

    def _private(self) -> Buffers:
        if self._pid != os.getpid():
            self._pid, self._own, self._shared = os.getpid(), Buffers(), None
        return self._own

    def clear(self) -> None:
        "Give free memory back to the system."
        self._own.clear()

    def __reduce__(self) -> Tuple[Any, ...]:
        return BatchMemory, ()
