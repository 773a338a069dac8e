"""`in_memory`: keep the images of DataLoaders in memory, whatever made them."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from fastai.data.core import DataLoaders

from ..cache.again import check_again
from ..cache.messages import warn_user
from ..store import MaxRam
from .loader import BatchLoader, loader_class, openings
from .memory import Memory, check_keywords
from .opening import FromMemory
from .stock import TfmdDL, opened_by, split_of

_REMEDY = (
    "build the DataLoaders again, and give {keyword} to the first in_memory of the new ones, or to MemoryImageBlock"
)


def in_memory(
    dls: DataLoaders,
    max_ram: MaxRam = None,
    cache_file: Any = None,
    max_size: Optional[int] = None,
    batches: Optional[bool] = None,
) -> DataLoaders:
    """Keep the images of `dls`, fastai 2's `DataLoaders`, in memory that all processes share, and return `dls`::

        dls = in_memory(ImageDataLoaders.from_folder(path, item_tfms=Resize(224))).load_data()

    Its batches stay the same to the bit, under the same seed. They are made at once where all transforms of single
    items are known; where not, each item is made by fastai's own code of an image from memory, and one warning says
    why. `dls` gets the methods `load_data`, `without`, `purge` and `cache_info` and the property `loaded`.

    - `max_ram`: the budget, such as `"8GB"` or `0.5` of the memory that is available; what does not fit is opened from
      disk each time, and one warning says so
    - `cache_file`: keep images in this file, beyond the session and for all processes that name the file
    - `max_size`: keep larger images reduced to so many pixels on their shorter side; pixels then differ from fastai's
    - `batches`: False to have each item made on its own

    Called again, it keeps what you leave out. `max_ram` and `batches` take effect at once; another `cache_file` or
    `max_size` raises ValueError, since it needs new DataLoaders.

    Only images that fastai's own `create` opens are kept: those of `PILImage`, `PILImageBW`, `PILMask`, and of your own
    subclasses that leave `create` alone. The loaders are changed in place. Raises TypeError for anything but
    DataLoaders, and what `ImageStore` raises for `max_ram` and `cache_file`. Costs some milliseconds.
    """
    _check(dls)
    check_keywords(max_ram, cache_file, max_size, batches)
    loaders = [dl for dl in dls.loaders if isinstance(dl, TfmdDL)]
    memories = list({id(f.memory): f.memory for dl in loaders for _, f in openings(dl.dataset)}.values())
    if memories:
        _again(memories, max_ram, cache_file, max_size, batches)
    else:
        found = any(opened_by(f) is not None for dl in loaders for tl in split_of(dl.dataset) for f in tl.tfms.fs)
        if not found:
            warn_user(
                "in_memory: no part of these DataLoaders opens image files by the `create` of fastai's own PILImage, "
                "so nothing is kept in memory and they stay as they are."
            )
            return dls
        memory = Memory(max_ram, cache_file, max_size, batches is not False, os.path.abspath(dls.path))
        made: Dict[int, Any] = {}
        for dl in loaders:
            for tl in split_of(dl.dataset):
                _replace(tl.tfms, memory, made)
    for dl in loaders:
        if not isinstance(dl, BatchLoader) and any(True for _ in openings(dl.dataset)):
            dl.__class__ = loader_class(dl.__class__)
    return dls


def _again(
    memories: List[Memory], max_ram: MaxRam, cache_file: Any, max_size: Optional[int], batches: Optional[bool]
) -> None:
    """Let keywords have their effect on images that are in memory already; None for those that were left out.

    Raises ValueError, and changes nothing, for what would need other records than those that are there.
    """
    for memory in memories:
        check_again(memory.store, memory.max_size, cache_file, max_size, "these DataLoaders", _REMEDY)
    for memory in memories:
        if max_ram is not None:
            memory.limit(max_ram)
        if batches is not None:
            memory.batches = batches


def _check(dls: Any) -> None:
    "Raise TypeError for anything but DataLoaders."
    if isinstance(dls, DataLoaders):
        return
    name = type(dls).__name__
    if isinstance(getattr(dls, "dls", None), DataLoaders):
        remedy = f"please give those of your {name}: in_memory(learn.dls)"
    elif isinstance(dls, (list, tuple)) and any(isinstance(one, (DataLoaders, TfmdDL)) for one in dls):
        remedy = "please give one DataLoaders, or call it for each"
    elif isinstance(dls, TfmdDL):
        remedy = "please put it into a DataLoaders: in_memory(DataLoaders(dl))"
    else:
        remedy = "please give what `ImageDataLoaders.from_…`, or `dataloaders` of a DataBlock or of Datasets, returns"
    raise TypeError(f"in_memory takes DataLoaders of fastai 2, and this is a {name}: {remedy}")


def _replace(pipeline: Any, memory: Memory, made: Dict[int, Any]) -> None:
    "Replace what opens images in a pipeline; `made` are the replacements so far, by the id of what they replace."
    fs: List[Any] = pipeline.fs
    for k, f in enumerate(list(fs)):
        if opened_by(f) is not None:
            if id(f) not in made:
                made[id(f)] = FromMemory(f, memory)
            fs[k] = made[id(f)]
    for name, value in list(vars(pipeline).items()):  # what fastai offers by the name of its class
        if id(value) in made:
            setattr(pipeline, name, made[id(value)])
