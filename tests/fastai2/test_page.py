"""The page about fastai 2 is true: its code runs, its signatures are those of the functions, and its example works."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List

import matplotlib.pyplot as plt
import pytest
from conftest import photo

import memlist
import memlist.fastai2

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Make the folder that the pages name."
    for i in range(40):
        path = tmp_path / "data/pets" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i, 48, 64).save(path)
    monkeypatch.chdir(tmp_path)


def blocks_of(page: str) -> List[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_door_of_the_readme_works(data: None) -> None:
    block = blocks_of("README.md")[1]
    assert "fastai.vision.all" in block
    space: Dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), space)
    dls = space["dls"]
    assert dls.load_data(progress=False).cache_info().cached == 40 and dls.one_batch()[0].shape == (8, 3, 64, 64)


def test_every_code_block_runs(data: None) -> None:
    blocks = blocks_of("docs/fastai2.md")
    assert len(blocks) >= 6
    space: Dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks:
            exec(compile(block, "fastai2.md", "exec"), space)
    plt.close("all")
    assert space["dls"].c == 2, "the page names the number of classes so"
    left = {path.name for path in Path().iterdir()}
    assert left == {"data", "pets.pkl", "pets.memlist", "pets.memlist.lock"}, "the page names what stays"
    assert space["wait"].epochs and space["shared"].cache_info().total == 40


def test_bad_files_are_left_out_as_the_page_says(data: None) -> None:
    space: Dict[str, Any] = {"__name__": "__main__"}
    first, blocks, *_, last = blocks_of("docs/fastai2.md")
    exec(first + blocks, space)
    Path("data/pets/cat/3.png").write_bytes(b"no image")
    assert "ImageLoadError" in last
    exec(last, space)
    dls = space["dls"]
    assert dls.load_data(progress=False).cache_info().total == 39
    assert (len(dls.train_ds), len(dls.valid_ds)) in ((31, 8), (32, 7))
    assert len(list(dls.train)) == len(dls.train_ds) // 8 and len(list(dls.valid)) == 1


@pytest.mark.parametrize("name", ["MemoryImageBlock", "MemoryMaskBlock"])
def test_the_reference_has_the_signatures(name: str) -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    written = re.search(rf"py:function:: memlist\.{name}\((.*)\)", text)
    assert written
    parameters = inspect.signature(getattr(memlist, name)).parameters.values()
    shown = [f"{one.name}={getattr(one.default, '__name__', one.default)}" for one in parameters]
    assert written[1] == ", ".join(shown)


def test_help_names_the_types() -> None:
    at_the_door = inspect.signature(memlist.in_memory)
    assert at_the_door.parameters["data"].annotation == "Union[DataLoaders, Dataset[Any]]"
    inner = inspect.signature(memlist.fastai2.in_memory)
    assert inner.parameters["dls"].annotation == inner.return_annotation == "DataLoaders"


def test_the_example_runs() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples/fastai2_classes.py"), "--quick"]
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=os.sep, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "128 of 128 photographs in memory." in done.stdout
    assert "Files decoded while training from memory: 0." in done.stdout
    assert "Losses: identical to the last bit." in done.stdout
