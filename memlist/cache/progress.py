"""How far a long call has come: a bar in a notebook or a terminal, a line now and then where output goes to a log."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any, Optional

from fastprogress.fastprogress import NBProgressBar, progress_bar

# Seconds between two lines of a log.
LINE_SECONDS = 5.0
# What comes of writing where nobody reads any more, or of a letter that is not known there: nothing to fail for.
UNSPEAKABLE = (OSError, ValueError)


class Progress:
    """Shows `done` of `total` units of the call `name`; the base class shows nothing.

    One a call: `update` as often as you like, then `close`, also after an error.
    """

    def __init__(self, total: int, name: str, unit: str) -> None:
        self.total, self.name, self.unit = total, name, unit
        self.begun = time.monotonic()

    def update(self, done: int, text: str = "") -> None:
        "So many are done; `text` says what else there is to say."

    def close(self, done: int, text: str = "") -> None:
        "That was all, or it was broken off at `done`."


class Bar(Progress):
    "A bar of fastprogress, as fastai itself shows while it trains."

    def __init__(self, total: int, name: str, unit: str) -> None:
        super().__init__(total, name, unit)
        self.finished = False
        with suppress(*UNSPEAKABLE):
            self.bar: Any = progress_bar(range(total))
            self.bar.update(0)

    def update(self, done: int, text: str = "") -> None:
        if done and not self.finished:  # 0 begins a bar anew, and so does anything after the end
            self.finished = done >= self.total
            with suppress(*UNSPEAKABLE):
                self.bar.comment = text
                self.bar.update(done)

    def close(self, done: int, text: str = "") -> None:
        self.update(done, text)
        if not in_notebook():
            say("")  # the bar leaves the cursor behind itself
        elif not self.finished:
            with suppress(*UNSPEAKABLE):
                self.bar.on_interrupt()


class Lines(Progress):
    "A line every few seconds and one at the end; nothing but text and line ends."

    def __init__(self, total: int, name: str, unit: str) -> None:
        super().__init__(total, name, unit)
        self.said = self.begun

    def update(self, done: int, text: str = "") -> None:
        now = time.monotonic()
        if now - self.said < LINE_SECONDS or done >= self.total:  # the end is said by `close`
            return
        self.said = now
        left = f"about {duration((now - self.begun) / done * (self.total - done))} left" if done else ""
        self._say(f"{done:,} of {self.total:,} {self.unit}", text, left)

    def close(self, done: int, text: str = "") -> None:
        took = duration(time.monotonic() - self.begun)
        what = f"{done:,} {self.unit}" if done >= self.total else f"stopped at {done:,} of {self.total:,} {self.unit}"
        self._say(what, text, f"{took} in all")

    def _say(self, *parts: str) -> None:
        say(f"{self.name}: " + ", ".join(part for part in parts if part))


def progress(total: int, name: str, unit: str = "images", show: bool = True) -> Progress:
    "What suits the place that standard output goes to; nothing where `show` is False."
    kind = Progress if not show else Bar if in_notebook() or _in_terminal() else Lines
    return kind(total, name, unit)


def say(text: str) -> None:
    "A line on standard output, if it can be written there."
    with suppress(*UNSPEAKABLE):
        print(text, flush=True)


def in_notebook() -> bool:
    "Whether fastprogress, and so fastai, takes this for a notebook."
    return isinstance(progress_bar, type) and issubclass(progress_bar, NBProgressBar)


def _in_terminal() -> bool:
    "Whether output goes to a terminal that can move its cursor."
    isatty: Optional[Any] = getattr(sys.stdout, "isatty", None)
    return isatty is not None and bool(isatty()) and os.environ.get("TERM") != "dumb"


def duration(seconds: float) -> str:
    "`seconds` for people: '0.4 s', '25 s', '3 min', '1.5 h'."
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
