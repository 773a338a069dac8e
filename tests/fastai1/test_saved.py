"""Pickles of earlier versions load, although they use former names of modules.

The files in `saved/` were written on Python 3.8 with torch 1.8.1, over six pictures in the folder `pictures`:
`0.1` before lists owned the results of a custom `open`, `0.1-ownership` after it; both before modules had folders.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import assert_same_bunches, assert_same_item, photo
from fastai.basic_data import load_data
from fastai.vision import ImageList, SegmentationItemList, get_transforms

import memlist as m
from memlist import former

SAVED = Path(__file__).parent / "saved"
VERSIONS = sorted(folder.name for folder in SAVED.iterdir())


@pytest.fixture(autouse=True)
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    for i in range(6):
        photo(i).save(f"pictures/{i}.png")


def loaded(version: str, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.loads((SAVED / version / f"{name}.pkl").read_bytes())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_data_bunch_of_an_earlier_version_loads(version: str, tmp_path: Path) -> None:
    (tmp_path / "images.pkl").write_bytes((SAVED / version / "images.pkl").read_bytes())
    ours = load_data(tmp_path, "images.pkl", bs=2, num_workers=0)
    stock = ImageList.from_folder("pictures", presort=True).split_by_idx([4, 5])
    stock = stock.label_from_func(lambda f: f, label_cls=ImageList).transform(get_transforms(), size=24, tfm_y=True)
    assert type(ours.train_ds.x) is m.MemoryImageList and type(ours.train_ds.y) is m.MemoryImageLabelList
    assert_same_bunches(ours, stock.databunch(bs=2, num_workers=0, path=Path(".")))
    assert ours.loaded and ours.cache_info().cached == 6


@pytest.mark.parametrize("version", VERSIONS)
def test_lists_of_an_earlier_version_load(version: str) -> None:
    labelled, masks = loaded(version, "labelled"), loaded(version, "masks")
    assert labelled.load_data(progress=False).loaded
    stock = ImageList.from_folder("pictures", presort=True)
    assert_same_item(labelled.x[0], stock[0])
    assert_same_item(masks[3], SegmentationItemList.from_folder("pictures", presort=True)[3])
    assert masks.store is labelled.x.store


@pytest.mark.parametrize("version", VERSIONS)
def test_cache_info_and_errors_of_an_earlier_version_load(version: str) -> None:
    info, error = loaded(version, "info"), loaded(version, "error")
    assert type(info) is m.CacheInfo and info.total == 4
    assert type(error) is m.ImageLoadError and error.errors == [("a", "b")]


def test_public_classes_are_pickled_by_their_public_name() -> None:
    for name in m.__all__:
        one = getattr(m, name)
        if isinstance(one, type):
            assert one.__module__ == "memlist" and pickle.loads(pickle.dumps(one)) is one


def test_each_former_module_has_its_names() -> None:
    for name, targets in former.MOVED.items():
        module = getattr(m, name)
        assert targets and module is not None
        with pytest.raises(AttributeError, match="no_such_name"):
            module.no_such_name  # noqa: B018
