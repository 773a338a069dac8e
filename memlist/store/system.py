"""What this process may use: memory, address space, file size and CPUs, container limits included.

Every reader returns a number now; nothing is cached, because other processes come and go while a cache fills.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple, Union

import psutil

# Of what is available, the share that a store takes when nobody says otherwise; the rest is for the
# training itself: batches, workers, the page cache that still serves what did not fit.
DEFAULT_SHARE = 0.8
# Whatever the budget, this much of memory stays free (where memory is small: this share of it): the kernel kills at
# zero, and a training with workers, each with its batches in the making, takes hundreds of megabytes after the fill.
RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 0.5
# Of a disk, no more than this share, and never more than the bytes above: nobody is killed when a disk is full.
DISK_RESERVE_SHARE = 0.1

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS.update({f"{u}I": 1024**i for i, u in enumerate("KMGT", 1)})
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?)B?\s*", re.IGNORECASE)

MaxRam = Union[None, int, float, str]


def parse_max_ram(value: MaxRam) -> Tuple[Optional[int], float]:
    """`(bytes, share)` of a budget as users write it: one of the two rules, the other is None or 1.

    `'8GB'`, `'500MiB'`, `'8 G'`: decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB) units; an int: bytes; a
    float in (0, 1]: that share of what is available; None: `DEFAULT_SHARE` of it. Raises `ValueError` or
    `TypeError` naming the value and what would be right.
    """
    wanted = "use '8GB', '500MiB', a number of bytes, a share in (0, 1] or None"
    if value is None:
        return None, DEFAULT_SHARE
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"max_ram={value!r} is a {type(value).__name__}: {wanted}")
        value = int(value)
    if isinstance(value, float):
        if not 0 < value <= 1:
            raise ValueError(f"max_ram={value!r}: a float is a share of the available memory; {wanted}")
        return None, value
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"max_ram={value!r} is negative: {wanted}")
        return value, 1.0
    found = _SIZE.fullmatch(value)
    if not found or found[2].upper() == "I" or (not found[2] and "." in found[1]):
        raise ValueError(f"max_ram={value!r} can't be read as a size: {wanted}")
    return int(float(found[1]) * _UNITS[found[2].upper()]), 1.0


def format_size(nbytes: float) -> str:
    "`nbytes` as people read it: decimal units, three figures at most."
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def _read(path: Path) -> Optional[str]:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cgroup_dirs(controller: str, root: Path, proc: Path) -> Iterator[Tuple[Path, int]]:
    """The directories of this process's cgroup and of those above it, each with its version, 2 or 1.

    Inside a container the path in /proc/self/cgroup may be the host's and absent here; then only the root
    directory exists, which is the container's own.
    """
    for line in (_read(proc) or "").splitlines():
        number, names, path = line.split(":", 2)
        if number == "0" and not names:
            base, version = root, 2
        elif controller in names.split(","):
            base, version = root / names, 1
            if not base.exists():
                base = root / controller
        else:
            continue
        here = base / path.lstrip("/")
        while True:
            if here.is_dir():
                yield here, version
            if here == base or base not in here.parents:
                break
            here = here.parent


def _stat(folder: Path) -> Dict[str, int]:
    lines = (_read(folder / "memory.stat") or "").splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def cgroup_available(root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self/cgroup")) -> Optional[int]:
    """Bytes left under the tightest cgroup limit, v1 or v2, of this process; None where there is no limit.

    File pages count as free, since the kernel drops them before it kills; shared memory, ours included, is
    not among them (it is swap-backed).
    """
    found = []
    for folder, version in _cgroup_dirs("memory", root, proc):
        limit, used, prefix = (
            ("memory.max", "memory.current", "")
            if version == 2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        )
        most, now = _read(folder / limit), _read(folder / used)
        if most is None or now is None or most == "max" or int(most) >= 1 << 60:
            continue
        stat = _stat(folder)
        cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
        found.append(max(0, int(most) - int(now) + cache))
    return min(found) if found else None


def address_space_left() -> Optional[int]:
    "Bytes left under `ulimit -v` (RLIMIT_AS); None without such a limit or off Linux."
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return max(0, soft - pages * resource.getpagesize())
    except (ImportError, OSError, ValueError):
        return None


def file_size_limit() -> Optional[int]:
    "The largest file this process may make, in bytes (`ulimit -f`, RLIMIT_FSIZE); None without a limit."
    try:
        import resource
    except ImportError:
        return None
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def available_memory() -> int:
    "Bytes that could be taken now without swapping or being killed: the host's and every container's limit."
    host = int(psutil.virtual_memory().available)
    inside = cgroup_available()
    return host if inside is None else min(host, inside)


def disk_available(path: str) -> int:
    "Bytes that the disk of the file `path` can still give; where that disk is itself memory, no more than memory can."
    folder = os.path.dirname(path)  # of a file that was deleted, too
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return 0
    return min(free, available_memory()) if is_memory(folder) else free


def is_memory(path: str) -> bool:
    "Whether what lies at `path` is on no disk but in memory (tmpfs)."
    real = os.path.join(os.path.realpath(path), "")
    mounts = [m for m in psutil.disk_partitions(all=True) if real.startswith(os.path.join(m.mountpoint, ""))]
    return bool(mounts) and max(mounts, key=lambda m: len(m.mountpoint)).fstype in ("tmpfs", "ramfs")


def usable_cpus() -> int:
    "CPUs this process may run on: its affinity, and its cgroup v2 quota rounded up; 1 at least."
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    for folder, version in _cgroup_dirs("cpu", Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        quota = (_read(folder / "cpu.max") or "max 1").split() if version == 2 else ["max"]
        if quota[0] != "max":
            cpus = min(cpus, -(-int(quota[0]) // int(quota[1])))
    return max(1, cpus)
