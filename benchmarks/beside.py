"""Compare memlist with other loaders: `python benchmarks/beside.py`, about 90 minutes on two quiet cores.

Every system does the same jobs in a process of its own, in its own environment, one after the other. `make bench` makes
the environments of rivals/*.txt; MEMLIST_FFCV, MEMLIST_RIVALS and MEMLIST_TF name the Python of others. The answers go
to results/beside.json as they come, and the page README.md is made from that file.

`--quick` takes few images, into a temporary folder. `--only TABLE` and `--system NAME`, which may be repeated, take
those again and leave the rest. `--render` only makes the page. MEMLIST_PICTURES names a folder in which the pictures
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
from pathlib import Path
from typing import Any, Dict, List, Optional

import machine
import numpy as np
import page_beside
import pictures
from measure import HERE, say
from PIL import Image
from systems import FULL, QUICK, SYSTEMS, Entry, Scale, plan

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


def ask(entry: Entry, job: Job) -> Dict[str, Any]:
    "Run one system on one job in its own process; return its figures, or `failed` and the reason."
    command = [python_of(entry.environment), "-W", "ignore", str(HERE / "rivals" / "harness.py")]
    command += [entry.module, entry.cls, json.dumps(job._asdict())]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
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


def run(scale: Scale, raw: Path, results: Dict[str, Any], tables: List[str], systems: List[str]) -> None:
    "Take these tables of these systems; put each row into `results` and into the file at once."
    missing = {name: absent(name) for name in {entry.environment for entry in SYSTEMS.values()}}
    results["absent"] = {name: why for name, why in missing.items() if why is not None}
    with tempfile.TemporaryDirectory(prefix="memlist-beside-") as folder:
        sets = Sets(Path(os.environ.get("MEMLIST_PICTURES", folder)), scale.common)
        for table, work, key, n, workers, share, warm in plan(scale):
            entry = SYSTEMS[key]
            if table not in tables or key not in systems or entry.environment in results["absent"]:
                continue
            pictured = sets.of(work, n)
            results["sets"].update(sets.described)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                speed = probe()
                found = ask(entry, Job(work, pictured, scratch, n, workers, share, warm))
            where = {"table": table, "system": key, "n": n, "workers": workers, "share": share}
            row = {**where, "probe": speed, "at": time.strftime("%Y-%m-%d %H:%M:%S"), **found}
            versions = row.pop("versions", None)
            if versions:
                results["versions"][key] = versions
            results["rows"] = [one for one in results["rows"] if any(one[k] != v for k, v in where.items())] + [row]
            raw.write_text(json.dumps(results) + "\n")
            say(f"{table} {key} {n} {workers} {share}: {brief(row)}")


def brief(row: Dict[str, Any]) -> str:
    "Write one row for the terminal."
    if "failed" in row:
        return f"FAILED {row['failed']}"
    warm = sorted(epoch["images"] / epoch["seconds"] for epoch in row["warm"])
    wrong = f"  WRONG: {row['wrong']}" if row["wrong"] else ""
    return f"{warm[len(warm) // 2]:.0f} images/s, {row['peak'] / 1e6:.0f} MB{wrong}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tables = list(dict.fromkeys(one[0] for one in plan(FULL)))
    parser.add_argument("--quick", action="store_true", help="few images, into a temporary folder")
    parser.add_argument("--only", choices=tables, action="append", help="a table; may be given several times")
    parser.add_argument("--system", choices=list(SYSTEMS), action="append", help="a system; may be given several times")
    parser.add_argument("--render", action="store_true", help="make the page from the raw results")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick else HERE
    raw = folder / "results" / "beside.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    results: Dict[str, Any] = {"rows": [], "versions": {}, "sets": {}, "quick": given.quick}
    partly = bool(given.only or given.system)
    if raw.exists() and (given.render or partly):
        results = json.loads(raw.read_text())
    if not given.render:
        surroundings = machine.surroundings()
        if not partly:
            results["surroundings"] = surroundings
        run(QUICK if given.quick else FULL, raw, results, given.only or tables, given.system or list(SYSTEMS))
        raw.write_text(json.dumps(results) + "\n")
    (folder / "README.md").write_text(page_beside.render(results))
    sys.stdout.write(f"{folder / 'README.md'}\n")


if __name__ == "__main__":
    main()
