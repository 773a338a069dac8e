"""Strike a process in the middle of the store's own code: kill it, or interrupt it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from memlist import store

FOLDER = str(Path(store.__file__).parent) + os.sep


def _trace(at_line: Callable[[Any], None]) -> None:
    "Call `at_line` with the frame of each line of code in `memlist/store`, in whichever file, that runs from now on."

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line":
            at_line(frame)
        return trace

    sys.settrace(trace)


def strike_after_lines(n: int, how: int) -> None:
    "Send this process the signal `how` at the `n`th line of the store's code that it runs from now on."
    left = [n]

    def count(frame: Any) -> None:
        left[0] -= 1
        if not left[0]:
            sys.settrace(None)
            os.kill(os.getpid(), how)

    _trace(count)


def kill_after_lines(n: int) -> None:
    "SIGKILL this process at the `n`th line of the store's code that it runs from now on."
    strike_after_lines(n, signal.SIGKILL)


def moments(task: Callable[[], Any]) -> List[int]:
    "Run `task`, and return after how many lines each line of the store's code ran for the first and for the last time."
    first: Dict[Tuple[str, int], int] = {}
    last: Dict[Tuple[str, int], int] = {}
    count = [0]

    def note(frame: Any) -> None:
        count[0] += 1
        where = frame.f_code.co_filename, frame.f_lineno
        first.setdefault(where, count[0])
        last[where] = count[0]

    _trace(note)
    try:
        task()
    finally:
        sys.settrace(None)
    return sorted({*first.values(), *last.values()})
