"""Keep the digests of a list's items, so that a batch is looked up without making its keys again."""

from __future__ import annotations

import os
from typing import Any, List, Optional, Sequence, Union

import numpy as np

from ..store import digest_of
from . import keys

# Items of these types never change, so that one and the same object always names the same file.
_NAMES = (str, np.str_, *keys.PATHS)
_NOTHING = object()


class Digests:
    """Make the digest of each item once: that of `prefix` and the item's `file_key`.

    It is made when a batch first has the item, and again if the list has another object in its place by then, however
    it came there. An item whose key depends on more than the item is asked for its key every time: one with `..`, which
    is resolved on disk, or of a class that is not known. Relative names count for one current directory.

    Costs 16 bytes per item and a reference to it. A forked process has what was made before; a pickle has nothing.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._made_of: List[Any] = []
        self._pointers = np.zeros(0, np.intp)  # of the objects in `_made_of`
        self._digests = np.zeros((0, 2), np.uint64)  # two words each: rows of bytes are copied slowly
        self._folder: Optional[str] = None  # from which relative names were taken

    def of(self, items: Any, indices: Union[Sequence[int], np.ndarray]) -> np.ndarray:
        """Return the digests of the items at `indices`, (n, 16) uint8, zeros for those without a key.

        Raises IndexError as `items` does. Costs some microseconds if all were made before.
        """
        n = len(items)
        if len(self._made_of) != n or (self._folder is not None and self._folder != os.getcwd()):
            self._made_of, self._folder = [_NOTHING] * n, None
            self._pointers, self._digests = np.zeros(n, np.intp), np.zeros((n, 2), np.uint64)
        which = np.array(indices, np.intp)
        now, then = _pointers(items), self._pointers.take(which)
        if now is None or now.take(which).tobytes() != then.tobytes():
            texts = isinstance(items, np.ndarray) and items.dtype.kind == "U"  # its items are made when they are taken
            known = [self._made_of[i] for i in indices]
            for i, item, made_of in zip(indices, taken(items, which), known):
                if item is not made_of and not (texts and item == made_of):
                    self._make(i, item)
        return self._digests.take(which, 0).view(np.uint8)  # type: ignore[no-any-return]

    def make_all(self, items: Any) -> None:
        "Make all digests, for instance before processes are forked that need them. Costs 2 µs per new item."
        if len(items):
            self.of(items, range(len(items)))

    def _make(self, i: int, item: Any) -> None:
        "Make the digest of item `i`, and remember the item if its digest depends on nothing else."
        self._made_of[i], self._pointers[i], self._digests[i] = _NOTHING, 0, 0
        try:
            name, key = os.fspath(item), keys.file_key(item)
        except Exception:  # whoever opens the item raises what that raises
            return
        self._digests[i] = np.frombuffer(digest_of(self.prefix + key), np.uint64)
        if type(item) in _NAMES and ".." not in name:
            if not os.path.isabs(name):
                self._folder = os.getcwd()
            self._made_of[i], self._pointers[i] = item, id(item)


def _pointers(items: Any) -> Optional[np.ndarray]:
    """Return the addresses of the objects in `items`, (n,): a view, without touching the objects; None if it has none.

    An object at the address of another one that is still alive is that one.
    """
    if isinstance(items, np.ndarray) and items.dtype == object and items.ndim == 1 and items.flags.c_contiguous:
        return np.frombuffer(items, np.intp) if len(items) else None
    return None


def taken(items: Any, which: np.ndarray) -> Sequence[Any]:
    "Return the items at the indices `which`, (n,)."
    if isinstance(items, np.ndarray) and items.ndim == 1:
        return items[which].tolist()  # type: ignore[no-any-return]
    return [items[i] for i in which.tolist()]
