"""Raise KeyboardInterrupt at a chosen moment of a call: at a line or at a bytecode of memlist's own code."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, List, Optional, Tuple

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
        try:
            _traced(task, self._event, self.bytecodes)
        except KeyboardInterrupt:
            if self.where is None:
                raise
        return self.where is not None

    def _event(self, frame: FrameType) -> None:
        if self.left and os.getpid() == self.process:  # our children ignore Ctrl-C
            self.count += 1
            if self.count == self.left[0]:
                del self.left[0]
                self.count = 0
                self.where = frame.f_code.co_filename, frame.f_lineno
                raise KeyboardInterrupt


def moments(task: Callable[[], Any]) -> List[int]:
    "Call `task`; return at which of its events each line of memlist's code runs for the first and for the last time."
    count = itertools.count(1)
    first: Dict[Tuple[str, int], int] = {}
    last: Dict[Tuple[str, int], int] = {}

    def note(frame: FrameType) -> None:
        where, n = (frame.f_code.co_filename, frame.f_lineno), next(count)
        first.setdefault(where, n)
        last[where] = n

    _traced(task, note, bytecodes=False)
    return sorted({*first.values(), *last.values()})


def _traced(task: Callable[[], Any], at_event: Callable[[FrameType], None], bytecodes: bool) -> None:
    def call(frame: FrameType, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes = bytecodes
        return within

    def within(frame: FrameType, event: str, arg: Any) -> Any:
        if event in ("line", "opcode"):
            at_event(frame)
        return within

    before = sys.gettrace()
    sys.settrace(call)
    try:
        task()
    finally:
        sys.settrace(before)
