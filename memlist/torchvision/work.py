"""The pictures of a dataset as work for `load_data`, and the verbs."""

from __future__ import annotations

import copy
from typing import Any, Dict, Optional, Sequence

from .. import resampling
from ..cache import filling, info
from ..cache.info import CacheInfo
from ..cache.jobs import Work
from ..cache.leaving import BadItems, lines_without
from . import messages
from .kept import Kept


class Pictures(Work):
    "The files `paths` that `kept` loads. A loader of the user's runs in the calling thread, or in processes."

    def __init__(self, kept: Kept, paths: Sequence[Any]) -> None:
        super().__init__(kept.name, kept.images, paths, user_code=not kept.stock)

    def say_full(self, others: Sequence[Work]) -> None:
        messages.say_full(self.store, self.name)


def load_data(
    works: Sequence[Pictures], n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise"
) -> None:
    "Load every image that is not kept yet; see `memlist.cache.filling.load_data`. Forked workers have the kernels."
    resampling.prepare()
    filling.load_data(works, n_workers, progress, on_error, lines_without("dataset"))


def cache_info(works: Sequence[Pictures], unnamed: Sequence[Kept] = ()) -> CacheInfo:
    """Count the images that are kept; see `memlist.cache.info.cache_info`.

    `unnamed`: what loads images of which no file is known before it is opened. Those that are kept are counted.
    """
    found = info.cache_info(works)
    n = sum(len(kept.store) // kept.records for kept in {kept.store.uid: kept for kept in unnamed}.values())
    return found._replace(cached=found.cached + n, total=found.total + n)


def is_loaded(works: Sequence[Pictures]) -> bool:
    "Return whether every image is kept."
    return all(info.distinct(works))


def left(dataset: Any, bad: BadItems) -> Any:
    "Return a copy of `dataset` without the samples whose files are among `bad`."
    keep = [k for k, sample in enumerate(dataset.samples) if sample[0] not in bad]
    made: Any = copy.copy(dataset)
    lists: Dict[int, Any] = {}
    for name in ("samples", "imgs", "targets"):  # torchvision has one list under the first two names
        values = vars(dataset).get(name)
        if isinstance(values, (list, tuple)) and len(values) == len(dataset.samples):
            kept = lists.setdefault(id(values), type(values)(values[k] for k in keep))
            setattr(made, name, kept)
    return made
