"""`without`: DataLoaders go on without what could not be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from conftest import photo
from fastai.callback.data import PartialDL, WeightedDL
from fastai.vision.all import (
    CategoryBlock,
    ColReader,
    DataBlock,
    ImageBlock,
    ImageDataLoaders,
    IndexSplitter,
    Resize,
    ToTensor,
)
from fastai2_helpers import classes, learner
from fastai2_pipelines import label

from memlist import ImageLoadError, MemoryImageBlock, MemoryMaskBlock, in_memory


@pytest.fixture
def photos(tmp_path: Path) -> List[Path]:
    "Make twelve pictures, of which the third and the sixth can't be loaded."
    made = []
    for i in range(12):
        path = tmp_path / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        photo(i, 20 + i % 3, 24).save(path)
        made.append(path)
    for i in (2, 5):
        made[i].write_bytes(b"no picture")
    return made


def mended(dls: Any) -> Any:
    "Return the loaders after the lines that the error ends with."
    with pytest.raises(ImageLoadError) as caught:
        dls.load_data(progress=False)
    lines = str(caught.value).splitlines()
    assert lines[-4] == "" and "dls = dls.without(error)" in lines[-1]
    space = {"dls": dls}
    exec("\n".join(lines[-3:]), space)
    return space["dls"]


def seen(dl: Any) -> int:
    return sum(len(batch[0]) for batch in dl)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_printed_lines_mend_loaders_and_a_learner(photos: List[Path], workers: int) -> None:
    dls = in_memory(classes(photos, Resize(16), num_workers=workers, drop_last=False))
    learn = learner(dls)
    assert mended(dls) is dls and dls.loaded and dls.cache_info()[:2] == (10, 10)
    assert (len(dls.train_ds), len(dls.valid_ds)) == (6, 4) and not {*dls.train_ds.items, *dls.valid_ds.items} & {
        photos[2],
        photos[5],
    }
    assert (dls.train.n, dls.valid.n) == (6, 4) and seen(dls.valid) == 4
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
    assert [str(dls.vocab[y]) for _, y in dls.train_ds] == [label(path) for path in dls.train_ds.items]


def test_a_table_keeps_its_rows(photos: List[Path]) -> None:
    table = pd.DataFrame({"file": [str(path) for path in photos], "kind": [f"k{i % 3}" for i in range(12)]})
    block = DataBlock(
        (MemoryImageBlock(), CategoryBlock),
        get_x=ColReader("file"),
        get_y=ColReader("kind"),
        splitter=IndexSplitter([0, 4]),
        item_tfms=Resize(16),
    )
    dls = mended(block.dataloaders(table, bs=2, num_workers=0))
    assert len(dls.train_ds) == 8 and [*dls.train_ds.items["file"]] == [
        str(photos[i]) for i in (1, 3, 6, 7, 8, 9, 10, 11)
    ]
    assert [dls.vocab[y] for _, y in dls.train_ds] == [f"k{i % 3}" for i in (1, 3, 6, 7, 8, 9, 10, 11)]


def test_a_bad_mask_goes_with_its_image(photos: List[Path], tmp_path: Path) -> None:
    fine = [path for i, path in enumerate(photos) if i not in (2, 5)]
    masks = {}
    for i, path in enumerate(fine):
        masks[path] = tmp_path / f"mask{i}.png"
        PIL.Image.fromarray(np.full((20 + i % 3, 24), i, np.uint8)).save(masks[path])
    masks[fine[3]].write_bytes(b"no picture")
    block = DataBlock(
        (MemoryImageBlock(), MemoryMaskBlock()),
        get_y=lambda path: masks[path],
        splitter=IndexSplitter([0, 1]),
        item_tfms=Resize(16),
    )
    dls = mended(block.dataloaders(fine, bs=2, num_workers=0))
    assert len(dls.train_ds) == 7 and fine[3] not in dls.train_ds.items and dls.cache_info()[:2] == (18, 18)


def test_loaders_with_weights_and_partial_ones(photos: List[Path]) -> None:
    block = DataBlock((ImageBlock, CategoryBlock), get_y=label, splitter=IndexSplitter([0, 11]), item_tfms=Resize(16))
    weights = np.arange(12.0)
    dls = mended(in_memory(block.weighted_dataloaders(photos, weights, bs=2, num_workers=0)))
    left = weights[[1, 3, 4, 6, 7, 8, 9, 10]]
    assert isinstance(dls.train, WeightedDL) and np.allclose(dls.train.wgts, left / left.sum()) and seen(dls.train) == 8
    partial = block.datasets(photos).partial_dataloaders(9, bs=2, num_workers=0, after_item=[Resize(16), ToTensor()])
    assert isinstance(partial.train, PartialDL) and partial.train.partial_n == 9
    assert in_memory(partial).without([photos[2], photos[5]]).train.partial_n == 8


def test_loaders_that_share_a_dataset(photos: List[Path]) -> None:
    dls = in_memory(classes(photos, Resize(16)))
    dls.loaders.append(dls.train.new(shuffle=False, drop_last=False))
    dls.without(photos[2:3])
    assert [dl.n for dl in dls.loaders] == [7, 4, 7] and len(dls.train_ds) == 7


def test_one_loader_has_the_method_too(photos: List[Path]) -> None:
    dls = in_memory(classes(photos, Resize(16)))
    assert dls.train.without(photos[2:3]) is dls.train and dls.train.n == 7 and dls.valid.n == 4
    test = dls.test_dl(photos[:4])
    assert test.without([photos[2]]).n == 3 and seen(test) == 3


def test_a_path_that_is_misspelt_or_of_other_data(photos: List[Path]) -> None:
    dls = in_memory(classes(photos, Resize(16)))
    for wrong in ("nn/a/typo.png", [photos[2], Path("nn/a/typo.png")]):
        with pytest.raises(ValueError, match=r"these loaders: it does not open 'nn/a/typo.png', which"):
            dls.without(wrong)
    assert dls.train.n == 8 and dls.valid.n == 4
    error = ImageLoadError([("elsewhere.png", "broken"), (photos[2], "broken")])
    assert dls.without(error).train.n == 7 and dls.valid.n == 4
    assert dls.valid.without(error).n == 4


def test_nothing_would_be_left_or_nothing_is_in_memory(photos: List[Path]) -> None:
    dls = in_memory(classes(photos, Resize(16)))
    with pytest.raises(ValueError, match="has 4 items, and none would be left"):
        dls.without([photos[i] for i in (0, 3, 6, 9)])
    assert dls.valid.n == 4 and dls.train.n == 8
    with pytest.raises(TypeError, match="has no images in memory"):
        ImageDataLoaders.from_path_func(photos[0].parent, photos[6:], label, bs=2, num_workers=0).without([])
