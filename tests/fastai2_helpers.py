"""Make DataLoaders of fastai 2 twice, and compare what stock and memlist make of them."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any, Callable, List, Sequence

import numpy as np
import torch
from conftest import seed
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    ImageBlock,
    IndexSplitter,
    Learner,
    RandomResizedCrop,
    accuracy,
)
from fastai2_pipelines import label, same

from memlist.fastai2 import in_memory

Make = Callable[[], DataLoaders]


def classes(files: Sequence[Path], item_tfms: Any = None, batch_tfms: Any = None, **kwargs: Any) -> DataLoaders:
    "Return loaders of images with a class."
    given = {"bs": 3, "num_workers": 0, "device": "cpu", **kwargs}
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_y=label,
        splitter=IndexSplitter([0, 3, 6, 9]),
        item_tfms=RandomResizedCrop(16) if item_tfms is None else item_tfms,
        batch_tfms=batch_tfms,
    )
    return block.dataloaders(list(files), **given)


def batches(dls: Any) -> List[Any]:
    "Return an epoch: the batches of training and validation."
    return [*dls.train, *dls.valid]


def generators() -> List[Any]:
    "Return the states of all generators."
    return [repr(random.getstate()), np.random.get_state()[1].tobytes(), torch.get_rng_state()]


def used(dls: Any, use: Callable[[Any], Any], start: int = 5) -> Any:
    "Return what `use` makes of loaders under a seed, and then the states of all generators."
    seed(start)
    made = use(dls)
    return [made, *generators()]


def both(make: Make, use: Callable[[Any], Any], times: int = 2, known: bool = True) -> Any:
    """Check that `use` gives the same of stock loaders and of those in memory; return those in memory.

    `known`: there must be no warning of memlist's.
    """
    seed(1)
    stock = make()
    seed(1)
    ours = in_memory(make())
    with warnings.catch_warnings():
        if known:
            warnings.filterwarnings("error", message=".*memlist")
        for start in range(times):
            same(used(ours, use, start), used(stock, use, start))
    return ours


def learner(dls: Any, **kwargs: Any) -> Learner:
    "Return a learner with a small model, always the same."
    torch.manual_seed(7)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    return Learner(dls, model, metrics=accuracy, **kwargs)
