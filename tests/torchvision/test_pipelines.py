"""Batches equal those of torchvision's own datasets, to the bit and in all random generators, for random pipelines."""

import warnings

import pytest
from torchvision.datasets import ImageFolder
from torchvision_helpers import epoch, make_folder, random_case, same, v2

from memlist.torchvision import MemoryImageFolder
from memlist.torchvision.making import Making
from memlist.torchvision.pipeline import Pipeline

pytestmark = pytest.mark.skipif(v2 is None, reason="batches need torch 2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("pictures"))


def check(folder, seed, workers=0):
    "Compare two epochs of a random case; return whether both went to their end."
    case = random_case(seed)
    given = {} if case.loader is None else {"loader": case.loader}
    stock, ours = (cls(folder, case.transform, **given) for cls in (ImageFolder, MemoryImageFolder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k in range(2):
            expected = epoch(stock, case.seed + k, case.batch_size, workers)
            made = epoch(ours, case.seed + k, case.batch_size, workers)
            assert same(expected, made), (seed, case, expected[1:3], made[1:3])
    return made[1] is None


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_random_pipelines(folder, start):
    for seed in range(start, start + 20):
        check(folder, seed)


@pytest.mark.full
@pytest.mark.parametrize("start", range(100, 2000, 50))
def test_2000_random_pipelines(folder, start):
    for seed in range(start, start + 50):
        check(folder, seed)


@pytest.mark.parametrize("seed", range(4))
def test_random_pipelines_with_workers(folder, seed):
    check(folder, seed, workers=2)


def test_known_pipelines_are_made_at_once(folder, monkeypatch):
    made = []
    render, from_bytes = Making.render, Pipeline.from_bytes
    monkeypatch.setattr(Making, "render", lambda self, *given: made.append(given) or render(self, *given))
    monkeypatch.setattr(Pipeline, "from_bytes", lambda self, *given: made.append(given) or from_bytes(self, *given))
    for seed in range(20):
        made.clear()
        assert not check(folder, seed) or made, random_case(seed)
