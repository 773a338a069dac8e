"""Inspect, check or empty a memlist cache file, or estimate the memory that a folder of images needs.

`info`, `check` and `purge` need NumPy and psutil; `plan` also needs Pillow. So everything else is imported only where
it is used.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import sys
import warnings
from importlib import import_module, metadata
from time import perf_counter
from typing import Any, Dict, List, Optional, Sequence, TextIO, Tuple

from . import __version__
from .store import ImageStore, cachefile, mounts, shown, system
from .store.budget import DEFAULT_SHARE, format_size
from .store.layout import FORMAT

# How many headers are read, and how many images are decoded, for an estimate.
HEADERS, DECODED = 2000, 48
# How many files are named that can't be loaded.
NAMED = 10
CHANNELS = 3
# The exit status of a shell's commands that Ctrl-C ends.
INTERRUPTED = 130
# Packages that a bug report lists, and the modules with their versions: torch's includes CUDA. numba is handled apart,
# because importing it takes long and may fail.
STACK = {"fastai": "fastai", "torch": "torch", "numpy": "numpy", "pillow": "PIL"}


def print_info(path: str) -> int:
    "Print what the cache file `path` holds."
    store = _existing(path)
    records, nbytes, most, _, _ = store.info()
    sources = store.sources()
    _say(f"{store.cache_file}: memlist cache file, format {FORMAT[-1:].decode()}")
    _say(f"  {_held(records, sources)}, {format_size(nbytes)} of pixels")
    if sources:
        _say(f"  made from images under {_above(sources)}")
    where = "of memory, where its file system lies" if mounts.Room(str(store.cache_file)).in_memory else "on disk"
    _say(f"  {format_size(store.allocated())} {where}, {format_size(store.resident())} of it in memory now")
    _say(f"  may grow to {format_size(most)}")
    return 0


def _say(text: str, where: Optional[TextIO] = None) -> None:
    "Print one line. Names of files in it may hold any bytes, so what can't be shown is escaped."
    where = where or sys.stdout
    encoding = getattr(where, "encoding", None) or "utf-8"
    print(shown(text).encode(encoding, "backslashreplace").decode(encoding), file=where)


def _above(sources: Sequence[str]) -> str:
    "Return the folder that all files lie under."
    try:
        return os.path.commonpath([os.path.dirname(source) for source in sources])
    except ValueError:  # a damaged file may name files without a folder
        return "several folders"


def print_problems(path: str, fix: bool) -> int:
    "Print what is wrong with the cache file `path`; return 1 if problems remain."
    store = _existing(path)
    problems: List[Tuple[str, List[str]]] = []
    places: Dict[str, List[str]] = {}
    for source, wrong in store.check(fix):
        if source not in places or not source:  # what names no image is a problem of its own
            places[source] = []
            problems.append((source, places[source]))
        if wrong not in places[source]:  # an image may have several records
            places[source].append(wrong)
    for source, found in problems:
        _say(f"{source or store.cache_file}: {', '.join(found)}")
    what = _counted(len(problems), "problem") if problems else "nothing is wrong"
    if problems and fix:
        what += "; dropped what is wrong, the rest is indexed again"
    elif problems:
        what += "; `check --fix` drops what is wrong"
    _say(f"{_held(len(store), store.sources())}, {what}")
    return int(bool(problems) and not fix)


def _held(records: int, sources: Sequence[str]) -> str:
    "Return how many records there are, and of how many images if `sources` has a file for each record."
    held = _counted(records, "record")
    return f"{_counted(len(set(sources)), 'image')} in {held}" if records and len(sources) == records else held


def _counted(n: int, unit: str) -> str:
    return f"{n:,} {unit}{'s' * (n != 1)}"


def empty(path: str) -> int:
    "Empty the cache file `path`."
    store = _existing(path)
    _say(f"emptied {store.cache_file}: {format_size(store.purge(file=True))} of pixels dropped")
    return 0


def print_plan(folder: str, size: Optional[int]) -> int:
    "Print what the images under `folder` need in memory, whether it fits, and how long loading them takes."
    if not os.path.isdir(folder):
        _say(f"{folder!r} is not a folder", sys.stderr)
        return 2
    files = _images_under(folder)
    sizes, bad = _sizes(files[:: max(1, len(files) // HEADERS)])
    n_bad, n_seen = len(bad), len(sizes) + len(bad)
    if not sizes:
        _say(
            f"no images under {folder}" if not files else f"none of {len(files):,} images under {folder} can be opened"
        )
        _say_bad(bad, n_seen < len(files))
        return 1
    sampled = f" (from {len(sizes):,} headers)" if n_seen < len(files) else ""
    _say(f"{len(files):,} images under {folder}" + (f", {n_bad} of {n_seen} can't be opened" if bad else ""))
    room = int(DEFAULT_SHARE * system.available_memory())
    disk = mounts.Room(os.path.abspath(os.path.join(folder, "cache")))
    note = ", but that file system lies in memory" if disk.in_memory else ""
    _say(f"{format_size(disk())} are free on the disk of that folder, for a cache_file{note}")
    _say(f"{format_size(room)} may be used: {DEFAULT_SHARE:.0%} of the memory that is available here")
    for most in (None, size) if size else (None,):
        need = round(sum(_bytes(one, most) for one in sizes) * len(files) / n_seen)
        fits = "all of it fits" if need <= room else f"{100 * room // need or 'less than 1'} % of it fits"
        name = "at full size" if most is None else f"with max_size={most}"
        took, failed = _loading_time(files, most)
        bad.update((file, reason) for file, reason in failed.items() if file not in bad)
        _say(f"{name}: {format_size(need)} decoded{sampled}, {fits}; {took}")
    _say_bad(bad, n_seen < len(files))
    return 0


def _say_bad(bad: Dict[str, str], sampled: bool) -> None:
    "Print the names of files that can't be loaded, the first ones only, and why."
    if not bad:
        return
    _say("These files can't be loaded" + (" (not all files were looked at):" if sampled else ":"))
    for file, reason in list(bad.items())[:NAMED]:
        _say(f"  {file}: {reason}")
    if len(bad) > NAMED:
        _say(f"  and {len(bad) - NAMED:,} more")
    _say("load_data() lists all of them, and says how to leave them out.")


def _images_under(folder: str) -> List[str]:
    "Return the files that fastai takes for images: by their extension, outside of hidden folders."
    extensions = {extension for extension, kind in mimetypes.types_map.items() if kind.startswith("image/")}
    found: List[str] = []
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            os.path.join(path, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions
        ]
    return sorted(found)


def _bytes(size: Tuple[int, int], most: Optional[int]) -> int:
    "Return how many bytes a decoded image of this width and height takes."
    from .cache.decode import reduced

    width, height = reduced(size, most)
    return width * height * CHANNELS


def _sizes(files: Sequence[str]) -> Tuple[List[Tuple[int, int]], Dict[str, str]]:
    "Return width and height of each of `files`, from its header, and which can't be read, with the reason."
    import PIL.Image

    found, bad = [], {}
    for file in files:
        try:
            with PIL.Image.open(file) as image:
                found.append(image.size)
        except Exception as error:
            bad[file] = f"{type(error).__name__}: {error}"
    return found, bad


def _loading_time(files: Sequence[str], most: Optional[int]) -> Tuple[str, Dict[str, str]]:
    """Say how long `load_data()` takes for `files`, measured on an even sample.

    All libraries' images are decoded in the same way, so this needs none of them. Also returns the files of the sample
    that it can't load, with the reason.
    """
    from .cache import filling
    from .cache.cache import ImageCache
    from .cache.decode import PillowDecoder
    from .cache.info import ImageLoadError
    from .cache.jobs import Work
    from .cache.progress import duration

    sample = list(files[:: max(1, len(files) // DECODED)])[:DECODED]
    images = ImageCache(ImageStore(DEFAULT_SHARE), PillowDecoder("RGB", most))
    failed: Dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begun = perf_counter()
        try:
            filling.load_data([Work("plan", images, sample)], progress=False)
        except ImageLoadError as error:
            failed = {str(item): reason for item, reason in error.errors}
    seconds = (perf_counter() - begun) * len(files) / len(sample)
    return f"load_data() takes about {duration(seconds)}", failed


def _existing(path: str) -> ImageStore:
    "Return the store of a cache file that exists: a mistyped name must not create one."
    resolved = cachefile.resolve(path)
    if not os.path.lexists(resolved):
        raise cachefile.CacheFileError(path, "does not exist.")
    return ImageStore.open(path)


def versions() -> str:
    "Return what a bug report needs: our version, the versions of the stack, and which repairs of fastai are in force."
    stack = ", ".join(_with_version(name, module) for name, module in STACK.items())
    try:
        from .fastai1 import compat

        repairs = ", ".join(compat.applied()) or "none"
    except ImportError:
        repairs = "none, since fastai 1 can't be imported"
    return (
        f"memlist {__version__}\n"
        f"python {sys.version.split()[0]} on {sys.platform}, {stack}, {_numba()}\n"
        f"repairs: {repairs}"
    )


def _with_version(name: str, module: str) -> str:
    "Return the name of a package with its version, or say that there is none."
    try:
        return f"{name} {import_module(module).__version__}"
    except ImportError:
        return f"no {name}"


def _numba() -> str:
    "Return numba's version, and whether the kernels can be compiled with it."
    try:
        version = metadata.version("numba")
    except metadata.PackageNotFoundError:
        return "no numba"
    try:
        from .batch import cpu
    except ImportError:  # it needs torch
        return f"numba {version}"
    return f"numba {version}{' (unusable)' if cpu.without_kernels() else ''}"


class _Version(argparse.Action):
    "Print the versions. They are looked up only when asked for."

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        print(versions())
        parser.exit()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    "Run the command; return 0 for success, 1 for problems found, 2 for unusable arguments or files."
    codes = (
        "Exit status: 0 for success; 1 if check finds problems and leaves them, or plan finds no image that can be "
        "opened; 2 for unusable arguments or files; 130 after Ctrl-C."
    )
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m memlist", description=about, epilog=codes)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the versions that a bug report needs")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("info", "Show what a cache file holds, and how much of it is in memory."),
        ("check", "Check every record of a cache file, its checksum and its source."),
        ("purge", "Empty a cache file."),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("file", help="the path of the cache file")
        if name == "check":
            command.add_argument("--fix", action="store_true", help="drop bad records")
    text = "Estimate how much memory a folder of images needs, and how long loading it takes."
    command = commands.add_parser("plan", help=text, description=text)
    command.add_argument("folder", help="the folder; its subfolders are searched as well")
    command.add_argument(
        "--size",
        type=int,
        help="also estimate for max_size=SIZE: the shorter side of each image is reduced to SIZE pixels",
    )
    chosen = parser.parse_args(arguments)
    if chosen.command == "plan" and chosen.size is not None and chosen.size < 1:
        parser.error(f"--size {chosen.size}: use a number of pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)  # who waits says for whom, whatever Python was told
        warnings.showwarning = _print_warning
        try:
            return _run(chosen)
        except cachefile.CacheFileError as error:
            _say(str(error), sys.stderr)
        except OSError as error:
            _say(f"the system can't do that: {error}", sys.stderr)
        except KeyboardInterrupt:
            return INTERRUPTED
    return 2


def _run(chosen: argparse.Namespace) -> int:
    if chosen.command == "info":
        return print_info(chosen.file)
    if chosen.command == "check":
        return print_problems(chosen.file, chosen.fix)
    if chosen.command == "purge":
        return empty(chosen.file)
    return print_plan(chosen.folder, chosen.size)


def _print_warning(message: Any, *args: Any, **kwargs: Any) -> None:
    _say(str(message), sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
