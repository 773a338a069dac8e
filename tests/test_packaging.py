"""The published package: the sdist, the wheel, its types, its version, and the modules that the import loads."""

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
# Files of the repository that are not in the sdist.
LEFT_OUT = {".ci/run", ".ci/steps.py", ".github/workflows/ci.yml", ".gitignore", ".pre-commit-config.yaml"}
# Files that may lie in a checkout and must not be published.
JUNK = [
    "docs/_build/html/index.html",
    "docs/notebooks/copied.ipynb",
    "examples/.ipynb_checkpoints/tour-checkpoint.ipynb",
    "memlist/__pycache__/store.cpython-311.pyc",
    "tests/__pycache__/conftest.cpython-311.pyc",
    "benchmarks/results/__pycache__/page.cpython-38.pyc",
]


class Built(NamedTuple):
    "The files that `python -m build` makes, and those that git tracks, if there is a repository."

    sdist: Path
    wheel: Path
    tracked: Optional[Set[str]]

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(wheel.read(name))


def git(*arguments: str) -> Optional[List[str]]:
    "Return the files that `git ls-files` names; None if there is no repository, as in an unpacked sdist."
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "ls-files", "-z", *arguments], cwd=ROOT, capture_output=True, text=True)
    return (
        [name for name in done.stdout.split("\0") if name and (ROOT / name).exists()] if not done.returncode else None
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    "Build the sdist, and the wheel from it, in a copy: nothing is written to the checkout."
    if getattr(importlib.util.find_spec("build"), "origin", None) is None:  # a folder named build is no module
        pytest.skip("build is not installed: pip install build")
    if tuple(map(int, setuptools.__version__.split(".")[:2])) < (70, 1):
        pytest.skip(
            f"setuptools {setuptools.__version__} makes no wheels by itself: pip install 'setuptools>=70.1,<82'"
        )
    if not (ROOT / "memlist").exists():
        pytest.skip("there is no package to build here: these tests run against an installed one")
    folder = tmp_path_factory.mktemp("built")
    tree, dist, tracked = folder / "tree", folder / "dist", git()
    if tracked is None:
        ignore = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info")
        shutil.copytree(str(ROOT), str(tree), ignore=ignore)
    else:
        # Untracked files too, but only at the top level and in the package: other folders may hold data.
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
    "Return the Python of an environment that has the wheel, and all other packages from this one."
    if not (ROOT / "memlist").exists():
        return sys.executable  # it is installed here
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
    "Run a process, which must succeed; return what it prints."
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- Contents ---


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


def test_the_metadata_is_complete(built: Built) -> None:
    about = built.metadata()
    assert (about["Name"], about["Version"]) == ("memlist", memlist.__version__)
    assert (about["Author"], about["License"]) == ("The memlist authors", "Apache-2.0")
    assert about["Description-Content-Type"] == "text/markdown"
    said: Any = about.get_payload(decode=True)
    assert said.decode("utf-8").strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    versions = [line.rsplit(" ", 1)[1] for line in about.get_all("Classifier", []) if "Python :: 3." in line]
    assert versions[0] == "3.8" and about["Requires-Python"] == ">=3.8"
    assert not about.get_all("Project-URL") and not about["Home-page"] and not about["Author-email"]


def test_the_changelog_has_this_version() -> None:
    assert f"\n## {memlist.__version__} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# --- The installed package ---


def test_the_installed_command_runs_anywhere(python: str, tmp_path: Path) -> None:
    said = run(python, "-W", "ignore", "-m", "memlist", "--version", cwd=tmp_path)
    assert said == command.versions() + "\n"


def test_type_checkers_see_the_types_of_the_installed_package(python: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "program.py").write_text(
        "from memlist import CacheInfo, ImageStore\n"
        "reveal_type(ImageStore().info().nbytes)\n"
        "reveal_type(CacheInfo(1, 2, 3, 4, 5, 6).total)\n"
        "ImageStore(max_ram=[])\n"
    )
    # torch and NumPy are skipped: checking them would take most of the time.
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


# --- Modules that the import loads ---

# Besides the standard library. Pillow's has the class of EXIF's numbers; fastai's have a list that gets a twin, and
# code to repair; torch imports its own when `compat` asks for the default of `torch.load`.
NEEDED = {
    "memlist",
    "psutil",
    "PIL.TiffImagePlugin",
    "fastai.vision.gan",
    "fastai.vision.interpret",
    "torch.utils.serialization",
}


def imported(first: str, second: str, cwd: Path) -> List[Tuple[str, Optional[str]]]:
    "Return the modules that `second` loads after `first`, each with its file."
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


def test_the_import_loads_almost_nothing_that_fastai_does_not(tmp_path: Path) -> None:
    found = imported("import fastai.vision", "import memlist", tmp_path)
    assert "memlist.store.store" in dict(found)
    extra = [name for name, origin in found if not in_standard_library(origin)]
    assert not [name for name in extra if not any(f"{name}.".startswith(f"{one}.") for one in NEEDED)]
    # Compiled kernels and the command, which only some calls need, and heavy parts of the standard library stay out.
    assert not {"memlist.batch.kernels", "memlist.__main__"} & set(extra)
    assert not {"argparse", "asyncio", "sqlite3", "tkinter", "unittest", "venv"} & set(dict(found))


@pytest.mark.parametrize("name", ["MemoryImagList", "Datawait"])
def test_a_name_that_does_not_exist_is_an_attribute_error_where_fastai_1_is_installed(name: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
        getattr(memlist, name)


def test_every_place_that_names_the_version_agrees() -> None:
    named = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    newest = re.search(r"^## (\d\S*) - ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert named and newest
    assert named[1] == newest[1] == memlist.__version__
