"""The named file behind a store: recognise it or refuse it, create it atomically, and open it.

Next to the file `F` lies `F.lock`, the lock file for opening, growing and writing F (see `lock.Lock` for why it is a
separate file). Every process that has F open also holds a shared `flock` on F itself, which its forked children keep
alive. A process that can take it exclusively is alone, and begins a session.
"""

from __future__ import annotations

import errno
import os
import uuid
from functools import partial
from typing import Any, Callable, Iterable, Optional, Tuple, TypeVar

from .bytelocks import fcntl
from .layout import BYTE_ORDER, FORMAT, Header, new_page
from .lock import Lock
from .system import PAGE

Result = TypeVar("Result")


class CacheFileError(Exception):
    "Raised for a `cache_file` that can't be used. The message says why and what to do. The file is left unchanged."

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"cache_file={path!r} {why}")
        self.path, self.why = path, why

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.path, self.why)


HOPELESS = "It is only a cache: delete it and it will be filled again, or name another file."


def resolve(path: Any) -> str:
    "Return the absolute path of a cache file, with `~` and links resolved. Raises TypeError if `path` is not a path."
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"cache_file={path!r} is a {type(path).__name__}: use the path of a file")
    if not os.fspath(path):
        raise CacheFileError(str(path), "names no file.")
    return os.path.realpath(os.path.expanduser(os.fspath(path)))


def same_file(path: str, fd: int) -> bool:
    "Return whether `path` names the file that `fd` refers to. After the file was deleted or replaced, it does not."
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def opened(path: str, locks: Iterable[Lock], use: Callable[[int, Lock, bool], Result]) -> Result:
    """Open the cache file `path`, call `use(descriptor, lock, alone)` while holding its lock, and return the result.

    Creates the file if it does not exist or is empty. Raises `CacheFileError` for a file that can't be used, and leaves
    it unchanged. Closes the descriptor if `use` raises. `locks` are those that this process already has: where locks
    belong to the process, opening and closing one of their files again would drop them.
    """
    if fcntl is None:
        raise CacheFileError(path, "can't be used here: a store over a named file needs a POSIX system.")
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise CacheFileError(path, "is not a regular file, and is left as it is. Name another file.")
    while True:
        try:
            if os.path.exists(path) and os.path.getsize(path):
                _recognise(path)  # before a lock file is created beside it
            lock = next((known for known in locks if same_file(f"{path}.lock", known.fd)), None) or Lock.of_file(
                os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), repr(path)
            )
        except OSError as error:
            raise _refused(path, error) from error
        result = lock.run(partial(_used, path, lock, use))
        if result is not None:
            return result[0]


def _used(path: str, lock: Lock, use: Callable[[int, Lock, bool], Result]) -> Optional[Tuple[Result]]:
    "Open the file and use it; return None if its lock file was deleted, so that other processes use a new one."
    if not same_file(f"{path}.lock", lock.fd):
        return None
    try:
        if not os.path.exists(path) or not os.path.getsize(path):
            _create(path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        _recognise(path)
        return (use(fd, lock, _alone(fd)),)
    except BaseException:
        os.close(fd)
        raise


def _refused(path: str, error: OSError) -> CacheFileError:
    advice = {
        errno.EISDIR: "Name a file in it.",
        errno.ENOENT: "Make its folder first.",
        errno.ENOSPC: "Its disk is full: not even an empty cache has room.",
        errno.EDQUOT: "The quota on its disk is used up: not even an empty cache has room.",
    }
    what = "It has to be a file that can be made, read and written, on a local disk."
    if error.errno != errno.ENOENT or not os.path.isdir(os.path.dirname(path)):
        what = advice.get(error.errno or 0, what)
    return CacheFileError(path, f"can't be opened: {error.strerror}. {what}")


def _create(path: str) -> None:
    "Create an empty cache file atomically, so that no process reads half a header."
    new = f"{path}.{uuid.uuid4().hex}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            os.write(fd, new_page())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _recognise(path: str) -> None:
    "Raise `CacheFileError` unless `path` is a cache file that this version of memlist can use on this machine."
    with open(path, "rb") as file:
        head = file.read(PAGE)
    name = head[: len(FORMAT)]
    if name == FORMAT and len(head) < PAGE:
        raise CacheFileError(path, f"is cut off within its header. {HOPELESS}")
    if name == FORMAT:
        header = Header.of_page(head)
        if header.byte_order == int.from_bytes(BYTE_ORDER.to_bytes(8, "little"), "big"):
            raise CacheFileError(path, f"was written by a machine of the other byte order. {HOPELESS}")
        if header.checksum != header.identity_checksum() or header.byte_order != BYTE_ORDER:
            raise CacheFileError(path, f"has a damaged header. {HOPELESS}")
        if header.page_size != PAGE:
            raise CacheFileError(
                path,
                f"was written by a machine with pages of {header.page_size} bytes; here they have {PAGE}. {HOPELESS}",
            )
    elif name.startswith(FORMAT[:-1]):
        version, ours = name[-1:].decode("latin-1"), FORMAT[-1:].decode()
        raise CacheFileError(path, f"has format {version!r}; this memlist reads and writes {ours!r}. {HOPELESS}")
    else:
        raise CacheFileError(path, "is not a memlist cache file, and is left as it is. Name another file.")


def _alone(fd: int) -> bool:
    "Join the processes that have the file open; return whether there were no others."
    assert fcntl is not None
    alone = True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        alone = False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # the file system has no such locks, so there may be other processes
        alone = False
    return alone
