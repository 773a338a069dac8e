"""Send indices to the workers, and batches back to the main process."""

from __future__ import annotations

from typing import Any, Callable, Optional, Tuple

import torch
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory

from .buffers import leased
from .packed import Packed


class Batch:
    """Carry a batch from the process that gathered it to the one that trains.

    - `x`, `y`: tensors, `Packed`, or for other targets whatever the stock collate function returns
    - `normalised`: whether the first of the loader's transforms has been applied
    - `lent`: for each of the two, whether its memory belongs to a worker's `SharedBuffers`
    """

    def __init__(self, x: Any, y: Any, normalised: bool = False, lent: Tuple[bool, bool] = (False, False)) -> None:
        self.x, self.y, self.normalised, self.lent = x, y, normalised, lent

    def _lease(self) -> None:
        "Return the memory to the worker once it is no longer needed here."
        lent, self.lent = self.lent, (False, False)
        self.x, self.y = (_leased(one) if its else one for one, its in zip((self.x, self.y), lent))

    def pin_memory(self) -> Batch:
        "Return the batch in pinned memory; torch's loaders call this. The memory of a worker is pinned where it lies."
        for one, its in zip((self.x, self.y), self.lent):
            if its and isinstance(one, Packed):
                one.lock()
        self._lease()
        # A `Packed` is not passed to torch, whose `pin_memory` would take a named tuple apart.
        x, y = (
            one.pin_memory() if isinstance(one, Packed) else pin_memory(one)  # type: ignore[no-untyped-call]
            for one in (self.x, self.y)
        )
        return Batch(x, y, self.normalised)

    def on(self, device: torch.device, move: Callable[[Any, torch.device], Any]) -> Any:
        "Return the pair on `device`, as a list; `move` transfers everything that is not packed."
        self._lease()
        pair, self.x, self.y = (self.x, self.y), None, None  # a worker gets its memory back when the device has a copy
        return [one.make(device) if isinstance(one, Packed) else _moved(one, device, move) for one in pair]


def _moved(one: Any, device: torch.device, move: Callable[[Any, torch.device], Any]) -> Any:
    "Return `one` on `device`. A tensor that is there already needs no walk over what might be nested."
    return one if type(one) is torch.Tensor and one.device == device else move(one, device)


def _leased(one: Any) -> Any:
    if isinstance(one, Packed):
        return one._replace(data=leased(one.data))
    return leased(one)


class Indices(Dataset):  # type: ignore[type-arg]
    "Return `i` as item `i`; in everything else behave like `dataset`."

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: Any) -> Any:
        return i

    def __getitems__(self, indices: Any) -> Any:
        "Return the indices of a batch, as torch 2 asks for them: all at once."
        return indices

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" or name == "dataset":  # while being unpickled, it lacks `dataset`
            raise AttributeError(name)
        return getattr(self.dataset, name)


class WorkerStart:
    """Start a worker whose dataset is `Indices`: show the real dataset to user code, `worker_init_fn` first of all.

    Both are one object in the worker, forked or spawned, so what user code changes there has its effect.
    """

    def __init__(self, worker_init_fn: Optional[Callable[[int], Any]]) -> None:
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        assert info is not None
        object.__setattr__(info, "dataset", info.dataset.dataset)  # type: ignore[attr-defined]  # it is read-only
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker)
