"""`CacheInfo`, the result of `cache_info`, and `ImageLoadError`, the error of `load_data`."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

from ..store import format_size, shown
from .decode import Keys
from .jobs import Work, stores_of


class CacheInfo(NamedTuple):
    """Tell how many images are cached, and how full the store is.

    `cached` of `total` distinct images that the object would open are in memory. The store, which all lists over the
    same path share, holds `nbytes` of at most `max_ram`, and has counted `hits` and `misses` in all processes.

    It prints as three lines, and shows as a small table in a notebook. Its `repr` is that of a named tuple.
    """

    cached: int
    total: int
    nbytes: int
    max_ram: int
    hits: int
    misses: int

    def _rows(self) -> List[Tuple[str, str, float]]:
        "Return name, text and share in [0, 1] of each line."
        size, most = format_size(self.nbytes), format_size(self.max_ram)
        reads = self.hits + self.misses
        pairs = list(zip(self[::2], (self.total, self.max_ram, reads)))
        shares = [part / whole if whole else 0.0 for part, whole in pairs]
        # Rounded down: 99.9 % is not 100 %.
        cached, _, hits = (f"{100 * part // max(whole, 1)} %" for part, whole in pairs)
        images = f"{self.cached:,} of {self.total:,} cached ({cached})" if self.total else "none to open"
        served = f"{self.hits:,} hit{'s' * (self.hits != 1)} ({hits}), {self.misses:,} miss{'es' * (self.misses != 1)}"
        served = served if reads else "none so far"
        texts = images, f"{size} of at most {most}", served
        return list(zip(("images", "store", "reads"), texts, shares))

    def __str__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text, _ in self._rows())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self) if len(printer.stack) < 2 else repr(self))  # inside another object: as a tuple

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td><progress value='{share:.4f}' max='1'></progress></td>"
            f"<td style='text-align:left'>{text}</td></tr>"
            for name, text, share in self._rows()
        )
        return f"<table>{rows}</table>"


class BadItem(NamedTuple):
    "An item that could not be loaded, and the reason. It equals a plain pair of both."

    item: Any
    reason: str


class ImageLoadError(Exception):
    """Say which images `load_data` could not decode; all others are loaded.

    - `errors`: a pair of `item` and `reason` per image
    - `items`: the items alone; an item is a path, unless your list or function uses something else

    The message lists all of them, and ends with the three lines that leave them out, such as::

        from memlist import ImageLoadError
        try: data.load_data()
        except ImageLoadError as error: data = data.without(error)
    """

    def __init__(self, errors: Sequence[Tuple[Any, str]], remedy: str = "") -> None:
        self.errors = [BadItem(*one) for one in errors]
        self._remedy = remedy
        lines = "\n".join(f"  {shown(item)}: {shown(reason)}" for item, reason in self.errors)
        n = len(self.errors)
        text = f"{n} image{'s' * (n != 1)} could not be loaded:\n{lines}"
        if remedy:
            these, them = ("this image", "it") if n == 1 else ("these images", "them")
            text += f"\nNothing else failed. Training will fail at {these}. To leave {them} out:\n\n{remedy}"
        super().__init__(text)

    @property
    def items(self) -> List[Any]:
        "Return the items that could not be loaded."
        return [one.item for one in self.errors]

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), ([tuple(one) for one in self.errors], self._remedy)


def distinct(works: Iterable[Work]) -> Iterator[bool]:
    "Yield whether an image is cached, for each distinct image of `works`."
    seen: Set[Tuple[str, Keys]] = set()
    for work in works:
        images, uid = work.images, work.store.uid
        for job in work.jobs():
            if not job.keys:
                yield False
            elif (uid, job.keys) not in seen:
                seen.add((uid, job.keys))
                yield images.has(job.keys)


def cache_info(works: Sequence[Work]) -> CacheInfo:
    """Count the distinct images of `works`, in some microseconds per image. Other numbers are sums over their stores.

    Stores whose budget is a share of the available memory compete for the same memory, which is counted once.
    """
    there, stores = list(distinct(works)), stores_of(works)
    infos = [store.info() for store in stores]
    _, nbytes, most, hits, misses = (sum(column) for column in zip((0,) * 5, *infos))
    rooms = [
        info.max_ram - info.nbytes
        for store, info in zip(stores, infos)
        if store.cache_file is None and not isinstance(store.rule, int)
    ]
    return CacheInfo(sum(there), len(there), nbytes, most - sum(rooms) + max(rooms, default=0), hits, misses)
