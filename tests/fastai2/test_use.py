"""Whatever fastai 2 does with loaders gives the same with images in memory: learners, predictions, plots."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
from conftest import seed
from fastai.vision.all import (
    BBoxBlock,
    BBoxLblBlock,
    CategoryBlock,
    CropPad,
    DataBlock,
    DataLoaders,
    Datasets,
    ImageBlock,
    ImageDataLoaders,
    IndexSplitter,
    IntToFloatTensor,
    MaskBlock,
    MixUp,
    Normalize,
    PILImage,
    PILImageBW,
    PILMask,
    PointBlock,
    RandomResizedCropGPU,
    Resize,
    ToTensor,
    aug_transforms,
    imagenet_stats,
)
from fastai2_helpers import batches, both, classes, learner, used
from fastai2_pipelines import PILImageAlpha, boxes, label, mask, names, pictures, points, same

from memlist.fastai2 import MemoryImageBlock, MemoryMaskBlock


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


PIPELINES: Dict[str, Callable[[], Dict[str, Any]]] = {
    "presizing": lambda: {"item_tfms": Resize(46), "batch_tfms": aug_transforms(size=22, min_scale=0.75)},
    "normalized": lambda: {"batch_tfms": [*aug_transforms(), Normalize.from_stats(*imagenet_stats)]},
    "crops on the device": lambda: {"item_tfms": Resize(40), "batch_tfms": RandomResizedCropGPU(20)},
    "padded": lambda: {"item_tfms": CropPad(50)},
    "partial batches": lambda: {"drop_last": False, "bs": 5},
    "one at a time": lambda: {"bs": 1},
}


@pytest.mark.parametrize("name", PIPELINES)
def test_batches(name: str, files: List[Path]) -> None:
    assert both(lambda: classes(files, **PIPELINES[name]()), batches).loaded


def test_presizing_of_photographs(tmp_path: Path) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    for i, image in enumerate(sklearn.load_sample_images().images * 2):
        PIL.Image.fromarray(image).save(tmp_path / f"{i}.jpg")
    tfms = {"item_tfms": Resize(460), "batch_tfms": aug_transforms(size=64)}

    def make() -> DataLoaders:
        found = sorted(tmp_path.glob("*.jpg"))
        return ImageDataLoaders.from_path_func(
            tmp_path, found, label, valid_pct=0.5, seed=3, bs=2, num_workers=0, device="cpu", **tfms
        )

    both(make, batches)


def from_folder(files: List[Path]) -> DataLoaders:
    folder = files[0].parent.parent / "sorted"
    for path in files:
        (folder / label(path)).mkdir(parents=True, exist_ok=True)
        (folder / label(path) / path.name).write_bytes(path.read_bytes())
    return ImageDataLoaders.from_folder(
        folder, valid_pct=0.3, seed=2, item_tfms=Resize(20), bs=4, num_workers=0, device="cpu"
    )


def from_name_func(files: List[Path]) -> DataLoaders:
    return ImageDataLoaders.from_name_func(
        files[0].parent, files, lambda name: name[0], item_tfms=Resize(20), bs=4, num_workers=0, device="cpu", seed=1
    )


def grey(files: List[Path]) -> DataLoaders:
    return ImageDataLoaders.from_path_func(
        files[0].parent, files, label, img_cls=PILImageBW, item_tfms=Resize(20), bs=4, num_workers=0, seed=1
    )


def of_datasets(files: List[Path]) -> DataLoaders:
    lists = Datasets(files, [[PILImage.create], [mask, PILMask.create]], splits=[[*range(8)], [*range(8, 12)]])
    return lists.dataloaders(bs=3, after_item=[Resize(20), ToTensor], after_batch=IntToFloatTensor, num_workers=0)


@pytest.mark.parametrize("make", [from_folder, from_name_func, grey, of_datasets])
def test_loaders_made_in_any_way(make: Callable[[Any], DataLoaders], files: List[Path]) -> None:
    assert both(lambda: make(files), batches).loaded


def of_block(name: str, kept: bool, files: List[Path]) -> DataLoaders:
    image: Any = MemoryImageBlock if kept else ImageBlock
    masks: Any = MemoryMaskBlock if kept else MaskBlock
    made: Dict[str, Any] = {
        "image": ((image, CategoryBlock), {"get_y": label}),
        "grey": ((image(PILImageBW), CategoryBlock), {"get_y": label}),
        "alpha": ((image(PILImageAlpha), CategoryBlock), {"get_y": label}),
        "mask": ((image, masks(codes=list("abcde"))), {"get_y": mask}),
        "points": ((image, PointBlock), {"get_y": points}),
        "boxes": ((image, BBoxBlock, BBoxLblBlock), {"get_y": [boxes, names], "n_inp": 1}),
    }
    parts, getters = made[name]
    block = DataBlock(parts, splitter=IndexSplitter([0, 3, 6, 9]), item_tfms=Resize(24), **getters)
    return block.dataloaders(files, bs=3, num_workers=0, device="cpu")


@pytest.mark.parametrize("name", ["image", "grey", "alpha", "mask", "points", "boxes"])
def test_blocks_in_memory(name: str, files: List[Path]) -> None:
    seed(1)
    stock = of_block(name, False, files)
    seed(1)
    ours = of_block(name, True, files)
    for _ in range(2):
        same(used(ours, batches), used(stock, batches))
    assert ours.loaded and ours.cache_info().hits > 0


def rows(dls: Any) -> Any:
    return dls.valid_ds.items[:3] + dls.train_ds.items[:2]


USES: Dict[str, Callable[[Any], Any]] = {
    "fit": lambda dls: _fitted(learner(dls)),
    "predict": lambda dls: [list(learner(dls).predict(one)) for one in rows(dls)],
    "get_preds": lambda dls: list(learner(dls).get_preds(ds_idx=0)),
    "get_preds, decoded": lambda dls: list(learner(dls).get_preds(with_input=True, with_decoded=True)),
    "get_preds of new files": lambda dls: list(learner(dls).get_preds(dl=dls.test_dl(rows(dls), with_labels=True))),
    "tta": lambda dls: list(learner(dls).tta(n=2)),
    "test_dl": lambda dls: list(dls.test_dl(rows(dls))),
    "test_dl with labels": lambda dls: list(dls.test_dl(rows(dls), with_labels=True, bs=2)),
    "one_batch": lambda dls: list(dls.one_batch()),
    "validate": lambda dls: list(learner(dls).validate()),
    "mixup": lambda dls: _fitted(learner(dls, cbs=MixUp())),
    "lr_find": lambda dls: list(learner(dls).lr_find(show_plot=False, num_it=12)),
    "a new loader": lambda dls: list(dls.train.new(bs=2, shuffle=False)),
    "half precision": lambda dls: _fitted(learner(dls).to_fp16()),
}


def _fitted(learn: Any) -> List[Any]:
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2, 0.1)
    return [*learn.model.parameters(), [list(row) for row in learn.recorder.values]]


@pytest.mark.parametrize("name", USES)
def test_learner(name: str, files: List[Path]) -> None:
    tfms = {"batch_tfms": [*aug_transforms(size=14), Normalize.from_stats(*imagenet_stats)], "bs": 4}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(CUDA|scheduler|autocast)")
        both(lambda: classes(files, **tfms), USES[name])


def _drawn() -> List[Any]:
    "Return the pixels and titles of the figure that is open, and close it."
    axes = plt.gcf().axes
    found = [[one.get_title(), *(np.asarray(image.get_array()) for image in one.images)] for one in axes]
    plt.close("all")
    return found


SHOWS: Dict[str, Callable[[Any], Any]] = {
    "show_batch": lambda dls: dls.show_batch(max_n=3),
    "show_batch of valid": lambda dls: dls.valid.show_batch(max_n=3, nrows=1),
    "one image many times": lambda dls: dls.show_batch(max_n=3, unique=True),
    "show_results": lambda dls: learner(dls).show_results(max_n=3),
    "lr_find": lambda dls: learner(dls).lr_find(num_it=12),
}


@pytest.mark.parametrize("name", SHOWS)
def test_plots(name: str, files: List[Path]) -> None:
    def use(dls: Any) -> Any:
        SHOWS[name](dls)
        return _drawn()

    ours = both(lambda: classes(files, batch_tfms=aug_transforms(size=14), bs=4), use)
    seed(0)
    assert len(use(ours)) > 0
