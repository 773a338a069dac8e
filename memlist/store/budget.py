"""How much memory a store may take, as users write it."""

from __future__ import annotations

import re
from typing import Optional, Tuple, Union

# Of what is available, the share that a store takes when nobody says otherwise; the rest is for the
# training itself: batches, workers, the page cache that still serves what did not fit.
DEFAULT_SHARE = 0.8
# Whatever the budget, this much of memory stays free (where memory is small: this share of it): the kernel kills at
# zero, and a training with workers, each with its batches in the making, takes hundreds of megabytes after the fill.
RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 0.5
# Of a disk, no more than this share, and never more than the bytes above: nobody is killed when a disk is full.
DISK_RESERVE_SHARE = 0.1

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS.update({f"{u}I": 1024**i for i, u in enumerate("KMGT", 1)})
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)

MaxRam = Union[None, int, float, str]


def parse_max_ram(value: MaxRam) -> Tuple[Optional[int], float]:
    """`(bytes, share)` of a budget as users write it: one of the two rules, the other is None or 1.

    `'8GB'`, `'500MiB'`, `'8 G'`: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB) units; an int: bytes; a
    float in (0, 1]: that share of what is available; None: `DEFAULT_SHARE` of it. Raises `ValueError` or
    `TypeError` naming the value and what would be right.
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
    "`nbytes` as people read it: decimal units, three figures at most."
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"
