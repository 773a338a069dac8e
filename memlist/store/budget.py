"""The budget of a store: as users write it, and what it allows as of now."""

from __future__ import annotations

import re
import time
from typing import Callable, Optional, Tuple, Union

from .layout import NO_LIMIT, Header
from .region import Region
from .system import PAGE

# The share of the available memory that a store takes by default. The rest is for the training itself: batches,
# workers, and the page cache that serves the images that did not fit.
DEFAULT_SHARE = 0.8
# Whatever the budget, so much of memory stays free (or this share of it, where memory is small): the kernel kills at
# zero, and a training with workers takes hundreds of megabytes after the fill.
RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 0.5
# The same for a disk, where nobody is killed when it is full: this share, and never more than the bytes above.
DISK_RESERVE_SHARE = 0.1
# How old the reading of available memory may be, in seconds and in bytes taken since.
MAX_AGE_SECONDS, MAX_AGE_BYTES = 0.25, 32 << 20

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS.update({f"{u}I": 1024**i for i, u in enumerate("KMGT", 1)})
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)

MaxRam = Union[None, int, float, str]
Limit = Tuple[Optional[int], float]


def parse_max_ram(value: MaxRam) -> Limit:
    """Return `(bytes, share)` of a budget as users write it: one of the two counts, the other is None or 1.

    `'8GB'`, `'500MiB'`, `'8 G'`: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB) units; an int: bytes; a
    float in (0, 1]: that share of what is available; None: `DEFAULT_SHARE` of it. Raises `ValueError` or
    `TypeError` that names the value and what would be right.
    """
    wanted = "use '8GB', '500MiB', a number of bytes, a share in (0, 1] or None"
    if value is None:
        return None, DEFAULT_SHARE
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"max_ram={value!r} is a {type(value).__name__}: {wanted}")
        value = int(value)
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise ValueError(f"max_ram={value!r}: a float is a share of the available memory; {wanted}")
        return None, value
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"max_ram={value!r} is negative: {wanted}")
        return value, 1.0
    found = _SIZE.fullmatch(value)
    if not found or found[2].upper() == "I" or (not found[2] and "." in found[1]):
        raise ValueError(f"max_ram={value!r} can't be read as a size: {wanted}")
    return int(float(found[1]) * _UNITS[found[2].upper()]), 1.0


def format_size(nbytes: float) -> str:
    "Return `nbytes` as people read it: in decimal units, with three digits at most."
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


class Budget:
    """Say what an anonymous store may take. The limit is kept in the header, so all processes have the same one.

    `available` returns how many more bytes the machine could give.
    """

    reserve_share = RESERVE_SHARE

    def __init__(self, header: Header, region: Region, available: Callable[[], int]) -> None:
        self.header, self.region, self.available = header, region, available
        self.look_again()

    def look_again(self) -> None:
        "Read the available memory anew at the next question."
        self._seen = (-1e9, 0, 0)

    def set(self, limit: Limit) -> None:
        "Set the limit for every process."
        most, share = limit
        self.header.max_bytes = NO_LIMIT if most is None else min(most, NO_LIMIT - 1)
        self.header.share = share
        self.look_again()

    @property
    def rule(self) -> MaxRam:
        "Return the limit as a `max_ram` that would set it again."
        if self.header.max_bytes != NO_LIMIT:
            return self.header.max_bytes
        return None if self.header.share == DEFAULT_SHARE else self.header.share

    @property
    def taken(self) -> int:
        "Return how many bytes of memory the store has taken: records, their headers and the index."
        return self.header.tail - self.header.freed

    def total(self) -> int:
        """Return how many bytes the store may take as of now, including those that it has taken.

        A share is a share of all that would be available without the store. So it does not shrink as the store fills,
        but it does when others take memory.
        """
        most, share = parse_max_ram(self.rule)
        reachable = self._held() + self.available()
        limit = int(share * reachable) if most is None else most
        return min(limit, reachable - min(RESERVE_BYTES, int(self.reserve_share * reachable)))

    def fits(self, nbytes: int) -> bool:
        "Return whether `nbytes` more fit. Costs a system call only now and then."
        when, total, seen = self._seen
        now, taken = time.monotonic(), self.taken
        if now - when > MAX_AGE_SECONDS or taken - seen > MAX_AGE_BYTES:
            total = self.total()
            self._seen = now, total, taken
        return taken - PAGE + nbytes <= total

    def bound_segment(self, size: int, need: int) -> int:
        "Return the size of a new segment for records that wants `size` bytes and needs `need`; 0 if there may be none."
        return size

    def _held(self) -> int:
        "Return how many bytes the store has of the system."
        return self.taken


class DiskBudget(Budget):
    "Say what a named file may take of its disk. A file is given room before it is used, which counts, too."

    reserve_share = DISK_RESERVE_SHARE

    def bound_segment(self, size: int, need: int) -> int:
        room = (self.total() + 2 * PAGE - self.region.allocated()) // PAGE * PAGE
        return min(size, room) if room >= need else 0

    def _held(self) -> int:
        return max(self.taken, self.region.allocated())
