"""The code blocks of the README run from top to bottom in one session, and its links have targets."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, Dict

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import photo
from fastai.core import defaults

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Make the folders that the README names."
    for i in range(40):
        for folder, picture in (
            (f"pets/{'cat' if i % 2 else 'dog'}", photo(i, 48, 64)),
            ("road/images", photo(i, 64, 64)),
            ("road/masks", PIL.Image.fromarray((np.asarray(photo(i, 64, 64).convert("L")) > 128).astype(np.uint8))),
            ("faces/large", photo(i, 64, 64)),
            ("faces/small", photo(i, 64, 64).resize((16, 16)).resize((64, 64))),
        ):
            path = tmp_path / "data" / folder
            path.mkdir(parents=True, exist_ok=True)
            picture.save(path / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "cpus", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_every_code_block_runs(data: None, capsys: Any) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    space: Dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks:
            exec(compile(block, "README.md", "exec"), space)
            bunch = space.get("data")
            if bunch is not None and "databunch" in block:
                x, _ = bunch.one_batch()
                assert len(x)
    assert "images: 40 of 40 cached (100 %)" in capsys.readouterr().out


def test_links_have_targets() -> None:
    text = README.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings, anchor
