"""Random pipelines give the batches of fastai 2, to the bit, with the same random numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import List

import pytest
from fastai2_pipelines import epoch, pictures, pipeline, same

from memlist.fastai2 import in_memory

QUICK, ALL = 60, 2000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> List[Path]:
    return pictures(tmp_path_factory.mktemp("random") / "images")


def check(n: int, files: List[Path], batches: bool) -> None:
    make = pipeline(n, files)
    stock, ours = make(), in_memory(make(), batches=batches)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of these is left to fastai
        for start in (n, n + 1):  # the first epoch decodes, the second reads
            same(epoch(ours, start), epoch(stock, start))
    assert ours.loaded


@pytest.mark.parametrize("n", range(QUICK))
def test_a_batch_at_a_time(n: int, files: List[Path]) -> None:
    check(n, files, True)


@pytest.mark.full
@pytest.mark.parametrize("n", range(QUICK, ALL))
def test_a_batch_at_a_time_all(n: int, files: List[Path]) -> None:
    check(n, files, True)


@pytest.mark.parametrize("n", range(0, QUICK, 4))
def test_item_by_item(n: int, files: List[Path]) -> None:
    check(n, files, False)
