"""Cache files that lie in memory: found out, and kept within the limit of a real container."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest
from stores import small_disk

from memlist.store import ImageStore, budget, mounts, system
from memlist.store.system import PAGE

TMPFS = "25 24 0:23 / /shm rw,relatime shared:7 - tmpfs tmpfs rw,size=24684084k"
DISK = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"
OVERLAY = "66 63 0:40 / /m rw - overlay overlay rw,lowerdir=/l,upperdir=/a\\040b\\054c,workdir=/w"
LIMIT = 300 << 20


def proc_of(folder: Path, mount_id: str, *lines: str) -> Path:
    "Make a folder like /proc/self in which all descriptors lie on the mount with this number."
    (folder / "fdinfo").mkdir(parents=True)
    (folder / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    for fd in range(100 + max(map(int, os.listdir("/dev/fd")))):
        (folder / "fdinfo" / str(fd)).write_text(f"pos:\t0\nflags:\t02\nmnt_id:\t{mount_id}\n")
    return folder


def test_mounts_are_read_as_the_system_writes_them(tmp_path: Path) -> None:
    there = mounts.mounts(proc_of(tmp_path / "proc", "25", TMPFS, DISK, OVERLAY, "nonsense"))
    assert [(mount.number, mount.device, mount.kind) for mount in there] == [
        ("25", "0:23", "tmpfs"),
        ("27", "254:0", "ext4"),
        ("66", "0:40", "overlay"),
    ]
    assert there[2].options["upperdir"] == "/a b,c" and there[0].options["size"] == "24684084k"


@pytest.mark.parametrize(("mount_id", "expected"), [("25", True), ("27", False)])
def test_the_number_of_the_mount_decides(tmp_path: Path, mount_id: str, expected: bool) -> None:
    assert mounts.is_memory(str(tmp_path), proc_of(tmp_path / "proc", mount_id, TMPFS, DISK)) is expected


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", True), ("ext4", False)])
def test_without_that_number_the_device_decides(tmp_path: Path, kind: str, expected: bool) -> None:
    status = os.stat(tmp_path)
    (tmp_path / "mountinfo").write_text(
        f"9 1 {os.major(status.st_dev)}:{os.minor(status.st_dev)} / /x rw - {kind} none rw\n"
    )
    assert mounts.is_memory(str(tmp_path), tmp_path) is expected


def test_the_kernel_is_asked_where_no_mount_is_known(tmp_path: Path) -> None:
    here = mounts.is_memory(str(tmp_path))
    assert mounts.is_memory(str(tmp_path), tmp_path / "none") is here
    with small_disk(tmp_path / "disk", "4M") as disk:
        assert mounts.is_memory(str(disk)) and mounts.is_memory(str(disk), tmp_path / "none")
    hidden = proc_of(tmp_path / "proc", "66", OVERLAY)
    assert mounts.is_memory(str(tmp_path), hidden) is here
    with pytest.raises(FileNotFoundError):
        mounts.is_memory(str(tmp_path / "missing"))
    assert set(os.listdir(tmp_path)) == {"disk", "proc"}  # the probes left nothing


def test_a_file_in_memory_has_the_budget_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "available_memory", lambda: 10_000_000)
    with small_disk(tmp_path / "disk", "1G") as disk:
        images = ImageStore.open(disk / "cache", "1GB")
        assert type(images._budget) is budget.MemoryFileBudget
        assert 4_900_000 < images.budget() < 5_100_000  # half of the memory stays free, if there is little
        images.set_max_ram(0.25)
        assert 2_400_000 < images.budget() < 2_600_000
        images.set_max_ram("1MB")
        assert images.budget() == 1_000_000
        sent = pickle.loads(pickle.dumps(images._budget.available))  # as to a process that is spawned
        assert type(budget.budget_for(images._header, images._region, sent)) is budget.MemoryFileBudget
        del images
    if not mounts.is_memory(str(tmp_path)):
        assert type(ImageStore.open(tmp_path / "cache")._budget) is budget.DiskBudget
    with small_disk(tmp_path / "small", "2M") as disk:
        assert ImageStore.open(disk / "cache", "1GB").budget() < 2_000_000


def rest(memory: int, images: ImageStore) -> int:
    return memory - images.allocated()


def test_what_a_file_in_memory_has_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "The system takes what the file has from the available memory, so the budget stays as it is while the file fills."
    with small_disk(tmp_path / "disk", "1G") as disk:
        images = ImageStore.open(disk / "cache", 0.5)
        monkeypatch.setattr(system, "available_memory", partial(rest, 40_000_000, images))
        before, kept = images.budget(), 0
        while images.put(b"%d" % kept, np.zeros(100_000, np.uint8)):
            kept += 1
        assert abs(images.budget() - before) <= PAGE and 190 <= kept <= 200
        monkeypatch.undo()
        del images


# -- in a real container ------------------------------------------------------------------------------------------

FILLER = """
import os, sys
sys.modules.update(dict.fromkeys(("fastai", "torch")))  # not to be imported: they would take the memory
import numpy as np
from memlist.store import ImageStore
path, seed, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
images = ImageStore.open(path)
picture = np.random.default_rng(seed).integers(0, 256, (1000, 1000), np.uint8)
kept = [i for i in range(n) if images.put(b"%d %d" % (seed, i), picture + np.uint8(i % 256))]
assert all((images.get(b"%d %d" % (seed, i)).array == picture + np.uint8(i % 256)).all() for i in kept)
print(len(kept), type(images._budget).__name__, images.budget())
"""


@contextmanager
def container(limit: int) -> Iterator[Path]:
    "Make a cgroup with a limit of memory below that of this process; skip the test where that is not allowed."
    found = list(system._cgroup_dirs("memory", Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")))
    for folder, version in found:
        group = folder / f"memlist-test-{uuid.uuid4().hex[:8]}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            while (group / "cgroup.procs").read_text():  # the others, where one was killed
                for pid in (group / "cgroup.procs").read_text().split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            group.rmdir()
        return
    pytest.skip("no right to make a cgroup with a limit of memory")


def mounted(kind: str, folder: Path) -> List[str]:
    "Return the commands that mount memory on `folder`/m: a tmpfs, or an overlay over one, seen or hidden."
    lines = [f"mount -t tmpfs -o size=4G none {folder}", f"mkdir {folder}/m {folder}/u {folder}/w {folder}/l"]
    if kind != "tmpfs":
        options = f"lowerdir={folder}/l,upperdir={folder}/u,workdir={folder}/w"
        lines.append(f"mount -t overlay overlay -o {options} {folder}/m")
    if kind == "overlay over a hidden tmpfs":
        lines += [f"mkdir {folder}.m", f"mount --move {folder}/m {folder}.m", f"mount -t tmpfs none {folder}"]
        lines += [f"mkdir {folder}/m", f"mount --bind {folder}.m {folder}/m"]
    return lines


def fill_in_container(kind: str, folder: Path, processes: int, limit: int = LIMIT) -> List[List[str]]:
    """Fill a cache file in memory with 1 GB of images from each of some processes, under a real limit.

    Return what each printed: records kept, class of the budget, bytes of it. Raises AssertionError if one was killed.
    """
    folder.mkdir()
    with container(limit) as group:
        fill = f"{sys.executable} -W ignore -c '{FILLER}' {folder}/m/cache"
        script = [f"echo $$ > {group}/cgroup.procs", *mounted(kind, folder), "pids="]
        script += [f'{fill} {i} 1000 & pids="$pids $!"' for i in range(processes)]
        script += ["for pid in $pids; do wait $pid || exit $?; done", f"cat {group}/memory.oom_control >&2 || true"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            ["unshare", "-m", "sh", "-e", "-c", "\n".join(script)], capture_output=True, text=True, env=environment
        )
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no right to mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    if "oom_kill " in done.stderr:  # cgroup v1
        assert "oom_kill 0" in done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("kind", ["tmpfs", "overlay over a tmpfs", "overlay over a hidden tmpfs"])
def test_a_cache_file_in_memory_is_never_the_end_of_a_process(tmp_path: Path, kind: str, processes: int) -> None:
    rows = fill_in_container(kind, tmp_path / "disk", processes)
    assert len(rows) == processes and {row[1] for row in rows} == {"MemoryFileBudget"}
    assert 40 <= sum(int(row[0]) for row in rows) < LIMIT / 1e6 and all(int(row[2]) < LIMIT for row in rows)
