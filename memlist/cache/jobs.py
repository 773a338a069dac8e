"""The work of `load_data`: `Job`, one image to decode, and `Work`, a group of images."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from ..store import ImageStore, claiming_all, shown
from .cache import LATER, NEVER, THERE, ImageCache
from .decode import Keys
from .keys import Unkeyable

#: This many headers are read to estimate the size of a dataset.
HEADERS = 64

Say = Callable[[str], None]


class Job(NamedTuple):
    "One image to decode. If it has no keys, only decoding shows which image it is and whether it can be kept."

    work: Work
    item: Any
    number: int
    keys: Keys


class Work:
    """A group of images: those of one list, or of one function.

    - `name`: its name in messages
    - `user_code`: whether decoding runs user code, which never runs in threads

    A front end subclasses it if decoding an image takes more than a call of `images`.
    """

    def __init__(self, name: str, images: ImageCache, items: Sequence[Any] = (), user_code: bool = False) -> None:
        self.name, self._images, self.items, self.user_code = name, images, items, user_code

    @property
    def images(self) -> ImageCache:
        "The cache that the images go to."
        return self._images

    @property
    def store(self) -> ImageStore:
        "The store that the images go to."
        return self.images.store

    def jobs(self) -> Iterator[Job]:
        "Yield one job per image; it has no keys if none can identify the item."
        for number, item in enumerate(self.items):
            yield Job(self, item, number, self.keys_of(item))

    def keys_of(self, item: Any) -> Keys:
        "Return the keys of an item; none if it can't be identified."
        with suppress(Unkeyable):
            return self.images.decoder.keys(item)
        return ()

    def begin(self, say: Say) -> None:
        "Show messages, if any, before the first job."

    def missing(self, job: Job) -> bool:
        "Return whether the image of `job` has to be decoded, or its records of an earlier session verified."
        images = self.images
        verified = bool(job.keys) and all(images.store.verified(key) for key in job.keys)
        return not verified or images.changed(job.keys, job.item)

    def do(self, job: Job, wait: bool, say: Say) -> str:
        """Decode the image of `job` unless it is stored by now; return KEPT, NEVER, FULL, THERE or LATER.

        LATER: another process is decoding it, and `wait` is False. Raises whatever decoding raises.
        """
        images = self.images
        if not job.keys:
            return self.decode(job, images, say)

        def decode(mine: bool) -> str:
            if not mine and not wait:
                return LATER
            if not images.holds(job.keys) or images.changed(job.keys, job.item):
                return self.decode(job, images, say)
            return THERE

        return images.store.claiming(job.keys[0], decode, wait)

    def do_many(self, jobs: Sequence[Job]) -> List[Optional[str]]:
        "Decode the images of `jobs`, which have keys; return their outcomes, None for those that `do` has to do."
        images = self.images

        def decode(mine: List[bool]) -> List[Optional[str]]:
            todo = [i for i, job in enumerate(jobs) if mine[i] and not images.holds(job.keys)]
            outcomes: List[Optional[str]] = [None if claimed else LATER for claimed in mine]
            for i, outcome in zip(todo, images.fill_many([(jobs[i].item, jobs[i].keys) for i in todo])):
                outcomes[i] = outcome
            return outcomes

        return claiming_all(images.store, [job.keys[0] for job in jobs], decode)

    def decode(self, job: Job, images: ImageCache, say: Say) -> str:
        "Decode and store the image of a job that has keys; pass messages to `say`, which shows them after the work."
        if not job.keys:
            return NEVER
        fetched = images.fill(job.item, job.keys)
        if fetched.reason:
            say(f"{self.name}: {shown(job.item)} is not kept in memory, because {shown(fetched.reason)}.")
        return fetched.outcome

    def nbytes(self, job: Job) -> Optional[int]:
        "Return how many bytes the image will take, by the header of its file; None if only decoding it can tell."
        return self.images.decoder.nbytes(job.item)

    def say_full(self, others: Sequence[Work]) -> None:
        "Warn that not all images of this and `others`, which use the same store, fit."


def expected_bytes(jobs: Sequence[Job]) -> Optional[int]:
    "Estimate how many bytes `jobs` will take, from an even sample of headers; None if no header tells."
    step = max(1, len(jobs) // HEADERS)
    found: List[Optional[int]] = []
    for job in jobs[::step]:
        with suppress(Exception):  # the error is listed when the image is decoded
            found.append(job.work.nbytes(job))
    sizes = [size for size in found if size is not None]
    return round(sum(sizes) / len(sizes) * len(jobs)) if sizes else None


def stores_of(works: Iterable[Work]) -> List[ImageStore]:
    "Return the distinct stores of `works`."
    found: Dict[str, ImageStore] = {}
    for work in works:
        found.setdefault(work.store.uid, work.store)
    return list(found.values())
