"""`?` and `help` show what people look up: purpose, keywords with defaults, errors, an example."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from fastai.data_block import LabelLists
from fastai.vision import ImageDataBunch, ImageList
from fastai.vision.gan import GANItemList

import memlist as m

LISTS = [getattr(m, name) for name in m.__all__ if re.fullmatch(r"Memory\w*List", name)]
KEYWORDS = ["lazy", "max_ram", "cache_file", "max_size", "store"]


@pytest.mark.parametrize("cls", LISTS)
def test_a_list_shows_its_parameters_by_name(cls: Any) -> None:
    parameters = inspect.signature(cls).parameters
    assert {"items", "path", "convert_mode", "after_open", *KEYWORDS} <= set(parameters)
    assert all(parameters[name].default is None and parameters[name].kind == 3 for name in KEYWORDS)
    assert not any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters.values())
    assert parameters["convert_mode"].default == "RGB"


@pytest.mark.parametrize("cls", LISTS)
def test_a_list_says_what_it_stands_for(cls: Any) -> None:
    text = inspect.getdoc(cls) or ""
    stock = next(base.__name__ for base in cls.__mro__[1:] if base.__module__.startswith("fastai."))
    assert f"`{stock}`" in text and len(text.splitlines()) >= 4
    wanted = [f"`{name}=" for name in KEYWORDS] if cls is m.MemoryImageList else ["keywords of `MemoryImageList`"]
    assert all(one in text for one in wanted)


def test_the_parameters_are_those_that_can_be_given() -> None:
    given = {"noise_sz": 3, "convert_mode": "L", "max_size": 8, "path": ".", "ignore_empty": True}
    assert set(given) <= set(inspect.signature(m.MemoryGANItemList).parameters)
    with pytest.warns(UserWarning, match="max_size=8"):
        il = m.MemoryGANItemList(["a"], **given)
    assert isinstance(il, GANItemList) and il.noise_sz == 3 and il.convert_mode == "L" and il.max_size == 8


def test_a_class_of_ones_own_shows_its_own_parameters() -> None:
    class Scaled(m.MemoryImageList):
        def __init__(self, items: Any, scale: int = 3, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)

    class Closed(m.MemoryImageList):
        def __init__(self, scale: int) -> None:
            super().__init__([scale])

    class Plain(Scaled):
        pass

    for cls in (Scaled, Plain):
        shown = inspect.signature(cls).parameters
        assert list(shown)[:2] == ["items", "scale"] and "max_ram" in shown and shown["path"].kind == 3
    assert list(inspect.signature(Closed).parameters) == ["scale"]


@pytest.mark.parametrize("name", ["from_folder", "from_df", "from_lists", "from_name_func"])
def test_the_factories_show_their_keywords(name: str) -> None:
    ours = inspect.signature(getattr(m.MemoryImageDataBunch, name)).parameters
    stock = inspect.signature(getattr(ImageDataBunch, name)).parameters
    assert set(ours) == {*stock, *KEYWORDS, "convert_mode", "after_open", "batch_tfms"}
    assert [one for one in ours if one in stock][:-1] == list(stock)[:-1] and list(ours)[-1] == "kwargs"
    assert all(ours[one].default == stock[one].default for one in stock)
    text = inspect.getdoc(getattr(m.MemoryImageDataBunch, name)) or ""
    assert (
        text.startswith(inspect.getdoc(getattr(ImageDataBunch, name)) or " ")
        and "keywords of `MemoryImageList`" in text
    )


def test_methods_of_fastais_classes_keep_their_parameters() -> None:
    shown = inspect.signature(LabelLists.databunch).parameters
    assert {"bs", "num_workers", "device", "batch_tfms"} <= set(shown) and shown["batch_tfms"].default is False
    assert list(inspect.signature(ImageDataBunch.add_test).parameters)[1] == "items"


PAGES = {
    m.MemoryImageDataBunch: ["::", "`max_ram`", "`batch_tfms=False`", "Raises"],
    m.InMemory: ["::", "`max_ram`", "`cache_file`", "`max_size`", "Raises"],
    m.DataWait: ["learn.fit", "data_wait"],
    m.cached: ["::", "`max_ram`", "`cache_file`", "`version`", "`copy`", "Raises"],
    m.compare: ["::", "`epochs`", "`classes`", "`seed`", "Raises"],
    m.in_memory: ["::", "`max_ram`", "`cache_file`", "`max_size`", "Raises"],
    m.MemoryImageFolder: ["::", "`max_ram`", "`cache_file`", "`max_size`", "Raises"],
    m.ImageLoadError: ["::", "`errors`", "`items`"],
    m.MemoryImageList.load_data: ["`n_workers=None`", "`progress=True`", '`on_error="raise"`', "Raises"],
    ImageDataBunch.load_data: ["`n_workers=None`", "`progress=True`", '`on_error="raise"`', "Raises"],
    m.MemoryImageFolder.load_data: ["`n_workers=None`", "`progress=True`", '`on_error="raise"`', "Raises"],
    m.MemoryImageList.purge: ["`file=False`"],
    m.MemoryImageList.without: ["::", "`errors`"],
    m.MemoryImageList.cache_info: ["`CacheInfo`"],
    LabelLists.databunch: ["`batch_tfms=False`"],
}


@pytest.mark.parametrize("one", PAGES, ids=lambda one: one.__qualname__)
def test_what_people_look_up_is_there(one: Any) -> None:
    text = inspect.getdoc(one) or ""
    assert [wanted for wanted in PAGES[one] if wanted not in text] == []


def test_stock_lists_are_as_they_were() -> None:
    assert "__signature__" not in vars(ImageList)
