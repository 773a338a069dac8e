"""The named file behind a store: made in one step, recognised or refused, and opened by one process at a time.

Beside the file `F` lies `F.lock`: whoever opens, grows or writes F holds its first byte (see `backing.Lock`; it has to
be a file of its own). Who has F open also holds a shared `flock` on F itself, which its forked children keep alive:
who gets it alone is the first to open F after everybody has left, and begins a session.
"""

from __future__ import annotations

import errno
import os
import sys
import uuid
import zlib
from contextlib import contextmanager
from typing import Any, Dict, Iterable, Iterator, Tuple

import numpy as np

from .lock import Lock, fcntl
from .system import PAGE

# The first words (uint64) of the header page, which never change: what wrote the file, in which order of bytes and
# with which size of page, who it is, and a checksum of these four.
FORMAT = b"memlist1"
MAGIC, ORDER, PAGE_SIZE, IDENTITY, CHECKSUM = range(5)
BYTE_ORDER = 0x0102030405060708


class CacheFileError(Exception):
    "A `cache_file` that can't be used; the message says why and what to do about it. Nothing of it was changed."

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"cache_file={path!r} {why}")
        self.path, self.why = path, why

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (self.path, self.why)


HOPELESS = "It is only a cache: delete it and it will be filled again, or name another file."


def words_of_a_new_file() -> Dict[int, int]:
    "The words that say what the file is."
    words = {
        MAGIC: int.from_bytes(FORMAT, sys.byteorder),  # the same bytes on every machine
        ORDER: BYTE_ORDER,
        PAGE_SIZE: PAGE,
        IDENTITY: uuid.uuid4().int >> 64,
    }
    return {**words, CHECKSUM: _checksum(words)}


def _checksum(words: Dict[int, int]) -> int:
    return zlib.crc32(np.array([words[i] for i in range(CHECKSUM)], np.uint64).tobytes())


def resolve(path: Any) -> str:
    "The one name of a cache file: absolute, `~` and links resolved. Raises TypeError for what is no path."
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"cache_file={path!r} is a {type(path).__name__}: use the path of a file")
    if not os.fspath(path):
        raise CacheFileError(str(path), "names no file.")
    return os.path.realpath(os.path.expanduser(os.fspath(path)))


def same_file(path: str, fd: int) -> bool:
    "Whether `path` still names the file that `fd` is open on; a deleted or exchanged one is another."
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


@contextmanager
def opened(path: str, first: Dict[int, int], locks: Iterable[Lock]) -> Iterator[Tuple[int, Lock, bool]]:
    """`(descriptor, lock, alone)` of the cache file `path`, with its lock held while the block runs.

    Where there is none, or an empty file, one is made with the words `first` in its header. Raises `CacheFileError`
    for what is no cache file of ours, having changed nothing; closes what it opened if the block raises. `locks` are
    those that this process has: to open the file of one of them a second time, and close it, would drop what it holds.
    """
    if fcntl is None:
        raise CacheFileError(path, "can't be used here: a store over a named file needs a POSIX system.")
    if os.path.exists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise CacheFileError(path, "is no regular file, and is left as it is. Name another file.")
    while True:
        try:
            if os.path.exists(path) and os.path.getsize(path):
                _recognise(path)  # before anything is made beside it
            lock = next((known for known in locks if same_file(f"{path}.lock", known.fd)), None) or Lock(
                "named", os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            )
        except OSError as error:
            raise _refused(path, error) from error
        fd = -1
        try:
            with lock.held():
                if same_file(f"{path}.lock", lock.fd):  # else somebody deleted it, and who comes now holds another
                    try:
                        if not os.path.exists(path) or not os.path.getsize(path):
                            _create(path, {**first, **words_of_a_new_file()})
                        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                    except OSError as error:
                        raise _refused(path, error) from error
                    _recognise(path)
                    yield fd, lock, _alone(fd)
                    return
        except BaseException:
            if fd >= 0:
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


def _create(path: str, words: Dict[int, int]) -> None:
    "Put a file of one page, the header, at `path`: whole or not at all."
    page = np.zeros(PAGE // 8, np.uint64)
    for word, value in words.items():
        page[word] = value
    new = f"{path}.{uuid.uuid4().hex}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            os.write(fd, page.tobytes())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _recognise(path: str) -> None:
    "Raise `CacheFileError` unless `path` is a cache file that this memlist on this machine can use."
    with open(path, "rb") as file:
        head = file.read(PAGE)
    name = head[: len(FORMAT)]
    if name == FORMAT and len(head) < PAGE:
        raise CacheFileError(path, f"is cut off within its header. {HOPELESS}")
    if name == FORMAT:
        words = dict(enumerate(np.frombuffer(head, np.uint64)[: CHECKSUM + 1].tolist()))
        if words[ORDER] == int.from_bytes(BYTE_ORDER.to_bytes(8, "little"), "big"):
            raise CacheFileError(path, f"was written by a machine of the other byte order. {HOPELESS}")
        if words[CHECKSUM] != _checksum(words) or words[ORDER] != BYTE_ORDER:
            raise CacheFileError(path, f"has a damaged header. {HOPELESS}")
        if words[PAGE_SIZE] != PAGE:
            raise CacheFileError(
                path,
                f"was written by a machine with pages of {words[PAGE_SIZE]} bytes; here they have {PAGE}. {HOPELESS}",
            )
    elif name.startswith(FORMAT[:-1]):
        version, ours = name[-1:].decode("latin-1"), FORMAT[-1:].decode()
        raise CacheFileError(path, f"has format {version!r}; this memlist reads and writes {ours!r}. {HOPELESS}")
    else:
        raise CacheFileError(path, "is no memlist cache file, and is left as it is. Name another file.")


def _alone(fd: int) -> bool:
    "Join those who have the file open; whether there is nobody else."
    assert fcntl is not None
    alone = True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        alone = False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # a file system without these locks: nobody is known to be alone
        alone = False
    return alone
