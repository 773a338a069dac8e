"""Stand in for a GPU: memory that is locked for it, and events."""

from __future__ import annotations

import mmap
from typing import Any

import torch


class Event:
    "Stand in for `torch.cuda.Event`."

    def __init__(self) -> None:
        self.over, self.waited = False, False

    def record(self, stream: Any) -> None:
        assert stream == "stream"

    def query(self) -> bool:
        return self.over

    def synchronize(self) -> None:
        self.over = self.waited = True


class Device:
    "Stand in for `torch.cuda`: note what is locked, and hand out events."

    def __init__(self, refuses: bool = False) -> None:
        self.refuses, self.locked, self.events = refuses, {}, []  # type: ignore[var-annotated]

    def cudart(self) -> Any:
        return self

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert address % mmap.PAGESIZE == size % mmap.PAGESIZE == 0 and address not in self.locked
        if not self.refuses:
            self.locked[address] = size
        return int(self.refuses)

    def cudaHostUnregister(self, address: int) -> int:
        del self.locked[address]
        return 0

    def Event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]

    def current_stream(self, device: torch.device) -> str:
        return "stream"
