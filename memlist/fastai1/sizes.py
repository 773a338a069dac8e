"""`Sizes`: fastai's `sizes` of a list of images, to which those of a batch are added at once."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np


class Sizes(Dict[int, Any]):
    """Hold the sizes of images by index: a dict, to which `note` adds those of a whole batch.

    What was noted becomes entries when somebody looks at all of them. Noting costs 4 µs per batch of 64, and entries
    would cost 30; a number per image is kept for it, 4 bytes.
    """

    def __init__(self, *given: Any, **kwargs: Any) -> None:
        super().__init__(*given, **kwargs)
        self._known: Dict[Any, int] = {}  # sizes, and their numbers; 0 stands for none
        self._sizes: List[Any] = [None]
        self._numbers, self._noted = np.zeros(0, np.uint32), False

    def note(self, indices: np.ndarray, size: Any) -> None:
        "Set the size of the images at `indices`, (B,) intp, to `size`."
        if indices.min(initial=0) < 0:
            self.update(dict.fromkeys(indices.tolist(), size))
            return
        number = self._known.setdefault(size, len(self._sizes))
        if number == len(self._sizes):
            self._sizes.append(size)
        try:
            self._numbers[indices] = number
        except IndexError:
            longer = np.zeros(max(int(indices.max()) + 1, 2 * len(self._numbers)), np.uint32)
            longer[: len(self._numbers)] = self._numbers
            longer[indices] = number
            self._numbers = longer
        self._noted = True

    def _noted_of(self, i: Any) -> int:
        "Return the number of the size that was noted for index `i`; 0 if none was, or if it is among the entries now."
        if type(i) is not int:  # such as 3.0, which a dict takes for 3
            self._settle()
            return 0
        return int(self._numbers[i]) if self._noted and 0 <= i < len(self._numbers) else 0

    def _settle(self) -> None:
        "Make entries of what was noted."
        if self._noted:
            at = np.flatnonzero(self._numbers)
            super().update((i, self._sizes[n]) for i, n in zip(at.tolist(), self._numbers[at].tolist()))
            self._numbers[at], self._noted = 0, False

    def __getitem__(self, i: Any) -> Any:
        number = self._noted_of(i)
        return self._sizes[number] if number else super().__getitem__(i)

    def get(self, i: Any, default: Any = None) -> Any:
        number = self._noted_of(i)
        return self._sizes[number] if number else super().get(i, default)

    def __contains__(self, i: Any) -> bool:
        return bool(self._noted_of(i)) or super().__contains__(i)

    def __setitem__(self, i: Any, size: Any) -> None:
        if self._noted_of(i):
            self._numbers[i] = 0
        super().__setitem__(i, size)

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        return Sizes, (dict(self.items()),)

    def copy(self) -> Sizes:
        return Sizes(self.items())

    __copy__ = copy


def _settled(name: str) -> Any:
    "Return a dict's method that first makes entries of what was noted."
    method = getattr(dict, name)

    def settled(self: Sizes, *args: Any, **kwargs: Any) -> Any:
        self._settle()
        return method(self, *args, **kwargs)

    settled.__name__ = name
    return settled


for _name in (
    *("__delitem__", "__eq__", "__ge__", "__gt__", "__iter__", "__le__", "__len__", "__lt__", "__ne__", "__repr__"),
    *("__ior__", "__or__", "__reversed__", "__ror__", "__sizeof__"),
    *("clear", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
):
    if hasattr(dict, _name):  # some came with Python 3.8 and 3.9
        setattr(Sizes, _name, _settled(_name))
