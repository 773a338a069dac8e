"""The front end for fastai 2: DataLoaders whose images come from memory and whose batches are made at once.

- `wrapping`: `in_memory`; `blocks`: `MemoryImageBlock` and `MemoryMaskBlock`
- `stock`: fastai's own code, and whether any of it was replaced
- `memory`: the store and how it is read; `opening`: the transform that opens an image from memory
- `sketch`: what stands in for an image while fastai's own code draws for it; `supported`: whether batches can be made
  at once; `collate`: how they are made; `loader`: the loader that does it
- `work`: the verbs, and datasets as work for `load_data`; `attach`: methods added to fastai's own classes
- `waiting`: `DataWait`; `comparing`: `compare`

This folder may import every folder except other front ends.
"""

from ..timing import Comparison
from . import attach as attach
from .blocks import MemoryImageBlock, MemoryMaskBlock
from .comparing import compare
from .waiting import DataWait
from .wrapping import in_memory

__all__ = ["Comparison", "DataWait", "MemoryImageBlock", "MemoryMaskBlock", "compare", "in_memory"]
