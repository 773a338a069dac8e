"""The README is short, its code runs, its links have targets, and its badges show what the repository says."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import photo
from fastai.core import defaults
from torchvision_helpers import v2

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Make the folders that the README and the pages name."
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


def blocks() -> List[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_first_door_works(data: None) -> None:
    block = blocks()[0]
    assert "MemoryImageList" in block
    space: Dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "README.md", "exec"), space)
    assert len(space["data"].one_batch()) == 2
    assert space["data"].load_data(progress=False).cache_info().cached == 40


@pytest.mark.skipif(v2 is None, reason="torchvision has no transforms.v2")
def test_the_third_door_works(data: None) -> None:
    block = blocks()[2]
    assert "MemoryImageFolder" in block
    space: Dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), space)
    for images, _ in space["loader"]:
        assert images.shape == (8, 3, 64, 64)
    assert space["train"].cache_info().cached == 40


def test_it_has_the_three_doors_and_at_most_a_thousand_words() -> None:
    assert len(blocks()) == 3 and "in_memory(dls)" in blocks()[1]  # tests/fastai2/test_page.py runs that one
    assert len(README.read_text("utf-8").split()) <= 1000


def test_links_have_targets() -> None:
    text = README.read_text("utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert (README.parent / target).exists(), target
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for anchor in re.findall(r"\]\(#([^)]+)\)", text):
        assert anchor in headings, anchor


def test_the_badges_show_what_the_repository_says() -> None:
    subprocess.run([sys.executable, str(ROOT / "docs/badges.py"), "--check"], check=True, timeout=60)
