"""Exclude the threads of this process from one another, so that an interrupt at any moment leaves no lock behind.

An interrupt (Ctrl-C) may strike between two instructions of a `with` statement: after the block, but before the lock
is released. An ordinary lock then stays locked for good. A `ThreadLock` knows the frame of the call that holds it. Once
that call is running in no thread any more, the lock counts as free.
"""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Callable, Dict, Optional, TypeVar

Result = TypeVar("Result")
#: After how many seconds of waiting a thread looks whether the holder is still running.
LOOK_AGAIN = 0.05


class _Turn:
    """Hold the frame of the call that has the lock and, if that call was interrupted, the turn that replaces this one.

    Both are dictionaries with at most one entry because `dict.setdefault` is atomic: an interrupt comes before or after
    it, and if several threads call it, all get the same value.
    """

    def __init__(self) -> None:
        self.holder: Dict[int, FrameType] = {}
        self.successor: Dict[int, _Turn] = {}


class ThreadLock:
    """Let one thread work at a time.

    If a thread that holds the lock wants it again, as a signal handler or finalizer may, that is a RuntimeError, unless
    the lock is `reentrant`.
    """

    def __init__(self, reentrant: bool = False) -> None:
        self.reentrant = reentrant
        self._turn = _Turn()
        # Released when a holder leaves, to wake one that waits. If an interrupt loses that, LOOK_AGAIN is the cost.
        self._left = threading.Lock()

    def run(self, work: Callable[[], Result]) -> Result:
        "Call `work` while holding the lock, and return its result."
        try:  # no variable holds the frame: it would be a circle, and keep all that `work` refers to
            try:
                self.take(sys._getframe())
                return work()
            finally:
                self.drop(sys._getframe())
        finally:  # again, because an interrupt may have struck in `drop`
            self.drop(sys._getframe())

    def take(self, frame: FrameType) -> None:
        "Wait for the lock, on behalf of the running call with this frame."
        while True:
            turn = self._turn
            holder = turn.holder.setdefault(0, frame)
            if holder is frame:
                return
            if turn.successor:
                self._turn = turn.successor[0]
            elif _is_among(holder, frame):
                if self.reentrant:
                    return
                raise RuntimeError(
                    "a signal handler or finalizer can't use a store while its own thread is writing to it"
                )
            elif not self._left.acquire(timeout=LOOK_AGAIN) and self._was_interrupted(turn, holder):
                turn.successor.setdefault(0, _Turn())

    def held_by(self, frame: FrameType) -> bool:
        "Return whether the call with this frame holds the lock."
        return self._turn_of(frame) is not None

    def drop(self, frame: FrameType) -> None:
        "Release the lock if the call with this frame holds it."
        turn = self._turn_of(frame)
        if turn is not None:
            turn.holder.pop(0, None)
            if self._left.locked():
                with suppress(RuntimeError):  # another thread was quicker
                    self._left.release()

    def _was_interrupted(self, turn: _Turn, holder: FrameType) -> bool:
        "Return whether `holder` has ended without leaving. Look in this order: it may end in between, as it should."
        return not _is_running(holder) and turn.holder.get(0) is holder

    def _turn_of(self, frame: FrameType) -> Optional[_Turn]:
        turn: Optional[_Turn] = self._turn
        while turn is not None and turn.holder.get(0) is not frame:
            turn = turn.successor.get(0)
        return turn


def _is_running(frame: FrameType) -> bool:
    "Return whether the call with this frame is running in any thread. Costs a walk over all their stacks."
    return any(_is_among(frame, top) for top in sys._current_frames().values())


def _is_among(frame: FrameType, top: Optional[FrameType]) -> bool:
    "Return whether `frame` is `top` or one of its callers."
    while top is not None and top is not frame:
        top = top.f_back
    return top is not None
