"""Benchmark pages and plots show the committed figures, and every system is checked to do the same job."""

# ruff: noqa: RUF001  (the pages write × for times)
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
    import page_doors
    import page_fastai2
    import page_figures
    import page_gpu

    pages = {
        "doors": page_doors.render(raw("doors")),
        "fastai2": page_fastai2.render(raw("fastai2")),
        "figures": page_figures.render(raw("figures")),
        "beside": page_beside.render(raw("beside"), raw("figures")),
        "gpu": page_gpu.render(raw("gpu")),
    }
    for name, page in pages.items():
        committed = (BENCHMARKS / f"{'README' if name == 'beside' else name}.md").read_text("utf-8")
        assert page == committed, f"python benchmarks/{name}.py --render"
        assert "A quick run" not in committed and not re.search(r"\$\w|<!--", committed)


def test_a_page_has_sections_only_for_its_figures(benchmarks: None) -> None:
    import page_figures

    results = raw("figures")
    results["rows"] = {"hit": results["rows"]["hit"]}
    results["surroundings"]["quick"] = True
    page = page_figures.render(results)
    assert "## 3. " in page and "## 4. " not in page and "A quick run" in page
    assert page.count("Missed:") == 1 and "plain dict" not in page


def test_contenders_of_doors_did_their_jobs(benchmarks: None) -> None:
    import doors

    results = raw("doors")
    for name, contenders in doors.CONTENDERS.items():
        measured = results[name].values()
        there = [one for one in contenders if doors.DOORS[one[0]].environment not in results["absent"]]
        assert [(one["system"], one["workers"]) for one in measured] == there
        for one in measured:
            assert one["wrong"] is None and len(one["samples"]) == len(one["cpu"]) == doors.FULL.rounds


def test_hits_of_cached_are_counted(benchmarks: None, photographs: str) -> None:
    import doors

    at = doors.Setting(doors.QUICK, photographs, {})
    assert [one["hits"] for one in doors.hits(at)["epochs"]] == [0, 70, 70]
    assert min(map(min, doors.hit(at).values())) > 0


def test_both_sides_of_fastai2_did_the_same(benchmarks: None) -> None:
    import page_fastai2

    results = raw("fastai2")
    assert {"alone", "loader", "training"} <= set(results)
    for pipelines in (results[name] for name in ("alone", "loader")):
        for found in pipelines.values():
            assert found["equal"] is True
            ways = {(one["workers"], one["threads"]) for one in found["ways"].values()}
            sides = {(one["system"], one["workers"], one["threads"]) for one in found["ways"].values()}
            assert sides == {(side, *way) for side in (page_fastai2.STOCK, page_fastai2.OURS) for way in ways}
            assert len({len(one[what]) for one in found["ways"].values() for what in ("samples", "cpu")}) == 1
    for name in {"training", "gpu", "pinned"} & set(results):
        ways = results[name]["ways"].values()
        assert len({count for one in ways for count in one["batches"]}) == 1
        for one in ways:
            assert len(one["seconds"]) == len(one["waited"]) == len(one["batches"])
            assert all(0 < waited < seconds for waited, seconds in zip(one["waited"], one["seconds"]))
            if name != "training":
                assert page_fastai2._share(one, one["first"]) < page_fastai2.share_loader(one)


def way(system: str, workers: int, seconds: float, cpu: float) -> Dict[str, Any]:
    "Return what a way to make batches with fastai 2 measured."
    return {"system": system, "workers": workers, "threads": 1, "samples": [seconds] * 3, "cpu": [cpu] * 3}


def test_figures_of_fastai2_are_judged_and_differences_are_named(benchmarks: None) -> None:
    import page_fastai2

    ways = [way("fastai", 0, 10, 10), way("memlist", 0, 2, 1), way("fastai", 2, 6, 12), way("memlist", 2, 3, 2)]
    found = {"equal": False, "ways": dict(enumerate(ways))}
    results = raw("fastai2")
    results.update(alone={"Resize(9)": {"equal": True, "ways": dict(enumerate(ways[:2]))}}, loader={"Resize(9)": found})
    training = {"seconds": [10, 10], "batches": [3, 3]}
    stock = {**training, "system": "fastai", "workers": 0, "waited": [6, 6]}
    ours = {**training, "system": "memlist", "workers": 0, "waited": [0.6, 0.6]}
    results["training"] = {"images": 9, "ways": {"a": stock, "b": ours}}
    page = page_fastai2.render(results)
    assert "| Resize(9) | 10000.00 | 1000.00 | 10.0 | ≥ 8 |" in page
    assert "| Resize(9) | no workers | 5.0 | ≥ 6, **missed** |" in page
    assert "| Resize(9) | 2 workers | 2.0 | ≥ 3.5, **missed** |" in page
    assert "| Resize(9) | each at its best | 3.0 |  |" in page
    assert "| fastai | no workers | 10.00 | 60.0 % |" in page and "6.0 % (target: ≤ 5 %, **missed**)" in page
    assert "**Batches differ from fastai's**: Resize(9)." in page
    for one, transformed in (stock, 2), (ours, 0.1):
        one.update(transformed=[transformed] * 2, first=[0.3, 0.3])
    results["pinned"] = {"ways": {"a": stock, "b": ours}}
    page = page_fastai2.render(results)
    assert "| fastai | no workers | 10.00 | 40.0 % | 3.0 % | 20.0 % |" in page
    assert "for memlist's loader: 5.0 % (target: ≤ 2 %, **missed**)" in page


def test_a_template_is_filled_and_split_into_sections(benchmarks: None) -> None:
    from page import fill, sections

    text = "# Title\n\n<!-- if odd -->\nOdd: $odd.\n\n<!-- end -->\n## One\n\nTarget: ≤ 1.\n\n$one\n\n## Two\n\n$two\n"
    assert fill(text, {"one": "1"}) == "# Title\n\n## One\n\nTarget: ≤ 1.\n\n1\n"
    assert fill(text, {"odd": 3, "two": "2"}) == "# Title\n\nOdd: 3.\n\n## Two\n\n2\n"
    assert sections(text) == [("One", "≤ 1", {"one"}), ("Two", "", {"two"})]


def test_a_plot_of_a_template_has_a_light_and_a_dark_drawing(benchmarks: None) -> None:
    from page import fill

    assert fill("# T\n\n![What it shows](results/x.svg)\n\nEnd.\n", {}).splitlines()[2:6] == [
        "<picture>",
        '<source media="(prefers-color-scheme: dark)" srcset="results/x-dark.svg">',
        '<img alt="What it shows" src="results/x.svg">',
        "</picture>",
    ]


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


def test_every_figure_in_which_memlist_is_behind_is_listed_first(benchmarks: None) -> None:
    import page_losses
    from answers import contests, named
    from systems import SYSTEMS

    results, page = raw("beside"), (BENCHMARKS / "README.md").read_text("utf-8")
    assert not results["quick"]
    for row in results["rows"]:
        assert row.get("wrong") is None, row
    for turn in results.get("turns", {}).values():
        assert not any(one.get("wrong") for one in turn["contenders"].values()), turn
    for key, entry in SYSTEMS.items():
        assert entry.environment in results["absent"] or key in results["versions"], key
    assert page.index("## The targets") < page.index("## Where memlist is slower") < page.index("## Warm epochs")
    rows = [row for row in results["rows"] if "failed" not in row]
    for one in contests(rows):
        cells = page_losses.SHORT[one.work], one.figure, named(one.ours), named(one.other), page_losses.times(one.ratio)
        assert (f"| {' | '.join(cells)} |" in page) == (one.ratio < 1)
    ratios = [one.ratio for one in contests(rows) if one.ratio < 1]
    listed = re.findall(r"\*\*(.*?)\*\*", _part(page, "### Its best setting"))
    assert [float(one) for one in listed] == sorted(float(f"{one:.2f}") for one in ratios if one < 0.995)


def test_every_setting_is_compared_in_every_figure(benchmarks: None) -> None:
    import page_losses
    from answers import FIGURES, named, of, ours, settings

    rows = [row for row in raw("beside")["rows"] if "failed" not in row]
    page = (BENCHMARKS / "README.md").read_text("utf-8")
    to_stock = _part(page, "### Settings that fastai beats")
    lost = 0
    for work in page_losses.TITLES:
        section = _part(page, f"## {page_losses.TITLES[work]}")
        here = list(settings(of(rows, work)))
        assert len(here) == len(ours(of(rows, work))) * len(FIGURES)
        for row, _, stock, other in here:
            (line,) = (line for line in section.splitlines() if line.startswith(f"| {named(row)} |"))
            assert f"{page_losses.times(stock.ratio) if stock else '-'} / " in line
            assert f" / {page_losses.times(other.ratio) if other else '-'} |" in line
            if stock and stock.ratio < 1:
                lost += 1
                assert f"{row['workers']}: {page_losses.times(stock.ratio)}" in to_stock
    assert len(re.findall(r"\d: \*\*", to_stock)) == lost


def test_no_text_about_losses_states_a_figure(benchmarks: None) -> None:
    from page import template

    text = template("beside")
    text = text[text.index("## Where memlist is slower") : text.index("## Warm epochs")]
    words = re.sub(r"\d+x\d+|\d+th\b|\$\w+|<!--.*?-->", "", text)
    assert not re.search(r"\d", words)


def _part(page: str, heading: str) -> str:
    "Return the text below a heading, up to the next of any level."
    return re.split(r"^#+ .*$", page[page.index(f"\n{heading}\n") + len(heading) + 2 :], maxsplit=1, flags=re.M)[0]


def _row(system: str, workers: int, seconds: float, **other: Any) -> Dict[str, Any]:
    "Return a row of the digits, of which all figures are given by the seconds of an epoch."
    epoch = {"seconds": seconds, "first": seconds / 10, "images": 100}
    row = {"table": "digits", "system": system, "workers": workers, "n": 100, "made": 0.0, "prepared": 0.0}
    return {**row, "cold": epoch, "warm": [epoch], "bare": 0, "peak": seconds * 1e9, "released": seconds * 1e9, **other}


def test_a_loss_of_one_setting_is_found(benchmarks: None) -> None:
    import page_losses

    rows = [_row("stock", 0, 4.0), _row("stock", 2, 2.0), _row("memlist", 0, 3.0), _row("memlist", 2, 2.5)]
    rows += [_row("batches", 0, 1.0), _row("tensordict", 0, 0.5), _row("torchvision", 0, 0.1), _row("limit", 0, 0.01)]
    found = page_losses.losses(rows)
    # The second setting is slower than fastai with two workers, and no other is slower than fastai.
    (line,) = found["lost_to_stock"].splitlines()[2:]
    assert line == f"| Digits of 28x28 | memlist |{' 2: **0.80** |' * 6}"
    # The fastest of all is no limit and, where memory counts, none that keeps nothing.
    assert (
        "| Digits of 28x28 | warm | memlist, `batch_tfms`, no workers | torchvision `ImageFolder`, no workers |"
        in (found["lost"])
    )
    assert "| peak memory | memlist, `batch_tfms`, no workers | tensordict, no workers | **0.50** |" in found["lost"]
    every = page_losses.every_setting(rows, "digits")
    assert "| memlist, 2 workers | **0.80** / **0.04** |" in every


# -- targets and turns ----------------------------------------------------------------------------------------


def turns_of(first: bool = False, **samples: float) -> Dict[str, Any]:
    "Return a comparison in turns, of which each contender has one time in all rounds."
    contenders = {}
    for name, seconds in samples.items():
        system, workers = name.rsplit("_", 1)
        contenders[name] = {"system": system, "workers": int(workers), "samples": [seconds] * 3, "wrong": None}
    return {"work": "digits", "n": 64, "first": first, "took": 1.0, "contenders": contenders}


def test_targets_are_judged_from_the_raw_figures(benchmarks: None) -> None:
    import page_losses
    import targets

    turns = {
        "fast_digits": turns_of(limit_0=1.0, batches_0=2.0, batches_2=4.0, tensordict_0=2.0, ffcv_1=1.0, ffcv_2=5.0),
        "swap_default_0": turns_of(stock_0=1.7, memlist_0=1.0),
        "swap_default_2": turns_of(stock_2=1.2, memlist_2=1.0),
    }
    case = {
        "name": "a",
        "samples": {"x": [1.3], "y": [1.0]},
        "ratios": [{"what": "w", "above": "x", "below": "y", "bound": ["<=", 1.3]}],
    }
    row = {
        "table": "memory",
        "system": "memlist",
        "workers": 0,
        "n": 1000,
        "peak": 1000 * 500 * 375 * 3 * 1.2,
        "bare": 0,
    }
    found = targets.Measured([row], turns, {"hit": {"cases": [case]}})
    judged = {verdict.target.figure: verdict for verdict in targets.verdicts(found)}
    said = {name: verdict.met for name, verdict in judged.items()}
    assert said["digits, no workers, against tensordict"] is True
    both = judged["digits, 2 workers, against FFCV's 2 threads; each at its best"]
    assert both.numbers == [("2 workers, 2 threads", 1.25), ("each at its best", 0.5)] and both.met is False
    assert said["the swap alone, warm, default transforms, no workers, against fastai"] is True
    assert said["the same with 2 workers"] is False
    assert said["the swap alone, warm, on every job, against fastai"] is None  # the other jobs are not there
    assert said["a hit against its conversion alone ([figure 3](figures.md))"] is True
    assert said["peak memory of the common job (PSS), over the decoded bytes"] is False
    assert said["crops, of the limit"] is None
    table = page_losses.judged(found)
    assert "| digits, no workers, against tensordict | ≥ 1 | 1 | met |" in table
    assert "| the same with 2 workers | ≥ 1.3 | 1.2 | **missed** |" in table
    assert len(table.splitlines()) == len(targets.TARGETS) + 2


def test_every_target_is_measured_by_a_run(benchmarks: None) -> None:
    import targets
    from systems import FULL, in_turns

    turns = {one.name: turns_of(**{f"{key}_{k}": 1.0 for key, k in one.contenders}) for one in in_turns(FULL)}
    for verdict in targets.verdicts(targets.Measured([], turns, {})):
        figure = verdict.target.figure
        if "[figure" not in figure and "peak memory" not in figure:  # those are taken from other measurements
            assert all(number == 1.0 for _, number in verdict.numbers), figure


def test_pairs_in_turns_are_listed_worst_first(benchmarks: None) -> None:
    import page_losses

    turns = {
        "fast_digits": turns_of(limit_0=1.0, batches_0=2.0, tensordict_0=1.0),
        "x": turns_of(True, memlist_0=1, torchvision_0=3),
    }
    turns["fast_digits"]["contenders"]["broken"] = {
        "system": "ffcv",
        "workers": 2,
        "samples": [0.1],
        "wrong": "images of 3",
    }
    lines = page_losses.turned(turns)["turned"].splitlines()[2:]
    assert [line.split(" | ")[-2] for line in lines] == ["**0.50**", "3.00"]
    assert page_losses.turned(turns)["turns_failed"] == "- `fast_digits`, FFCV, raw, 2 threads: wrong: images of 3"
    assert "| 50% |" in page_losses.turned(turns)["shares_of_limit"]


def test_every_comparison_in_turns_is_of_settings_that_exist(benchmarks: None) -> None:
    from systems import BATCH, FULL, SYSTEMS, WORKS, in_turns, plan

    planned = {one.name: one for one in in_turns(FULL)}
    for one in planned.values():
        for key, workers in one.contenders:
            assert workers in SYSTEMS[key].workers and one.work in SYSTEMS[key].works
        assert one.first or one.n >= 40 * BATCH  # fewer say little
    assert not set(planned) & {one.table for one in plan(FULL)}
    assert {f"swap_{work}_{workers}" for work in WORKS for workers in (0, 2)} <= set(planned)


#: Systems that need no library: each image has a colour of its own.
SYSTEMS_OF_A_TEST = """
import numpy as np
from harness import BATCH, System

class Array(np.ndarray):
    def numpy(self):
        return np.asarray(self)

class Good(System):
    size = 224
    epochs = 0

    def epoch(self):
        self.epochs += 1
        x = np.ones((BATCH, 3, self.size, self.size), np.float32) * np.linspace(-1, 1, BATCH)[:, None, None, None]
        yield x.astype(np.float32).view(Array), np.arange(BATCH).view(Array)

class Small(Good):
    size = 223

class Broken(Good):
    def epoch(self):
        if self.epochs == 2:
            raise OSError("the disk is full")
        return super().epoch()
"""


def test_systems_take_turns_and_what_is_wrong_or_broken_is_reported(
    benchmarks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import beside
    from systems import QUICK, Entry, Turns

    (tmp_path / "of_a_test.py").write_text(SYSTEMS_OF_A_TEST)
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for cls in ("Good", "Small", "Broken", "Missing"):
        monkeypatch.setitem(beside.SYSTEMS, cls, Entry(cls, "", "of_a_test", cls))
    results: Dict[str, Any] = {"rows": [], "turns": {}, "sets": {}, "versions": {}}
    session = beside.Session(QUICK, tmp_path / "raw.json", results, str(tmp_path))
    monkeypatch.setattr(session, "pictures", lambda work, n: str(tmp_path))
    contenders = tuple((cls, 0) for cls in ("Good", "Small", "Broken", "Missing"))
    found = session.compared(Turns("x", "crops", 64, contenders, 3))
    assert len(found["Good 0"]["samples"]) == 3 and found["Good 0"]["wrong"] is None
    assert "images of" in found["Small 0"]["wrong"]
    assert "the disk is full" in found["Broken 0"]["failed"] and "Missing" in found["Missing 0"]["failed"]
    assert not {"samples"} & {*found["Broken 0"], *found["Missing 0"]}
    first = session.compared(Turns("x", "crops", 64, contenders, 2, first=True))
    assert len(first["Good 0"]["samples"]) == 2 and "images of" in first["Small 0"]["wrong"]
    assert "Missing" in first["Missing 0"]["failed"]


def test_the_plots_show_the_committed_figures(benchmarks: None, tmp_path: Path) -> None:
    import drawing
    import plots

    wanted = {**plots.plots(raw("figures")), **plots.beside(raw("beside"))}
    wanted.update(plots.doors(raw("figures"), raw("fastai2"), raw("doors")))
    drawn = {path.stem: path for path in plots.main(tmp_path)}
    pages = "".join(page.read_text("utf-8") for page in (*ROOT.glob("docs/*.md"), *BENCHMARKS.glob("*.md")))
    assert set(drawn) == {name + theme for name in (*wanted, "curves") for theme in ("", "-dark")}
    for name, plot in wanted.items():
        bars = [(group, bar, panel) for panel in plot for group, bars in panel.groups.items() for bar in bars]
        ids = {drawing.mark(name, group, bar) for group, bar, _ in bars}
        assert len(ids) == len(bars)
        numbers = sorted(drawing.written(bar, panel) for _, bar, panel in bars)
        for path in (
            folder / f"{name}{theme}.svg" for folder in (tmp_path, BENCHMARKS / "results") for theme in ("", "-dark")
        ):
            svg = path.read_text(encoding="utf-8")
            assert {found for found in re.findall(r'id="([^"]*)"', svg) if "=" in found} == ids, f"draw {path} again"
            texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
            assert all(texts.count(number) >= numbers.count(number) for number in numbers)
            assert not re.search(r"<dc:date>", svg)
        assert f'results/{name}.svg">' in pages and f'results/{name}-dark.svg">' in pages


def test_plots_have_no_ground_and_dark_ones_have_bright_text(benchmarks: None) -> None:
    import drawing

    for path in sorted((BENCHMARKS / "results").glob("*.svg")):
        theme = drawing.DARK if path.stem.endswith("-dark") else drawing.LIGHT
        svg = path.read_text("utf-8")
        colours = set(re.findall(r"<text[^>]*fill: (#\w{6})", svg))
        assert colours <= {theme.text, theme.axis} and theme.text in colours, path
        assert not re.search(r"fill: (#ffffff|white)", svg), path
        # Readable at the width of a code host's page, and on a phone at two thirds of its size.
        assert float(re.findall(r'<svg[^>]* width="([\d.]+)pt"', svg)[0]) <= 72 * 5.6, path


def test_bars_in_multiples_are_sorted_and_none_squashes_the_others(benchmarks: None) -> None:
    import plots

    for name in ("beside", "systems"):
        (panel,) = plots.beside(raw("beside"))[name]
        for bars in panel.groups.values():
            medians = [bar.median for bar in bars]
            assert panel.multiples and medians == sorted(medians, reverse=True)


def test_jobs_are_sorted_by_the_lead_and_told_apart(benchmarks: None) -> None:
    import page_brief
    import targets

    rows = [_row("stock", 0, 4.0), _row("memlist", 0, 2.0), _row("batches", 0, 1.0), _row("ffcv", 1, 0.5)]
    slower = [{**one, "table": "crops"} for one in (*rows[:3], _row("ffcv", 1, 3.0))]
    found = page_brief.lines(targets.Measured([*rows, *slower], {"first_crops": FIRST_BATCHES}, {}))
    assert [job.work for job in page_brief.jobs([*rows, *slower])] == ["crops", "digits"]
    assert found["ahead"] == "Random crop and flip (3.0 × FFCV, raw)" and found["ahead_count"] == 1
    assert found["behind"] == "Digits of 28x28 (0.50 × FFCV, raw)" and found["jobs"] == 2
    assert found["over_stock"] == ("2.0 × where only the names of classes change, 4.0 × with `batch_tfms=True`")
    assert found["started"] == "0.50 ×" and "peaked" not in found


FIRST_BATCHES = {
    "first": True,
    "contenders": {
        name: {"system": name, "workers": 0, "samples": [seconds], "wrong": None}
        for name, seconds in (("memlist", 2.0), ("torchvision", 1.0))
    },
}


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


@pytest.mark.parametrize(
    "cls, work",
    [
        ("Memlist", "common"),
        *(pytest.param(*pair, marks=pytest.mark.full) for pair in (("Reduced", "segmentation"), ("Batches", "gan"))),
    ],
)
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
