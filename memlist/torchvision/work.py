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
    kept: Kept, paths: Sequence[Any], n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise"
) -> None:
    "Load every picture that is not kept yet; see `memlist.cache.filling.load_data`. Forked workers have the kernels."
    resampling.prepare()
    filling.load_data([Pictures(kept, paths)], n_workers, progress, on_error, lines_without("dataset"))


def cache_info(kept: Kept, paths: Sequence[Any]) -> CacheInfo:
    "Count the pictures that are kept; see `memlist.cache.info.cache_info`."
    return info.cache_info([Pictures(kept, paths)])


def is_loaded(kept: Kept, paths: Sequence[Any]) -> bool:
    "Return whether every picture is kept."
    return all(info.distinct([Pictures(kept, paths)]))


def without(dataset: Any, errors: Any, name: str) -> Any:
    """Return a copy of `dataset` without the samples whose files are among `errors`.

    `name`: its name in messages. Raises ValueError if none would be left, or if a path that was given by hand is not
    among its files.
    """
    bad = BadItems(errors)
    keep = [k for k, sample in enumerate(dataset.samples) if sample[0] not in bad]
    bad.check(name)
    if not keep and len(dataset.samples):
        raise ValueError(
            f"{name}: none of its {len(dataset.samples)} pictures would be left. Please repair or replace the files."
        )
    made: Any = copy.copy(dataset)
    lists: Dict[int, Any] = {}
    for name in ("samples", "imgs", "targets"):  # torchvision has one list under the first two names
        values = vars(dataset).get(name)
        if isinstance(values, (list, tuple)) and len(values) == len(dataset.samples):
            kept = lists.setdefault(id(values), type(values)(values[k] for k in keep))
            setattr(made, name, kept)
    return made
