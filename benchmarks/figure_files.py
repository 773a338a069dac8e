"""Figures 10 to 12: a `cache_file` opened again, warm epochs from it, and the memory of two processes over it."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict

import torch
from bunches import BATCH, bunch, epoch, same_items
from fastai.vision import ImageList
from inputs import Inputs
from measure import HERE, apart, case, interleave, ratio, say, value

from memlist import ImageStore, MemoryImageList


class InFile(MemoryImageList):
    "Keep the cache in the file that `file` names: `bunch` passes no keywords to a list."

    file = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"cache_file": self.file, **kwargs})


# -- figure 10 ----------------------------------------------------------------------------------------------


def fill(folder: str, cache_file: str) -> Dict[str, int]:
    "Decode all of `folder` into the file. Runs in a process of its own."
    il = MemoryImageList.from_folder(folder, presort=True, cache_file=cache_file).load_data(progress=False)
    return {"nbytes": il.cache_info().nbytes, "images": len(il)}


def reopen(folder: str, cache_file: str, drop: bool) -> Dict[str, float]:
    "Open the file in this new process and make one batch; `drop` first drops its pages from memory."
    if drop:
        ImageStore.open(cache_file).purge()
    files = sorted(Path(folder).iterdir())
    begun = time.perf_counter()
    store = ImageStore.open(cache_file)
    opened = time.perf_counter() - begun
    InFile.file = cache_file
    data = bunch(InFile, files, None, 0, normalised=False)
    built = time.perf_counter() - begun
    batch = next(iter(data.train_dl))[0]
    total = time.perf_counter() - begun
    info = data.cache_info()
    assert len(batch) == BATCH and info.misses == 0 and info.hits >= BATCH and data.train_ds.x.store is store
    begun = time.perf_counter()
    stock = bunch(ImageList, files, None, 0, normalised=False)
    next(iter(stock.train_dl))
    return {"open": opened, "bunch": built - opened, "total": total, "stock": time.perf_counter() - begun}


def reopened(inputs: Inputs) -> Dict[str, Any]:
    "Figure 10: open a file of many records (links to the photographs) in new processes."
    files, folder, n, repeats = inputs.files(), inputs.folder, inputs.scale.reopened, inputs.scale.epochs + 1
    many = folder / "many"
    many.mkdir()
    for i in range(n):
        (many / f"{i:05}.jpg").symlink_to(files[i % len(files)])
    cache_file = str(folder / "photographs.cache")
    made = apart("figure_files", "fill", str(many), cache_file)
    say(f"a file of {made['nbytes'] / 1e9:.2f} GB")
    cases = []
    for drop, what in ((False, "in the page cache"), (True, "dropped from memory first")):
        runs = [apart("figure_files", "reopen", str(many), cache_file, drop) for _ in range(repeats)]
        for key, name in (
            ("total", "open, build the bunch, serve the first batch"),
            ("open", "opening the file alone"),
            ("stock", "stock's bunch and first batch"),
        ):
            samples = sorted(run[key] for run in runs)
            bound = ("<=", 1.0) if key == "total" and not drop else None
            cases.append(value(f"{what}: {name}", samples[len(samples) // 2], "s", bound, samples=samples))
    Path(cache_file).unlink()
    note = (
        f"{made['images']:,} records, {made['nbytes'] / 1e9:.2f} GB; each run is a new process; medians of {repeats}."
    )
    return {"cases": cases, "notes": [note]}


# -- figure 11 ----------------------------------------------------------------------------------------------


def from_file(inputs: Inputs) -> Dict[str, Any]:
    "Figure 11: time warm epochs over a file and over anonymous memory, in turn."
    files, cases = inputs.files(), []
    InFile.file = str(inputs.folder / "warm.cache")
    for workers in (0, 2):
        data = {"file": bunch(InFile, files, None, workers, normalised=False)}
        anonymous = MemoryImageList
        data["memory"] = bunch(_with_store(anonymous, ImageStore()), files, None, workers, normalised=False)
        for one in data.values():
            one.load_data(progress=False)
        assert data["file"].train_ds.x.store is not data["memory"].train_ds.x.store
        assert same_items(data["file"], data["memory"])
        before = [one.cache_info().misses for one in data.values()]
        samples = interleave({name: epoch(one) for name, one in data.items()}, inputs.scale.epochs * 4)
        assert before == [one.cache_info().misses for one in data.values()]
        ratios = [ratio("images/s over anonymous memory's", "memory", "file", (">=", 0.95))]
        cases.append(case(f"100 kB, {workers} workers", samples, ratios))
        del data
    return {"cases": cases, "notes": []}


def _with_store(cls: type, store: ImageStore) -> Any:
    return lambda files, path: cls(files, path=path, store=store)


# -- figure 12 ----------------------------------------------------------------------------------------------


def rank(folder: str, cache_file: str) -> None:
    "Read every image twice (a process has not mapped what it fills), print that, and wait until told to end."
    torch.set_num_threads(1)
    il = MemoryImageList.from_folder(folder, presort=True, cache_file=cache_file)
    for i in [*range(len(il)), *range(len(il))]:
        il[i]
    print(json.dumps({"misses": il.cache_info().misses, "nbytes": il.cache_info().nbytes}), flush=True)
    sys.stdin.readline()


def mapped(pid: int, cache_file: str) -> Dict[str, int]:
    "Return the bytes of the file that the process has mapped, and its proportional share of them."
    found, inside = {"Rss": 0, "Pss": 0}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line.split(" ", 1)[0].endswith(":"):
            inside = line.endswith(cache_file)
        elif inside and line.split(":")[0] in found:
            found[line.split(":")[0]] += int(line.split()[1]) * 1024
    return found


def ranks(inputs: Inputs) -> Dict[str, Any]:
    "Figure 12: measure a process that has read all of a file, and then a second one as well."
    files, folder = inputs.files(), inputs.folder
    cache_file = str((folder / "ranks.cache").resolve())
    source = f"import sys; sys.path.insert(0, {str(HERE)!r}); import figure_files; figure_files.rank(*sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", source, str(files[0].parent), cache_file]
    running, said = [], []
    sums = []
    for _ in range(2):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        said.append(json.loads(process.stdout.readline()))
        sums.append(sum(mapped(one.pid, cache_file)["Pss"] for one in running))
    for process in running:
        process.communicate("\n")
    n, nbytes = len(files), said[0]["nbytes"]
    cases = [
        value("two ranks' summed PSS over one rank's", sums[1] / sums[0], "", ("<=", 1.05), bytes=sums),
        value("one rank's PSS of the file", sums[0] / nbytes, "of the dataset"),
        value("images decoded by both", said[1]["misses"] / n, "of the images", ("<=", 1.01)),
    ]
    return {"cases": cases, "notes": [f"{n} photographs, {nbytes / 1e6:.0f} MB of pixels; PSS of the mapped file."]}
