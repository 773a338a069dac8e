"""Benchmark pages and plots show the committed figures, and every system is checked to do the same job."""

from __future__ import annotations

import ast
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

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
    "Make photographs as the benchmark does."
    folder = tmp_path_factory.mktemp("photographs")
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); import pictures, pathlib"
    code += f"; pictures.collection(pathlib.Path({str(folder)!r}), 70, 100)"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    return str(folder / "images")


def raw(name: str) -> Any:
    "Return the committed figures of a page."
    return json.loads((BENCHMARKS / f"results/{name}.json").read_text("utf-8"))


# -- pages and plots ------------------------------------------------------------------------------------------


def test_pages_are_rendered_from_the_committed_figures(benchmarks: None) -> None:
    import page_beside
    import page_figures
    import page_gpu

    pages = {"figures": page_figures, "beside": page_beside, "gpu": page_gpu}
    for name, page in pages.items():
        committed = (BENCHMARKS / f"{'README' if name == 'beside' else name}.md").read_text("utf-8")
        assert page.render(raw(name)) == committed, f"python benchmarks/{name}.py --render"
        assert "A quick run" not in committed and not re.search(r"\$\w|<!--", committed)


def test_a_page_has_sections_only_for_its_figures(benchmarks: None) -> None:
    import page_figures

    results = raw("figures")
    results["rows"] = {"hit": results["rows"]["hit"]}
    results["surroundings"]["quick"] = True
    page = page_figures.render(results)
    assert "## 3. " in page and "## 4. " not in page and "A quick run" in page
    assert page.count("Missed:") == 1 and "plain dict" not in page


def test_a_template_is_filled_and_split_into_sections(benchmarks: None) -> None:
    from page import fill, sections

    text = "# Title\n\n<!-- if odd -->\nOdd: $odd.\n\n<!-- end -->\n## One\n\nTarget: ≤ 1.\n\n$one\n\n## Two\n\n$two\n"
    assert fill(text, {"one": "1"}) == "# Title\n\n## One\n\nTarget: ≤ 1.\n\n1\n"
    assert fill(text, {"odd": 3, "two": "2"}) == "# Title\n\nOdd: 3.\n\n## Two\n\n2\n"
    assert sections(text) == [("One", "≤ 1", {"one"}), ("Two", "", {"two"})]


def test_every_figure_has_a_section_and_targets_are_judged(benchmarks: None) -> None:
    import figures
    from page import sections, template

    found = {key: section for section in sections(template("figures")) for key in section.names}
    for key in (*figures.FIGURES, "pss", "purge"):
        assert key in figures.SEVERAL or {key, f"{key}_notes"} <= found[key].names
    for key, row in raw("figures")["rows"].items():
        judged = [*row["cases"], *(ratio for case in row["cases"] for ratio in case.get("ratios", ()))]
        assert bool(found[key].target) == any(one.get("bound") for one in judged), key


def test_a_single_figure_can_be_measured(benchmarks: None, tmp_path: Path) -> None:
    import figures

    results: Dict[str, Any] = {"rows": {}}
    figures.run(["small"], figures.QUICK, results, tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text()) == results
    (case,) = results["rows"]["small"]["cases"]
    assert set(case["samples"]) == {"memlist", "dict", "stock"} and all(map(min, case["samples"].values()))


def test_every_case_in_which_memlist_is_slower_is_listed_first(benchmarks: None) -> None:
    import page_beside
    from answers import contests, named
    from systems import SYSTEMS

    results, page = raw("beside"), (BENCHMARKS / "README.md").read_text("utf-8")
    assert not results["quick"]
    for row in results["rows"]:
        assert row.get("wrong") is None, row
    for key, entry in SYSTEMS.items():
        assert entry.environment in results["absent"] or key in results["versions"], key
    assert page.index("## Where memlist is slower") < page.index("## Warm epochs")
    for one in contests([row for row in results["rows"] if "failed" not in row]):
        title = page_beside.TITLES[one.work]
        line = f"| {title} | {one.figure} | {named(one.ours)} | {named(one.other)} | {one.ratio:.2f} |"
        assert (line in page) == (one.ratio < 1)


def test_the_plots_show_the_committed_figures(benchmarks: None, tmp_path: Path) -> None:
    import plots

    wanted = {**plots.plots(raw("figures")), **plots.beside(raw("beside"))}
    drawn = {path.stem: path for path in plots.main(tmp_path)}
    pages = "".join(page.read_text("utf-8") for page in (*ROOT.glob("docs/*.md"), *BENCHMARKS.glob("*.md")))
    assert set(drawn) == {*wanted, "curves"}
    for name, plot in wanted.items():
        bars = [(group, bar) for panel in plot for group, bars in panel.groups.items() for bar in bars]
        ids = {plots.mark(name, group, bar) for group, bar in bars}
        assert len(ids) == len(bars)
        numbers = sorted(plots.number(bar.median) for _, bar in bars)
        for path in (drawn[name], BENCHMARKS / f"results/{name}.svg"):
            svg = path.read_text(encoding="utf-8")
            assert {found for found in re.findall(r'id="([^"]*)"', svg) if "=" in found} == ids, f"draw {path} again"
            texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
            assert all(texts.count(number) >= numbers.count(number) for number in numbers)
            assert not re.search(r"<dc:date>", svg)
        assert f"results/{name}.svg)" in pages


# -- modules --------------------------------------------------------------------------------------------------


def imports_of(file: Path) -> Set[str]:
    "List the modules that a file imports, inside functions as well."
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
    return found


def test_the_modules_have_no_circular_imports() -> None:
    files = {file.stem: file for folder in (BENCHMARKS, BENCHMARKS / "rivals") for file in folder.glob("*.py")}
    left = {name: imports_of(file) & set(files) for name, file in files.items()}
    while left:
        ready = [name for name, wanted in left.items() if not wanted & set(left)]
        assert ready, f"circular imports among {sorted(left)}"
        for name in ready:
            del left[name]


# -- systems --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls, work", [("Memlist", "common"), ("Reduced", "segmentation"), ("Batches", "gan")])
def test_a_system_runs_in_its_own_process(photographs: str, tmp_path: Path, cls: str, work: str) -> None:
    job = {"work": work, "folder": photographs, "scratch": str(tmp_path), "n": 70, "workers": 1, "warm": 2}
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "rivals/harness.py"), "fastai_lists", cls]
    done = subprocess.run([*command, json.dumps(job)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["wrong"] is None
    assert [epoch["images"] for epoch in (found["cold"], *found["warm"])] == [64, 64, 64]
    assert all(0 < epoch["first"] <= epoch["seconds"] for epoch in (found["cold"], *found["warm"]))
    assert found["peak"] > found["bare"] > 0 and found["versions"]["memlist"]


def test_a_system_that_does_a_different_job_is_reported(benchmarks: None, photographs: str) -> None:
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
    assert "is" in str(wrong(system, (x, y.flip(0))))  # images of other files
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


def test_cold_figures_include_the_preparation(benchmarks: None) -> None:
    import answers

    epochs = [{"seconds": s, "first": s / 10, "images": 100} for s in (4.0, 2.0, 1.0)]
    row: Dict[str, Any] = {"made": 1.0, "prepared": 5.0, "cold": epochs[0], "warm": epochs, "n": 100}
    assert answers.cold(row) == 10 and answers.first(row) == 6.4
    assert answers.warm(row) == 50 and answers.first_warm(row) == 0.2


def test_memory_includes_child_processes(benchmarks: None) -> None:
    from harness import pss

    before = pss()
    code = "import sys; block = bytearray(b'1' * 50_000_000); print('there', flush=True); sys.stdin.readline()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "there\n"
        assert pss() - before > 49_000_000
    finally:
        child.communicate("\n")


def test_the_plan_runs_every_system_on_every_job_it_can_do(benchmarks: None) -> None:
    from systems import FULL, SYSTEMS, plan

    planned = list(plan(FULL))
    assert len(planned) == len(set(planned))
    for key, entry in SYSTEMS.items():
        for work in entry.works:
            assert {one.workers for one in planned if one.table == work and one.system == key} == set(entry.workers)
