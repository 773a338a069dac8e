"""memlist: fastai 1's image lists, served from RAM, one copy for every worker.

Swap `ImageList` for `MemoryImageList`, change nothing else, and get the same pixels, sooner.
"""

from . import compat  # isort: skip  - first: the rest imports what it repairs
from . import attach as _attach  # noqa: F401  - adds our methods to fastai's classes
from .cachefile import CacheFileError
from .comparing import Comparison, compare
from .lists import (
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
from .loading import CacheInfo, ImageLoadError
from .store import ImageStore
from .waiting import DataWait

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
