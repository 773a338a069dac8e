"""Go on with a named file whose disk is full: lose no process, no record and no call that only reads.

A disk that writes copies of pages (btrfs, XFS with reflinks) needs room even to change a byte that is there. So every
write to a named file is a system call that may raise OSError, and never a store to a mapped page, which would kill the
process. Hits need no write. A `put` is refused, notes and the budget are kept in memory, and what a writer left
unfinished is finished by the next one that finds room. A file that is opened while its disk is full is used as it is;
if it has to be mended first, then in a private copy of its header page, which is written as soon as there is room.
Another process may find room first, a forked child or one that joins. What it writes is followed.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import Any, Iterator, Tuple, cast

from .layout import GENERATION, IDLE, PURGE, Header
from .region import Region
from .system import PAGE


@contextmanager
def unless_full() -> Iterator[None]:
    "Leave the block if it raises OSError because disk, quota, address space or a limit on file sizes is used up."
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
            raise


def is_writable(header: Header, region: Region, sound: bool = True) -> bool:
    """Return whether the header page can be written; if not, the disk is full.

    If the header is `sound`, what lies beyond the tail is given back to the disk first, if that helps. Needs the mutex.
    """
    follow(header, region)
    if header.frozen == LEFT_BEHIND:
        return False
    for give_back in (False, True):
        if give_back and sound:
            region.punch(header.tail, header.end)
        with suppress(OSError):
            region.touch()
            return True
    return False


# `Header.frozen` of a process that can use the file no more.
LEFT_BEHIND = b""


class _Followed:
    """Be the words of a private header page until another process has written the page of the file.

    That is looked up whenever the generation is read, with which every read of a record begins and ends.
    """

    def __init__(self, header: Header, region: Region) -> None:
        self.header, self.region, self.words = header, region, header.words

    def __getitem__(self, number: Any) -> Any:
        if number == GENERATION and follow(self.header, self.region):
            return self.header.words[number]
        return self.words[number]


def freeze(header: Header, region: Region, page: bytes = b"", private: bytes = b"") -> None:
    "Use a private copy of the header page from now on: `private`, made when the page was as in `page`, or a new one."
    page = page or region.peek(0, PAGE)
    header.freeze(page, private or page)
    header.words = cast(memoryview, _Followed(header, region))


def frozen(header: Header) -> Tuple[bytes, ...]:
    "Return what another process passes to `freeze`; nothing if this one uses the header page of the file."
    return (header.frozen, bytes(header.words[:])) if header.frozen else ()


def follow(header: Header, region: Region) -> bool:
    """Use the header page of the file again if another process has written it meanwhile; return whether that is so.

    What this process has mapped must be the first segments of that header. If it is not, because a process of another
    family has mended the file in its own way, this one finds no records any more, and stores none.
    """
    if not header.frozen or region.peek(0, PAGE) == header.frozen:
        return False
    there = Header(region.header_words, region.set_words)
    if there.ends[: len(region.ends)] == region.ends:
        header.words, header.write, header.frozen = there.words, there.write, None
        return True
    header.frozen = LEFT_BEHIND
    header.index = 0
    header.generation += PURGE
    header.clear_counts()
    header.tail, header.busy = PAGE, IDLE
    return False


def thaw(header: Header, region: Region) -> None:
    "Write the private copy of the header page, if this is one, into the file; raise OSError if the disk is still full."
    follow(header, region)
    if header.frozen == LEFT_BEHIND:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if header.frozen is not None:
        region.poke(0, bytes(header.words[:]))
        header.words, header.write, header.frozen = region.header_words, region.set_words, None
