"""A named file on a full disk: no process is killed, no record lost, no exception where none is expected."""

from __future__ import annotations

import ctypes
import errno
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import numpy as np
import pytest
from conftest import in_child
from stores import filled, right, small_btrfs, small_disk, tile

from memlist.store import ImageStore, layout, parts, region, registry
from memlist.store.system import PAGE

PRELUDE = """
import ctypes, gc, importlib.util, os, signal, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("torch", "fastai") else find(name, *rest)
import numpy as np
from memlist.store import ImageStore, layout

folder = sys.argv[1]

def tile(i):
    return np.full((20 + i % 7, 30, 3), i % 251, np.uint8)

def right(images, n=60):
    return sum(record is not None and (record.array == tile(i)).all()
               for i, record in ((i, images.get(b"%d" % i)) for i in range(n)))

def sync():
    fd = os.open(folder, os.O_RDONLY)
    assert not ctypes.CDLL(None).syncfs(fd)
    os.close(fd)

def fill_disk():
    "Fill the disk until it stays full: what a commit gives back is filled, too."
    fd = os.open(folder + "/other", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    rounds = 0
    while rounds < 3:
        rounds += 1
        for size in (1 << 20, 1 << 16, 1 << 12, 1 << 9):
            try:
                while os.write(fd, os.urandom(size)):
                    rounds = 0
            except OSError:
                pass
        sync()
    os.close(fd)

def writable(images):
    try:
        os.pwrite(images._region.fd, os.pread(images._region.fd, 1, 4095), 4095)
    except OSError:
        return False
    return True

images = ImageStore.open(folder + "/cache")
for i in range(60):
    assert images.put(b"%d" % i, tile(i), tag=i)
"""

FULL = (
    PRELUDE
    + """
views = [images.get(b"%d" % i).array for i in range(60)]
sync()
fill_disk()
assert not writable(images)
def goes_on(images):
    assert right(images) == 60
    images.count(True)
    assert images.reads() == (1, 0)
    images._budget.available = lambda: 1 << 40  # try to write, although the disk says that it is full
    images._budget.look_again()
    assert not images.put(b"new", tile(1)) and not images.put(b"3", tile(1), replace=True)
    assert not images.reserve(100_000)
    assert images.note(b"full") and not images.note(b"full") and images.noted(b"full")
    images.set_max_ram("1GB")
    assert images.rule == 10**9
    assert images.check() == [] and images.sources() == []
    assert images.purge() >= 0
    try:
        images.purge(file=True)
    except OSError as error:
        assert "make room" in str(error)
    else:
        raise AssertionError("this disk gives nothing back")
    assert right(images) == 60

goes_on(images)
assert all((view == i).all() for i, view in enumerate(views))
del images, views
images = ImageStore.open(folder + "/cache", "5MB")
assert images.rule == 5_000_000
goes_on(images)
pid = os.fork()
if not pid:
    images._header.words  # a child goes on as well
    assert right(images) == 60 and not images.put(b"new", tile(1)) and not images.note(b"full")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
os.unlink(folder + "/other")
sync()
images._budget.look_again()
assert images.put(b"new", tile(1)) and images.put(b"3", tile(3), replace=True) and right(images) == 60
assert images.check() == [] and len(images) == 61
assert images.purge(file=True) and len(images) == 0 and images.put(b"new", tile(1))
"""
)

MENDED_LATER = (
    PRELUDE
    + """
sync()
pid = os.fork()
if not pid:
    images.parts.locked(lambda: os.kill(os.getpid(), signal.SIGKILL))
os.waitpid(pid, 0)
assert images._header.busy
del images
sync()
fill_disk()
images = ImageStore.open(folder + "/cache")
assert not writable(images) and images._header.frozen
assert right(images) == 0 and not images.put(b"new", tile(1)) and images.note(b"full") and not images.note(b"full")
images.check()
os.unlink(folder + "/other")
sync()
images._budget.look_again()
assert images.put(b"new", tile(1)) and right(images) == 60 and images.check() == [] and len(images) == 61
del images
images = ImageStore.open(folder + "/cache")
assert right(images) == 60 and len(images) == 61
"""
)


def run(script: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [FULL, MENDED_LATER], ids=["sound", "mended later"])
def test_a_full_disk_that_writes_copies_of_pages(script: str, tmp_path: Path) -> None:
    with small_btrfs(tmp_path / "disk") as disk:
        run(script, disk)


HELD_VIEWS = (
    PRELUDE
    + """
assert not images._region.mapped
views = [images.get(b"%d" % i).array for i in range(60)]
pid = os.fork()
if not pid:
    assert images.purge(file=True)
    fill_disk()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
for i, view in enumerate(views):
    assert (view == i).all() or not view.any()
assert right(images) == 0 and len(images) == 0
images.count(True)
assert not images.put(b"large", np.zeros(1_000_000, np.uint8))
assert images.note(b"full") and not images.note(b"full")
assert images.check() == [] and images.resident() > 0
os.unlink(folder + "/other")
images._budget.look_again()
assert images.put(b"3", tile(3)) and (images.get(b"3").array == 3).all()
"""
)


def test_views_of_a_file_in_memory_while_others_purge_it_and_fill_the_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        run(HELD_VIEWS, disk)


class Disk:
    """Let writes to one file fail as on a full disk, from the `n`th on.

    Growing it fails, too. Its mappings can only be read: a store to one kills the process.
    """

    def __init__(self, path: Path, n: int) -> None:
        self.path, self.left, self.written = path, n, 0
        for name in ("pwrite", "posix_fallocate", "ftruncate"):
            setattr(os, name, self._guarded(getattr(os, name), name))
        attach = region.Region.attach

        def protected(self: region.Region, end: int) -> None:
            attach(self, end)
            if self.persistent:
                protect(self.maps[-1])

        region.Region.attach = protected  # type: ignore[method-assign]

    def _guarded(self, stock: Callable[..., Any], name: str) -> Callable[..., Any]:
        def guarded(fd: int, *args: Any) -> Any:
            here = os.path.exists(self.path) and os.path.samestat(os.fstat(fd), os.stat(self.path))
            if here and not (name == "ftruncate" and args[0] <= os.fstat(fd).st_size):
                self.written += 1
                self.left -= 1
                if self.left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return stock(fd, *args)

        return guarded


def protect(mapping: mmap.mmap) -> None:
    address = np.frombuffer(mapping, np.uint8).ctypes.data
    assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(mapping)), mmap.PROT_READ)


def put(images: ImageStore) -> None:
    images.put(b"new", tile(9))


def put_large(images: ImageStore) -> None:
    images.put(b"new", np.full(2_000_000, 9, np.uint8))


def replace(images: ImageStore) -> None:
    images.put(b"7", tile(7), tag=7, replace=True)


def note(images: ImageStore) -> None:
    assert images.note(b"note") and not images.note(b"note") and images.noted(b"note")


def grow(images: ImageStore) -> None:
    images.reserve(3000)


def count(images: ImageStore) -> None:
    images.count(True)
    assert images.reads() == (1, 0)
    images.set_max_ram("1GB")
    assert images.rule == 10**9 and images.check() == [] and images.purge() >= 0


def purge(images: ImageStore) -> None:
    try:
        images.purge(file=True)
    except OSError as error:
        assert error.errno == errno.ENOSPC


ACTIONS: Dict[str, Callable[[ImageStore], None]] = {
    one.__name__: one for one in (put, put_large, replace, note, grow, count, purge)
}


def opened(path: Path) -> ImageStore:
    registry.STORES.clear()  # as a process that was not forked
    return ImageStore.open(path)


def strike(path: Path, action: str, n: int, last: bool) -> bool:
    """Let the disk be full from the `n`th write of `action` on, and then have room again.

    Returns whether `action` writes fewer than `n` times.
    """

    def child() -> None:
        disk = Disk(path, n if action in ("open", "mend") else 1 << 60)
        images = opened(path)
        before = len(images)
        if action in ACTIONS:
            disk.left = n
            ACTIONS[action](images)
        enough = disk.left >= 0
        found = right(images)
        if action == "purge":
            assert found in (0, 60)
        elif action == "replace":
            assert found >= 59
        else:
            assert found == 60 or (action == "mend" and found == 0)
        images.count(False)
        images.note(b"another")
        disk.left = 1 << 60  # there is room again
        assert images.put(b"after", tile(2)) and (images.get(b"after").array == 2).all()  # type: ignore[union-attr]
        assert right(images) == found or action in ("mend", "purge")
        assert images.check() == [] and len(images) - before in range(-60, 62)
        assert images.info().nbytes == sum(
            images.get(key).array.nbytes  # type: ignore[union-attr]
            for key in [b"after", b"new", *(b"%d" % i for i in range(60))]
            if key in images
        )
        os._exit(3 if enough else 4)

    status = in_child(child)
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in (3, 4), f"write {n} of {action}: status {status}"
    return os.WEXITSTATUS(status) == 3


@pytest.mark.parametrize("action", [*ACTIONS, "open", "mend"])
def test_a_disk_that_is_full_from_any_write_on(action: str, tmp_path: Path) -> None:
    del_after = filled(tmp_path / "sound")
    del del_after
    data = bytearray((tmp_path / "sound").read_bytes())
    if action == "mend":
        data[8 * layout.BUSY] = data[8 * layout.BUSY + 7] = layout.WRITING
    n, enough = 0, False
    while not enough:
        path = tmp_path / "cache"
        path.write_bytes(data)
        enough = strike(path, action, n, False)
        path.unlink()
        n += 1
        assert n < 200
    assert n > 3 or action == "count"
    assert right(ImageStore.open(tmp_path / "sound")) == 60


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageStore]:
    "Open a file that a killed writer has left while its header page can't be written, but the rest of it can."
    path = tmp_path / "cache"
    images = filled(path)
    in_child(lambda: images.parts.locked(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    del images
    pwrite = os.pwrite

    def guarded(fd: int, data: bytes, offset: int) -> int:
        if not offset and len(data) == 1 and os.path.samestat(os.fstat(fd), os.stat(path)):  # see `Region.touch`
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", guarded)
        images = ImageStore.open(path)
    assert images._header.frozen and right(images) == 60
    yield images


def change(images: ImageStore) -> None:
    "Write to a store of `filled`, whose disk has room again."
    assert right(images) == 60
    for i in range(0, 60, 2):
        assert images.put(b"%d" % i, np.full((90, 30, 3), 255, np.uint8), replace=True)
    for i in range(60, 300):
        assert images.put(b"%d" % i, np.full((90, 30, 3), 255, np.uint8))
    assert images.check() == []


def change_as_stranger(images: ImageStore) -> None:
    path = str(images.cache_file)
    change(opened(Path(path)))


def change_as_spawned(images: ImageStore) -> None:
    process = multiprocessing.get_context("spawn").Process(target=change, args=(images,))
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("task", [change, change_as_stranger, change_as_spawned])
def test_what_another_process_writes_to_a_file_opened_on_a_full_disk_is_followed(
    task: Callable[[ImageStore], None], frozen: ImageStore
) -> None:
    images = frozen
    views = [images.get(b"%d" % i) for i in range(60)]
    assert not in_child(lambda: task(images))
    for i, view in enumerate(views):
        assert view is not None and (not images.current(view) or (view.array == i % 251).all())
    assert images.check() == [] and len(images) == 300
    for i in range(300, 500):
        assert images.put(b"%d" % i, np.full((90, 30, 3), 255, np.uint8))
    for i in range(500):
        found = images.get(b"%d" % i)
        assert found is not None and (found.array == (i if i % 2 and i < 60 else 255)).all()
    assert images.check() == [] and len(images) == 500
    assert not in_child(lambda: images.purge(file=True) and None)
    assert len(images) == 0 and right(images) == 0


def test_a_file_opened_on_a_full_disk_and_mended_otherwise_serves_nothing(frozen: ImageStore) -> None:
    images, view = frozen, frozen.get(b"1")
    page = bytearray(images._region.peek(0, PAGE))
    there = layout.Header.of_page(page)
    there.ends = [end - PAGE for end in there.ends[:-1]] + there.ends[-1:]
    os.pwrite(images._region.fd, page, 0)
    assert view is not None and not images.current(view) and right(images) == 0 and len(images) == 0
    assert not images.put(b"new", tile(1)) and images.check() == []
    assert images.note(b"note") and not images.note(b"note")
    with pytest.raises(OSError):
        images.purge(file=True)
    assert images._region.peek(0, PAGE) == page


def test_a_disk_that_gets_room_during_a_look_leaves_what_is_to_be_mended(tmp_path: Path, monkeypatch: Any) -> None:
    images = filled(tmp_path / "cache")
    in_child(lambda: images.parts.locked(lambda: os.kill(os.getpid(), signal.SIGKILL)))
    with monkeypatch.context() as patch:
        patch.setattr(parts, "is_writable", lambda header, region: False)
        walk = images._log.walk

        def with_room_again(stop: int) -> Iterator[Any]:
            patch.undo()
            return walk(stop)

        images._log.walk = with_room_again  # type: ignore[method-assign, assignment]
        images.sources()
    assert images._header.busy
    del images._log.walk
    assert images.check() == [] and not images._header.busy
