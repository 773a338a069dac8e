"""What is published: the sdist, the wheel, its types, its version, and what importing it costs."""

from __future__ import annotations

import email
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import venv
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Set, Tuple

import numpy as np
import PIL
import pytest
import setuptools
import torch

import memlist
from memlist import __main__ as command
from memlist.batch import cpu

ROOT = Path(__file__).resolve().parents[1]
# Of the repository's files, those that no sdist carries.
LEFT_OUT = {".ci/run", ".github/workflows/ci.yml", ".gitignore", ".pre-commit-config.yaml"}
# What lies in people's checkouts and belongs to nobody but them.
JUNK = [
    "docs/_build/html/index.html",
    "docs/notebooks/copied.ipynb",
    "examples/.ipynb_checkpoints/tour-checkpoint.ipynb",
    "memlist/__pycache__/store.cpython-311.pyc",
    "tests/__pycache__/conftest.cpython-311.pyc",
    "benchmarks/results/__pycache__/page.cpython-38.pyc",
]


class Built(NamedTuple):
    "What `python -m build` makes, and the files of the repository, where git knows them."

    sdist: Path
    wheel: Path
    tracked: Optional[Set[str]]

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(wheel.read(name))


def git(*arguments: str) -> Optional[List[str]]:
    "The files that `git ls-files` names; None where there is no repository, as in an unpacked sdist."
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True, text=True)
    return (
        [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()] if not done.returncode else None
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    "The sdist, and the wheel that is made from it, of a copy: nothing is written into the checkout."
    if getattr(importlib.util.find_spec("build"), "origin", None) is None:  # a folder of that name is no module
        pytest.skip("build is not installed: pip install build")
    if tuple(map(int, setuptools.__version__.split(".")[:2])) < (70, 1):
        pytest.skip(
            f"setuptools {setuptools.__version__} makes no wheels by itself: pip install 'setuptools>=70.1,<82'"
        )
    if not (ROOT / "memlist").exists():
        pytest.skip("these tests stand beside no package, but run against an installed one")
    folder = tmp_path_factory.mktemp("built")
    tree, dist, tracked = folder / "tree", folder / "dist", git()
    if tracked is None:
        ignore = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info")
        shutil.copytree(str(ROOT), str(tree), ignore=ignore)
    else:
        # And what is new, but for data that somebody keeps in a folder here.
        for name in {*tracked, *(git("--others", "--exclude-standard", "--", ":(glob)*", "memlist") or ())}:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(ROOT / name), str(tree / name))
    for name in JUNK:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("junk")
    make = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(tree)]
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return Built(sdist, wheel, None if tracked is None else set(tracked))


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    "The Python of an environment with the wheel in its site-packages, and all else borrowed from here."
    if not (ROOT / "memlist").exists():
        return sys.executable  # here it is installed
    built = request.getfixturevalue("built")
    folder = tmp_path_factory.mktemp("installed")
    venv.create(str(folder), symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(built.wheel) as wheel:
        wheel.extractall(str(packages))
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "borrowed.pth").write_text("\n".join(ours))
    return str(folder / "bin" / "python")


def run(*arguments: str, cwd: Path) -> str:
    "What a process prints that ends well."
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- What is in them ---


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    inside = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "memlist").rglob("*.py")}
    inside["memlist/py.typed"] = b""
    assert {name: text for name, text in files.items() if ".dist-info/" not in name} == inside
    info = {name.split(".dist-info/")[1]: text for name, text in files.items() if ".dist-info/" in name}
    licence = info.pop("LICENSE", None) or info.pop("licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert set(info) == {"METADATA", "RECORD", "WHEEL", "top_level.txt"}
    assert built.wheel.name == f"memlist-{memlist.__version__}-py3-none-any.whl"


def test_the_sdist_holds_the_repository(built: Built) -> None:
    with tarfile.open(built.sdist) as sdist:
        found = [member.name for member in sdist.getmembers() if member.isfile()]
    names = {name.split("/", 1)[1] for name in found}
    assert {name.split("/", 1)[0] for name in found} == {f"memlist-{memlist.__version__}"}
    assert not names.intersection(JUNK)
    assert not [name for name in names if re.search(r"__pycache__|\.py[cod]$|\.nb[ci]$|\.ipynb_checkpoints", name)]
    assert {"MANIFEST.in", "PKG-INFO", "LICENSE", "CHANGELOG.md", "memlist/py.typed"} <= names
    if built.tracked is None:
        pytest.skip("no repository to compare the sdist with")
    assert built.tracked - names == LEFT_OUT & built.tracked


def test_metadata(built: Built) -> None:
    about = built.metadata()
    assert (about["Name"], about["Version"]) == ("memlist", memlist.__version__)
    assert (about["Author"], about["License"]) == ("The memlist authors", "Apache-2.0")
    assert about["Description-Content-Type"] == "text/markdown"
    said: Any = about.get_payload(decode=True)
    assert said.decode("utf-8").strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    versions = [line.rsplit(" ", 1)[1] for line in about.get_all("Classifier", []) if "Python :: 3." in line]
    assert versions[0] == "3.8" and about["Requires-Python"] == ">=3.8"
    assert not about.get_all("Project-URL") and not about["Home-page"] and not about["Author-email"]


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"\n## {memlist.__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- What an installed one does ---


def test_the_installed_command_runs_anywhere(python: str, tmp_path: Path) -> None:
    said = run(python, "-W", "ignore", "-m", "memlist", "--version", cwd=tmp_path)
    assert said == command.versions() + "\n"


def test_types_reach_the_users_of_an_installed_one(python: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "program.py").write_text(
        "from memlist import CacheInfo, ImageStore\n"
        "reveal_type(ImageStore().info().nbytes)\n"
        "reveal_type(CacheInfo(1, 2, 3, 4, 5, 6).total)\n"
        "ImageStore(max_ram=[])\n"
    )
    # Of torch and NumPy, which are all that a program's check takes long for, nothing is asked here.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nfollow_imports = skip\n[mypy-memlist.*,typing.*]\nfollow_imports = normal\n"
    )
    check = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run([*check, "program.py"], capture_output=True, text=True, cwd=tmp_path)
    said = [line.split(": ", 1)[-1] for line in done.stdout.splitlines()]
    assert said[:2] == ['note: Revealed type is "int"'] * 2, done.stdout + done.stderr
    assert len(said) == 4 and 'error: Argument "max_ram" to "ImageStore" has incompatible type' in said[2]


# --- The version, without an installation ---


def test_version_is_printed_by_the_command(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--version"])
    first, stack, repairs = capsys.readouterr().out.splitlines()
    assert not ended.value.code and first == f"memlist {memlist.__version__}"
    assert stack.startswith(f"python {'.'.join(map(str, sys.version_info[:3]))}")
    assert f", torch {torch.__version__}, numpy {np.__version__}, pillow {PIL.__version__}, " in stack
    assert repairs == f"repairs: {', '.join(memlist.compat.applied())}"

    monkeypatch.setattr(memlist.compat, "applied", lambda: ())
    monkeypatch.setattr(cpu, "without_kernels", lambda: "numba needs another NumPy")
    monkeypatch.setattr(command.metadata, "version", lambda name: {"numba": "0.1"}[name])
    assert command.versions().endswith(", numba 0.1 (unusable)\nrepairs: none")

    def absent(name: str) -> str:
        raise command.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(command.metadata, "version", absent)
    assert ", no numba\n" in command.versions()


# --- What importing it brings in ---

# Beyond the standard library. Pillow's is the class that EXIF is full of; fastai's two are where a list to make a twin
# of and code to repair are; torch's are imported by torch where `compat` asks it for the default of `torch.load`.
NEEDED = {
    "memlist",
    "psutil",
    "PIL.TiffImagePlugin",
    "fastai.vision.gan",
    "fastai.vision.interpret",
    "torch.utils.serialization",
}


def imported(first: str, second: str, cwd: Path) -> List[Tuple[str, Optional[str]]]:
    "The modules that `second` brings in after `first`, each with its file."
    code = f"""
    import json, sys
    {first}
    before = set(sys.modules)
    {second}
    origin = lambda module: getattr(getattr(module, "__spec__", None), "origin", None)
    print(json.dumps(sorted((name, origin(sys.modules[name])) for name in set(sys.modules) - before)))
    """
    said = run(sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), cwd=cwd)
    return [(name, origin) for name, origin in json.loads(said)]


def in_standard_library(origin: Optional[str]) -> bool:
    if origin is None or origin in ("built-in", "frozen"):
        return origin is not None
    places = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    parents = Path(origin).parents
    return any(place in parents for place in places) and not {"site-packages", "dist-packages"} & {
        parent.name for parent in parents
    }


def test_importing_it_brings_in_next_to_nothing_that_fastai_does_not(tmp_path: Path) -> None:
    found = imported("import fastai.vision", "import memlist", tmp_path)
    assert "memlist.store.store" in dict(found)
    extra = [name for name, origin in found if not in_standard_library(origin)]
    assert not [name for name in extra if not any(f"{name}.".startswith(f"{one}.") for one in NEEDED)]
    # What only some calls need: compiled kernels. The command. And nothing heavy of the standard library's.
    assert not {"memlist.batch.kernels", "memlist.__main__"} & set(extra)
    assert not {"argparse", "asyncio", "sqlite3", "tkinter", "unittest", "venv"} & set(dict(found))
