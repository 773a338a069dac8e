"""The file that a record was made from."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple, Optional, Tuple

from .layout import NO_FILE


class Source(NamedTuple):
    """Identify the file that a record was made from: size in bytes, modification time in ns, and path.

    `looked` is the time (`time.monotonic_ns`) just before the file was examined. `ctime_ns` is when its inode changed
    last, which no program can set; 0 if unknown. Only a named file keeps the path.
    """

    size: int
    mtime_ns: int
    path: bytes = b""
    looked: int = 0
    ctime_ns: int = 0

    @classmethod
    def of(cls, item: Any) -> Optional[Source]:
        "Examine the file that `item` names; return None if it names none. Costs a system call."
        if not isinstance(item, (str, bytes, os.PathLike)):
            return None
        looked = time.monotonic_ns()
        try:
            name = os.fsencode(item)
            stat = os.stat(name)
        except (OSError, ValueError):
            return None
        if name[:1] != b"/" or b"//" in name or b"/." in name or name[-1:] == b"/":  # else it is normalised already
            name = os.path.abspath(name)
        return cls(stat.st_size, stat.st_mtime_ns, name, looked, stat.st_ctime_ns)

    @property
    def version(self) -> Tuple[int, int]:
        """Return what a named store keeps to recognise the file: its size, and its modification time.

        Both stay the same if a data set is copied or unpacked again. The time is wrapped to 64 bits.
        """
        return self.size, _wrapped(self.mtime_ns)

    @property
    def moment(self) -> Tuple[int, int]:
        """Return what an anonymous store keeps: `version`, and in its second number also when the inode changed last.

        So it notices a file that was replaced by one of the same size and modification time.
        """
        return self.size, _wrapped(self.mtime_ns + _FACTOR * self.ctime_ns)


def _wrapped(number: int) -> int:
    "Return what 64 bits with a sign keep of a number."
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


# Odd, so that different times give different products, and large, so that sums of two times rarely meet: 2**64 over the
# golden ratio, as in Knuth's multiplicative hashing (The Art of Computer Programming, volume 3, section 6.4).
_FACTOR = 0x9E3779B97F4A7C15

NO_SOURCE = Source(NO_FILE, 0)
