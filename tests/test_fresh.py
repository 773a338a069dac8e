"""Programs that the tests run in a fresh process: what they write, how they end, and what they find imported."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import fresh
import pytest


def test_a_program_runs_as_by_python_c(tmp_path: Path) -> None:
    done = fresh.run("import os, sys; print(*sys.argv, os.environ, os.getcwd())", "a b", cwd=tmp_path, env={"A": "1"})
    assert (done.stdout, done.stderr) == (f"-c a b environ({{'A': '1'}}) {tmp_path}\n", "") and done.returncode == 0


def test_it_ends_as_python_does() -> None:
    done = fresh.run("import atexit, sys; atexit.register(print, 'later'); print('first'); sys.exit(3)")
    assert done.returncode == 3 and done.stdout == "first\nlater\n"
    done = fresh.run("1 / 0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
    assert fresh.run("import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


def test_warnings_are_shown_unless_they_are_ignored() -> None:
    code = "import warnings; warnings.warn('by name')"
    assert fresh.run(code).stderr == "" and "by name" in fresh.run(code, ignore=False).stderr


def test_neither_fastai_nor_memlist_is_imported_and_one_program_leaves_nothing_to_the_next() -> None:
    code = """
import os, random, sys
assert "torch" in sys.modules and not {"fastai", "memlist", "numba"} & set(sys.modules)
sys.modules["fastai"] = sys.modules["memlist"] = os
print(os.getpid(), os.getppid(), random.random())
"""
    one, other = (fresh.run(code) for _ in range(2))
    assert one.returncode == other.returncode == 0, one.stderr + other.stderr
    assert all(a != b for a, b in zip(one.stdout.split()[::2], other.stdout.split()[::2]))
    assert int(one.stdout.split()[1]) == int(other.stdout.split()[1]) != os.getpid()


def test_a_file_finds_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("NUMBER = 7")
    (tmp_path / "main.py").write_text("import sys, beside; print(beside.NUMBER, sys.argv, __name__)")
    done = fresh.script(tmp_path / "main.py", "--fast", 3)
    assert done.stdout == f"7 {[str(tmp_path / 'main.py'), '--fast', '3']} __main__\n", done.stderr


def test_a_program_finds_no_fastai_where_the_path_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; print('fastai' in sys.modules and sys.modules['fastai'] is None)"
    assert fresh.run(code).stdout == "False\n"
    monkeypatch.setenv("PYTHONPATH", f"/nowhere:{fresh.WITHOUT_FASTAI}")
    assert fresh.run(code).stdout == "True\n"
    fresh._server.pop().close()  # one that is started now is no other
    assert fresh.run(code).stdout == "True\n"
    monkeypatch.delenv("PYTHONPATH")
    assert fresh.run(code).stdout == "False\n"
