"""Tell for each row or column of a window which row or column of the picture lies there."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np

#: Stands for a row or column that is filled.
FILLED = -1


def window(size: int, first: int, count: int, mode: str) -> np.ndarray:
    """Return the indices of `count` rows or columns from `first` on, of a picture that has `size`: (count,) int64.

    Outside the picture they are `FILLED`, or those of `numpy.pad` for modes other than "constant".
    """
    if mode == "constant":
        found = np.arange(first, first + count)
        found[(found < 0) | (found >= size)] = FILLED
        return found
    before, after = max(0, -first), max(0, first + count - size)
    return np.pad(np.arange(size), (before, after), mode=mode)[first + before : first + before + count]  # type: ignore[call-overload,no-any-return]


def nearest(size: int, count: int) -> np.ndarray:
    """Return the indices that Pillow's nearest filter takes for `count` of `size` rows or columns: (count,) int64.

    Pillow adds the step to a double once per pixel (`ImagingScaleAffine` in its Geometry.c); so does this.
    """
    step = size / count
    at = np.full(count, step)
    at[0] = step * 0.5
    return np.cumsum(at).astype(np.int64)


def turned(code: int) -> Tuple[bool, int, int]:
    """Return what a turn does, by Pillow's number: exchanges rows and columns, then takes rows and columns so.

    The second and third value are 1 for rows or columns in their order, -1 for the reverse.
    """
    return _TURNS[code]


_TURNS: List[Tuple[bool, int, int]] = [
    (False, 1, -1),  # FLIP_LEFT_RIGHT
    (False, -1, 1),  # FLIP_TOP_BOTTOM
    (True, -1, 1),  # ROTATE_90
    (False, -1, -1),  # ROTATE_180
    (True, 1, -1),  # ROTATE_270
    (True, 1, 1),  # TRANSPOSE
    (True, -1, -1),  # TRANSVERSE
]
