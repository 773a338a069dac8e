"""`Verbs`: what datasets in memory can do, whether one dataset, a subset of it, or several joined."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from torch.utils.data import ConcatDataset, Subset

from ..cache.info import CacheInfo
from ..cache.leaving import BadItems
from . import work
from .kept import Kept


class File(NamedTuple):
    "The file of an item, and what loads it. `path` is None for a dataset that does not name its files."

    kept: Kept
    path: Any


class Verbs(ABC):
    "Load, count, leave out and free the images of a dataset; see `leaves_of` for what it may be made of."

    def load_data(self, n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise") -> Any:
        """Decode every image of this dataset that is not in memory yet; return the dataset.

        - `n_workers=None`: the number of threads, 0 for none; None: one per CPU, or more if reading takes longer than
          decoding. A `loader` of your own runs in the calling thread, or in `n_workers` forked processes
        - `progress=True`: show a bar in a notebook or a terminal, or print lines into a log
        - `on_error="raise"`: after all others, raise one `ImageLoadError` that lists the images that could not be
          decoded and says how to leave them out; `"warn"`: warn of them instead

        Called again, it decodes only what is missing and files that have changed. Random generators are left as they
        were. Raises ValueError for an argument that is not one of these.
        """
        work.load_data(_works(self), n_workers, progress, on_error)
        return self

    def without(self, errors: Any) -> Any:
        """Return a dataset like this one without the images that could not be loaded; this one stays as it is::

            try:
                dataset.load_data()
            except memlist.ImageLoadError as error:
                dataset = dataset.without(error)

        `errors` is the `ImageLoadError`, or the paths. Classes keep their numbers. Call it before you split the dataset
        or make a `DataLoader`: these go on with the dataset that they were given. Raises ValueError for a path of yours
        that the dataset does not open; an error may be of more data than this.
        """
        bad = BadItems(errors)
        made = self._left(bad)
        name, n = name_of(self), len(self)  # type: ignore[arg-type]
        bad.check(name)
        if n and not len(made):
            raise ValueError(f"{name}: none of its {n} images would be left. Please repair or replace the files.")
        return made

    @abstractmethod
    def _left(self, bad: BadItems) -> Any:
        "Return a dataset like this one without the images that are among `bad`."

    def cache_info(self) -> CacheInfo:
        """Return how many of the images are in memory, and how full the store is: a `CacheInfo`.

        Printed, it is three lines: images, store and reads. Of a dataset without `samples`, the images that are in
        memory are all that are known.
        """
        return work.cache_info(_works(self, strict=False), [one._kept for one in leaves_of(self) if not one._named()])

    def purge(self, file: bool = False) -> int:
        """Give the store's memory back to the system, in every process; return the bytes freed.

        - `file=False`: a `cache_file` keeps its records, and only leaves memory; True: empty the file
        """
        found = leaves_of(self)
        for one in found:
            one._making.clear()
        return sum(store.purge(file) for store in {one.store.uid: one.store for one in found}.values())

    @property
    def loaded(self) -> bool:
        "Return whether every image is in memory."
        return work.is_loaded(_works(self))


def leaves_of(dataset: Any) -> List[Any]:
    "Return the datasets with a store of which `dataset` is made: itself, or those below subsets and joined datasets."
    if isinstance(dataset, Subset):
        return leaves_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [leaf for part in dataset.datasets for leaf in leaves_of(part)]
    return [dataset]


def files_of(dataset: Any, strict: bool = True) -> List[File]:
    """Return the file of each item, in their order.

    With `strict`, raises TypeError for a dataset that does not name its files.
    """
    if isinstance(dataset, Subset):
        below = files_of(dataset.dataset, strict)
        return [below[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [file for part in dataset.datasets for file in files_of(part, strict)]
    kept = dataset._kept
    if not strict and not dataset._named():
        return [File(kept, None)] * len(dataset)
    return [File(kept, path) for path in dataset._paths()]


def name_of(dataset: Any) -> str:
    "Return the name of a dataset in messages; of several the names of all."
    return " and ".join(dict.fromkeys(leaf._kept.name for leaf in leaves_of(dataset)))


def _works(dataset: Any, strict: bool = True) -> List[work.Pictures]:
    "Return the images of `dataset` as work, by what loads them."
    found: Dict[int, Tuple[Kept, List[Any]]] = {}
    for leaf in leaves_of(dataset):  # a store counts although the subset has none of its images
        found[id(leaf._kept)] = leaf._kept, []
    for kept, path in files_of(dataset, strict):
        if path is not None:
            found[id(kept)][1].append(path)
    return [work.Pictures(kept, paths) for kept, paths in found.values()]
