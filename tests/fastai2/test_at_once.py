"""Files of a batch are looked up at once: the same images, draws and counts as one by one."""

from __future__ import annotations

import copy
import itertools
import random
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from conftest import seed
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageBlock,
    IndexSplitter,
    L,
    MaskBlock,
    PILImage,
    RandomResizedCrop,
    Resize,
    SkipItemException,
    Transform,
)
from fastai2_helpers import batches, both, classes, used
from fastai2_pipelines import label, mask, pictures, same

from memlist.fastai2 import MemoryImageBlock, MemoryMaskBlock, in_memory, work
from memlist.fastai2.memory import Memory
from memlist.store import ImageStore


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


def counted(dls: Any) -> Any:
    info = dls.cache_info()
    return info.hits, info.misses


def test_images_in_memory_are_not_looked_up_one_by_one(files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = in_memory(classes(files, path=files[0].parent)).load_data(progress=False)
    before = counted(ours)
    monkeypatch.setattr(ImageStore, "read", lambda *given: pytest.fail("looked up alone"))
    batches(ours)
    assert counted(ours) == (before[0] + 6 + 4, 0)  # of 8 to train on, 2 are dropped


@pytest.mark.parametrize("at_once", [True, False])
def test_load_data_loads_the_kernels(at_once: bool, files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    "So the first batch does not wait for them, nor does each forked worker."
    loaded: List[str] = []
    for name in ("prepare", "prepare_lookup"):
        monkeypatch.setattr(work, name, lambda name=name: loaded.append(name))
    in_memory(classes(files), batches=at_once).load_data(progress=False)
    assert loaded == ["prepare", "prepare_lookup"] * at_once


def test_hits_and_misses_are_counted_as_before(files: List[Path]) -> None:
    ours = in_memory(classes(files, bs=4, path=files[0].parent))
    batches(ours)
    assert counted(ours) == (0, len(files))
    batches(ours)
    assert counted(ours) == (len(files), len(files))


def _drawing(dl: Any) -> Any:
    "Yield indices, and draw for each, as a sampler of a user's may."
    for i in range(8):
        random.random()
        yield i


SAMPLERS: Dict[str, Callable[[Any], None]] = {
    "indices that draw": lambda dls: setattr(dls.train, "get_idxs", lambda: _drawing(dls.train)),
    "a sample that draws": lambda dls: setattr(dls.train, "sample", lambda: _drawing(dls.train)),
    "indices without an end": lambda dls: setattr(
        dls.train, "get_idxs", lambda: itertools.islice(itertools.count(), 7)
    ),
    "the same index": lambda dls: setattr(dls.train, "get_idxs", lambda: [3, 3, 3, 0, 3, 1]),
    "from the end": lambda dls: setattr(dls.train, "get_idxs", lambda: [-1, 2, -3, 0, -2, 1]),
    "beyond the end": lambda dls: setattr(dls.train, "get_idxs", lambda: [0, 1, 2, 3, 99, 4]),
    "floats": lambda dls: setattr(dls.train, "get_idxs", lambda: [0, 1.0, 2]),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(name: str, files: List[Path]) -> None:
    def use(dls: Any) -> Any:
        SAMPLERS[name](dls)
        made: List[Any] = []
        try:
            for batch in dls.train:
                made.append(batch)
        except Exception as error:
            made.append(f"{type(error).__name__}: {error}")
        return made

    both(lambda: classes(files), use, times=3, known=False)


class Swapping(Transform):
    "A getter of labels that puts other files in the place of those that follow."

    def __init__(self, files: List[Path]) -> None:
        super().__init__()
        self.files, self.lists = files, None

    def encodes(self, path: Path) -> str:
        if self.lists is not None:
            self.lists[0].items.reverse()
        return label(path)


def test_items_that_change_while_a_batch_is_made(files: List[Path]) -> None:
    def make() -> DataLoaders:
        block = DataBlock((ImageBlock, CategoryBlock), get_y=Swapping(files), splitter=IndexSplitter([0, 3]))
        dls = block.dataloaders(list(files), bs=3, num_workers=0, device="cpu", shuffle=False)
        dls.train.after_item.add(Resize(12))
        return dls

    def use(dls: Any) -> Any:
        lists = dls.train_ds.tls
        swap = next(f for f in lists[1].tfms.fs if isinstance(f, Swapping))
        made = [list(dls.train) for _ in range(2)]  # from then on all images are looked up at once
        swap.lists = lists
        made.append(list(dls.train))
        swap.lists = None
        return made

    both(make, use)


def test_items_that_are_left_out(files: List[Path]) -> None:
    def make() -> DataLoaders:
        def get_y(path: Path) -> str:
            if started and int(path.stem) % 3 == 1:
                raise SkipItemException
            return label(path)

        started: List[int] = []
        block = DataBlock((ImageBlock, CategoryBlock), get_y=get_y, item_tfms=Resize(12))
        dls = block.dataloaders(list(files), bs=3, num_workers=0, device="cpu")
        started.append(1)
        return dls

    both(make, batches)


@pytest.mark.parametrize("kind", [list, tuple, L])
def test_kinds_of_lists_of_items(kind: Any, files: List[Path]) -> None:
    def make() -> DataLoaders:
        block = DataBlock(
            (ImageBlock, CategoryBlock), get_y=label, get_items=lambda _: kind(files), item_tfms=Resize(9)
        )
        return block.dataloaders(".", bs=3, num_workers=0, device="cpu")

    assert both(make, batches).loaded


def test_threads_over_two_lists_get_their_own_images(files: List[Path]) -> None:
    "Both lists have the same length, so that a mix-up of their files would not show otherwise."
    splitter = IndexSplitter(list(range(6)))
    block = DataBlock((ImageBlock, CategoryBlock), get_y=label, splitter=splitter, item_tfms=Resize(12, "squish"))
    made = [block.dataloaders(files, bs=2, num_workers=0, device="cpu", shuffle=False) for _ in range(2)]
    ours = in_memory(made[1]).load_data(progress=False)
    wanted = [list(dl) for dl in made[0].loaders]
    found: List[List[Any]] = [[], []]
    start = threading.Barrier(2)

    def read(k: int) -> None:
        start.wait()
        for _ in range(20):
            found[k].append(list(ours.loaders[k].new()))

    threads = [threading.Thread(target=read, args=(k,)) for k in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    for k in range(2):
        assert len(found[k]) == 20
        for one in found[k]:
            same(one, wanted[k])


def of_masks(files: List[Path], image: Any, masks: Any) -> DataLoaders:
    seed(2)
    block = DataBlock((image, masks), get_y=mask, item_tfms=RandomResizedCrop(14), splitter=IndexSplitter([0, 3]))
    return block.dataloaders(files, bs=2, num_workers=0, device="cpu")


def test_images_and_masks_of_different_stores(files: List[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    "Purging one of them does not affect what is read from the other, and reads count for the store that they are from."
    stock = of_masks(files, ImageBlock, MaskBlock)
    ours = of_masks(files, MemoryImageBlock, MemoryMaskBlock).load_data(progress=False)
    batches(ours)
    opened = [next(f for f in tl.tfms.fs if hasattr(f, "memory")) for tl in ours.train_ds.tls]
    stores = [f.memory.store for f in opened]
    assert stores[0] is not stores[1]
    stores[1].purge()
    ours.load_data(progress=False)
    batches(ours)
    before = [store.reads()[0] for store in stores]
    monkeypatch.setattr(Memory, "image", lambda *given: pytest.fail("read again, as if the store had been purged"))
    mine = used(ours, batches)
    monkeypatch.undo()
    assert [store.reads()[0] - n for store, n in zip(stores, before)] == [12, 12]
    list(stock.train), list(stock.valid), list(stock.train), list(stock.valid)
    same(mine, used(stock, batches))


MIDWAY: Dict[str, Callable[[Any], None]] = {
    "the batch size": lambda dl: setattr(dl, "bs", 1),
    "the last batch": lambda dl: setattr(dl, "drop_last", not dl.drop_last),
    "how items are made": lambda dl: setattr(dl, "create_item", lambda s: dl.dataset[(s or 0) // 2]),
    "how batches are made": lambda dl: setattr(dl, "create_batch", lambda b: len(b)),
    "what batches retain": lambda dl: setattr(dl, "retain", lambda res, b: res),
    "a batch at a time": lambda dl: setattr(dl, "do_batch", lambda b: 3),
    "an item at a time": lambda dl: setattr(dl, "do_item", lambda s: None),
    "transforms of items": lambda dl: dl.after_item.add(Resize(7)),
    "all transforms of items": lambda dl: setattr(dl, "after_item", copy.deepcopy(dl.after_item)),
    "the dataset": lambda dl: setattr(dl, "dataset", dl.dataset),
}


@pytest.mark.filterwarnings("ignore:the batches of this")
@pytest.mark.parametrize("name", MIDWAY)
def test_a_loader_that_is_changed_between_two_batches(name: str, files: List[Path]) -> None:
    def use(dls: Any) -> Any:
        made: List[Any] = []
        for batch in dls.train:
            made.append(batch)
            if len(made) == 1:
                MIDWAY[name](dls.train)
        return made

    both(lambda: classes(files, bs=2, drop_last=False), use, times=1, known=False)


class Brighter(Transform):
    def encodes(self, x: PILImage) -> Any:
        return x.point(lambda value: value // 2 + 100)


class Noisy(Transform):
    order = 3

    def encodes(self, x: PILImage) -> Any:
        return x.point(lambda value: value ^ 1)


def test_a_warning_names_all_that_is_not_known(files: List[Path]) -> None:
    dls = in_memory(classes(files, [Brighter(), Resize(12), Noisy()]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        batches(dls)
    texts = [str(one.message) for one in said if "item by item" in str(one.message)]
    assert len(texts) == 1 and "the transform Brighter and the transform Noisy" in texts[0]
