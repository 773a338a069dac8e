"""Figure 18: the losses of one training."""

import io
import random
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import torch
from bunches import BATCH, CPU
from fastai.vision import AdaptiveConcatPool2d, Flatten, ImageList, Learner, get_transforms, imagenet_stats
from inputs import Inputs
from measure import value
from sklearn.datasets import load_digits
from torch import nn

from memlist import MemoryImageList

NOISY = "stock, noise of 1e-6 added"


def curves(inputs: Inputs) -> Dict[str, Any]:
    """Train one small network on the digits under one seed: stock, and batches made at once.

    And stock with noise of a millionth added to its pixels, to show what a difference in the last bits leads to.
    """
    files, epochs = inputs.digits(inputs.scale.small), inputs.scale.epochs + 2
    kinds = (("stock", ImageList), ("batch_tfms", MemoryImageList), (NOISY, ImageList))
    losses = {name: _trained(name, cls, files, epochs) for name, cls in kinds}
    cases = []
    for name in ("batch_tfms", NOISY):
        away = np.abs(np.array(losses["stock"]) - np.array(losses[name]))
        most = float(away[:10].max())
        cases.append(value(f"{name}: largest difference from stock in the first 10 batches", most, ""))
        cases.append(value(f"{name}: mean difference from stock over all {len(away)}", float(away.mean()), ""))
    cases += [value(f"{name}: loss at the end", found[-1], "") for name, found in losses.items()]
    return {"cases": cases, "notes": ["![The curves](results/curves.svg)"], "losses": losses}


def _trained(name: str, cls: Any, files: List[Path], epochs: int) -> List[float]:
    "Return the smoothed loss of every batch."
    labelled = cls(files, path=files[0].parent).split_by_rand_pct(0.2, seed=1).label_from_func(_digit)
    given = {"batch_tfms": True} if name == "batch_tfms" else {}
    tfms = get_transforms(do_flip=False)
    data = labelled.transform(tfms, size=28).databunch(bs=BATCH, num_workers=0, device=CPU, **given)
    data = data.normalize(imagenet_stats)
    if name == NOISY:
        data.add_tfm(_noisy(torch.Generator().manual_seed(0)))
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    model = nn.Sequential(*body, AdaptiveConcatPool2d(1), Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))
    learn = Learner(data, model, silent=True)
    with redirect_stdout(io.StringIO()):  # fastai's progress bars
        learn.fit_one_cycle(epochs, 1e-2)
    return [float(loss) for loss in learn.recorder.losses]


def _digit(file: Path) -> int:
    targets = load_digits().target
    return int(targets[int(file.stem) % len(targets)])


def _noisy(generator: torch.Generator) -> Callable[[Any], Any]:
    def add(b: Any) -> Any:
        return b[0] + 1e-6 * torch.randn(b[0].shape, generator=generator), b[1]

    return add
