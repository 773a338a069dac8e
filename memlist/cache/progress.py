"""Show the progress of a long call: a bar in a notebook or a terminal, a line every few seconds in a log."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any, Optional

try:
    from fastprogress.fastprogress import NBProgressBar, progress_bar
except ImportError:  # it comes with fastai; without it, lines are printed
    NBProgressBar = progress_bar = None

#: Seconds between two lines of a log.
LINE_SECONDS = 5.0
# Raised when writing to a closed pipe, or a character that the encoding lacks. Progress must not make a call fail.
UNWRITABLE = (OSError, ValueError)


class Progress:
    """Show `done` of `total` units of the call `name`; this base class shows nothing.

    Make one per call. Call `update` as often as you like, then `close`, also after an error.
    """

    def __init__(self, total: int, name: str, unit: str) -> None:
        self.total, self.name, self.unit = total, name, unit
        self.begun = time.monotonic()

    def update(self, done: int, text: str = "") -> None:
        "Show that `done` units are done, and `text`."

    def close(self, done: int, text: str = "") -> None:
        "Show the end: all is done, or the call was stopped at `done`."


class Bar(Progress):
    "A fastprogress bar, as fastai shows while training."

    def __init__(self, total: int, name: str, unit: str) -> None:
        super().__init__(total, name, unit)
        self.finished = False
        with suppress(*UNWRITABLE):
            self.bar: Any = progress_bar(range(total))
            self.bar.update(0)

    def update(self, done: int, text: str = "") -> None:
        if done and not self.finished:  # an update to 0, or after the end, would restart the bar
            self.finished = done >= self.total
            with suppress(*UNWRITABLE):
                self.bar.comment = text
                self.bar.update(done)

    def close(self, done: int, text: str = "") -> None:
        self.update(done, text)
        if not in_notebook():
            print_line("")  # the bar leaves the cursor on its line
        elif not self.finished:
            with suppress(*UNWRITABLE):
                self.bar.on_interrupt()


class Lines(Progress):
    "A line every few seconds and one at the end, without control characters."

    def __init__(self, total: int, name: str, unit: str) -> None:
        super().__init__(total, name, unit)
        self.said = self.begun

    def update(self, done: int, text: str = "") -> None:
        now = time.monotonic()
        if now - self.said < LINE_SECONDS or done >= self.total:  # `close` prints the last line
            return
        self.said = now
        left = f"about {duration((now - self.begun) / done * (self.total - done))} left" if done else ""
        self._say(f"{done:,} of {self.total:,} {self.unit}", text, left)

    def close(self, done: int, text: str = "") -> None:
        took = duration(time.monotonic() - self.begun)
        what = counted(done, self.unit) if done >= self.total else f"stopped at {done:,} of {self.total:,} {self.unit}"
        self._say(what, text, f"{took} in all")

    def _say(self, *parts: str) -> None:
        print_line(f"{self.name}: " + ", ".join(part for part in parts if part))


def progress(total: int, name: str, unit: str = "images", show: bool = True) -> Progress:
    "Return the kind of progress that suits standard output; one that shows nothing if `show` is False."
    bars = progress_bar is not None and (in_notebook() or _in_terminal())
    kind = Progress if not show else Bar if bars else Lines
    return kind(total, name, unit)


def counted(n: int, units: str) -> str:
    "Return a number with its unit, which is given in the plural: '1 image', '7,390 images'."
    return f"{n:,} {units[:-1] if n == 1 else units}"


def print_line(text: str) -> None:
    "Print a line on standard output, if that can be written to."
    with suppress(*UNWRITABLE):
        print(text, flush=True)


def in_notebook() -> bool:
    "Return whether fastprogress, and therefore fastai, treats this as a notebook."
    return isinstance(progress_bar, type) and issubclass(progress_bar, NBProgressBar)


def _in_terminal() -> bool:
    "Return whether output goes to a terminal that can move its cursor."
    isatty: Optional[Any] = getattr(sys.stdout, "isatty", None)
    return isatty is not None and bool(isatty()) and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    "Return `seconds` as text: '0.4 s', '25 s', '3 min', '1.5 h'."
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
