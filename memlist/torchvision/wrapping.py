"""`in_memory`: keep the images of a dataset that exists already."""

from __future__ import annotations

import copy
import sys
from typing import Any, List, Optional, Sequence

from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from ..cache.again import check_again
from ..cache.decode import check_max_size
from ..cache.leaving import BadItems
from ..store import MaxRam, parse_max_ram, shown
from . import messages, work
from .folder import InMemoryDataset
from .joined import MemoryConcatDataset, MemorySubset
from .kept import Kept
from .known import is_stock_getitem
from .making import Making
from .verbs import Verbs, leaves_of


def in_memory(dataset: Any, max_ram: MaxRam = None, cache_file: Any = None, max_size: Optional[int] = None) -> Any:
    """Return a dataset like `dataset` with its images in memory: one copy per machine, for all workers.

    The dataset has to open its files by its attribute `loader`, as torchvision's `DatasetFolder` does. What it returns
    is equal to the bit. Where items are made by `DatasetFolder`'s own code, from `samples`, `transform` and
    `target_transform`, a batch is made at once, see `MemoryImageFolder`; a `__getitem__` of your own is called item by
    item. The result is a `MemoryDataset`, a wrapper that passes on the attributes of a copy of `dataset`; the dataset
    itself stays as it is. A `Subset` and a `ConcatDataset` of torch's are returned as such, with
    their parts in memory and with the methods `load_data`, `without`, `cache_info`, `purge` and `loaded`.

    - `max_ram`, `cache_file`, `max_size`: see `MemoryImageFolder`

    For a dataset that is in memory already, `max_ram` takes effect at once; another `cache_file` or `max_size` raises
    ValueError, since it needs a new dataset.

    Raises TypeError for a dataset without a `loader`: decorate the function that opens its files with
    `memlist.cached` instead.
    """
    parse_max_ram(max_ram)
    if isinstance(dataset, Verbs):
        _again(dataset, max_ram, cache_file, max_size)
        return dataset
    if type(dataset) is Subset:
        return MemorySubset(in_memory(dataset.dataset, max_ram, cache_file, max_size), dataset.indices)
    if type(dataset) is ConcatDataset:
        return MemoryConcatDataset([in_memory(part, max_ram, cache_file, max_size) for part in dataset.datasets])
    loader = getattr(dataset, "loader", None)
    if isinstance(dataset, (type, DataLoader)) or not callable(loader) or not hasattr(dataset, "__dict__"):
        raise TypeError(messages.refused(dataset))
    root = getattr(dataset, "root", None)
    name = type(dataset).__name__ + ("" if root is None else f" over {shown(root)}")
    kept = Kept(loader, root, name, max_ram, cache_file, max_size)
    return MemoryDataset(dataset, kept)


def _again(dataset: Verbs, max_ram: MaxRam, cache_file: Any, max_size: Optional[int]) -> None:
    "Let keywords have their effect on images that are in memory already; raise ValueError for what comes too late."
    if max_size is not None:
        check_max_size(max_size)
    leaves = leaves_of(dataset)
    for leaf in leaves:
        remedy = "build the dataset again, and give {keyword} when it is first put into memory"
        check_again(leaf.store, leaf._kept.max_size, cache_file, max_size, leaf._kept.name, remedy)
    if max_ram is not None:
        for leaf in leaves:
            leaf.store.set_max_ram(max_ram)


class MemoryDataset(InMemoryDataset, Dataset[Any]):
    """A dataset whose `loader` loads from memory; see `in_memory`. `dataset` is that dataset.

    Its attributes are those of `dataset`, also if they are set.
    """

    dataset: Any

    def __init__(self, dataset: Any, kept: Kept) -> None:
        own = copy.copy(dataset)
        own.loader = kept
        vars(self).update(dataset=own, _making=Making())

    @property
    def _kept(self) -> Kept:
        loader = self.dataset.loader
        if not isinstance(loader, Kept):
            raise TypeError(f"{self!r}: its loader was replaced, so its images are not kept: call in_memory again")
        return loader

    @property
    def _sampled(self) -> Any:
        return self.dataset

    def _paths(self) -> List[Any]:
        self._check_samples()
        return super()._paths()

    def _check_samples(self) -> None:
        "Raise TypeError for a dataset that does not name its files."
        if not hasattr(self.dataset, "samples"):
            raise TypeError(
                f"{self!r} has no attribute `samples`, so memlist can't tell which files it will open. Please leave "
                "this call out: an image is kept when it is first opened."
            )

    def _left(self, bad: BadItems) -> Any:
        self._check_samples()
        return MemoryDataset(work.left(self.dataset, bad), self._kept)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: Any) -> Any:
        return self.dataset[i]

    def __getitems__(self, indices: Sequence[Any]) -> List[Any]:
        "Return the items at `indices`, as torch asks for them: all of a batch at once."
        dataset = self.dataset
        kept = dataset.loader
        if isinstance(kept, Kept) and is_stock_getitem(dataset):
            return self._making.items(dataset, kept, indices, sys._getframe(1))
        own = getattr(dataset, "__getitems__", None)
        if callable(own):
            return list(own(indices))
        if isinstance(kept, Kept):
            messages.say_unknown(kept.store, kept.name, f"{type(dataset).__name__}.__getitem__ is not torchvision's")
        return [dataset[i] for i in indices]

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or (name[:2] == "__" and name != "__iter__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __repr__(self) -> str:
        return f"<{type(self.dataset).__name__} in memory>"
