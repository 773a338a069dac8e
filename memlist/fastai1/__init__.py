"""The front end for fastai 1: its image lists from RAM, its transforms a batch at a time, and `DataWait`.

- `mixin`: `InMemory`, the hooks that fastai calls; `owned`, `family`, `whole`: what a user's own `open` returns
- `lists`: the twins of fastai's lists; `bunch`: the data bunch; `attach`: the verbs on fastai's own classes
- `batches`, `draws`, `geometry`: transforms a batch at a time
- `decoders`: fastai's own `open`; `work`: lists as work for `load_data`; `compat`: repairs of fastai on a current stack

It may import every other folder but other front ends. `compat` comes first: the rest imports what it repairs.
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
