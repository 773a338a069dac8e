"""Pixels that follow from their key, so that a reader knows every byte that it must find."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
import PIL.Image

# How many keys there are, how many versions of each, and every which one is large: larger than a first segment.
KEYS, VERSIONS, LARGE = 240, 4, 60
FILES = 40


def key(i: int) -> bytes:
    return b"derived %d" % i


def pixels(name: bytes, version: int = 0, large: bool = False) -> np.ndarray:
    "Return the only right array, (height, width, 3) uint8, for this key and version. Its shape follows from them, too."
    seed = name + struct.pack("<I", version)
    a, b = hashlib.blake2b(seed, digest_size=2).digest()
    height, width = (500 + a, 700 + b) if large else (8 + a % 40, 10 + b % 50)
    stream = hashlib.shake_128(seed).digest(height * width * 3)
    return np.frombuffer(stream, np.uint8).reshape(height, width, 3)


def pixels_of(i: int, version: int) -> np.ndarray:
    return pixels(key(i), version, i % LARGE == 0)


def fault_of(array: Any, wanted: np.ndarray) -> Optional[str]:
    "Say where `array` differs from what was written; None if it does not."
    if array.dtype != wanted.dtype or array.shape != wanted.shape:
        return f"{array.dtype} {array.shape} instead of {wanted.dtype} {wanted.shape}"
    if np.array_equal(array, wanted):
        return None
    wrong = np.flatnonzero(array.reshape(-1) != wanted.reshape(-1))
    zeros = "all of them zero" if not array.reshape(-1)[wrong].any() else "not zero"
    return f"{len(wrong)} of {wanted.size} bytes are wrong, {zeros}, from byte {wrong[0]} to {wrong[-1]}"


def make_files(folder: Path, n: int = FILES) -> List[Path]:
    "Write `n` pictures whose pixels follow from their names."
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03}.png" for i in range(n)]
    for path in paths:
        PIL.Image.fromarray(pixels(path.name.encode())).save(path, compress_level=0)
    return paths
