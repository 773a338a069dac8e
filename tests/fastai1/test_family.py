"""Ownership: results of a custom `open` belong to the list that was built and to lists derived from it."""

from __future__ import annotations

import copy
import decimal
import gc
import io
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
import types
import warnings
from collections import deque
from pathlib import Path
from typing import Any, Callable, List

import fastai.vision
import fresh
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from conftest import assert_same_item, in_child, photo, seed
from fastai.basic_data import load_data as fastai_load_data
from fastai.vision import Image, ImageImageList, ImageList, ImageSegment, SegmentationLabelList, noop, open_image

import memlist as m
from memlist.cache import forks
from memlist.fastai1 import mixin
from memlist.store import registry


class Shades(ImageList):
    "An attribute of the list determines the pixels."

    def __init__(self, items: Any, shade: float = 0.5, **kwargs: Any) -> None:
        super().__init__(items, **kwargs)
        self.shade = shade
        self.copy_new.append("shade")

    def open(self, fn: Any) -> Image:
        return Image(torch.full((3, 8, 8), self.shade * (1 + int(Path(str(fn)).stem))))


class MemoryShades(m.InMemory, Shades):
    pass


class OverShades(m.MemoryImageList):
    def __init__(self, items: Any, shade: float = 0.5, **kwargs: Any) -> None:
        super().__init__(items, **kwargs)
        self.shade = shade
        self.copy_new.append("shade")

    open = Shades.open


BOTH = [MemoryShades, OverShades]


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    for i in range(12):
        photo(i, 20, 20).save(tmp_path / f"{i:02}.png")
    return tmp_path


def loaded(cls: Any, folder: Path, **kwargs: Any) -> Any:
    return cls.from_folder(folder, presort=True, **kwargs).load_data(progress=False)


def first(il: Any) -> float:
    return float(il[0].px[0, 0, 0])


# -- ownership --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BOTH)
def test_lists_that_are_built_separately_share_nothing(cls: Any, numbers: Path) -> None:
    "Lists that are built separately do not share: `open` may read from its list."
    one, two = (cls.from_folder(numbers, presort=True, shade=shade) for shade in (0.5, 0.25))
    again = cls.from_folder(numbers, presort=True, shade=0.5)
    assert [first(il) for il in (one, two, again)] == [0.5, 0.25, 0.5]
    assert len({il.store.uid for il in (one, two, again)}) == 3


def test_lists_over_two_frames_share_nothing(numbers: Path) -> None:
    class Rows(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return Image(torch.full((1, 2, 2), float(self.inner_df.px[int(str(fn)[2:])])))

    frames = [pd.DataFrame({"px": v, "fn": [0, 1]}) for v in ([0.1, 0.2], [0.8, 0.9])]
    train, test = (Rows.from_df(frame, ".", cols="fn") for frame in frames)
    assert [first(train), first(test)] == pytest.approx([0.1, 0.8])
    data = train.split_by_idx([1]).label_const(0).databunch(bs=1, num_workers=0, no_check=True)
    data.add_test(test)  # the same items, but another table
    assert first(data.test_ds.x) == pytest.approx(0.8)


@pytest.mark.parametrize("cls", BOTH)
def test_derived_lists_share_the_store(cls: Any, numbers: Path, tmp_path: Path) -> None:
    il = loaded(cls, numbers)
    store = il.store
    lists = il.split_by_idx([0, 1]).label_from_func(lambda o: int(o.stem) % 2)
    lists.filter_by_func(lambda x, y: x.stem == "05")  # leaves these out
    data = lists.databunch(bs=2, num_workers=0, no_check=True)
    buffer = io.BytesIO()
    data.save(buffer)
    buffer.seek(0)
    saved = fastai_load_data(numbers, buffer, bs=2, num_workers=0)
    il.filter_by_func(lambda o: o.stem != "07")
    descendants = [il, lists.train.x, lists.valid.x, saved.train_ds.x, copy.deepcopy(data).train_ds.x, copy.copy(il)]
    descendants += [il[[2, 1]], il.new(il.items[:3]), il.use_partial_data(0.5), pickle.loads(pickle.dumps(il))]
    for one in descendants:
        assert one.store is store and one.loaded and one.cache_info().total == len(one.items)
    assert data.cache_info()[:2] == (11, 11)


@pytest.mark.parametrize("cls", BOTH)
def test_other_items_get_a_new_store(cls: Any, numbers: Path) -> None:
    il = cls(sorted(numbers.iterdir())[:6], path=numbers).load_data(progress=False)
    rest = sorted(numbers.iterdir())[6:]
    data = il.split_by_idx([0]).label_const(0).databunch(bs=2, num_workers=0, no_check=True)
    data.add_test(rest)
    assert il.new(rest).store is not il.store and data.test_ds.x.store is not il.store
    assert data.cache_info()[:2] == (6, 12) and data.load_data(progress=False).loaded


@pytest.mark.parametrize("cls", BOTH)
def test_memory_is_freed_with_the_last_derived_list(cls: Any, numbers: Path) -> None:
    il = loaded(cls, numbers)
    part, descriptors = il[[0, 1]], len(os.listdir("/proc/self/fd"))
    uid = il.store.uid
    del il
    assert part.loaded and part.store.uid == uid
    del part  # freed at once, without the garbage collector
    assert len(os.listdir("/proc/self/fd")) < descriptors
    assert not any(store.uid == uid for store in registry.stores())


def test_targets_of_a_custom_open_have_their_own_store(numbers: Path) -> None:
    class Targets(m.MemoryImageLabelList):
        def open(self, fn: Any) -> Image:
            return Image(1 - open_image(fn).px)

    il = m.MemoryImageImageList.from_folder(numbers, max_ram="100MB", presort=True)
    lists = il.split_by_idx([0]).label_from_func(noop, label_cls=Targets)
    assert lists.load_data(progress=False).cache_info()[:2] == (24, 24)
    assert lists.train.y.store.rule == 10**8 and lists.train.y.store is not il.store
    assert lists.cache_info().max_ram == 3 * 10**8
    free = m.MemoryImageImageList.from_folder(numbers).split_by_idx([0]).label_from_func(noop, label_cls=Targets)
    free.train.x.store.set_max_ram(None)
    most = free.train.x.cache_info().max_ram
    assert 0.9 * most < free.cache_info().max_ram < 1.5 * most  # three stores share the memory that is available
    assert torch.equal(lists.train[3][1].px, 1 - lists.train[3][0].px)


def test_workers_of_a_plain_loader_fill_one_store(numbers: Path) -> None:
    for cls in BOTH:
        il = cls.from_folder(numbers, presort=True)
        loader = torch.utils.data.DataLoader(il, batch_size=3, num_workers=2, collate_fn=list)
        assert sum(len(batch) for batch in loader) == 12
        assert il.loaded and il.cache_info().misses == 12


# -- changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BOTH)
def test_setting_an_attribute_starts_an_empty_store(cls: Any, numbers: Path) -> None:
    il = loaded(cls, numbers)
    part, before = il[[0, 1]], il.store
    il.shade = 0.25
    assert il.store is not before and il.cache_info()[:2] == (0, 12) and first(il) == 0.25
    assert part.store is before and first(part) == 0.5 and part.cache_info().hits == 1
    child = il[[0, 3]]
    assert first(child) == 0.25 and child.store is il.store  # `shade` is in copy_new
    il.other = 3
    assert il.cache_info().cached == 0
    assert il[[0]].store is not il.store  # `other` is not
    store = il.store
    il.other, il.sizes, il.processor = 3, {}, None  # no change, or bookkeeping
    assert il.store is store
    del il.other
    assert il.store is not store


@pytest.mark.parametrize("cls", BOTH)
def test_a_changed_attribute_reaches_workers_through_one_store(cls: Any, numbers: Path) -> None:
    il = loaded(cls, numbers)
    data = il.split_none().label_const(0).databunch(bs=3, num_workers=2, no_check=True)
    data.train_ds.x.shade = 0.25
    for _ in range(2):
        assert min(float(x.min()) for x, _ in data.train_dl) == 0.25
    assert data.train_ds.x.cache_info()[:1] == (12,) and data.train_ds.x.cache_info().misses == 12


def swapped(factor: float) -> Callable[[Any, Any], Image]:
    def open(self: Any, fn: Any) -> Image:
        return Image(torch.full((3, 8, 8), factor))

    return open


def test_a_replaced_open_is_noticed(numbers: Path) -> None:
    class Own(ImageList):
        open = swapped(0.5)

    class Memory(m.InMemory, Own):
        pass

    il = loaded(Memory, numbers)
    part = il[[0, 1]]
    Own.open = swapped(0.25)  # type: ignore[method-assign, assignment]
    assert (first(il), first(part)) == (0.25, 0.25) and len(il.store) == 1
    first(il)
    assert il.cache_info().hits == 1

    def other(self: Any, fn: Any) -> Image:
        return Image(torch.full((3, 8, 8), 0.125))

    def plain(self: Any, fn: Any) -> Image:
        return Image(torch.full((3, 8, 8), 0.75))

    Own.open = plain  # type: ignore[method-assign, assignment]
    assert first(il) == 0.75
    Own.open.__code__ = other.__code__  # as autoreload does
    assert first(il) == 0.125
    data = il.split_none().label_const(0).databunch(bs=3, num_workers=2, no_check=True)
    plain.__code__ = (lambda self, fn: Image(torch.full((3, 8, 8), 0.375))).__code__
    for _ in range(2):  # noticed before the workers are forked; they share the store
        assert {float(x.min()) for x, _ in data.train_dl} == {0.375}
    assert data.cache_info().misses == 12


def test_attributes_that_open_sets_keep_the_store(numbers: Path) -> None:
    class Counting(m.MemoryImageList):
        calls, last = 0, None

        def open(self, fn: Any) -> Image:
            self.calls, self.last = self.calls + 1, fn
            self.inner_df = pd.DataFrame()
            return open_image(fn)

    il = Counting.from_folder(numbers, presort=True)
    store = il.store
    for _ in range(2):
        for i in range(12):
            il[i]
    assert il.store is store and il.calls == 12 and il.loaded


def test_attributes_that_get_sets_are_part_of_the_key(numbers: Path) -> None:
    class Counting(m.MemoryImageList):
        calls = 0

        def get(self, i: int) -> Image:
            self.calls += 1
            return super().get(i)

        def open(self, fn: Any) -> Image:
            return open_image(fn)

    class Holding(Counting):
        def get(self, i: int) -> Image:
            self.held = object()
            return super().get(i)

    il = Counting.from_folder(numbers, presort=True)
    stock = ImageList.from_folder(numbers, presort=True)
    with pytest.warns(
        UserWarning, match=r"Counting.get sets self.calls to something else each time, and open may read"
    ):
        for _ in range(3):
            for i in range(12):
                assert_same_item(il[i], stock[i])
    assert il.cache_info()[:2] == (0, 12) and not il.loaded
    assert il.cache_info().nbytes < 12 * 300  # records of which items `get` opened, but no pixels
    held = Holding.from_folder(numbers, presort=True)
    with pytest.warns(UserWarning, match=r"Holding.get sets self.calls, self.held to something else"):
        for i in range(12):
            assert_same_item(held[i], stock[i])


def test_changed_globals_are_seen_after_purge_or_in_a_new_list(numbers: Path) -> None:
    settings = {"shade": 0.5}

    class Elsewhere(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return Image(torch.full((3, 8, 8), settings["shade"]))

    il = loaded(Elsewhere, numbers)
    settings["shade"] = 0.25
    assert first(il) == 0.5 and first(loaded(Elsewhere, numbers)) == 0.25
    il.purge()
    assert first(il) == 0.25


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (slice(0, 8), slice(8, 16)),
        (range(0, 8), range(8, 16)),
        (decimal.Decimal(1), decimal.Decimal(2)),
        (np.dtype("u1"), np.dtype("f4")),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]})),
        (deque([1]), deque([2])),
        ({"a": slice(0, 1)}, {"a": slice(1, 2)}),
    ],
)
def test_a_cell_run_again_with_another_class_attribute_gives_new_pixels(one: Any, two: Any, numbers: Path) -> None:
    "Class attributes of every type are compared."
    kept = []
    for value in (one, two):
        module = types.ModuleType("__main__")
        vars(module).update(m=m, Image=Image, torch=torch, VALUE=value)
        exec(
            "class Crop(m.MemoryImageList):\n    W = VALUE\n"
            "    def open(self, fn): return Image(torch.full((1, 2, 2), float(sum(map(ord, repr(self.W))))))",
            vars(module),
        )
        kept.append(loaded(module.Crop, numbers))  # type: ignore[attr-defined]
    assert first(kept[0]) != first(kept[1])


# -- random -----------------------------------------------------------------------------------------------------


def test_a_thread_that_draws_does_not_make_an_open_look_random(numbers: Path) -> None:
    class Slow(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            for _ in range(3):
                time.sleep(0.001)  # lets the other thread run
            return open_image(fn)

    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            random.random(), np.random.rand(), torch.rand(1)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            il = Slow.from_folder(numbers, presort=True)
            for i in range(12):
                il[i]
    finally:
        stop.set()
        thread.join()
    assert il.loaded


RANDOM = {
    "random_noise": "__import__('skimage.util').util.random_noise(np.full((4, 4), 0.5))[0, 0]",
    "secrets": "__import__('secrets').randbelow(10**9)",
    "uuid4": "__import__('uuid').uuid4().int % 10**9",
    "SeedSequence": "np.random.SeedSequence().generate_state(1)[0]",
    "default_rng": "np.random.default_rng().random()",
    "bound": "DRAW()",
    "torch generator": "torch.rand(1, generator=GENERATOR).item()",
    "urandom": "int.from_bytes(__import__('os').urandom(4), 'big') / 7",
}


@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.parametrize("what", list(RANDOM))
def test_random_numbers_from_anywhere_are_noticed(what: str, fork: bool, numbers: Path, monkeypatch: Any) -> None:
    "Results that use random numbers are not kept: twelve reads must not give one value."
    if not fork:
        monkeypatch.setattr(forks, "can_fork", lambda: False)
    space = {"np": np, "torch": torch, "DRAW": random.Random(0).random, "GENERATOR": torch.Generator()}
    code = compile(RANDOM[what], "drawing", "eval")

    class Noisy(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return Image(torch.full((1, 2, 2), float(eval(code, space)), dtype=torch.float64))

    il = Noisy.from_folder(numbers, presort=True)
    with pytest.warns(UserWarning) as caught:
        values = {first(il) for _ in range(12)}
    assert len(values) > 6 and il.cache_info().cached == 0
    assert [
        "two different images for one item" in str(w.message) or "draws random" in str(w.message) for w in caught
    ] == [True]


def test_records_are_dropped_when_an_open_turns_out_to_be_random(numbers: Path) -> None:
    class Late(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px * (random.random() if int(Path(fn).stem) > 6 else 1))

    il = Late.from_folder(numbers, presort=True)
    with pytest.warns(UserWarning, match="draws random numbers"):
        for i in range(12):
            il[i]
    assert il.cache_info()[:2] == (0, 12) and il.cache_info().nbytes == 0
    assert il[0].shape and il.cache_info().cached == 0


def test_the_trial_for_random_results_has_no_side_effects(numbers: Path) -> None:
    calls: List[Any] = []

    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            calls.append(fn)
            self.n = getattr(self, "n", 0) + 1
            print("opening", fn)
            return open_image(fn)

    il = Own.from_folder(numbers, presort=True)
    seed(3)
    want = random.random(), np.random.rand(), float(torch.rand(1))
    seed(3)
    for i in range(12):
        il[i]
    assert calls == list(il.items) and il.n == 12
    assert (random.random(), np.random.rand(), float(torch.rand(1))) == want


def test_the_trial_does_not_hang_if_another_thread_holds_a_lock(numbers: Path, monkeypatch: Any) -> None:
    "The forked process would wait for ever: after `PATIENCE` seconds, the image is opened twice here."
    monkeypatch.setattr(forks, "PATIENCE", 0.2)
    lock, inside, leave = threading.Lock(), threading.Event(), threading.Event()

    class Locked(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            if os.getpid() != here:
                with lock:
                    return open_image(fn)
            return open_image(fn)

    def hold() -> None:
        with lock:
            inside.set()
            leave.wait()

    here, thread = os.getpid(), threading.Thread(target=hold)
    thread.start()
    inside.wait()
    il = Locked.from_folder(numbers, presort=True)
    try:
        il[0]
    finally:
        leave.set()
        thread.join()
    assert il.cache_info().cached == 1


# -- loading ----------------------------------------------------------------------------------------------------


class Recording(m.MemoryImageList):
    def open(self, fn: Any) -> Image:
        with (self.path / "log").open("a") as log:
            log.write(f"{os.getpid()} {threading.current_thread().name} {fn}\n")
        return open_image(fn)


def lines(folder: Path) -> List[List[str]]:
    return [line.split() for line in (folder / "log").read_text().splitlines()]


@pytest.mark.parametrize("n_workers", [None, 0, 1, 3])
def test_a_custom_open_is_never_called_in_a_thread(n_workers: Any, numbers: Path) -> None:
    il = Recording.from_folder(numbers, presort=True).load_data(n_workers=n_workers, progress=False)
    assert il.loaded and il.cache_info().misses == 0
    found = lines(numbers)
    assert {name for _, name, _ in found} == {threading.current_thread().name}
    kept = {pid for pid, _, _ in found} - {str(os.getpid())}
    by_us = [fn for pid, _, fn in found if pid == str(os.getpid())]
    assert sorted(by_us) == (sorted(map(str, il.items)) if not n_workers else []) and bool(kept)
    stock = ImageList.from_folder(numbers, presort=True)
    for i in range(12):
        assert_same_item(il[i], stock[i])


def test_a_custom_open_of_targets_is_never_called_in_a_thread(numbers: Path) -> None:
    class Targets(m.MemoryImageLabelList):
        names: List[str] = []  # noqa: RUF012

        def open(self, fn: Any) -> Image:
            self.names.append(threading.current_thread().name)
            return open_image(fn)

    lists = m.MemoryImageImageList.from_folder(numbers).split_none().label_from_func(noop, label_cls=Targets)
    assert lists.load_data(n_workers=2, progress=False).loaded and not Targets.names
    lists.train.y.purge()
    lists.load_data(progress=False)
    assert set(Targets.names) == {threading.current_thread().name}


@pytest.mark.parametrize("n_workers", [0, 2])
def test_errors_of_a_custom_open_are_listed(n_workers: int, numbers: Path, capsys: Any) -> None:
    class Picky(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            if int(Path(fn).stem) in (4, 9):
                raise ValueError(f"not {Path(fn).name}")
            if int(Path(fn).stem) == 7 and os.getpid() != here and n_workers:
                os.kill(os.getpid(), signal.SIGKILL)
            return open_image(fn)

    here = os.getpid()
    il = Picky.from_folder(numbers, presort=True)
    with pytest.raises(m.ImageLoadError) as caught:
        il.load_data(n_workers=n_workers)
    errors = {Path(item).stem: reason for item, reason in caught.value.errors}
    assert errors.pop("04") == "ValueError: not 04.png" and errors.pop("09") == "ValueError: not 09.png"
    assert errors == ({"07": "its process has ended: signal 9"} if n_workers else {})
    assert il.cache_info()[:2] == (12 - len(caught.value.errors), 12)
    assert "12 images" in capsys.readouterr().out


def test_warnings_of_forked_processes_are_shown_once(numbers: Path) -> None:
    class Tuples(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return (open_image(fn), 1)

        def get(self, i: int) -> Any:
            return self.open(self.items[i])

    il = Tuples.from_folder(numbers, presort=True)
    with pytest.warns(UserWarning) as caught:
        il.load_data(n_workers=2, progress=False)
    assert len(caught) == 1 and "returns a tuple" in str(caught[0].message) and caught[0].filename == __file__


def test_ctrl_c_ends_the_processes_and_keeps_what_is_loaded(numbers: Path) -> None:
    code = f"""
import os, signal, sys, threading, time
from fastai.vision import *
from memlist import *
class Slow(MemoryImageList):
    def open(self, fn):
        if int(fn.stem) > 7 and os.getpid() != parent:
            os.kill(parent, signal.SIGINT)
            time.sleep(600)
        return open_image(fn)
parent = os.getpid()
il = Slow.from_folder({str(numbers)!r}, presort=True)
try:
    il.load_data(n_workers=2, progress=False)
except KeyboardInterrupt:
    print("interrupted", il.cache_info().cached)
for i in range(12): il[i]
print(il.loaded)
try: os.waitpid(-1, 0)
except ChildProcessError: print("no children")
"""
    done = fresh.run(code)
    said = done.stdout.split()
    assert said[0] == "interrupted" and 4 <= int(said[1]) <= 8 and said[2:] == ["True", "no", "children"], done.stderr


@pytest.mark.parametrize("n_workers", [0, 2])
def test_processes_may_share_one_file_handle(n_workers: int, numbers: Path) -> None:
    "Raw records are read with `seek` and `read` from one file that was opened before the fork."
    table = np.stack([np.asarray(PIL.Image.open(f)) for f in sorted(numbers.iterdir())])
    (numbers / "raw").write_bytes(table.tobytes())

    class Raw(m.MemoryImageList):
        def __init__(self, items: Any, **kwargs: Any) -> None:
            super().__init__(items, **kwargs)
            self.file = (self.path / "raw").open("rb")

        def open(self, i: Any) -> Image:
            self.file.seek(i * table[0].nbytes)
            parts = [self.file.read(table[0].nbytes // 10) for _ in range(10)]
            return Image(
                torch.from_numpy(np.frombuffer(b"".join(parts), np.uint8).reshape(20, 20, 3).astype(np.float32))
            )

    for _ in range(5):
        il = Raw(range(12), path=numbers).load_data(n_workers=n_workers, progress=False)
        data = il.split_none().label_const(0).databunch(bs=2, num_workers=2, no_check=True)
        assert il.loaded
        other = Raw(range(12), path=numbers)  # lazily, in workers
        list(torch.utils.data.DataLoader(other, batch_size=1, num_workers=2, collate_fn=list))
        assert len(data.train_ds) == 12 and other.loaded
        for i in range(12):
            for one in (il, other):
                assert np.array_equal(one[i].px.numpy(), table[i].astype(np.float32))


def test_a_forked_process_does_not_move_its_parents_files(numbers: Path) -> None:
    class File(m.MemoryImageList):
        def open(self, k: Any) -> Image:
            self.file.seek(int(k))
            return Image(torch.full((1, 2, 2), float(self.file.read(1)[0])))

    (numbers / "raw").write_bytes(bytes(range(99)))
    il = File(range(12), path=numbers)
    il.file = (numbers / "raw").open("rb", buffering=0)
    il.file.seek(50)

    def read() -> None:
        assert float(il[3].px[0, 0, 0]) == 3

    assert in_child(read) == 0 and il.file.tell() == 50
    il.load_data(n_workers=2, progress=False)
    assert il.file.tell() == 50 and il.loaded


# -- a custom `get` ---------------------------------------------------------------------------------------------


def test_get_runs_only_when_an_item_is_read_or_loaded(numbers: Path) -> None:
    calls: List[int] = []

    class Pairs(m.MemoryImageList):
        def get(self, i: int) -> Image:
            calls.append(i)
            other = self.open(self.items[(i + 1) % len(self.items)])
            return Image(torch.cat([super().get(i).px, other.px], 2))

    il = Pairs.from_folder(numbers, presort=True)
    assert il.cache_info()[:2] == (0, 12) and not il.loaded
    lists = il.split_by_idx([0]).label_const(0)
    data = lists.databunch(bs=2, num_workers=0, no_check=True, batch_tfms=True)
    assert data.cache_info()[:2] == (0, 12) and not data.loaded and not calls
    il[3]
    # Two images were opened, and eleven items were not read.
    assert il.cache_info()[:2] == (2, 13) and calls == [3]
    il[2]
    assert il.cache_info()[:2] == (3, 13)
    assert il[[3, 7]].cache_info()[:2] == (2, 3)  # a slice counts only its own items
    il.load_data(progress=False)
    assert il.cache_info()[:2] == (12, 12) and il.loaded and sorted(calls) == list(range(12))
    assert data.cache_info()[:2] == (12, 12) and data.loaded
    before = len(calls)
    il.load_data(progress=False)
    assert len(calls) == before
    il.purge()
    assert il.cache_info()[:2] == (0, 12) and len(calls) == before


def test_a_parent_knows_what_its_workers_have_read(numbers: Path) -> None:
    class Twice(m.MemoryImageList):
        def get(self, i: int) -> Image:
            self.open(self.items[-1])
            return super().get(i)

    il = Twice.from_folder(numbers, presort=True)
    data = il.split_by_idx([0]).label_const(0).databunch(bs=2, num_workers=2, no_check=True)
    for dl in (data.train_dl, data.valid_dl):
        list(dl)
    info = data.cache_info()
    # One item was left over, and counts as one image. If it is the last, its image was opened for the others.
    assert (info.cached, info.total) in ((11, 12), (12, 13))
    assert data.load_data(n_workers=2, progress=False).loaded


# -- a cache file -----------------------------------------------------------------------------------------------


class Versioned(MemoryShades):
    cache_version = "1"


def test_without_a_version_results_stay_in_memory_with_one_warning(numbers: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning) as caught:
        il = loaded(MemoryShades, numbers, cache_file=tmp_path / "cache")
        il.split_none()
        loaded(MemoryShades, numbers)
    assert len(caught) == 1 and 'cache_version = "1"' in str(caught[0].message)
    assert il.loaded and il.store.cache_file is None and not (tmp_path / "cache").exists()


def test_with_a_version_results_are_kept_for_the_next_session(numbers: Path, tmp_path: Path) -> None:
    def session(cls: Any, **kwargs: Any) -> Any:
        gc.collect()
        return cls.from_folder(numbers, presort=True, cache_file=tmp_path / "cache", **kwargs)

    first_one = session(Versioned).load_data(progress=False)
    assert first_one.loaded and first_one.store.cache_file == str(tmp_path / "cache")
    del first_one
    il = session(Versioned)
    assert il.loaded and first(il) == 0.5 and il.cache_info().misses == 0
    assert il[[0, 2]].loaded
    # Another argument, another table, another version: other records.
    assert session(Versioned, shade=0.25).cache_info().cached == 0
    il.inner_df = pd.DataFrame({"a": [1]})
    assert il.cache_info().cached == 0
    two = type("Versioned", (MemoryShades,), {"cache_version": "2", "__module__": __name__})
    assert session(two).cache_info().cached == 0
    stock = m.MemoryImageList.from_folder(numbers, presort=True, cache_file=tmp_path / "cache").load_data(
        progress=False
    )
    assert stock.store is session(Versioned).store and session(Versioned).loaded


def test_records_in_a_file_are_not_served_if_an_open_turns_out_to_be_random(numbers: Path, tmp_path: Path) -> None:
    class Late(m.MemoryImageList):
        cache_version = "1"

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px * (random.random() if int(Path(fn).stem) > 6 else 1))

    il = Late.from_folder(numbers, presort=True, cache_file=tmp_path / "cache")
    with pytest.warns(UserWarning, match="draws random numbers"):
        for i in range(12):
            il[i]
    hits = il.cache_info().hits
    for i in range(12):
        il[i]
    assert il.cache_info().hits == hits == 0


def test_a_changed_source_is_opened_again_despite_a_cache_file(numbers: Path, tmp_path: Path) -> None:
    class Files(m.MemoryImageList):
        cache_version = "1"

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px / 2)

    il = loaded(Files, numbers, cache_file=tmp_path / "cache")
    changed = il.items[3]
    photo(77, 20, 20).save(changed)
    os.utime(changed, ns=(5, 5))
    again = Files.from_folder(numbers, presort=True, cache_file=tmp_path / "cache")  # in the same session
    assert torch.equal(again[3].px, open_image(changed).px / 2)


# -- unusual code -----------------------------------------------------------------------------------------------


def mixed(cls: Any) -> Any:
    return type(f"Memory{cls.__name__}", (m.InMemory, cls), {})


def assert_equal_items(ours: Any, stock: Any, passes: int = 2) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(passes):
            for i in range(len(stock.items)):
                assert_same_item(ours[i], stock[i])


def test_open_sees_attributes_that_a_custom_getitem_sets(numbers: Path) -> None:
    class Own(ImageList):
        def __getitem__(self, i: Any) -> Any:
            if isinstance(i, int):
                self.at = i
            found = super().__getitem__(i)
            return Image(found.px / 2) if isinstance(found, Image) else found

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px * (1 + self.at))

    stock = Own.from_folder(numbers, presort=True)
    ours = mixed(Own).from_folder(numbers, presort=True)
    over = type("Over", (m.MemoryImageList,), {k: v for k, v in vars(Own).items() if k == "open"})
    assert_equal_items(ours, stock)
    assert ours.cache_info().hits == 12 and over
    labelled = [il.split_none().label_const(0).train for il in (ours, stock)]
    assert_same_item(labelled[0][3][0], labelled[1][3][0])


def test_open_and_get_may_take_more_arguments(numbers: Path) -> None:
    class Own(ImageList):
        def open(self, fn: Any, k: int = 1) -> Image:
            return Image(open_image(fn).px * k)

        def get(self, i: int, k: int = 5) -> Image:
            return self.open(self.items[i], k=k)

    stock = Own.from_folder(numbers, presort=True)
    for ours in (mixed(Own), type("Over", (m.MemoryImageList,), {"open": Own.open, "get": Own.get})):
        il = ours.from_folder(numbers, presort=True)
        with pytest.warns(UserWarning, match="because it is called with more than an item"):
            assert_same_item(il[0], stock[0])
        assert_equal_items(il, stock)
        assert torch.equal(il.get(2, 3).px, stock.get(2, 3).px) and torch.equal(
            il.open(il.items[1]).px, stock.open(il.items[1]).px
        )


def test_a_constructor_may_open_images(numbers: Path) -> None:
    class Own(ImageList):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if len(self.items):
                self.mean = float((self.open(self.items[0]).px + self[1].px[:, :20, :20]).mean())

        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px - vars(self).get("mean", 0))

    assert_equal_items(mixed(Own).from_folder(numbers, presort=True), Own.from_folder(numbers, presort=True))


class Lut:
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor


@pytest.mark.parametrize("value", [Lut(7), lambda x: x * 7, [7], np.full(3, 7.0)])
def test_a_slice_with_another_attribute_value_does_not_share(value: Any, numbers: Path) -> None:
    default = {Lut: Lut(), list: [1], np.ndarray: np.ones(3)}.get(type(value), lambda x: x)

    class Own(ImageList):
        def __init__(self, items: Any, lut: Any = default, **kwargs: Any) -> None:  # `lut` is not in copy_new
            super().__init__(items, **kwargs)
            self.lut = lut

        def open(self, fn: Any) -> Image:
            factor = (
                self.lut.factor if isinstance(self.lut, Lut) else self.lut(1) if callable(self.lut) else self.lut[0]
            )
            return Image(torch.full((1, 2, 2), float(factor)))

    il = mixed(Own)(sorted(numbers.iterdir()), path=numbers, lut=value)
    assert (first(il), first(il[:3])) == (7.0, 1.0)
    il.lut = default
    assert (first(il), first(il[:3])) == (1.0, 1.0)


def test_an_attribute_changed_in_place_and_set_again_is_noticed(numbers: Path) -> None:
    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return Image(torch.full((1, 2, 2), float(sum(self.w))))

    il = Own.from_folder(numbers)
    il.w = [1]
    assert first(il) == 1
    il.w += [5]
    assert first(il) == 6


def test_handles_that_cannot_be_duplicated_are_not_moved(numbers: Path) -> None:
    "The trial moves neither a file that is open for writing nor a socket."
    (numbers / "raw").write_bytes(b"".join(bytes([k]) * 3000 for k in range(12)))

    class File(ImageList):
        def open(self, k: Any) -> Image:
            self.file.seek(int(k) * 3000)
            return Image(torch.full((1, 2, 2), float(np.frombuffer(self.file.read(3000), np.uint8).mean())))

    lists = [cls(range(12), path=numbers) for cls in (mixed(File), File)]
    for il in lists:
        il.file = (numbers / "raw").open("r+b")
    assert_equal_items(*lists)

    here, there = __import__("socket").socketpair()

    class Asks(m.MemoryImageList):
        def open(self, k: Any) -> Image:
            here.sendall(b"?")
            return Image(torch.full((1, 2, 2), float(int(here.recv(1)[0]) + int(k))))

    def answer() -> None:
        while there.recv(1):
            count.append(1)
            there.sendall(b"\x05")

    count: List[int] = []
    thread = threading.Thread(target=answer)
    thread.start()
    try:
        il = Asks(range(12), path=numbers)
        assert [first(il) - 0, float(il[3].px[0, 0, 0])] == [5, 8]
        assert len(count) in (2, 3, 4) and il.cache_info().cached == 2
    finally:
        here.close()
        thread.join()
        there.close()


def test_an_open_that_fails_in_a_fork_is_run_twice_here(numbers: Path) -> None:
    rng, pid, calls = np.random.default_rng(0), os.getpid(), []

    class Cuda(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            if os.getpid() != pid:
                raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
            calls.append(fn)
            return Image(torch.full((1, 2, 2), rng.random() if self.noisy else 1.0))

    il = Cuda.from_folder(numbers, presort=True)
    il.noisy = True
    with pytest.warns(UserWarning, match="two different images"):
        assert len({first(il) for _ in range(4)}) == 4
    il.noisy = False
    calls.clear()
    for _ in range(2):
        for i in range(12):
            il[i]
    assert il.loaded and len(calls) == 12 + 4


def test_a_trial_that_hangs_is_started_only_once(numbers: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(forks, "PATIENCE", 0.3)
    from concurrent.futures import ThreadPoolExecutor

    asked: List[Any] = []
    ask = forks.ask
    monkeypatch.setattr(forks, "ask", lambda question: (asked.append(1), ask(question))[1])
    with ThreadPoolExecutor(2) as pool:
        [one.result() for one in [pool.submit(int), pool.submit(int)]]

        class Own(m.MemoryImageList):
            def open(self, fn: Any) -> Image:
                return pool.submit(open_image, fn).result()

        il = Own.from_folder(numbers, presort=True)
        for i in range(12):
            il[i]
        assert il.loaded and len(asked) == 1


def test_autoreload_reaches_subclasses_of_ours(numbers: Path) -> None:
    "autoreload replaces the code and the attributes of a function, but not its closure."
    spaces: List[Any] = [{"m": m, "Image": Image, "torch": torch} for _ in range(2)]
    for space, value in zip(spaces, ("1.0", "3.0")):
        exec(
            "class M(m.MemoryImageList):\n    def open(self, fn):\n"
            f"        return Image(torch.full((1, 2, 2), {value}))\n"
            f"    def get(self, i):\n        return Image(super().get(i).px * {value})",
            space,
        )
    old, new = (space["M"] for space in spaces)
    il = old.from_folder(numbers)
    assert first(il) == 1
    for name in ("open", "get"):
        vars(old)[name].__code__ = vars(new)[name].__code__
        vars(old)[name].__dict__.update(vars(new)[name].__dict__)
    assert first(old.from_folder(numbers)) == 9 and first(il) == 9


def test_long_arrays_and_series_are_part_of_the_key_in_a_file(numbers: Path, tmp_path: Path) -> None:
    class Rows(m.MemoryImageList):
        cache_version = "1"

        def open(self, fn: Any) -> Image:
            row = self.inner_df.set_index("fn").px[Path(str(fn)).name]
            return Image(torch.full((1, 2, 2), float(row[1500]) + float(self.more.iloc[0])))

    def made(k: int, more: float) -> Any:
        frame = pd.DataFrame({"fn": list("ab"), "px": [np.r_[np.zeros(1000), np.full(1000, k), np.zeros(1000)]] * 2})
        il = Rows.from_df(frame, tmp_path, cols="fn", cache_file=tmp_path / "cache")
        il.more = pd.Series([more])
        return il

    assert [first(made(*pair)) for pair in ((1, 0.5), (2, 0.5), (1, 0.25), (1, 0.5))] == [1.5, 2.5, 1.25, 1.5]
    assert made(1, 0.5).cache_info()[:2] == (1, 2)


def test_attributes_that_open_keeps_do_not_stop_sharing(numbers: Path) -> None:
    class Lazily(m.MemoryImageList):
        handle = None

        def open(self, fn: Any) -> Image:
            if self.handle is None:
                self.handle = {"opened": object()}
            return open_image(fn)

    lists = loaded(Lazily, numbers).split_by_idx([1, 2]).label_const(0)
    assert lists.cache_info()[:2] == (12, 12)


def test_a_get_may_open_in_threads(numbers: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    class Threads(m.MemoryImageList):
        def get(self, i: int) -> Image:
            with ThreadPoolExecutor(2) as pool:
                one, two = pool.map(self.open, [self.items[i], self.items[i - 1]])
            return Image(one.px + two.px)

    il = Threads.from_folder(numbers, presort=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for i in range(12):
                il[i]
    assert il.cache_info().misses == 12 and il.cache_info().total == 12


def test_load_data_uses_a_get_that_was_assigned_to_one_list(numbers: Path) -> None:
    il = m.MemoryImageList.from_folder(numbers, presort=True)
    il.get = lambda i: il.open(il.items[i])
    assert il.cache_info()[:2] == (0, 12) and not il.loaded
    assert il.load_data(progress=False).loaded and il.cache_info()[:2] == (12, 12)


def test_inherited_opens_and_descriptors_equal_stock(numbers: Path) -> None:
    import functools

    class One(ImageList):
        def open(self, fn: Any) -> Image:
            return open_image(fn)

    class Two(One):
        def open(self, fn: Any) -> Image:
            return Image(open_image(fn).px / 2)

        def get(self, i: int) -> Image:
            return Image(self.open(self.items[i]).px + One.open(self, self.items[i]).px)

    class Made(ImageList):
        def scaled(self, factor: float, fn: Any) -> Image:
            return Image(open_image(fn).px * factor)

        open = functools.partialmethod(scaled, 0.5)

    class Dispatched(ImageList):
        @functools.singledispatchmethod
        def open(self, fn: Any) -> Image:
            return open_image(fn)

    for stock in (Two, Made, Dispatched):
        ours = mixed(stock).from_folder(numbers, presort=True)
        assert_equal_items(ours, stock.from_folder(numbers, presort=True))
        assert ours.cache_info().misses == 12 and ours.loaded


def test_child_processes_may_be_reaped_by_others(numbers: Path) -> None:
    class Dies(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            if os.getpid() != pid:
                os._exit(3)
            return open_image(fn)

    pid, before = os.getpid(), signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        il = Dies.from_folder(numbers, presort=True)
        il[0]
        with pytest.raises(m.ImageLoadError, match="its process has ended"):
            Dies.from_folder(numbers, presort=True).load_data(n_workers=2, progress=False)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert il.cache_info().cached == 1


def test_output_of_forked_processes_is_printed_once(numbers: Path) -> None:
    code = f"""
import sys
from fastai.vision import *
from memlist import *
class Prints(MemoryImageList):
    def open(self, fn):
        sys.stdout.write(f"opening {{fn.name}}\\n")
        return open_image(fn)
sys.stdout.write("before\\n")
Prints.from_folder({str(numbers)!r}, presort=True).load_data(n_workers=2, progress=False)
"""
    done = fresh.run(code)
    assert sorted(done.stdout.split("\n")[:-1]) == ["before", *(f"opening {i:02}.png" for i in range(12))], done.stderr


def test_an_open_that_is_no_method_warns_when_the_list_is_built(numbers: Path) -> None:
    static = type("Static", (m.MemoryImageList,), {"open": staticmethod(open_image)})
    with pytest.warns(UserWarning, match="its images are not kept, since `open` was assigned"):
        il = static.from_folder(numbers, presort=True)
    assert_same_item(il[0], ImageList(il.items)[0])


# -- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("cache", {}), ("cache", 1), ("cache_version", 1), ("cache_version", b"1")]
)
def test_invalid_class_attributes_are_refused(name: str, value: Any, numbers: Path) -> None:
    cls = type("Odd", (m.MemoryImageList,), {name: value})
    with pytest.raises(TypeError, match=rf"Odd.{name} is "):
        cls.from_folder(numbers)


@pytest.mark.parametrize("own", [False, True])
def test_cache_false_caches_nothing_without_a_warning(own: bool, numbers: Path) -> None:
    body = {"cache": False, **({"open": lambda self, fn: open_image(fn)} if own else {})}
    cls = type("Never", (m.MemoryImageList,), body)
    stock = ImageList.from_folder(numbers, presort=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*pin_memory")
        il = cls.from_folder(numbers, presort=True)
        il.load_data(progress=False)
        for _ in range(2):
            assert_same_item(il[0], stock[0])
        lists = il.split_none().label_const(0).transform(None, size=16)
        data = lists.databunch(bs=4, num_workers=0, batch_tfms=True, no_check=True)
        assert data.one_batch()[0].shape[0] == 4
    assert il.cache_info()[:2] == (0, 12) and len(il.store) == 0 and not il.loaded


def odd_opens(here: Any) -> List[Any]:
    def none(self: Any, fn: Any) -> Any:
        return None

    def changing(self: Any, fn: Any) -> Any:
        return open_image(fn) if int(Path(fn).stem) % 2 else open_image(fn).px

    def forking(self: Any, fn: Any) -> Any:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        return open_image(fn)

    def editing(self: Any, fn: Any) -> Any:
        self.items = self.items.copy()
        return open_image(fn)

    return [none, changing, forking, editing]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("n_workers", [0, 2])
def test_odd_opens_behave_as_in_stock(which: int, n_workers: int, numbers: Path) -> None:
    def get(self: Any, i: int) -> Any:
        return self.open(self.items[i])

    body = {"open": odd_opens(None)[which], "get": get}
    ours = type("Odd", (m.MemoryImageList,), dict(body)).from_folder(numbers, presort=True)
    stock = type("Stock", (ImageList,), dict(body)).from_folder(numbers, presort=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours.load_data(n_workers=n_workers, progress=False)
        for _ in range(2):
            for i in range(12):
                mine, theirs = ours[i], stock[i]
                assert type(mine) is type(theirs)
                if theirs is not None:
                    assert torch.equal(getattr(mine, "px", mine), getattr(theirs, "px", theirs))
        assert ours.load_data(n_workers=n_workers, progress=False).loaded is (which != 0)


def test_errors_of_open_are_raised_on_every_read(numbers: Path) -> None:
    class Raises(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            raise KeyError(fn)

    il = Raises.from_folder(numbers, presort=True)
    for _ in range(2):
        with pytest.raises(KeyError, match=r"00\.png"):
            il[0]
    with pytest.raises(m.ImageLoadError, match="12 images could not be loaded"):
        il.load_data(progress=False)


def test_an_open_that_calls_load_data_is_refused(numbers: Path) -> None:
    class Loads(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            self.load_data(progress=False)
            return open_image(fn)

    with pytest.raises(RuntimeError, match=r"Loads.open calls load_data\(\)"):
        Loads.from_folder(numbers)[0]


def test_items_may_be_rows_with_dates(numbers: Path) -> None:
    frame = pd.DataFrame({"name": [f.name for f in sorted(numbers.iterdir())], "when": pd.Timestamp("2026-01-01")})

    class Rows(m.MemoryImageList):
        def open(self, row: Any) -> Image:
            return open_image(self.path / row.name)

    items = np.empty(12, object)
    items[:] = list(frame.itertuples())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        il = Rows(items, path=numbers).load_data(progress=False)
    assert il.loaded and torch.equal(il[3].px, open_image(numbers / "03.png").px)


def test_items_that_cannot_be_compared_are_read_as_in_stock(numbers: Path) -> None:
    class Odd:
        def __init__(self, file: Path) -> None:
            self.file = file

        def __eq__(self, other: Any) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    class Own(ImageList):
        def open(self, item: Any) -> Image:
            return open_image(item.file)

    class Memory(m.InMemory, Own):
        pass

    items = np.empty(12, object)
    items[:] = [Odd(file) for file in sorted(numbers.iterdir())]
    ours, stock = Memory(items, path=numbers), Own(items, path=numbers)
    with pytest.warns(UserWarning, match="its items can't be told apart: a .*Odd"):
        for i in range(12):
            assert_same_item(ours[i], stock[i])
    lists = ours.split_by_idx([0]).label_const(0)
    assert_same_item(lists.train[0][0], stock[1])


def test_batch_tfms_raises_nothing_that_stock_does_not(numbers: Path) -> None:
    "An `open` may name a generator, a frame, or a variable that has the name of an attribute."
    rng, frame, data = random.Random(0), pd.DataFrame({"a": [slice(0)]}), io.BytesIO()

    class Names(ImageList):
        def open(self, fn: Any) -> Image:
            rng, frame, data  # noqa: B018
            return open_image(fn)

    class Memory(m.InMemory, Names):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*pin_memory")
        lists = Memory.from_folder(numbers).split_none().label_from_func(lambda o: 0)
        made = lists.databunch(bs=2, num_workers=0, batch_tfms=True)
        assert made.one_batch()[0].shape == (2, 3, 20, 20) and made.load_data(progress=False).loaded


# -- kinds of results -------------------------------------------------------------------------------------------


class Methods(Image):
    def brightest(self) -> float:
        return float(self.px.max())


class FloatMask(ImageSegment):
    @property
    def data(self) -> Any:
        return self.px


def contents(px: torch.Tensor) -> Any:
    return px.dtype, tuple(px.shape), px.stride(), px.contiguous().numpy().tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda px: Methods(px),
        lambda px: FloatMask(px[:1]),
        lambda px: Image(px.double()),
        lambda px: Image((px * 255).to(torch.int64)),
        lambda px: Image(px[:1].expand(3, -1, -1)),
        lambda px: Image(px[0][None]),
        lambda px: Image(px[0]),
        lambda px: Image(px[None]),
        lambda px: Image(px[:, 3:9, ::2]),
        lambda px: Image(px.permute(2, 0, 1)),
        lambda px: Image(px.permute(2, 0, 1).contiguous()[:, :1]),
        lambda px: Image(px.half()),
        lambda px: Image(px > 0.5),
        lambda px: px,
        lambda px: px[:, 0].t(),
        lambda px: px.numpy(),
        lambda px: np.asfortranarray(px.numpy()),
        lambda px: px.numpy().astype(np.int32)[..., ::-1],
        lambda px: np.ones(()),
        lambda px: px.numpy()[:, ::-1, ::-2],
        lambda px: torch.tensor(3.0),
    ],
)
def test_every_kind_of_result_is_restored_exactly(make: Any, numbers: Path) -> None:
    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            return make(open_image(fn).px)

        def get(self, i: int) -> Any:
            return self.open(self.items[i])

    il = Own.from_folder(numbers, presort=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*pin_memory")
        first_one, second = il[0], il[0]
    assert il.cache_info().hits == 1 and type(first_one) is type(second)
    one, two = (getattr(thing, "px", thing) for thing in (first_one, second))
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
        assert one.strides == two.strides
        two[...] = 0
    else:
        assert contents(one) == contents(two)
        assert vars(first_one).keys() == vars(second).keys() if isinstance(second, Image) else True
        if two.numel() and 0 not in two.stride():
            two.zero_()
    again = getattr(il[0], "px", il[0])
    assert np.array_equal(np.asarray(again), np.asarray(one))


def test_a_local_image_class_is_found_by_another_process(numbers: Path) -> None:
    "A local image class is looked up by name; if two classes have that name, the image is opened again."

    def make() -> Any:
        class Local(Image):
            pass

        return Local

    here = make()

    class Own(m.MemoryImageList):
        def open(self, fn: Any) -> Image:
            return open_image(fn, cls=here)

    il = Own.from_folder(numbers, presort=True).load_data(n_workers=1, progress=False)
    assert type(il[0]) is here and il.cache_info().hits == 1
    other = make()
    second = Own.from_folder(numbers, presort=True).load_data(n_workers=1, progress=False)
    assert type(second[0]) is here and second.cache_info().misses == 1  # opened again
    assert type(second[1]) is here and second.cache_info().hits == 1
    del other


# -- fastai's own open ------------------------------------------------------------------------------------------


def test_a_new_list_checks_each_file_once(numbers: Path, monkeypatch: Any) -> None:
    "Promise 11: a new list checks a file at the first read, and all lists see the result."
    older = loaded(m.MemoryImageList, numbers)
    changed, gone = older.items[3], older.items[5]
    old = older[3].px
    photo(77, 20, 20).save(changed)
    os.utime(changed, ns=(5, 5))
    gone.unlink()
    assert torch.equal(older[3].px, old) and older[5].shape  # epochs are all the same
    later, stock = (cls(older.items, path=numbers) for cls in (m.MemoryImageList, ImageList))
    assert_same_item(later[3], stock[3])
    with pytest.raises(FileNotFoundError):
        later[5]
    assert_same_item(older[3], stock[3])
    looks: List[Any] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **kw: (looks.append(os.fsdecode(path)), stat(path, **kw))[1])
    rest = [i for i in range(12) if i != 5]
    for _ in range(2):
        for i in rest:
            later[i]
    assert sorted(p for p in looks if p.endswith(".png")) == sorted(str(older.items[i]) for i in rest if i != 3)
    data = later[rest].split_none().label_const(0).transform(None, size=16)
    data = data.databunch(bs=3, num_workers=0, batch_tfms=True)
    photo(78, 20, 20).save(changed)
    os.utime(changed, ns=(6, 6))
    data.one_batch()
    again = m.MemoryImageList(older.items, path=numbers)
    batch = again[rest].split_none().label_const(0).databunch(bs=11, num_workers=0, batch_tfms=True, no_check=True)
    seed(1)
    pictures = batch.train_ds.x[3], ImageList(older.items, path=numbers)[3]
    assert_same_item(*pictures)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_new_list_checks_files_in_the_process_that_reads(start: str, numbers: Path) -> None:
    older = loaded(m.MemoryImageList, numbers)
    photo(77, 20, 20).save(older.items[3])
    os.utime(older.items[3], ns=(5, 5))
    later = m.MemoryImageList(older.items, path=numbers)
    process = multiprocessing.get_context(start).Process(target=read_all, args=(later,))
    process.start()
    process.join()
    assert later.cache_info().misses == 1
    assert torch.equal(later[3].px, open_image(older.items[3]).px) and later.cache_info().misses == 1


def read_all(il: Any) -> None:
    for i in range(len(il.items)):
        il[i]


def test_pixels_and_metadata_are_of_one_version_of_the_file(numbers: Path) -> None:
    from PIL import ImageOps

    file = numbers / "00.png"
    turned, stock = (
        cls([file], path=numbers, after_open=ImageOps.exif_transpose) for cls in (m.MemoryImageList, ImageList)
    )
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    photo(5, 20, 30).save(file, exif=exif)
    turned.load_data(progress=False)
    photo(6, 20, 30).save(file)  # upright
    os.utime(file, ns=(5, 5))
    m.MemoryImageList([file], path=numbers).load_data(progress=False)
    assert_same_item(turned[0], stock[0])


@pytest.mark.parametrize("how", ["another Pillow", "none that is known"])
def test_records_of_another_decoder_are_replaced(how: str, numbers: Path, tmp_path: Path, monkeypatch: Any) -> None:
    other = b"Pillow 1.0" if how == "another Pillow" else b""
    with monkeypatch.context() as patch:
        patch.setattr(mixin, "DECODER", other)
        il = loaded(m.MemoryImageList, numbers, cache_file=tmp_path / "cache")
        size = il.store.info().nbytes
        del il
    gc.collect()
    again = m.MemoryImageList.from_folder(numbers, presort=True, cache_file=tmp_path / "cache")
    for _ in range(2):
        for i in range(12):
            again[i]
    assert again.cache_info().misses == 12 and again.store.info().nbytes == size and again.loaded
    assert again.store.check() == []
    del again
    gc.collect()
    assert m.MemoryImageList.from_folder(numbers, cache_file=tmp_path / "cache").load_data(progress=False).loaded


@pytest.mark.parametrize("owner", [PIL.Image, PIL.Image.Image, PIL.ImageFile.ImageFile])
def test_images_of_a_patched_pillow_are_kept_apart(owner: Any, numbers: Path, monkeypatch: Any) -> None:
    name = {PIL.Image: "open", PIL.Image.Image: "convert"}.get(owner, "load")
    plain = loaded(m.MemoryImageList, numbers)
    want, function = plain[0].px.clone(), getattr(owner, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        return found.transpose(PIL.Image.FLIP_LEFT_RIGHT) if isinstance(found, PIL.Image.Image) else found  # type: ignore

    monkeypatch.setattr(owner, name, patched)
    mine = m.MemoryImageList.from_folder(numbers, presort=True)
    stock = ImageList.from_folder(numbers, presort=True)
    for _ in range(2):
        assert_same_item(mine[0], stock[0])
        assert_same_item(plain[0], stock[0])
    monkeypatch.undo()
    assert torch.equal(plain[0].px, want) and torch.equal(mine[0].px, want)


def test_truncated_images_follow_the_setting_of_pillow(numbers: Path, monkeypatch: Any) -> None:
    file = numbers / "cut.jpg"
    photo(3, 60, 80).save(file, quality=95)
    file.write_bytes(file.read_bytes()[:-900])
    ours, stock = (cls([file], path=numbers) for cls in (m.MemoryImageList, ImageList))
    monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for _ in range(2):
        assert_same_item(ours[0], stock[0])
    assert ours.cache_info().hits == 1
    monkeypatch.undo()
    with pytest.raises(OSError, match="truncated"):
        ours[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "I", "F", "YCbCr"])
@pytest.mark.parametrize("size", [(5, 4), (5, 1), (1, 4), (1, 1)])
def test_strides_equal_stock(mode: str, size: Any, tmp_path: Path) -> None:
    PIL.Image.fromarray(np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)).save(
        tmp_path / "a.png"
    )
    ours, stock = (
        cls([tmp_path / "a.png"], path=tmp_path, convert_mode=mode) for cls in (m.MemoryImageList, ImageList)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about stock's own array
        for _ in range(2):
            assert ours[0].px.stride() == stock[0].px.stride()
            assert_same_item(ours[0], stock[0])
    assert ours.cache_info().hits == 3


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("seconds", [10**10, 2**40, -(10**9)])
def test_file_times_beyond_64_bits_are_kept(named: bool, seconds: int, numbers: Path, tmp_path: Path) -> None:
    files = sorted(numbers.iterdir())
    os.utime(files[0], (seconds, seconds))
    if os.stat(files[0]).st_mtime_ns != seconds * 10**9:
        pytest.skip("this file system has no such times")
    kwargs = {"cache_file": tmp_path / "cache"} if named else {}
    for _ in range(2):
        ours = m.MemoryImageList(files, path=numbers, **kwargs).load_data(progress=False)
        assert_same_item(ours[0], ImageList(files, path=numbers)[0])
        assert ours.loaded and ours.store.check() == []
        del ours
        gc.collect()


def test_masks_of_a_patched_open_image_equal_stock(numbers: Path, monkeypatch: Any) -> None:
    masks = m.MemorySegmentationLabelList(sorted(numbers.iterdir()), classes=[0], path=numbers)
    stock = SegmentationLabelList(sorted(numbers.iterdir()), classes=[0], path=numbers)
    masks.load_data(progress=False)
    monkeypatch.setattr(fastai.vision.image, "open_image", lambda *a, **kw: ImageSegment(open_image(*a, **kw).px + 1))
    for _ in range(2):
        assert_same_item(masks[0], stock[0])
    assert isinstance(masks, ImageList) and not isinstance(masks, ImageImageList)
