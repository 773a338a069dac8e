"""Run a program in a process that has imported neither fastai nor memlist yet, only the libraries that these need.

To import fastai takes five seconds of CPU time, most of them for torch, pandas and the like. One process imports these
once, and is forked for each program. A program that needs options of Python, or a file of its own, is for `subprocess`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional

#: What fastai 1 and memlist import, and what is imported for them.
LIBRARIES = ("torch", "torchvision", "pandas", "matplotlib.pyplot", "scipy.stats", "PIL.Image", "psutil", "IPython")
#: With this folder on PYTHONPATH, a program finds no fastai.
WITHOUT_FASTAI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "without_fastai")
# The connection to the process that is forked, once there is one.
_server: List[socket.socket] = []


def run(
    code: str, *arguments: str, cwd: Optional[Path] = None, env: Optional[Dict[str, str]] = None, ignore: bool = True
) -> subprocess.CompletedProcess[str]:
    "Run `code` as `python -c` does, with `ignore` as `python -W ignore -c`; return what it wrote and its exit status."
    if not _server:
        _server.append(_start())
    with tempfile.TemporaryDirectory() as folder, _server[0].makefile("r") as answers:
        outputs = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        asked = [code, arguments, str(cwd or Path.cwd()), dict(os.environ if env is None else env), ignore, outputs]
        _server[0].sendall(json.dumps(asked).encode() + b"\n")
        pid = int(answers.readline())
        try:
            _server[0].settimeout(300)
            status = int(answers.readline())
        except BaseException:
            os.killpg(pid, signal.SIGKILL)
            _server.pop().close()  # it may still tell of this process
            raise
        _server[0].settimeout(None)
        wrote = [Path(path).read_text() for path in outputs]
    return subprocess.CompletedProcess(["-c", *arguments], status, *wrote)


def script(path: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    "Run a file as `python path` does, with all warnings; return what it wrote and its exit status."
    return run(_SCRIPT, str(path), *map(str, arguments), ignore=False, **options)


_SCRIPT = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _start() -> socket.socket:
    "Start the process that is forked; it ends when the connection is closed. It is nobody's child."
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, str(theirs.fileno())]
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", WITHOUT_FASTAI)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with theirs:
        subprocess.run(command, pass_fds=[theirs.fileno()], env=env, stdin=-3, stdout=-3, stderr=-3, check=True)
    return ours


def _serve(fd: int) -> Any:
    "Fork for each program that is asked for; return what was asked in the forked process, and None at the end."
    for name in LIBRARIES:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
    gc.freeze()  # so that a collection in a forked process does not copy all that was imported
    with socket.socket(fileno=fd) as connection, connection.makefile("r") as lines:
        for line in lines:
            pid = os.fork()
            if not pid:
                os.setsid()
                return json.loads(line)
            connection.sendall(b"%d\n" % pid)
            status = os.waitpid(pid, 0)[1]
            connection.sendall(b"%d\n" % (-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)))
    return None


def _main() -> None:
    "Become the program that was asked for, if any."
    if os.fork():
        os._exit(0)
    asked = _serve(int(sys.argv[1]))
    if asked is None:
        return
    code, arguments, cwd, env, ignore, outputs = asked
    for number, path in enumerate(outputs, 1):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[0], sys.argv[:] = "", ["-c", *arguments]
    random.seed()
    sys.modules["numpy"].random.seed()
    if ignore:
        warnings.simplefilter("ignore")
    assert not {"fastai", "memlist"} & set(sys.modules)
    if WITHOUT_FASTAI in env.get("PYTHONPATH", "").split(os.pathsep):
        sys.modules["fastai"] = None  # type: ignore[assignment]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), vars(main))


if __name__ == "__main__":
    _main()
