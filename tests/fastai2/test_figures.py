"""The benchmark of fastai 2 compares the same batches, and counts what a training waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest
import torch
from fastai2_pipelines import pictures

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    return pictures(tmp_path_factory.mktemp("figures") / "images", 80)


@pytest.fixture
def at(files: List[Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import fastai2

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # other tests share this process
    return fastai2.Setting(fastai2.QUICK, {"500x375": files}, torch.device("cpu"))


def test_both_sides_make_the_same_batches_in_every_way(at: Any) -> None:
    import fastai2

    found = fastai2._in_turns(at, "Resize(224)", [(0, 1), (2, 1)])
    assert found["equal"] is True and len(found["ways"]) == 4
    for one in found["ways"].values():
        assert len(one["samples"]) == len(one["cpu"]) == at.scale.rounds and min(one["samples"] + one["cpu"]) > 0


def test_loaders_that_differ_are_noticed(at: Any) -> None:
    import fastai2

    one, other = (fastai2._alone(at, name, True, 0) for name in ("Resize(224)", "RandomResizedCrop(224)"))
    assert not fastai2._equal({"fastai": one, "memlist": other})


def test_what_a_training_waits_is_less_than_it_takes(at: Any, files: List[Path]) -> None:
    import fastai2

    loaders = at.loaders(True, files, 0, item_tfms=fastai2.Resize(32))
    transforms = loaders.train.after_batch

    def make(ours: bool, workers: int) -> Any:
        return loaders

    (found,) = fastai2._trainings(at, [(True, 0)], make, lambda learn: learn.fit(1)).values()
    assert found["batches"] == [2]  # one to train on, one to validate
    assert min(found["first"][0], found["transformed"][0]) > 0
    assert found["first"][0] + found["transformed"][0] <= found["waited"][0] < found["seconds"][0]
    assert loaders.train.after_batch is transforms  # the loader has its own again
