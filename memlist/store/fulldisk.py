"""Go on with a named file whose disk is full: lose no process, no record and no call that only reads.

A disk that writes copies of pages (btrfs, XFS with reflinks) needs room even to change a byte that is there. So every
write to a named file is a system call that may raise OSError, and never a store to a mapped page, which would kill the
process. Hits need no write. A `put` is refused, notes and the budget are kept in memory, and what a writer left
unfinished is finished by the next one that finds room. A file that is opened while its disk is full is used as it is;
if it has to be mended first, then in a private copy of its header page, which is written as soon as there is room.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager, suppress
from typing import Iterator

from .layout import Header
from .region import Region
from .system import PAGE


@contextmanager
def unless_full() -> Iterator[None]:
    "Leave the block if it raises OSError because the disk, a quota or a limit on the size of files is used up."
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def is_writable(header: Header, region: Region, sound: bool = True) -> bool:
    """Return whether the header page can be written; if not, the disk is full.

    If the header is `sound`, what lies beyond the tail is given back to the disk first, if that helps. Needs the mutex.
    """
    for give_back in (False, True):
        if give_back and sound:
            region.punch(header.tail, header.end)
        with suppress(OSError):
            region.touch()
            return True
    return False


def freeze(header: Header, region: Region) -> None:
    "Use a private copy of the header page from now on."
    header.freeze(region.peek(0, PAGE))


def thaw(header: Header, region: Region) -> None:
    "Write the private copy of the header page, if this is one, into the file; raise OSError if the disk is still full."
    if header.frozen is not None:
        if region.peek(0, PAGE) == header.frozen:  # else another process has mended the file meanwhile
            region.poke(0, bytes(header.words))
        header.frozen, header.words, header.write = None, region.header_words, region.set_words
