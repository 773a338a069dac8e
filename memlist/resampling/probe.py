"""Find out, once per process, whether the kernels make what the installed Pillow makes.

A version number would not tell: there are other builds of Pillow, with filters of their own, and a newer one may order
its passes in another way. So both are given the same pictures.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Iterator, List, NamedTuple, Tuple, Union

import numpy as np
import PIL.Image

from ..batch import cpu
from ..batch.threads import ONE_THREAD
from . import pillow
from .steps import Resize

# Sizes (height, width) before and after a resize: smaller and larger, one side alone, each order of the passes, and
# next to the place where Pillow 13 changes the order.
_SIZES = [
    ((37, 29), (13, 17)),
    ((11, 9), (23, 30)),
    ((20, 31), (20, 12)),
    ((31, 20), (12, 20)),
    ((60, 33), (9, 30)),
    ((40, 30), (20, 20)),
    ((41, 30), (20, 20)),
    ((48, 16), (5, 40)),
]


class Probed(NamedTuple):
    "Hold the module that calls the kernels, and the order of passes with which they equal Pillow."

    compiled: ModuleType
    newer: bool


def probed() -> Union[Probed, str]:
    """Return the kernels, if they make what Pillow makes; else the reason why Pillow has to do it.

    The first call loads the kernels from numba's cache, half a second, or compiles them, and tries them on small
    pictures, 10 ms. It does so again where `PIL.Image.Image.resize` has been replaced since.
    """
    return _probed(PIL.Image.Image.resize)


@functools.lru_cache(maxsize=4)
def _probed(resize: Any) -> Union[Probed, str]:
    missing = cpu.without_kernels()
    if missing:
        return missing
    try:
        from . import compiled  # only now: importing numba takes a second

        for newer in (True, False):
            if all(_equal(compiled, newer, picture, step) for picture, step in _cases()):
                return Probed(compiled, newer)
    except Exception as error:  # from numba, LLVM, the files of numba's cache, or a Pillow that was replaced
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return f"Pillow {PIL.__version__} resizes in another way than the kernels do"


def _cases() -> Iterator[Tuple[np.ndarray, Resize]]:
    "Yield pictures and what to make of them."
    source = np.random.default_rng(0)
    for k, (size, made) in enumerate(_SIZES):
        for channels in (1, 3) if k else (1, 2, 3, 4):
            picture = source.integers(0, 256, (*size, channels), dtype=np.uint8)
            for filter in range(6):
                yield picture, Resize(made[1], made[0], filter)


def _equal(compiled: ModuleType, newer: bool, picture: np.ndarray, step: Resize) -> bool:
    wanted = pillow.apply(picture, [step])
    out = np.empty((1, *wanted.shape), np.uint8)
    steps: List[List[Any]] = [[step]]
    return bool(compiled.run([picture], steps, out, None, newer, ONE_THREAD) and (out[0] == wanted).all())
