"""How much a store may take: budgets, containers and limits of the process."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
from stores import KINDS, Make, key, picture
from stores import kind as kind  # the fixtures
from stores import make as make

from memlist.store import ImageStore, budget, system
from memlist.store.system import PAGE


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("8GB", 8 * 10**9), ("500MiB", 500 << 20), ("1.5 kb", 1500), ("12", 12), ("2T", 2 * 10**12), (7, 7), (0, 0)],
)
def test_sizes_as_people_write_them(text: Any, nbytes: int) -> None:
    assert budget.parse_max_ram(text) == (nbytes, 1.0)


@pytest.mark.parametrize("value", ["lots", "", "-1GB", "8 GB of RAM", "i", -5, 0.0, 1.5, -0.1, float("nan"), True, [1]])
def test_invalid_sizes_are_named_in_the_error(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_ram=") as error:
        ImageStore(value)
    assert repr(value) in str(error.value) and "8GB" in str(error.value)


def test_the_budget_holds_to_the_byte(make: Make) -> None:
    images = make(200_000)
    kept = [i for i in range(300) if images.put(key(i), np.full((20, 20, 3), i % 256, np.uint8))]
    assert 100 < len(kept) < 170 and kept == list(range(len(kept)))
    assert images.taken - PAGE <= 200_000
    assert not images.put(b"big", np.zeros(250_000, np.uint8))
    assert images.get(key(kept[-1])).array[0, 0, 0] == kept[-1] % 256  # type: ignore[union-attr]


def test_a_budget_of_zero_stores_nothing() -> None:
    images = ImageStore(0)
    assert not images.put(b"a", picture(1)) and len(images) == 0 and images.info().max_ram == 0


def test_a_share_follows_the_available_memory() -> None:
    free = [1_000_000_000]
    images = ImageStore(0.5, available=lambda: free[0])
    assert images.budget() == pytest.approx(500_000_000, rel=0.01)
    assert images.put(b"a", picture(1))
    free[0] = 0  # others took it
    images._budget.look_again()
    assert not images.put(b"b", picture(1))
    free[0] = 1_000_000_000
    images._budget.look_again()
    assert images.put(b"b", picture(1))


def test_an_explicit_budget_leaves_the_machine_a_reserve() -> None:
    images = ImageStore("8GB", available=lambda: 100_000_000)
    assert images.budget() < 100_000_000


def test_all_processes_have_the_same_budget() -> None:
    images = ImageStore("1GB")
    process = multiprocessing.get_context("fork").Process(target=images.set_max_ram, args=("5MB",))
    process.start()
    process.join()
    assert images.info().max_ram == 5_000_000 and images.rule == 5_000_000


CGROUP_V2 = {"proc": "0::/job/step\n", "job/memory.max": "1000000", "job/memory.current": "400000",
             "job/memory.stat": "inactive_file 50000\nactive_file 10000\nanon 1", "job/step/memory.max": "max",
             "job/step/memory.current": "1"}  # fmt: skip


CGROUP_V1 = {"proc": "5:cpu:/x\n4:memory:/job\n", "memory/job/memory.limit_in_bytes": "500000",
             "memory/job/memory.usage_in_bytes": "100000", "memory/job/memory.stat": "total_inactive_file 1000",
             "memory/memory.limit_in_bytes": str(1 << 63), "memory/memory.usage_in_bytes": "5"}  # fmt: skip


# Above `memory.high` the kernel makes processes wait until they have given memory back, which a store never does.
HIGH = {**CGROUP_V2, "job/memory.high": "700000"}
HIGH_ABOVE = {**CGROUP_V2, "job/memory.high": "2000000"}
HIGH_ALONE = {**HIGH, "job/memory.max": "max"}
HIGH_BELOW = {**CGROUP_V2, "job/memory.high": "max", "job/step/memory.high": "100000"}
HIGH_EXCEEDED = {**CGROUP_V2, "job/memory.high": "300000"}
# Neither version counts shared memory, which the kernel can't drop, among the pages of files.
SHARED_V2 = {**CGROUP_V2, "job/memory.stat": "anon 1\nfile 390000\nshmem 380000\ninactive_anon 380000\n"
             "inactive_file 6000\nactive_file 4000"}  # fmt: skip
SHARED_V1 = {**CGROUP_V1, "memory/job/memory.stat": "cache 90000\nshmem 80000\ninactive_file 1\ntotal_cache 90000\n"
             "total_shmem 80000\ntotal_inactive_file 6000\ntotal_active_file 4000"}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "left"),
    [
        (CGROUP_V2, 660_000),
        (CGROUP_V1, 401_000),
        ({"proc": "0::/"}, None),
        (HIGH, 360_000),
        (HIGH_ABOVE, 660_000),
        (HIGH_ALONE, 360_000),
        (HIGH_BELOW, 99_999),
        (HIGH_EXCEEDED, 0),
        (SHARED_V2, 610_000),
        (SHARED_V1, 410_000),
    ],
)
def test_container_limits(tmp_path: Any, files: Dict[str, str], left: Any) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert system.cgroup_available(tmp_path, tmp_path / "proc") == left


LIMITED = """
import resource, sys
import numpy as np
from memlist.store import ImageStore
what, room, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if what == "AS":
    room += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(getattr(resource, "RLIMIT_" + what), (room, room))
images = ImageStore.open(sys.argv[4]) if kind == "named" else ImageStore(kind=kind)
array = np.zeros((1000, 1000), np.uint8)
kept = 0
while kept < 400 and images.put(b"%d" % kept, array + kept % 256):
    kept += 1
assert all(images.get(b"%d" % i).array[5, 5] == i % 256 for i in range(kept))
np.ones(20_000_000 // 8)  # the rest of the process still has room
print(kept)
"""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["AS", "FSIZE"])
def test_ulimits_make_the_budget_smaller_and_are_no_error(what: str, kind: str, tmp_path: Path) -> None:
    "Set `ulimit -v` and `-f` to 200 MB each, as SLURM does."
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, what, "200000000", kind, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 50 <= int(done.stdout) < 200


def test_the_budget_bounds_the_file_itself(tmp_path: Path) -> None:
    images = ImageStore.open(tmp_path / "cache", "5MB")
    while images.put(b"%d" % len(images), np.zeros(100_000, np.uint8)):
        assert images.allocated() <= 5_000_000 + 4 * PAGE
    assert 40 <= len(images) <= 50
