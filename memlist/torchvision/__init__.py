"""The front end for torchvision: its datasets of image files from memory, and their batches made at once.

- `folder`: `MemoryImageFolder`; `wrapping`: `in_memory`, for a dataset that exists; `work`: the verbs
- `verbs`: what all of them can do; `joined`: subsets and joined datasets, which can do it, too
- `kept`: a loader that loads from memory; `messages`: what datasets say
- `known`: which transforms are known, and whether their code is torchvision's; `standin`: an image without pixels,
  with which they are called; `pipeline`: what a transform does; `making`: the items of a batch
- `collating`: how a batch that was made at once comes through torch's collate function
- `ahead`: `MemoryLoader`, a `DataLoader` that is one batch ahead

This folder may import every folder except other front ends.
"""

from .ahead import MemoryLoader
from .folder import MemoryImageFolder
from .wrapping import in_memory

__all__ = ["MemoryImageFolder", "MemoryLoader", "in_memory"]

MemoryImageFolder.__module__ = MemoryLoader.__module__ = (
    "memlist"  # so that pickles do not depend on where it is defined
)
