"""Clocks for work of the process and for work of a GPU."""

from __future__ import annotations

import time
from typing import Any

import torch


class HostClock:
    "Measure the time of the process."

    def mark(self) -> Any:
        "Mark this moment."
        return time.perf_counter()

    def passed(self, mark: Any) -> bool:
        "Return whether the time of `mark` is already known."
        return True

    def seconds(self, first: Any, last: Any) -> float:
        "Return the seconds between two marks; block until both are known."
        return float(last - first)


class CudaClock(HostClock):
    """Measure the time of a GPU, by events on its stream.

    Python only queues work for a GPU, and goes on long before that work is done. By this clock a batch has arrived when
    it is on the GPU, copied and (with `batch_tfms`) transformed. The GPU is not synchronised while training goes on: an
    event is asked for its time only once the GPU has passed it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def passed(self, mark: Any) -> bool:
        return bool(mark.query())

    def seconds(self, first: Any, last: Any) -> float:
        if not self.passed(last):
            last.synchronize()
        return float(first.elapsed_time(last)) / 1000


def clock_for(device: torch.device) -> HostClock:
    "Return the clock for work on `device`."
    return CudaClock(device) if device.type == "cuda" and torch.cuda.is_available() else HostClock()
