"""Forked processes that run a user's code: it finds the state that it has here, and changes nothing of it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any, Callable, Iterator, List, Optional

import torch

# Seconds that a question may take a forked process. It may wait for ever for a lock that a thread of ours held.
PATIENCE = 30


def can_fork() -> bool:
    "Return whether forking is safe here: macOS has libraries that it breaks."
    return hasattr(os, "fork") and sys.platform != "darwin"


class Child:
    """A forked process that calls `work` with each thing that is sent to it, and sends back what that returns.

    `siblings` are those that were forked before. A `quiet` one prints nothing.
    """

    def __init__(self, work: Callable[[Any], Any], siblings: List[Child], quiet: bool = False) -> None:
        self.connection, theirs = Pipe()
        self.pid: Optional[int] = os.fork()
        if not self.pid:
            status = 1
            try:
                for one in (self, *siblings):  # else it would never hear that this process has gone
                    one.connection.close()
                _serve(work, theirs, quiet)
            except EOFError:
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        siblings.append(self)

    def close(self, kill: bool = False) -> int:
        "End the process; its exit status."
        self.connection.close()
        pid, self.pid = self.pid, None
        if pid is None:
            return 0
        if kill:
            os.kill(pid, signal.SIGKILL)
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:  # the system reaps by itself
            return 0


def _serve(work: Callable[[Any], Any], connection: Connection, quiet: bool) -> None:
    "Answer until the parent is gone."
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # its threads are not here
    own_offsets()
    if quiet:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    while True:
        connection.send(work(connection.recv()))


@contextlib.contextmanager
def forking() -> Iterator[None]:
    "Let Ctrl-C wait: in a process that was just forked it would run the program on."
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ask(question: Callable[[], Any]) -> Any:
    "Return what `question` returns in a forked process without other threads; None if it fails or takes too long."
    children: List[Child] = []
    try:
        with forking():
            Child(lambda _: question(), children, quiet=True)
        children[0].connection.send(None)
        return children[0].connection.recv() if children[0].connection.poll(PATIENCE) else None
    except (EOFError, OSError):
        return None
    finally:
        for child in children:
            child.close(kill=True)


def own_offsets() -> None:
    """Give this process its own offsets in the files that it inherited open for reading.

    Over a fork they are shared: one that seeks and reads would move all others.
    """
    try:
        import fcntl

        names = os.listdir("/proc/self/fd")
    except (ImportError, OSError):
        return
    for name in names:
        with contextlib.suppress(OSError):
            fd = int(name)
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if flags & os.O_ACCMODE == os.O_RDONLY and stat.S_ISREG(os.fstat(fd).st_mode):
                again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
                os.lseek(again, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(again, fd, os.get_inheritable(fd))
                os.close(again)
