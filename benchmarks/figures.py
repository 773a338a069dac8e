"""Take every figure of figures.md in one run: `python benchmarks/figures.py`, 25 minutes on two quiet cores.

Writes the raw samples to results/figures.json and the page figures.md; `python benchmarks/plots.py` then draws.

Measure one figure, small and in seconds, into a temporary folder:

    python benchmarks/figures.py --only hit --quick

Without `--quick` it replaces that figure in results/figures.json and makes the page again. `--only` may be repeated.
`--render` only makes the page. `--into` names the folder for the page and for results/. Some of the figures are on the
page of the comparison too: `python benchmarks/beside.py --render` makes that again. FFCV needs an environment of its
own: `make bench-ffcv` makes it, or MEMLIST_FFCV names its Python; without it the figure says so.

Add a figure:

1. Write a function in one of the figure_*.py files, or in a new one. It takes `Inputs` (files and sizes) and returns
   `{"cases": [...], "notes": [...]}`. A case is made by `measure.case`, for samples of several contenders (seconds per
   image) and the ratios to take of them, or by `measure.value`, for a number. A target is a bound: `("<=", 1.3)`. Let
   the contenders run in turn: `measure.interleave`.
2. Name it in FIGURES below. If it needs a size of its own, add that to `inputs.Scale`.
3. Write its section in templates/figures.md: a heading, `Target: ...` if it has one, how it is measured, `$key` for its
   tables and `$key_notes` for its notes. The text between `<!-- if key_missed -->` and `<!-- end -->` appears only
   where a target is missed.
4. `python benchmarks/figures.py --only key --quick`, then without `--quick`; commit results/figures.json and the page.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import figure_batches
import figure_epochs
import figure_equality
import figure_ffcv
import figure_files
import figure_hits
import figure_memory
import figure_small
import figure_training
import machine
import page_figures
from inputs import FULL, QUICK, Inputs, Scale
from measure import say

HERE = Path(__file__).resolve().parent


#: A figure's key in results/figures.json and in templates/figures.md, and the function that takes it.
FIGURES: Dict[str, Callable[[Inputs], Dict[str, Any]]] = {
    "equal": figure_equality.equal,
    "misses": figure_memory.missing,
    "hit": figure_hits.hits,
    "warm": figure_epochs.warm,
    "load": figure_epochs.load,
    "first": figure_epochs.first,
    "index": figure_memory.index,
    "reopened": figure_files.reopened,
    "from_file": figure_files.from_file,
    "ranks": figure_files.ranks,
    "batch_epochs": figure_batches.batch_epochs,
    "ffcv": figure_ffcv.ffcv,
    "gather": figure_batches.gather,
    "above": figure_batches.above,
    "curves": figure_training.curves,
    "own": figure_hits.own,
    "records": figure_hits.records,
    "small": figure_hits.small,
    "preload": figure_small.preload,
    "workers": figure_small.workers,
    "lookup": figure_small.lookup,
    "memory": figure_memory.proportional,
}
#: One that takes several figures in the same processes, and returns them by key.
SEVERAL = ("memory",)


def run(names: List[str], scale: Scale, results: Dict[str, Any], raw: Path) -> None:
    "Take the figures `names`; put each into `results`, and into the file `raw` at once."
    with tempfile.TemporaryDirectory(prefix="memlist-benchmarks-") as folder:
        inputs = Inputs(Path(folder), scale)
        for name in names:
            say(name)
            gc.collect()
            begun = time.perf_counter()
            found = FIGURES[name](inputs)
            results["rows"].update(found if name in SEVERAL else {name: found})
            results.setdefault("took", {})[name] = seconds = round(time.perf_counter() - begun, 1)
            raw.write_text(json.dumps(results, indent=1) + "\n")
            say(f"{name} took {seconds:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, into a temporary folder")
    parser.add_argument("--into", type=Path, help="the folder for the page and for results/")
    parser.add_argument("--only", choices=list(FIGURES), action="append", help="one row; may be given several times")
    parser.add_argument("--render", action="store_true", help="make the page from the raw samples")
    given = parser.parse_args()
    folder = given.into or (Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick else HERE)
    raw = folder / "results" / "figures.json"
    results: Dict[str, Any] = {"rows": {}}
    if raw.exists() and (given.render or given.only):
        results = json.loads(raw.read_text())
    if not given.render:
        begun = time.perf_counter()
        surroundings = {**machine.surroundings(), "quick": given.quick}
        raw.parent.mkdir(parents=True, exist_ok=True)
        run(given.only or list(FIGURES), QUICK if given.quick else FULL, results, raw)
        surroundings["minutes"] = round((time.perf_counter() - begun) / 60, 1)
        if given.only and "surroundings" in results:
            for name in given.only:
                results.setdefault("again", {})[name] = surroundings["date"]
        else:
            results["surroundings"] = surroundings
        raw.write_text(json.dumps(results, indent=1) + "\n")
    (folder / "figures.md").write_text(page_figures.render(results))
    sys.stdout.write(f"{folder / 'figures.md'}\n")


if __name__ == "__main__":
    main()
