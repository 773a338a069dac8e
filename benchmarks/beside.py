"""Compare memlist with other loaders: `python benchmarks/beside.py`, about an hour on two quiet cores.

Every system does the same jobs in a process of its own, in its own environment, one after the other. Where the targets
need more than that, some of them take turns, epoch by epoch. `make bench` makes the environments of rivals/*.txt;
MEMLIST_FFCV, MEMLIST_RIVALS and MEMLIST_TF name the Python of others. The answers go to results/beside.json as they
come. The page README.md is made from that file, and from results/figures.json for the targets that are measured there.

`--quick` takes few images, into a temporary folder or into the one that `--into` names. `--only NAME`, a table or a
comparison in turns, and `--system NAME`, which may be repeated, take those again and leave the rest; `--only turns`
takes all comparisons in turns. `--render` only makes the page. MEMLIST_PICTURES names a folder in which the pictures
are kept for the next run.

Add a system: a class in rivals/, derived from `System` in rivals/harness.py; an entry in systems.py; a row of "The
systems" in templates/beside.md; its packages in rivals/NAME.txt.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional

import machine
import numpy as np
import page_beside
import pictures
import turns
from measure import HERE, say
from PIL import Image
from systems import FULL, QUICK, SYSTEMS, Entry, Scale, Turns, in_turns, plan

sys.path.insert(0, str(HERE / "rivals"))
from harness import Job

ROOT = HERE.parent
# Size of a photograph, about that of ImageNet's.
KILOBYTES = 100
# The longest time that one process may take, in seconds.
PATIENCE = 1500


def python_of(environment: str) -> str:
    "Return the Python of an environment."
    if not environment:
        return sys.executable
    default = str(ROOT / f".venv-{environment}" / "bin" / "python")
    return os.environ.get(f"MEMLIST_{environment.upper()}", default)


class Sets:
    "Make the folders of pictures when a job first asks for them."

    def __init__(self, folder: Path, photographs: int) -> None:
        self.folder, self.photographs = folder, photographs
        self.described: Dict[str, str] = {}

    def of(self, work: str, n: int) -> str:
        kind = "digits" if work == "digits" else "photographs"
        folder = self.folder / f"{kind}-{n}"
        if not folder.exists():
            if kind == "digits":
                pictures.small(folder, n)
            elif n == self.photographs:
                say(f"making {n} photographs")
                pictures.collection(folder, n, KILOBYTES)
            else:
                self._some(Path(self.of(work, self.photographs)).parent, folder, n)
        if n == self.photographs and kind == "photographs" and folder.name not in self.described:
            self.described[folder.name] = pictures.described(folder, KILOBYTES)
        return str(folder / "images")

    def _some(self, source: Path, folder: Path, n: int) -> None:
        "Link to the first `n`."
        for name in ("images/a", "images/b", "masks"):
            (folder / name).mkdir(parents=True)
            for file in (source / name).iterdir():
                if int(file.stem) < n:
                    (folder / name / file.name).symlink_to(file)


def probe() -> float:
    "Return the seconds that ten JPEGs and ten copies take: how fast the machine is at the moment."
    data = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 255, (24, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((500, 375)).save(data, "JPEG", quality=90)
    block = np.zeros(8_000_000, np.float32)
    found = []
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(10):
            np.asarray(Image.open(data).convert("RGB"))
            block.copy()
        found.append(time.perf_counter() - begun)
    return sorted(found)[2]


def command_of(entry: Entry, job: Job) -> List[str]:
    "Return the command that runs one system on one job in its own process."
    command = [python_of(entry.environment), "-W", "ignore", str(HERE / "rivals" / "harness.py")]
    return [*command, entry.module, entry.cls, json.dumps(job._asdict())]


def quiet() -> Dict[str, str]:
    "Return the environment variables of a system's process."
    return {**os.environ, "PYTHONWARNINGS": "ignore"}


def ask(entry: Entry, job: Job) -> Dict[str, Any]:
    "Return the figures of one system on one job, or `failed` and the reason."
    command = command_of(entry, job)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=quiet())
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {PATIENCE} s"}
    if done.returncode == -9:
        return {"failed": "killed by the system: out of memory"}
    if done.returncode:
        return {"failed": "\n".join(done.stderr.strip().splitlines()[-3:])}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def absent(environment: str) -> Optional[str]:
    "Return the reason why an environment can't be used; None where it can."
    folder = ROOT / f".venv-{environment}"
    named = f"MEMLIST_{environment.upper()}" in os.environ
    if not environment or (named and Path(python_of(environment)).exists()) or (folder / "ready").exists():
        return None
    reason = folder / "reason"
    said = reason.read_text().strip().splitlines() if reason.exists() else []
    return said[-1] if said else f"its environment, {folder.name}, is not there: `make bench` makes it"


class Session:
    "Take tables and comparisons in turns; put each answer into `results` and into the file `raw` at once."

    def __init__(self, scale: Scale, raw: Path, results: Dict[str, Any], folder: str) -> None:
        self.scale, self.raw, self.results, self.folder = scale, raw, results, folder
        photographs = max(scale.common, scale.memory, scale.photographs)
        self.sets = Sets(Path(os.environ.get("MEMLIST_PICTURES", folder)), photographs)
        missing = {name: absent(name) for name in {entry.environment for entry in SYSTEMS.values()}}
        results["absent"] = {name: why for name, why in missing.items() if why is not None}

    def pictures(self, work: str, n: int) -> str:
        "Return the folder with the pictures of a job."
        found = self.sets.of(work, n)
        self.results["sets"].update(self.sets.described)
        return found

    def can(self, key: str) -> bool:
        "Tell whether a system's environment is there."
        return SYSTEMS[key].environment not in self.results["absent"]

    def tables(self, wanted: List[str], systems: List[str]) -> None:
        "Take these tables of these systems, a row at a time."
        for table, work, key, n, workers, share, warm in plan(self.scale):
            if table not in wanted or key not in systems or not self.can(key):
                continue
            pictured, begun = self.pictures(work, n), time.perf_counter()
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                speed = probe()
                found = ask(SYSTEMS[key], Job(work, pictured, scratch, n, workers, share, warm))
            where = {"table": table, "system": key, "n": n, "workers": workers, "share": share}
            row = {**where, "probe": speed, **stamp(begun), **found}
            versions = row.pop("versions", None)
            if versions:
                self.results["versions"][key] = versions
            others = [one for one in self.results["rows"] if any(one[k] != v for k, v in where.items())]
            self.results["rows"] = [*others, row]
            self.keep(f"{table} {key} {n} {workers} {share}: {brief(row)}")

    def in_turns(self, wanted: List[str]) -> None:
        "Take these comparisons in turns."
        for asked in in_turns(self.scale):
            if asked.name in wanted:
                begun, speed = time.perf_counter(), probe()
                found = self.compared(asked)
                facts = {"work": asked.work, "n": asked.n, "first": asked.first, "probe": speed, **stamp(begun)}
                self.results.setdefault("turns", {})[asked.name] = {**facts, "contenders": found}
                self.keep(f"{asked.name}: {', '.join(brief_turns(name, one) for name, one in found.items())}")

    def compared(self, asked: Turns) -> Dict[str, Any]:
        "Run one comparison; return what each contender measured, by its system and workers."
        pictured = self.pictures(asked.work, asked.n)
        known = {f"{key} {workers}": (key, workers) for key, workers in asked.contenders if self.can(key)}
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:

            def job(name: str) -> Job:
                scratch = Path(folder) / name.replace(" ", "_")
                scratch.mkdir(exist_ok=True)
                return Job(asked.work, pictured, str(scratch), asked.n, known[name][1], warm=0 if asked.first else 1)

            def start(name: str) -> turns.Contender:
                command = [*command_of(SYSTEMS[known[name][0]], job(name)), "turns"]
                return turns.Contender(command, quiet(), Path(folder) / f"{name}.txt", PATIENCE)

            def first(name: str) -> Dict[str, Any]:
                return ask(SYSTEMS[known[name][0]], job(name))

            if asked.first:
                found = turns.first_batches({name: partial(first, name) for name in known}, asked.rounds)
            else:
                keeps = {name: SYSTEMS[key].keeps for name, (key, _) in known.items()}
                found = turns.epochs({name: partial(start, name) for name in known}, keeps, asked.rounds)
        return {name: {"system": known[name][0], "workers": known[name][1], **one} for name, one in found.items()}

    def keep(self, said: str) -> None:
        "Write what there is into the file, and a line to the terminal."
        self.raw.write_text(json.dumps(self.results) + "\n")
        say(said)


def stamp(begun: float) -> Dict[str, Any]:
    "Return when something was measured, and the seconds that it took."
    return {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "took": round(time.perf_counter() - begun, 1)}


def brief_turns(name: str, found: Dict[str, Any]) -> str:
    "Write one contender for the terminal."
    if "failed" in found:
        return f"{name} FAILED {found['failed']}"
    wrong = f" WRONG: {found['wrong']}" if found["wrong"] else ""
    return f"{name} {1e6 * float(np.median(found['samples'])):,.1f} µs{wrong}"


def brief(row: Dict[str, Any]) -> str:
    "Write one row for the terminal."
    if "failed" in row:
        return f"FAILED {row['failed']}"
    warm = sorted(epoch["images"] / epoch["seconds"] for epoch in row["warm"])
    wrong = f"  WRONG: {row['wrong']}" if row["wrong"] else ""
    return f"{warm[len(warm) // 2]:.0f} images/s, {row['peak'] / 1e6:.0f} MB{wrong}"


def arguments() -> argparse.Namespace:
    "Read the command line."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*TABLES, *TURNS, "turns"]
    parser.add_argument("--quick", action="store_true", help="few images, into a temporary folder")
    parser.add_argument("--into", type=Path, help="the folder for the page and for results/")
    said = "a table, or a comparison in turns; may be given several times"
    parser.add_argument("--only", choices=names, action="append", help=said)
    parser.add_argument("--system", choices=list(SYSTEMS), action="append", help="a system; may be given several times")
    parser.add_argument("--render", action="store_true", help="make the page from the raw results")
    return parser.parse_args()


TABLES = list(dict.fromkeys(one[0] for one in plan(FULL)))
TURNS = [one.name for one in in_turns(FULL)]


def main() -> None:
    given = arguments()
    folder = given.into or (Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick else HERE)
    raw = folder / "results" / "beside.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    results: Dict[str, Any] = {"rows": [], "turns": {}, "versions": {}, "sets": {}, "quick": given.quick}
    partly = bool(given.only or given.system)
    if raw.exists() and (given.render or partly):
        results = json.loads(raw.read_text())
    if not given.render:
        surroundings = machine.surroundings()
        if not partly:
            results["surroundings"] = surroundings
        wanted = given.only or [*TABLES, *([] if given.system else ["turns"])]
        with tempfile.TemporaryDirectory(prefix="memlist-beside-") as scratch:
            session = Session(QUICK if given.quick else FULL, raw, results, scratch)
            session.in_turns(TURNS if "turns" in wanted else wanted)
            session.tables(wanted, given.system or list(SYSTEMS))
        raw.write_text(json.dumps(results) + "\n")
    figures = raw.parent / "figures.json"
    page = page_beside.render(results, json.loads(figures.read_text()) if figures.exists() else {"rows": {}})
    (folder / "README.md").write_text(page)
    sys.stdout.write(f"{folder / 'README.md'}\n")


if __name__ == "__main__":
    main()
