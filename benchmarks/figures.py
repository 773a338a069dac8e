"""Every figure of benchmarks/figures.md in one run: `python benchmarks/figures.py`, some 15 minutes on two quiet cores.

Writes the raw samples to benchmarks/results/figures.json and renders the page from them. `--quick` takes small sizes
and few rounds and writes to a temporary folder; `--only NAME`, which may be repeated, runs that row and replaces it in
what is there; `--render` makes the page anew from the raw samples. FFCV needs an environment of its own:
`make bench-ffcv` makes it, or MEMLIST_FFCV names its Python; without it that row says so.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import batching
import machine
import measure
import memory
import named
import page_figures
import pictures
import speed
from measure import say, value

HERE = Path(__file__).resolve().parent


class Scale(NamedTuple):
    "How many images and rounds."

    photographs: int
    epochs: int
    blocks: int
    memory: int
    repeats: int
    records: Tuple[int, ...]
    small: int
    reopened: int
    digits: int
    raw: int


FULL = Scale(384, 4, 40, 1008, 1, (1_000, 10_000, 100_000), 1000, 3600, 4096, 1024)
QUICK = Scale(128, 2, 4, 128, 1, (1_000, 2_000, 5_000), 100, 200, 256, 128)


class Pictures:
    "The files that the rows ask for, made when the first of them does."

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.folder, self.scale = folder, scale
        self.made: Dict[Tuple[int, int], Tuple[List[Path], str]] = {}

    def photographs(self, kilobytes: int, n: int = 0) -> Tuple[List[Path], str]:
        n = n or self.scale.photographs
        if (kilobytes, n) not in self.made:
            say(f"making {n} photographs of {kilobytes} kB")
            folder = self.folder / f"{kilobytes}kB-{n}"
            self.made[kilobytes, n] = pictures.photographs(folder, n, kilobytes)
        return self.made[kilobytes, n]

    def sets(self) -> Dict[int, Tuple[List[Path], str]]:
        return {kilobytes: self.photographs(kilobytes) for kilobytes in pictures.SETS}


def equal(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 1."
    cases, notes = [], []
    for start, workers in (("fork", 0), ("fork", 2), ("spawn", 2)):
        found = measure.apart("equality", "compare", start, workers)
        name = f"{workers} workers" + f", {start}" * (workers > 0)
        count = found["combinations"]
        facts = {"of": count, "items": found["items"], "different": found["unequal"][:20]}
        cases.append(value(name, len(found["unequal"]), f"of {count} combinations differ", ("<=", 0), **facts))
        misses = " and ".join(map(str, found["misses_by_epoch"]))
        raised = f", {found['raised_in_stock']} of them errors in stock too" if found["raised_in_stock"] else ""
        notes.append(f"{name}: {found['items']:,} items compared{raised}; misses in the two epochs: {misses}.")
    return {"cases": cases, "notes": notes}


def missing(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 2."
    n = scale.photographs // 2
    return memory.missing(str(made.photographs(100)[0][0].parent), n)


def hits(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 3."
    return speed.hits(made.photographs(100)[0], scale.blocks)


def own(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 19."
    return speed.own_hits(made.photographs(100)[0], scale.blocks)


def warm(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 4."
    return speed.warm_epochs(made.sets(), scale.epochs)


def load(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 5."
    return speed.loads(made.sets(), scale.epochs + 2)


def first(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 6."
    return speed.first_epochs(made.photographs(100)[0], scale.epochs)


def index(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 8."
    return memory.index_bytes(scale.records)


def records(made: Pictures, scale: Scale) -> Dict[str, Any]:
    return speed.many_records(scale.records, scale.epochs * 3)


def small(made: Pictures, scale: Scale) -> Dict[str, Any]:
    return speed.small_images(pictures.digits(made.folder / "digits", scale.small), scale.epochs * 3)


def reopened(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 10."
    return named.reopening(made.photographs(100)[0], made.folder, scale.reopened, scale.epochs + 1)


def from_file(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 11."
    return named.warm_from_file(made.photographs(100)[0], made.folder, scale.epochs * 4)


def ranks(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 12."
    return named.ranks(made.photographs(100)[0], made.folder)


def batch_epochs(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 13."
    small = pictures.digits(made.folder / f"digits-{scale.digits}", scale.digits)
    return batching.against_stock(made.photographs(100)[0], small, scale.epochs + 1)


def ffcv(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figures 14 and 15."
    return batching.against_ffcv(made.photographs(100, scale.raw)[0], made.folder, scale.epochs * 2)


def gather(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 16."
    return batching.gathering(made.photographs(100)[0], scale.blocks)


def above(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 17."
    return batching.memory_above(made.photographs(100)[0])


def curves(made: Pictures, scale: Scale) -> Dict[str, Any]:
    "Figure 18."
    return batching.curves(pictures.digits(made.folder / "digits-curves", scale.small), scale.epochs + 2)


ROWS: Dict[str, Callable[[Pictures, Scale], Dict[str, Any]]] = {
    "equal": equal,
    "misses": missing,
    "hit": hits,
    "warm": warm,
    "load": load,
    "first": first,
    "index": index,
    "reopened": reopened,
    "from_file": from_file,
    "ranks": ranks,
    "batch_epochs": batch_epochs,
    "ffcv": ffcv,
    "gather": gather,
    "above": above,
    "curves": curves,
    "own": own,
    "records": records,
    "small": small,
}


def run(names: List[str], scale: Scale, results: Dict[str, Any], raw: Path) -> None:
    "Take the rows `names` and put them into `results`, and each into the file `raw` as soon as it is there."
    with tempfile.TemporaryDirectory(prefix="memlist-benchmarks-") as folder:
        made = Pictures(Path(folder), scale)
        for name in names:
            say(name)
            gc.collect()
            begun = time.perf_counter()
            if name == "memory":  # figures 7 and 9 come from the same processes
                files = made.photographs(100, scale.memory)[0]
                found = memory.proportional(str(files[0].parent), scale.memory, scale.repeats)
                results["rows"]["pss"], results["rows"]["purge"] = found
            else:
                results["rows"][name] = ROWS[name](made, scale)
            raw.write_text(json.dumps(results, indent=1) + "\n")
            say(f"{name} took {time.perf_counter() - begun:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*ROWS, "memory"]
    parser.add_argument("--quick", action="store_true", help="small sizes, into a temporary folder")
    parser.add_argument("--only", choices=names, action="append", help="one row; may be given several times")
    parser.add_argument("--render", action="store_true", help="make the page from the raw samples")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick else HERE
    raw = folder / "results" / "figures.json"
    results: Dict[str, Any] = {"rows": {}}
    if raw.exists() and (given.render or given.only):
        results = json.loads(raw.read_text())
    if not given.render:
        begun = time.perf_counter()
        surroundings = {**machine.surroundings(), "quick": given.quick}
        raw.parent.mkdir(parents=True, exist_ok=True)
        run(given.only or names, QUICK if given.quick else FULL, results, raw)
        surroundings["minutes"] = round((time.perf_counter() - begun) / 60, 1)
        if given.only and "surroundings" in results:
            for name in given.only:
                results.setdefault("again", {})[name] = surroundings["date"]
        else:
            results["surroundings"] = surroundings
        raw.write_text(json.dumps(results, indent=1) + "\n")
    if "curves" in results["rows"]:
        batching.draw_curves(results["rows"]["curves"]["losses"], folder / "results" / "curves.svg")
    (folder / "figures.md").write_text(page_figures.render(results))
    sys.stdout.write(f"{folder / 'figures.md'}\n")


if __name__ == "__main__":
    main()
