"""`cache_file`: made, shared, left, damaged and opened again."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import random
import signal
import socket
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import PIL.Image
import pytest
from conftest import Opens, assert_same_bunches, assert_same_item, epoch, in_child, many, photo
from fastai.basic_data import load_data
from fastai.vision import ImageList
from memlist.store.region import PAGE

import memlist as m
from memlist import CacheFileError, ImageStore, __main__
from memlist.store import cachefile, region, store, system


def picture(i: int) -> np.ndarray:
    return np.full((20 + i % 7, 30, 3), i % 251, np.uint8)


def filled(path: Path, n: int = 60) -> ImageStore:
    images = ImageStore(cache_file=path)
    for i in range(n):
        assert images.put(b"%d" % i, picture(i), tag=i)
    return images


def right(images: ImageStore, n: int = 60) -> int:
    "How many of `filled`'s records are there; all of them right."
    found = 0
    for i in range(n):
        record = images.get(b"%d" % i)
        if record is not None:
            assert record.tag == i and record.array.shape == picture(i).shape and (record.array == i % 251).all()
            found += 1
    return found


def bunch(folder: Path, cls: Any = m.MemoryImageList, workers: int = 0, **kwargs: Any) -> Any:
    lists = cls.from_folder(folder, presort=True, **kwargs).split_by_idx([1, 4]).label_from_folder()
    return lists.transform(size=16).databunch(bs=4, num_workers=workers, no_check=True)


# -- sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_the_next_session_starts_warm(photos: Path, tmp_path: Path, opens: Opens, workers: int) -> None:
    file = tmp_path / "photos.cache"

    def session() -> None:
        assert_same_bunches(bunch(photos, cache_file=file, workers=workers), bunch(photos, ImageList))

    assert in_child(session) == 0  # lazily, in the main process or in workers
    data = bunch(photos, cache_file=file, workers=workers)
    data.train_ds.x.load_data(progress=False)  # what a dropped batch left out
    opens.take()
    assert data.loaded and data.cache_info()[:2] == (24, 24) and data.cache_info().misses == 0
    for _ in range(2):
        epoch(data)
    assert not opens.take() and data.cache_info().misses == 0
    assert_same_bunches(data, bunch(photos, ImageList))


def test_lists_that_name_no_file_join_the_one_that_their_path_has(photos: Path, tmp_path: Path) -> None:
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


def test_one_file_by_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = filled(tmp_path / "cache")
    os.symlink(tmp_path / "cache", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("cache", "./cache", "link", str(tmp_path / "cache"), tmp_path / "cache", "~/cache"):
        assert ImageStore(cache_file=name) is images
    assert ImageStore("1MB", cache_file="cache") is images and images.rule == 1_000_000


def test_counts_and_warnings_are_a_sessions_and_the_budget_is_not_kept(tmp_path: Path) -> None:
    images = ImageStore("2MB", cache_file=tmp_path / "cache")
    images.count(True)
    assert images.note(b"full") and not images.note(b"full")
    del images
    images = ImageStore(cache_file=tmp_path / "cache")
    assert images.info()[3:] == (0, 0) and images.rule is None and not images.noted(b"full")
    assert 0 < images.info().max_ram <= os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize


def test_a_bunch_that_was_saved_finds_its_file_again(photos: Path, tmp_path: Path) -> None:
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
    with pytest.warns(UserWarning, match="Make its folder first.*kept in memory instead"):
        again = load_data(tmp_path, "data.pkl")
    assert again.train_ds.x.store.cache_file is None and again.load_data(progress=False).loaded


# -- what is looked at ------------------------------------------------------------------------------------------


class Looks:
    "Counts the looks at sources and at pixels."

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sums, self.stats = 0, 0
        fault = ImageStore._fault

        def counting(*args: Any) -> str:
            self.sums += 1
            return fault(*args)

        monkeypatch.setattr(ImageStore, "_fault", counting)


def test_a_record_is_looked_at_once_in_a_session(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert looks.sums == 14  # what a child has looked at needs no look of its parent
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
def test_a_source_that_changed_between_sessions(photos: Path, tmp_path: Path, how: str, load: bool) -> None:
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


def test_pixels_that_rot_are_decoded_again(photos: Path, tmp_path: Path) -> None:
    make = lambda cls, **kw: cls.from_folder(photos, presort=True, **kw)  # noqa: E731
    il = make(m.MemoryImageList, cache_file=tmp_path / "cache").load_data(progress=False)
    offset = il.store._find(store._digest(next(iter(il.jobs())).keys[0]))[0] + store.BLOCK.size + 100
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


def test_items_that_are_no_files_and_opens_of_ones_own(tmp_path: Path) -> None:
    class Numbers(ImageList):
        def open(self, fn: Any) -> Any:
            return m.lists.Image(m.lists.torch.full((3, 4, 5), float(fn) / 255))

    class MemoryNumbers(m.InMemory, Numbers):
        cache_version = "1"

    for misses in (5, 0):
        il = MemoryNumbers([1, 2, 3, 4, 5], path=tmp_path, cache_file=tmp_path / "cache")
        for i in range(5):
            assert_same_item(il[i], Numbers([1, 2, 3, 4, 5])[i])
        assert il.cache_info().misses == misses and il.load_data(progress=False).loaded
        del il
        gc.collect()


def test_check_names_what_is_wrong_and_fix_drops_it(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    il = m.MemoryImageList(files, path=photos, cache_file=tmp_path / "cache").load_data(progress=False)
    images = il.store
    assert images.check() == [] and set(images.sources()) == {str(f) for f in files}
    change(files[0], "replaced")
    change(files[1], "deleted")
    keys = [job.keys[0] for job in il.jobs()]
    offset = images._find(store._digest(keys[2]))[0]
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
    offset = images._find(store._digest(keys[5]))[0]
    segment, at = images._region.locate(offset)
    images._region.maps[segment][at + 9] ^= 1  # in a header: what lies behind it is found all the same
    images._head[store.RECORDS] -= 1
    found = [problem.what for problem in images.check(fix=True)]
    assert len(found) == 1 and "bytes of the log" in found[0]
    assert images.check() == [] and len(images) == 20
    images._head[store.NBYTES] += 5
    assert [problem.what for problem in images.check(fix=True)] == ["the counts in its header are wrong"]
    assert images.check() == []
    stock = ImageList(files, path=photos)
    for i in [0, *range(2, 24)]:
        assert_same_item(il[i], stock[i])


# -- files that can't be used -----------------------------------------------------------------------------------


def rewritten(path: Path, **words: int) -> None:
    page = np.frombuffer(path.read_bytes()[:PAGE], np.uint64).copy()
    for name, value in words.items():
        page[getattr(cachefile, name)] = value
    if "CHECKSUM" not in words:
        page[cachefile.CHECKSUM] = cachefile._checksum(dict(enumerate(page.tolist())))
    with open(path, "r+b") as file:
        file.write(page.tobytes())


def foreign(path: Path, what: str) -> None:
    if what == "directory":
        path.mkdir()
    elif what == "picture":
        photo(1).save(path, "PNG")
    elif what == "zeros":
        path.write_bytes(bytes(10 * PAGE))
    elif what == "short":
        path.write_bytes(b"m")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        filled(path)
        gc.collect()
        if what == "cut":
            os.truncate(path, 1000)
        elif what == "version":
            path.write_bytes(b"memlist9" + path.read_bytes()[8:])
        elif what == "order":
            swapped = int.from_bytes(cachefile.BYTE_ORDER.to_bytes(8, "little"), "big")
            rewritten(path, ORDER=swapped)
        elif what == "pages":
            rewritten(path, PAGE_SIZE=65536)
        elif what == "damaged":
            rewritten(path, CHECKSUM=1)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("directory", "Is a directory. Name a file in it"),
        ("picture", "is no memlist cache file, and is left as it is"),
        ("zeros", "is no memlist cache file"),
        ("short", "is no memlist cache file"),
        ("pipe", "is no regular file, and is left as it is"),
        ("socket", "is no regular file, and is left as it is"),
        ("cut", "is cut off within its header. It is only a cache: delete it"),
        ("version", "has format '9'; this memlist reads and writes '1'"),
        ("order", "the other byte order"),
        ("pages", "pages of 65536 bytes"),
        ("damaged", "has a damaged header"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_left(tmp_path: Path, photos: Path, what: str, says: str) -> None:
    path = tmp_path / "cache"
    foreign(path, what)
    before = path.read_bytes() if path.is_file() else b""
    there = set(os.listdir(tmp_path))
    for _ in range(2):
        with pytest.raises(CacheFileError) as error:
            m.MemoryImageList.from_folder(photos, cache_file=path)
        assert says in str(error.value) and repr(str(path)) in str(error.value)
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert not path.is_file() or path.read_bytes() == before
    assert path.is_file() or path.is_dir() or path.is_fifo() or path.is_socket()
    assert set(os.listdir(tmp_path)) == there


@pytest.mark.parametrize("value", [5, True, 1.5, b"bytes"])
def test_what_is_no_path(photos: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=f"cache_file={value!r} is a {type(value).__name__}: use the path"):
        m.MemoryImageList.from_folder(photos, cache_file=value)
    with pytest.raises(CacheFileError, match="cache_file='' names no file"):
        m.MemoryImageList.from_folder(photos, cache_file="")


def test_a_small_cache_takes_little_disk(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    assert images.allocated() <= (1 << 20) + 4 * PAGE and images.info().nbytes > 100_000
    for i in range(100):
        images.put(b"more %d" % i, np.zeros(100_000, np.uint8))
    assert images.allocated() <= 2 * images.info().nbytes


def test_a_folder_that_is_not_there_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(CacheFileError, match="Make its folder first"):
        ImageStore(cache_file=tmp_path / "no" / "cache")
    (tmp_path / "empty").touch()
    assert ImageStore(cache_file=tmp_path / "empty").put(b"a", picture(1))


def test_nothing_is_unpickled(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "c", after_open=lambda im: im).load_data(progress=False)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    il = m.MemoryImageList.from_folder(photos, cache_file=tmp_path / "c", after_open=lambda im: im)
    assert il[3].shape and il.cache_info().misses == 0 and il.store.check() == []


# -- damage -----------------------------------------------------------------------------------------------------


def test_a_file_cut_off_anywhere_serves_what_is_whole(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole")
    end = whole._head[store.TAIL]
    del whole
    data = (tmp_path / "whole").read_bytes()
    counts = []
    for size in [*range(PAGE, end, 8111), end - 1, end, len(data) - 1, len(data)]:
        path = tmp_path / "cut"
        path.write_bytes(data[:size])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images = ImageStore(cache_file=path)
        counts.append(right(images))
        if counts[-1] < 60:
            assert f"was cut off or damaged: {len(images)} records" in str(caught[0].message)
        assert images.check() == [] and images.put(b"new", picture(3)) and images.get(b"new") is not None
        del images
        path.unlink()
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 60


@pytest.mark.parametrize("ordinal", [(1 << 63) + 5, (1 << 64) - 1])
def test_a_number_of_records_beyond_all_counting(tmp_path: Path, ordinal: int) -> None:
    path = tmp_path / "cache"
    images = ImageStore(cache_file=path)
    assert images.put(b"old", picture(3))
    del images
    with open(path, "r+b") as file:
        file.seek(8 * store.ORDINAL)
        file.write(ordinal.to_bytes(8, sys.byteorder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ImageStore(cache_file=path)
    assert images.put(b"new", picture(9)) and images.put(b"newer", picture(5))
    for key, fill in ((b"old", 3), (b"new", 9), (b"newer", 5)):
        assert (images.get(key).array == fill).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("rounds", [60, pytest.param(2000, marks=pytest.mark.full)])
@pytest.mark.parametrize("where", ["header", "state", "index", "records", "anywhere"])
def test_damage_is_an_error_or_a_miss_and_never_a_wrong_pixel(tmp_path: Path, where: str, rounds: int) -> None:
    whole = filled(tmp_path / "whole", 460)  # the index has been outgrown once
    assert whole.put(b"0", picture(0), tag=0, replace=True)
    tail, index = whole._head[store.TAIL], (whole._head[store.INDEX] >> 8 << 4) + store.BLOCK.size
    del whole
    data = (tmp_path / "whole").read_bytes()[: tail + 2 * PAGE]
    draw, refused, counts = random.Random(where), 0, []
    path = tmp_path / "cache"
    span = {
        "header": (0, PAGE),
        "state": (8 * store.BUSY, 8 * store.ENDS + 16),
        "index": (index, index + 8192),
        "records": (PAGE, tail),
        "anywhere": (0, len(data)),
    }[where]
    for _ in range(rounds):
        bad = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 20])):
            at, how = draw.randrange(*span), draw.randrange(4)
            length = draw.choice([1, 4, 8, 8, 100])
            if how == 0:
                bad[at] ^= 1 << draw.randrange(8)
            elif how == 1:
                bad[at : at + length] = bytes(length)
            elif how == 2:
                bad[at : at + length] = draw.getrandbits(8 * length).to_bytes(length, "little")
            else:
                number = draw.choice([0, 1, 16, PAGE, tail, 1 << 32, (1 << 64) - 1, draw.getrandbits(64)])
                bad[at // 8 * 8 : at // 8 * 8 + 8] = number.to_bytes(8, "little")
        if where == "state":  # somebody who knows the format: the checksum is right
            bad[8 * store.STATE : 8 * store.STATE + 8] = store._state(bytes(bad[:PAGE])).to_bytes(8, sys.byteorder)
        del bad[len(data) :]
        path.write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                images = ImageStore(cache_file=path)
            except CacheFileError:
                refused += 1
                continue
        counts.append(right(images, 460))
        assert images.put(b"new", picture(9)) and (images.get(b"new").array == 9).all()  # type: ignore[union-attr]
        images.check(fix=True)
        assert images.check() == []
        right(images, 460)
        images.purge(file=True)
        assert images.put(b"0", picture(0)) and len(images) == 1
        del images
        path.unlink()
    assert refused + len(counts) == rounds and (where == "header") <= (refused > 0)
    assert sum(counts) > 300 * len(counts)  # damage costs what it touches


def test_headers_of_somebody_who_knows_the_format(tmp_path: Path) -> None:
    "Lengths, shapes and dtypes that lie, under right checksums."
    whole = filled(tmp_path / "whole", 20)
    offset = whole._find(store._digest(b"7"))[0]  # type: ignore[index]
    block = whole._find(store._digest(b"7"))[1]  # type: ignore[index]
    del whole
    data = (tmp_path / "whole").read_bytes()
    fields: List[Any] = list(store.BLOCK.unpack(block))
    for field, value in [
        (1, 0), (1, 9), (1, store.GAP), (1, store.TABLE), (2, 12), (2, 255), (3, 5), (3, 255), (5, 0), (5, 1 << 62),
        (5, 99), (6, 1 << 31), (6, 0), (7, 1 << 20), (9, 7), (10, 5), (12, (1 << 32) - 1), (14, 5),
    ]:  # fmt: skip
        lying = store.BLOCK.pack(*fields[:field], value, *fields[field + 1 :])[:-4]
        lying += zlib.crc32(lying).to_bytes(4, "little")
        path = tmp_path / "cache"
        path.write_bytes(data[:offset] + lying + data[offset + store.BLOCK.size :])
        for busy in (False, True):
            if busy:
                with open(path, "r+b") as file:
                    file.seek(8 * store.BUSY)
                    file.write(struct.pack("=Q", 1))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                images = ImageStore(cache_file=path)
            assert right(images, 7) == 7
            record = images.get(b"7")
            if record is not None:  # a shape that the same bytes have as well can't be told from the right one
                assert record.array.nbytes <= picture(7).nbytes + 200
            images.check(fix=True)
            assert images.check() == []
            assert images.put(b"7", picture(8), replace=True) and (images.get(b"7").array == 8).all()  # type: ignore[union-attr]
            del images
        path.unlink()


def test_records_that_make_no_image_are_decoded_again(photos: Path, tmp_path: Path) -> None:
    "Somebody who knows the format has written them: checksums are right, and the pixels of no picture."
    make = lambda cls, **kw: cls.from_folder(photos, presort=True, after_open=lambda im: im, **kw)  # noqa: E731
    il = make(m.MemoryImageList, cache_file=tmp_path / "cache").load_data(progress=False)
    for i, job in enumerate(il.jobs()):
        wrong = [np.zeros((2, 3), np.uint8), np.zeros((0,), np.uint8), np.zeros((4, 4, 3), np.float64)][i % 3]
        il.store.put(job.keys[1], wrong, replace=True)
    del il
    ours, stock = make(m.MemoryImageList, cache_file=tmp_path / "cache"), make(ImageList)
    for _ in range(2):
        for i in range(24):
            assert_same_item(ours[i], stock[i])


# -- several processes ------------------------------------------------------------------------------------------


def at_once(n: int, task: Callable[[int], Any]) -> None:
    "Run `task` in `n` forked processes that begin together."
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(n)

    def run(i: int) -> None:
        barrier.wait()
        task(i)

    processes = [context.Process(target=run, args=(i,)) for i in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_many_who_open_a_new_file_at_once_agree(tmp_path: Path) -> None:
    for round_ in range(5):
        path = tmp_path / f"cache{round_}"

        def task(i: int, path: Path = path) -> None:
            images = ImageStore(cache_file=path)
            for j in range(50):
                assert images.put(b"%d %d" % (i, j), picture(i))
                assert images.put(b"%d" % j, picture(j), tag=j)

        at_once(6, task)
        images = ImageStore(cache_file=path)
        assert len(images) == 350 and images.check() == [] and right(images, 50) == 50


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


def test_a_damaged_file_in_use_is_not_mended_under_its_users(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    images._head[store.STATE] ^= 1

    def child() -> None:
        store._STORES.clear()  # as a process that was not forked
        with pytest.raises(CacheFileError, match="damaged while other processes use it"):
            ImageStore(cache_file=tmp_path / "cache")

    assert in_child(child) == 0
    assert right(images) == 60


def test_a_writer_that_is_killed_beside_others_keeps_nobody_out(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")

    def killed() -> None:
        with images._held():
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL and images._head[store.BUSY]

    def newcomer() -> None:
        store._STORES.clear()  # as a process that was not forked
        again = ImageStore(cache_file=tmp_path / "cache")
        assert again is not images and right(again) == 60 and again.put(b"new", picture(1))

    assert in_child(newcomer) == 0
    assert right(images) == 60 and images.get(b"new") is not None and images.check() == []


def test_the_budget_bounds_the_file_itself(tmp_path: Path) -> None:
    images = ImageStore("5MB", cache_file=tmp_path / "cache")
    while images.put(b"%d" % len(images), np.zeros(100_000, np.uint8)):
        assert images.allocated() <= 5_000_000 + 4 * PAGE
    assert 40 <= len(images) <= 50


def test_a_cache_file_that_is_deleted_under_its_users(photos: Path, tmp_path: Path) -> None:
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
    assert first.load_data(progress=False).loaded  # with what room the disk has, wherever the file went


# -- memory and the command -------------------------------------------------------------------------------------


def test_purge_returns_the_memory_and_keeps_the_file(tmp_path: Path, opens: Opens) -> None:
    if system.is_memory(str(tmp_path)):
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
    data.purge()  # with workers at it
    opens.take()
    assert len(list(batches)) > 5 and not opens.take() and data.cache_info().misses == misses
    assert_same_bunches(data, bunch(folder, ImageList))
    assert data.purge(file=True) == nbytes and data.cache_info()[:2] == (0, 60)
    assert images.allocated() <= 2 * PAGE
    assert_same_bunches(data, bunch(folder, ImageList))
    del data, images
    gc.collect()
    assert m.MemoryImageList.from_folder(folder, cache_file=tmp_path / "cache").cache_info().cached >= 50


def test_a_file_that_was_emptied_shrinks_when_it_is_next_opened(tmp_path: Path) -> None:
    filled(tmp_path / "cache").purge(file=True)
    images = ImageStore(cache_file=tmp_path / "cache")
    assert os.path.getsize(tmp_path / "cache") == PAGE and len(images) == 0
    assert images.put(b"a", picture(1)) and images.get(b"a") is not None


def test_the_command(photos: Path, tmp_path: Path, capsys: Any) -> None:
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
    assert "is no memlist cache file" in said("check", str(photos / "cat" / "03.jpg"), status=2)
    (photos / "cat" / "05.jpg").write_text("no picture")
    text = said("plan", str(photos), "--size", "16")
    assert "24 images" in text and "1 of 24 can't be opened" in text
    assert "at full size: 86." in text and "with max_size=16: " in text and text.count("load_data() takes about") == 2
    assert "all of it fits" in text and "available" in text
    assert "is no folder" in said("plan", file, status=2)
    (tmp_path / "nothing").mkdir()
    assert "no images" in said("plan", str(tmp_path / "nothing"), status=1)
    for wrong in (["plan", str(photos), "--size", "0"], ["frobnicate"], []):
        with pytest.raises(SystemExit):
            __main__.main(wrong)


# -- what a review broke ------------------------------------------------------------------------------------------


def test_threads_that_open_one_file_get_one_store(tmp_path: Path) -> None:
    found: List[ImageStore] = []
    barrier = threading.Barrier(6)

    def task() -> None:
        barrier.wait()
        found.append(ImageStore(cache_file=tmp_path / "cache"))

    threads = [threading.Thread(target=task) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(one is found[0] for one in found)


def test_a_full_cache_that_is_mended_keeps_its_records(tmp_path: Path) -> None:
    images = ImageStore("3MB", cache_file=tmp_path / "cache")
    while images.put(b"%d" % len(images), np.full(3000, len(images) % 251, np.uint8)):
        pass
    n = len(images)
    assert n > 800
    images._head[store.BUSY] = 1  # as a killed writer leaves it
    del images
    images = ImageStore("3MB", cache_file=tmp_path / "cache")
    assert len(images) == n and images.check() == []
    assert all((images.get(b"%d" % i).array == i % 251).all() for i in range(n))  # type: ignore[union-attr]


def test_records_that_no_index_has_room_for_wait_for_the_next_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = filled(tmp_path / "cache")
    images._head[store.BUSY] = 1
    del images

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(region.Region, "reserve", full)  # a disk that is full to the last byte
        images = ImageStore(cache_file=tmp_path / "cache")
        assert right(images) == 0 and not images.put(b"new", picture(1))
        del images
    images = ImageStore(cache_file=tmp_path / "cache")
    assert right(images) == 60 and images.check() == []


def test_an_interrupt_while_a_segment_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = filled(tmp_path / "cache", 10)

    class Interrupted(list):  # type: ignore[type-arg]
        def append(self, end: Any) -> None:
            self.append = super().append  # type: ignore[method-assign]
            raise KeyboardInterrupt

    images._region.ends = Interrupted(images._region.ends)
    with pytest.raises(KeyboardInterrupt):
        images.put(b"large", np.zeros(2_000_000, np.uint8))
    for i in range(10, 60):
        assert images.put(b"%d" % i, picture(i), tag=i)
    assert images.put(b"large", np.full(2_000_000, 5, np.uint8))
    assert right(images) == 60 and (images.get(b"large").array == 5).all()  # type: ignore[union-attr]


def test_a_lock_file_that_is_deleted_keeps_newcomers_out(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    (tmp_path / "cache.lock").unlink()

    def newcomer() -> None:
        store._STORES.clear()
        with pytest.raises(CacheFileError, match="in use under another lock file"):
            ImageStore(cache_file=tmp_path / "cache")

    assert in_child(newcomer) == 0 and right(images) == 60
    del images
    assert right(ImageStore(cache_file=tmp_path / "cache")) == 60  # nobody uses it any more


def test_of_two_records_of_a_key_the_later_written_counts(tmp_path: Path) -> None:
    "Wherever they lie: a purge that was killed may leave an old one behind its successor."
    images = ImageStore(cache_file=tmp_path / "cache")
    images.put(b"first", np.zeros(1_000, np.uint8))
    images.put(b"k", np.full(1000, 1, np.uint8))
    images._head[store.INDEX], images._head[store.TAIL] = 0, PAGE
    images._head[store.GENERATION] += store.PURGE
    images._head[store.RECORDS] = images._head[store.NBYTES] = images._head[store.SLOTS] = 0
    images.put(b"k", np.full(100, 2, np.uint8))
    images._head[store.BUSY] = 1
    del images
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ImageStore(cache_file=tmp_path / "cache")
    assert (images.get(b"k").array == 2).all()  # type: ignore[union-attr]


def test_who_waits_for_a_claim_does_so_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = filled(tmp_path / "cache", 1)
    out, into = os.pipe()
    pid = os.fork()
    if not pid:
        with images.claimed(b"k") as mine:
            os.write(into, b"1" if mine else b"0")
            signal.pause()
    assert os.read(out, 1) == b"1"
    monkeypatch.setattr(region, "MOST_PATIENCE", 0.05)
    with images.claimed(b"k") as mine:
        assert not mine
    with images.claimed(b"k", wait=True) as mine:
        assert not mine
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with images.claimed(b"k", wait=True) as mine:
        assert mine
