"""`in_memory` of subsets and joined datasets: batches equal torch's, and the verbs are about their images."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any, Callable, List

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split
from torchvision import transforms as v1
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision_helpers import epoch, grey, make_folder, same, v2

from memlist import ImageLoadError, MemoryImageFolder, MemoryLoader, in_memory
from memlist.torchvision.making import Making

CROP = v1.Compose([v1.RandomCrop(16, pad_if_needed=True), v1.RandomHorizontalFlip(), v1.ToTensor()])
RESIZED = v1.Compose([v1.RandomResizedCrop(16), v1.ToTensor()])


@pytest.fixture
def folders(tmp_path: Path) -> List[Path]:
    return [make_folder(tmp_path / "some", 12, 1), make_folder(tmp_path / "more", 6, 2)]


def two(folders: List[Path]) -> List[Any]:
    return [ImageFolder(folders[0], CROP), ImageFolder(folders[1], RESIZED)]


def split(dataset: Any, part: int = 0) -> Any:
    n = len(dataset)
    return random_split(dataset, [n - 4, 4], generator=torch.Generator().manual_seed(3))[part]


# Each makes a dataset of 12 and 6 images, and says how many images it has.
SHAPES = {
    "joined": (lambda f: ConcatDataset(two(f)), 18),
    "joined by +": (lambda f: two(f)[0] + two(f)[1], 18),
    "subset of joined": (lambda f: Subset(ConcatDataset(two(f)), [17, 0, -1, 3, 12, 11, 5]), 6),
    "joined subsets": (lambda f: ConcatDataset([Subset(one, range(1, 5)) for one in two(f)]), 8),
    "joined twice": (lambda f: ConcatDataset([ConcatDataset(two(f)), Subset(two(f)[0], torch.arange(3))]), 18),
    "split": (lambda f: split(two(f)[0]), 8),
    "split of joined": (lambda f: split(ConcatDataset(two(f)), 1), 4),
    "split of a subset": (lambda f: split(Subset(two(f)[0], range(2, 12))), 6),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_batches_equal_those_of_torch(folders: List[Path], shape: str, workers: int) -> None:
    make, n = SHAPES[shape]
    stock, ours = make(folders), in_memory(make(folders))
    assert isinstance(ours, type(stock)) and in_memory(ours) is ours and len(ours) == len(stock)
    for seed in range(2):
        expected = epoch(stock, seed, workers=workers)
        assert expected[1] is None and same(expected, epoch(ours, seed, workers=workers))
    assert ours.loaded and ours.cache_info()[:2] == (n, n)
    assert same(epoch(ours), epoch(pickle.loads(pickle.dumps(ours))))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_verbs_are_about_its_images(folders: List[Path], shape: str) -> None:
    make, n = SHAPES[shape]
    ours = in_memory(make(folders))
    assert not ours.loaded and ours.cache_info()[:2] == (0, n)
    assert ours.load_data(progress=False) is ours and ours.loaded
    assert ours.cache_info()[:2] == (n, n) and ours.cache_info().nbytes > 0
    assert ours.purge() > 0 and not ours.loaded and ours.cache_info()[:2] == (0, n)


def test_parts_that_are_in_memory_stay_so(folders: List[Path]) -> None:
    some = MemoryImageFolder(folders[0], CROP).load_data(progress=False)
    train, valid = random_split(some, [8, 4])
    assert in_memory(train).dataset is some and in_memory(valid).loaded and in_memory(valid).cache_info().total == 4
    joined = in_memory(some + two(folders)[1])
    assert joined.datasets[0] is some and joined.cache_info()[:2] == (12, 18)


def test_budgets_reach_every_part(folders: List[Path]) -> None:
    joined = in_memory(ConcatDataset([Subset(one, range(4)) for one in two(folders)]), max_ram="1MB")
    assert [part.dataset.store.rule for part in joined.datasets] == [10**6] * 2
    assert joined.cache_info().max_ram == 2 * 10**6


def test_a_loader_of_ones_own(folders: List[Path]) -> None:
    def make() -> Any:
        return ConcatDataset([DatasetFolder(one, grey, (".png",), CROP) for one in folders])

    ours = in_memory(make())
    assert same(epoch(make()), epoch(ours)) and ours.cache_info()[:2] == (18, 18) and ours.cache_info().misses == 18


def break_some(folders: List[Path]) -> List[str]:
    bad = [folders[0] / "class1" / "1.png", folders[0] / "class2" / "5.png", folders[1] / "class0" / "0.png"]
    for path in bad:
        path.write_bytes(b"no picture")
    return [str(path) for path in bad]


def paths_of(dataset: Any) -> List[str]:
    if isinstance(dataset, Subset):
        below = paths_of(dataset.dataset)
        return [below[i] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        return [path for part in dataset.datasets for path in paths_of(part)]
    return [path for path, _ in dataset.samples]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_printed_lines_mend_it(folders: List[Path], shape: str) -> None:
    ours = in_memory(SHAPES[shape][0](folders))
    before = paths_of(ours)
    bad = [before[1], before[-1]]
    for path in bad:
        Path(path).write_bytes(b"no picture")
    with pytest.raises(ImageLoadError) as caught:
        ours.load_data(progress=False)
    assert {str(item) for item in caught.value.items} == {*bad}
    space = {"dataset": ours}
    exec("\n".join(str(caught.value).splitlines()[-3:]), space)
    made = space["dataset"]
    assert type(made) is type(ours) and paths_of(made) == [path for path in before if path not in bad]
    assert paths_of(ours) == before and made.loaded and len(made) == len(paths_of(made)) and epoch(made)[1] is None


def test_an_error_of_more_data_and_paths_that_are_misspelt(folders: List[Path]) -> None:
    bad = break_some(folders)
    joined = in_memory(ConcatDataset(two(folders)))
    error = ImageLoadError([("elsewhere.png", "broken"), *((path, "broken") for path in bad)])
    assert len(joined.without(error)) == 15 and len(joined.without(bad)) == 15
    some = in_memory(Subset(two(folders)[0], [0, 4, 1]))
    assert len(some.without(error)) == 3 - sum(path in bad for path in paths_of(some))
    names = r"ImageFolder over .*some and ImageFolder over .*more: it does not open 'typo.png', which"
    with pytest.raises(ValueError, match=names):
        joined.without([bad[0], "typo.png"])
    with pytest.raises(ValueError, match=r"ImageFolder over .*some: it does not open '.*0.png', which"):
        some.without(bad[2])


def test_a_part_may_become_empty_but_not_all(folders: List[Path]) -> None:
    joined = in_memory(ConcatDataset([two(folders)[0], Subset(two(folders)[1], [0, 3])]))
    made = joined.without(paths_of(joined)[-2:])
    assert [len(part) for part in made.datasets] == [12, 0] and epoch(made)[1] is None
    with pytest.raises(ValueError, match=r"none of its 14 images would be left"):
        joined.without(paths_of(joined))
    with pytest.raises(ValueError, match=r"none of its 2 images would be left"):
        joined.datasets[1].without(paths_of(joined)[-2:])


class Unnamed(Dataset):  # type: ignore[type-arg]
    "A dataset that has a loader, but no `samples`."

    def __init__(self, folder: Path) -> None:
        self.files, self.loader = sorted(folder.rglob("*.png")), grey

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Any:
        return CROP(self.loader(self.files[i])), 0


def test_a_part_that_names_no_files(folders: List[Path]) -> None:
    for joined in (ConcatDataset([two(folders)[0], Unnamed(folders[1])]), Subset(Unnamed(folders[1]), range(6))):
        ours = in_memory(joined)
        named = len(ours) - 6
        assert ours.cache_info()[:2] == (0, named)
        assert [ours[i] for i in range(len(ours))] and ours.cache_info()[:2] == (named + 6, named + 6)
        verbs: List[Callable[[], Any]] = [ours.load_data, partial(ours.without, []), partial(getattr, ours, "loaded")]
        for verb in verbs:
            with pytest.raises(TypeError, match="has no attribute `samples`"):
                verb()


def test_a_part_that_cannot_be_kept_is_named(folders: List[Path]) -> None:
    class Opening(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"in_memory\(Opening\): it has no attribute `loader`"):
        in_memory(ConcatDataset([two(folders)[0], Subset(Opening(), [0])]))


@pytest.mark.skipif(v2 is None, reason="batches need torch 2")
def test_subsets_of_one_dataset_are_made_in_batches(folders: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made: List[Any] = []
    render = Making.render
    monkeypatch.setattr(Making, "render", lambda self, *given: made.append(given) or render(self, *given))
    ours, stock = in_memory(split(two(folders)[0])).load_data(progress=False), split(two(folders)[0])
    assert same(epoch(stock), epoch(ours)) and len(made) == 2
    torch.manual_seed(5)
    batches = [batch for batch, _ in DataLoader(stock, 3, shuffle=True)]
    torch.manual_seed(5)
    assert same(batches, [batch.clone() for batch, _ in MemoryLoader(ours, 3, shuffle=True)])
