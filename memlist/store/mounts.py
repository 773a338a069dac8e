"""Tell whether a file lies in memory: on a tmpfs, or on an overlay whose upper layer is one.

Such a file takes memory as an anonymous store does: the kernel can't drop its pages, and kills processes instead. The
system names the mount of an open file by its number, so names and links need not be compared.

An overlay keeps new files in its upper layer, which its mount names. Inside a container that folder is the host's, and
can't be seen. Nearly all such layers lie on a disk, but not all do, and free space looks the same. So then the kernel
is asked: a page that was written out and that it does not drop is memory. Where even that can't be asked, the file is
taken to be on a disk.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from .descriptor import anonymous
from .region import Region
from .system import PAGE

# File systems that are kept in memory. The first one of a machine that runs from memory is called rootfs.
IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs", "hugetlbfs", "rootfs"))
_ESCAPED = re.compile(r"\\([0-7]{3})")
PROC = Path("/proc/self")


class Mount(NamedTuple):
    "Name a mount: its number, the number of its device, the kind of file system, and the options of that."

    number: str
    device: str
    kind: str
    options: Dict[str, str]


def mounts(proc: Path = PROC) -> List[Mount]:
    "Return the mounts that this process sees; an empty list where the system does not tell."
    found = []
    try:
        lines = os.fsdecode((proc / "mountinfo").read_bytes()).splitlines()
    except OSError:
        return []
    for line in lines:
        before, _, after = line.partition(" - ")
        first, last = before.split(" "), after.split(" ")
        if len(first) > 2 and len(last) > 2:
            pairs = (option.partition("=") for option in last[2].split(","))
            found.append(Mount(first[0], first[2], last[0], {name: _plain(value) for name, _, value in pairs}))
    return found


def _plain(text: str) -> str:
    "Return the value of an option; the system writes a comma or a blank in it as an octal number."
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def mount_of(fd: int, proc: Path = PROC) -> Optional[Mount]:
    "Return the mount that an open file or folder lies on; None if the system does not tell."
    status, there, number = os.fstat(fd), mounts(proc), ""
    try:
        for line in (proc / "fdinfo" / str(fd)).read_text().splitlines():
            if line.startswith("mnt_id:"):
                number = line.split()[1]
    except OSError:
        pass
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}" if hasattr(os, "major") else ""
    return next((mount for mount in there if mount.number == number), None) or next(
        (mount for mount in there if mount.device == device), None
    )


def is_memory(folder: str, proc: Path = PROC) -> bool:
    "Return whether files made in `folder` take memory; raise OSError if it can't be opened. Costs half a millisecond."
    fd = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY))
    try:
        mount = mount_of(fd, proc)
        if mount is not None and mount.kind != "overlay":
            return mount.kind in IN_MEMORY
        upper = mount.options.get("upperdir", "") if mount else ""
        if mount is not None and not upper:  # nothing can be written there
            return False
        if os.path.isabs(upper) and upper != folder and _same_size(fd, upper):
            return is_memory(upper, proc)
    finally:
        os.close(fd)
    return keeps_pages(folder)


def _same_size(fd: int, upper: str) -> bool:
    "Return whether the folder `upper` exists here, on a file system of the size that the overlay reports for its own."
    try:
        ours, theirs = os.fstatvfs(fd), os.statvfs(upper)
    except OSError:
        return False
    return (ours.f_blocks, ours.f_files) == (theirs.f_blocks, theirs.f_files)


def keeps_pages(folder: str) -> bool:
    "Return whether the kernel keeps a page of a file in `folder` after it was written out and is asked to drop it."
    if not hasattr(os, "posix_fadvise"):
        return False
    try:
        region = Region("file", anonymous("file", "probe", folder))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # which tells nothing about the folder
            raise
        return False
    try:
        region.grow(0, PAGE)
        region.write(0, np.ones(PAGE, np.uint8))
        os.fsync(region.fd)
        region.attach(PAGE)
        os.posix_fadvise(region.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return region.resident() > 0
    except (OSError, ValueError):
        return False
    finally:
        region.close()


class Room:
    """Tell how many bytes are free on the file system of the file `path`, and whether that is kept in memory.

    Other processes are sent it with the store, so that all of them have the same budget.
    """

    def __init__(self, path: str) -> None:
        self.path, self.in_memory = path, is_memory(os.path.dirname(path))

    def __call__(self) -> int:
        "Return the bytes that are free; 0 if the folder is gone."
        try:
            return shutil.disk_usage(os.path.dirname(self.path)).free  # the file itself may have been deleted
        except OSError:
            return 0
