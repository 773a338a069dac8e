"""`in_memory` of DataLoaders that are in memory already: every keyword has its effect, or raises a clear error."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
import torch
from fastai.vision.all import CategoryBlock, DataBlock, Datasets, PILImage, Resize, Transform
from fastai2_helpers import classes
from fastai2_pipelines import label, pictures, same

import memlist
from memlist.fastai2 import MemoryImageBlock, in_memory
from memlist.fastai2.loader import memory_of

Make = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


def wrapped(files: List[Path], item_tfms: Any = None, **kwargs: Any) -> Any:
    "Return loaders that `in_memory` was called for."
    return in_memory(classes(files, item_tfms or Resize(12)), **kwargs)


def of_block(files: List[Path], item_tfms: Any = None, **kwargs: Any) -> Any:
    "Return loaders whose block keeps images."
    block = DataBlock((MemoryImageBlock(**kwargs), CategoryBlock), get_y=label, item_tfms=item_tfms or Resize(12))
    return block.dataloaders(files, bs=3, num_workers=0, device="cpu")


MADE = pytest.mark.parametrize("make", [wrapped, of_block])


def state(dls: Any) -> Any:
    "Return what a keyword could change."
    memory = memory_of(dls.train)
    assert memory is not None
    return memory, memory.store.rule, memory.store.cache_file, memory.max_size, memory.batches


WRONG: Dict[str, Any] = {"max_ram": "bogus", "cache_file": 3, "max_size": 0, "batches": 1}


@pytest.mark.parametrize("keyword", WRONG)
@MADE
def test_values_that_make_no_sense(make: Make, keyword: str, files: List[Path]) -> None:
    dls = make(files)
    before = state(dls)
    for call in (in_memory, memlist.in_memory):
        with pytest.raises((TypeError, ValueError), match=f"^{keyword}="):
            call(dls, **{keyword: WRONG[keyword]})
    assert state(dls) == before


@pytest.mark.parametrize("keyword", WRONG)
def test_values_that_make_no_sense_where_nothing_is_kept(keyword: str) -> None:
    numbers = Datasets(list(range(8)), [[lambda one: torch.tensor(one)]], splits=[[0, 1, 2], [3, 4]])
    with pytest.raises((TypeError, ValueError), match=f"^{keyword}="):
        in_memory(numbers.dataloaders(bs=1, num_workers=0), **{keyword: WRONG[keyword]})


@MADE
def test_the_last_max_ram_holds(make: Make, files: List[Path]) -> None:
    dls = make(files, max_ram="2MB")
    other = make(files, max_ram="1MB")
    assert in_memory(dls, max_ram=3_000_000) is dls
    assert memory_of(dls.train).store.rule == 3_000_000
    assert memory_of(other.train).store.rule == (3_000_000 if make is wrapped else 1_000_000)
    in_memory(dls)
    wrapped(files)
    assert memory_of(dls.train).store.rule == 3_000_000, "leaving it out keeps it"


@MADE
def test_a_lower_max_ram_needs_a_purge(make: Make, files: List[Path]) -> None:
    dls = make(files).load_data(progress=False)
    held, n = dls.cache_info().nbytes, dls.cache_info().cached
    said = rf"max_ram={held // 3} their store may take .*, and it holds .* already.*call purge\(\) first"
    with pytest.warns(UserWarning, match=said) as found:
        in_memory(dls, max_ram=held // 3)
        in_memory(dls, max_ram=held // 3)
    assert len(found) == 1 and found[0].filename == __file__
    assert dls.cache_info().cached == n, "nothing is dropped"
    dls.purge()
    with pytest.warns(UserWarning, match="there is no room for all of them"):
        dls.load_data(progress=False)
    assert 0 < dls.cache_info().cached < n and dls.cache_info().nbytes <= held // 3


def test_new_loaders_with_a_lower_max_ram(files: List[Path]) -> None:
    dls = wrapped(files).load_data(progress=False)
    with pytest.warns(UserWarning, match=r"max_ram='9kB' their store .* purge\(\) first"):
        wrapped(files, max_ram="9kB")
    assert memory_of(dls.train).store.rule == 9000


class Unknown(Transform):
    "A transform that memlist does not know."

    def encodes(self, one: PILImage) -> PILImage:
        return one


@MADE
def test_batches_has_its_effect(make: Make, files: List[Path]) -> None:
    dls = make(files, [Resize(12), Unknown()], batches=False)
    wanted = list(dls.valid)
    in_memory(dls)
    in_memory(dls, batches=False)
    assert not memory_of(dls.train).batches
    assert in_memory(dls, batches=True) is dls
    with pytest.warns(UserWarning, match="are made item by item"):
        same(list(dls.valid), wanted)
    memlist.in_memory(dls, batches=False)
    assert not memory_of(dls.train).batches
    same(list(dls.valid), wanted)


@MADE
def test_max_size_can_not_change(make: Make, files: List[Path]) -> None:
    dls = make(files)
    before = state(dls)
    with pytest.raises(ValueError, match=r"in memory already, at full size, .* max_size=16 .* build .* again") as told:
        in_memory(dls, max_size=16, max_ram="1MB")
    assert state(dls) == before, "max_ram was not set either"
    with pytest.warns(UserWarning, match="max_size=16 images are kept"):
        new = make(files, max_size=16)
    assert memory_of(new.train).max_size == 16, f"what the message says helps: {told.value}"
    with pytest.raises(ValueError, match=r"in memory already, with max_size=16, .* max_size=20"):
        in_memory(new, max_size=20)


@MADE
def test_a_file_can_not_change(make: Make, files: List[Path], tmp_path: Path) -> None:
    dls, file = make(files), tmp_path / "first.mem"
    before = state(dls)
    with pytest.raises(
        ValueError, match=r"in memory already, in no file, .* cache_file='.*first.mem' .* build .* again"
    ):
        in_memory(dls, cache_file=str(file), max_ram="1MB")
    assert state(dls) == before and not file.exists()
    new = make(files, cache_file=file)
    assert file.exists() and memory_of(new.train).store.cache_file == str(file)
    with pytest.raises(ValueError, match=r"in .*first.mem, .* cache_file='.*second.mem'"):
        in_memory(new, cache_file=str(tmp_path / "second.mem"))
    assert not (tmp_path / "second.mem").exists()


def test_a_file_that_was_deleted(files: List[Path], tmp_path: Path) -> None:
    file = tmp_path / "pets.mem"
    dls = wrapped(files, cache_file=file)
    file.unlink()
    with pytest.raises(ValueError, match=r"pets.mem, which was deleted or replaced since"):
        in_memory(dls, cache_file=file)
    again = wrapped(files, cache_file=file).load_data(progress=False)
    assert file.exists() and again.loaded


@MADE
def test_the_same_again_changes_nothing(
    make: Make, files: List[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="max_size=16 images are kept"):
        dls = make(files, max_ram="5MB", cache_file="pets.mem", max_size=16, batches=False).load_data(progress=False)
    before = state(dls), dls.cache_info(), [type(dl) for dl in dls.loaders]
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for file in ("pets.mem", os.path.join(os.curdir, "pets.mem"), tmp_path / "pets.mem", link / "pets.mem"):
            for call in (in_memory, memlist.in_memory):
                assert call(dls, max_ram="5MB", cache_file=file, max_size=16, batches=False) is dls
        assert in_memory(dls) is dls
    assert before == (state(dls), dls.cache_info(), [type(dl) for dl in dls.loaders])
    del dls
    gc.collect()
