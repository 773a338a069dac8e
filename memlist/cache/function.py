"""`FunctionDecoder`: keep the results of a user's function, unless they are random."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, Optional, Sequence

from ..store import ImageStore
from . import forks
from .decode import Decoded, Keys
from .randomness import Judge, random_states


class ProcessNote:
    "Remember in which process something was done last."

    def __init__(self) -> None:
        self.pid = os.getpid()

    def changed(self) -> bool:
        "Return whether this is another process than the last time, and remember it."
        changed, self.pid = self.pid != os.getpid(), os.getpid()
        return changed


class FunctionDecoder(ABC):
    """Decode items by a function of the user's: the part of the protocol `Decoder` that does not depend on its results.

    - `judge`: finds out whether the function is random
    - `pixels`: the store that its results go to
    - `process`: the process that called it last

    A subclass says how the function is called (`call`), which keys an item has (`keys`), and how a result becomes
    records (`record`) and is made from them (`restore`).
    """

    one_for_all = True
    judge: Judge
    pixels: ImageStore
    process: ProcessNote

    @abstractmethod
    def call(self, item: Any) -> Any:
        "Call the function. Raises whatever it raises."

    @abstractmethod
    def keys(self, item: Any) -> Keys:
        "Return the keys of the records of `item`; raise Unkeyable."

    @abstractmethod
    def record(self, made: Any) -> Any:
        "Return the records of a result, or none and the reason why it has none."

    @abstractmethod
    def restore(self, records: Sequence[Any]) -> Any:
        "Return a result made from its records."

    def trusted(self) -> bool:
        "Return whether records may be served. Those of a cache file may not, if the function turned out to be random."
        return self.pixels.cache_file is None or not self.judge.reason()

    def finish(self, restored: Any) -> Any:
        return restored

    def original(self, records: Sequence[Any]) -> None:
        return None  # results of a user's function are never reduced

    def nbytes(self, item: Any) -> None:
        return None

    def open(self, item: Any, keep: bool = True) -> Decoded:
        "Call the function, and find out whether its result can be kept."
        random = self.judge.before(self.call, item) if keep and self.pixels.rule != 0 else ""
        return self._decoded(item, keep, random)

    def pieces(self, item: Any) -> Decoded:
        "Decode into records. If the function is random, do not call it again: the first read should draw its numbers."
        random = self.judge.before(self.call, item) if self.pixels.rule != 0 else ""
        return Decoded(None, reason=random) if random else self._decoded(item, True, random)

    def reviewed(self, decoded: Decoded) -> Decoded:
        "Return `decoded` without its records if they can't be kept, because of what happened while the function ran."
        reason = self.judge.reason()
        return decoded._replace(pieces=(), reason=reason) if reason and not decoded.reason else decoded

    def _decoded(self, item: Any, keep: bool, random: Optional[str]) -> Decoded:
        "Call the function. `random`: why results are not kept, an empty string, or None if that must be found out."
        if self.process.changed():
            forks.own_offsets()
        before = random_states()
        made = self.call(item)
        moved = not before.same(random_states())
        pieces, reason = self.record(made)
        decoded = Decoded(made, pieces, reason, moved=moved)
        if keep and not random and (random is None or moved) and self.pixels.rule != 0:
            random = self.judge.after(self.call, item, decoded, random is not None)
        if random:
            decoded = decoded._replace(pieces=(), reason=random)
        return self.reviewed(decoded) if keep else decoded
