"""`MemoryLoader`: torch's `DataLoader`, whose next batch is made in a thread while the training works on this one."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data._utils import collate as torch_collate
from torch.utils.data.dataloader import _BaseDataLoaderIter, _SingleProcessDataLoaderIter
from torch.utils.data.distributed import DistributedSampler

from .folder import InMemoryDataset
from .joined import MemorySubset

# Samplers that draw when an epoch begins, and not again before its last batch.
_SAMPLERS = SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler


class MemoryLoader(DataLoader[Any]):
    """torch's `DataLoader` for a `MemoryImageFolder` or what `in_memory` returns, one batch ahead without workers.

    It takes what `DataLoader` takes, and its batches and all random generators are equal to the bit. While the training
    works on a batch, a thread makes the next one. Its random numbers are drawn in advance, and again when the batch is
    due; if they differ by then, the batch is made again. That is done with `num_workers=0`, torch's own samplers and
    torch's own collate function, where the transform is known and the images are in memory; in every other case it is
    `DataLoader`. It costs drawing twice: some 50 µs per image.
    """

    def _get_iterator(self) -> _BaseDataLoaderIter:
        most = _most_ahead(self)
        if self.num_workers == 0 and most:
            return _AheadIterator(self, most)
        return super()._get_iterator()


class _AheadIterator(_SingleProcessDataLoaderIter):
    "Iterate as torch does, and tell the dataset which batch comes next: up to batch `most`, counted from 0."

    def __init__(self, loader: Any, most: int) -> None:
        super().__init__(loader)  # type: ignore[no-untyped-call]
        self._most, self._asked = most, 0
        self._pulled: List[Any] = []

    def _next_index(self) -> Any:
        self._asked += 1
        return self._pulled.pop() if self._pulled else super()._next_index()  # type: ignore[no-untyped-call]

    def _next_data(self) -> Any:
        data = super()._next_data()  # type: ignore[no-untyped-call]
        if self._asked < self._most:
            if not self._pulled:
                self._pulled.append(super()._next_index())  # type: ignore[no-untyped-call]
            found = _resolved(self._dataset, self._pulled[0])
            if found is not None:
                found[0]._expect(found[1])
        return data


def _most_ahead(loader: Any) -> int:
    """Return how many batches, from the first, may be asked of the sampler before their turn.

    That must not draw from a generator that the training may draw from, too. With a `generator` of the user's the last
    batch is left out, where torch's `RandomSampler` draws once more.
    """
    batches, sampler = loader.batch_sampler, loader.sampler
    if type(batches) is not BatchSampler or batches.sampler is not sampler or type(sampler) not in _SAMPLERS:
        return 0
    if loader.collate_fn is not torch_collate.default_collate or _resolved(loader.dataset, []) is None:
        return 0
    generator = getattr(sampler, "generator", None)
    if generator is None:
        return len(batches)
    if type(sampler) is RandomSampler and (sampler.replacement or sampler.num_samples != len(sampler.data_source)):
        return 0
    return len(batches) - 1


def _resolved(dataset: Any, indices: Any) -> Optional[Tuple[InMemoryDataset, List[Any]]]:
    "Return the in-memory dataset below subsets, and its own indices; None if there is none."
    while type(dataset) in (Subset, MemorySubset):
        dataset, indices = dataset.dataset, [dataset.indices[i] for i in indices]
    return (dataset, list(indices)) if isinstance(dataset, InMemoryDataset) else None
