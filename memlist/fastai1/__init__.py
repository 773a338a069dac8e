"""The front end for fastai 1: its image lists served from RAM, its transforms on whole batches, and `DataWait`.

- `mixin`: `InMemory`, the hooks that fastai calls; `owned`, `family`, `whole`: caching of a user's own `open`
- `lists`: the twins of fastai's lists; `bunch`: the data bunch; `attach`: methods added to fastai's own classes
- `loader`, `collate`, `draws`, `planner`: transforms on whole batches
- `decoders`: fastai's own `open`; `work`: lists as work for `load_data`; `compat`: repairs of fastai on a current stack

This folder may import every folder except other front ends. `compat` comes first: the rest imports what it repairs.
"""

from . import compat  # isort: skip
from . import attach as attach
from .bunch import MemoryImageDataBunch
from .comparing import Comparison, compare
from .lists import (
    MemoryGANItemList,
    MemoryImageImageList,
    MemoryImageLabelList,
    MemoryImageList,
    MemoryObjectItemList,
    MemoryPointsItemList,
    MemorySegmentationItemList,
    MemorySegmentationLabelList,
)
from .mixin import InMemory
from .waiting import DataWait

__all__ = [
    "Comparison",
    "DataWait",
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
