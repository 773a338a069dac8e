"""The page that compares: what is checked of every system, and that the page is what the raw figures say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("benchmarks", "benchmarks/rivals"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    "As the benchmark makes them."
    folder = tmp_path_factory.mktemp("photographs")
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import pictures, pathlib"
    code += f"; pictures.collection(pathlib.Path({str(folder)!r}), 70, 100)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    return str(folder / "images")


def test_the_page_is_what_the_raw_figures_say(benchmarks: None) -> None:
    import besidepage

    results = json.loads((BENCHMARKS / "results/beside.json").read_text("utf-8"))
    page = (BENCHMARKS / "README.md").read_text("utf-8")
    assert besidepage.render(results) == page, "python benchmarks/beside.py --render"
    assert not results["quick"]
    for row in results["rows"]:
        assert row.get("wrong") is None, row
    for key, entry in besidepage.SYSTEMS.items():
        assert entry.environment in results["absent"] or key in results["versions"], key
    # Losses come first, and all of them.
    assert page.index("## Where memlist loses first") < page.index("## Warm epochs")
    rows = [row for row in results["rows"] if "failed" not in row]
    for work, name, ours, others, ratio in besidepage._contests(rows):
        line = f"| {work.title} | {name} | {besidepage.named(ours)} | {besidepage.named(others)} | {ratio:.2f} |"
        assert (line in page) == (ratio < 1)


@pytest.mark.parametrize("cls, work", [("Memlist", "common"), ("Reduced", "segmentation"), ("Batches", "gan")])
def test_a_system_in_a_process_of_its_own(photographs: str, tmp_path: Path, cls: str, work: str) -> None:
    job = {"work": work, "folder": photographs, "scratch": str(tmp_path), "n": 70, "workers": 1, "warm": 2}
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "rivals/harness.py"), "fastai_lists", cls]
    done = subprocess.run([*command, json.dumps(job)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["wrong"] is None
    assert [epoch["images"] for epoch in (found["cold"], *found["warm"])] == [64, 64, 64]
    assert all(0 < epoch["first"] <= epoch["seconds"] for epoch in (found["cold"], *found["warm"]))
    assert found["peak"] > found["bare"] > 0 and found["versions"]["memlist"]


def test_a_system_that_does_other_work_is_found_out(benchmarks: None, photographs: str) -> None:
    from harness import BATCH, Job, System, wrong
    from PIL import Image
    from torchvision.transforms import functional as F

    system = System(Job("common", photographs, "", 70, 0))
    mean, std = (list(one) for one in system.work.stats)

    def batch(places: List[int], size: int = 224) -> Tuple[torch.Tensor, torch.Tensor]:
        images = []
        for i in places:
            with Image.open(system.files[i]) as image:
                square = F.center_crop(image.convert("RGB"), [375, 375])
            images.append(F.normalize(F.to_tensor(square.resize((size, size), Image.BILINEAR)), mean, std))
        return torch.stack(images), torch.tensor(places)

    x, y = batch(list(range(BATCH)))
    assert wrong(system, (x, y)) is None
    assert "is" in str(wrong(system, (x, y.flip(0))))  # images that are others'
    assert "is" in str(wrong(system, (x * torch.tensor(std).view(3, 1, 1), y)))  # not normalised
    assert "float64" in str(wrong(system, (x.double(), y)))
    assert "images of" in str(wrong(system, batch(list(range(BATCH)), 223)))
    assert "images of" in str(wrong(system, (x[:32], y[:32])))
    pairs = System(Job("segmentation", photographs, "", 70, 0))
    masks = torch.zeros(BATCH, 1, 224, 224, dtype=torch.int64)
    assert wrong(pairs, (x, masks)) is None
    assert "masks" in str(wrong(pairs, (x, masks.float()))) and "masks" in str(wrong(pairs, (x, masks + 8)))
    noise = System(Job("gan", photographs, "", 70, 0))
    assert "noise" in str(wrong(noise, (x, x)))


def test_first_epochs_count_all_that_comes_before(benchmarks: None) -> None:
    import besidepage

    epochs = [{"seconds": s, "first": s / 10, "images": 100} for s in (4.0, 2.0, 1.0)]
    row: Dict[str, Any] = {"made": 1.0, "prepared": 5.0, "cold": epochs[0], "warm": epochs, "n": 100}
    assert besidepage.cold(row) == 10 and besidepage.first(row) == 6.4
    assert besidepage.warm(row) == 50 and besidepage.first_warm(row) == 0.2


def test_memory_is_that_of_the_whole_tree(benchmarks: None) -> None:
    from harness import pss

    before = pss()
    code = "import sys; block = bytearray(b'1' * 50_000_000); print('there', flush=True); sys.stdin.readline()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "there\n"
        assert pss() - before > 49_000_000
    finally:
        child.communicate("\n")


def test_a_plan_has_every_system_on_every_job_that_it_can_do(benchmarks: None) -> None:
    import beside

    planned = list(beside.plan(beside.FULL))
    assert len(planned) == len(set(planned))
    for key, entry in beside.SYSTEMS.items():
        for work in entry.works:
            assert {one[4] for one in planned if one[0] == work and one[2] == key} == set(entry.workers)
