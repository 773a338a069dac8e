"""`python -m memlist`: look at a cache file, check and empty it, and plan what a folder of images will need."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from importlib import metadata
from time import perf_counter
from typing import Any, List, Optional, Sequence, Tuple

import fastai
import numpy as np
import PIL.Image
import torch
from fastai.vision.data import get_image_files

from . import __version__
from .batch import cpu
from .cache.decode import reduced
from .cache.progress import duration
from .fastai1 import compat
from .fastai1.lists import MemoryImageList
from .store import cachefile, system
from .store.store import ImageStore
from .store.system import format_size

# Of a folder, how many headers are read and how many images are decoded for an estimate.
HEADERS, DECODED = 2000, 48
CHANNELS = 3


def info(path: str) -> int:
    "Print what the cache file `path` holds."
    store = _existing(path)
    records, nbytes, most, _, _ = store.info()
    sources = store.sources()
    print(f"{store.cache_file}: memlist cache file, format {cachefile.FORMAT[-1:].decode()}")
    print(f"  {records:,} records, {format_size(nbytes)} of pixels")
    if sources:
        print(f"  made from images under {os.path.commonpath([os.path.dirname(source) for source in sources])}")
    print(f"  {format_size(store.allocated())} on disk, {format_size(store.resident())} of it in memory now")
    print(f"  may grow to {format_size(most)}")
    return 0


def check(path: str, fix: bool) -> int:
    "Print what is wrong with the cache file `path`; 1 if anything is and is left so."
    store = _existing(path)
    problems = store.check(fix)
    for problem in problems:
        print(f"{problem.path or store.cache_file}: {problem.what}")
    what = "nothing is wrong" if not problems else f"{len(problems):,} problem{'s' * (len(problems) != 1)}"
    if problems and fix:
        what += "; dropped what is wrong, the rest is indexed again"
    elif problems:
        what += "; `check --fix` drops what is wrong"
    print(f"{len(store):,} records, {what}")
    return int(bool(problems) and not fix)


def purge(path: str) -> int:
    "Empty the cache file `path`."
    store = _existing(path)
    print(f"{format_size(store.purge(file=True))} of pixels emptied out of {store.cache_file}")
    return 0


def plan(folder: str, size: Optional[int]) -> int:
    "Print what the images under `folder` need in memory, whether it fits, and how long loading them takes."
    if not os.path.isdir(folder):
        print(f"{folder!r} is no folder", file=sys.stderr)
        return 2
    files = sorted(map(str, get_image_files(folder, recurse=True)))
    sizes, bad = _sizes(files[:: max(1, len(files) // HEADERS)])
    if not sizes:
        print(
            f"no images under {folder}" if not files else f"none of {len(files):,} images under {folder} can be opened"
        )
        return 1
    sampled = f" (from {len(sizes):,} headers)" if len(sizes) + bad < len(files) else ""
    print(f"{len(files):,} images under {folder}" + (f", {bad} of {len(sizes) + bad} can't be opened" if bad else ""))
    room = int(system.DEFAULT_SHARE * system.available_memory())
    disk = format_size(system.disk_available(os.path.abspath(folder)))
    print(f"{disk} of room on the disk of that folder, where a cache_file might be")
    print(f"{format_size(room)} may be used: {system.DEFAULT_SHARE:.0%} of the memory that is available here")
    for most in (None, size) if size else (None,):
        need = round(sum(_bytes(one, most) for one in sizes) / len(sizes) * (len(files) - bad))
        fits = "all of it fits" if need <= room else f"{100 * room // need} % of it fits"
        name = "at full size" if most is None else f"with max_size={most}"
        time = duration(_seconds(files, most))
        print(f"{name}: {format_size(need)} decoded{sampled}, {fits}; load_data() takes about {time}")
    return 0


def _bytes(size: Tuple[int, int], most: Optional[int]) -> int:
    width, height = reduced(size, most)
    return width * height * CHANNELS


def _sizes(files: Sequence[str]) -> Tuple[List[Tuple[int, int]], int]:
    "Width and height of each of `files`, from its header, and how many have none."
    found, bad = [], 0
    for file in files:
        try:
            with PIL.Image.open(file) as image:
                found.append(image.size)
        except Exception:
            bad += 1
    return found, bad


def _seconds(files: Sequence[str], most: Optional[int]) -> float:
    "How long `load_data()` would take for `files`: measured on an even sample of them, with as many threads."
    sample = list(files[:: max(1, len(files) // DECODED)])[:DECODED]
    store = ImageStore(system.DEFAULT_SHARE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        il = MemoryImageList(sample, path="/", store=store, max_size=most)
        begun = perf_counter()
        il.load_data(progress=False, on_error="warn")
    return (perf_counter() - begun) * len(files) / len(sample)


def _existing(path: str) -> ImageStore:
    "The store over a file that is there: none is made for a mistyped name."
    if not os.path.exists(path):
        raise cachefile.CacheFileError(path, "does not exist.")
    return ImageStore(cache_file=path)


def versions() -> str:
    "What a bug report has to say: our version, the stack's, and which repairs of fastai are in force."
    try:
        numba = f"numba {metadata.version('numba')}{' (unusable)' if cpu.without_kernels() else ''}"
    except metadata.PackageNotFoundError:
        numba = "no numba"
    stack = f"fastai {fastai.__version__}, torch {torch.__version__}, numpy {np.__version__}, pillow {PIL.__version__}"
    return (
        f"memlist {__version__}\n"
        f"python {sys.version.split()[0]} on {sys.platform}, {stack}, {numba}\n"
        f"repairs: {', '.join(compat.applied()) or 'none'}"
    )


class _Version(argparse.Action):
    "Looks for versions only when asked."

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        print(versions())
        parser.exit()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    "The command; 0 for success, 1 for problems found, 2 for what can't be used."
    codes = "Exits with 0; with 1 where check finds problems and leaves them; with 2 for what can't be used."
    parser = argparse.ArgumentParser(prog="python -m memlist", description=__doc__, epilog=codes)
    parser.add_argument("--version", action=_Version, nargs=0, help="the versions that a bug report needs")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("info", "what a cache file holds"),
        ("check", "look at every record, its checksum and its source"),
        ("purge", "empty a cache file"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("file")
        if name == "check":
            command.add_argument("--fix", action="store_true", help="drop what is wrong")
    text = "what a folder of images needs in memory, and how long loading takes"
    command = commands.add_parser("plan", help=text, description=text)
    command.add_argument("folder")
    command.add_argument(
        "--size", type=int, help="also with max_size=SIZE, the shorter side that images are reduced to"
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "plan" and chosen.size is not None and chosen.size < 1:
        parser.error(f"--size {chosen.size}: use a number of pixels")
    try:
        if chosen.command == "info":
            return info(chosen.file)
        if chosen.command == "check":
            return check(chosen.file, chosen.fix)
        if chosen.command == "purge":
            return purge(chosen.file)
        return plan(chosen.folder, chosen.size)
    except cachefile.CacheFileError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
