"""Read what this process may use: memory, address space, file size and CPUs, including limits of containers.

No value is cached, because other processes come and go while a store fills.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

import psutil

PAGE = mmap.PAGESIZE


def _read(path: Path) -> Optional[str]:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cgroup_dirs(controller: str, root: Path, proc: Path) -> Iterator[Tuple[Path, int]]:
    """Yield the directories of this process's cgroup and its ancestors, each with its version, 2 or 1.

    Inside a container, the path in /proc/self/cgroup may be the host's and not exist. Then only the root directory is
    yielded, which is the container's own.
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
    """Return the bytes left under the tightest cgroup limit, v1 or v2, of this process; None without a limit.

    In v2 that is `memory.max`, where the kernel kills, or `memory.high`, where it makes processes wait. File pages
    count as free, because the kernel drops them before it kills processes. Shared memory does not: a store, a file on
    tmpfs.
    """
    found = []
    for folder, version in _cgroup_dirs("memory", root, proc):
        names, used, prefix = (
            (("memory.max", "memory.high"), "memory.current", "")
            if version == 2
            else (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_")
        )
        limits = [most for most in (_number(folder / name) for name in names) if most is not None]
        now = _number(folder / used)
        if not limits or now is None:
            continue
        stat = _stat(folder)
        cache = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
        found.append(max(0, min(limits) - now + cache))
    return min(found) if found else None


def _number(path: Path) -> Optional[int]:
    "Return the number in a file of a cgroup; None if there is none, or if it stands for no limit."
    text = _read(path) or ""
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def address_space_left() -> Optional[int]:
    "Return the bytes left under `ulimit -v` (RLIMIT_AS); None without such a limit or off Linux."
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
    "Return the largest file size that this process may create (`ulimit -f`, RLIMIT_FSIZE); None without a limit."
    try:
        import resource
    except ImportError:
        return None
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def available_memory() -> int:
    "Return how many bytes can be taken now without swapping or being killed, by the limits of host and container."
    host = int(psutil.virtual_memory().available)
    inside = cgroup_available()
    return host if inside is None else min(host, inside)


def usable_cpus() -> int:
    "Return how many CPUs this process may use: its affinity and its cgroup v2 quota, rounded up; at least 1."
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:
        cpus = os.cpu_count() or 1
    for folder, version in _cgroup_dirs("cpu", Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")):
        quota = (_read(folder / "cpu.max") or "max 1").split() if version == 2 else ["max"]
        if quota[0] != "max":
            cpus = min(cpus, -(-int(quota[0]) // int(quota[1])))
    return max(1, cpus)
