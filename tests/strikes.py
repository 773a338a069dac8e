"""Raise KeyboardInterrupt at a chosen moment of a call: at a line or at a bytecode of memlist's own code."""

from __future__ import annotations

import os
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Optional, Tuple

from kills import end_trace, trace

import memlist

FOLDER = str(Path(memlist.__file__).parent)


class Strike:
    """Interrupt a call at the `n`th of its events in memlist's code, and once more `again` events later.

    An event is a line or, with `bytecodes`, also each instruction of it. `where` says at which line it struck last.
    """

    def __init__(self, n: int, bytecodes: bool = False, again: int = 0) -> None:
        self.left, self.bytecodes, self.count = [n, again] if again else [n], bytecodes, 0
        self.where: Optional[Tuple[str, int]] = None
        self.process = os.getpid()

    def during(self, task: Callable[[], Any]) -> bool:
        "Call `task`; return whether it was interrupted."
        trace(self._event, FOLDER, self.bytecodes)
        try:
            task()
        except KeyboardInterrupt:
            if self.where is None:
                raise
        finally:
            end_trace()
        return self.where is not None

    def _event(self, frame: FrameType) -> None:
        if self.left and os.getpid() == self.process:  # our children ignore Ctrl-C
            self.count += 1
            if self.count == self.left[0]:
                del self.left[0]
                self.count = 0
                self.where = frame.f_code.co_filename, frame.f_lineno
                raise KeyboardInterrupt
