"""`without`: datasets of torchvision go on without the pictures that could not be loaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision_helpers import epoch, make_folder, same

import memlist
from memlist import MemoryImageFolder, in_memory

TRANSFORM = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = make_folder(tmp_path / "pictures", 12)
    for i in (1, 5):
        (made / f"class{i % 3}" / f"{i}.png").write_bytes(b"no picture")
    return made


def lines_of(dataset: Any, **kwargs: Any) -> str:
    with pytest.raises(memlist.ImageLoadError) as caught:
        dataset.load_data(progress=False, **kwargs)
    lines = str(caught.value).splitlines()
    assert len(caught.value.items) == 2 and lines[-4] == ""
    return "\n".join(lines[-3:])


def stock(folder: Path) -> Any:
    "Return torchvision's dataset, from which the two files were left out by hand."
    return ImageFolder(folder, TRANSFORM, is_valid_file=lambda path: Path(path).name not in ("1.png", "5.png"))


@pytest.mark.parametrize("make", [MemoryImageFolder, lambda *given: in_memory(ImageFolder(*given))])
def test_the_printed_lines_mend_a_dataset(folder: Path, make: Any) -> None:
    dataset = make(folder, TRANSFORM)
    space = {"dataset": dataset}
    exec(lines_of(dataset), space)
    made: Any = space["dataset"]
    assert made is not dataset and len(made) == 10 and len(dataset) == 12 and made.loaded and not dataset.loaded
    assert (
        made.store is dataset.store and made.samples == stock(folder).samples and made.targets == stock(folder).targets
    )
    assert made.imgs is made.samples and made.classes == dataset.classes
    for workers in (0, 2):
        assert same(epoch(made, workers=workers), epoch(stock(folder), workers=workers))
    assert len(pickle.loads(pickle.dumps(made))) == 10 and made.without([]).samples == made.samples


def test_a_dataset_that_was_split_stays_as_it_is(folder: Path) -> None:
    dataset = MemoryImageFolder(folder, TRANSFORM)
    loader = DataLoader(dataset, 4)
    made = dataset.without(folder / "class1" / "1.png")
    assert len(made) == 11 and len(dataset) == 12 and loader.dataset is dataset


def test_a_warning_says_what_will_happen_and_the_same_lines(folder: Path) -> None:
    dataset = MemoryImageFolder(folder, TRANSFORM)
    with pytest.warns(UserWarning, match="Training will fail at these images") as warned:
        dataset.load_data(progress=False, on_error="warn")
    space = {"dataset": dataset}
    exec("\n".join(str(warned[-1].message).splitlines()[-3:]), space)
    assert len(space["dataset"]) == 10


def test_nothing_would_be_left(folder: Path) -> None:
    dataset = MemoryImageFolder(folder, TRANSFORM)
    with pytest.raises(ValueError, match="none of its 12 images would be left"):
        dataset.without([path for path, _ in dataset.samples])


@pytest.mark.parametrize("make", [MemoryImageFolder, lambda *given: in_memory(ImageFolder(*given))])
def test_a_path_that_is_misspelt(folder: Path, make: Any) -> None:
    dataset = make(folder, TRANSFORM)
    for wrong in ("nn/a/typo.png", [folder / "class1" / "1.png", "nn/a/typo.png"]):
        with pytest.raises(ValueError, match=r"ImageFolder over .*pictures: it does not open 'nn/a/typo.png', which"):
            dataset.without(wrong)
    error = memlist.ImageLoadError([("elsewhere.png", "broken"), (str(folder / "class1" / "1.png"), "broken")])
    assert len(dataset.without(error)) == 11 and len(dataset) == 12


def test_a_dataset_that_names_no_files_says_so(folder: Path) -> None:
    class Own:
        loader = staticmethod(memlist.cached(lambda path: path))

        def __len__(self) -> int:
            return 0

    with pytest.raises(TypeError, match="has no attribute `samples`"):
        in_memory(Own()).without([])
