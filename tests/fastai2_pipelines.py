"""Draw pipelines of fastai 2 at random, and compare batches bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import PIL.Image
import torch
from conftest import photo, seed
from fastai.vision.all import (
    BBoxBlock,
    BBoxLblBlock,
    CategoryBlock,
    CropPad,
    DataBlock,
    DataLoaders,
    Datasets,
    DihedralItem,
    FlipItem,
    ImageBlock,
    IndexSplitter,
    MaskBlock,
    PILImage,
    PILImageBW,
    PILMask,
    PointBlock,
    RandomCrop,
    RandomResizedCrop,
    RegressionBlock,
    Resize,
    TfmdLists,
    ToTensor,
)


class PILImageAlpha(PILImage):
    "Open images with their alpha."

    _open_args = {"mode": "RGBA"}  # noqa: RUF012  # as fastai writes it


def pictures(folder: Path, n: int = 12) -> List[Path]:
    "Write pictures of several sizes and formats, and a mask beside each; return their paths."
    masks = folder.parent / "masks"
    for one in (folder, masks):
        one.mkdir(parents=True, exist_ok=True)
    made = []
    rng = np.random.default_rng(3)
    for i in range(n):
        height, width = (int(rng.integers(20, 70)) for _ in range(2))
        image = photo(i, height, width)
        image = [image, image.convert("L"), image.convert("RGBA"), image.quantize(16)][i % 4 if i % 3 == 0 else 0]
        path = folder / f"{i:02}{'.jpg' if image.mode in ('RGB', 'L') and i % 2 else '.png'}"
        image.save(path)
        labels = rng.integers(0, 5, (height, width), dtype=np.uint8)
        PIL.Image.fromarray(labels).save(masks / f"{i:02}.png")
        made.append(path)
    return made


def label(path: Path) -> str:
    return "even" if int(path.stem) % 2 == 0 else "odd"


def number(path: Path) -> float:
    return float(path.stem)


def mask(path: Path) -> Path:
    return path.parent.parent / "masks" / f"{path.stem}.png"


def points(path: Path) -> Any:
    i = int(path.stem)
    return torch.tensor([[3.0 + i, 4.0], [10.0, 5.0 + i % 4]])


def boxes(path: Path) -> Any:
    i = int(path.stem)
    return [[1, 2, 12 + i, 14], [4, 4, 18, 19]][: 1 + i % 2]


def names(path: Path) -> Any:
    return ["cat", "dog"][: 1 + int(path.stem) % 2]


def _size(rng: random.Random) -> Any:
    return rng.choice([rng.randint(8, 80), (rng.randint(8, 60), rng.randint(8, 60))])


def _resamples(rng: random.Random) -> Tuple[int, int]:
    return rng.choice([2, 2, 2, 3, 1, 0, 4, 5]), rng.choice([0, 0, 0, 2])


def _resize(rng: random.Random) -> Any:
    method, pad = rng.choice(["squish", "crop", "crop", "pad"]), rng.choice(["zeros", "border", "reflection"])
    return Resize(_size(rng), method=method, pad_mode=pad, resamples=_resamples(rng))


def _resized_crop(rng: random.Random) -> Any:
    low = rng.uniform(0.05, 0.9)
    ratio = rng.choice([(3 / 4, 4 / 3), (1, 1), (0.3, 3)])
    extra = {"max_scale": rng.choice([1.0, 0.9]), "val_xtra": rng.choice([0.14, 0.0, 0.5])}
    return RandomResizedCrop(_size(rng), min_scale=low, ratio=ratio, resamples=_resamples(rng), **extra)


def item_tfms(rng: random.Random, turns: bool, pads: bool) -> List[Any]:
    "Return one to four transforms, of which one nearly always makes the sizes equal."
    last: List[Callable[[], Any]] = [
        lambda: _resize(rng),
        lambda: _resize(rng),
        lambda: _resized_crop(rng),
        lambda: _resized_crop(rng),
        lambda: RandomCrop(_size(rng)),
        lambda: CropPad(_size(rng), pad_mode=rng.choice(["zeros", "border", "reflection"])),
    ]
    last = last if pads else last[:-1]
    made = [rng.choice(last)() for _ in range(rng.choice([1, 1, 1, 2]))]
    if rng.random() < 0.5:
        made.insert(rng.randint(0, len(made)), FlipItem(p=rng.choice([0.5, 1.0, 0.2])))
    if turns and rng.random() < 0.3:
        made.insert(rng.randint(0, len(made)), DihedralItem(p=rng.choice([0.5, 1.0])))
    if rng.random() < 0.03:
        made = [one for one in made if isinstance(one, (FlipItem, DihedralItem))]  # sizes differ: an error
    return made


Make = Callable[[], DataLoaders]


def _block(blocks: Sequence[Any], getters: Dict[str, Any], tfms: List[Any], files: Sequence[Path], bs: int) -> Make:
    splitter = IndexSplitter(list(range(0, len(files), 3)))
    # Transforms are changed by their calls, so that both sides need their own; they are made anew by `repeated`.
    return lambda: DataBlock(blocks, splitter=splitter, item_tfms=tfms, **getters).dataloaders(
        files, bs=bs, num_workers=0, device="cpu"
    )


def pipeline(n: int, files: Sequence[Path]) -> Make:
    "Return a function that makes the DataLoaders of random pipeline `n`, always the same ones."

    def make() -> DataLoaders:
        rng = random.Random(n)
        seed(n)  # a loader draws the seed of its own generator when it is made
        kind = rng.choice(["class"] * 4 + ["mask"] * 3 + ["grey", "alpha", "image", "points", "boxes", "list", "own"])
        bs, chosen = rng.choice([2, 3, 5]), rng.sample(list(files), rng.randint(6, len(files)))
        turns, pads = kind != "mask" or rng.random() < 0.1, kind not in ("points", "boxes")  # fastai can't pad those
        tfms = item_tfms(rng, turns, pads)
        if kind == "list":
            return TfmdLists(chosen, [PILImage.create], splits=[[0, 1, 2, 3], [4, 5]]).dataloaders(
                bs=bs, after_item=[*tfms, ToTensor], num_workers=0, device="cpu"
            )
        if kind == "own":
            lists = [[PILImage.create], [mask, PILMask.create], [label, str.upper, len]]
            return Datasets(chosen, lists, splits=[[0, 1, 2, 3], [4, 5]]).dataloaders(
                bs=bs, after_item=[*tfms, ToTensor], num_workers=0, device="cpu", shuffle=rng.random() < 0.5
            )
        blocks, getters = {
            "class": ((ImageBlock, CategoryBlock), {"get_y": label}),
            "mask": ((ImageBlock, MaskBlock(codes=list("abcde"))), {"get_y": mask}),
            "grey": ((ImageBlock(PILImageBW), RegressionBlock), {"get_y": number}),
            "alpha": ((ImageBlock(PILImageAlpha), CategoryBlock), {"get_y": label}),
            "image": ((ImageBlock, ImageBlock), {}),
            "points": ((ImageBlock, PointBlock), {"get_y": points}),
            "boxes": ((ImageBlock, BBoxBlock, BBoxLblBlock), {"get_y": [boxes, names], "n_inp": 1}),
        }[kind]
        return _block(blocks, getters, tfms, chosen, bs)()

    return make


def epoch(dls: Any, start: int = 0) -> List[Any]:
    "Return all batches under a seed, an error as its text, and then the states of all generators."
    seed(start)
    made: List[Any] = []
    for dl in dls.loaders:
        try:
            made.extend(dl)
        except Exception as error:
            made.append(f"{type(error).__name__}: {error}")
    return [*made, repr(random.getstate()), np.random.get_state()[1].tobytes(), torch.get_rng_state()]


def same(ours: Any, stock: Any) -> None:
    "Check that class, dtype, shape, strides, bits and attributes are the same."
    assert type(ours) is type(stock), (type(ours), type(stock))
    if isinstance(stock, (tuple, list)):
        assert len(ours) == len(stock)
        for one, other in zip(ours, stock):
            same(one, other)
    elif isinstance(stock, torch.Tensor):
        assert (ours.dtype, ours.shape, ours.stride()) == (stock.dtype, stock.shape, stock.stride())
        bits = [one.detach().cpu().contiguous().as_subclass(torch.Tensor).numpy().tobytes() for one in (ours, stock)]
        assert bits[0] == bits[1]
        same(sorted(vars(ours).items()), sorted(vars(stock).items()))
    elif isinstance(stock, np.ndarray):
        assert ours.dtype == stock.dtype and np.array_equal(ours, stock)
    elif isinstance(stock, PIL.Image.Image):
        assert ours.mode == stock.mode and ours.info == stock.info and ours.tobytes() == stock.tobytes()
    else:
        assert ours == stock
