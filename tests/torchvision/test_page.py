"""The page of this front end: its blocks run on any folder with one subfolder per class."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision_helpers import v2

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pytorch.md"
pytestmark = pytest.mark.skipif(v2 is None, reason="torchvision has no transforms.v2")


def blocks() -> List[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Make `data/pets` with photographs that are no PNGs, and a file that is no image."
    rng = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / "data" / "pets" / ("Abyssinian", "beagle", "pug")[i % 3]
        path = folder / f"photo_{i}{('.jpg', '.JPEG')[i % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)).save(path, "JPEG")
    (path.parent / ".DS_Store").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)


def run(code: str, space: Dict[str, Any]) -> Dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, str(PAGE), "exec"), space)
    return space


def test_the_blocks_run_on_a_folder_of_jpegs(pets: None) -> None:
    space: Dict[str, Any] = {"__name__": "__main__"}
    for block in blocks():
        run(block, space)
    assert len(space["pets"]) == len(space["labelled"]) == 24
    assert sorted({label for _, label in space["labelled"].samples}) == [0, 1, 2]


def test_the_older_transforms_give_the_same_batches(pets: None) -> None:
    "The page says so below its first block."
    train = run(blocks()[0], {})["train"]

    def values() -> List[Any]:
        torch.manual_seed(3)
        found = DataLoader(train, batch_size=8, shuffle=True)
        return [(images.as_subclass(torch.Tensor).clone(), labels) for images, labels in found]

    newer = values()
    train.transform = v1.Compose(
        [
            v1.RandomResizedCrop(32),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    older = values()
    assert len(newer) == len(older) == 3
    for (images, labels), (others, same_labels) in zip(newer, older):
        # torchvision says of ToTensor that it equals the newer form up to the precision of floats.
        assert labels.equal(same_labels) and torch.allclose(images, others, rtol=0, atol=1e-6), (
            (images - others).abs().max()
        )
