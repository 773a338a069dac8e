"""The verbs of memlist as methods of fastai's `DataLoaders`, and of loaders that are made from them."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

from ..cache import CacheInfo
from . import work
from .loader import BatchLoader, openings
from .stock import DataLoaders


def _loaders_or_error(self: Any) -> List[Any]:
    "Return the loaders that have images from memory; raise TypeError if there is none."
    loaders = self.loaders if isinstance(self, DataLoaders) else [self]
    found = [dl for dl in loaders if any(True for _ in openings(getattr(dl, "dataset", None)))]
    if not found:
        raise TypeError(
            f"this {type(self).__name__} has no images in memory: please call `memlist.in_memory(dls)` first, or use "
            "`MemoryImageBlock` in the DataBlock. Only images that fastai's own `create` opens can be kept."
        )
    return found


def _load_data(self: Any, n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise") -> Any:
    """Decode every image of these loaders, inputs and targets, that is not in memory yet; return this object.

    - `n_workers=None`: the number of threads, 0 for none; None: one per CPU, or more if reading takes longer than
      decoding
    - `progress=True`: show a bar in a notebook or a terminal, or print lines into a log
    - `on_error="raise"`: after all others, raise one `ImageLoadError` that lists the images that could not be decoded
      and says how to leave them out; `"warn"`: warn of them instead

    Called again, it decodes only what is missing and files that have changed. Random generators are left as they
    were. Raises ValueError for an argument that is not one of these.
    """
    work.load_data(_loaders_or_error(self), n_workers, progress, on_error)
    return self


def _without(self: Any, errors: Any) -> Any:
    """Leave out the items whose images, inputs or targets, could not be loaded; return this object::

        try:
            dls.load_data()
        except memlist.ImageLoadError as error:
            dls = dls.without(error)

    `errors` is the `ImageLoadError`, or the paths. The datasets are changed in place, so that a learner that has these
    loaders goes on without the items. Call it between epochs. Raises ValueError for a path of yours that none of them
    opens; an error may be of more data than these.
    """
    work.leave_out(_loaders_or_error(self), errors)
    return self


def _purge(self: Any, file: bool = False) -> int:
    """Give the memory of these images back to the system, in every process; return the bytes freed.

    - `file=False`: a `cache_file` keeps its records, and only leaves memory; True: empty the file
    """
    return work.purge(_loaders_or_error(self), file)


def _cache_info(self: Any) -> CacheInfo:
    "Return how many of the distinct images of these loaders are in memory, and how full their store is."
    return work.cache_info(_loaders_or_error(self))


def _loaded(self: Any) -> bool:
    "Return whether every image that these loaders open is in memory."
    return work.is_loaded(_loaders_or_error(self))


_CLASSES: Tuple[Any, ...] = (DataLoaders, BatchLoader)
for _cls in _CLASSES:
    _cls.load_data, _cls.without, _cls.purge, _cls.cache_info = _load_data, _without, _purge, _cache_info
    _cls.loaded = property(_loaded)
