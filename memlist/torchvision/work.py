"""The pictures of a dataset as work for `load_data`, and the verbs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Iterator, Optional, Sequence

from .. import resampling
from ..cache import filling, info, keys
from ..cache.cache import NEVER, ImageCache
from ..cache.decode import Keys
from ..cache.info import CacheInfo
from ..cache.jobs import Job, Say, Work
from . import messages
from .kept import Kept


class Pictures(Work):
    "The files `paths` that `kept` loads. A loader of the user's runs in the calling thread, or in processes."

    def __init__(self, kept: Kept, paths: Sequence[Any]) -> None:
        super().__init__(kept.name, kept.images, paths, user_code=not kept.stock)

    def jobs(self) -> Iterator[Job]:
        for number, item in enumerate(self.items):
            wanted: Keys = ()
            with suppress(keys.Unkeyable):
                wanted = self.images.decoder.keys(item)
            yield Job(self, item, number, wanted)

    def decode(self, job: Job, images: ImageCache, say: Say) -> str:
        return super().decode(job, images, say) if job.keys else NEVER

    def say_full(self, others: Sequence[Work]) -> None:
        messages.say_full(self.store, self.name)


def load_data(
    kept: Kept, paths: Sequence[Any], n_workers: Optional[int] = None, progress: bool = True, on_error: str = "raise"
) -> None:
    "Load every picture that is not kept yet; see `memlist.cache.filling.load_data`. Forked workers have the kernels."
    resampling.prepare()
    filling.load_data([Pictures(kept, paths)], n_workers, progress, on_error)


def cache_info(kept: Kept, paths: Sequence[Any]) -> CacheInfo:
    "Count the pictures that are kept; see `memlist.cache.info.cache_info`."
    return info.cache_info([Pictures(kept, paths)])


def is_loaded(kept: Kept, paths: Sequence[Any]) -> bool:
    "Return whether every picture is kept."
    return all(info.distinct([Pictures(kept, paths)]))
