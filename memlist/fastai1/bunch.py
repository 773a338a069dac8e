"""`MemoryImageDataBunch`: the factories of fastai's `ImageDataBunch`, with in-memory lists."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

from fastai.data_block import LabelLists
from fastai.vision.data import ImageDataBunch

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
from .loader import batched, checked, default_workers
from .signatures import with_keywords

#: The keywords of `MemoryImageList` that the factories take, with their defaults.
_LIST_KEYWORDS = {
    "lazy": None,
    "max_ram": None,
    "cache_file": None,
    "max_size": None,
    "store": None,
    "convert_mode": "RGB",
    "after_open": None,
}


class MemoryImageDataBunch(ImageDataBunch):
    """Make an `ImageDataBunch` whose images are served from RAM, by the factories of fastai's class::

        data = MemoryImageDataBunch.from_folder("data/pets", valid_pct=0.2, size=224, max_ram="8GB").load_data()

    Besides fastai's own parameters, `from_folder`, `from_df`, `from_csv`, `from_lists`, `from_name_func` and
    `from_name_re` take:

    - `lazy`, `max_ram`, `cache_file`, `max_size`, `store`, `convert_mode`, `after_open`: see `MemoryImageList`
    - `batch_tfms=False`: True: apply the transforms to whole batches, see `LabelLists.databunch`

    Methods: `load_data()`, `cache_info()`, `purge()`, `without(errors)`; `loaded`: whether every image is in memory.
    Raises what fastai's factories raise, and what `MemoryImageList` raises for its keywords.
    """

    @classmethod
    def create_from_ll(
        cls, lls: LabelLists, *args: Any, batch_tfms: bool = False, **kwargs: Any
    ) -> MemoryImageDataBunch:
        "Make a data bunch, as fastai does; for `batch_tfms` see `databunch`."
        if not checked(batch_tfms):
            return super().create_from_ll(lls, *args, **kwargs)
        given = inspect.signature(super().create_from_ll).bind(lls, *args, **kwargs).arguments
        if "num_workers" not in given:
            asked = {name: given[name] for name in ("device", "collate_fn", "bs") if name in given}
            given["num_workers"] = default_workers(lls, **asked)
        return batched(super().create_from_ll(**given))


def _factory(name: str) -> Any:
    """Make a factory of fastai's `ImageDataBunch` build in-memory lists.

    This runs fastai's own code, in which `ImageList` then means ours: a copy would have to be updated with fastai.
    """
    stock = vars(ImageDataBunch)[name].__func__

    @functools.wraps(stock)
    def factory(cls: Any, *args: Any, **kwargs: Any) -> Any:
        settings = {name: kwargs.pop(name) for name in _LIST_KEYWORDS if name in kwargs}
        if kwargs.get("item_cls") is not None:
            kwargs["item_cls"] = functools.partial(kwargs["item_cls"], **settings)
        ours: Any = functools.partial(MemoryImageList, **settings)
        ours.from_folder = functools.partial(MemoryImageList.from_folder, **settings)
        ours.from_df = functools.partial(MemoryImageList.from_df, **settings)
        known = {**stock.__globals__, "ImageList": ours}
        return types.FunctionType(stock.__code__, known, name, stock.__defaults__)(cls, *args, **kwargs)

    del factory.__wrapped__
    vars(factory)["__signature__"] = with_keywords(stock, {**_LIST_KEYWORDS, "batch_tfms": False})
    factory.__annotations__ = {}
    more = "Also takes the keywords of `MemoryImageList`, and `batch_tfms`: see `MemoryImageDataBunch`."
    factory.__doc__ = f"{inspect.getdoc(stock)}\n\n{more}"
    return classmethod(factory)


# `from_csv` and `from_name_re` call these.
for _name in ("from_folder", "from_df", "from_lists", "from_name_func"):
    setattr(MemoryImageDataBunch, _name, _factory(_name))

for _list in (
    MemoryImageList,
    MemoryImageLabelList,
    MemoryImageImageList,
    MemorySegmentationLabelList,
    MemorySegmentationItemList,
    MemoryObjectItemList,
    MemoryPointsItemList,
    MemoryGANItemList,
):
    _list._bunch = MemoryImageDataBunch
