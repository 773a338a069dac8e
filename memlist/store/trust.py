"""What a session remembers of the records that it has looked at."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Optional

from .descriptor import anonymous, default_kind


class Looks:
    """When each record was last verified, shared by this process and its children: eight bytes per record.

    Read and written by system calls of less than a microsecond, so that it needs no room in anybody's address space.
    """

    def __init__(self, fd: Optional[int] = None) -> None:
        self.fd = anonymous(default_kind(), "looks") if fd is None else fd

    def when(self, number: int) -> int:
        "Return the time (`time.monotonic_ns`) that `add` was called with; 0 if it never was."
        if not hasattr(os, "pread"):  # pragma: no cover - Windows: looked at every time
            return 0
        return int.from_bytes(os.pread(self.fd, 8, 8 * number), sys.byteorder)

    def add(self, number: int, when: int = 0) -> None:
        "Note that record `number` was right at the time `when`; a `when` of 0 is the beginning of time."
        with suppress(OSError, AttributeError):  # no room, or Windows: it is looked at again next time
            os.pwrite(self.fd, max(1, when).to_bytes(8, sys.byteorder), 8 * number)

    def close(self) -> None:
        os.close(self.fd)
