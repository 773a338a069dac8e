"""`load_data`, `purge` and `cache_info`: workers, budgets, bad files, interrupts and changed sources."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import fresh
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Opens, assert_same_item, epoch, many, photo, seed
from fastai.vision import ImageList, open_image

import memlist as m
from memlist.cache import filling
from memlist.fastai1.decoders import Stock
from memlist.fastai1.work import works_of
from memlist.store.index import Index
from memlist.store.layout import table_bits
from memlist.store.parts import Parts

# -- loading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [0, 1, 3, None])
def test_everything_is_decoded_once(photos: Path, opens: Opens, n_workers: Any, capsys: Any) -> None:
    il = m.MemoryImageList.from_folder(photos)
    assert not il.loaded and il.load_data(n_workers=n_workers) is il and il.loaded
    said = capsys.readouterr().out
    assert "24 images" in said and "may be used" in said
    counts = opens.take()
    assert set(counts) == {str(f) for f in il.items} and max(counts.values()) <= 2  # for the header, and to decode
    il.load_data(n_workers=n_workers)
    assert not opens.take() and capsys.readouterr().out == ""
    for i in range(24):
        il[i]
    info = il.cache_info()
    assert not opens.take() and (info.hits, info.misses) == (24, 0)


def test_random_generators_are_left_alone(photos: Path) -> None:
    il = m.MemoryImageList.from_folder(photos)
    seed(5)
    want = random.random(), np.random.rand(), torch.rand(1).item()
    seed(5)
    il.load_data(progress=False).purge()
    il.load_data(progress=False, n_workers=0)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == want


def test_warning_filters_are_left_alone(photos: Path) -> None:
    "fastai's `open_image` in threads leaves warning filters behind; `load_data` does not."

    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return open_image(fn)

    before = list(warnings.filters)
    Own.from_folder(photos).load_data(progress=False, n_workers=8)
    assert warnings.filters == before


def test_stock_lists_raise_an_error_that_names_ours(photos: Path) -> None:
    lists = ImageList.from_folder(photos).split_none().label_from_folder()
    for call in ("load_data", "purge", "cache_info"):
        for thing in (lists, lists.train, lists.databunch(bs=2, num_workers=0)):
            with pytest.raises(TypeError, match="MemoryImageList"):
                getattr(thing, call)()


def test_labels_that_are_no_images_are_skipped(photos: Path) -> None:
    lists = m.MemoryImageList.from_folder(photos).split_none().label_from_folder()
    assert lists.load_data(progress=False).cache_info()[:2] == (24, 24)


@pytest.mark.parametrize("value", [-1, 1.5, True, "two"])
def test_an_invalid_n_workers_is_refused(photos: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=f"n_workers={value!r}"):
        m.MemoryImageList.from_folder(photos).load_data(n_workers=value)


def test_an_invalid_on_error_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match="on_error='ignore': use 'raise' or 'warn'"):
        m.MemoryImageList.from_folder(photos).load_data(on_error="ignore")


def test_a_changed_file_is_decoded_again(photos: Path) -> None:
    ours, stock = (cls.from_folder(photos, presort=True) for cls in (m.MemoryImageList, ImageList))
    ours.load_data(progress=False)
    changed = stock.items[3]
    photo(99).save(changed)
    os.utime(changed, ns=(1, 1))
    os.remove(stock.items[5])
    ours.load_data(progress=False)
    assert_same_item(ours[3], stock[3])
    assert ours[5].shape and ours.loaded and len(ours.store) == 24  # the image of a deleted file stays cached
    (work,) = works_of([ours])
    assert not any(work.images.changed(job.keys, job.item) for job in work.jobs())


@pytest.mark.parametrize("own", [False, True])
def test_load_data_lists_a_file_that_is_gone(photos: Path, own: bool) -> None:
    "A list built later, and those selected from it, raise what stock raises; a list that is loaded goes on."

    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return open_image(fn)

    cls: Any = Own if own else m.MemoryImageList
    older = cls.from_folder(photos, presort=True).load_data(progress=False)
    ours = cls.from_folder(photos, presort=True)
    gone = ours.items[5]
    os.remove(gone)
    with pytest.raises(m.ImageLoadError, match=rf"1 image could .*\n.*{gone.name}: FileNotFoundError"):
        ours.load_data(progress=False)
    assert not ours.loaded and ours.cache_info()[:2] == (23, 24)
    assert older.load_data(progress=False).loaded and older[5].shape
    train = ours.split_none().label_const(0).train.x
    for il in (ours, train):
        with pytest.raises(FileNotFoundError):
            il[5]
        assert not il.loaded
    assert ours.without([gone]).loaded


def test_lazy_false_fills_only_in_load_data(photos: Path) -> None:
    lists = m.MemoryImageList.from_folder(photos, lazy=False).split_by_idx([0])
    lists = lists.label_from_func(lambda f: f, label_cls=m.MemoryImageLabelList)
    data = lists.transform(size=8, tfm_y=True).databunch(bs=2, num_workers=0)
    assert not any(il.lazy for ds in (data.train_ds, data.valid_ds) for il in (ds.x, ds.y))
    epoch(data)
    assert data.cache_info().cached == 0
    data.load_data(progress=False)
    misses = data.cache_info().misses
    epoch(data)
    assert data.loaded and data.cache_info().misses == misses


def test_more_threads_are_used_if_reading_dominates(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "usable_cpus", lambda: 2)
    monkeypatch.setattr(filling, "TINY", 0)
    used = []
    stock = filling.Fill._parallel
    monkeypatch.setattr(
        filling.Fill, "_parallel", lambda self, jobs, n, beat: (used.append(n), stock(self, jobs, n, beat))
    )
    clock = [0.0, 0.0]
    monkeypatch.setattr(filling.time, "perf_counter", lambda: clock.__setitem__(0, clock[0] + 8.0) or clock[0])
    monkeypatch.setattr(filling.time, "thread_time", lambda: clock.__setitem__(1, clock[1] + 1.0) or clock[1])
    m.MemoryImageList.from_folder(photos).load_data(progress=False)
    monkeypatch.setattr(filling.time, "thread_time", lambda: clock.__setitem__(1, clock[1] + 8.0) or clock[1])
    il = m.MemoryImageList.from_folder(photos)
    il.purge()
    il.load_data(progress=False)
    assert used == [16, 2]


def test_the_calling_thread_decodes_tiny_images(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Decoding them is mostly Python, and threads would only wait for one another."
    monkeypatch.setattr(filling, "MOST_THREADS_PER_CPU", 1)  # as if reading never took long
    monkeypatch.setattr(filling.Fill, "_parallel", None)
    assert m.MemoryImageList.from_folder(photos).load_data(progress=False).loaded


@pytest.mark.parametrize("n_workers", [0, 2])
def test_small_images_are_stored_together(tmp_path: Path, n_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    many(tmp_path, 60)
    stored = []
    put = Parts.put
    monkeypatch.setattr(
        Parts, "put", lambda self, entries, *rest: (stored.append(len(entries)), put(self, entries, *rest))[1]
    )
    il, stock = m.MemoryImageList.from_folder(tmp_path), ImageList.from_folder(tmp_path)
    il.load_data(progress=False, n_workers=n_workers)
    assert sum(stored) == 60 and max(stored) > 3
    for i in range(60):
        assert_same_item(il[i], stock[i])
    assert (il.cache_info().hits, il.cache_info().misses) == (60, 0)


def test_an_image_that_another_process_decodes_is_left_to_it(tmp_path: Path) -> None:
    "Decode the others of a group of small images meanwhile."
    many(tmp_path, 60)
    il = m.MemoryImageList.from_folder(tmp_path)
    work = works_of([il], loading=True)[0]
    jobs = list(work.jobs())
    out, into = os.pipe()
    done, tell = os.pipe()
    pid = os.fork()
    if not pid:
        il.store.claiming(jobs[3].keys[0], lambda mine: (os.write(into, b"1"), os.read(done, 1)))
        os._exit(0)
    assert os.read(out, 1) == b"1"
    outcomes = work.do_many(jobs[:8])
    os.write(tell, b"1")
    os.waitpid(pid, 0)
    assert outcomes == ["kept"] * 3 + ["later"] + ["kept"] * 4
    assert work.do_many(jobs[:5]) == [None] * 3 + ["kept"] + [None]  # what is there is left to `do`


# -- budget -----------------------------------------------------------------------------------------------------


def test_images_that_do_not_fit_are_announced_before_and_once_after(tmp_path: Path, capsys: Any) -> None:
    folder = many(tmp_path / "many", 40)
    il = m.MemoryImageList.from_folder(folder, presort=True, max_ram="600kB")  # of 1.2 MB
    with pytest.warns(UserWarning) as caught:
        il.load_data(progress=False)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 1 and "max_ram" in texts[0]
    info = il.cache_info()
    assert 15 <= info.cached <= 19 and f"{info.cached} of 40 images" in texts[0]
    assert f"the other {40 - info.cached} do not fit" in texts[0]
    said = capsys.readouterr().out
    assert "40 images, about 1.2 MB decoded, but 596 kB may be used" in said and "% will fit" in said
    assert il.store.taken <= 600_000 + 4096
    stock = ImageList.from_folder(folder, presort=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(40):
            assert_same_item(il[i], stock[i])
        il.load_data(progress=False)
    assert il.cache_info().cached == info.cached  # no eviction


def test_the_warning_of_a_full_store_gives_sizes_that_add_up(tmp_path: Path) -> None:
    many(tmp_path / "many", 40)
    lists = m.MemoryImageList.from_folder(tmp_path / "many", presort=True, max_ram="600kB").split_by_idx(range(10))
    for i in range(10):
        lists.valid[i]
    with pytest.warns(UserWarning) as caught:
        for i in range(30):
            lists.train[i]
    (text,) = (str(w.message) for w in caught)
    assert f"MemoryImageList over {tmp_path / 'many'}: " in text
    held = lists.train.store.info()
    assert f"The store holds {held.nbytes / 1000:.0f} kB and may take 600 kB; these 30 take about 900 kB." in text


def test_the_warning_of_a_full_store_draws_no_random_numbers(tmp_path: Path) -> None:
    class Drawing(m.MemoryImageList):
        def get(self, i: int) -> Any:
            np.random.rand()
            return super().get(i)

    il = Drawing.from_folder(many(tmp_path / "many", 20), presort=True, max_ram="300kB")
    seed()
    wanted = np.random.rand(21)[-1]
    seed()
    with pytest.warns(UserWarning, match="of 20 images are in memory"):
        for i in range(20):
            il[i]
    assert np.random.rand() == wanted


def test_the_warning_of_a_full_store_counts_a_file_once(tmp_path: Path) -> None:
    lists = m.MemoryImageImageList.from_folder(many(tmp_path / "many", 40), max_ram="600kB").split_none()
    with pytest.warns(UserWarning, match="these 40 take about 1.2 MB"):
        lists.label_from_func(lambda o: o).load_data(progress=False)


def test_a_budget_below_the_current_size_warns(tmp_path: Path) -> None:
    il = m.MemoryImageList.from_folder(many(tmp_path / "many", 20)).load_data(progress=False)
    with pytest.warns(UserWarning, match=r"max_ram='100kB' its store may take 100 kB, and it holds 600 kB .* purge"):
        m.MemoryImageList.from_folder(tmp_path / "many", max_ram="100kB")
    assert il.loaded


def test_a_small_image_still_fits_after_a_large_one_did_not(tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 4, 200)
    for i in range(5):
        photo(i, 10, 10).save(folder / f"small{i}.png")
    il = m.MemoryImageList.from_folder(folder, presort=True, max_ram="300kB")
    with pytest.warns(UserWarning, match="7 of 9"):
        il.load_data(progress=False)


def test_lazy_workers_keep_a_budget_and_warn_once(tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 40)
    code = f"""
import warnings; warnings.filterwarnings("ignore", message=".*(pkg_resources|pin_memory).*")
from fastai.vision import *
from memlist import *
data = (MemoryImageList.from_folder({str(folder)!r}, max_ram="600kB").split_none().label_const(0)
        .transform(size=32).databunch(bs=4, num_workers=2, no_check=True))
for _ in range(3):
    for x, y in data.train_dl: pass
print(data.cache_info().cached)
"""
    done = fresh.run(code, ignore=False)
    assert done.returncode == 0, done.stderr
    assert 15 <= int(done.stdout.split()[-1]) <= 19
    assert done.stderr.count("do not fit") == 1, done.stderr


@pytest.mark.parametrize("max_ram", [0, "1kB"])
def test_a_budget_too_small_for_one_image_caches_nothing(photos: Path, max_ram: Any) -> None:
    il = m.MemoryImageList.from_folder(photos, max_ram=max_ram)
    stock = ImageList(il.items)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(24):
            assert_same_item(il[i], stock[i])
        il.load_data(progress=False)
    ours = [str(w.message) for w in caught if "in memory" in str(w.message)]
    assert len(ours) == (0 if max_ram == 0 else 1)  # 0 asks for no cache
    assert il.cache_info()[:2] == (0, 24) and not il.loaded


@pytest.mark.parametrize("value", ["lots", -3, 1.5, 0.0, True])
def test_an_invalid_budget_is_refused(photos: Path, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="max_ram="):
        m.MemoryImageList.from_folder(photos, max_ram=value)


# -- bad input --------------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict:
    folder.mkdir(parents=True)
    good = photo(1, 60, 80)
    good.save(folder / "good1.jpg")
    good.save(folder / "good2.png")
    (folder / "zero.jpg").write_bytes(b"")
    data = (folder / "good1.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    png = (folder / "good2.png").read_bytes()
    (folder / "truncated.png").write_bytes(png[: len(png) // 2])
    (folder / "text.jpg").write_text("not an image")
    (folder / "folder.jpg").mkdir()
    PIL.Image.new("1", (15_000, 15_000)).save(folder / "bomb.png")
    return {name: folder / name for name in os.listdir(folder)}


def test_bad_images_raise_the_same_errors_as_in_stock(tmp_path: Path) -> None:
    files = bad_files(tmp_path / "bad")
    files["missing"] = tmp_path / "bad" / "missing.jpg"
    for cls in (m.MemoryImageList, m.MemorySegmentationLabelList):
        stock_cls = m.lists.stock_class(cls)
        extra = {"classes": [0]} if cls is m.MemorySegmentationLabelList else {}
        for file in files.values():
            ours, stock = (c(np.array([file]), path=tmp_path, **extra) for c in (cls, stock_cls))
            for _ in range(2):
                try:
                    want = stock[0]
                except Exception as error:
                    with pytest.raises(type(error)) as caught:
                        ours[0]
                    assert str(caught.value) == str(error)
                else:
                    assert_same_item(ours[0], want)


@pytest.mark.parametrize("n_workers", [0, 3])
def test_load_data_loads_the_good_ones_and_lists_the_bad(tmp_path: Path, n_workers: int) -> None:
    files = bad_files(tmp_path / "bad")
    il = m.MemoryImageList([*files.values(), tmp_path / "bad" / "missing.jpg"], path=tmp_path)
    with pytest.raises(m.ImageLoadError) as caught:
        il.load_data(n_workers=n_workers, progress=False)
    bad = {Path(path).name: reason for path, reason in caught.value.errors}
    assert set(bad) == {
        "zero.jpg",
        "truncated.jpg",
        "truncated.png",
        "text.jpg",
        "folder.jpg",
        "bomb.png",
        "missing.jpg",
    }
    for name, reason in bad.items():
        assert f"{name}: {reason}" in str(caught.value) and ":" in reason
    assert "DecompressionBombError" in bad["bomb.png"] and "IsADirectoryError" in bad["folder.jpg"]
    assert il.cache_info()[:2] == (2, 9) and not il.loaded
    with pytest.warns(UserWarning, match="7 images could not be loaded"):
        assert il.load_data(progress=False, on_error="warn") is il


def test_names_of_bad_files_give_a_terminal_no_commands(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\x1b[2J")
    folder.mkdir()
    bad = folder / os.fsdecode(b"\xfe\r\n\x9b31m.jpg")
    bad.write_bytes(b"broken")
    il = m.MemoryImageList([bad], path=folder, cache_file=folder / "cache")
    with pytest.raises(m.ImageLoadError) as caught:
        il.load_data(n_workers=0, progress=False)
    with pytest.warns(UserWarning, match="1 image could not be loaded") as warned:
        il.load_data(n_workers=0, progress=False, on_error="warn")
    for text in (str(caught.value), *(str(one.message) for one in warned)):
        assert r"\xfe\r\n" in text and all(line.isprintable() for line in text.split("\n"))
    assert caught.value.errors[0][0] == bad


def test_an_image_load_error_can_be_pickled() -> None:
    import pickle

    again = pickle.loads(pickle.dumps(m.ImageLoadError([("a.jpg", "broken")])))
    assert again.errors == [("a.jpg", "broken")] and "a.jpg: broken" in str(again)


@pytest.mark.parametrize(
    "make",
    [
        lambda files: [str(f) for f in files],
        list,
        lambda files: [str(f) if i % 2 else f for i, f in enumerate(files)],
        lambda files: [*files, *files],
        lambda files: np.array([str(f) for f in files]),
    ],
)
def test_items_of_every_kind(photos: Path, make: Any, opens: Opens) -> None:
    items = make(sorted(photos.rglob("*.jpg")))
    ours, stock = m.MemoryImageList(items, path=photos), ImageList(items, path=photos)
    ours.load_data(progress=False)
    assert ours.cache_info()[:2] == (24, 24)
    for i in range(len(items)):
        assert_same_item(ours[i], stock[i])


def test_an_empty_list_counts_as_loaded(tmp_path: Path) -> None:
    il = m.MemoryImageList([], path=tmp_path, ignore_empty=True)
    assert il.load_data() is il and il.loaded and il.cache_info()[:2] == (0, 0) and il.purge() == 0
    assert il.split_none().label_const(0, label_cls=m.MemoryImageLabelList).load_data().loaded


def test_items_that_cannot_be_opened_raise_as_in_stock(tmp_path: Path) -> None:
    items = np.array([3, None, ("a", 1), 2.5], dtype=object)
    ours, stock = m.MemoryImageList(items, path=tmp_path), ImageList(items, path=tmp_path)
    for i in range(4):
        with pytest.raises(Exception) as want:
            stock[i]
        with pytest.raises(type(want.value)):
            ours[i]
    with pytest.raises(m.ImageLoadError, match="4 images could not be loaded"):
        ours.load_data(progress=False)
    assert ours.cache_info()[:2] == (0, 4)


def test_the_index_is_made_large_enough_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    il = m.MemoryImageList.from_folder(many(tmp_path / "many", 900, 8))
    grow, sizes = Index.grow, []

    def growing(self: Index, *args: Any) -> bool:
        grown = grow(self, *args)
        sizes.append(table_bits(self.header.index))
        return grown

    monkeypatch.setattr(Index, "grow", growing)
    il.load_data(progress=False)
    assert il.loaded and len(sizes) == 1 and (4 << sizes[0]) // 5 >= 900


# -- interrupts and purges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [0, 2])
def test_ctrl_c_leaves_a_partly_filled_usable_cache(tmp_path: Path, n_workers: int) -> None:
    folder = many(tmp_path / "many", 60, 60)
    il = m.MemoryImageList.from_folder(folder, presort=True)
    opened = threading.Event()
    stock, count = Stock._decode, [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        count[0] += 1
        if count[0] == 30 and not opened.is_set():
            opened.set()
            os.kill(os.getpid(), signal.SIGINT)
        return stock(*args, **kwargs)

    filters = list(warnings.filters)
    Stock._decode = counting  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            il.load_data(n_workers=n_workers, progress=False)
            for _ in range(1000):  # the signal reaches the main thread between two bytecodes
                time.sleep(0.01)
    finally:
        Stock._decode = stock  # type: ignore[method-assign]
    assert warnings.filters == filters
    # A thread whose `start` was interrupted may still be starting; it ends without doing anything.
    for thread in [t for t in threading.enumerate() if t.name.startswith("memlist-")]:
        thread._started.wait(60)  # type: ignore[attr-defined]
        thread.join(60)
        assert not thread.is_alive()
    plain = ImageList.from_folder(folder, presort=True)
    for i in range(60):
        assert_same_item(il[i], plain[i])
    assert il.load_data(progress=False).loaded


def _pss(pids: Any) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Shmem:"):
                total += int(line.split()[1]) * 1024
    return total


def test_workers_share_one_copy_and_purge_frees_it_while_they_run(tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 120, 300)  # 32 MB decoded
    lists = m.MemoryImageList.from_folder(folder, presort=True).split_none().label_const(0)
    data = lists.transform(size=16).databunch(bs=4, num_workers=3, no_check=True)
    nbytes = 120 * 300 * 300 * 3
    store = data.train_ds.x.store
    before = _pss([os.getpid()])
    data.load_data(progress=False)
    batches = iter(data.fix_dl.dl)
    loaded = [next(batches) for _ in range(25)]
    pids = [os.getpid(), *(w.pid for w in batches._workers)]
    assert all(w.is_alive() for w in batches._workers)
    assert (
        0.95 * nbytes <= _pss(pids) - before <= 1.05 * nbytes + (4 << 20)
    )  # the batches in flight are shared memory too
    assert data.purge() == nbytes
    assert store.allocated() <= 0.01 * nbytes
    loaded += list(batches)  # the workers continue from disk, with the right pixels
    stock = ImageList(data.train_ds.x.items).split_none().label_const(0).transform(size=16)
    want = stock.databunch(bs=4, num_workers=0, no_check=True).fix_dl.dl
    for (x, _), (u, _) in zip(loaded, want):
        assert torch.equal(x, u)
    data.load_data(progress=False)
    assert data.loaded


def test_lists_work_with_the_file_backing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMLIST_BACKING", "file")
    folder = many(tmp_path / "many", 40)
    lists = m.MemoryImageList.from_folder(folder, presort=True).split_none().label_const(0)
    data = lists.transform(size=16).databunch(bs=4, num_workers=2, no_check=True)
    assert data.train_ds.x.store._region.kind == "file"
    stock = ImageList(data.train_ds.x.items).split_none().label_const(0).transform(size=16)
    want = [x for x, _ in stock.databunch(bs=4, num_workers=0, no_check=True).fix_dl.dl]
    for i in range(3):
        for (x, _), u in zip(data.fix_dl.dl, want):
            assert torch.equal(x, u)
        if i == 1:
            assert data.loaded and data.purge() == 40 * 100 * 100 * 3
    assert data.cache_info()[:2] == (40, 40)
    monkeypatch.setenv("MEMLIST_BACKING", "floppy")
    with pytest.raises(ValueError, match="MEMLIST_BACKING='floppy': use 'memfd' or 'file'"):
        m.ImageStore()


@pytest.mark.parametrize("rounds", [5, pytest.param(40, marks=pytest.mark.full)])
def test_workers_read_the_right_pixels_while_a_loop_purges(tmp_path: Path, rounds: int) -> None:
    folder = many(tmp_path / "many", 60, 80)
    lists = m.MemoryImageList.from_folder(folder, presort=True).split_none().label_const(0)
    data = lists.transform(size=32).databunch(bs=4, num_workers=2, no_check=True)
    stock = ImageList(data.train_ds.x.items).split_none().label_const(0).transform(size=32)
    want = [x for x, _ in stock.databunch(bs=4, num_workers=0, no_check=True).fix_dl.dl]
    stop = threading.Event()

    def purge() -> None:
        while not stop.is_set():
            data.purge()

    thread = threading.Thread(target=purge)
    thread.start()
    try:
        for _ in range(rounds):
            for (x, _), u in zip(data.fix_dl.dl, want):
                assert torch.equal(x, u)
    finally:
        stop.set()
        thread.join()


def test_a_tiny_dev_shm_does_not_limit_the_cache(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small /dev/shm takes root")
    folder = many(tmp_path / "many", 60, 300)  # 16 MB
    code = f"""
import os
from fastai.vision import *
from memlist import *
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize <= 1 << 20
il = MemoryImageList.from_folder({str(folder)!r}).load_data(progress=False, n_workers=2)
assert il.loaded and il.cache_info().nbytes == 60 * 300 * 300 * 3
"""
    (tmp_path / "limited.py").write_text(code)
    script = f"mount -t tmpfs -o size=1m tmpfs /dev/shm && exec {sys.executable} -W ignore {tmp_path}/limited.py"
    done = subprocess.run(["unshare", "--mount", "bash", "-c", script], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 0, done.stderr
