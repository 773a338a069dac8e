"""Run user code in forked processes: it sees the state of this process, but can't change it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import warnings
from multiprocessing.connection import Connection, Pipe
from typing import Any, Callable, Iterator, List, Optional, Sequence, TypeVar

from ..store.registry import stores

Result = TypeVar("Result")
#: Seconds that a forked process may take to answer. It may hang on a lock that another thread held at the fork.
PATIENCE = 5


def can_fork() -> bool:
    "Return whether forking is safe here; on macOS it breaks system libraries."
    return hasattr(os, "fork") and sys.platform != "darwin"


class Child:
    """A forked process that calls `work` with each object that it is sent, and sends back the result.

    `siblings` are the children that were forked before; this one is added. A `quiet` child prints nothing.
    """

    def __init__(self, work: Callable[[Any], Any], siblings: List[Child], quiet: bool = False) -> None:
        self.connection, theirs = Pipe()
        self.pid: Optional[int] = None
        siblings.append(self)  # first, so that an interrupt leaves no child that nobody ends
        _flush()  # else buffered output would be printed twice
        with warnings.catch_warnings():  # Python 3.12 warns if there are threads; a child that hangs is killed
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                for child in siblings:  # else it would not notice when the parent ends
                    child.connection.close()
                _serve(work, theirs, quiet)
            except EOFError:
                status = 0
            finally:
                _flush()
                os._exit(status)
        theirs.close()

    def close(self, kill: bool = False) -> int:
        "End the process and return its exit status."
        self.connection.close()
        if self.pid is None:
            return 0
        try:
            if kill:
                os.kill(self.pid, signal.SIGKILL)
            status = os.waitpid(self.pid, 0)[1]
        except (ChildProcessError, ProcessLookupError):  # other code has reaped it
            status = 0
        self.pid = None  # last: after an interrupt this is called again
        return status


def with_children(work: Callable[[List[Child]], Result]) -> Result:
    "Call `work` with an empty list for the children that it forks, and return its result; end those that are left."
    children: List[Child] = []
    try:
        try:
            return work(children)
        finally:
            end(children)
    finally:  # again, because an interrupt may have struck before `end` could catch it
        end(children)


def end(children: Sequence[Child]) -> None:
    "Kill and reap `children`, however often Ctrl-C strikes meanwhile."
    struck: Optional[KeyboardInterrupt] = None
    while True:
        try:
            with forking():
                for child in children:
                    child.close(kill=True)
            break
        except KeyboardInterrupt as error:
            struck = error
    if struck is not None:
        raise struck


def _flush() -> None:
    with contextlib.suppress(Exception):  # the reader may be gone
        sys.stdout.flush()
        sys.stderr.flush()


def _serve(work: Callable[[Any], Any], connection: Connection, quiet: bool) -> None:
    "Answer requests until the parent ends."
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # torch's threads do not exist after a fork
    own_offsets()
    if quiet:
        _leave_alone(connection.fileno())
    while True:
        connection.send(work(connection.recv()))


@contextlib.contextmanager
def forking() -> Iterator[None]:
    "Block Ctrl-C: a child that it interrupts right after the fork would go on with the parent's program."
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ask(question: Callable[[], Any]) -> Any:
    "Call `question` in a forked process, without other threads; return None if it fails or takes too long."

    def answer(children: List[Child]) -> Any:
        with forking():
            Child(lambda _: question(), children, quiet=True)
        children[0].connection.send(None)
        return children[0].connection.recv() if children[0].connection.poll(PATIENCE) else None

    try:
        return with_children(answer)
    except (EOFError, OSError):
        return None


def _descriptors() -> List[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return []


def own_offsets() -> None:
    """Give this process its own offsets in the files that it inherited open for reading.

    A fork shares offsets: a seek or read in one process moves them for all. Files opened for appending are left alone.
    """
    ours = {fd for store in stores() for fd in store.descriptors()}
    for fd in set(_descriptors()) - ours:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            writes = flags & os.O_ACCMODE
            if writes != os.O_WRONLY and not flags & os.O_APPEND and stat.S_ISREG(os.fstat(fd).st_mode):
                reopened = os.open(f"/proc/self/fd/{fd}", writes | os.O_CLOEXEC)
                os.lseek(reopened, os.lseek(fd, 0, os.SEEK_CUR), os.SEEK_SET)
                os.dup2(reopened, fd, os.get_inheritable(fd))
                os.close(reopened)


def _leave_alone(connection: int) -> None:
    "Detach this process from what it shares with its parent and must not use: sockets, pipes, the terminal."
    null = os.open(os.devnull, os.O_WRONLY)  # write-only, so that reading is an error
    for fd in _descriptors():
        with contextlib.suppress(OSError):
            mode = os.fstat(fd).st_mode
            if fd in (1, 2) or (fd != connection and (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or os.isatty(fd))):
                os.dup2(null, fd)
