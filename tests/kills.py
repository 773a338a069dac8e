"""Strike a process in the middle of the store's own code: kill it, or interrupt it."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from memlist import store

FOLDER = str(Path(store.__file__).parent) + os.sep


def trace(at_event: Callable[[Any], None], folder: str = FOLDER, bytecodes: bool = False) -> None:
    """Call `at_event` with the frame of each line of code under `folder` that runs from now on.

    With `bytecodes`, also call it before each instruction.
    """

    def call(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(folder):
            return None
        frame.f_trace_opcodes = bytecodes
        return within

    def within(frame: Any, event: str, arg: Any) -> Any:
        if event in ("line", "opcode"):
            at_event(frame)
        return within

    gc.disable()  # finalizers run lines, too, whenever the collector finds something
    sys.settrace(call)


def end_trace() -> None:
    "Trace no more."
    sys.settrace(None)
    gc.enable()


def strike_after_lines(n: int, how: int) -> None:
    "Send this process the signal `how` at the `n`th line of the store's code that it runs from now on."
    left = [n]

    def count(frame: Any) -> None:
        left[0] -= 1
        if not left[0]:
            end_trace()
            os.kill(os.getpid(), how)

    trace(count)


def kill_after_lines(n: int) -> None:
    "SIGKILL this process at the `n`th line of the store's code that it runs from now on."
    strike_after_lines(n, signal.SIGKILL)


def moments(task: Callable[[], Any], folder: str = FOLDER) -> List[int]:
    "Run `task`, and return after how many lines each line of code under `folder` ran for the first and the last time."
    first: Dict[Tuple[str, int], int] = {}
    last: Dict[Tuple[str, int], int] = {}
    count = itertools.count(1)

    def note(frame: Any) -> None:
        where, n = (frame.f_code.co_filename, frame.f_lineno), next(count)
        first.setdefault(where, n)
        last[where] = n

    trace(note, folder)
    try:
        task()
    finally:
        end_trace()
    return sorted({*first.values(), *last.values()})
