"""`MemoryLoader` is one batch ahead, and nothing differs: batches, random generators, what comes of changes."""

import random
import threading

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision_helpers import make_folder, random_case, same, states, v2

from memlist.torchvision import MemoryImageFolder, MemoryLoader, in_memory, making
from memlist.torchvision.making import Expected

pytestmark = pytest.mark.skipif(v2 is None, reason="batches need torch 2")


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "pictures")


@pytest.fixture
def taken(monkeypatch):
    "Note for each batch whether it was made ahead."
    noted = []
    take = Expected.taken

    def told(self, *given):
        noted.append(take(self, *given))
        return noted[-1]

    monkeypatch.setattr(Expected, "taken", told)
    return noted


def transform():
    return v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32)])


def run(loader, work=lambda k: None, epochs=2):
    "Train: return batches and random states."
    torch.manual_seed(3), random.seed(3)
    made = []
    for _ in range(epochs):
        for k, batch in enumerate(loader):
            made.append([one.clone() for one in batch])
            made.append([work(k)])
    return made, states()


def check(folder, of, work=lambda k: None, given=None):
    "Compare torch's loader over stock's dataset with ours; `of` makes the arguments of a loader."
    transforms = transform() if given is None else given
    made = [
        run(cls(dataset, **of(dataset)), lambda k, dataset=dataset: work(k))
        for cls, dataset in (
            (DataLoader, ImageFolder(folder, transforms)),
            (MemoryLoader, MemoryImageFolder(folder, transforms).load_data(progress=False)),
        )
    ]
    assert same(*made)


SAMPLERS = {
    "shuffled": lambda ds: {"shuffle": True},
    "in turn": lambda ds: {"sampler": SequentialSampler(ds)},
    "weighted": lambda ds: {"sampler": WeightedRandomSampler(range(1, 13), 12)},
    "some": lambda ds: {"sampler": SubsetRandomSampler(range(10))},
    "again": lambda ds: {"sampler": RandomSampler(ds, replacement=True, num_samples=40)},
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("size", [3, 5])
def test_samplers(folder, taken, name, size):
    check(folder, lambda ds: {"batch_size": size, **SAMPLERS[name](ds)})
    assert sum(one is not None for one in taken) >= len(taken) - 2  # all but the first of each epoch


@pytest.mark.parametrize(
    "draws", [lambda k: torch.rand(1), lambda k: random.random(), lambda k: k == 1 and torch.rand(1)]
)
def test_a_training_that_draws_gets_its_own_numbers(folder, draws):
    check(folder, lambda ds: {"batch_size": 3, "shuffle": True}, draws)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("replacement", [False, True])
def test_a_generator_of_the_users_that_the_training_draws_from(folder, taken, replacement, size):
    def run_with(cls, dataset):
        generator = torch.Generator().manual_seed(4)
        sampler = RandomSampler(
            dataset, replacement=replacement, num_samples=40 if replacement else 12, generator=generator
        )
        made = run(cls(dataset, size, sampler=sampler), lambda k: torch.rand(1, generator=generator))
        return made, generator.get_state()

    stock, ours = ImageFolder(folder, transform()), MemoryImageFolder(folder, transform()).load_data(progress=False)
    assert same(run_with(DataLoader, stock), run_with(MemoryLoader, ours))
    assert any(one is not None for one in taken) is not replacement


def test_changes_between_two_batches_count(folder, taken):
    transforms = transform()

    def edit(k):
        transforms.transforms[0].size = (16 + (k + 1) % 4, 10)

    edit(-1)
    check(folder, lambda ds: {"batch_size": 3, "shuffle": True}, edit, transforms)
    assert taken.count(None) == 8


def test_targets_are_transformed_once_and_in_turn(folder, taken):
    def run_with(cls, loader):
        calls = []
        dataset = cls(folder, transform(), target_transform=lambda target: calls.append(target) or target + 1)
        if cls is MemoryImageFolder:
            dataset.load_data(progress=False)
        return run(loader(dataset, 3, shuffle=True)), calls

    assert same(run_with(ImageFolder, DataLoader), run_with(MemoryImageFolder, MemoryLoader))
    assert sum(one is not None for one in taken) == 6


def test_a_purge_between_two_batches_changes_nothing(folder):
    ours = MemoryImageFolder(folder, transform()).load_data(progress=False)
    stock = run(DataLoader(ImageFolder(folder, transform()), 3, shuffle=True))

    def purge(k):
        ours.purge()

    assert same(stock, run(MemoryLoader(ours, 3, shuffle=True), purge))


@pytest.mark.parametrize(
    "of",
    [
        lambda ds: {"batch_sampler": [[0, 1], [2, 3, 4]]},
        lambda ds: {"batch_sampler": BatchSampler(RandomSampler(ds), 5, True)},
        lambda ds: {"batch_size": 4, "collate_fn": lambda batch: [x for x, _ in batch]},
        lambda ds: {"batch_size": 3, "num_workers": 2, "shuffle": True},
    ],
)
def test_everything_else_is_torchs_own_loader(folder, of):
    made = []
    for cls, loader in ((ImageFolder, DataLoader), (MemoryImageFolder, MemoryLoader)):
        dataset = cls(folder, transform())
        made.append(run(loader(dataset, **of(dataset))))
    assert same(*made)


def test_subsets_and_wrapped_datasets(folder, taken):
    stock, ours = (Subset(ImageFolder(folder, transform()), range(9)) for _ in range(2))
    ours = in_memory(ours)
    ours.dataset.load_data(progress=False)
    assert same(run(DataLoader(stock, 3, shuffle=True)), run(MemoryLoader(ours, 3, shuffle=True)))
    assert sum(one is not None for one in taken) == 4


@pytest.mark.parametrize("start", range(0, 30, 10))
def test_random_pipelines(folder, start):
    for seed in range(start, start + 10):
        transforms = random_case(seed, loaders=False).transform
        try:
            stock = run(DataLoader(ImageFolder(folder, transforms), 3, shuffle=True))
        except Exception:
            continue
        ours = MemoryImageFolder(folder, transforms).load_data(progress=False)
        assert same(stock, run(MemoryLoader(ours, 3, shuffle=True))), transforms


def test_an_iteration_may_stop_and_be_forgotten(folder):
    ours = MemoryImageFolder(folder, transform()).load_data(progress=False)
    stock = ImageFolder(folder, transform())
    made = []
    for loader in (DataLoader(stock, 2, shuffle=True), MemoryLoader(ours, 2, shuffle=True)):
        torch.manual_seed(1)
        some = [next(iter(loader)) for _ in range(3)]
        made.append((some, [[x.clone(), y] for (x, y), _ in zip(loader, range(2))], list(loader), states()))
    assert same(*made)


def test_transforms_of_the_first_generation(folder):
    known = v1.Compose([v1.Resize(20), v1.RandomCrop(16, padding=2, padding_mode="edge"), v1.ToTensor()])
    check(folder, lambda ds: {"batch_size": 3, "shuffle": True}, given=known)


def test_a_batch_that_is_made_ahead_has_the_threads_of_the_training(folder, taken, monkeypatch):
    "torch's thread that pins memory sets the number of threads to one, for all threads that begin later."
    before, used, render = torch.get_num_threads(), [], making.render

    def noted(*given):
        used.append((threading.current_thread().name[:13], given[-1]))
        render(*given)

    monkeypatch.setattr(making, "render", noted)
    torch.set_num_threads(2)
    one = threading.Thread(target=lambda: torch.set_num_threads(1))
    one.start(), one.join()
    try:
        run(MemoryLoader(MemoryImageFolder(folder, transform()).load_data(progress=False), 3, shuffle=True), epochs=1)
    finally:
        torch.set_num_threads(before)
    assert any(taken) and {name for name, _ in used} == {"MainThread", "memlist-ahead"}
    assert len({id(threads) for _, threads in used}) == 1 and used[0][1]._n == 2
