"""The file that a record was made from, or the files."""

from __future__ import annotations

import errno
import os
import sys
import time
from hashlib import blake2b
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from .layout import NO_FILE

# What precedes each path in the `path` of several. It can't be part of an absolute path that is normalised. A second
# mark follows if there was no such file.
_NEXT, _MISSING = b"/./", b"-"

# Odd, so that different times give different products, and large, so that sums of two times rarely meet: 2**64 over the
# golden ratio, as in Knuth's multiplicative hashing (The Art of Computer Programming, volume 3, section 6.4).
_FACTOR = 0x9E3779B97F4A7C15


class Source(NamedTuple):
    """Identify the file that a record was made from: size in bytes, modification time in ns, and path.

    A record that was made from several files has a digest of all their sizes and times in place of a size and a time,
    and one `path` that names them all, see `again`. What might be the name of a file, and was none, is one of them: a
    file that appears later is a change, too.

    `looked` is the time (`time.monotonic_ns`) just before the file was examined. `ctime_ns` is when its inode changed
    last, which no program can set; 0 if unknown. Only a named file keeps the path.
    """

    size: int
    mtime_ns: int
    path: bytes = b""
    looked: int = 0
    ctime_ns: int = 0

    @classmethod
    def of(cls, item: Any) -> Optional[Source]:
        """Examine the file that `item` names, or all files that are named in a tuple, list, dict, array or data frame.

        Returns None if it names none. Costs a system call per name.
        """
        looked = time.monotonic_ns()
        if not isinstance(item, (str, bytes, os.PathLike)):
            return cls._of_several(_names_in(item), looked)
        try:
            name = os.fsencode(item)
            stat = os.stat(name)
        except (OSError, ValueError):
            return None
        return cls(stat.st_size, stat.st_mtime_ns, _absolute(name), looked, stat.st_ctime_ns)

    @classmethod
    def again(cls, path: bytes) -> Optional[Source]:
        "Examine what has the `path` of an earlier source; return None if a file that there was is gone."
        if not path.startswith(_NEXT):
            return cls.of(path)
        there = files_of(path)
        if not all(map(os.path.exists, there)):
            return None
        names = [one[1:] if one[:1] == _MISSING else one for one in path.split(_NEXT)[1:]]
        return cls._of_several(names, time.monotonic_ns())

    @classmethod
    def _of_several(cls, names: Iterable[Any], looked: int) -> Optional[Source]:
        "Return the source of what was made from the files with these names; None if no file can have one of them."
        found, ctimes, path = blake2b(digest_size=16), blake2b(digest_size=8), []  # type: Any, Any, List[bytes]
        for name in dict.fromkeys(_possible(names)):
            try:
                stat = os.stat(name)
                version = b"%d %d" % (stat.st_size, stat.st_mtime_ns)
                ctimes.update(b"%d\0" % stat.st_ctime_ns)
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:  # a text
                    continue
                version = b""
            path += [_NEXT, name if version else _MISSING + name]
            found.update(b"%s\0%s\0" % (name, version))
        if not path:
            return None
        digest = found.digest()
        size, mtime_ns = int.from_bytes(digest[:8], "little") >> 1, int.from_bytes(digest[8:], "little", signed=True)
        return cls(size, mtime_ns, b"".join(path), looked, int.from_bytes(ctimes.digest(), "little"))

    @property
    def version(self) -> Tuple[int, int]:
        """Return what a named store keeps to recognise the file: its size, and its modification time.

        Both stay the same if a data set is copied or unpacked again. The time is wrapped to 64 bits.
        """
        return self.size, _wrapped(self.mtime_ns)

    @property
    def moment(self) -> Tuple[int, int]:
        """Return what an anonymous store keeps: `version`, and in its second number also when the inode changed last.

        So it notices a file that was replaced by one of the same size and modification time.
        """
        return self.size, _wrapped(self.mtime_ns + _FACTOR * self.ctime_ns)

    @property
    def several(self) -> bool:
        "Return whether this stands for several files."
        return self.path.startswith(_NEXT)


def _wrapped(number: int) -> int:
    "Return what 64 bits with a sign keep of a number."
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


NO_SOURCE = Source(NO_FILE, 0)


def files_of(path: bytes) -> List[bytes]:
    "Return the paths of the files that the `path` of a source names; none if that is empty."
    if not path.startswith(_NEXT):
        return [path] if path else []
    return [one for one in path.split(_NEXT)[1:] if one[:1] != _MISSING]


def _absolute(name: bytes) -> bytes:
    "Return a path as an absolute one. A `..` is resolved on disk, because links affect it."
    if name[:1] == b"/" and b"//" not in name and b"/." not in name and name[-1:] != b"/":
        return name  # it is normalised already
    return os.path.realpath(name) if b".." in name else os.path.abspath(name)


def _possible(names: Iterable[Any]) -> Iterator[bytes]:
    "Yield those of `names` that a file may have, as absolute paths."
    for name in names:
        try:
            encoded = os.fsencode(name)
            if encoded and b"\0" not in encoded:
                yield _absolute(encoded)
        except (OSError, ValueError):  # a text of characters that no name has
            continue


def _names_in(item: Any) -> Iterator[Any]:
    "Yield every string, path and bytes in `item`."
    if isinstance(item, (str, bytes, os.PathLike)):
        yield item
    elif isinstance(item, (tuple, list)):
        for one in item:
            yield from _names_in(one)
    elif isinstance(item, dict):
        for pair in item.items():
            yield from _names_in(pair)
    elif isinstance(item, (np.ndarray, np.void)):
        if item.dtype.kind in "USO" or item.dtype.names:
            yield from _names_in(item.tolist())
    elif "pandas" in sys.modules and isinstance(item, _frames()):
        frame = item if item.ndim == 2 else item.to_frame()
        yield from _names_in([frame.columns.to_numpy(), frame.index.to_numpy()])
        yield from _names_in([frame.iloc[:, i].to_numpy() for i in range(frame.shape[1])])


def _frames() -> Tuple[Any, ...]:
    pandas: Any = sys.modules["pandas"]
    return pandas.DataFrame, pandas.Series
