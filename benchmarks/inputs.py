"""Give every figure its files and its sizes."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

import pictures
from measure import say


class Scale(NamedTuple):
    "How many images and rounds."

    photographs: int
    epochs: int
    blocks: int
    memory: int
    repeats: int
    records: Tuple[int, ...]
    small: int
    reopened: int
    digits: int
    raw: int
    many: int


FULL = Scale(384, 4, 40, 1008, 1, (1_000, 10_000, 100_000), 1000, 3600, 4096, 1024, 1_000_000)
QUICK = Scale(128, 2, 4, 128, 1, (1_000, 2_000, 5_000), 100, 200, 256, 128, 3_000)


class Photographs(NamedTuple):
    "A set of JPEGs, and a line that describes it."

    files: List[Path]
    description: str


class Inputs:
    "The files in one temporary folder, each set made when a figure first asks for it."

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder, self.scale = folder, scale
        self._photographs: Dict[Tuple[int, int], Photographs] = {}
        self._digits: Dict[int, List[Path]] = {}
        self._linked: Dict[Tuple[Path, int], List[Path]] = {}

    def photographs(self, kilobytes: int, n: int = 0) -> Photographs:
        "Return `n` photographs (by default the scale's number) of so many kilobytes on average."
        key = kilobytes, n or self.scale.photographs
        if key not in self._photographs:
            say(f"making {key[1]} photographs of {kilobytes} kB")
            made = pictures.photographs(self.folder / f"{kilobytes}kB-{key[1]}", key[1], kilobytes)
            self._photographs[key] = Photographs(*made)
        return self._photographs[key]

    def files(self, n: int = 0) -> List[Path]:
        "Return the files of the usual set, 100 kB each."
        return self.photographs(100, n).files

    def sets(self) -> Dict[int, Photographs]:
        "Return a set of each size of file, by kilobytes."
        return {kilobytes: self.photographs(kilobytes) for kilobytes in pictures.SETS}

    def digits(self, n: int) -> List[Path]:
        "Return `n` PNG files of 28x28."
        if n not in self._digits:
            self._digits[n] = pictures.digits(self.folder / f"digits-{n}", n)
        return self._digits[n]

    def tiny(self, n: int) -> List[Path]:
        "Write `n` PNG files of 8x8."
        return pictures.reduced(self.folder / "tiny", n, (8, 8))

    def small(self, n: int) -> List[Path]:
        "Write `n` PNG files of 85x64."
        return pictures.reduced(self.folder / "small", n, (85, 64))

    def links(self, made: List[Path], n: int) -> List[Path]:
        "Return `n` links to a few files: each is opened and kept under its own name."
        key = made[0].parent, n
        if key not in self._linked:
            folder = made[0].parent.with_name(f"{made[0].parent.name}-linked-{n}")
            folder.mkdir()
            files = self._linked[key] = [folder / f"{i:07}.png" for i in range(n)]
            for i, file in enumerate(files):
                file.symlink_to(made[i % len(made)])
        return self._linked[key]
