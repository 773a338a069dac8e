"""Notes: what one process has said to the user, and the others need not repeat."""

from __future__ import annotations

import numpy as np

from .layout import NOTE, digest_of
from .parts import Parts


class Notes:
    "Keep notes as empty blocks of the log, under keys of their own. In a named file they last for one session."

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def add(self, key: bytes) -> bool:
        "Make a note; return False if it was there already."
        parts, digest, offset = self.parts, self._digest(key), 0
        with parts.held():
            if self.has(key):
                return False
            if parts.index.make_room():
                offset = parts.log.append(NOTE, digest, np.empty(0, "u1"))
            if offset:
                parts.index.publish(digest, offset)
            else:
                parts.trust.note(digest)
        return True

    def has(self, key: bytes) -> bool:
        "Return whether there is such a note."
        digest = self._digest(key)
        return self.parts.index.find(digest) is not None or self.parts.trust.noted(digest)

    def _digest(self, key: bytes) -> bytes:
        return digest_of(b"note:%d:" % self.parts.header.session + key)
