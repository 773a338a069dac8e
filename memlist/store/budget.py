"""The budget of a store: parse what users write, and compute what it allows now."""

from __future__ import annotations

import re
import time
from typing import Callable, Optional, Tuple, Union

from . import system
from .layout import NO_LIMIT, Header
from .mounts import Room
from .names import brief
from .region import Region
from .system import PAGE

# The share of the available memory that a store takes by default. The rest is for the training itself: batches,
# workers, and the page cache that serves the images that did not fit.
DEFAULT_SHARE = 0.8
# Whatever the budget, this much memory stays free (or this share of it, if memory is small): at zero the kernel kills
# processes, and training with workers takes hundreds of megabytes after the store is filled.
RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 0.5
# The same for a disk, which kills no process when it is full: this share, but at most the bytes above.
DISK_RESERVE_SHARE = 0.1
# How old a reading of the available memory may be, in seconds and in bytes taken since.
MAX_AGE_SECONDS, MAX_AGE_BYTES = 0.25, 32 << 20

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS.update({f"{u}I": 1024**i for i, u in enumerate("KMGT", 1)})
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)

MaxRam = Union[None, int, float, str]
Limit = Tuple[Optional[int], float]


def parse_max_ram(value: MaxRam) -> Limit:
    """Return a user's `max_ram` as `(bytes, 1)` or, if it is a share, as `(None, share)`.

    `'8GB'`, `'500MiB'`, `'8 G'`: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB) units; an int: bytes; a
    float in (0, 1]: that share of the available memory; None: `DEFAULT_SHARE` of it. Raises `ValueError` or
    `TypeError`, which name the value and the supported ones.
    """
    wanted = "use '8GB', '500MiB', a number of bytes, a share in (0, 1] or None"
    if value is None:
        return None, DEFAULT_SHARE
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"max_ram={brief(value)} is a {type(value).__name__}: {wanted}")
        value = int(value)
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise ValueError(f"max_ram={brief(value)}: a float is a share of the available memory; {wanted}")
        return None, value
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"max_ram={brief(value)} is negative: {wanted}")
        return value, 1.0
    found = _SIZE.fullmatch(value)
    if not found or found[2].upper() == "I" or (not found[2] and "." in found[1]):
        raise ValueError(f"max_ram={brief(value)} can't be read as a size: {wanted}")
    return int(float(found[1]) * _UNITS[found[2].upper()]), 1.0


def format_size(nbytes: float) -> str:
    "Format `nbytes` in decimal units, with at most three digits."
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def format_rule(rule: MaxRam) -> str:
    "Return a budget, as `Budget.rule` has it, as people write it: '10 MB', or '80 % of the available memory'."
    if isinstance(rule, int):
        return format_size(rule)
    return f"{100 * (DEFAULT_SHARE if rule is None else float(rule)):.3g} % of the available memory"


class Budget:
    """Limit what an anonymous store may take. The limit is kept in the header, so that all processes share it.

    `available` returns how many more bytes the machine could give.
    """

    reserve_share = RESERVE_SHARE

    def __init__(self, header: Header, region: Region, available: Callable[[], int]) -> None:
        self.header, self.region, self.available = header, region, available
        self.look_again()

    def look_again(self) -> None:
        "Read the available memory again at the next call of `fits`."
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
        "Return how many bytes of memory the store takes: records, their headers and the index."
        return self.header.tail - self.header.freed

    def total(self) -> int:
        """Return how many bytes the store may take now, including those that it already takes.

        A share refers to the memory that would be available without the store. So it does not shrink as the store
        fills, but it does when other processes take memory.
        """
        return self._within(self._held() + self.available(), self.reserve_share)

    def _within(self, reachable: int, reserve_share: float) -> int:
        "Return how many of the `reachable` bytes the store may take."
        most, share = parse_max_ram(self.rule)
        limit = int(share * reachable) if most is None else most
        return min(limit, reachable - min(RESERVE_BYTES, int(reserve_share * reachable)))

    def fits(self, nbytes: int) -> bool:
        "Return whether `nbytes` more fit. Makes system calls only now and then."
        when, total, seen = self._seen
        now, taken = time.monotonic(), self.taken
        if now - when > MAX_AGE_SECONDS or taken - seen > MAX_AGE_BYTES:
            total = self.total()
            self._seen = now, total, taken
        return taken - PAGE + nbytes <= total

    def bound_segment(self, size: int, need: int) -> int:
        "Return the size of a new segment for records: ideally `size` bytes, at least `need`; 0 if that is too much."
        return size

    def _held(self) -> int:
        "Return how many bytes the system has given the store."
        return self.taken


class DiskBudget(Budget):
    "Limit what a named file may take of its disk. Disk space that is allocated but not used yet counts, too."

    reserve_share = DISK_RESERVE_SHARE

    def bound_segment(self, size: int, need: int) -> int:
        room = (self.total() + 2 * PAGE - self.region.allocated()) // PAGE * PAGE
        return min(size, room) if room >= need else 0

    def _held(self) -> int:
        return max(self.taken, self.region.allocated())


class MemoryFileBudget(DiskBudget):
    """Limit what a named file may take that lies in memory, on a tmpfs: by the rules for its disk and those for memory.

    What the system has given the file is counted once: it is missing from the available memory.
    """

    def total(self) -> int:
        return min(super().total(), self._within(self._held() + system.available_memory(), RESERVE_SHARE))


def budget_for(header: Header, region: Region, available: Callable[[], int]) -> Budget:
    "Return the budget of a store whose bytes lie in `region`; `available` is a `mounts.Room` for most named files."
    if not region.persistent:
        return Budget(header, region, available)
    in_memory = isinstance(available, Room) and available.in_memory
    return (MemoryFileBudget if in_memory else DiskBudget)(header, region, available)
