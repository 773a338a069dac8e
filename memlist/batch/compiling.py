"""Compile a kernel when it is first needed: once on a machine, and not without a word.

numba keeps what it has compiled in a folder: the one that `NUMBA_CACHE_DIR` names, else the one beside the source, else
the user's own cache. Where none of them can be written to, a private folder for temporary files serves.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from numba import config, njit
from numba.core import event
from numba.core.caching import FunctionCache

fcntl: Optional[ModuleType]
try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

#: The files that contain compiled functions, and how numba compiles them.
SOURCES = "bits.py", "*kernels.py"
OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
#: Seconds to wait for another process that compiles. It may have been stopped.
PATIENCE = 60.0


@functools.lru_cache(maxsize=None)
def _content(folder: Path) -> str:
    "Return a digest of all sources in `folder`."
    made = hashlib.sha256()
    for pattern in SOURCES:
        for file in sorted(folder.glob(pattern)):
            made.update(file.read_bytes())
    return made.hexdigest()


class _Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    "Keep compiled code by the content of all sources; numba looks only at the file of the kernel itself."

    content = _content(Path(__file__).parent)

    def _index_key(self, *given: Any) -> Tuple[Any, ...]:
        own = _content(Path(self._py_func.__code__.co_filename).parent)  # kernels of another folder use these, too
        return (*super()._index_key(*given), self.content, own)


def kernel(function: Callable[..., None]) -> Any:
    "Return `function` as one that `compile_once` compiles and keeps."
    return _kernel(function, OPTIONS)


def exact_kernel(function: Callable[..., None]) -> Any:
    "Do as `kernel`, but keep each operation on floats as it is written: no product is fused with a sum."
    return _kernel(function, {**OPTIONS, "fastmath": False})


def _kernel(function: Callable[..., None], options: Dict[str, Any]) -> Any:
    made = njit(**options)(function)
    with suppress(RuntimeError, OSError):  # no folder at all: each process compiles
        made._cache = _cache(function)
    return made


def _cache(function: Callable[..., None]) -> _Cache:
    try:
        return _Cache(function)
    except RuntimeError:  # numba finds no folder that it can write to
        before, config.CACHE_DIR = config.CACHE_DIR, _private_folder()
        try:
            return _Cache(function)
        finally:
            config.CACHE_DIR = before


def _private_folder() -> str:
    "Return a folder for temporary files that only this user can write to, because code is loaded from it."
    if fcntl is None:  # Windows has a folder for each user, which numba has tried
        raise OSError("There is no folder for compiled code.")
    folder = os.path.join(tempfile.gettempdir(), f"memlist-numba-{os.getuid()}")
    with suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    found = os.lstat(folder)
    if os.path.islink(folder) or found.st_uid != os.getuid() or found.st_mode & 0o22:
        raise PermissionError(f"{folder} is not this user's own folder.")
    return folder


def compile_once(kernel: Any, signature: Tuple[Any, ...], seconds: int, makes: str) -> None:
    """Compile `kernel` for arguments of the types `signature`, or load it from the disk; print a line if it compiles.

    `seconds` is about how long that takes; 0 is not worth a line. `makes`: what the kernel makes, in the user's words,
    with what tells it from that of another signature. If another process is compiling, wait for it and load what it has
    made.
    """
    takes = f"about {seconds} s, more on a busy machine, once for this kind of batch on this machine"
    said = _Said(f"numba compiles code for {makes}: {takes}" if seconds else "")
    with _alone(kernel.stats.cache_path), event.install_listener("numba:compile", said):
        kernel.compile(signature)


class _Said(event.Listener):  # type: ignore[misc]
    "Print a line when something really is compiled, as `load_data` prints."

    def __init__(self, line: str) -> None:
        self.line = line

    def on_start(self, event: Any) -> None:
        if self.line:
            with suppress(OSError, ValueError):  # a closed output must not make a call fail
                print(self.line, flush=True)
        self.line = ""

    def on_end(self, event: Any) -> None:
        pass


@contextmanager
def _alone(folder: Optional[str]) -> Iterator[None]:
    "Let one process at a time compile for `folder`: numba's index would lose one of two additions."
    lock = _locked(folder) if folder is not None and fcntl is not None else None
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # explicitly: a process that was forked meanwhile keeps the file open
                fcntl.flock(lock, fcntl.LOCK_UN)  # type: ignore[union-attr]
            os.close(lock)


def _locked(folder: str) -> Optional[int]:
    "Lock a file in `folder`; return its descriptor, or None if that is impossible."
    assert fcntl is not None
    try:
        os.makedirs(folder, exist_ok=True)
        lock = os.open(os.path.join(folder, "memlist-numba.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
        except OSError:  # a disk without locks
            pass
        os.close(lock)
        return None
