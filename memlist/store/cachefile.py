"""The named file behind a store: recognise it or refuse it, create it atomically, and open it.

Next to the file `F` lies `F.lock`, the lock file for opening, growing and writing F (see `lock.Lock` for why it is a
separate file). Every process that has F open also holds a shared `flock` on F itself, which its forked children keep
alive. A process that can take it exclusively is alone, and begins a session.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Callable, Iterator, MutableSet, Optional, Tuple, TypeVar

from .bytelocks import ByteLocks, fcntl
from .layout import BYTE_ORDER, FORMAT, Header, new_page
from .lock import Lock
from .names import brief
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
# What a user can do about an error of the system.
ADVICE = {
    errno.EISDIR: "Name a file in it.",
    errno.ENOENT: "Make its folder first.",
    errno.ENOTDIR: "A part of its path is a file: name a file in a folder.",
    errno.ENAMETOOLONG: "Name a file with a shorter name.",
    errno.ELOOP: "There is a link in its path that leads nowhere, or that somebody has just put there.",
    errno.EACCES: "Name a file in a folder where you may make, read and write files.",
    errno.EPERM: "Name a file in a folder where you may make, read and write files.",
    errno.EROFS: "Its disk can't be written to: name a file elsewhere.",
    errno.ENOSPC: "Its disk is full: not even an empty cache has room.",
    errno.EDQUOT: "The quota on its disk is used up: not even an empty cache has room.",
    errno.EFBIG: "It would be larger than this process may make a file: see `ulimit -f`.",
    errno.EMFILE: "This process has too many files open: close some, or raise the limit, `ulimit -n`.",
    errno.ENFILE: "The machine has too many files open: end other programs, or raise the limit of the system.",
    errno.ENOMEM: "This process has no memory or address space left (`ulimit -v`).",
    errno.ENODEV: "Its file system can't map files into memory: name a file on a local disk.",
    errno.ENOLCK: "Its file system has no locks, or none left: name a file on a local disk.",
    errno.ENOSYS: "Its file system lacks what a cache needs: name a file on a local disk.",
    errno.EOPNOTSUPP: "Its file system lacks what a cache needs: name a file on a local disk.",
    errno.EAGAIN: "Another program has locked it: end that first.",
    errno.ESTALE: "Its folder was on a network disk that is gone: name a file on a local disk.",
    errno.EIO: "Its disk has a fault: see the log of the system, and name a file on another disk.",
}
PRIVATE, OTHERS_WRITE = 0o600, stat.S_IWGRP | stat.S_IWOTH


def resolve(path: Any) -> str:
    """Return the absolute path of a cache file, with `~` and links in the folders above it resolved.

    Raises TypeError if `path` is not a path, and `CacheFileError` if no file can have this name.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"cache_file={brief(path)} is a {type(path).__name__}: use the path of a file")
    path = os.fsdecode(path)
    if not path:
        raise CacheFileError(path, "names no file.")
    try:
        os.fsencode(path)
        if "\0" in path:
            raise ValueError
        above, name = os.path.split(os.path.expanduser(path).rstrip(os.sep) or os.sep)
        if name in ("", os.curdir, os.pardir):  # a folder, which is refused when it is opened
            return os.path.realpath(os.path.join(above, name))
        return os.path.join(os.path.realpath(above), name)
    except OSError as error:  # the current folder was deleted
        raise refused(path, error) from error
    except ValueError as error:
        raise CacheFileError(path, "can't be the name of a file. Name another file.") from error


def same_file(path: str, fd: int) -> bool:
    "Return whether `path` names the file that `fd` refers to. After the file was deleted or replaced, it does not."
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def opened(path: str, locks: MutableSet[Lock], use: Callable[[int, Lock, bool], Result]) -> Result:
    """Open the cache file `path`, call `use(descriptor, lock, alone)` while holding its lock, and return the result.

    Creates the file if it does not exist or is empty. Raises `CacheFileError` for a file that can't be used, and leaves
    it unchanged. Closes the descriptor if `use` raises. `locks` are those that this process already has, to which the
    new one is added: where locks belong to the process, opening and closing one of their files again would drop them.
    """
    if fcntl is None:
        raise CacheFileError(path, "can't be used here: a store over a named file needs a POSIX system.")
    while True:
        _recognise_early(path)  # before a lock file is created beside it
        known = next((known for known in list(locks) if same_file(f"{path}.lock", known.fd)), None)
        lock = known or Lock(ByteLocks(_open_lock(path), opened=True), path)
        locks.add(lock)  # before it is taken: a signal handler that opens the file, too, would wait for itself
        try:
            result = lock.run(partial(_used, path, lock, use))
        except BaseException:
            if known is None:
                locks.discard(lock)
                lock.close()
            raise
        if result is not None:
            return result[0]


def _used(path: str, lock: Lock, use: Callable[[int, Lock, bool], Result]) -> Optional[Tuple[Result]]:
    "Open the file and use it; return None if its lock file was deleted, so that other processes use a new one."
    if not same_file(f"{path}.lock", lock.fd):
        return None
    fd = _open(path, path, os.O_RDWR)
    try:
        if fd < 0 or not os.fstat(fd).st_size:
            empty, fd = fd, -1
            _close(empty)
            fd = _create(path)
        _recognise(path, fd)
        _keep_private(path, fd, lock.fd)
        return (use(fd, lock, _alone(fd)),)
    except BaseException:
        _close(fd)
        raise


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _open(path: str, name: str, flags: int) -> int:
    """Open the cache file `path` or, as `name`, its lock file; return -1 if there is none.

    Raises `CacheFileError` for a link, for what is no regular file, and for a file of another user, who could change it
    at any time. What was opened is looked at, not what has the name now: that may have changed.
    """
    try:
        _refuse_foreign(path, name, os.lstat(name))  # opening a device may do something
        fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        _refuse_foreign(path, name, os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _refuse_foreign(path: str, name: str, status: os.stat_result) -> None:
    "Raise `CacheFileError` unless a file with this status is a regular file of this user's own."
    advice = "Name another file."
    if stat.S_ISLNK(status.st_mode):
        why, advice = "is a symbolic link, and is not followed.", "Name the file itself."
    elif stat.S_ISDIR(status.st_mode):
        why, advice = "can't be opened: Is a directory.", ADVICE[errno.EISDIR]
    elif not stat.S_ISREG(status.st_mode):
        why = "is not a regular file, and is left as it is."
    elif status.st_uid != os.geteuid():
        why = f"belongs to another user (uid {status.st_uid}, you are {os.geteuid()}), who could change it at any time."
    else:
        return
    if name != path:
        why, advice = f"can't be used: its lock file {name!r} {why}", "Delete that, or name another file."
    raise CacheFileError(path, f"{why} {advice}")


def _open_lock(path: str) -> int:
    "Open the lock file of the cache file `path`; create it if there is none."
    name, fd = f"{path}.lock", -1
    while fd < 0:  # somebody else may create or delete it at any time
        fd = _open(path, name, os.O_RDWR)
        if fd < 0:
            with suppress(FileExistsError):
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        if os.fstat(fd).st_nlink == 1:  # else it is also another file of this user's
            _make_private(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make_private(fd: int) -> None:
    "Take the rights of all other users away, where the file system knows rights."
    if stat.S_IMODE(os.fstat(fd).st_mode) != PRIVATE:
        with suppress(OSError):
            os.fchmod(fd, PRIVATE)


def _keep_private(path: str, fd: int, lock_fd: int) -> None:
    """Make an existing cache file private. Raises `CacheFileError` if others could write to it until now.

    A file system that knows no rights (a USB stick's) reports the same ones for every file, its lock file included.
    """
    status, lock = os.fstat(fd), os.fstat(lock_fd)
    knows_rights = lock.st_nlink > 1 or not lock.st_mode & OTHERS_WRITE
    if status.st_mode & OTHERS_WRITE and knows_rights:
        mode = stat.S_IMODE(status.st_mode)
        raise CacheFileError(
            path,
            f"could be changed by other users until now (its mode is {mode:03o}), so its images may not be yours. "
            "`chmod 600` it if you trust it, else delete it: it is only a cache, and will be filled again.",
        )
    _make_private(fd)


def refused(path: str, error: BaseException) -> CacheFileError:
    "Return the `CacheFileError` that says what an error of the system means for the cache file `path`."
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None) or 0
    what = "It has to be a file that can be made, read and written, on a local disk."
    if number != errno.ENOENT or not os.path.isdir(os.path.dirname(path)):
        what = ADVICE.get(number, what)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return CacheFileError(path, f"can't be opened: {reason.rstrip('.')}. {what}")


@contextmanager
def refusing(path: str) -> Iterator[None]:
    "Turn every error of the system in the block into a `CacheFileError` for the cache file `path`."
    try:
        yield
    except (OSError, ValueError, MemoryError) as error:  # mmap raises the others, too
        raise refused(path, error) from error


def _create(path: str) -> int:
    "Create an empty cache file atomically, so that no process reads half a header; return a descriptor."
    new, fd = f"{path}.{uuid.uuid4().hex}.new", -1
    try:
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
        _make_private(fd)
        page = memoryview(new_page())
        while page:
            page = page[os.write(fd, page) :]
        os.fsync(fd)
        os.replace(new, path)
    except BaseException:
        _close(fd)
        with suppress(FileNotFoundError):  # Ctrl-C may have come after it got its name
            os.unlink(new)
        raise
    return fd


def _recognise_early(path: str) -> None:
    "Raise `CacheFileError` if there is a file at `path` that can't be used."
    fd = _open(path, path, os.O_RDONLY)
    try:
        if fd >= 0 and os.fstat(fd).st_size:
            _recognise(path, fd)
    finally:
        _close(fd)


def _recognise(path: str, fd: int) -> None:
    "Raise `CacheFileError` unless this is a cache file that this version of memlist can use on this machine."
    head = os.pread(fd, PAGE, 0)
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
    except BlockingIOError:
        alone = False
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # without it, somebody else might believe to be alone
    return alone
