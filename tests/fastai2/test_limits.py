"""Start methods of workers, files that processes share, the limit of sizes, and names of libraries that are missing."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pandas
import pytest
import torch
import torch.multiprocessing
from conftest import Opens, seed
from fastai.tabular.all import TabularDataLoaders
from fastai.vision.all import CategoryBlock, DataBlock, PILImage, RandomResizedCrop, Resize
from fastai2_helpers import batches, both, classes, learner, used
from fastai2_pipelines import label, pictures, same
from torch.utils.data import Dataset
from torchvision.datasets.folder import default_loader

import memlist
from memlist import doors
from memlist.fastai2 import MemoryImageBlock, in_memory


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_start_methods_of_workers(method: str, files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method(method, force=True)
    try:
        ours = both(lambda: classes(files, num_workers=2), batches, times=1)
        assert ours.loaded, "workers put images into the memory of all"
    finally:
        torch.multiprocessing.set_start_method(before, force=True)


READER = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from conftest import Opens, _counting
from fastai2_helpers import classes, seed
from memlist.fastai2 import in_memory
opens = Opens()
seed(5)
dls = in_memory(classes(sorted(Path({folder!r}).iterdir())), cache_file={file!r})
print("loaded", dls.loaded)
_counting[:] = [opens]
print("bytes", sum(int(x.long().sum()) for x, _ in [*dls.train, *dls.valid]))
print("opened", len(opens.take()))
"""


def test_a_file_for_two_processes(files: List[Path], tmp_path: Path) -> None:
    file = str(tmp_path / "images.cache")
    in_memory(classes(files), cache_file=file).load_data(progress=False)
    seed(5)
    wanted = sum(int(x.long().sum()) for x, _ in batches(classes(files)))
    program = READER.format(tests=str(Path(__file__).parents[1]), folder=str(files[0].parent), file=file)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["loaded True", f"bytes {wanted}", "opened 0"], done.stderr


def test_a_limit_that_no_image_reaches_changes_nothing(files: List[Path]) -> None:
    seed(1)
    stock = classes(files)
    seed(1)
    with pytest.warns(UserWarning, match="max_size=70 images are kept"):
        ours = in_memory(classes(files), max_size=70)
    same(used(ours, batches), used(stock, batches))


def test_reduced_images(files: List[Path]) -> None:
    "They take less memory, and batches at once are those of single items."
    whole = in_memory(classes(files, Resize(12))).load_data(progress=False)
    needed = whole.cache_info().nbytes
    del whole
    gc.collect()  # else its store is shared
    made = []
    for at_once in (True, False):
        seed(1)
        with pytest.warns(UserWarning, match="max_size=16 images are kept"):
            ours = in_memory(classes(files, RandomResizedCrop(12)), max_size=16, batches=at_once)
        ours.load_data(progress=False)
        assert ours.loaded and ours.cache_info().nbytes < needed
        made.append(used(ours, batches))
        assert min(PILImage(ours.train_ds[0][0]).size) == 16
        del ours
        gc.collect()
    same(*made)


def of_block(files: List[Path], **kwargs: Any) -> Any:
    "Return loaders of a block that keeps images."
    block = DataBlock((MemoryImageBlock(**kwargs), CategoryBlock), get_y=label, item_tfms=Resize(12))
    return block.dataloaders(files, bs=3, num_workers=0, device="cpu")


@pytest.mark.parametrize("make", [lambda files, **given: in_memory(classes(files), **given), of_block])
def test_one_message_says_that_images_are_reduced(make: Any, files: List[Path]) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        kept = [make(files, max_size=16)]
        if make is not of_block:  # each block has a store of its own
            kept.append(make(files, max_size=16))
        batches(kept[0].load_data(progress=False))
    found = [one for one in said if "max_size" in str(one.message)]
    assert len(found) == 1 and found[0].filename == __file__
    assert re.search(
        "with max_size=16 images are kept with their shorter side reduced to 16 pixels at most, so the pixels of "
        "larger ones differ from those of fastai's own DataLoaders. For the same pixels, leave max_size out.",
        str(found[0].message),
    )


@pytest.mark.parametrize(
    "keywords", [{"max_size": 0}, {"max_size": True}, {"max_ram": "much"}, {"batches": 1}], ids=str
)
def test_keywords_that_make_no_sense(keywords: Any, files: List[Path]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(keywords))):
        in_memory(classes(files), **keywords)


def test_a_read_image_is_not_opened_again(files: List[Path], opens: Opens) -> None:
    ours = in_memory(classes(files)).load_data(progress=False)
    assert len(opens.take()) == len(files)
    batches(ours)
    assert opens.take() == {}


def test_a_learner_is_refused(files: List[Path]) -> None:
    learn = learner(classes(files))
    for call in (in_memory, memlist.in_memory):
        with pytest.raises(TypeError, match=r"in_memory\(learn.dls\)"):
            call(learn)


NEITHER: Dict[str, Any] = {
    **{"str": "data/small", "NoneType": None, "PosixPath": Path("data/small"), "int": 3, "list": [], "dict": {}},
    **{"function": classes, "DataFrame": pandas.DataFrame({"name": ["a.png"]}), "ndarray": np.zeros((2, 2))},
}


@pytest.mark.parametrize("name", NEITHER)
@pytest.mark.parametrize("keywords", [{}, {"batches": False, "max_ram": "1MB"}], ids=["plain", "keywords"])
def test_what_is_neither_loaders_nor_a_dataset(name: str, keywords: Any) -> None:
    said = (
        f"^in_memory takes DataLoaders of fastai 2, or a dataset of torchvision's kind, and this is a {name}: please "
    )
    with pytest.raises(TypeError, match=said):
        memlist.in_memory(NEITHER[name], **keywords)


class Listed(Dataset):
    "A dataset without the attribute that torchvision's have."

    def __getitem__(self, i: int) -> int:
        return i


class Borrowed:
    "A dataset that is none of torch's, but names what opens its files."

    loader, samples = staticmethod(default_loader), ()


@pytest.mark.parametrize("batches", [None, True])
def test_datasets_go_to_torchvision(batches: Any) -> None:
    assert repr(memlist.in_memory(Borrowed(), batches=batches)) == "<Borrowed in memory>"
    with pytest.raises(TypeError, match="loader"):
        memlist.in_memory(Listed(), batches=batches)
    with pytest.raises(TypeError, match="batches=False is for DataLoaders of fastai 2"):
        memlist.in_memory(Borrowed(), batches=False)


def test_tables_stay_as_they_are() -> None:
    frame = pytest.importorskip("pandas").DataFrame({"a": [1.0, 2.0] * 8, "y": [0.0, 1.0] * 8})
    dls = TabularDataLoaders.from_df(frame, cont_names=["a"], y_names="y", bs=2, valid_idx=[0, 1])
    kinds = [type(dl) for dl in dls.loaders]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert in_memory(dls) is dls
    assert [str(one.message) for one in said if "nothing is kept" in str(one.message)]
    assert [type(dl) for dl in dls.loaders] == kinds and len(list(dls.train)) == 7
    with pytest.raises(TypeError, match="no images in memory"):
        dls.load_data()


@pytest.mark.parametrize("name", ["MemoryImageList", "InMemory", "MemoryMasks"])
def test_names_of_fastai_1(name: str) -> None:
    with pytest.raises(ImportError, match=rf"{name} needs fastai 1, .*pip install 'memlist\[fastai1\]'"):
        getattr(memlist, name)


WITHOUT = """
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("fastai", "torchvision"): raise ImportError(name)
sys.meta_path.insert(0, Absent())
import memlist
for call in (lambda: memlist.in_memory(3), lambda: memlist.MemoryImageBlock, lambda: memlist.MemoryMaskBlock()):
    try:
        call()
    except ImportError as error:
        print(error)
print(sorted(memlist.__all__))
"""


def test_names_of_fastai_2_without_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT], capture_output=True, text=True, cwd=tmp_path)
    said = done.stdout.splitlines()
    assert len(said) == 4, done.stderr
    assert all("needs fastai 2, " in one and "pip install 'memlist[fastai2]'" in one for one in said[:3])
    assert "in_memory" not in said[3] and "ImageStore" in said[3]


def test_an_older_fastai_2(files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "version", lambda package: "2.7.19")
    dls = classes(files)
    for call in (lambda: memlist.in_memory(dls), lambda: doors.opened("MemoryImageBlock")):
        with pytest.raises(ImportError, match=r"2.8 or newer, and here is 2.7: pip install --upgrade 'memlist\[fas"):
            call()


@pytest.mark.filterwarnings("ignore:.*could not be|.*max_size=16")
@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("max_size", [None, 16])
def test_a_file_that_is_cut_off_is_closed(max_size: Any, n_workers: int, files: List[Path]) -> None:
    "Python would say `ResourceWarning: unclosed file`, where warnings are on."
    dls = in_memory(classes(files), max_size=max_size)
    for file in files[1:3]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    gc.collect()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dls.load_data(progress=False, on_error="warn", n_workers=n_workers)
        gc.collect()
    assert [one for one in said if files[1].name in str(one.message)], "it is named"
    assert [str(one.message) for one in said if one.category is ResourceWarning] == []
