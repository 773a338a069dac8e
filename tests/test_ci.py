"""The steps of a change: what is counted of them, the table, and that all of them run wherever changes are checked."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / ".ci/steps.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="the steps are in the repository, not in the sdist")


@pytest.fixture
def steps() -> ModuleType:
    spec = importlib.util.spec_from_file_location("steps", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("2745 passed, 3 skipped in 480.12s (0:08:00)", {"passed": 2745, "skipped": 3}),
        ("==== 1 failed, 2 passed, 1 error in 3.10s ====", {"failed": 1, "passed": 2, "error": 1}),
        ("12 passed, 4 deselected in 0.50s", {"passed": 12, "deselected": 4}),
        ("load_data: 40 images in 0.2s", {}),
        ("............................ [100%]", {}),
    ],
)
def test_summaries_of_pytest_are_counted(steps: Any, line: str, counts: Any) -> None:
    found: Any = {}
    steps.add_counts(line, found)
    assert found == counts
    steps.add_counts(line, found)
    assert found == {what: 2 * n for what, n in counts.items()}


def fake_make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Have `make docs` fail, and all other targets print the summary of a test run."
    program = folder / "make"
    program.write_text(
        '#!/bin/sh\nif [ "$2" = docs ]; then echo "a link is broken"; exit 3; fi\necho "2 passed, 1 skipped in 0.10s"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("MAKE", str(program))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))


def test_a_step_that_fails_does_not_end_the_run(
    steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any
) -> None:
    fake_make(tmp_path, monkeypatch)
    assert steps.main(["docs", "package"]) == 1
    shown = capfdbinary.readouterr().out.decode()
    assert shown.index("a link is broken") < shown.index("2 passed") < shown.index("| step ")
    titles = [{**steps.STEPS, **steps.ON_REQUEST}[name][0] for name in ("docs", "package")]
    site, package = (re.search(rf"^\| {title} .*", shown, re.MULTILINE) for title in titles)
    assert site and [cell.strip() for cell in site[0].split("|")[2:6]] == ["FAILED (3)", "", "", ""]
    assert package and [cell.strip() for cell in package[0].split("|")[2:6]] == ["passed", "2", "1", "0"]
    assert (tmp_path / "summary.md").read_text() in shown
    assert steps.main(["package"]) == 0 and steps.main(["nonsense"]) == 2
    assert steps.main(["all"]) == 1
    table = capfdbinary.readouterr().out.decode().rpartition("| step ")[2]
    assert all(f"| {title} " in table for title, _ in {**steps.STEPS, **steps.ON_REQUEST}.values())


def test_each_step_is_a_target_and_runs_in_the_workflow(steps: Any) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    for name, (_, targets) in {**steps.STEPS, **steps.ON_REQUEST}.items():
        assert re.search(rf"^{targets[0]}:", makefile, re.MULTILINE), targets
        assert name == "environments" or re.search(rf"\bstep: {name}\b", workflow), name
    listed = re.findall(r"\bstep: ([\w-]+)", workflow)
    assert set(listed) <= {*steps.STEPS, *steps.ON_REQUEST}
    assert len(listed) == len(set(listed)) and "run: .ci/run ${{ matrix.step }}" in workflow
