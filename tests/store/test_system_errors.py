"""Errors of the system while a cache file is opened: each is a `CacheFileError` with what to do, and harms nothing.

`strike_at_each_call` opens a file again and again, and lets the first, the second, the third … call of one function of
the system fail. Calls are counted wherever the store makes them, so the tests need not know where that is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import mmap
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import numpy as np
import pytest
from conftest import in_child
from kills import FOLDER
from stores import filled, right, small_disk

from memlist.__main__ import main
from memlist.store import CacheFileError, ImageStore, store_for
from memlist.store.cachefile import ADVICE

N = 20
FILES = errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG
PATHS = errno.ENOTDIR, errno.EISDIR, errno.ESTALE, errno.EIO, errno.ENOMEM
DISKS = errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.ESTALE, errno.EOPNOTSUPP, errno.EINVAL
# Which calls can fail how. Where the machine lacks a call, it isn't tried.
ERRORS: Dict[Tuple[ModuleType, str], Tuple[int, ...]] = {
    (os, "open"): (*FILES, *PATHS, errno.ENOSPC, errno.EDQUOT),
    (os, "lstat"): (*PATHS, errno.EACCES),
    (os, "stat"): (*PATHS, errno.EACCES),
    (os, "fstat"): (errno.EIO, errno.ESTALE),
    (os, "fchmod"): (errno.EPERM, errno.EROFS),
    (os, "write"): DISKS,
    (os, "pwrite"): DISKS,
    (os, "pread"): (errno.EIO, errno.ESTALE),
    (os, "lseek"): (errno.EIO, errno.EINVAL),
    (os, "fsync"): DISKS,
    (os, "replace"): (errno.EACCES, *DISKS),
    (os, "ftruncate"): (*DISKS, errno.EPERM),
    (os, "posix_fallocate"): DISKS,
    (os, "memfd_create"): (errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    (mmap, "mmap"): (errno.ENODEV, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.ENFILE),
    (fcntl, "flock"): (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL),
    (fcntl, "lockf"): (errno.ENOLCK, errno.EIO, errno.EINVAL),
    (fcntl, "fcntl"): (errno.ENOLCK, errno.EINVAL),
}
CALLS = [call for call in ERRORS if hasattr(*call)]
# What is there when the file is opened.
STATES = ["no file", "a file", "a killed writer", "another process"]


class Strike(NamedTuple):
    "Say what fails: which call of a function, counted from 1, and how; and whether all later calls of it fail, too."

    module: ModuleType
    name: str
    number: int
    error: int
    lasting: bool = False


@contextlib.contextmanager
def striking(strike: Strike) -> Iterator[List[int]]:
    "Let calls that the store makes fail. Yields a list with the number of calls so far."
    module, name, number, error, lasting = strike
    real, count = getattr(module, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        if sys._getframe(1).f_code.co_filename.startswith(FOLDER):
            count[0] += 1
            if count[0] == number or (lasting and count[0] > number):
                raise OSError(error, os.strerror(error))
        return real(*args, **kwargs)

    setattr(module, name, call)
    try:
        yield count
    finally:
        setattr(module, name, real)


def descriptors() -> Set[Tuple[str, str]]:
    "Return the open descriptors with what they refer to."
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return found


class Ground:
    "Prepare a file in one of the `STATES` in an empty folder, again and again."

    def __init__(self, folder: Path, state: str) -> None:
        folder.mkdir(exist_ok=True)
        self.state, self.path, self.kept = state, folder / "cache", folder.parent / f"kept {state}"
        self.end = -1
        if state != "no file":
            assert in_child(self._fill) == 0
            shutil.copy(self.path, self.kept)
        if state == "another process":
            self._keep_open()

    def _fill(self) -> None:
        images = filled(self.path, N)
        if self.state == "a killed writer":
            images.parts.lock.run(images.parts._begin)  # and does not finish

    def _keep_open(self) -> None:
        "Start a process that has the file open until `close` is called."
        (ours, self.end), (opened, ready) = os.pipe(), os.pipe()
        self.other = os.fork()
        if not self.other:
            try:
                os.close(self.end)
                images = ImageStore.open(self.path)
                os.write(ready, b"x")
                os.read(ours, 1)
                os._exit(int(right(images, N) != N))
            finally:
                os._exit(1)
        os.close(ours)
        assert os.read(opened, 1) == b"x"
        os.close(opened)
        os.close(ready)

    def close(self) -> None:
        if self.end >= 0:
            os.close(self.end)
            assert os.waitpid(self.other, 0)[1] == 0, "the other process does not find its images any more"

    def prepare(self) -> None:
        "Put the file back as it was."
        if self.state == "no file":
            self.path.unlink(missing_ok=True)
        elif self.state == "a killed writer":
            shutil.copy(self.kept, self.path)

    def check(self) -> None:
        "Assert that there is nothing but the file and its lock, and that the file works."
        assert set(os.listdir(self.path.parent)) <= {"cache", "cache.lock"}
        images = ImageStore.open(self.path)
        if self.state == "no file":
            assert images.put(b"a", np.zeros(3, "u1"))
        assert right(images, N) == (0 if self.state == "no file" else N)
        assert images.put(b"more", np.zeros(3, "u1")), "it can't be written to"


def strike_at_each_call(ground: Ground, module: ModuleType, name: str, error: int, lasting: bool) -> Tuple[int, int]:
    """Let each call of one function fail in turn, until opening the file makes no more calls of it.

    Returns how often the file was refused, and how often it could be opened all the same.
    """
    refused = opened = 0
    ground.prepare()
    ground.check()
    before, number = descriptors(), 0
    while True:
        number += 1
        ground.prepare()
        images = None
        with striking(Strike(module, name, number, error, lasting)) as count:
            try:
                images = ImageStore.open(ground.path)
            except CacheFileError as refusal:
                says = str(refusal)
                assert repr(str(ground.path)) in says and re.search(r"\. [A-Z`].*\.$", says), says
        struck = count[0] >= number
        refused, opened = refused + (images is None), opened + (images is not None and struck)
        del images
        if descriptors() - before:
            gc.collect()
        assert not descriptors() - before, f"call {number} of {name} leaves a descriptor open"
        ground.check()
        if not struck:
            return refused, opened


@pytest.fixture(params=STATES, scope="module")
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("ground") / "folder", request.param)
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:.* can't be mapped whole")
@pytest.mark.parametrize(("module", "name"), CALLS, ids=[name for _, name in CALLS])
def test_every_call_of_the_system_may_fail(
    ground: Ground, module: ModuleType, name: str, record_property: Callable[[str, int], None]
) -> None:
    once = strike_at_each_call(ground, module, name, ERRORS[module, name][0], False)
    from_then_on = strike_at_each_call(ground, module, name, ERRORS[module, name][1], True)
    refused, opened = (sum(counts) for counts in zip(once, from_then_on))
    record_property("times", refused + opened)
    record_property("refused", refused)
    record_property("right", opened)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.* can't be mapped whole")
@pytest.mark.parametrize(("module", "name"), CALLS, ids=[name for _, name in CALLS])
def test_every_call_of_the_system_may_fail_in_every_way(ground: Ground, module: ModuleType, name: str) -> None:
    for error in ERRORS[module, name]:
        for lasting in (False, True):
            strike_at_each_call(ground, module, name, error, lasting)


# -- what the system really says ----------------------------------------------------------------------------------


def says(path: Any) -> str:
    "Return why a cache file is refused: by `open`, by `store_for` and by the command alike."
    with pytest.raises(CacheFileError) as error:
        ImageStore.open(path)
    with pytest.raises(CacheFileError) as again:
        store_for("place", cache_file=path)
    assert str(again.value) == str(error.value)
    return str(error.value)


@pytest.mark.parametrize("error", sorted(ADVICE))
def test_each_error_is_told_with_what_to_do(
    tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path / "cache")
    gc.collect()
    real = os.open

    def refuse(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if os.path.basename(path) == "cache.lock":
            raise OSError(error, os.strerror(error))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    if error == errno.ENOENT:
        return  # a lock file that is missing is made
    if error != errno.EAGAIN:
        assert f"can't be opened: {os.strerror(error)}. {ADVICE[error]}" in says(tmp_path / "cache")
    for command in ("info", "check", "purge"):
        assert main([command, str(tmp_path / "cache")]) == 2
        assert ADVICE[error] in capsys.readouterr().err
    monkeypatch.undo()
    assert right(ImageStore.open(tmp_path / "cache")) == 60


@pytest.mark.parametrize("name", ["a\0b", "\0", "\ud800", "a\udfffb"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "can't be the name of a file. Name another file." in says(str(tmp_path / name))
    assert main(["info", str(tmp_path / name)]) == 2 and "Name another file" in capsys.readouterr().err
    assert "can't be the name of a file" in says(f"~{name}/cache")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m\n")
    assert right(filled(Path(path))) == 60
    assert os.fsencode(path) + b".lock" in [os.fsencode(entry.path) for entry in os.scandir(tmp_path)]


def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    assert "Not a directory. A part of its path is a file" in says(tmp_path / "file" / "cache")
    assert "File name too long. Name a file with a shorter name" in says(tmp_path / ("x" * 300))
    assert "File name too long. Name a file with a shorter name" in says(tmp_path / ("x" * 252))
    assert "File name too long. Name a file with a shorter name" in says(tmp_path / ("x" * 230))
    assert not [name for name in os.listdir(tmp_path) if not name.endswith(".lock") and name != "file"]
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert ADVICE[errno.ELOOP] in says(tmp_path / "a" / "cache")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    assert "No such file or directory" in says("cache")


def test_a_disk_that_cannot_be_written_to(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8M") as disk:
        filled(disk / "cache")
        gc.collect()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name in ("cache", "new"):
            assert "Its disk can't be written to: name a file elsewhere" in says(disk / name)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert set(os.listdir(disk)) == {"cache", "cache.lock"} and right(ImageStore.open(disk / "cache")) == 60


@pytest.mark.filterwarnings("ignore:.* can't be mapped whole")
@pytest.mark.parametrize("new", [True, False])
def test_a_process_with_few_descriptors_left(tmp_path: Path, new: bool) -> None:
    "Leave room for no descriptor, one, two, … until the file can be opened."
    path = tmp_path / "cache"
    if not new:
        filled(path)
        gc.collect()

    def task() -> None:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        for fd in range(highest):  # so that only the limit decides
            with contextlib.suppress(OSError):
                os.fstat(fd)
                continue
            os.dup2(2, fd)
        refused = 0
        for limit in range(highest, highest + 30):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            before = set(range(3, limit)) & {fd for fd in range(limit) if is_open(fd)}
            try:
                images = ImageStore.open(path)
            except CacheFileError as error:
                assert ADVICE[errno.EMFILE] in str(error)
                refused += 1
                assert {fd for fd in range(3, limit) if is_open(fd)} == before
            else:
                assert len(images) == (0 if new else 60) and refused >= 3
                return
        raise AssertionError("it was never opened")

    assert in_child(task) == 0
    if not new:
        assert right(ImageStore.open(path)) == 60


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("named", [False, True])
def test_a_note_without_room_is_kept_until_a_purge(tmp_path: Path, named: bool) -> None:
    images = ImageStore.open(tmp_path / "cache") if named else ImageStore("1GB")

    def task() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
        n = 0
        while images.put(b"%d" % n, np.full(100_000, 7, np.uint8)):
            n += 1
        for key in (b"note %d" % i for i in range(4000)):  # the log has room for the first ones only
            assert images.note(key) and images.noted(key) and not images.note(key)
        images.purge(file=True)
        assert not images.noted(key) and images.note(key)

    assert in_child(task) == 0
