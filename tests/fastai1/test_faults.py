"""Lists under faults: killed processes, Ctrl-C, full disks, memory that runs out, files that change, long runs."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, Iterator, List

import pytest
import torch
from conftest import assert_same_bunches, assert_same_item, epoch, in_child, many, photo
from fastai.basic_train import Learner
from fastai.vision import ImageList
from kills import kill_after_lines
from stores import footprint, small_disk

import memlist as m
from memlist import ImageStore
from memlist.fastai1.decoders import Stock
from memlist.store.system import PAGE


def lists(cls: Any, folder: Path, **kwargs: Any) -> Any:
    return cls.from_folder(folder, presort=True, **kwargs)


def bunch(cls: Any, folder: Path, workers: int = 2, **kwargs: Any) -> Any:
    made = lists(cls, folder, **kwargs).split_by_idx([1, 4]).label_const(0).transform(size=16)
    return made.databunch(bs=4, num_workers=workers, no_check=True)


@pytest.mark.parametrize("kills", [60, pytest.param(200, marks=pytest.mark.full)])
@pytest.mark.parametrize("named", [False, True])
def test_workers_may_be_killed_while_they_fill(tmp_path: Path, named: bool, kills: int) -> None:
    "Workers are killed, at random lines or at random moments."
    folder, draw = many(tmp_path / "many", 40, 60), random.Random(named)
    kwargs = {"cache_file": tmp_path / "cache"} if named else {}
    ours, stock = lists(m.MemoryImageList, folder, **kwargs), lists(ImageList, folder)
    want = [stock[i] for i in range(40)]
    survivor_deadline = 120
    for n in range(kills):
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                if n % 2:
                    kill_after_lines(draw.randrange(1, 2500))
                while True:
                    for i in draw.sample(range(40), 40):
                        ours[i]
                    ours.store.purge(file=True)
            os._exit(9)
        if not n % 2:
            for i in draw.sample(range(40), draw.randrange(1, 12)):
                assert_same_item(ours[i], want[i])
            os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        signal.alarm(survivor_deadline)  # a lock that was never released would hang here
        i = draw.randrange(40)
        assert_same_item(ours[i], want[i])
        signal.alarm(0)
    for i in range(40):
        assert_same_item(ours[i], want[i])
    assert ours.load_data(progress=False).loaded and ours.store.check() == []
    for i in range(40):
        assert_same_item(ours[i], want[i])


@pytest.mark.parametrize("kills", [20, pytest.param(50, marks=pytest.mark.full)])
def test_main_processes_may_be_killed_in_load_data(tmp_path: Path, kills: int) -> None:
    "Processes are killed; the cache file is opened again each time, and serves the right pixels."
    folder, draw = many(tmp_path / "many", 60, 60), random.Random(0)
    stock = lists(ImageList, folder)
    want = [stock[i] for i in range(60)]
    kept: List[int] = []
    for n in range(kills):
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                il = lists(m.MemoryImageList, folder, cache_file=tmp_path / "cache")
                if n % 2:
                    kill_after_lines(draw.randrange(1, 9000))
                else:
                    moment = draw.random() * 0.05
                    threading.Timer(moment, os.kill, (os.getpid(), signal.SIGKILL)).start()
                while True:
                    il.load_data(progress=False, n_workers=draw.choice([0, 2]))
                    il.purge(file=True)
            os._exit(9)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL

        def session() -> None:
            il = lists(m.MemoryImageList, folder, cache_file=tmp_path / "cache")
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert il.store.check() == []
            for i in draw.sample(range(60), 10):
                assert_same_item(il[i], want[i])
            os.write(1, b"")

        assert in_child(session) == 0
        il = lists(m.MemoryImageList, folder, cache_file=tmp_path / "cache")
        kept.append(il.cache_info().cached)
        for i in range(60):
            assert_same_item(il[i], want[i])
        il.store.purge(file=n % 5 == 0)
        del il
    assert max(kept) > min(kept)  # processes were killed at different points


def test_a_cache_file_is_usable_after_its_main_process_is_killed(tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 60, 60)
    context = multiprocessing.get_context("fork")
    ready = context.Event()

    def main() -> None:
        data = bunch(m.MemoryImageList, folder, cache_file=tmp_path / "cache")
        for n in range(10**6):
            for _ in data.train_dl:
                if n:
                    ready.set()

    process = context.Process(target=main)
    process.start()
    ready.wait(120)
    process.kill()
    process.join()
    ours = lists(m.MemoryImageList, folder, cache_file=tmp_path / "cache")
    stock = lists(ImageList, folder)
    for i in range(60):
        assert_same_item(ours[i], stock[i])
    assert ours.load_data(progress=False).loaded and ours.store.check() == []


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_in_fit_leaves_a_usable_cache(tmp_path: Path, workers: int, named: bool) -> None:
    folder = many(tmp_path / "many", 40, 32)
    kwargs = {"cache_file": tmp_path / "cache"} if named else {}
    data = bunch(m.MemoryImageList, folder, workers, **kwargs)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 1))
    learner = Learner(data, model, loss_func=lambda out, y: out.mean(), path=tmp_path)
    seen = [0]
    forward = model.forward

    def counting(x: Any) -> Any:
        seen[0] += 1
        if seen[0] == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(x)

    model.forward = counting  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt):
        learner.fit(1)
    assert seen[0] == 5
    gc.collect()
    learner.fit(2)
    assert_same_bunches(data, bunch(ImageList, folder, workers))
    assert data.load_data(progress=False).loaded and data.train_ds.x.store.check() == []


@pytest.mark.parametrize("how", ["deleted", "replaced", "truncated"])
@pytest.mark.parametrize("named", [False, True])
def test_changed_sources_are_noticed_by_load_data(tmp_path: Path, how: str, named: bool) -> None:
    "Cached images stay the same from epoch to epoch; `load_data` decodes changed files again, and lists bad ones."
    folder = many(tmp_path / "many", 12, 40)
    kwargs = {"cache_file": tmp_path / "cache"} if named else {}
    ours = bunch(m.MemoryImageList, folder, **kwargs)
    before = epoch(bunch(ImageList, folder))
    for (x, _), (u, _) in zip(epoch(ours), before):
        assert torch.equal(x, u)
    file = folder / "003.png"
    if how == "deleted":
        file.unlink()
    elif how == "replaced":
        photo(5, 40, 40).save(file)
    else:
        file.write_bytes(file.read_bytes()[:99])
    for (x, _), (u, _) in zip(epoch(ours), before):
        assert torch.equal(x, u)
    if how == "truncated":
        with pytest.raises(m.ImageLoadError, match=r"003\.png"):
            ours.load_data(progress=False)
        assert not ours.loaded
    else:
        ours.load_data(progress=False)
    after = epoch(bunch(ImageList, folder)) if how == "replaced" else before
    if how != "truncated":
        for (x, _), (u, _) in zip(epoch(ours), after):
            assert torch.equal(x, u)
    assert all(torch.equal(x, u) for (x, _), (u, _) in zip(before, after)) is (how != "replaced")


@pytest.mark.filterwarnings(
    "ignore:MemoryImageList over .* are opened from disk every time"
)  # by processes without workers
@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_if_the_disk_of_the_cache_file_is_full(tmp_path: Path, workers: int, capsys: Any) -> None:
    folder = many(tmp_path / "many", 60, 200)  # 7.2 MB decoded
    with small_disk(tmp_path / "disk", "3m") as disk:
        data = bunch(m.MemoryImageList, folder, workers, cache_file=disk / "cache")
        with pytest.warns(UserWarning, match=r"of 60 images are in .*/cache .* more room on its disk") as caught:
            data.load_data(progress=False)
        assert len([w for w in caught if "images are in" in str(w.message)]) == 1
        assert 8 <= data.cache_info().cached <= 23 and "% will fit" in capsys.readouterr().out
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", message=".*(pin_memory|interpolate).*")
            stock = bunch(ImageList, folder, workers)
            assert_same_bunches(data, stock)
        # Another file takes the rest of the disk: punched holes can't be filled again, which must not raise SIGBUS.
        images = data.train_ds.x.store
        images._budget.available = lambda: 1 << 40  # so that only the disk can refuse
        assert data.purge(file=True) > 0
        with contextlib.suppress(OSError), open(disk / "other", "wb", buffering=0) as other:
            while True:
                other.write(bytes(4096))
        assert_same_bunches(data, stock)
        assert data.cache_info().cached <= 1 and images.check() == []
        (disk / "other").unlink()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.load_data(progress=False)
        assert data.cache_info().cached >= 8
        assert_same_bunches(data, stock)
        del data, images


def test_filling_stops_when_other_processes_take_the_memory(tmp_path: Path) -> None:
    "Available memory is simulated: it falls by 60 MB per decoded image."
    folder = many(tmp_path / "many", 60, 100)
    left = [1_000_000_000]
    il = lists(m.MemoryImageList, folder, store=ImageStore(available=lambda: left[0]))
    stock_decode = Stock._decode

    def eaten(self: Any, item: Any) -> Any:
        left[0] -= 60_000_000
        il.store._budget.look_again()  # as if a quarter of a second had passed
        return stock_decode(self, item)

    Stock._decode = eaten  # type: ignore[method-assign]
    try:
        with pytest.warns(UserWarning, match="images are in memory"):
            il.load_data(progress=False, n_workers=0)
    finally:
        Stock._decode = stock_decode  # type: ignore[method-assign]
    assert 3 <= il.cache_info().cached <= 17
    stock = lists(ImageList, folder)
    for i in range(60):
        assert_same_item(il[i], stock[i])


LIMITED = """
import os, sys, warnings
warnings.filterwarnings("ignore", message=".*(pkg_resources|pin_memory).*")
with open(sys.argv[2], "w") as procs: procs.write(str(os.getpid()))
import threading, time
from fastai.vision import *
from memlist import *
torch.set_num_threads(1)
il = MemoryImageList.from_folder(sys.argv[1], **eval(sys.argv[3]))
eater = None
if not os.fork():  # another process, which takes 200 MB when some is filled
    while il.store.info().nbytes < 100_000_000 and os.getppid() > 1: time.sleep(0.01)
    eaten = bytearray(b"x") * 200_000_000
    while os.getppid() > 1: time.sleep(0.1)
    os._exit(0)
data = il.split_none().label_const(0).transform(size=32).databunch(bs=10, num_workers=2, no_check=True)
if sys.argv[4] == "load":
    data.load_data()
sums = set()
for _ in range(1 if sys.argv[4] == "load" else 2):
    for x, y in data.train_dl: sums |= {round(float(s), 3) for s in x.flatten(1).sum(1)}
print("RESULT", data.cache_info().cached, len(sums), il.store.taken)
"""


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[Path]:
    "Make a cgroup of `limit` bytes, v2 or v1; skip the test if none can be made."
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    mine = {line.split(":")[1]: line.split(":", 2)[2] for line in lines}
    for root, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        base = Path(root)
        path = mine.get("memory" if "limit_in" in name else "", "/")
        for parent in (base / path.lstrip("/"), base):
            folder = parent / f"memlist-{os.getpid()}"
            try:
                folder.mkdir()
            except OSError:
                continue
            try:
                (folder / name).write_text(str(limit))
                if int((folder / name).read_text()) > limit:
                    continue
                yield folder
                return
            except OSError:
                continue
            finally:
                for _ in range(100):
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                        break
                    time.sleep(0.1)
    pytest.skip("no right to make a cgroup")


@pytest.mark.parametrize("how", [pytest.param("load", marks=pytest.mark.full), "lazy"])
def test_filling_stops_below_a_real_cgroup_limit(tmp_path: Path, how: str) -> None:
    "1.1 GB decoded, in a container of 2 GB: the fill stops before the kernel kills, and training goes on from disk."
    folder = tmp_path / "many"
    folder.mkdir()
    photo(3, 500, 750).save(folder / "0.jpg")
    for i in range(1, 1000):
        os.link(folder / "0.jpg", folder / f"{i}.jpg")
    with memory_cgroup(2_000_000_000) as cgroup:
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(folder), str(cgroup / "cgroup.procs"), "{}", how],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (done.returncode, done.stderr[-3000:])
        oom = [f.read_text() for f in (cgroup / "memory.oom_control", cgroup / "memory.events") if f.exists()]
        assert "oom_kill 0" in oom[0]
    cached, sums, taken = map(int, done.stdout.split("RESULT")[1].split())
    assert 100 <= cached < 990 and sums == 1 and taken < 1_000_000_000
    assert done.stderr.count("do not fit and are opened from") == 1, done.stderr


def test_under_ulimit_v_and_f_training_goes_on(tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 40, 900)  # 97 MB

    def task() -> None:
        stock = lists(ImageList, folder)
        for what, room, kwargs in (
            (resource.RLIMIT_FSIZE, 30_000_000, {}),
            (resource.RLIMIT_FSIZE, 30_000_000, {"cache_file": tmp_path / "cache"}),
            (resource.RLIMIT_AS, 160_000_000, {}),
            (resource.RLIMIT_AS, 160_000_000, {"cache_file": tmp_path / "second"}),
        ):

            def limited(what: int = what, room: int = room, kwargs: Any = kwargs) -> None:
                used = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE if what == resource.RLIMIT_AS else 0
                resource.setrlimit(what, (room + used, room + used))
                il = lists(m.MemoryImageList, folder, **kwargs)
                with pytest.warns(UserWarning, match="of 40 images are in"):
                    il.load_data(progress=False, n_workers=0)
                assert 5 <= il.cache_info().cached <= 37
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # one warning, although the store has no room for a note of it
                    for i in range(0, 40, 7):
                        assert torch.equal(il[i].px, stock[i].px)  # which takes no memory of its own

            assert in_child(limited) == 0, (what, kwargs)

    assert in_child(task) == 0


@pytest.mark.parametrize("epochs", [25, pytest.param(200, marks=pytest.mark.full)])
@pytest.mark.parametrize("named", [False, True])
def test_many_epochs_with_workers_leak_nothing(tmp_path: Path, epochs: int, named: bool) -> None:
    "Memory, descriptors and threads do not grow; the store is purged and refilled every tenth epoch."
    folder = many(tmp_path / "many", 40, 64)
    kwargs = {"cache_file": tmp_path / "cache"} if named else {}
    data = bunch(m.MemoryImageList, folder, **kwargs)
    allocated, prints = [], []
    for n in range(epochs):
        for _ in data.train_dl:
            pass
        if n % 10 == 9:
            allocated.append(data.train_ds.x.store.allocated())
            data.purge(file=True)
            gc.collect()
            prints.append(footprint())
    assert data.cache_info().hits > 0
    first, last = prints[0], prints[-1]
    assert last[0] <= first[0] and last[1] <= first[1] and last[2] <= first[2] + 8192
    assert allocated[-1] <= allocated[0] + 8 * PAGE
