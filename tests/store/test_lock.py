"""The mutex: who waits for it says so, and nothing that a process does by accident drops it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from conftest import in_child
from stores import filled, right, tile

from memlist.store import ImageStore, bytelocks, lock, registry, repair
from memlist.store.bytelocks import ByteLocks
from memlist.store.lock import MUTEX

linux = pytest.mark.skipif(sys.platform != "linux", reason="locks of an open file description are Linux's")


@contextlib.contextmanager
def holding(images: ImageStore, stopped: bool) -> Iterator[int]:
    "Hold the mutex in another process, which may be stopped, while the block runs; yield its id."
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        images.parts.locked(lambda: (os.write(into, b"1"), signal.pause()))
        os._exit(1)
    assert os.read(out, 1) == b"1"
    if stopped:
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
        os.close(into)


@pytest.mark.parametrize("stopped", [False, True])
def test_who_waits_says_for_which_process_and_goes_on_waiting(
    tmp_path: Path, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SILENCE", 0.05)
    images = filled(tmp_path / "cache", 3)
    with holding(images, stopped) as holder:
        real, said = warnings.warn, []  # type: Any, Any

        def heard(message: str, *args: Any, **kwargs: Any) -> None:
            said.append(message)
            # Only once it was said does the holder end: the wait has to go on until then.
            threading.Timer(0.5, os.kill, (holder, signal.SIGKILL)).start()

        monkeypatch.setattr(warnings, "warn", heard)
        assert images.put(b"new", tile(1))
        monkeypatch.setattr(warnings, "warn", real)
    assert len(said) == 1 and f"process {holder}" in said[0] and "cache" in said[0]
    assert ("which is stopped" in said[0]) == stopped == (f"kill -CONT {holder}" in said[0])
    assert right(images, 3) == 3


def test_the_command_line_says_for_whom_it_waits_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache", 3)
    with holding(images, stopped=True) as holder:
        command = [sys.executable, "-m", "memlist", "info", str(tmp_path / "cache")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert f"process {holder}, which is stopped" in line
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=300)
        assert process.returncode == 130 and out == "" and "Traceback" not in rest


# -- what must not drop the mutex -------------------------------------------------------------------------------


def open_and_close(images: ImageStore) -> None:
    path = images.parts.lock.name.strip("'") + ".lock" if images.cache_file else f"/proc/self/fd/{images.parts.lock.fd}"
    with open(path, "rb"):
        pass


def fork_and_leave(images: ImageStore) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


def fork_and_put(images: ImageStore) -> None:
    "Fork a child that closes everything that it has inherited."
    pid = os.fork()
    if not pid:
        images.parts.lock.bytes.unlock(MUTEX)
        images.parts.lock.close()
        os._exit(0)
    os.waitpid(pid, 0)


def other_holds(images: ImageStore) -> bool:
    "Return whether the mutex is held, as a process sees that which is no relative."
    other = ByteLocks(os.open(f"/proc/self/fd/{images.parts.lock.fd}", os.O_RDWR), opened=True)
    try:
        return not other.lock(MUTEX)
    finally:
        other.close()


@linux
@pytest.mark.parametrize("accident", [open_and_close, fork_and_leave, fork_and_put])
@pytest.mark.parametrize("named", [False, True])
def test_an_accident_does_not_drop_the_mutex(
    tmp_path: Path, named: bool, accident: Callable[[ImageStore], None]
) -> None:
    images = ImageStore.open(tmp_path / "cache") if named else ImageStore()

    def within() -> bool:
        accident(images)
        return other_holds(images)

    assert images.parts.locked(within)
    assert not other_holds(images)


def _puts(images: ImageStore, first: int, n: int) -> None:
    for i in range(first, first + n):
        assert images.put(b"%d" % i, np.full(2000, i % 251, np.uint8))
        with open(f"/proc/self/fd/{images.parts.lock.fd}", "rb"):  # closed again: that dropped record locks
            pass


@linux
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_nothing_is_lost_while_writers_open_and_close_the_lock_file(tmp_path: Path, method: str) -> None:
    images = ImageStore.open(tmp_path / "cache")
    context = multiprocessing.get_context(method)
    n = 400
    writers = [context.Process(target=_puts, args=(images, k * n, n)) for k in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    for i in range(3 * n):
        assert (images.get(b"%d" % i).array == i % 251).all()  # type: ignore[union-attr]
    assert images.check() == [] and len(images) == 3 * n


@linux
def test_a_child_that_outlives_a_killed_writer_does_not_keep_its_mutex() -> None:
    images = ImageStore()
    out, into = os.pipe()
    ended, end = os.pipe()

    def writer() -> None:
        def forks_within() -> None:
            if not os.fork():  # it lives on, with all that it has inherited
                os.close(end)
                os.write(into, b"1")  # it has done what a child does first
                os.read(ended, 1)
                os._exit(0)
            os.read(out, 1)
            os.write(into, b"2")
            os.kill(os.getpid(), signal.SIGKILL)

        images.parts.locked(forks_within)

    assert os.WTERMSIG(in_child(writer)) == signal.SIGKILL and os.read(out, 1) == b"2"
    assert not other_holds(images) and images.put(b"a", tile(1))
    for fd in (out, into, ended, end):
        os.close(fd)


def test_a_process_without_descriptors_left_still_excludes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = filled(tmp_path / "cache", 3)

    def child() -> None:
        def refuse(*args: Any) -> int:
            raise OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(bytelocks.os, "open", refuse)
            images.parts.lock.after_fork()  # as a fork does: it can't have a description of its own
            images.parts.after_fork()
        assert images.parts.lock.bytes.dropped_by_closing
        for i in range(50):
            assert images.put(b"c%d" % i, tile(i))

    pid = os.fork()
    if not pid:
        child()
        os._exit(0)
    for i in range(50):
        assert images.put(b"p%d" % i, tile(i))
    assert os.waitpid(pid, 0)[1] == 0
    assert len(images) == 103 and images.check() == []
    registry.STORES.clear()


def test_a_signal_handler_that_opens_the_file_being_opened_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = repair._begin

    def interrupted(*args: Any) -> None:
        monkeypatch.undo()
        with pytest.raises(RuntimeError, match="signal handler"):
            ImageStore.open(tmp_path / "cache")
        assert ImageStore.open(tmp_path / "another").put(b"0", tile(0))
        begin(*args)

    monkeypatch.setattr(repair, "_begin", interrupted)
    assert ImageStore.open(tmp_path / "cache").put(b"0", tile(0))


@linux
def test_a_child_that_outlives_a_process_killed_while_opening_does_not_keep_its_mutex(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    filled(path)
    ended, end = os.pipe()

    def opener() -> None:
        begun = threading.Event()

        def stays(*args: Any) -> None:
            begun.set()
            signal.sigwait({signal.SIGUSR1})

        repair._begin = stays
        threading.Thread(target=ImageStore.open, args=(path,)).start()
        begun.wait()
        if not os.fork():  # it lives on, with all that it has inherited
            os.close(end)
            os.read(ended, 1)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(opener)) == signal.SIGKILL
    done = threading.Event()
    images = []
    threading.Thread(target=lambda: (images.append(ImageStore.open(path)), done.set()), daemon=True).start()
    in_time = done.wait(5)
    for fd in (ended, end):
        os.close(fd)
    assert in_time and right(images[0]) == 60
