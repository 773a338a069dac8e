"""`BatchLoader`: a loader of fastai's that makes its batches at once."""

from __future__ import annotations

import copy
import copyreg
import functools
from multiprocessing.context import get_spawning_popen
from typing import Any, Dict, Iterator, Optional, Tuple

from ..resampling import prepare
from ..store import prepare_lookup
from .collate import Batches, warn_of
from .memory import Memory
from .opening import FromMemory
from .stock import split_of
from .supported import loads_as_stock


class BatchLoader:
    """Make the batches of a `TfmdDL`, or of a subclass of it, at once from images in memory.

    `loader_class` mixes it into a class. Its pickle is one of that class, so that an exported learner loads where
    memlist is not installed.
    """

    #: The class of fastai's, or of the user's, that this is mixed into.
    stock: type

    def __iter__(self) -> Iterator[Any]:
        "Iterate as fastai does; before workers are forked, load the kernels that each would load for itself."
        memory = memory_of(self)
        if memory is not None and memory.batches and self.fake_l.num_workers:  # type: ignore[attr-defined]
            prepare()
            prepare_lookup()
        return super().__iter__()  # type: ignore[misc,no-any-return]

    def create_batches(self, samples: Any) -> Iterator[Any]:
        "Yield the batches of indices, as fastai does; called in the process that makes them."
        memory = memory_of(self)
        if memory is None or not memory.batches:
            yield from super().create_batches(samples)  # type: ignore[misc]
            return
        own = loads_as_stock(self)
        if own:
            warn_of(self, memory, own)
            yield from super().create_batches(samples)  # type: ignore[misc]
            return
        dataset = self.dataset  # type: ignore[attr-defined]
        if dataset is not None:
            self.it = iter(dataset)
        yield from Batches(self, memory).of(samples)

    def new(self, *args: Any, **kwargs: Any) -> Any:
        "Return another loader, as fastai does; files are looked at anew."
        made = super().new(*args, **kwargs)  # type: ignore[misc]
        memory = memory_of(made)
        if memory is not None:
            memory.look_anew()
        return made

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        if get_spawning_popen() is not None:
            return _received, (self.stock,), vars(self)
        # Not `copyreg.__newobj__`, which must be of this very class.
        return copyreg._reconstructor, (self.stock, object, None), vars(self)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        made = memo[id(self)] = self.__class__.__new__(self.__class__)
        vars(made).update(copy.deepcopy(vars(self), memo))
        return made


def _received(stock: type) -> Any:
    "Return an empty loader in a process that is being spawned."
    cls = loader_class(stock)
    return cls.__new__(cls)


@functools.lru_cache(maxsize=None)
def loader_class(stock: Any) -> Any:
    "Return the class of loaders that are a `stock` and make their batches at once; always the same class."
    if issubclass(stock, BatchLoader):
        return stock
    members = {"stock": stock, "__module__": __name__, "__doc__": stock.__doc__}
    metaclass: Any = type(stock)
    return metaclass(f"Memory{stock.__name__}", (BatchLoader, stock), members)


def openings(dataset: Any) -> Iterator[Tuple[Any, FromMemory]]:
    "Yield each list of a dataset that opens images from memory, with the transform that does."
    for tl in split_of(dataset):
        for f in tl.tfms.fs:
            if type(f) is FromMemory:
                yield tl, f


def memory_of(dl: Any) -> Optional[Memory]:
    "Return the memory that images of a loader come from; None if they do not."
    return next((f.memory for _, f in openings(dl.dataset)), None)
