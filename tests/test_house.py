"""The checks of house.py pass for the package and find violations; each folder works without those above it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List

import house
import pytest
from conftest import make_formats

import memlist

needs_names = pytest.mark.skipif(sys.version_info < (3, 10), reason="this Python does not list its own modules")


@pytest.fixture(scope="module")
def known() -> Dict[str, house.Module]:
    return house.modules_of(house.package_folder())


# -- the package --------------------------------------------------------------------------------------------------


def report(wrong: List[str]) -> None:
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_package_has_no_circular_imports(known: Dict[str, house.Module]) -> None:
    assert len(known) > 20
    report(house.circles(known))


def test_no_folder_imports_one_above_it(known: Dict[str, house.Module]) -> None:
    report(house.climbing(known))


@needs_names
def test_folders_import_only_the_packages_that_they_may(known: Dict[str, house.Module]) -> None:
    report(house.foreign(known))


def test_benchmarks_have_no_circular_imports() -> None:
    report(house.circles(house.modules_of(house.ROOT / "benchmarks", "")))


def test_nothing_is_too_long(known: Dict[str, house.Module]) -> None:
    report(house.too_long(known))


def test_docstrings_begin_with_a_verb(known: Dict[str, house.Module]) -> None:
    report(house.beginnings(known))


def test_modules_keep_no_state(known: Dict[str, house.Module]) -> None:
    report(house.state(known))


# -- the checks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path: Path) -> Any:
    "Return a function that writes a package, given file names and their text."

    def build(**files: str) -> Dict[str, house.Module]:
        for name, text in files.items():
            path = tmp_path / "memlist" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return house.modules_of(tmp_path / "memlist")

    return build


def test_circular_imports_are_found_in_functions_and_type_checking(build: Any) -> None:
    known = build(
        store__log="from .index import find",
        store__index="def find():\n    from .budget import room",
        store__budget="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import log",
        store__system="from . import log",
    )
    (circle,) = house.circles(known)
    for arrow in (
        "memlist.store.log:1 -> memlist.store.index",
        "memlist.store.index:2 -> memlist.store.budget",
        "memlist.store.budget:3 -> memlist.store.log",
    ):
        assert arrow in circle
    assert "system" not in circle


def test_imports_of_folders_above_are_found(build: Any) -> None:
    known = build(
        store__log="import memlist.cache.decode",
        cache__decode="from ..store import log\nfrom ..batch.render import prepare",
        batch__render="import numpy",
        fastai1__lists="from ..cache import decode\nfrom .. import former",
        former="",
    )
    assert house.climbing(known) == [
        "climbs: cache/decode.py:2 imports memlist.batch.render",
        "climbs: fastai1/lists.py:2 imports memlist.former",
        "climbs: store/log.py:1 imports memlist.cache.decode",
    ]
    assert "say in tests/house.py what fastai9/ may import" in house.climbing(build(fastai9__lists=""))[-1]


@needs_names
def test_foreign_packages_are_found(build: Any) -> None:
    known = build(
        store__log="import os, numpy, PIL.Image",
        cache__progress="try:\n    import fastprogress\nexcept ImportError:\n    pass",
        cache__keys="import fastprogress\nfrom torch import Tensor",
        fastai1__lists="from fastai.vision import ImageList",
    )
    assert house.foreign(known) == [
        "foreign: cache/keys.py:1 imports fastprogress",
        "foreign: cache/keys.py:2 imports torch",
        "foreign: store/log.py:1 imports PIL",
    ]


def test_files_and_functions_that_are_too_long_are_found(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "LONGER", {"log.py:old": "it was long once", "log.py:C": "a good reason"})
    body = "        pass\n"
    known = build(log=f"class C:\n    def f(self):\n{body * 60}\n    def g(self):\n{body * 59}{body * 400}")
    assert house.too_long(known) == [
        "too long: log.py has 523 lines, 500 are allowed",
        "too long: log.py:C.f has 61 lines, 60 are allowed",
        "too long: log.py:C.g has 460 lines, 60 are allowed",
        "not needed: log.py:old in LONGER of tests/house.py is not too long",
    ]


def test_bad_first_words_of_docstrings_are_found(build: Any) -> None:
    known = build(
        log='''
        """The log."""
        class Log:
            "A log."
            def find(self):
                "Whether it is there."
            def drop(self):
                "Drop it."
            @property
            def size(self):
                "The number of records."
        class Other:
            "What came of it."
        '''
    )
    assert sorted(house.beginnings(known)) == [
        "docstring: log.py:12 Other: What came of it. …",
        "docstring: log.py:5 Log.find: Whether it is there. …",
    ]


def test_state_is_found(build: Any) -> None:
    known = build(
        log="""
        import weakref
        __all__ = ["log"]
        TABLE = {1: 2}
        seen = {}
        seen_too: dict = dict()
        weak = weakref.WeakValueDictionary()
        EMPTY = []
        frozen = (1, 2)
        def f():
            global counter
        """
    )
    assert [line.split(" ", 2)[2] for line in house.state(known)] == [
        *("seen", "seen_too", "weak", "EMPTY", "global counter"),
    ]


# -- each folder without those above it ---------------------------------------------------------------------------

LIBRARIES = {
    *("fastai", "torch", "torchvision", "PIL", "pandas", "matplotlib", "numba", "llvmlite", "fastprogress", "IPython"),
}
ABSENT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {absent!r}: raise ModuleNotFoundError(f"No module named {{name}}", name=name)
sys.meta_path.insert(0, Absent())
"""


def python(code: str, *absent: str, status: int = 0) -> str:
    "Run `code` in a process that can't import the packages `absent`; return what it prints."
    program = ABSENT.format(absent=sorted(absent)) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", ["store", "cache", "batch", "timing"])
def test_a_folder_needs_only_its_packages(folder: str, known: Dict[str, house.Module]) -> None:
    needed = set(house.PACKAGES[folder]).union(*(house.PACKAGES[below] for below in house.FOLDERS[folder]))
    modules = [name for name, module in known.items() if module.folder == folder]
    if find_spec("triton") is None:  # as with torch 1.8
        modules = [name for name in modules if name != "memlist.batch.fused_triton"]
    python("".join(f"import {name}\n" for name in modules), *(LIBRARIES - needed))


def test_without_fastai_the_store_works_and_names_say_what_to_install() -> None:
    said = python(
        """
        import memlist
        memlist.ImageStore, memlist.CacheFileError, memlist.cached
        for name in ("MemoryImageList", "DataWait", "MemoryImageBlock", "MemoryImageFolder"):
            assert name not in memlist.__all__
            try:
                getattr(memlist, name)
            except ImportError as error:
                print(error)
        try:
            from memlist import MemoryImageList
        except ImportError as error:
            print(error)
        try:
            memlist.in_memory(None)
        except ImportError as error:
            print(error)
        try:
            memlist.no_such_name
        except AttributeError as error:
            assert "fastai" not in str(error), error
        """,
        "fastai",
        "torchvision",
    )
    extras = ["fastai1", "fastai1", "fastai2", "torchvision", "fastai1", "fastai2"]
    assert [line.split("pip install ")[1] for line in said.splitlines()] == [f"'memlist[{one}]'" for one in extras]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python does not tell how it was started")
def test_the_command_does_not_import_fastai_but_a_package_that_uses_memlist_does(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m"]
    done = subprocess.run([*command, "memlist", "info", "/no/such/file"], capture_output=True, text=True)
    assert done.returncode == 2 and "does not exist" in done.stderr and "fastai" not in done.stderr
    (tmp_path / "user").mkdir()
    for name in ("__init__", "__main__"):
        (tmp_path / f"user/{name}.py").write_text("import memlist; memlist.MemoryImageList")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run([*command, "user"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0 and "fastai" in done.stderr


def test_the_command_works_without_fastai(tmp_path: Path) -> None:
    formats, file = tmp_path / "formats", str(tmp_path / "cache")
    make_formats(formats)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        memlist.MemoryImageList.from_folder(formats, cache_file=file).load_data(progress=False)
    said = python(
        f"""
        from memlist.__main__ import main
        for command in ("info", "check", "purge"):
            assert main([command, {file!r}]) == 0
        assert main(["plan", {str(formats)!r}, "--size", "8"]) == 0
        main(["--version"])
        """,
        "fastai",
    )
    assert "14 records" in said and "nothing is wrong" in said and "emptied" in said
    assert "14 images" in said and said.count("; load_data() takes about ") == 2
    assert "no fastai" in said and "fastai 1 can't be imported" in said
