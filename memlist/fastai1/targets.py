"""Collate labels, numbers and noise without an item per index.

Stock makes an object per index, takes the `data` of each and stacks them. Here the tensor is read from the list's items
in one step. It is equal to stock's in value, dtype, shape and strides. Nothing is kept from one batch to the next, so a
list that was changed, in place or otherwise, is never answered with what it held before.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
from fastai.data_block import CategoryList, CategoryListBase, FloatList, ItemList, MultiCategoryList
from fastai.vision.gan import GANItemList
from torch import Tensor
from torch.utils.data._utils import collate as torch_collate

from .mixin import InMemory


def collated(il: Any, indices: np.ndarray) -> Optional[Tensor]:
    """Return what stock collates of the labels or numbers at `indices`, (B,), of `il`; None if stock has to do it.

    For a `CategoryList` that is (B,) int64, for a `MultiCategoryList` (B, classes) float32, for a `FloatList` (B,) or
    (B, values) float32. `get` of the list has to be fastai's own, and the items of the kind that fastai's processors
    make. What stock would raise for is left to stock. Costs 10 µs per batch of 64, and 40 µs with several labels.
    """
    make, names = _LABELS.get(getattr(il.get, "__func__", None), (None, ()))
    if make is None or type(il).__getitem__ is not ItemList.__getitem__ or not _plain(il, names):
        return None
    if not _torch_collates():
        return None
    try:
        found = make(il, indices)
    except IndexError:  # stock finds the item that is wrong, and raises
        return None
    return None if found is None else torch.from_numpy(found)


def noise_rows(il: Any, n: int) -> Optional[Tuple[Tensor, List[Tensor]]]:
    """Return memory for the noise of `n` items, (n, noise_sz, 1, 1), and a view of each row; None if stock has to draw.

    `row.normal_()` draws for one item what `il[i]` would: the same numbers from the same generator. Draw where stock
    opens the item, because targets and transforms may draw from that generator, too.
    """
    cls: Any = type(il)
    size = vars(il).get("noise_sz")
    if type(size) is not int or size < 1:
        return None
    ours = isinstance(il, InMemory) and cls.get is InMemory.get
    getitem, get = cls.__getitem__, il._get() if ours else getattr(cls, "get", None)
    indexed = getitem is ItemList.__getitem__ or (getitem is InMemory.__getitem__ and cls._plain_getitem)
    if get is not GANItemList.get or not indexed:
        return None
    if not _plain(il, ("noise_sz",)) or not _torch_collates():
        return None
    noise = torch.empty(n, size, 1, 1)
    return noise, list(noise.unbind(0))


# torch's own functions, as they were registered when memlist was imported.
_REGISTERED = tuple(
    (kind, function)
    for kind, function in getattr(torch_collate, "default_collate_fn_map", {}).items()
    if function.__module__ == torch_collate.__name__
)


# -- what has to be fastai's own ----------------------------------------------------------------------------------


def _plain(il: Any, names: Tuple[str, ...]) -> bool:
    "Return whether the attributes `names` are those of the object, and its methods those of its class."
    cls: Any = type(il)
    own = vars(il)
    if "get" in own or cls.__getattribute__ is not object.__getattribute__:
        return False
    return all(name in own and not hasattr(cls, name) for name in names)


def _torch_collates() -> bool:
    """Return whether torch collates with functions of its own: since torch 2, others can be registered.

    The front end for torchvision registers one, for rows of its own batches only.
    """
    known: Dict[Any, Any] = getattr(torch_collate, "default_collate_fn_map", {})
    own = __name__.split(".")[0] + "."
    return tuple(pair for pair in known.items() if not str(pair[1].__module__).startswith(own)) == _REGISTERED


# -- what is collated ---------------------------------------------------------------------------------------------


def _taken(il: Any, indices: np.ndarray) -> Any:
    "Return the items at `indices`, dense in memory of their own; None if the items are no plain array."
    return il.items.take(indices, 0) if type(il.items) is np.ndarray else None


def _names_all(classes: Any, numbers: np.ndarray) -> bool:
    "Return whether `classes` has a name for each of `numbers`, which stock looks up."
    if type(classes) not in (list, tuple) and not (type(classes) is np.ndarray and classes.ndim == 1):
        return False
    return not numbers.size or (-len(classes) <= int(numbers.min()) and int(numbers.max()) < len(classes))


def _whole(found: Any) -> Optional[np.ndarray]:
    "Return numbers as int64 if stock's tensor of them is; None if they are anything else."
    if found.dtype == object and set(map(type, found.tolist())) == {int}:
        return found.astype(np.int64)  # type: ignore[no-any-return]
    return found if found.dtype == np.int64 else None


def _categories(il: Any, indices: np.ndarray) -> Optional[np.ndarray]:
    found = _taken(il, indices)
    if found is None or found.ndim != 1:
        return None
    numbers = _whole(found)
    return numbers if numbers is not None and _names_all(il.classes, numbers) else None


def _several(il: Any, indices: np.ndarray) -> Optional[np.ndarray]:
    "Return one row per item, with 1 for each of its labels."
    found = _taken(il, indices)
    if found is None or il.one_hot is not False or type(il).c is not CategoryListBase.c:
        return None
    if found.ndim == 2 and found.dtype == np.int64:  # items with equally many labels
        columns, counts = found.reshape(-1), [found.shape[1]] * len(found)
    else:
        items: List[Any] = found.tolist() if found.ndim == 1 else [None]
        if set(map(type, items)) != {list}:
            return None
        labels = list(chain.from_iterable(items))
        if not set(map(type, labels)) <= {int}:
            return None
        columns, counts = np.array(labels, np.int64), list(map(len, items))
    if not _names_all(il.classes, columns):
        return None
    made = np.zeros((len(found), len(il.classes)), np.float32)
    made[np.repeat(np.arange(len(found)), counts), columns] = 1
    return made


def _numbers(il: Any, indices: np.ndarray) -> Optional[np.ndarray]:
    found = _taken(il, indices)
    return found if found is not None and found.dtype == np.float32 and il.log is False else None


#: By fastai's `get`: how its results are collated, and the attributes that it reads.
_LABELS: Dict[Any, Tuple[Callable[[Any, np.ndarray], Optional[np.ndarray]], Tuple[str, ...]]] = {
    CategoryList.get: (_categories, ("items", "classes")),
    MultiCategoryList.get: (_several, ("items", "classes", "one_hot")),
    FloatList.get: (_numbers, ("items", "log")),
}
