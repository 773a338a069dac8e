"""torch's subsets and joined datasets, with the verbs of the datasets in memory of which they are made."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset, Subset

from ..cache.leaving import BadItems
from .verbs import Verbs, files_of


class MemorySubset(Verbs, Subset[Any]):
    """torch's `Subset` of a dataset in memory, as `in_memory` returns it for a subset, such as those of `random_split`.

    The verbs are about the images of the subset; `purge` frees the memory of the whole dataset.
    """

    def _left(self, bad: BadItems) -> Any:
        indices = [i for i, file in zip(self.indices, files_of(self)) if file.path not in bad]
        return MemorySubset(self.dataset, indices)


class MemoryConcatDataset(Verbs, ConcatDataset[Any]):
    """torch's `ConcatDataset` of datasets in memory, as `in_memory` returns it for a `ConcatDataset`.

    Items are made one by one, since each part may have a transform of its own.
    """

    def _left(self, bad: BadItems) -> Any:
        parts: Any = self.datasets
        return MemoryConcatDataset([part._left(bad) for part in parts])
