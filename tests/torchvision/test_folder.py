"""`MemoryImageFolder`: as `ImageFolder`, from memory, for one process and for many."""

import copy
import gc
import io
import os
import pickle
import random
import warnings
from contextlib import nullcontext
from pathlib import Path

import fresh
import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader, Subset, random_split
from torchvision import transforms as v1
from torchvision.datasets import DatasetFolder, ImageFolder
from torchvision_helpers import coloured, epoch, grey, make_folder, same, v2

import memlist
from memlist.store import registry
from memlist.torchvision import MemoryImageFolder
from memlist.torchvision.making import Making

batches = pytest.mark.skipif(v2 is None, reason="batches need torch 2")
KNOWN = v1.Compose([v1.RandomResizedCrop(16), v1.RandomHorizontalFlip(), v1.ToTensor()])


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "pictures")


def both(folder, *args, **kwargs):
    return ImageFolder(folder, *args, **kwargs), MemoryImageFolder(folder, *args, **kwargs)


def check(stock, ours, **kwargs):
    "Compare two epochs, of which the second comes from memory."
    for seed in range(2):
        expected = epoch(stock, seed, **kwargs)
        assert expected[1] is None, expected[2]
        assert same(expected, epoch(ours, seed, **kwargs))


def test_it_is_an_image_folder(folder):
    stock, ours = both(folder, KNOWN, target_transform=str)
    assert isinstance(ours, ImageFolder) and memlist.MemoryImageFolder is MemoryImageFolder
    for name in ("classes", "class_to_idx", "samples", "targets", "imgs", "root", "transform", "target_transform"):
        assert getattr(stock, name) == getattr(ours, name)
    assert len(stock) == len(ours)


def test_verbs(folder):
    ours = MemoryImageFolder(folder, KNOWN)
    assert not ours.loaded and ours.cache_info()[:2] == (0, 12)
    states = torch.get_rng_state(), random.getstate()
    assert ours.load_data(progress=False) is ours
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert ours.loaded and ours.cache_info()[:2] == (12, 12)
    epoch(ours)
    assert ours.cache_info()[4:] == (12, 0)
    assert ours.purge() > 0 and ours.cache_info().cached == 0
    check(ImageFolder(folder, KNOWN), ours)
    assert ours.loaded


def test_pictures_without_a_transform_are_equal(folder):
    PIL.Image.new("RGB", (30, 20), (1, 2, 3)).save(folder / "class0" / "told.jpg", dpi=(72, 72), comment=b"hello")
    stock, ours = both(folder)
    check(stock, ours, batch_size=4, collate_fn=list)
    assert ours[0][0] is not ours[0][0]


@pytest.mark.filterwarnings("ignore:.* each image is transformed by itself")  # by workers
@pytest.mark.parametrize("workers", [0, 2])
def test_unknown_transforms_run_one_by_one_and_one_warning_names_them(folder, workers):
    transform = v1.Compose([v1.Resize((20, 20)), v1.ColorJitter(0.4), v1.ToTensor()])
    stock, ours = both(folder, transform)
    with pytest.warns(UserWarning, match="ColorJitter is not known") if v2 and not workers else nullcontext():
        check(stock, ours, workers=workers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*pin_memory.*")
        assert epoch(ours)[1] is None


@batches
@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.full)])
def test_workers_share_one_copy(folder, method):
    stock, ours = both(folder, KNOWN)
    for dataset, results in ((stock, []), (ours, [])):
        torch.manual_seed(1)
        loader = DataLoader(dataset, 4, shuffle=True, num_workers=2)
        # Workers draw the same numbers however they are started, and a spawned one takes seconds.
        for how in (method if dataset is ours else "fork", "fork"):
            loader.multiprocessing_context = how
            results.append(list(loader))
        if dataset is stock:
            expected = results
    assert same(expected, results)
    assert ours.cache_info()[:2] == (12, 12) and ours.cache_info().misses == 12 and ours.cache_info().hits == 12


def test_selections_copies_and_pickles_share_the_store(folder):
    ours = MemoryImageFolder(folder, KNOWN)
    uid = ours.store.uid
    train, valid = random_split(ours, [8, 4])
    epoch(train), epoch(valid)
    assert ours.loaded
    for other in (copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), MemoryImageFolder(folder)):
        assert other.store.uid == uid and other.loaded
    assert len(pickle.dumps(ours)) < 8000
    if v2:
        check(Subset(ImageFolder(folder, KNOWN), range(8)), Subset(ours, range(8)))
    del ours, train, valid, other
    gc.collect()
    assert uid not in registry.STORES


def test_a_changed_file_is_read_again_by_a_dataset_built_later(folder):
    ours = MemoryImageFolder(folder, KNOWN).load_data(progress=False)
    path = ours.samples[0][0]
    before = ours[0][0]
    PIL.Image.new("RGB", (30, 30), (9, 9, 9)).save(path)
    os.utime(path, (1, 1))
    later = MemoryImageFolder(folder, v1.ToTensor())
    assert torch.equal(later[0][0], ImageFolder(folder, v1.ToTensor())[0][0])
    assert before.shape == (3, 16, 16)
    check(ImageFolder(folder, KNOWN), MemoryImageFolder(folder, KNOWN))


@pytest.mark.parametrize("named", [False, True])
def test_load_data_lists_a_file_that_is_gone(folder, tmp_path, named):
    "Load a dataset that was built before the file went; one that has looked at the file goes on."
    kwargs = {"cache_file": tmp_path / "pictures.cache"} if named else {}
    older = MemoryImageFolder(folder, KNOWN, **kwargs).load_data(progress=False)
    later = MemoryImageFolder(folder, KNOWN, **kwargs)
    path = older.samples[3][0]
    kept = Path(path).read_bytes(), os.stat(path).st_mtime_ns
    os.remove(path)
    with pytest.raises(memlist.ImageLoadError, match=rf"1 image could .*\n.*{os.path.basename(path)}: FileNotFound"):
        later.load_data(progress=False)
    assert not later.loaded and later.cache_info()[:2] == (11, 12)
    with pytest.raises(FileNotFoundError):
        later[3]
    assert later.without([path]).loaded
    assert older.load_data(progress=False).loaded and older[3][0].shape == (3, 16, 16)
    Path(path).write_bytes(kept[0])
    os.utime(path, ns=(1, kept[1]))
    for dataset in (later, older):
        assert dataset.load_data(progress=False).loaded and dataset[3][0].shape == (3, 16, 16)


def test_a_file_that_has_become_bad_is_not_loaded(folder):
    ours = MemoryImageFolder(folder, KNOWN).load_data(progress=False)
    Path(ours.samples[3][0]).write_bytes(b"no picture")
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 image could not be loaded"):
            ours.load_data(progress=False, on_error="warn")
        assert not ours.loaded and ours.cache_info().cached == 11
        with pytest.raises(OSError):
            ours[3]


def test_a_bad_file_raises_what_stock_raises(folder):
    (folder / "class1" / "bad.png").write_bytes(b"no picture")
    (folder / "class1" / "gone.png").write_bytes(b"")
    stock, ours = both(folder, KNOWN)
    (folder / "class1" / "gone.png").unlink()
    expected = epoch(stock)
    assert expected[1] is not None and same(expected, epoch(ours))
    for name in ("bad.png", "gone.png"):
        i = [os.path.basename(path) for path, _ in stock.samples].index(name)
        errors = []
        for dataset in (stock, ours):
            with pytest.raises(OSError) as raised:
                dataset[i]
            errors.append((raised.type, str(raised.value)[:40]))
        assert errors[0] == errors[1]
    with pytest.raises(memlist.ImageLoadError, match=r"bad\.png(.|\n)*gone\.png"):
        ours.load_data(progress=False)
    assert ours.cache_info()[:2] == (12, 14)


def test_a_budget_of_nothing_keeps_nothing_and_says_nothing(folder):
    stock, ours = both(folder, KNOWN)[0], MemoryImageFolder(folder, KNOWN, max_ram=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*pin_memory.*")
        check(stock, ours)
    assert ours.cache_info().cached == 0


def test_what_does_not_fit_comes_from_disk_and_one_warning_says_so(folder):
    stock, ours = ImageFolder(folder, KNOWN), MemoryImageFolder(folder, KNOWN, max_ram=20000)
    with pytest.warns(UserWarning, match="does not fit is opened from disk"):
        check(stock, ours)
    assert 0 < ours.cache_info().cached < 12


def test_a_cache_file_outlasts_the_dataset(folder, tmp_path):
    file = tmp_path / "pictures.cache"
    MemoryImageFolder(folder, cache_file=file).load_data(progress=False)
    gc.collect()
    again = MemoryImageFolder(folder, KNOWN, cache_file=file)
    assert again.cache_info().cached == 12
    check(ImageFolder(folder, KNOWN), again)
    assert again.cache_info().misses == 0
    with pytest.raises(TypeError, match=r"memlist\.cached\(cache_file"):
        MemoryImageFolder(folder, loader=grey, cache_file=file)


def test_reduced_pictures_differ_and_one_warning_says_so(folder):
    with pytest.warns(UserWarning, match="max_size=10 images are kept"):
        ours = MemoryImageFolder(folder, v1.ToTensor(), max_size=10)
    assert {min(ours[i][0].shape[1:]) for i in range(12)} <= set(range(8, 11))
    for wrong in ({"max_size": 0}, {"max_size": 10, "loader": grey}, {"max_ram": "much"}):
        with pytest.raises(ValueError):
            MemoryImageFolder(folder, **wrong)


# -- loaders of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [grey, coloured, np.asarray])
def test_own_loaders_are_kept(folder, loader):
    calls = []

    def load(path):
        calls.append(path)
        return loader(PIL.Image.open(path)) if loader is np.asarray else loader(path)

    stock, ours = both(folder, v1.ToTensor() if loader is np.asarray else KNOWN, loader=load)
    check(stock, ours, batch_size=1)
    ours.load_data(progress=False)
    calls.clear()
    assert epoch(ours, batch_size=1)[1] is None and not calls and ours.loaded
    other = MemoryImageFolder(folder, KNOWN, loader=load)
    assert other.store.uid != ours.store.uid


def test_a_random_loader_is_not_kept(folder):
    def load(path):
        return PIL.Image.new("RGB", (20, 20), (random.randrange(256), 0, 0))

    stock, ours = both(folder, KNOWN, loader=load)
    with pytest.warns(UserWarning, match="random"):
        epoch(ours)
    assert same(epoch(stock, 3), epoch(ours, 3)) and ours.cache_info().cached == 0


def test_a_cached_loader_keeps_its_own_store(folder):
    load = memlist.cached(coloured)
    stock, ours = both(folder, KNOWN, loader=load)
    check(stock, ours)
    assert len(ours.store) == 12 and ours.store is load.stores()[1]


def test_another_loader_begins_with_an_empty_store(folder):
    stock, ours = both(folder, v1.Compose([v1.Resize((9, 9)), v1.ToTensor()]))
    epoch(ours)
    stock.loader = ours.loader = grey
    assert ours.cache_info().cached == 0
    check(stock, ours)


def test_a_subclass_with_its_own_getitem_is_asked_for_every_item(folder):
    class Doubled(MemoryImageFolder):
        def __getitem__(self, i):
            sample, target = super().__getitem__(i)
            return 2 * sample, target

    class Stock(ImageFolder):
        __getitem__ = Doubled.__getitem__

    Stock.__getitem__ = lambda self, i: (lambda one: (2 * one[0], one[1]))(DatasetFolder.__getitem__(self, i))
    check(Stock(folder, KNOWN), Doubled(folder, KNOWN))


# -- batches ------------------------------------------------------------------------------------------------------


@batches
def test_a_purge_in_the_middle_of_a_batch_changes_nothing(folder, monkeypatch):
    from memlist.torchvision import making

    stock, ours = both(folder, KNOWN)
    ours.load_data(progress=False)
    render = making.render
    purges = []

    def purged(pictures, *args):
        if not purges:
            purges.append(ours.store.purge())
        render(pictures, *args)

    monkeypatch.setattr(making, "render", purged)
    assert same(epoch(stock), epoch(ours)) and purges


@batches
@pytest.mark.parametrize("collate", [list, lambda b: torch.stack([x for x, _ in b]), lambda b: (type(b), b[0], b[-1])])
def test_another_collate_function_sees_what_stock_gives_it(folder, collate):
    transform = v2.Compose([v2.RandomCrop(24, pad_if_needed=True), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    for transform_ in (transform, KNOWN):
        check(*both(folder, transform_), collate_fn=collate)
    items = MemoryImageFolder(folder, transform).__getitems__([0, 1])
    assert items[0][0].untyped_storage().nbytes() == items[0][0].nbytes


@batches
def test_a_type_that_the_user_collates_is_collated_so(folder, monkeypatch):
    from torch.utils.data._utils import collate

    stock, ours = both(folder, KNOWN)
    monkeypatch.setitem(
        collate.default_collate_fn_map, torch.Tensor, lambda batch, *, collate_fn_map=None: sum(map(torch.sum, batch))
    )
    check(stock, ours)


@batches
def test_targets_are_transformed_in_turn(folder):
    def drawn(target):
        return target + torch.randint(100, ()).item() + random.randrange(100)

    check(*both(folder, KNOWN, target_transform=drawn))


@batches
def test_the_state_of_torch_counts(folder):
    stock, ours = both(folder, v2.Compose([v2.Resize((9, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
    with torch.inference_mode():
        check(stock, ours)
        (batch,) = DataLoader(ours, 12)
        assert batch[0].is_inference()
    from torchvision import tv_tensors

    with tv_tensors.set_return_type("TVTensor"):
        check(stock, ours)
    stock.transform = ours.transform = KNOWN
    torch.set_default_dtype(torch.float64)
    try:
        check(stock, ours)
    finally:
        torch.set_default_dtype(torch.float32)


@batches
@pytest.mark.filterwarnings("ignore:.* each image is transformed by itself")
def test_changes_in_place_count(folder, monkeypatch):
    made = []
    render = Making.render
    monkeypatch.setattr(Making, "render", lambda self, *given: made.append(given) or render(self, *given))
    transform = v2.Compose([v2.Resize((30, 30)), v2.RandomCrop(20), v2.ToImage(), v2.ToDtype(torch.float32, True)])
    stock, ours = both(folder, transform)
    check(stock, ours)
    transform.transforms[1].size = (10, 12)
    check(stock, ours)
    transform.transforms[3].dtype = torch.float16
    check(stock, ours)
    transform.transforms.append(v2.Normalize([0.5] * 3, [0.1] * 3))
    check(stock, ours)
    assert made

    def halved(image, *args, **kwargs):
        return image.resize((image.width // 2, 7))

    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(transform.transforms[0], "transform", lambda image, params: image.resize((20, 22)))
        check(stock, ours)
    with monkeypatch.context() as patch:
        patch.setattr(v2.RandomCrop, "transform", lambda self, image, params: image.resize((7, 8)))
        check(stock, ours)
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image.Image, "resize", lambda self, size, *args, **kwargs: self.crop((0, 0, *size)))
        check(stock, ours)
    with monkeypatch.context() as patch:
        patch.setitem(
            v2.functional._utils._KERNEL_REGISTRY[v2.functional.resize], PIL.Image.Image, lambda image, *_, **__: image
        )
        transform.transforms[1].pad_if_needed = True
        check(stock, ours)
    hook = transform.register_forward_hook(lambda module, args, output: -output)
    check(stock, ours)
    hook.remove()
    assert not made
    check(stock, ours)
    assert made


@batches
def test_memory_of_a_batch_is_used_again_only_when_nothing_refers_to_it(folder):
    transform = v1.Compose([v1.Resize((300, 300)), v1.ToTensor()])
    ours = MemoryImageFolder(folder, transform).load_data(progress=False)
    addresses = set()
    kept = []
    for k, (x, _) in enumerate(DataLoader(ours, 4)):
        kept.append(x[0]) if k == 0 else addresses.add(x.data_ptr())
    for _ in range(3):
        addresses |= {x.data_ptr() for x, _ in DataLoader(ours, 4)}
    assert len(addresses) <= 4 and kept[0].data_ptr() not in addresses
    assert torch.equal(kept[0], ImageFolder(folder, transform)[0][0])


@batches
def test_results_can_be_saved_and_grow(folder):
    (batch,) = DataLoader(MemoryImageFolder(folder, KNOWN), 12)
    file = io.BytesIO()
    torch.save(batch[0], file)
    file.seek(0)
    assert torch.equal(torch.load(file), batch[0])


REPLACED = {
    "a function": "import torchvision.transforms.functional as F; F.resize = lambda *a, **k: a[0]",
    "a method": "import torchvision.transforms as T; T.Compose.__call__ = lambda self, x: x",
    "a kernel": "from torchvision.transforms.v2 import functional as F; import PIL.Image; "
    "F._utils._KERNEL_REGISTRY[F.resize][PIL.Image.Image] = lambda *a, **k: a[0]",
    "Pillow's": "import PIL.Image; PIL.Image.Image.resize = lambda *a, **k: a[0]",
    "nothing": "",
}


@batches
@pytest.mark.parametrize("what", REPLACED)
def test_what_was_replaced_before_memlist_was_imported_counts(what):
    done = fresh.run(f"{REPLACED[what]}\nfrom memlist.torchvision.known import LIBRARY; print(LIBRARY.unchanged())")
    assert done.stdout.split() == [str(what == "nothing")], done.stderr


def test_another_image_backend_and_another_loader_count(folder, monkeypatch):
    from torchvision.datasets import folder as stock_folder

    stock, ours = both(folder, v1.ToTensor())
    check(stock, ours, batch_size=1)
    monkeypatch.setattr(stock_folder, "pil_loader", lambda path: PIL.Image.new("RGB", (20, 20), len(str(path))))
    check(stock, ours, batch_size=1)


def test_truncated_files_count(folder, monkeypatch):
    import PIL.ImageFile

    path = folder / "class0" / "cut.jpg"
    PIL.Image.effect_noise((64, 64), 50).convert("RGB").save(path, quality=95)
    path.write_bytes(path.read_bytes()[:-900])
    stock, ours = both(folder, v1.ToTensor())
    i = [sample[0] for sample in ours.samples].index(str(path))
    for dataset in (stock, ours):
        with pytest.raises(OSError, match="truncated"):
            dataset[i]
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert torch.equal(stock[i][0], ours[i][0]) and torch.equal(stock[i][0], ours[i][0])
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    for dataset in (stock, ours):
        with pytest.raises(OSError, match="truncated"):
            dataset[i]


@batches
def test_two_threads_may_use_one_dataset(folder):
    from concurrent.futures import ThreadPoolExecutor

    transform = v2.Compose([v2.Resize((300, 200)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    stock, ours = both(folder, transform)
    expected = list(DataLoader(stock, 4))
    with ThreadPoolExecutor(3) as pool:
        loaders = [DataLoader(ours, 4), memlist.MemoryLoader(ours, 4), memlist.MemoryLoader(ours, 4)]
        for _ in range(5):
            assert all(same(expected, made) for made in pool.map(list, loaders))


@batches
def test_mixup_after_torchs_own_collate_function(folder):
    from torch.utils.data import default_collate

    mixed = v2.CutMix(num_classes=3)
    check(*both(folder, KNOWN), collate_fn=lambda batch: mixed(*default_collate(batch)))


@batches
def test_the_warning_of_an_unknown_transform_says_what_to_do(folder):
    "There is no documentation where memlist is installed."
    _, ours = both(folder, v1.Compose([v1.ColorJitter(0.4), v1.Resize((20, 20)), v1.ToTensor()]))
    with pytest.warns(UserWarning, match="ColorJitter is not known") as warned:
        epoch(ours)
    text = str(warned[0].message)
    assert "documentation" not in text and "page" not in text
    assert "use workers" in text and "RandomResizedCrop, RandomCrop" in text and "before the conversion" in text
