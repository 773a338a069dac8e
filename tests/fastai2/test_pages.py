"""The code of the page on fastai 2 runs, and so does the example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
from fastai2_pipelines import pictures

ROOT = Path(__file__).resolve().parents[2]


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k, file in enumerate(pictures(tmp_path / "images")):
        folder = tmp_path / "data" / "pets" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "fastai2.md").read_text(), re.M | re.S)
    space: Dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, "docs/fastai2.md", "exec"), space)
    assert len(blocks) == 3


def test_the_example_runs() -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "fastai2_classes.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "equal losses: True" in done.stdout
