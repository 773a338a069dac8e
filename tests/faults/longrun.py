"""Long runs: many epochs with workers, and after each of them what this process, its workers and its store take.

`python -m faults.longrun '{"epochs": 30, "named": false, "batch": true, "restless": true}'` prints the samples as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from .fault import ROOT, Fault, Outcome

#: What is measured, and by how much the last third of a run may exceed the first third.
LIMITS = {
    "descriptors": 0,
    "threads": 0,
    "maps": 4,
    "memory_kB": 6144,
    "workers_kB": 6144,
    "store_kB": 64,
}
WORDS = {
    "descriptors": "descriptors",
    "threads": "threads",
    "maps": "mappings",
    "memory_kB": "kB of memory of the main process",
    "workers_kB": "kB of memory of its workers",
    "store_kB": "kB of the store",
}
#: Every which epoch is measured: that takes as long as the epoch.
EVERY = 5
#: The part of a run that is left out: caches fill up, allocators find their sizes.
WARM_UP = 0.2


def anonymous(pid: int) -> int:
    "Return how many kB of memory a process has that is no file's: what it shares with n others counts as one nth."
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    lines = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return int(lines.get("Pss_Anon") or lines["Pss"])


def children() -> List[int]:
    "Return the ids of this process's children: the workers."
    text = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    return [int(pid) for pid in text.split()]


def sample(data: Any, workers: int) -> Dict[str, int]:
    "Measure this process and its store; `workers` was measured while they ran."
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "maps": len(Path("/proc/self/maps").read_text().splitlines()),
        "memory_kB": anonymous(os.getpid()),
        "workers_kB": workers,
        "store_kB": data.train_ds.x.store.allocated() // 1024,
    }


def settle(first: Dict[str, int], seconds: float = 1) -> None:
    "Wait until this process has no more descriptors and threads than at `first`: those of a DataLoader end late."
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
        if threads <= first["threads"] and files <= first["descriptors"]:
            break
        time.sleep(0.01)


def samples(epochs: int, named: bool, batch: bool, restless: bool) -> Dict[str, Any]:
    """Run so many epochs; return the samples, and how many epochs had the pixels of the first one.

    `named`: over a cache file; `batch`: with `batch_tfms=True`; `restless`: purge and load between epochs.
    """
    from conftest import many

    import memlist as m

    warnings.simplefilter("ignore")
    found: List[Dict[str, int]] = []
    right, workers, first = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        words = {"cache_file": Path(folder, "cache")} if named else {}
        made = m.MemoryImageList.from_folder(many(Path(folder, "images"), 32, 48), presort=True, **words)
        made = made.split_by_idx([1, 4]).label_const(0).transform(size=16)
        data = made.databunch(bs=10, num_workers=2, no_check=True, **({"batch_tfms": True} if batch else {}))
        for n in range(epochs):
            if restless and n % 5 == 4:
                data.purge(file=n % 2 == 0)
            if restless and n % 3 == 1:
                data.load_data(n_workers=0, progress=False)
            sums = []
            for i, (x, _) in enumerate(data.train_dl):
                if i == 1 and n % EVERY == 0:
                    workers = sum(map(anonymous, children()))
                sums += x.double().flatten(1).sum(1).tolist()
            first = first or sorted(sums)
            right += bool(np.allclose(sorted(sums), first))
            if n % EVERY == 0:
                gc.collect()
                settle(found[0] if found else {"descriptors": 0, "threads": 0})
                found.append(sample(data, workers))
    return {"samples": found, "right": right}


def growth(found: List[Dict[str, int]]) -> Dict[str, float]:
    "Return by how much the median of the last third exceeds that of the first third, after the warm-up."
    rest = found[int(WARM_UP * len(found)) :]
    third = max(1, len(rest) // 3)
    return {
        what: float(np.median([one[what] for one in rest[-third:]]) - np.median([one[what] for one in rest[:third]]))
        for what in LIMITS
    }


def started(form: Dict[str, Any]) -> subprocess.Popen[str]:
    "Start the process of one run."
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "faults.longrun", json.dumps(form)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def judge(made: Outcome, form: Dict[str, Any], process: subprocess.Popen[str]) -> None:
    "Wait for a run to end, and add to `made` what came of it."
    out, errors = process.communicate()
    if process.returncode:
        made.add("errors", 1, f"{form}:\n{errors}")
    else:
        judge_samples(made, form, json.loads(out.splitlines()[-1]))


def judge_samples(made: Outcome, form: Dict[str, Any], found: Dict[str, Any]) -> None:
    "Add to `made` what came of a run with these samples."
    grown = growth(found["samples"])
    made.add("right", found["right"])
    if found["right"] < form["epochs"]:
        made.add("wrong", form["epochs"] - found["right"], f"{form}: epochs with other pixels than the first one")
    for what, n in grown.items():
        if n > LIMITS[what]:
            trend = [one[what] for one in found["samples"]][:: max(1, len(found["samples"]) // 20)]
            made.add("failed", 1, f"{form}: {n:+.0f} {WORDS[what]}, {LIMITS[what]} allowed: {trend}")
    how = [
        "over a `cache_file`" if form["named"] else "in memory",
        "with `batch_tfms=True`" if form["batch"] else "an image at a time",
        "with purges and `load_data` between epochs" if form["restless"] else "undisturbed",
    ]
    told = ", ".join(f"{n:+,.0f} {WORDS[name]}" for name, n in grown.items())
    made.notes.append(f"{form['epochs']} epochs {', '.join(how)}: {told}")


def run(times: int, seed: int) -> Outcome:
    "Run `times` epochs in each of two processes at once, in memory and over a file; judge what has grown."
    forms = [{"epochs": times, "named": named, "batch": not named, "restless": True} for named in (False, True)]
    made = Outcome(times * len(forms))
    for form, process in [(form, started(form)) for form in forms]:
        judge(made, form, process)
    return made


FAULTS = [
    Fault(
        "epochs",
        "Long runs",
        "Hundreds of epochs with two workers",
        "two trainings, in memory with `batch_tfms=True`, and over a `cache_file` without, each with `purge` and "
        "`load_data` between epochs; descriptors, threads, mappings and memory are measured after every fifth epoch, "
        "and the last third of a run is compared with the first",
        run,
        times=300,
        quick=12,
    )
]

if __name__ == "__main__":
    print(json.dumps(samples(**json.loads(sys.argv[1]))))
