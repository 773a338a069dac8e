"""Add methods to fastai's own classes by assignment, as fastai itself does with `presize`.

fastai's classes need them, because only the inputs, only the targets or one part of a `MixedItemList` may be in memory:
then most classes involved are fastai's.
"""

from __future__ import annotations

import copy
import inspect
from numbers import Integral
from typing import Any, Callable, Dict, List, Optional, Tuple

from fastai.basic_data import DataBunch
from fastai.basic_train import Learner
from fastai.core import listify
from fastai.data_block import ItemLists, LabelList, LabelLists
from fastai.torch_core import try_int
from fastai.vision.image import ImagePoints

from ..cache.info import CacheInfo
from . import work
from .leaving import leave_out
from .lists import in_memory_lists, lists_of, sets_of, stock_class
from .loader import BatchDeviceDataLoader, batched, checked, default_workers, release
from .mixin import InMemory
from .signatures import with_keywords
from .waiting import DataWait


def _lists_or_error(self: Any) -> List[InMemory]:
    found = lists_of(self)
    if not found:
        raise TypeError(
            f"this {type(self).__name__} holds no in-memory list: please build it with `MemoryImageList` (or another "
            "Memory… list, or `class MyMemoryList(InMemory, MyList): pass`) instead of fastai's own."
        )
    return found


def _load_data(self: Any, n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise") -> Any:
    """Decode every image of train, valid and test, inputs and image targets, that is not in memory yet; return `self`.

    - `n_workers=None`: the number of threads, 0 for none; None: one per CPU, or more if reading takes longer than
      decoding. An `open` or `get` of your own runs in the calling thread, or in `n_workers` forked processes
    - `progress=True`: show a bar in a notebook or a terminal, or print lines into a log
    - `on_error="raise"`: after all others, raise one `ImageLoadError` that lists the images that could not be decoded
      and says how to leave them out; `"warn"`: warn of them instead

    Called again, it decodes only what is missing and files that have changed. Random generators are left as they
    were. Raises ValueError for an argument that is not one of these.
    """
    name = "data" if isinstance(self, DataBunch) else "lists"
    work.load_data(_lists_or_error(self), n_workers, progress, on_error, name)
    return self


def _without(self: Any, errors: Any) -> Any:
    """Leave out the items whose images, inputs or targets, could not be loaded; return `self`::

        try:
            data.load_data()
        except ImageLoadError as error:
            data = data.without(error)

    `errors` is the `ImageLoadError`, or the items themselves. Train, valid and test are changed in place, so that the
    loaders, and a learner that has them, go on without these items. Call it between epochs. Raises ValueError for an
    item of yours that none of them opens; an error may be of more data than these.
    """
    _lists_or_error(self)
    leave_out(sets_of(self), errors)
    return self


def _purge(self: Any, file: bool = False) -> int:
    """Give the memory of these lists' stores back to the system, at once and in every process; return the bytes freed.

    What is opened later is decoded and kept again.

    - `file=False`: a `cache_file` keeps its records, and only leaves memory; True: empty the file
    """
    if isinstance(self, DataBunch):
        release(self)
    return work.purge(_lists_or_error(self), file)


def _cache_info(self: Any) -> CacheInfo:
    """Return how many of the distinct images of these lists are in memory, and how full their store is: a `CacheInfo`.

    Printed, it is three lines: images, store and reads. Costs some microseconds per image.
    """
    return work.cache_info(_lists_or_error(self))


def _loaded(self: Any) -> bool:
    "Return whether every image that these lists would open is cached."
    return work.is_loaded(lists_of(self))


_stock_getitem: Callable[..., Any] = LabelList.__getitem__
_stock_databunch: Callable[..., Any] = LabelLists.databunch
_stock_add_test: Callable[..., None] = DataBunch.add_test
_stock_export: Callable[..., None] = Learner.export
_stock_get_state: Callable[..., Dict[str, Any]] = LabelList.get_state


def _getitem(self: Any, idxs: Any) -> Any:
    """Return one `(x, y)`, or a `LabelList` of a range, as fastai does, but with one copy less.

    `apply_tfms` begins by cloning the image. Only this function knows when an image was made for this call, so that no
    other code refers to it and the clone is not needed.
    """
    idxs = try_int(idxs)
    in_memory = isinstance(self.x, InMemory) or isinstance(self.y, InMemory)
    if not in_memory or not isinstance(idxs, Integral) or self.item is not None:
        return _stock_getitem(self, idxs)
    (x, x_own), (y, y_own) = _take(self.x, idxs), _take(self.y, idxs)
    if getattr(self.x, "max_size", None) is not None and isinstance(y, ImagePoints):
        y.flow.size = x.size  # so far the original's size; from here on the points go with the reduced image
    if self.tfms or self.tfmargs:
        x = _apply(x, x_own, self.tfms, self.tfmargs)
    if hasattr(self, "tfms_y") and self.tfm_y:
        y = _apply(y, y_own, self.tfms_y, {**self.tfmargs_y, "do_resolve": False})
    return x, 0 if y is None else y


def _take(il: Any, i: Any) -> Tuple[Any, bool]:
    return il._take(i) if isinstance(il, InMemory) else (il[i], False)


def _apply(item: Any, own: bool, tfms: Any, kwargs: Dict[str, Any]) -> Any:
    if not own:
        return item.apply_tfms(tfms, **kwargs)

    def clone() -> Any:
        del item.clone
        return item

    item.clone = clone
    try:
        return item.apply_tfms(tfms, **kwargs)
    finally:
        vars(item).pop("clone", None)


def _databunch(self: Any, *args: Any, batch_tfms: bool = False, **kwargs: Any) -> Any:
    """Make a `DataBunch`, as fastai does, with its parameters.

    - `batch_tfms=False`: True: apply the transforms to whole batches, with the same random draws, in a fraction of the
      time. Values then differ from fastai's by rounding: 99.9 % of them by less than 0.001. What is not known runs as
      fastai's own code, with one warning that names it. By default few or no workers are used
    """
    for il in lists_of(self):
        _ = il.store  # made before any worker is forked
    if not checked(batch_tfms):
        return _stock_databunch(self, *args, **kwargs)
    given = inspect.signature(_stock_databunch).bind(self, *args, **kwargs).arguments
    if "num_workers" not in given:
        asked = {name: given[name] for name in ("device", "collate_fn", "bs") if name in given}
        kwargs["num_workers"] = default_workers(self, **asked)
    return batched(_stock_databunch(self, *args, **kwargs))


def _add_test(self: Any, *args: Any, **kwargs: Any) -> None:
    "Add a test set, as fastai does, with the same kind of loader as the other sets."
    _stock_add_test(self, *args, **kwargs)
    if isinstance(self.valid_dl, BatchDeviceDataLoader):
        self.test_dl = self.valid_dl.like(self.test_dl)


def _get_state(self: Any, **kwargs: Any) -> Dict[str, Any]:
    "Return the minimal state for export. It names fastai's own classes, so that it loads without memlist."
    state = _stock_get_state(self, **kwargs)
    for name in ("x", "y"):
        state[f"{name}_cls"] = stock_class(state[f"{name}_cls"])
        processors = [_without_list(processor) for processor in listify(state[f"{name}_proc"])]
        state[f"{name}_proc"] = processors if isinstance(state[f"{name}_proc"], list) else state[f"{name}_proc"]
    return state


def _without_list(processor: Any) -> Any:
    "Return a processor without its reference to the in-memory list that it was made for; fastai never uses it."
    if not in_memory_lists(getattr(processor, "ref_ds", None)):
        return processor
    processor = copy.copy(processor)
    processor.ref_ds = None
    return processor


def _export(self: Any, file: Any = "export.pkl", destroy: bool = False) -> None:
    "Export the learner, as fastai does, but without `DataWait`, so that the file loads without memlist."
    everything = self.callbacks, self.callback_fns
    self.callbacks = [callback for callback in self.callbacks if not isinstance(callback, DataWait)]
    self.callback_fns = [make for make in self.callback_fns if getattr(make, "func", make) is not DataWait]
    try:
        _stock_export(self, file, destroy)
    finally:
        if "callbacks" in vars(self):  # unless it has been destroyed
            self.callbacks, self.callback_fns = everything


# Names for `?`; fastai's own functions have them.
vars(_databunch)["__signature__"] = with_keywords(_stock_databunch, {"batch_tfms": False})
for _ours, _stock in ((_add_test, _stock_add_test), (_export, _stock_export), (_get_state, _stock_get_state)):
    vars(_ours)["__signature__"] = with_keywords(_stock, {})

for _cls in (ItemLists, LabelLists, LabelList, DataBunch):
    _cls.load_data, _cls.without, _cls.purge, _cls.cache_info = _load_data, _without, _purge, _cache_info
    _cls.loaded = property(_loaded)
LabelList.__getitem__ = _getitem
LabelList.get_state = _get_state
LabelLists.databunch = _databunch
DataBunch.add_test = _add_test
Learner.export = _export
