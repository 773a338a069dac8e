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
    """Serve a list of image files from RAM: write it in the place of fastai's `ImageList`, and change nothing else::

        data = (
            MemoryImageList.from_folder("data/pets", max_ram="8GB")
            .split_by_rand_pct(0.2).label_from_folder().transform(get_transforms(), size=224).databunch()
        )
        data.load_data()  # decode all images now; otherwise each is decoded when it is first opened

    Items and batches equal those of `ImageList` to the bit. Each file is decoded once, and all workers share it.

    Besides the parameters of `ImageList` (`items`, `path`, `convert_mode`, `after_open` and so on):

    - `lazy=True`: fill the cache as images are first opened; False: only `load_data()` fills it
    - `max_ram=None`: the budget: `"8GB"`, `"500MiB"`, a number of bytes, a share in (0, 1] of the available memory, 0
      to keep nothing; None: 80 % of the available memory. Images that do not fit are opened from disk each time
    - `cache_file=None`: keep the images in this file, for the next session and for all processes that name it
    - `max_size=None`: keep images with their shorter side reduced to at most this many pixels
    - `store=None`: the `ImageStore` to use, instead of the one that all lists over `path` share

    Methods: `load_data()`, `cache_info()`, `purge()`, `without(errors)`; `loaded`: whether every image is in memory.

    Raises ValueError or TypeError for a keyword of the wrong kind, and `CacheFileError` for a file that can't be used.
    With an `open` of your own, see `InMemory`.
    """


class MemoryImageLabelList(InMemory, ImageList):
    """Serve image targets from RAM, as `label_cls`: for GANs, super-resolution, colouring and restoration::

        ImageList.from_folder(small).split_by_rand_pct(0.1).label_from_func(large_of, label_cls=MemoryImageLabelList)

    In fastai, `ImageList` is the class of such targets. Takes the keywords of `MemoryImageList`; those that it is not
    given are those of its inputs, if these are in memory, too.
    """


class MemoryImageImageList(InMemory, ImageImageList):
    """Serve images and target images from RAM, in the place of fastai's `ImageImageList`: image to image, as for
    super-resolution::

        MemoryImageImageList.from_folder(small).split_by_rand_pct(0.1).label_from_func(lambda path: large / path.name)

    Takes the keywords of `MemoryImageList`. Labels are a `MemoryImageLabelList`.
    """

    _label_cls = MemoryImageLabelList


class MemorySegmentationLabelList(InMemory, SegmentationLabelList):
    """Serve masks from RAM, with one byte per pixel, in the place of fastai's `SegmentationLabelList`.

    A `MemorySegmentationItemList` makes its labels one. Name it as `label_cls` to keep masks alone. Takes `classes`, as
    fastai's, and the keywords of `MemoryImageList`. With `max_size`, masks are reduced by nearest neighbour.
    """


class MemorySegmentationItemList(InMemory, SegmentationItemList):
    """Serve images and masks from RAM, in the place of fastai's `SegmentationItemList`: a class for each pixel::

        lists = MemorySegmentationItemList.from_folder(images).split_by_rand_pct(0.2)
        lists = lists.label_from_func(lambda path: masks / path.name, classes=codes)

    Takes the keywords of `MemoryImageList`. Labels are a `MemorySegmentationLabelList`.
    """

    _label_cls = MemorySegmentationLabelList


class MemoryObjectItemList(InMemory, ObjectItemList):
    """Serve images with bounding boxes from RAM, in the place of fastai's `ObjectItemList`: object detection::

        lists = MemoryObjectItemList.from_folder(path).split_by_rand_pct(0.2).label_from_func(boxes_of)
        data = lists.transform(get_transforms(), size=128, tfm_y=True).databunch(collate_fn=bb_pad_collate)

    Takes the keywords of `MemoryImageList`. fastai itself holds the boxes in memory.
    """


class MemoryPointsItemList(InMemory, PointsItemList):
    """Serve images with points from RAM, in the place of fastai's `PointsItemList`: landmarks, such as those of faces::

        lists = MemoryPointsItemList.from_folder(path).split_by_rand_pct(0.2).label_from_func(points_of)

    Takes the keywords of `MemoryImageList`. fastai itself holds the points in memory.
    """


class MemoryGANItemList(InMemory, GANItemList):
    """Serve the target images of a GAN from RAM, in the place of fastai's `GANItemList`, whose inputs are noise::

        lists = MemoryGANItemList.from_folder(path, noise_sz=100).split_none().label_from_func(lambda item: item)
        data = lists.transform(size=64, tfm_y=True).databunch()

    Takes `noise_sz`, as fastai's, and the keywords of `MemoryImageList`. Labels are a `MemoryImageLabelList`; for the
    noise no file is opened.
    """

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
