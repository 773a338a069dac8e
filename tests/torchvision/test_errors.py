"""Errors of files and transforms: those of torchvision, and nothing else is printed."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any, List

import PIL.Image
import pytest
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision_helpers import make_folder

from memlist import in_memory
from memlist.torchvision import MemoryImageFolder

CROP = v1.Compose([v1.CenterCrop(16), v1.ToTensor()])


def raised(dataset: Any, workers: int = 0) -> Exception:
    with pytest.raises(Exception) as caught:
        list(DataLoader(dataset, 4, num_workers=workers))
    return caught.value


def printed(error: Exception) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


def datasets(folder: Path, transform: Any = CROP) -> List[Any]:
    return [MemoryImageFolder(folder, transform), in_memory(ImageFolder(folder, transform))]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["broken", "missing"])
def test_a_bad_file_has_one_traceback(folder: Path, fault: str, workers: int) -> None:
    ours, stock = datasets(folder), ImageFolder(folder, CROP)
    bad = folder / "class1" / "4.png"
    if fault == "broken":
        bad.write_bytes(b"no picture")
    else:
        bad.unlink()
    expected = raised(stock, workers)
    for dataset in ours:
        error = raised(dataset, workers)
        assert type(error) is type(expected) and str(error).splitlines()[-1] == str(expected).splitlines()[-1]
        assert "During handling" not in printed(expected) and "During handling" not in printed(error)
        assert printed(error).count("Traceback (most recent call last)") == 1 + (workers > 0)
    with pytest.raises(type(expected)) as caught:
        _ = [ours[0][i] for i in range(12)]  # each item by itself
    assert "During handling" not in printed(caught.value)


def test_a_transform_that_fails_has_one_traceback(folder: Path) -> None:
    nothing = v1.Compose([v1.Resize((0, 8)), v1.ToTensor()])
    expected = raised(ImageFolder(folder, nothing))
    for dataset in datasets(folder, nothing):
        error = raised(dataset)
        assert (type(error), str(error)) == (type(expected), str(expected))
        assert "During handling" not in printed(error)


def test_a_path_without_a_key_has_one_traceback(folder: Path) -> None:
    def load(path: Any) -> PIL.Image.Image:
        raise RuntimeError("no such thing")

    dataset = ImageFolder(folder, CROP, loader=load)
    dataset.samples = dataset.imgs = [(object(), 0)]
    error = raised(in_memory(dataset))
    assert str(error) == "no such thing" and "During handling" not in printed(error)
