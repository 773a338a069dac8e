"""memlist: fastai 1's image lists, served from RAM, one copy for every worker.

Swap `ImageList` for `MemoryImageList`, change nothing else, and get the same pixels, sooner.
"""

from . import former

from .fastai1 import compat  # isort: skip  - first: the rest imports what it repairs
from .cache.filling import CacheInfo, ImageLoadError
from .fastai1 import attach as _attach  # noqa: F401  - adds our methods to fastai's classes
from .fastai1.comparing import Comparison, compare
from .fastai1.lists import (
    InMemory,
    MemoryGANItemList,
    MemoryImageDataBunch,
    MemoryImageImageList,
    MemoryImageLabelList,
    MemoryImageList,
    MemoryObjectItemList,
    MemoryPointsItemList,
    MemorySegmentationItemList,
    MemorySegmentationLabelList,
)
from .fastai1.waiting import DataWait
from .store.cachefile import CacheFileError
from .store.store import ImageStore

former.install()

__version__ = "0.1.0"
__all__ = [
    "CacheFileError",
    "CacheInfo",
    "Comparison",
    "DataWait",
    "ImageLoadError",
    "ImageStore",
    "InMemory",
    "MemoryGANItemList",
    "MemoryImageDataBunch",
    "MemoryImageImageList",
    "MemoryImageLabelList",
    "MemoryImageList",
    "MemoryObjectItemList",
    "MemoryPointsItemList",
    "MemorySegmentationItemList",
    "MemorySegmentationLabelList",
    "compare",
    "compat",
]
