"""Lists with a `cache_file`: sessions, sources that change, damage, several processes, and the command."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any, List

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Opens, assert_same_bunches, assert_same_item, epoch, in_child, many, photo
from fastai.basic_data import load_data
from fastai.vision import Image, ImageList
from stores import at_once, picture

import memlist as m
from memlist import CacheFileError, __main__
from memlist.cache import Job
from memlist.fastai1.work import works_of
from memlist.store import layout, mounts, trust
from memlist.store.system import PAGE


def bunch(folder: Path, cls: Any = m.MemoryImageList, workers: int = 0, **kwargs: Any) -> Any:
    lists = cls.from_folder(folder, presort=True, **kwargs).split_by_idx([1, 4]).label_from_folder()
    return lists.transform(size=16).databunch(bs=4, num_workers=workers, no_check=True)


def jobs(il: Any) -> List[Job]:
    return list(works_of([il])[0].jobs())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_session_starts_warm(photos: Path, tmp_path: Path, opens: Opens, workers: int) -> None:
    file = tmp_path / "photos.cache"

    def session() -> None:
        assert_same_bunches(bunch(photos, cache_file=file, workers=workers), bunch(photos, ImageList))

    assert in_child(session) == 0  # lazily, in the main process or in workers
    data = bunch(photos, cache_file=file, workers=workers)
    data.train_ds.x.load_data(progress=False)  # images of a dropped batch
    opens.take()
    assert data.loaded and data.cache_info()[:2] == (24, 24) and data.cache_info().misses == 0
    for _ in range(2):
        epoch(data)
    assert not opens.take() and data.cache_info().misses == 0
    assert_same_bunches(data, bunch(photos, ImageList))


def test_lists_without_a_file_use_that_of_their_path(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.cache"
    first = m.MemoryImageList.from_folder(photos, cache_file=file)
    assert m.MemoryImageList.from_folder(photos).store is first.store
    assert m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "b.cache").store is not first.store
    other = m.MemoryImageList.from_folder(photos / "cat", cache_file=file)
    assert other.store is first.store and m.MemoryImageList.from_folder(photos / "cat").store is first.store
    data = first.split_none().label_from_func(lambda f: f, label_cls=m.MemoryImageLabelList).databunch(bs=2)
    assert data.train_ds.y.store is first.store and data.train_ds.x[:3].store is first.store
    bunched = m.MemoryImageDataBunch.from_folder(photos, valid_pct=0.2, size=8, bs=2, cache_file=file, max_ram="1GB")
    assert bunched.train_ds.x.store is first.store and first.store.rule == 1_000_000_000


def test_a_saved_data_bunch_finds_its_cache_file(photos: Path, tmp_path: Path) -> None:
    data = bunch(photos, cache_file=tmp_path / "cache").load_data(progress=False)
    data.save(tmp_path / "data.pkl")
    data.train_ds.x.store.put(b"mark", picture(1))
    again = load_data(tmp_path, "data.pkl")
    assert again.train_ds.x.store is data.train_ds.x.store
    del data, again
    gc.collect()
    again = load_data(tmp_path, "data.pkl")
    assert b"mark" in again.train_ds.x.store and again.loaded
    assert again.train_ds.x.store.cache_file == str(tmp_path / "cache")
    del again
    gc.collect()
    text = (tmp_path / "data.pkl").read_bytes().replace(b"/cache", b"/c/che")
    (tmp_path / "data.pkl").write_bytes(text)
    with pytest.warns(UserWarning, match="Make its folder first.*kept in memory instead") as caught:
        again = load_data(tmp_path, "data.pkl")
    assert __file__ in [one.filename for one in caught if "kept in memory instead" in str(one.message)]
    assert again.train_ds.x.store.cache_file is None and again.load_data(progress=False).loaded


class Looks:
    "Count how often records are verified."

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums, self.stats = 0, 0
        fault = trust.FileTrust.fault

        def counting(*args: Any) -> str:
            self.sums += 1
            return fault(*args)

        monkeypatch.setattr(trust.FileTrust, "fault", counting)


def test_a_record_is_verified_once_per_session(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    il = m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "cache").load_data(progress=False)
    looks = Looks(monkeypatch)
    for i in range(24):
        il[i]
    assert looks.sums == 0  # it was written in this session
    del il
    il = m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "cache")
    for _ in range(3):
        for i in range(10):
            il[i]
    assert looks.sums == 10

    def child() -> None:
        for i in range(20):
            il[i]
        assert looks.sums == 20

    assert in_child(child) == 0
    for i in range(24):
        il[i]
    assert looks.sums == 14  # records that a child has verified are not verified again
    il.load_data(progress=False)
    assert looks.sums == 14


def change(file: Path, how: str) -> None:
    if how == "replaced":
        photo(77, 35, 45).save(file)
    elif how == "touched":
        os.utime(file, ns=(5, 5))
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    else:
        file.unlink()


@pytest.mark.parametrize("how", ["replaced", "touched", "truncated", "deleted"])
@pytest.mark.parametrize("load", [False, True])
def test_a_changed_source_is_opened_again_in_a_new_session(photos: Path, tmp_path: Path, how: str, load: bool) -> None:
    files = sorted(photos.rglob("*.jpg"))
    make = lambda cls, **kw: cls(files, path=photos, **kw)  # noqa: E731
    make(m.MemoryImageList, cache_file=tmp_path / "cache").load_data(progress=False)
    change(files[3], how)
    ours, stock = make(m.MemoryImageList, cache_file=tmp_path / "cache"), make(ImageList)
    bad = how in ("truncated", "deleted")
    if load and bad:
        with pytest.raises(m.ImageLoadError, match=f"1 image could not be loaded:\n.*{files[3].name}"):
            ours.load_data(progress=False)
    elif load:
        ours.load_data(progress=False)
        assert ours.cache_info()[0] == 24
    for i in range(24):
        if bad and i == 3:
            with pytest.raises(Exception) as want:
                stock[3]
            for _ in range(2):
                with pytest.raises(type(want.value)):
                    ours[3]
        else:
            assert_same_item(ours[i], stock[i])
    assert ours.cache_info().misses == (0 if load and not bad else 1 if not bad else 2)
    assert ours.store.check() == []


def test_corrupted_pixels_are_decoded_again(photos: Path, tmp_path: Path) -> None:
    make = lambda cls, **kw: cls.from_folder(photos, presort=True, **kw)  # noqa: E731
    il = make(m.MemoryImageList, cache_file=tmp_path / "cache").load_data(progress=False)
    offset = il.store._index.find(layout.digest_of(jobs(il)[0].keys[0]))[0] + layout.BLOCK_BYTES + 100
    del il
    with open(tmp_path / "cache", "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
    ours, stock = make(m.MemoryImageList, cache_file=tmp_path / "cache"), make(ImageList)
    for i in range(24):
        assert_same_item(ours[i], stock[i])
    assert ours.cache_info().misses == 1 and ours.store.check() == []


def test_results_of_a_custom_open_are_kept_for_items_that_are_no_files(tmp_path: Path) -> None:
    class Numbers(ImageList):
        def open(self, fn: Any) -> Any:
            return Image(torch.full((3, 4, 5), float(fn) / 255))

    class MemoryNumbers(m.InMemory, Numbers):
        cache_version = "1"

    for misses in (5, 0):
        il = MemoryNumbers([1, 2, 3, 4, 5], path=tmp_path, cache_file=tmp_path / "cache")
        for i in range(5):
            assert_same_item(il[i], Numbers([1, 2, 3, 4, 5])[i])
        assert il.cache_info().misses == misses and il.load_data(progress=False).loaded
        del il
        gc.collect()


@pytest.mark.parametrize("changed", [0, 1])
def test_items_of_a_custom_open_that_name_several_files(photos: Path, tmp_path: Path, changed: int) -> None:
    class Pairs(ImageList):
        def open(self, fn: Any) -> Any:
            return Image(sum(torch.from_numpy(np.array(PIL.Image.open(one).resize((8, 8)))).float() for one in fn))

    class MemoryPairs(m.InMemory, Pairs):
        cache_version = "1"

    files = sorted(photos.rglob("*.jpg"))[:2]
    items = [(str(files[0]), files[1])]
    for file in (None, tmp_path / "cache"):
        il = MemoryPairs(items, path=tmp_path, cache_file=file)
        assert_same_item(il[0], Pairs(items)[0])
        photo(77 + changed, 35, 45).save(files[changed])
        os.utime(files[changed], ns=(5, 5))
        assert_same_item(MemoryPairs(items, path=tmp_path, cache_file=file)[0], Pairs(items)[0])
        photo(80 + changed, 35, 45).save(files[changed])
        assert_same_item(il.load_data(progress=False)[0], Pairs(items)[0])


def test_check_names_what_is_wrong_and_fix_drops_it(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    il = m.MemoryImageList(files, path=photos, cache_file=tmp_path / "cache").load_data(progress=False)
    images = il.store
    assert images.check() == [] and set(images.sources()) == {str(f) for f in files}
    change(files[0], "replaced")
    change(files[1], "deleted")
    keys = [job.keys[0] for job in jobs(il)]
    offset = images._index.find(layout.digest_of(keys[2]))[0]
    segment, at = images._region.locate(offset)
    images._region.maps[segment][at + 200] ^= 1
    found = {Path(problem.path).name: problem.what for problem in images.check()}
    assert found == {
        files[0].name: "its source has changed",
        files[1].name: "its source is gone",
        files[2].name: "its pixels are not those that were written",
    }
    assert len(images) == 24 and len(images.check(fix=True)) == 3
    assert images.check() == [] and len(images) == 21
    offset = images._index.find(layout.digest_of(keys[5]))[0]
    segment, at = images._region.locate(offset)
    images._region.maps[segment][at + 9] ^= 1  # in a header: records after it are still found
    images._header.records -= 1
    found = [problem.what for problem in images.check(fix=True)]
    assert len(found) == 1 and "bytes of the cache file" in found[0]
    assert images.check() == [] and len(images) == 20
    images._header.nbytes += 5
    assert [problem.what for problem in images.check(fix=True)] == ["the counts in its header are wrong"]
    assert images.check() == []
    stock = ImageList(files, path=photos)
    for i in [0, *range(2, 24)]:
        assert_same_item(il[i], stock[i])


def test_a_file_that_cannot_be_used_is_named_when_the_list_is_built(tmp_path: Path, photos: Path) -> None:
    photo(1).save(tmp_path / "cache", "PNG")
    before, there = (tmp_path / "cache").read_bytes(), set(os.listdir(tmp_path))
    for path, says in ((tmp_path / "cache", "is not a memlist cache file"), (tmp_path, "Name a file in it")):
        with pytest.raises(CacheFileError, match=says):
            m.MemoryImageList.from_folder(photos, cache_file=path)
    assert (tmp_path / "cache").read_bytes() == before and set(os.listdir(tmp_path)) == there
    with pytest.raises(TypeError, match="cache_file=5 is a int: use the path"):
        m.MemoryImageList.from_folder(photos, cache_file=5)


def test_nothing_is_unpickled(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "c", after_open=lambda im: im).load_data(progress=False)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    il = m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "c", after_open=lambda im: im)
    assert il[3].shape and il.cache_info().misses == 0 and il.store.check() == []


def test_records_that_make_no_image_are_decoded_again(photos: Path, tmp_path: Path) -> None:
    "Records may have correct checksums and still hold no picture's pixels."
    make = lambda cls, **kw: cls.from_folder(photos, presort=True, after_open=lambda im: im, **kw)  # noqa: E731
    il = make(m.MemoryImageList, cache_file=tmp_path / "cache").load_data(progress=False)
    for i, job in enumerate(jobs(il)):
        wrong = [np.zeros((2, 3), np.uint8), np.zeros((0,), np.uint8), np.zeros((4, 4, 3), np.float64)][i % 3]
        il.store.put(job.keys[1], wrong, replace=True)
    del il
    ours, stock = make(m.MemoryImageList, cache_file=tmp_path / "cache"), make(ImageList)
    for _ in range(2):
        for i in range(24):
            assert_same_item(ours[i], stock[i])


def test_processes_that_load_one_file_share_the_work(tmp_path: Path) -> None:
    folder, log = many(tmp_path / "many", 120), os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    stock = PIL.Image.Image.load

    def task(i: int) -> None:
        il = m.MemoryImageList.from_folder(folder, presort=True, cache_file=tmp_path / "cache")

        def logging(self: Any) -> Any:
            if getattr(self, "tile", None):
                os.write(log, b"%s\n" % os.fsencode(self.filename))
            return stock(self)

        type(PIL.Image.open(il.items[0])).load = logging
        PIL.ImageFile.ImageFile.load = PIL.ImageFile.ImageFile.load
        il.load_data(progress=False, n_workers=2)
        assert il.loaded and il.cache_info()[:2] == (120, 120)

    stock = PIL.ImageFile.ImageFile.load
    at_once(3, task)
    decoded = (tmp_path / "log").read_text().split()
    assert len(set(decoded)) == 120 and len(decoded) == 120
    ours, theirs = (c.from_folder(folder, presort=True, **k) for c, k in (
        (m.MemoryImageList, {"cache_file": tmp_path / "cache"}), (ImageList, {})))  # fmt: skip
    for i in range(120):
        assert_same_item(ours[i], theirs[i])
    assert ours.cache_info().misses == 0


def test_a_cache_file_may_be_deleted_while_in_use(photos: Path, tmp_path: Path) -> None:
    first = m.MemoryImageList.from_folder(photos, presort=True, cache_file=tmp_path / "cache").load_data(progress=False)
    (tmp_path / "cache").unlink()
    second = m.MemoryImageList.from_folder(photos, presort=True, cache_file=tmp_path / "cache")
    assert second.store is not first.store and len(second.store) == 0
    stock = ImageList.from_folder(photos, presort=True)
    for i in range(24):
        assert_same_item(first[i], stock[i])
        assert_same_item(second[i], stock[i])
    assert first.cache_info()[:2] == (24, 24) and first.cache_info().misses == 0
    assert second.cache_info().misses == 24
    first.purge(file=True)
    assert first.load_data(progress=False).loaded  # the deleted file is still filled


def test_purge_returns_the_memory_and_keeps_the_file(tmp_path: Path, opens: Opens) -> None:
    if mounts.is_memory(str(tmp_path)):
        pytest.skip("a file on tmpfs is memory")
    folder = many(tmp_path / "many", 60, 300)
    data = bunch(folder, cache_file=tmp_path / "cache", workers=2).load_data(progress=False)
    nbytes, images = 60 * 300 * 300 * 3, data.train_ds.x.store
    assert images.resident() >= nbytes
    freed = data.purge()
    assert freed >= 0.9 * nbytes and images.resident() <= 0.1 * nbytes and data.loaded
    batches = iter(data.train_dl)
    next(batches)
    misses = data.cache_info().misses
    data.purge()  # while workers are reading
    opens.take()
    assert len(list(batches)) > 5 and not opens.take() and data.cache_info().misses == misses
    assert_same_bunches(data, bunch(folder, ImageList))
    assert data.purge(file=True) == nbytes and data.cache_info()[:2] == (0, 60)
    assert images.allocated() <= 2 * PAGE
    assert_same_bunches(data, bunch(folder, ImageList))
    del data, images
    gc.collect()
    assert m.MemoryImageList.from_folder(folder, cache_file=tmp_path / "cache").cache_info().cached >= 50


def test_the_command_runs_its_subcommands_and_reports_errors(photos: Path, tmp_path: Path, capsys: Any) -> None:
    file = str(tmp_path / "cache")
    m.MemoryImageList.from_folder(photos, cache_file=file).load_data(progress=False)

    def said(*arguments: str, status: int = 0) -> str:
        assert __main__.main(arguments) == status
        printed = capsys.readouterr()
        return str(printed.out + printed.err)

    capsys.readouterr()
    text = said("info", file)
    assert "24 records" in text and str(photos) in text and "on disk" in text and "in memory now" in text
    assert "24 records, nothing is wrong" in said("check", file)
    change(photos / "cat" / "01.jpg", "replaced")
    assert "01.jpg: its source has changed" in said("check", file, status=1)
    assert "1 problem" in said("check", file, "--fix") and "23 records, nothing" in said("check", file)
    assert "emptied" in said("purge", file) and "0 records" in said("info", file)
    assert "does not exist" in said("info", str(tmp_path / "none"), status=2) and not (tmp_path / "none").exists()
    assert "is not a memlist cache file" in said("check", str(photos / "cat" / "03.jpg"), status=2)
    (photos / "cat" / "05.jpg").write_text("no picture")
    text = said("plan", str(photos), "--size", "16")
    assert "24 images" in text and "1 of 24 can't be opened" in text
    assert "at full size: 86." in text and "with max_size=16: " in text and text.count("load_data() takes about") == 2
    assert "all of it fits" in text and "available" in text
    assert "is not a folder" in said("plan", file, status=2)
    (tmp_path / "nothing").mkdir()
    assert "no images" in said("plan", str(tmp_path / "nothing"), status=1)
    for wrong in (["plan", str(photos), "--size", "0"], ["frobnicate"], []):
        with pytest.raises(SystemExit):
            __main__.main(wrong)
