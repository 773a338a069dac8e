"""Turn the images of lists into work for `Fill`, and load, count and purge them."""

from __future__ import annotations

from typing import Any, Iterator, List, Optional, Sequence

from ..cache import filling, info
from ..cache.cache import FULL, KEPT, NEVER, THERE, ImageCache
from ..cache.decode import Keys
from ..cache.info import CacheInfo
from ..cache.jobs import Job, Say, Work, expected_bytes, stores_of
from ..cache.leaving import lines_without
from . import messages
from .calls import Call


class ListWork(Work):
    """The images that a list would open. `loading`: they will be decoded, and not only counted.

    If `get` is user code, only running it tells what it opens: there is one job per item that it has not made yet, and
    one per image that it has opened. The image of a job without keys is not known, or can't be kept.
    """

    def __init__(self, il: Any, loading: bool = False) -> None:
        super().__init__(messages.named(il), il.images(), il.items, il.runs_code())
        self.il, self.loading = il, loading

    @property
    def images(self) -> ImageCache:
        "The list's present cache: it changes if an attribute is set while it is filled."
        return self.il.images()  # type: ignore[no-any-return]

    def jobs(self) -> Iterator[Job]:
        il = self.il
        if self.loading and not (il._comes_here() and type(il).cache):
            return
        if not il._comes_here():
            for i, item in enumerate(il.items):
                yield Job(self, item, i, ())
        elif il.opens_its_items():
            images = self.images
            for i, item in enumerate(il.items):
                yield Job(self, item, i, self._keys(images, item))
        elif il.known_by_running():  # else the items are the noise of a GAN
            family = il._family or il._found()
            for i, item in enumerate(il.items):
                opened = family.opened(il._position(i))
                for one, wanted in [(item, ())] if opened is None else opened:
                    yield Job(self, item if one is None else one, i, tuple(wanted))

    def begin(self, say: Say) -> None:
        if not self.il._comes_here():
            with Call(self.il) as call:
                call.say = say
                messages.say_replaced(self.il)

    def _keys(self, images: ImageCache, item: Any) -> Keys:
        try:
            return images.decoder.keys(item) if type(self.il).cache else ()
        except Exception:
            return ()

    def decode(self, job: Job, images: ImageCache, say: Say) -> str:
        il = self.il
        with Call(il) as call:
            call.say = say
            if il.opens_its_items():
                if not job.keys:
                    il.open(job.item)
                    return NEVER
                fetched = images.fill(job.item, job.keys)
                if fetched.reason or il._family is not None:
                    il._say_outcome(il._function(), fetched)
                return fetched.outcome
            _, opened = il._noted(il.get, job.number)
        outcomes = {one.outcome for one in opened}
        return next((outcome for outcome in (FULL, KEPT) if outcome in outcomes), NEVER if outcomes else THERE)

    def say_full(self, others: Sequence[Work]) -> None:
        say_full(self.il, [other.il for other in others if isinstance(other, ListWork)])


def works_of(lists: Sequence[Any], loading: bool = False) -> List[ListWork]:
    "Return the work of each of `lists`."
    return [ListWork(il, loading) for il in lists]


def load_data(
    lists: Sequence[Any],
    n_workers: Optional[int] = None,
    progress: bool = True,
    on_error: str = "raise",
    name: str = "il",
) -> None:
    """Decode every image of `lists` that is not cached; see `memlist.cache.filling.load_data`.

    `name`: the name that a user probably gave to the object that holds the lists.
    """
    filling.load_data(works_of(lists, loading=True), n_workers, progress, on_error, lines_without(name))


def purge(lists: Sequence[Any], file: bool = False) -> int:
    """Empty the stores of `lists`, and the notes about user code; return the bytes freed.

    A cache file keeps its records, unless `file` is True; see `ImageStore.purge`.
    """
    freed = sum(store.purge(file) for store in stores_of(works_of(lists)))
    for il in lists:
        if il.notes() is not il.store:
            il.notes().purge()
    return freed


def cache_info(lists: Sequence[Any]) -> CacheInfo:
    "Count the images of `lists` and of their stores; see `memlist.cache.info.cache_info`."
    return info.cache_info(works_of(lists))


def is_loaded(lists: Sequence[Any]) -> bool:
    "Return whether every image of `lists` is cached; True for lists that open none."
    return all(distinct(lists))


def distinct(lists: Sequence[Any]) -> Iterator[bool]:
    "Yield whether an image is cached, for each distinct image of `lists`."
    return info.distinct(works_of(lists))


def say_full(il: Any, lists: Sequence[Any]) -> None:
    "Say that the budget of `il`'s store is used up, counting the images of `lists`, unless that budget is 0."
    if il.store.rule == 0 or il.notes().noted(messages.note_of_full(il)):
        return
    found, need = cache_info(lists), None
    if not any(one.known_by_running() for one in lists):
        opening = [one for one in lists if one.opens_its_items()]
        jobs = [Job(work, item, i, ()) for work in works_of(opening) for i, item in enumerate(work.items)]
        need = expected_bytes(jobs) if jobs else None
        if need is not None:  # a file may be an input and a target
            need = round(need * found.total / len(jobs))
    messages.say_full(il, found, need)
