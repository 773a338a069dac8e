"""Notes: remember which messages a process has shown, so that the others need not repeat them."""

from __future__ import annotations

from typing import Dict

import numpy as np

from .fulldisk import unless_full
from .layout import NOTE, digest_of
from .parts import Parts


class Notes:
    """Keep notes as empty blocks of the log, under separate keys. In a named file they last for one session.

    Notes for which the store has no room are kept by this process, and by its children where that is possible.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._unwritten: Dict[bytes, int] = {}  # the store's generation when each was added: a purge removes notes

    def add(self, key: bytes) -> bool:
        "Add a note; return False if it existed already."
        known = self.has(key)
        with unless_full():
            return self.parts.locked(lambda: self._add(key))
        if not known:
            self._remember(self._digest(key))
        return not known

    def _add(self, key: bytes) -> bool:
        parts, digest, offset = self.parts, self._digest(key), 0
        if self.has(key):
            return False
        if parts.index.make_room():
            offset = parts.log.append(NOTE, digest, np.empty(0, "u1"))
        if offset:
            parts.index.publish(digest, offset)
        else:
            self._remember(digest)
        return True

    def _remember(self, digest: bytes) -> None:
        "Remember a note for which the store has no room."
        self.parts.trust.note(digest)
        self._unwritten[digest] = self.parts.header.generation

    def has(self, key: bytes) -> bool:
        "Return whether the note exists."
        parts, digest = self.parts, self._digest(key)
        if parts.index.find(digest) is not None or parts.trust.noted(digest):
            return True
        return self._unwritten.get(digest) == parts.header.generation

    def _digest(self, key: bytes) -> bytes:
        return digest_of(b"note:%d:" % self.parts.header.session + key)
