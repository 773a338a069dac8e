"""The notebooks of examples/ run from top to bottom, and their committed outputs come from such a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = ("classification", "gan", "lesson")  # that of fastai 2: tests/fastai2/test_notebook.py


def read(name: str) -> Any:
    return nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)


def outputs(book: Any) -> str:
    return str([cell.outputs for cell in book.cells if cell.cell_type == "code"])


def run_from_top_to_bottom(name: str) -> None:
    "Run a notebook, and compare it with what is committed."
    book = read(name)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(book, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(EXAMPLES)}})
    client.execute()  # raises what a cell raises
    said = outputs(book)
    assert "data_wait" in said and "bytes given back" in said
    # Each cell still draws as many pictures as its committed output shows.
    for cell, committed in zip(book.cells, read(name).cells):
        assert cell.source == committed.source
        assert pictures(cell) == pictures(committed), cell.source


def pictures(cell: Any) -> int:
    shown = cell.get("outputs", [])
    return sum(any(kind.startswith("image/") for kind in out.get("data", {})) for out in shown)


def check_committed(name: str) -> None:
    "Check that the committed outputs of a notebook come from one run, and that they say nothing of its machine."
    book = read(name)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert "from memlist import *" in code[0].source and ".purge()" in code[-1].source
    assert sum(pictures(cell) for cell in code) >= 4
    said = outputs(book)
    assert "'output_type': 'error'" not in said and "'name': 'stderr'" not in said
    assert not re.search(r"/(home|root|work|Users)/", said)  # no path of the machine that ran it
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 800_000


# `make docs` runs them before it puts them on the site: together they take minutes.
@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_from_top_to_bottom(name: str) -> None:
    run_from_top_to_bottom(name)


@pytest.mark.parametrize("name", NAMES)
def test_committed_notebook_was_run_in_order(name: str) -> None:
    check_committed(name)


def test_lesson_differs_from_fastai_only_in_class_names() -> None:
    source = "\n".join(cell.source for cell in read("lesson").cells if cell.cell_type == "code")
    assert re.findall(r"\bImage(?:DataBunch|List)\b", source) == []
    ours = set(re.findall(r"\bMemory\w+", source))
    assert ours == {"MemoryImageDataBunch", "MemoryImageList"}
    for call in ("from_name_re", "presize", "lr_find", "fit_one_cycle", "ClassificationInterpretation", "ImageCleaner"):
        assert call in source
    assert "size=64" in source and "size=128" in source and "size=224" in source
