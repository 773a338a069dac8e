"""The in-memory twins of fastai's image lists; `lists_of` finds those that a data bunch or a split holds."""

from __future__ import annotations

import types
from typing import Any, List, Sequence

from fastai.basic_data import DataBunch
from fastai.data_block import ItemLists, LabelList
from fastai.vision.data import (
    ImageImageList,
    ImageList,
    ObjectItemList,
    PointsItemList,
    SegmentationItemList,
    SegmentationLabelList,
)
from fastai.vision.gan import GANItemList

from .mixin import InMemory
from .owned import Owned


class MemoryImageList(InMemory, ImageList):
    "`ImageList` served from RAM."


class MemoryImageLabelList(InMemory, ImageList):
    "Image targets served from RAM, for GANs and super-resolution: `label_cls=MemoryImageLabelList`."


class MemoryImageImageList(InMemory, ImageImageList):
    "`ImageImageList` served from RAM, inputs and targets."

    _label_cls = MemoryImageLabelList


class MemorySegmentationLabelList(InMemory, SegmentationLabelList):
    "`SegmentationLabelList` served from RAM, with one byte per pixel."


class MemorySegmentationItemList(InMemory, SegmentationItemList):
    "`SegmentationItemList` served from RAM, images and masks."

    _label_cls = MemorySegmentationLabelList


class MemoryObjectItemList(InMemory, ObjectItemList):
    "`ObjectItemList` served from RAM; its boxes are in memory anyway."


class MemoryPointsItemList(InMemory, PointsItemList):
    "`PointsItemList` served from RAM; its points are in memory anyway."


class MemoryGANItemList(InMemory, GANItemList):
    "`GANItemList` whose target images are served from RAM; its inputs are noise, for which no file is opened."

    _label_cls = MemoryImageLabelList


def stock_class(cls: type) -> type:
    """Return the class that `cls` is the in-memory twin of; `cls` itself if it adds code.

    An exported learner names this class, so that it loads without memlist.
    """
    while InMemory in cls.__bases__ and not _own_code(cls):
        cls = next(base for base in cls.__mro__[1:] if not issubclass(base, Owned))
    return cls


def _own_code(cls: type) -> bool:
    # Python itself adds names like `__slotnames__` to a class, but no functions.
    names = {name for name, value in vars(cls).items() if name[:2] != "__" or isinstance(value, types.FunctionType)}
    return bool(names - {"_label_cls", "_bunch", "_plain_get", "_plain_getitem", "cache", "cache_version"})


def in_memory_lists(*lists: Any) -> List[InMemory]:
    "Return the distinct in-memory lists among `lists`, including those inside a `MixedItemList`."
    found: List[InMemory] = []
    for il in lists:
        inner = in_memory_lists(*getattr(il, "item_lists", ()))
        for one in [il, *inner] if isinstance(il, InMemory) else inner:
            if not any(one is other for other in found):
                found.append(one)
    return found


def sets_of(data: Any, names: Sequence[str] = ("train_ds", "valid_ds", "test_ds")) -> List[Any]:
    "Return the sets of a `DataBunch` with these names, or of the result of a split or label call; else `data` itself."
    if isinstance(data, DataBunch):
        return [one for one in (getattr(data, name, None) for name in names) if one is not None]
    return list(data.lists) if isinstance(data, ItemLists) else [data]


def lists_of(data: Any, sets_of_a_bunch: Sequence[str] = ("train_ds", "valid_ds", "test_ds")) -> List[InMemory]:
    "Return the in-memory lists of a list, of the result of a split or a label call, or of a `DataBunch`."
    sets = sets_of(data, sets_of_a_bunch)
    inner = [getattr(one, name, None) for one in sets if isinstance(one, LabelList) for name in ("x", "y")]
    return in_memory_lists(*sets, *inner)
