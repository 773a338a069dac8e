"""`MemoryImageFolder`: torchvision's `ImageFolder`, from memory, and a batch at a time."""

from __future__ import annotations

import sys
from abc import abstractmethod
from typing import Any, Callable, List, Optional, Sequence

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from ..cache.leaving import BadItems
from ..store import ImageStore, MaxRam, parse_max_ram, shown
from . import work
from .kept import Kept, Loader, Paths
from .known import is_stock_getitem
from .making import Making
from .verbs import Verbs


class InMemoryDataset(Verbs):
    """A dataset whose images are kept, and its batches.

    A class that has it provides `_kept`, which loads the images, `_paths`, which names them, and `_sampled`, the
    dataset with `samples`, `transform` and `target_transform`.
    """

    _making: Making

    @property
    @abstractmethod
    def _kept(self) -> Kept:
        "Return what loads the images."

    @property
    def _sampled(self) -> Any:
        return self

    def _paths(self) -> List[Any]:
        return Paths(self._sampled.samples).all()

    def _named(self) -> bool:
        "Return whether the dataset names its files."
        return hasattr(self._sampled, "samples")

    def _left(self, bad: BadItems) -> Any:
        made = work.left(self, bad)
        made._making = Making()
        return made

    def _expect(self, indices: Sequence[int]) -> None:
        "Begin to make the batch of `indices`, for which torch will probably ask next; see `Making.expect`."
        dataset = self._sampled
        if is_stock_getitem(dataset) and isinstance(dataset.loader, Kept):
            self._making.expect(dataset, dataset.loader, indices)

    @property
    def store(self) -> ImageStore:
        "Return the store of the images."
        return self._kept.store


class MemoryImageFolder(InMemoryDataset, ImageFolder):
    """Load the images of a folder from memory, in the place of torchvision's `ImageFolder`::

        dataset = MemoryImageFolder("pets/train", transform, max_ram="8GB").load_data()
        for images, targets in DataLoader(dataset, batch_size=64, shuffle=True, num_workers=2): ...

    Each file is decoded once per machine; all workers and all datasets over `root` share the pixels. A `DataLoader`
    gets what it gets from `ImageFolder`, bit for bit and with the same random numbers. Where the transform is known,
    all images of a batch are made at once, on as many threads as torch uses; where it is not, one by one, and one
    warning says so.

    The first parameters are those of `ImageFolder`. Besides:

    - `max_ram`: the store's budget: '8GB', '500MiB', bytes, a share in (0, 1] of the available memory, 0 to keep
      nothing, None for 80 % of the available memory; images that do not fit are opened from disk every time
    - `cache_file`: keep the store in this file, on a local disk, for the next session and for all processes that name
      it; only with torchvision's own loader
    - `max_size`: keep images with their shorter side reduced to at most this many pixels; pixels then differ from
      those of `ImageFolder`; only with torchvision's own loader

    What a `loader` of your own returns is kept if it is not random, in a store of this dataset alone; see
    `memlist.cached`. Raises what `ImageFolder` raises, ValueError for a wrong `max_ram` or `max_size`, `CacheFileError`
    for a file that can't be used, and TypeError for a `cache_file` with a loader of your own.
    """

    def __init__(
        self,
        root: Any,
        transform: Optional[Callable[..., Any]] = None,
        target_transform: Optional[Callable[..., Any]] = None,
        loader: Loader = default_loader,
        is_valid_file: Optional[Callable[[str], bool]] = None,
        *args: Any,
        max_ram: MaxRam = None,
        cache_file: Any = None,
        max_size: Optional[int] = None,
        **kwargs: Any,
    ) -> None:
        parse_max_ram(max_ram)
        self._making = Making()
        self._settings = (max_ram, cache_file, max_size)
        super().__init__(root, transform, target_transform, loader, is_valid_file, *args, **kwargs)

    @property
    def loader(self) -> Kept:
        "Load an image from memory; set it to another function to begin with an empty store."
        return self._loader

    @loader.setter
    def loader(self, loader: Loader) -> None:
        if not isinstance(loader, Kept):
            name = f"{type(self).__name__} over {shown(self.root)}"
            loader = Kept(loader, self.root, name, *self._settings)
        self._loader: Kept = loader

    @property
    def _kept(self) -> Kept:
        return self._loader

    def __getitems__(self, indices: Sequence[int]) -> List[Any]:
        "Return the items at `indices`, as torch asks for them: all of a batch at once."
        if is_stock_getitem(self):
            return self._making.items(self, self._kept, indices, sys._getframe(1))
        return [self[i] for i in indices]
