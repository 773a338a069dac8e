"""`in_memory`: a dataset that exists already, from memory."""

import pickle

import PIL.Image
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms as v1
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision_helpers import coloured, epoch, grey, make_folder, same, v2

from memlist.torchvision import MemoryImageFolder, MemoryLoader, in_memory, work
from memlist.torchvision.joined import MemorySubset
from memlist.torchvision.making import Making

KNOWN = v1.Compose([v1.RandomCrop(16, pad_if_needed=True), v1.RandomHorizontalFlip(), v1.ToTensor()])


class Own(Dataset):
    "A dataset as people write them."

    def __init__(self, folder, transform, loader=coloured):
        self.paths = sorted(folder.rglob("*.png"))
        self.transform, self.loader = transform, loader

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return {"image": self.transform(self.loader(self.paths[i])), "name": self.paths[i].name}


class Opening(Own):
    "A dataset that opens its files itself."

    def __init__(self, folder, transform):
        super().__init__(folder, transform)
        del self.loader

    def __getitem__(self, i):
        return self.transform(PIL.Image.open(self.paths[i]).convert("RGB"))


class Pairs(Dataset):
    "A dataset whose loader gets the paths of a picture and of its mask."

    def __init__(self, pairs):
        self.samples, self.loader = pairs, lambda pair: [coloured(path) for path in pair]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return [picture.tobytes() for picture in self.loader(self.samples[i])]


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "pictures")


def check(stock, ours, **kwargs):
    for seed in range(2):
        expected = epoch(stock, seed, **kwargs)
        assert expected[1] is None and same(expected, epoch(ours, seed, **kwargs))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loader", [coloured, grey])
def test_dataset_folder_in_batches(folder, loader, workers):
    stock = DatasetFolder(folder, loader, (".png",), KNOWN, target_transform=float)
    ours = in_memory(stock)
    check(stock, ours, workers=workers)
    assert ours.loaded and ours.cache_info().misses == 12 and stock.loader is loader
    assert ours.classes == stock.classes and len(ours) == 12


@pytest.mark.skipif(v2 is None, reason="batches need torch 2")
def test_batches_are_made_at_once(folder, monkeypatch):
    made = []
    render = Making.render
    monkeypatch.setattr(Making, "render", lambda self, *given: made.append(given) or render(self, *given))
    stock = ImageFolder(folder, KNOWN)
    ours = in_memory(Subset(stock, range(3, 12)))
    check(Subset(stock, range(3, 12)), ours)
    assert type(ours) is MemorySubset and isinstance(ours, Subset) and len(made) == 4


class Borrowing(Dataset):
    "A dataset of one's own whose items torchvision makes."

    __getitem__ = DatasetFolder.__getitem__

    def __init__(self, folder, transform):
        self.samples = [(path, str(path.name)) for path in sorted(folder.rglob("*.png"))]
        self.loader, self.transform, self.target_transform = grey, transform, None

    def __len__(self):
        return len(self.samples)


@pytest.mark.skipif(v2 is None, reason="batches need torch 2")
def test_an_own_dataset_that_borrows_a_method_is_made_in_batches(folder, monkeypatch):
    made = []
    render = Making.render
    monkeypatch.setattr(Making, "render", lambda self, *given: made.append(given) or render(self, *given))
    ours = in_memory(Borrowing(folder, KNOWN)).load_data(progress=False)
    check(Borrowing(folder, KNOWN), ours)
    assert len(made) == 6 and ours.loaded


@pytest.mark.filterwarnings("ignore:.* each image is transformed by itself")  # by workers
@pytest.mark.parametrize("workers", [0, 2])
def test_an_own_dataset_item_by_item(folder, workers):
    stock = Own(folder, KNOWN)
    ours = in_memory(stock)
    if v2 and not workers:
        with pytest.warns(UserWarning, match="Own.__getitem__ is not torchvision's"):
            epoch(ours)
    check(stock, ours, workers=workers)
    assert ours.cache_info()[:2] == (12, 12)
    with pytest.raises(TypeError, match="has no attribute `samples`"):
        ours.load_data()


def test_attributes_are_those_of_the_dataset(folder):
    ours = in_memory(ImageFolder(folder, KNOWN))
    ours.transform = v1.Compose([v1.CenterCrop(9), v1.ToTensor()])
    assert ours.dataset.transform is ours.transform
    check(ImageFolder(folder, ours.transform), ours)
    assert not isinstance(ours, ImageFolder) and type(ours.dataset) is ImageFolder and ours.extra_repr
    with pytest.raises(AttributeError):
        _ = ours.nothing


def test_it_shares_its_store_and_travels(folder):
    ours = in_memory(ImageFolder(folder, KNOWN))
    assert ours.load_data(progress=False) is ours
    assert in_memory(ours) is ours and in_memory(ImageFolder(folder)).loaded
    again = pickle.loads(pickle.dumps(ours))
    assert again.loaded and again.store is ours.store and MemoryImageFolder(folder).store is ours.store


def test_what_opens_its_files_itself_is_refused(folder):
    for wrong in (Opening(folder, KNOWN), [1, 2], torch.zeros(3)):
        with pytest.raises(TypeError, match=r"no attribute `loader`(.|\n)*memlist\.cached"):
            in_memory(wrong)


def test_what_is_no_dataset_is_told_what_is_expected(folder):
    stock = ImageFolder(folder, KNOWN)
    for loader in (DataLoader(stock), MemoryLoader(MemoryImageFolder(folder, KNOWN))):
        name = type(loader).__name__
        with pytest.raises(
            TypeError, match=rf"in_memory\({name}\): .*pass the dataset.*: {name}\(in_memory\(dataset\)"
        ):
            in_memory(loader)
    for cls in (ImageFolder, DatasetFolder, MemoryImageFolder, Own, Subset):
        with pytest.raises(TypeError, match=rf"this is the class {cls.__name__}: please pass a dataset"):
            in_memory(cls)
    for place in (folder, str(folder)):
        expected = (
            rf"type is {type(place).__name__}, .*a dataset\. .* in_memory\(ImageFolder\('.*pictures', transform\)\)"
        )
        with pytest.raises(TypeError, match=expected):
            in_memory(place)
    for wrong in (None, [stock, stock], (stock,), {"train": stock}, 3):
        expected = rf"a dataset is expected, such as ImageFolder\(.* of type {type(wrong).__name__}\. Please pass one"
        with pytest.raises(TypeError, match=expected):
            in_memory(wrong)


def test_a_loader_that_gets_several_files_sees_a_change_of_each(folder, monkeypatch):
    paths = sorted(folder.rglob("*.png"))
    monkeypatch.chdir(folder)
    stock = Pairs([(str(paths[0].relative_to(folder)), paths[1]), (str(paths[2]), str(paths[3]))])
    ours = in_memory(stock)
    assert [ours[i] for i in range(2)] == [stock[i] for i in range(2)]
    for changed in (0, 1, 3):
        before = [stock[i] for i in range(2)]
        PIL.Image.new("RGB", (9, 9 + changed)).save(paths[changed])
        fresh = in_memory(stock)
        assert [fresh[i] for i in range(2)] == [stock[i] for i in range(2)] != before
        assert [ours[i] for i in range(2)] == before  # they have been looked at
        work.load_data([work.Pictures(ours.dataset.loader, stock.samples)], progress=False)
        assert [ours[i] for i in range(2)] == [stock[i] for i in range(2)]
    monkeypatch.chdir(folder.parent)
    with pytest.raises(FileNotFoundError):
        ours[0]


def both_kinds(folder):
    return MemoryImageFolder(folder, KNOWN), in_memory(ImageFolder(folder, KNOWN))


def test_keywords_for_images_in_memory_take_effect_or_are_refused(folder, tmp_path):
    for ours in both_kinds(folder):
        joined = in_memory(ConcatDataset([ours, Subset(ours, [0, 1])]))
        for again in (ours, joined, in_memory(Subset(ours, [2]))):
            assert in_memory(again) is again and in_memory(again, max_ram="1GB") is again
            assert ours.store.rule == 10**9
            for wrong, what in (
                ({"max_size": 8}, "at full size, and max_size=8"),
                ({"cache_file": tmp_path / "c"}, "in no file"),
            ):
                with pytest.raises(ValueError, match=rf"in memory already, {what}.* build the dataset again"):
                    in_memory(again, max_ram="2GB", **wrong)
            assert ours.store.rule == 10**9 and not (tmp_path / "c").exists()
        for wrong in ({"max_size": 0}, {"max_ram": "much"}, {"cache_file": 3}):
            with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
                in_memory(ours, **wrong)


def test_the_same_keywords_again_change_nothing(folder, tmp_path):
    given = {"cache_file": tmp_path / "c", "max_size": 10}
    with pytest.warns(UserWarning, match="max_size=10 images are kept"):
        ours = in_memory(ImageFolder(folder, KNOWN), **given)
    assert in_memory(ours, **given) is ours
