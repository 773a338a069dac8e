"""Save and restore the global random generators, and find out whether a user's function is random."""

from __future__ import annotations

import random
import sys
import threading
from functools import partial
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..store import ImageStore
from . import forks
from .decode import Decoded, Piece

# Reasons why results of a user's function are not kept.
DRAWS = "it draws random numbers"
DIFFERS = "it gave two different images for one item: it is random, or depends on what was opened before"
VARIES = "get sets attributes of the list, which open may read, to something else each time"

#: This many images are opened twice, to see whether the function is random.
LOOKS = 4
ALIKE, RAISES = "alike", "raises"

#: Returns the records of a function's result, or none and the reason why.
Pack = Callable[[Any], Tuple[Sequence[Piece], str]]


class States(NamedTuple):
    "The states of the global generators of Python, NumPy and, if it is imported, torch."

    python: Any
    numpy: Any
    torch: Any

    def same(self, other: States) -> bool:
        "Return whether no number was drawn between the two."
        return (
            self.python == other.python
            and self.numpy[2:] == other.numpy[2:]
            and bool(np.array_equal(self.numpy[1], other.numpy[1]))
            and (self.torch is None or bool(np.array_equal(self.torch.numpy(), other.torch.numpy())))
        )

    def restore(self) -> None:
        "Set the generators back to these states."
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        if self.torch is not None:
            sys.modules["torch"].set_rng_state(self.torch)


def random_states() -> States:
    "Return the states of the global generators now."
    torch = sys.modules.get("torch")
    return States(random.getstate(), np.random.get_state(), torch.get_rng_state() if torch else None)


class Judge:
    """Find out whether a user's function is random, and remember it in `notes`, for all processes, until a purge.

    `pack` makes the records that are compared. `dropped` is called when the function turns out to be random, to drop
    its results from the cache.
    """

    def __init__(self, notes: ImageStore, pack: Pack, dropped: Callable[[], Any]) -> None:
        self.notes, self.pack, self.dropped = notes, pack, dropped
        self._reason: Tuple[int, str] = (-1, "")
        self._trusted_in = -1

    def reason(self) -> str:
        "Return why the function's results have not been kept since the last purge; an empty string if they may be."
        purges = self.notes.purges
        if self._reason[0] != purges:
            found = (reason for reason in (DRAWS, DIFFERS, VARIES) if self.notes.noted(reason.encode()))
            reason = next(found, "")
            self._reason = (purges if reason else -1), reason  # without a reason, ask again: it may prove random later
        return self._reason[1]

    def before(self, function: Callable[[Any], Any], item: Any) -> Optional[str]:
        """Return why the function's results are not kept, or an empty string; None if that could not be found out.

        Opens `item` twice if fewer than `LOOKS` images have been. After None, call `after` once the image is decoded.
        """
        if self.reason() or self._trusted_in == self.notes.purges:
            return self.reason()
        if self.notes.noted(b"opened twice %d" % (LOOKS - 1)):
            self._trusted_in = self.notes.purges
            return ""
        return self._judge(self._ask(function, item))

    def after(self, function: Callable[[Any], Any], item: Any, decoded: Decoded, ask: bool) -> str:
        """Return why results of the function that made `decoded` from `item` are not kept, or an empty string.

        Calls it again. With `ask`, a forked process does so, which shows whether this function advanced a global
        generator; without it, or if that fails, this process does.
        """
        answer = self._ask(function, item) if ask else None
        if answer is None:
            states = random_states()
            try:
                pieces, reason = self.pack(function(item))
            except Exception as error:
                pieces, reason = (), repr(error)
            if not states.same(random_states()):
                states.restore()
            alike = reason == decoded.reason and _bits(pieces) == _bits(decoded.pieces)
            drawn = decoded.moved and threading.active_count() == 1
            answer = DRAWS if drawn else ALIKE if alike else DIFFERS
        return self._judge(answer) or ""

    def drop(self, reason: str) -> None:
        "Drop the function's results, and keep none from now on."
        self.dropped()
        self.notes.note(reason.encode())

    def _ask(self, function: Callable[[Any], Any], item: Any) -> Optional[str]:
        """Open `item` twice in a forked process and return the finding; None if there is none.

        The fork leaves this process unchanged, including private generators and counters, and has no other threads that
        could draw numbers.
        """
        if not forks.can_fork() or self.notes.noted(b"can't ask"):
            return None
        answer = forks.ask(partial(_differ, function, self.pack, item))
        if answer is None:  # it hangs on a lock of another thread, or can't be forked
            self.notes.note(b"can't ask")
        return None if answer == RAISES else answer

    def _judge(self, answer: Optional[str]) -> Optional[str]:
        if answer in (DRAWS, DIFFERS):
            self.drop(str(answer))
        elif answer == ALIKE:
            fewer = (k for k in range(LOOKS) if not self.notes.noted(b"opened twice %d" % k))
            self.notes.note(b"opened twice %d" % next(fewer, 0))
        return None if answer is None else self.reason()


def _bits(pieces: Sequence[Piece]) -> List[Any]:
    return [(piece.tag, piece.array.shape, piece.array.tobytes()) for piece in pieces]


def _differ(function: Callable[[Any], Any], pack: Pack, item: Any) -> str:
    "Open `item` twice and return whether both are alike. No other thread may draw from the global generators."
    seen: List[Any] = []
    for _ in range(2):
        before = random_states()
        try:
            made = function(item)
        except Exception:
            return RAISES
        if not before.same(random_states()):
            return DRAWS
        pieces, reason = pack(made)
        seen.append((reason, _bits(pieces)))
    return ALIKE if seen[0] == seen[1] else DIFFERS
