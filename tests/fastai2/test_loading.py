"""Workers, threads, other loaders of fastai's, and learners that are exported."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from conftest import seed
from fastai.vision.all import DataLoaders, PartialDL, Resize, WeightedDL, aug_transforms
from fastai2_helpers import batches, both, classes, learner
from fastai2_pipelines import pictures, same

from memlist.fastai2 import in_memory
from memlist.fastai2.loader import BatchLoader


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images")


@pytest.mark.parametrize("kwargs", [{}, {"persistent_workers": True}], ids=str)
def test_workers(kwargs: Dict[str, Any], files: List[Path]) -> None:
    ours = both(lambda: classes(files, num_workers=2, batch_tfms=aug_transforms(size=14), **kwargs), batches)
    assert ours.loaded, "workers put images into the memory of all"


def weighted(files: List[Path]) -> DataLoaders:
    stock = classes(files)
    train = WeightedDL(stock.train_ds, bs=3, wgts=[1.0, 4.0] * 4, shuffle=True, num_workers=0)
    train.after_item, train.after_batch = stock.train.after_item, stock.train.after_batch
    return DataLoaders(train, stock.valid)


def partial(files: List[Path]) -> DataLoaders:
    stock = classes(files)
    train = PartialDL(stock.train_ds, bs=2, partial_n=5, shuffle=True, num_workers=0)
    train.after_item, train.after_batch = stock.train.after_item, stock.train.after_batch
    return DataLoaders(train, stock.valid)


@pytest.mark.parametrize("make", [weighted, partial])
def test_other_loaders(make: Any, files: List[Path]) -> None:
    ours = both(lambda: make(files), batches)
    assert isinstance(ours.train, BatchLoader) and isinstance(ours.train, make(files).train.__class__)


def test_a_loader_in_two_threads(files: List[Path]) -> None:
    "A valid loader draws nothing, so that each thread must see the batches of one."
    stock, ours = classes(files, Resize(20)), in_memory(classes(files, Resize(20)))
    wanted, found = list(stock.valid), []  # type: ignore[var-annotated]
    start = threading.Barrier(2)

    def read() -> None:
        start.wait()
        found.extend(list(ours.valid) for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    for one in found:
        same(one, wanted)


def test_iterators_side_by_side(files: List[Path]) -> None:
    "Two iterations that take turns are as stock's, and so is one that is left early."

    def turns(dls: Any) -> List[Any]:
        first, second = iter(dls.train), iter(dls.valid)
        made = [next(first), next(second), next(first), next(second)]
        return [*made, *dls.train]

    both(lambda: classes(files), turns)


def test_batches_that_are_kept_stay_as_they_are(files: List[Path]) -> None:
    "Memory of a batch is not used again while somebody has it."
    ours = in_memory(classes(files, Resize(20), bs=2))
    seed(3)
    kept = [x for _ in range(3) for x, _ in ours.valid]
    copies = [x.clone() for x in kept]
    list(ours.train), list(ours.valid)
    assert all(torch.equal(one, other) for one, other in zip(kept, copies))


EXPORTED = """
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "memlist": raise ImportError("memlist is not installed here")
sys.meta_path.insert(0, Absent())
sys.path[:0] = [{tests!r}]
from fastai.vision.all import load_learner
learn = load_learner({name!r})
print([type(dl).__name__ for dl in learn.dls.loaders])
print(learn.predict({image!r})[2].tolist())
print(learn.get_preds(dl=learn.dls.test_dl([{image!r}] * 3))[0].tolist())
assert "memlist" not in sys.modules
"""


def test_an_exported_learner_loads_without_memlist(files: List[Path], tmp_path: Path) -> None:
    dls = in_memory(classes(files, Resize(20), batch_tfms=aug_transforms(size=14)))
    learn = learner(dls)
    image = str(files[0])
    wanted = [learn.predict(image)[2].tolist(), learn.get_preds(dl=dls.test_dl([image] * 3))[0].tolist()]
    learn.export(tmp_path / "learner.pkl")
    program = EXPORTED.format(tests=str(Path(__file__).parents[1]), name=str(tmp_path / "learner.pkl"), image=image)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("[")][-3:] == [
        "['TfmdDL', 'TfmdDL']",
        *map(repr, wanted),
    ]
