"""In-memory lists equal stock, item by item, for every kind of `open` and `get` that people write."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import warnings
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from conftest import photo, seed
from fastai.vision import Image
from forms import FORMS, Form, Handed

BATCHES = [name for name in FORMS if FORMS[name].batches]
# Stock's workers share the offset of one open file, and read garbage; ours do not.
SHARES_ITS_HANDLES = {"a_tar_with_a_handle_on_self", "open_files_as_items"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "twelve").mkdir()
    for i in range(12):
        photo(i, 20, 20).save(tmp_path / "twelve" / f"{i:02}.png")
    return tmp_path / "twelve"


def flat(item: Any) -> Any:
    "Return all that can be compared of an item: types, dtypes, shapes, strides, bytes and attributes."
    if isinstance(item, Handed):
        return [flat(one) for one in item.images]
    if isinstance(item, Image):
        more = {k: v for k, v in vars(item).items() if k not in ("_px", "_affine_mat", "_flow", "_logit_px")}
        return type(item).__name__, flat(item.px), repr(sorted(more.items()))
    if isinstance(item, torch.Tensor):
        return ("tensor", *flat(item.detach().numpy()))
    return str(item.dtype), item.shape, item.strides, item.tobytes()


def read(il: Any, passes: int = 2) -> List[Any]:
    found = []
    for k in range(passes):
        for i in range(len(il.items)):
            seed(100 * k + i)
            found.append(flat(il[i]))
    return found


def bunch(cls: Any, form: Form, folder: Path, workers: int, **kwargs: Any) -> Any:
    lists = form.make(cls, folder).split_by_idx([0, 5, 7]).label_const(0)
    return lists.transform(None, size=16).databunch(bs=3, num_workers=workers, no_check=True, **kwargs)


def batches(data: Any, k: int) -> List[torch.Tensor]:
    seed(k)
    return [x for dl in (data.train_dl, data.valid_dl) for x, _ in dl]


def sampled(first: List[Any], second: List[Any], taken: List[Any]) -> List[Any]:
    "Return all pairs; those not in `taken` run only in `make test-full`."
    pairs = itertools.product(first, second)
    return [pytest.param(*pair, marks=() if pair in taken else pytest.mark.full) for pair in pairs]


@pytest.mark.parametrize(
    ("written", "loaded"),
    sampled(["mixed", "written_over"], [None, 0, 2], [("mixed", None), ("written_over", 2)]),
)
@pytest.mark.parametrize("name", list(FORMS))
def test_every_item_equals_stock(name: str, loaded: Any, written: str, folder: Path) -> None:
    form = FORMS[name]
    stock, ours = form.make(form.stock, folder), form.make(getattr(form, written), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if loaded is not None:
            ours.load_data(n_workers=loaded, progress=False)
        assert read(ours) == read(stock)
        # A slice, then the whole list again.
        some = np.array([3, 1, 8])
        assert read(ours[some]) == read(stock[some])
        assert read(ours) == read(stock)


def test_an_attribute_that_is_set_later_starts_an_empty_store(folder: Path) -> None:
    form = FORMS["a_dicom_window"]
    stock, ours = form.make(form.stock, folder), form.make(form.mixed, folder)
    assert read(ours) == read(stock)
    before, parts = ours.store, [il[[0, 1]] for il in (ours, stock)]
    for il in (ours, stock):
        il.window = (40, 80)
    assert ours.cache_info()[:2] == (0, 12) and ours.store is not before
    assert read(ours) == read(stock) and ours.load_data(progress=False).loaded
    assert read(parts[0]) == read(parts[1]) and parts[0].store is before  # it still has its old window
    for il in (ours, stock):
        il.window = (40, 80)
    assert ours.loaded  # setting the same value changes nothing


@pytest.mark.parametrize(("batch_tfms", "workers"), sampled([False, True], [0, 2], [(False, 2), (True, 0)]))
@pytest.mark.parametrize("name", BATCHES)
def test_every_batch_equals_stock(name: str, workers: int, batch_tfms: bool, folder: Path) -> None:
    form = FORMS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stock = bunch(form.stock, form, folder, 0 if name in SHARES_ITS_HANDLES else workers)
        ours = bunch(form.mixed, form, folder, workers, batch_tfms=batch_tfms)
        for k in range(2):
            for one, other in zip(batches(ours, k), batches(stock, k)):
                if batch_tfms:
                    assert float(((one - other).abs() <= 1e-3).double().mean()) >= 0.999
                else:
                    assert one.stride() == other.stride() and one.numpy().tobytes() == other.numpy().tobytes()
            if k == 0:
                ours.load_data(progress=False)


def digests(lists: Dict[str, Any], send: Any) -> None:
    warnings.simplefilter("ignore")
    found = {name: [hashlib.sha1(repr(item).encode()).hexdigest() for item in read(il)] for name, il in lists.items()}
    send.send(found)


@pytest.mark.parametrize("loaded", [False, pytest.param(True, marks=pytest.mark.full)])
def test_spawned_processes_read_the_same(loaded: bool, folder: Path) -> None:
    "Read all forms in one spawned process, which is slow to start; all are hits for its parent then."
    lists = {name: form.make(form.mixed, folder) for name, form in FORMS.items() if form.spawns}
    stock = {name: FORMS[name].make(FORMS[name].stock, folder) for name in lists}
    receive, send = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for il in lists.values() if loaded else ():
            il.load_data(progress=False)
        process = multiprocessing.get_context("spawn").Process(target=digests, args=(lists, send))
        process.start()
        found = receive.recv()
        process.join()
        for name, il in stock.items():
            wanted = [hashlib.sha1(repr(item).encode()).hexdigest() for item in read(il)]
            assert found[name] == wanted, name
        for name in ("the_last_slide_on_self", "images_with_methods", "a_counter_on_self", "a_row_by_position"):
            misses = lists[name].cache_info().misses
            assert read(lists[name], 1) == read(FORMS[name].make(FORMS[name].stock, folder), 1)
            assert lists[name].cache_info().misses == misses and lists[name].loaded, name


KEPT_NOT = {"streams_as_items", "open_files_as_items", "numbers_that_know_more", "private_generator", "bound_random"}
KEPT_NOT |= {"global_noise", "random_at_times"}


@pytest.mark.parametrize("name", list(FORMS))
def test_everything_that_can_be_kept_is_kept(name: str, folder: Path) -> None:
    il = FORMS[name].make(FORMS[name].mixed, folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        il.load_data(progress=False)
    said = [str(one.message) for one in caught if "not kept in memory" in str(one.message)]
    assert il.loaded is (name not in KEPT_NOT) and len(said) == (name in KEPT_NOT)
    if name not in KEPT_NOT and name not in ("cyclegan_tuples", "siamese_pairs"):
        read(il)
        assert il.cache_info().misses == 0
