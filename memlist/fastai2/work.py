"""Turn the images of loaders into work for `load_data`, and load, count and purge them."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from ..cache import CacheInfo, ImageCache, filling, info
from ..cache.jobs import Job, Say, Work, stores_of
from ..cache.leaving import BadItems, lines_without
from ..resampling import prepare
from ..store import prepare_lookup
from .loader import openings
from .opening import FILE, FromMemory
from .stock import L, is_own_getter, split_of


class FileWork(Work):
    """The image files that one list of a dataset opens.

    `running`: run the user's functions that tell which file belongs to an item, as `load_data` does. Without it, such a
    list has the files that they named in the last `load_data`.
    """

    def __init__(self, tl: Any, opening: FromMemory, running: bool) -> None:
        self.tl, self.opening, self.running = tl, opening, running
        self._how = opening.how()
        self._errors: Dict[int, Exception] = {}
        self._rows: List[int] = []
        super().__init__(f"{opening.kind.__name__} from memory", opening.memory.cache(*(self._how or ("", False))))

    def jobs(self) -> Iterator[Job]:
        for number, file in enumerate(self._files() if self._how is not None else ()):
            yield Job(self, file, number, () if number in self._errors else self.keys_of(file))

    def known_by_running(self) -> bool:
        "Return whether only functions of the user tell the files, and `load_data` has not asked them."
        fs = self._before()
        return not all(map(is_own_getter, fs)) and not self.opening.memory.files_of(self.tl)

    def _before(self) -> List[Any]:
        "Return the transforms before the one that opens an image."
        fs = list(self.tl.tfms.fs)
        return fs[: [f is self.opening for f in fs].index(True)]

    def _files(self) -> List[Any]:
        "Return the files of the items; for an item that the user's functions fail for, the item."
        tl, memory = self.tl, self.opening.memory
        fs = self._before()
        own = all(map(is_own_getter, fs))
        if not own and not self.running:
            return memory.files_of(tl)
        found: List[Any] = []
        self._rows = []
        items = L(tl.items, use_list=None)
        for s in range(len(items)):
            item = items[s]
            try:
                for f in fs:
                    item = f(item, split_idx=tl.tfms.split_idx)
            except Exception as error:
                self._errors[len(found)] = error
            if len(found) in self._errors or isinstance(item, FILE):
                found.append(item)
                self._rows.append(s)
        if not own:
            memory.keep_files(tl, [one for k, one in enumerate(found) if k not in self._errors])
        return found

    def bad_rows(self, bad: BadItems) -> List[int]:
        "Return the indices of the items whose file, or which themselves, are among those that could not be loaded."
        return [row for file, row in zip(self._files(), self._rows) if file in bad]

    def keep(self, rows: Sequence[int]) -> None:
        "Keep the items at the indices `rows`."
        tl, memory = self.tl, self.opening.memory
        if memory.files_of(tl):  # which the user's functions have named
            wanted = set(rows)
            found = [(k, file) for k, (file, row) in enumerate(zip(self._files(), self._rows)) if row in wanted]
            memory.keep_files(tl, [file for k, file in found if k not in self._errors])
        tl.items = tl._get(rows)

    def decode(self, job: Job, images: ImageCache, say: Say) -> str:
        if job.number in self._errors:
            raise self._errors[job.number]
        return super().decode(job, images, say)

    def say_full(self, others: Sequence[Work]) -> None:
        self.opening.memory.say_full()


def works_of(loaders: Sequence[Any], running: bool = False) -> List[FileWork]:
    "Return the work of each list of the datasets of `loaders` that opens images from memory."
    return [FileWork(tl, f, running) for dl in loaders for tl, f in openings(dl.dataset)]


def load_data(loaders: Sequence[Any], n_workers: Optional[int], progress: bool, on_error: str) -> None:
    """Decode every image of `loaders` that is not cached; see `memlist.cache.filling.load_data`.

    Where batches are made at once, load the kernels, too, so that neither the first batch nor forked workers have to.
    """
    works = works_of(loaders, True)
    if any(work.opening.memory.batches for work in works):
        prepare()
        prepare_lookup()
    filling.load_data(works, n_workers, progress, on_error, lines_without("dls"))


def leave_out(loaders: Sequence[Any], errors: Any) -> None:
    """Leave out of the datasets of `loaders`, in place, all items of which an image is among `errors`.

    An item goes with its target. The functions that tell which file belongs to an item are called once more. Raises
    ValueError, and changes nothing, if a dataset would be left without items, or if none has an item that was given by
    hand.
    """
    bad = BadItems(errors)
    todo: Dict[int, Tuple[int, List[int]]] = {}
    for ds in {id(dl.dataset): dl.dataset for dl in loaders}.values():  # two loaders may have the same one
        rows = {row for work in _works_of(ds) for row in work.bad_rows(bad)}
        todo[id(ds)] = len(ds), [row for row in range(len(ds)) if row not in rows]
        if rows and not todo[id(ds)][1]:
            raise ValueError(
                f"without(…): a dataset of these loaders has {len(ds)} items, and none would be left. Please repair or "
                "replace the files, or split the items in another way."
            )
    bad.check("the data of these loaders")
    for dl in loaders:
        n, keep = todo[id(dl.dataset)]
        if len(dl.dataset) > len(keep):
            opened = {id(work.tl): work for work in _works_of(dl.dataset)}
            for tl in split_of(dl.dataset):
                if id(tl) in opened:
                    opened[id(tl)].keep(keep)
                else:
                    tl.items = tl._get(keep)
        _follow(dl, n, keep)


def _works_of(dataset: Any) -> List[FileWork]:
    return [FileWork(tl, f, True) for tl, f in openings(dataset)]


def _follow(dl: Any, n: int, keep: Sequence[int]) -> None:
    "Let a loader go on with the items at the indices `keep` of its `n`."
    if len(keep) == n or dl.n != n:  # a user has chosen another number
        return
    dl.n = len(keep)
    weights = vars(dl).get("wgts")
    if weights is not None and len(weights) == n:  # of a `WeightedDL`
        dl.wgts = weights[list(keep)] / weights[list(keep)].sum()
    if vars(dl).get("partial_n"):  # of a `PartialDL`
        dl.partial_n = min(dl.partial_n, dl.n)


def purge(loaders: Sequence[Any], file: bool) -> int:
    "Empty the stores of `loaders`, and free the memory that is kept for batches; return the bytes of the stores."
    works = works_of(loaders)
    for work in works:
        work.opening.memory.buffers.clear()
    return sum(store.purge(file) for store in stores_of(works))


def cache_info(loaders: Sequence[Any]) -> CacheInfo:
    "Count the images of `loaders` and of their stores; see `memlist.cache.info.cache_info`."
    return info.cache_info(works_of(loaders))


def is_loaded(loaders: Sequence[Any]) -> bool:
    "Return whether every image of `loaders` is cached."
    return all(info.distinct(works_of(loaders)))
