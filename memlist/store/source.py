"""The file that a record was made from."""

from __future__ import annotations

import os
import time
from typing import Any, NamedTuple, Optional, Tuple

from .layout import NO_FILE


class Source(NamedTuple):
    """Identify the file that a record was made from: size in bytes, modification time in ns, and path.

    `looked` is the time (`time.monotonic_ns`) just before the file was examined. Only a named file keeps the path.
    """

    size: int
    mtime_ns: int
    path: bytes = b""
    looked: int = 0

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
        return cls(stat.st_size, stat.st_mtime_ns, name, looked)

    @property
    def version(self) -> Tuple[int, int]:
        "Return what is stored to recognise the file: its size, and its modification time wrapped to 64 bits."
        return self.size, (self.mtime_ns + (1 << 63)) % (1 << 64) - (1 << 63)


NO_SOURCE = Source(NO_FILE, 0)
