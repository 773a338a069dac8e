"""Messages name the object, the reason and the remedy."""

from __future__ import annotations

import gc
import os
import re
import warnings
from pathlib import Path
from typing import Any, List

import fresh
import numpy as np
import pytest
from conftest import many, photo
from fastai.data_block import MixedItemList
from fastai.vision import ImageList, get_transforms
from fastai.vision.image import Image

import memlist as m
from memlist import __main__
from memlist.timing.comparison import Run
from memlist.timing.epochs import Epoch, Step


def said(call: Any) -> List[str]:
    "Return the messages of the warnings that `call` shows."
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in shown]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return many(tmp_path / "many", 40)


# -- a budget that another list has set ----------------------------------------------------------------------------


def test_a_list_that_another_one_limits_says_so_once_and_how_to_lift_it(folder: Path) -> None:
    small = m.MemoryImageList.from_folder(folder, max_ram="600kB")
    (first,) = said(lambda: small.load_data(progress=False))
    assert "shares the store" not in first
    other = m.MemoryImageList.from_folder(folder)
    (text,) = said(lambda: other.load_data(progress=False))
    assert "It shares the store of another list over the same path, which asked for max_ram: 600 kB." in text
    assert "give this list a max_ram or a cache_file of its own" in text
    assert not said(lambda: [other[i] for i in range(40)]) and not said(lambda: other.load_data(progress=False))
    assert not said(lambda: m.MemoryImageList.from_folder(folder, max_ram="1GB").load_data(progress=False))
    assert other.loaded  # as the message says


def test_a_lazy_list_says_so_when_an_image_does_not_fit(folder: Path) -> None:
    small = m.MemoryImageList.from_folder(folder, max_ram="600kB")
    said(lambda: small.load_data(progress=False))
    texts = said(lambda: [m.MemoryImageList.from_folder(folder)[i] for i in range(40)])
    assert len(texts) == 1 and "which asked for max_ram: 600 kB" in texts[0]


def test_targets_with_the_settings_of_their_inputs_are_not_limited_by_another_list(folder: Path) -> None:
    lists = m.MemoryImageList.from_folder(folder, max_ram="600kB").split_none()
    lists = lists.label_from_func(lambda path: path, label_cls=m.MemoryImageLabelList)
    assert not any("shares the store" in text for text in said(lambda: lists.load_data(progress=False)))


def test_a_cache_file_of_another_list_is_named(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "images.cache"
    first = m.MemoryImageList.from_folder(folder, max_ram="600kB", cache_file=file)
    said(lambda: first.load_data(progress=False))
    (text,) = said(lambda: m.MemoryImageList.from_folder(folder).load_data(progress=False))
    assert f"asked for max_ram: 600 kB, cache_file: {file}" in text


# -- load_data -----------------------------------------------------------------------------------------------------


def test_load_data_prints_no_zeros(tmp_path: Path, capsys: Any) -> None:
    photo(1, 8, 8).save(tmp_path / "one.png")
    il = m.MemoryImageList.from_folder(tmp_path)
    il.load_data()
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("load_data: 1 image, about 192 B decoded; ")
    assert re.fullmatch(r"load_data: 1 image, 192 B, [\d.,]+ images/s, .* in all", last), last
    il.load_data()
    assert capsys.readouterr().out == ""  # there is nothing to do
    (tmp_path / "one.png").write_bytes(b"no picture")
    with pytest.raises(m.ImageLoadError):
        il.load_data()
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"load_data: 1 image, 1 failed, .* in all", last), last


def test_verifying_a_cache_file_prints_no_zeros(folder: Path, tmp_path: Path, capsys: Any) -> None:
    code = (
        "import memlist, sys\n"
        f"memlist.MemoryImageList.from_folder({str(folder)!r}, cache_file={str(tmp_path / 'c')!r}).load_data()"
    )
    outs = [fresh.run(code).stdout for _ in range(2)]
    assert "1.2" in outs[0] and "40 images of" in outs[1] and "to verify" in outs[1]
    assert not re.search(r"\b0(\.0+)? ([kMG]?B|images/s)", "".join(outs)), outs
    assert outs[1].splitlines()[-1].startswith("load_data: 40 images, ") and "images/s" not in outs[1]


def test_load_data_says_of_which_images_it_looks_at_the_files_again(folder: Path, tmp_path: Path, capsys: Any) -> None:
    "It names a file only if there is one: what changed in memory, and what it verifies, are different lines."
    file = tmp_path / "c"
    for given in ({}, {"cache_file": file}):
        il = m.MemoryImageList.from_folder(folder, presort=True, **given).load_data(progress=False)
        for k in range(2):
            os.utime(il.items[k], ns=(1, k + 1))
            il.load_data()
            first = capsys.readouterr().out.splitlines()[0]
            assert first == "load_data: 1 image to load again, because its file has changed or is gone"
        for k in range(2):
            os.utime(il.items[k], ns=(1, k + 3))
        il.load_data()
        first = capsys.readouterr().out.splitlines()[0]
        assert first == "load_data: 2 images to load again, because their files have changed or are gone"
        del il
        gc.collect()
    lists = m.MemoryImageList.from_folder(folder, presort=True, cache_file=file).split_by_idx([0])
    lists.label_from_func(lambda path: path, label_cls=m.MemoryImageLabelList).load_data()
    assert capsys.readouterr().out.splitlines()[0] == f"load_data: 40 images of {file} to verify"


def test_the_share_that_fits_is_not_rounded_to_nothing(folder: Path, capsys: Any) -> None:
    from memlist.cache.filling import _share

    assert _share(40, 1_200_000, 596_000) == "about 49 % will fit, the rest stays on disk"
    assert _share(1000, 30_000_000, 60_000) == "about 2 of them will fit, the rest stays on disk"
    il = m.MemoryImageList.from_folder(folder, max_ram="20kB")
    said(lambda: il.load_data(progress=False))
    line = capsys.readouterr().out.strip()
    assert line.endswith("(max_ram: 20 kB): probably none of them will fit, they stay on disk")


def test_a_rate_below_ten_is_not_rounded_to_nothing() -> None:
    from memlist.cache.filling import Fill, _state

    fill = Fill([], None, False)
    fill.decoded = 3
    assert _state(fill, 2_500_000, 10.0) == "2.5 MB, 0.3 images/s"
    fill.decoded = 70_000
    assert _state(fill, 2_500_000_000, 10.0) == "2.5 GB, 7,000 images/s"
    fill.decoded = 0
    assert _state(fill, 0, 10.0) == ""


def test_a_budget_is_named_as_people_write_it(folder: Path, capsys: Any) -> None:
    said(lambda: m.MemoryImageList.from_folder(folder, max_ram="0.6 MB").load_data(progress=False))
    line = capsys.readouterr().out
    assert "(max_ram: 600 kB): about" in line and "600000" not in line


# -- reasons -------------------------------------------------------------------------------------------------------


def test_pixels_that_are_not_kept_are_named_by_their_dtype(tmp_path: Path) -> None:
    class Complex(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            import torch

            return Image(torch.zeros(3, 2, 2, dtype=torch.complex64))

    (text,) = said(lambda: Complex([1, 2], path=tmp_path)[0])
    assert "Complex over" in text and "because its pixels are complex64" in text and "cache = False" in text


def test_items_that_have_no_key_are_named_by_their_class(tmp_path: Path) -> None:
    class Thing:
        pass

    class Things(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return np.zeros((2, 2))

    items = np.empty(2, object)
    items[:] = [Thing(), Thing()]
    (text,) = said(lambda: Things(items, path=tmp_path)[0])
    assert "Things over" in text and "Thing is not supported in a key. Numbers, strings, paths" in text


def test_a_mixed_list_is_named_as_the_reason_for_single_images(folder: Path) -> None:
    lists = [m.MemoryImageList.from_folder(folder) for _ in range(2)]
    data = MixedItemList(lists, path=folder).split_none().label_from_func(lambda i: 0)
    texts = said(lambda: data.databunch(bs=2, num_workers=0, batch_tfms=True, no_check=True))
    assert len(texts) == 1 and "the inputs are a MixedItemList, which has transforms for each of its lists" in texts[0]


def test_without_numba_the_command_is_one_that_finds_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from memlist.fastai1 import loader

    monkeypatch.setattr(loader.cpu, "prepare", lambda *names: "No module named 'numba'")
    lists = m.MemoryImageList.from_folder(folder).split_none().label_from_func(lambda path: 0)
    texts = said(lambda: lists.transform(size=8).databunch(bs=2, num_workers=0, device="cpu", batch_tfms=True))
    assert any("Please `pip install numba`, or leave batch_tfms out" in text for text in texts)


# -- compare -------------------------------------------------------------------------------------------------------


def bunch(cls: Any, folder: Path, **kwargs: Any) -> Any:
    lists = cls.from_folder(folder, **kwargs).split_by_rand_pct(0.2, seed=1).label_from_func(lambda path: path.stem[-1])
    return lists.transform(size=8).databunch(bs=4, num_workers=0)


def test_compare_wants_a_function(folder: Path) -> None:
    wanted = r"compare takes a function that builds the data, .* this is a {}: please write compare\(lambda cls: "
    with pytest.raises(TypeError, match=wanted.format("MemoryImageDataBunch")):
        m.compare(bunch(m.MemoryImageList, folder))
    with pytest.raises(TypeError, match=wanted.format("int")):
        m.compare(3)  # type: ignore[arg-type]


def test_compare_says_how_much_is_in_memory_if_not_all_is(folder: Path) -> None:
    small = m.MemoryImageList.from_folder(folder, max_ram="600kB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = m.compare(lambda cls: bunch(cls, folder), epochs=2, show=False)
    cached, total = small.cache_info()[:2]
    assert 0 < cached < total == 40 and found.runs[0].cached is None and found.runs[1].cached == (cached, total)
    line = next(line for line in repr(found).splitlines() if line.startswith("images in memory"))
    assert line.split()[3:] == [str(cached), "of", "40"] and f"{cached} of 40" in found._repr_html_()
    del small


def test_compare_says_nothing_of_it_if_all_is() -> None:
    epochs = [Epoch([Step(1.0, 1.0, True, 0, 0)], 2.0)]
    found = m.Comparison([Run("a", epochs, None, None), Run("b", epochs, 1.0, None, (40, 40))])
    assert "images in memory" not in repr(found)
    found.runs[1] = found.runs[1]._replace(cached=(39, 40))
    assert "39 of 40" in repr(found)


# -- wrong values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", ["no", 0, 1.0, [False]])
def test_lazy_is_a_truth_value(folder: Path, lazy: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"lazy={lazy!r}: use True, or False")):
        m.MemoryImageList.from_folder(folder, lazy=lazy)
    with pytest.raises(TypeError, match="lazy="):
        m.MemoryImageDataBunch.from_folder(folder, lazy=lazy)
    for right in (None, True, False, np.bool_(False)):
        assert m.MemoryImageList.from_folder(folder, lazy=right).lazy is (right is None or bool(right))


def test_a_wrong_value_is_shown_on_one_short_line(folder: Path) -> None:
    long, il = get_transforms(), m.MemoryImageList.from_folder(folder)
    data = il.split_none().label_const(0)
    for call, error in (
        (lambda: data.databunch(batch_tfms=long), TypeError),
        (lambda: m.MemoryImageList.from_folder(folder, max_ram=long), TypeError),
        (lambda: m.MemoryImageList.from_folder(folder, max_ram="x" * 300), ValueError),
        (lambda: m.MemoryImageList.from_folder(folder, max_size=long), ValueError),
        (lambda: m.MemoryImageList.from_folder(folder, cache_file=long), TypeError),
        (lambda: m.MemoryImageList.from_folder(folder, lazy=long), TypeError),
        (lambda: il.load_data(n_workers=long), ValueError),
        (lambda: il.load_data(on_error=long), ValueError),
        (lambda: m.cached(np.zeros(9999).reshape(99, 101)), TypeError),
    ):
        with pytest.raises(error) as caught:
            call()
        assert len(str(caught.value)) < 280 and "…" in str(caught.value) and str(caught.value).isprintable()


# -- plan ----------------------------------------------------------------------------------------------------------


def plan(folder: Path, capsys: Any, status: int = 0) -> List[str]:
    assert __main__.main(["plan", str(folder)]) == status
    return str(capsys.readouterr().out).splitlines()


def test_plan_names_the_files_that_can_not_be_loaded(folder: Path, capsys: Any) -> None:
    assert not any("can't" in line for line in plan(folder, capsys))
    (folder / "bad.png").write_bytes(b"no picture")
    whole = (folder / "000.png").read_bytes()
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])  # its header can be read
    lines = plan(folder, capsys)
    at = lines.index("These files can't be loaded:")
    assert lines[0].endswith("42 images under " + str(folder) + ", 1 of 42 can't be opened")
    assert lines[at + 1].startswith(f"  {folder / 'bad.png'}: UnidentifiedImageError: cannot identify image file")
    assert lines[at + 2].startswith(f"  {folder / 'short.png'}: ") and "says how to leave them out" in lines[at + 3]
    assert len(lines) == at + 4


def test_plan_does_not_round_to_nothing(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__.system, "available_memory", lambda: 1000)
    assert any("decoded, less than 1 % of it fits; " in line for line in plan(folder, capsys))


def test_plan_names_ten_and_says_how_many_more(folder: Path, capsys: Any) -> None:
    for i in range(13):
        (folder / f"bad{i:02}.png").write_bytes(b"no picture")
    lines = plan(folder, capsys)
    assert sum(line.startswith("  /") for line in lines) == 10 and "  and 3 more" in lines


def test_plan_of_files_that_are_all_bad_names_them_and_fails(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    lines = plan(tmp_path, capsys, status=1)
    assert lines[0] == f"none of 1 images under {tmp_path} can be opened" and str(tmp_path / "bad.png") in lines[2]


def test_plan_escapes_names(tmp_path: Path, capsys: Any) -> None:
    photo(1, 8, 8).save(tmp_path / "good.png")
    (tmp_path / "bad\x1b[2J\n.png").write_bytes(b"no picture")
    assert all(line.isprintable() for line in plan(tmp_path, capsys))


def test_stock_lists_have_no_verbs_of_ours_for_nothing(folder: Path) -> None:
    ll = ImageList.from_folder(folder).split_none().label_from_func(lambda path: 0)
    with pytest.raises(TypeError, match="this LabelLists holds no in-memory list: please build it with"):
        ll.load_data()


@pytest.mark.parametrize("name", ["MemoryImageBlock", "MemoryMaskBlock"])
def test_names_of_fastai_2_are_not_to_be_installed_here(name: str) -> None:
    with pytest.raises(ImportError, match=rf"{name} needs fastai 2, .*another one, .* pip install '\.\[fastai2\]'$"):
        getattr(m, name)
