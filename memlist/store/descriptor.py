"""Create descriptors of anonymous files, and send them to a process being spawned."""

from __future__ import annotations

import errno
import os
import tempfile
from multiprocessing import reduction
from multiprocessing.context import get_spawning_popen
from typing import Any, Optional
from weakref import finalize


def default_kind() -> str:
    "Return `'memfd'` if the system has it, else `'file'`; the environment variable MEMLIST_BACKING overrides this."
    kind = os.environ.get("MEMLIST_BACKING") or ("memfd" if _has_memfd() else "file")
    if kind not in ("memfd", "file"):
        raise ValueError(f"MEMLIST_BACKING={kind!r}: use 'memfd' or 'file'")
    return kind


def _has_memfd() -> bool:
    "Return whether `memfd_create` works: Python may have it although the kernel or a sandbox refuses it."
    try:
        os.close(os.memfd_create("memlist-probe"))
    except AttributeError:
        return False
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    return True


def anonymous(kind: str, name: str, folder: Optional[str] = None) -> int:
    "Return a descriptor of a new, empty, anonymous file of `kind` 'memfd' or 'file'; the latter lies in `folder`."
    if kind == "memfd":
        return os.memfd_create(f"memlist-{name}")
    if os.name == "nt":  # pragma: no cover - an open file can't be unlinked there; it is deleted with its last handle
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_BINARY | os.O_TEMPORARY  # type: ignore[attr-defined]
        return os.open(tempfile.mktemp(prefix=f"memlist-{name}-", dir=folder), flags)
    fd, path = tempfile.mkstemp(prefix=f"memlist-{name}-", dir=folder)
    os.unlink(path)
    return fd


def sendable(fd: int) -> Any:
    "Wrap `fd` so that it can be pickled for a process being spawned, where `detach` unwraps it. It may be sent twice."
    if not hasattr(reduction, "DupFd"):
        return reduction.DupHandle(fd, 0)  # type: ignore
    popen: Any = get_spawning_popen()
    if getattr(popen, "method", "") == "spawn" and fd in getattr(popen, "_fds", ()):
        # A process started like that inherits each number once, and either of two receivers may close it.
        fd = os.dup(fd)
        finalize(popen, os.close, fd)
    return reduction.DupFd(fd)
