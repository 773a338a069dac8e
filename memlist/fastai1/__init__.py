"""The front end for fastai 1: its image lists served from RAM, its transforms on whole batches, and `DataWait`.

- `mixin`: `InMemory`, the hooks that fastai calls; `serving`: one image; `owned`, `family`, `whole`, `calls` and
  `wrapping`: a user's own `open` and `get`; `decoders`: fastai's own `open`; `messages`: what lists say
- `lists`: the twins of fastai's lists; `bunch`: the data bunch; `attach`: methods added to fastai's own classes;
  `work`: the verbs, and lists as work for `load_data`
- transforms on whole batches: `transforms`, `pipelines` and `draws` (random numbers), `matrices`, `selection` and
  `planner` (the plan), `reader`, `images`, `collate`, `early` and
  `loader` (the batches), `sizes` (those of images), `supported` (what stock has to do)
- `waiting`: `DataWait`; `comparing`: `compare`; `compat`: repairs of fastai on a current stack

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
