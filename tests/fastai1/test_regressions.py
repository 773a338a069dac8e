"""Regression tests for faults that were found by trying to break memlist."""

from __future__ import annotations

import functools
import gc
import os
import random
import re
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path
from typing import Any, Dict, List

import fastai.vision
import numpy as np
import PIL.Image
import pytest
import torch
from conftest import assert_same_item, noise, photo, seed
from fastai.vision import (
    Image,
    ImageList,
    ItemList,
    LabelList,
    SegmentationLabelList,
    open_image,
    open_mask,
)
from fastai.vision.gan import GANItemList

import memlist as m
from memlist.fastai1.decoders import Stock
from memlist.fastai1.work import load_data
from memlist.store import store_for
from memlist.store.system import PAGE


def both(photos: Path, ours: Any, stock: Any, **kwargs: Any) -> Any:
    return ours.from_folder(photos, presort=True, **kwargs), stock.from_folder(photos, presort=True, **kwargs)


# -- the key of a custom open -----------------------------------------------------------------------------------


def cell(source: str, **given: Any) -> types.ModuleType:
    "Run `source`, which defines `L`, as a notebook cell, and add its in-memory twin `M`."
    module = types.ModuleType("__main__")
    vars(module).update(ImageList=ImageList, open_image=open_image, Image=Image, InMemory=m.InMemory, **given)
    vars(module).update(np=np, torch=torch, random=random, functools=functools, re=re)
    exec(source + "\nclass M(InMemory, L): pass", vars(module))
    return module


READS = {
    "dict": ("G = {'k': VALUE}", "G['k']"),
    "array": ("G = np.array([VALUE])", "float(G[0])"),
    "tensor": ("G = torch.tensor([VALUE])", "float(G)"),
    "object": ("class Holder: pass\nG = Holder(); G.k = VALUE", "G.k"),
    "nested": ("G = VALUE", "[x for x in map(lambda _: G, [0])][0]"),
    "function": ("def g(): return VALUE", "g()"),
    "partial": ("g = functools.partial(max, VALUE)", "g(0)"),
    "helper class": ("class Helper:\n    def run(self): return VALUE\nG = Helper()", "G.run()"),
    "class attribute": ("", "self.K"),
    "decorated": (
        "def by(k):\n    def deco(f):\n        @functools.wraps(f)\n        def g(*a): return f(*a) * k\n"
        "        return g\n"
        "    return deco\n@by(VALUE)\ndef g(): return 1",
        "g()",
    ),
    "method with a pattern": ("", "self.helper()"),
}


@pytest.mark.parametrize("what", list(READS))
def test_a_new_list_sees_everything_that_a_custom_open_reads(what: str, photos: Path) -> None:
    setting, reading = READS[what]
    source = f"""
{setting}
class L(ImageList):
    K = VALUE
    def helper(self, rx=re.compile("x")): return VALUE
    def open(self, fn):
        image = open_image(fn)
        image.px *= {reading}
        return image
"""
    kept: List[Any] = []
    for value in ("0.5", "0.25", "0.5"):
        module = cell(source.replace("VALUE", value))
        ours, stock = both(photos, module.M, module.L)
        kept.append(ours)  # the old list still holds its store
        for _ in range(2):
            assert_same_item(ours[0], stock[0])
        assert (ours.cache_info().hits, len(ours.store)) == (1, 1)


@pytest.mark.parametrize("what", ["dict", "array", "nested", "object", "class attribute", "attribute"])
def test_a_list_sees_later_changes(what: str, photos: Path) -> None:
    "An attribute counts at once, everything else after `purge()`."
    setting, reading = READS.get(what, ("", "self.k"))
    source = f"""
{setting.replace("VALUE", "0.5")}
class L(ImageList):
    K = 0.5
    def __init__(self, items, k=0.5, **kwargs):
        super().__init__(items, **kwargs)
        self.k = k
        self.copy_new.append("k")
    def open(self, fn):
        image = open_image(fn)
        image.px *= {reading}
        return image
"""
    module: Any = cell(source)
    ours, stock = both(photos, module.M, module.L)
    first = ours[0].px.max()
    change = {
        "dict": lambda: module.G.update(k=0.25),
        "array": lambda: module.G.fill(0.25),
        "nested": lambda: setattr(module, "G", 0.25),
        "object": lambda: setattr(module.G, "k", 0.25),
        "class attribute": lambda: setattr(module.L, "K", 0.25),
        "attribute": lambda: [setattr(il, "k", 0.25) for il in (ours, stock)],
    }[what]
    change()
    if what != "attribute":
        ours.purge()
    for _ in range(2):
        assert_same_item(ours[0], stock[0])
    assert ours[0].px.max() < first


DRAWS = {
    "global generator": ("G = np.random.default_rng(0)", "G.random()"),
    "global RandomState": ("G = np.random.RandomState(0)", "G.rand()"),
    "class attribute": ("", "self.G.random()"),
    "made inside": ("", "np.random.default_rng().random()"),
}


@pytest.mark.parametrize("what", list(DRAWS))
def test_results_of_a_private_generator_are_never_cached(what: str, photos: Path) -> None:
    setting, drawing = DRAWS[what]
    module = cell(f"""
{setting}
class L(ImageList):
    {"G = random.Random(0)" if what == "class attribute" else ""}
    def open(self, fn):
        image = open_image(fn)
        image.px *= {drawing}
        return image
""")
    il = module.M.from_folder(photos)
    with pytest.warns(UserWarning, match="two different images for one item"):
        first = il[0]
    assert not torch.equal(first.px, il[0].px) and il.cache_info().cached == 0


def test_an_open_that_seeds_is_not_cached_on_its_second_call(photos: Path) -> None:
    class Seeding(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            random.seed(0)
            image = open_image(fn)
            image.px *= random.random()
            return image

    il = Seeding.from_folder(photos)
    with pytest.warns(UserWarning, match="draws random numbers"):
        il[0]
    state = random.getstate()
    for _ in range(3):
        random.seed(5)
        il[0]
        assert random.getstate() == state
    assert il.cache_info().cached == 0


def test_a_class_of_the_main_script_hits_in_spawned_workers(tmp_path: Path) -> None:
    for i in range(4):
        photo(i).save(tmp_path / f"{i}.png")
    (tmp_path / "script.py").write_text(f"""
import multiprocessing
from fastai.vision import *
from memlist import *
class L(MemoryImageList):
    def open(self, fn): return open_image(fn)
def read(il):
    for i in range(4): il[i]
if __name__ == "__main__":
    il = L.from_folder({str(tmp_path)!r}).load_data(progress=False)
    process = multiprocessing.get_context("spawn").Process(target=read, args=(il,))
    process.start(); process.join()
    print(tuple(il.cache_info())[:3], il.cache_info().hits, il.cache_info().misses)
""")
    done = subprocess.run([sys.executable, "-W", "ignore", str(tmp_path / "script.py")], capture_output=True, text=True)
    assert done.stdout.strip().endswith(f"(4, 4, {4 * 30 * 40 * 3}) 4 0"), done.stdout + done.stderr


# -- patches and unusual subclasses -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["open_mask", "pil2tensor"])
def test_other_functions_of_fastai_may_be_patched_too(name: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "open_mask":
        monkeypatch.setattr(fastai.vision.data, name, functools.partial(open_mask, div=True))
        ours, stock = both(photos, m.MemorySegmentationLabelList, SegmentationLabelList, classes=[0])
    else:
        stock_function = fastai.vision.image.pil2tensor
        monkeypatch.setattr(fastai.vision.image, name, lambda image, dtype: stock_function(image, dtype) / 2)
        ours, stock = both(photos, m.MemoryImageList, ImageList)
    for _ in range(2):
        assert_same_item(ours[0], stock[0])


@pytest.mark.parametrize("name", ["open", "get"])
def test_an_open_or_get_assigned_to_one_list_is_used(name: str, photos: Path) -> None:
    ours, stock = both(photos, m.MemoryImageList, ImageList)
    ours.load_data(progress=False)
    black = Image(torch.zeros(3, 5, 5))
    for il in (ours, stock):
        setattr(il, name, lambda _: black)
    labelled = [LabelList(il, ItemList(np.zeros(24))) for il in (ours, stock)]
    assert_same_item(labelled[0][0][0], labelled[1][0][0])
    if name == "open":
        with pytest.warns(UserWarning, match="its images are not kept"):
            assert not ours.load_data(progress=False).loaded


def test_a_custom_label_list_is_used(photos: Path) -> None:
    class Own(LabelList):
        pass

    class Mine(ImageList):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._label_list = Own

    class Memory(m.InMemory, Mine):
        pass

    lists = Memory.from_folder(photos).split_by_idx([0]).label_from_folder()
    assert type(lists.train) is type(lists.valid) is Own


def test_a_constructor_may_refuse_unknown_keywords(photos: Path) -> None:
    class Narrow(m.MemoryImageList):
        def __init__(
            self, items: Any, path: Any = ".", processor: Any = None, x: Any = None, label_cls: Any = None,
            inner_df: Any = None, convert_mode: str = "RGB", after_open: Any = None,
        ) -> None:  # fmt: skip
            super().__init__(
                items, path=path, processor=processor, x=x, label_cls=label_cls, inner_df=inner_df,
                convert_mode=convert_mode, after_open=after_open, max_ram="1GB",
            )  # fmt: skip

    lists = Narrow(sorted(photos.rglob("*.jpg")), path=photos).split_by_idx([0]).label_from_folder()
    assert lists.load_data(progress=False).loaded and lists.train.x.store is lists.valid.x.store


@pytest.mark.parametrize("nothing", [None, False, [], ()])
def test_a_false_after_open_is_ignored(nothing: Any, photos: Path) -> None:
    ours, stock = both(photos, m.MemoryImageList, ImageList, after_open=nothing)
    for _ in range(2):
        assert_same_item(ours[0], stock[0])


# -- stores -----------------------------------------------------------------------------------------------------


def test_an_empty_store_is_found_again() -> None:
    import pickle

    first = store_for("/somewhere/else")
    data = pickle.dumps(first).replace(first.uid.encode(), b"0" * 32)  # as from another session
    assert pickle.loads(data) is first and bool(first)


def test_the_index_counts_towards_the_budget() -> None:
    images = m.ImageStore(3000)
    assert not images.put(b"a", np.zeros(10, np.uint8)) and images.taken <= 3000 + PAGE
    images = m.ImageStore(100_000)
    for i in range(5000):
        images.put(b"%d" % (i % 5), np.full(3000, i % 251, np.uint8), replace=True)
        assert images.taken - PAGE <= 100_000
    assert images.allocated() <= 100_000 + 2 * PAGE


def test_a_record_that_cannot_be_replaced_is_not_served() -> None:
    images = m.ImageStore(20_000)
    assert images.put(b"a", np.zeros(10_000, np.uint8))
    view = images.get(b"a")
    assert view is not None and not images.put(b"a", np.ones(10_000, np.uint8), replace=True)
    assert b"a" not in images and not images.current(view) and images.info()[:2] == (0, 0)


def test_threads_of_two_processes_write_to_two_stores() -> None:
    "The kernel attributes locks of threads to their process, and may report deadlocks that do not exist."
    stores = [m.ImageStore("200MB"), m.ImageStore("200MB")]

    def work(n: int, errors: List[BaseException]) -> None:
        try:
            for i in range(800):
                stores[n % 2].put(b"%d %d %d" % (os.getpid(), n, i), np.zeros(3000, np.uint8))
        except BaseException as error:
            errors.append(error)

    pids = []
    for _ in range(2):
        pid = os.fork()
        if not pid:
            errors: List[BaseException] = []
            threads = [threading.Thread(target=work, args=(n, errors)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            os._exit(len(errors))
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert len(stores[0]) == len(stores[1]) == 2 * 2 * 800


def test_a_nested_write_in_one_thread_raises_instead_of_hanging() -> None:
    images = m.ImageStore()
    with pytest.raises(RuntimeError, match="its own thread is writing"):
        images.parts.locked(images.purge)
    assert images.put(b"a", np.zeros(3, np.uint8))


def test_exit_handlers_can_use_a_store(tmp_path: Path) -> None:
    code = """
import atexit, sys
sys.modules["fastai"] = None  # it takes seconds to import, and is not needed
import numpy as np
images = []
atexit.register(lambda: print(images[0].get(b"a").array.sum(), images[0].put(b"b", np.zeros(3))))
from memlist.store import ImageStore
images.append(ImageStore()); images[0].put(b"a", np.ones(5))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "5.0 True" and not done.stderr, done.stderr


# -- loading ----------------------------------------------------------------------------------------------------


def test_a_full_store_does_not_stop_the_filling_of_another(tmp_path: Path) -> None:
    folders: Dict[str, Path] = {name: tmp_path / name for name in ("full", "empty")}
    for folder in folders.values():
        folder.mkdir()
        for i in range(12):
            PIL.Image.fromarray(noise(60, 60, 3, i)).save(folder / f"{i}.png")
    full = m.MemoryImageList.from_folder(folders["full"], max_ram="30kB")
    empty = m.MemoryImageList.from_folder(folders["empty"])
    with pytest.warns(UserWarning, match=r"1 of 12 images|2 of 12 images"):
        load_data([full, empty], progress=False)
    assert empty.loaded and not full.loaded


def test_every_record_of_a_changed_file_is_replaced(photos: Path) -> None:
    from PIL import ImageOps

    plain = m.MemoryImageList.from_folder(photos, presort=True)
    turned, stock = both(photos, m.MemoryImageList, ImageList, after_open=ImageOps.exif_transpose)
    turned.load_data(progress=False)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    photo(50).save(stock.items[0], exif=exif)
    plain.load_data(progress=False)  # replaces the pixels, but not the rest of the PIL image
    turned.load_data(progress=False)
    assert_same_item(turned[0], stock[0])


def test_a_changed_file_is_noticed_behind_a_custom_get(photos: Path) -> None:
    class Own(ImageList):
        def get(self, i: int) -> Any:
            return super().get(i)

    class Memory(m.InMemory, Own):
        pass

    ours, stock = both(photos, Memory, Own)
    ours.load_data(progress=False)
    photo(50).save(stock.items[0])
    os.utime(stock.items[0], ns=(1, 1))
    again = Memory.from_folder(photos, presort=True).load_data(progress=False)
    assert_same_item(again[0], stock[0])


def test_cache_info_does_not_disturb_reads_in_another_thread(photos: Path) -> None:
    class Own(m.MemoryImageList):
        def get(self, i: int) -> Any:
            try:
                return super().get(i)
            except:
                raise

    il, stop, failures = Own.from_folder(photos), threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                il[0]
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(20):
        il.cache_info()
    stop.set()
    thread.join()
    assert not failures and il.cache_info().total == 24


def test_a_worker_forked_during_load_data_caches_nothing(photos: Path) -> None:
    il = m.MemoryImageList.from_folder(photos, lazy=False)
    inside, leave = threading.Event(), threading.Event()
    stock = Stock.pieces

    def slow(*args: Any, **kwargs: Any) -> Any:
        inside.set()
        leave.wait()
        return stock(*args, **kwargs)

    Stock.pieces = slow  # type: ignore[method-assign]
    try:
        thread = threading.Thread(target=il.load_data, kwargs={"progress": False, "n_workers": 0})
        thread.start()
        inside.wait()
        pid = os.fork()
        if not pid:
            il[23]
            os._exit(int(il.cache_info().cached != 0 or il.cache_info().misses != 1))
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        Stock.pieces = stock  # type: ignore[method-assign]
        leave.set()
        thread.join()
    assert il.loaded


@pytest.mark.parametrize("how", ["raw", "labels from lists"])
def test_a_store_exists_before_the_first_fork(how: str, photos: Path) -> None:
    "A list may be read first in a forked worker."
    files = sorted(photos.rglob("*.jpg"))
    if how == "raw":
        il: Any = m.MemoryImageList(files)
        data = il
    else:
        lists = GANItemList(files, path=photos).split_by_idx([0])
        lists = lists.label_from_lists(files[1:], files[:1], label_cls=m.MemoryImageLabelList)
        data = lists.databunch(bs=2, num_workers=0, no_check=True)
        il = data.train_ds.y
    pid = os.fork()
    if not pid:
        il[0]
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert data.cache_info().cached == 1


def test_serving_hits_does_not_grow_the_heap(tmp_path: Path) -> None:
    "glibc's heap once grew by gigabytes between torch's aligned blocks."
    for i in range(40):
        PIL.Image.fromarray(noise(375, 500, 3, i)).save(tmp_path / f"{i}.png", compress_level=0)
    il = m.MemoryImageList.from_folder(tmp_path).load_data(progress=False)

    def anonymous() -> int:
        text = Path("/proc/self/smaps_rollup").read_text()
        return int(re.search(r"^Anonymous: +(\d+)", text, re.M)[1]) * 1024  # type: ignore[index]

    def read() -> None:
        for i in range(200):
            batch = [il[(i + k) % 40] for k in range(i % 17)]
            del batch

    read()
    before = anonymous()
    read()
    assert anonymous() - before < 40 << 20


def test_warnings_point_at_the_line_of_the_user(tmp_path: Path) -> None:
    for i in range(4):
        PIL.Image.fromarray(noise(60, 60, 3, i)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"")
    il = m.MemoryImageList(sorted(tmp_path.iterdir()), path=tmp_path, max_ram="20kB")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        il.load_data(progress=False, on_error="warn")
    assert len(caught) == 2 and {w.filename for w in caught} == {__file__}
    gc.collect()
    seed()
