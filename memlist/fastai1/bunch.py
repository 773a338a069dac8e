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

_LIST_KEYWORDS = ("lazy", "max_ram", "cache_file", "max_size", "store", "convert_mode", "after_open")


class MemoryImageDataBunch(ImageDataBunch):
    """`ImageDataBunch` whose factories make in-memory lists.

    The factories also take the list's keywords (`lazy`, `max_ram`, `cache_file`, `max_size`, `convert_mode`,
    `after_open`); all others are as in fastai.
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

    # fastai's annotations contain names that only its own modules can resolve.
    given = inspect.signature(stock)
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in given.parameters.values()]
    del factory.__wrapped__
    vars(factory)["__signature__"] = inspect.Signature(parameters)
    factory.__annotations__ = {}
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
