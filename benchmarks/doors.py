"""Take the figures of `MemoryImageFolder` and `cached`: `python benchmarks/doors.py`, some 8 minutes, two quiet cores.

Writes all samples to results/doors.json and the page doors.md. `--render` only makes the page; `--quick` takes few
images, into a temporary folder. Other loaders need the environments that `make bench` makes of rivals/*.txt; the page
says which were not there. MEMLIST_PICTURES names a folder in which the pictures are kept for the next run.

The steps, by their key in results/doors.json:

- `folder`: torchvision's usual training transforms; stock, memlist and FFCV in turns, each in a process of its own
- `square`: a job that every other loader can do with what it keeps; all of them in turns
- `resampling`: the kernels against Pillow, without a loader
- `hits`: how often `cached` opens a file, under a `DataLoader` with two workers
- `hit`: one hit of `cached` against a copy of the array
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import machine
import numpy as np
import page_doors
import PIL.Image
import turns
from beside import PATIENCE, Sets, absent, command_of, quiet
from measure import HERE, interleave, say
from systems import DOORS
from torch.utils.data import DataLoader, Dataset

import memlist
from memlist.resampling import Crop, Resize, prepare, render

sys.path.insert(0, str(HERE / "rivals"))
from harness import Job

#: A system and its number of workers; of threads for FFCV and tf.data. Those that are only copies of what has been made
#: before are at the settings that are their best on the page of the comparison.
OURS = (("memlist", 0), ("memlist", 2), ("ahead", 0))
STOCK = (("single", 0), ("stock", 2), ("tensors", 2))
CONTENDERS: Dict[str, Tuple[Tuple[str, int], ...]] = {
    "folder": (("limit", 0), *OURS, ("stock", 0), *STOCK, ("ffcv", 1), ("ffcv", 2)),
    "square": (
        ("limit", 0),
        *OURS,
        ("reduced", 0),
        *STOCK,
        ("tensordict", 0),
        ("monai", 0),
        ("stocaching", 2),
        ("tf", 2),
        ("ffcv", 2),
        ("ffcv_reduced", 2),
    ),
}
WORKS = {"folder": "folder", "square": "common"}


class Scale(NamedTuple):
    "How many photographs and rounds."

    photographs: int
    rounds: int
    repeats: int


FULL, QUICK = Scale(1280, 5, 9), Scale(128, 1, 2)


class Setting(NamedTuple):
    "Hold what all steps share."

    scale: Scale
    #: The folder of the photographs, in folders of classes.
    folder: str
    missing: Dict[str, str]

    def files(self) -> List[str]:
        "Return the photographs."
        return sorted(map(str, Path(self.folder).glob("*/*.jpg")))


def in_turns(at: Setting, name: str) -> Dict[str, Any]:
    "Run a comparison in turns; return what each contender measured."
    known = {
        f"{key} {workers}": (key, workers)
        for key, workers in CONTENDERS[name]
        if DOORS[key].environment not in at.missing
    }
    with tempfile.TemporaryDirectory(prefix="memlist-doors-") as scratch:

        def start(one: str) -> turns.Contender:
            (key, workers), own = known[one], Path(scratch) / one.replace(" ", "_")
            own.mkdir()
            job = Job(WORKS[name], at.folder, str(own), at.scale.photographs, workers, warm=1)
            return turns.Contender([*command_of(DOORS[key], job), "turns"], quiet(), own / "errors.txt", PATIENCE)

        keeps = {one: DOORS[key].keeps for one, (key, _) in known.items()}
        found = turns.epochs({one: partial(start, one) for one in known}, keeps, at.scale.rounds)
    for one, measured in found.items():
        say(f"{name}, {one}: {page_doors.brief(measured)}")
    return {one: {"system": known[one][0], "workers": known[one][1], **measured} for one, measured in found.items()}


# -- resampling ---------------------------------------------------------------------------------------------------

#: Name, size of the source, and size after the resize, widths first; of the last the middle square is taken.
RESIZES: Dict[str, Tuple[Tuple[int, int], Tuple[int, int]]] = {
    "500x375 to 224": ((500, 375), (299, 224)),
    "500x375 to 460": ((500, 375), (613, 460)),
    "1600x1200 to 224": ((1600, 1200), (299, 224)),
}


def resampling(at: Setting) -> Dict[str, Any]:
    "Time resizes and crops, in seconds of processor time per picture: the kernels, and Pillow's own."
    said = prepare()
    found: Dict[str, Any] = {"without": said, "times": {}}
    pictures = [PIL.Image.open(file).convert("RGB") for file in at.files()[:32]]
    table = np.linspace(-2, 2, 768).astype(np.float32).reshape(256, 3)
    for name, (size, new) in RESIZES.items():
        sized = [one.resize(size) for one in pictures]
        arrays, side = [np.asarray(one) for one in sized], min(new)
        left = (new[0] - side) // 2
        floats = np.empty((len(sized), 3, side, side), np.float32)
        steps = [Resize(*new, PIL.Image.BILINEAR), Crop(left, 0, side, side)]

        def kernels(_: int, arrays: Any = arrays, floats: Any = floats, steps: Any = steps) -> float:
            begun = time.process_time()
            render(arrays, [steps] * len(arrays), floats.transpose(0, 2, 3, 1), table)
            return (time.process_time() - begun) / len(arrays)

        def pillow(_: int, sized: Any = sized, new: Any = new, box: Any = (left, 0, left + side, side)) -> float:
            begun = time.process_time()
            for one in sized:
                one.resize(new, PIL.Image.BILINEAR).crop(box)
            return (time.process_time() - begun) / len(sized)

        found["times"][name] = interleave({"kernels": kernels, "Pillow": pillow}, at.scale.repeats)
        medians = (f"{who} {1e3 * np.median(samples):.2f} ms" for who, samples in found["times"][name].items())
        say(f"resampling, {name}: {', '.join(medians)}")
    return found


# -- cached -------------------------------------------------------------------------------------------------------


@memlist.cached
def picture(path: str) -> PIL.Image.Image:
    "Open a picture."
    return PIL.Image.open(path).convert("RGB")


@memlist.cached
def array(path: str) -> np.ndarray:
    "Open a picture as an array."
    return np.asarray(PIL.Image.open(path).convert("RGB"))


class Opened(Dataset[int]):
    "Open pictures by `picture`; return their widths."

    def __init__(self, files: List[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> int:
        return int(picture(self.files[i]).width)


def hits(at: Setting) -> Dict[str, Any]:
    "Count hits and misses of `cached` in three epochs with two workers, which are new in every epoch."
    files, epochs = at.files(), []
    before = picture.cache_info()
    for _ in range(3):
        for _batch in DataLoader(Opened(files), 64, shuffle=True, num_workers=2):
            pass
        after = picture.cache_info()
        epochs.append({"hits": after.hits - before.hits, "misses": after.misses - before.misses})
        before = after
    picture.purge()
    say(f"hits: {epochs}")
    return {"images": len(files), "epochs": epochs}


def hit(at: Setting) -> Dict[str, List[float]]:
    "Time a hit of `cached` for an array of 500x375, and a copy of that array, in seconds."
    files = at.files()[:512]  # more than the processor's caches hold, as in an epoch
    kept = [array(file).copy() for file in files]

    def timed(call: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        call()
        return (time.perf_counter() - begun) / len(files)

    def copies() -> None:
        for one in kept:
            one.copy()

    def reads() -> None:
        for file in files:
            array(file)

    found = interleave(
        {"cached": lambda _: timed(reads), "array.copy()": lambda _: timed(copies)}, 3 * at.scale.repeats
    )
    array.purge()
    say(f"hit: {', '.join(f'{name} {1e6 * np.median(samples):.0f} µs' for name, samples in found.items())}")
    return found


STEPS: Dict[str, Callable[[Setting], Any]] = {
    "folder": lambda at: in_turns(at, "folder"),
    "square": lambda at: in_turns(at, "square"),
    "resampling": resampling,
    "hits": hits,
    "hit": hit,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, into a temporary folder")
    parser.add_argument("--only", choices=list(STEPS), action="append", help="take this step again and keep the others")
    parser.add_argument("--render", action="store_true", help="make the page from the raw results")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memlist-quick-")) if given.quick else HERE
    raw = folder / "results" / "doors.json"
    raw.parent.mkdir(exist_ok=True)
    results: Dict[str, Any] = json.loads(raw.read_text()) if raw.exists() and (given.render or given.only) else {}
    if not given.render:
        scale = QUICK if given.quick else FULL
        missing = {name: absent(name) for name in {entry.environment for entry in DOORS.values()}}
        found = {name: why for name, why in missing.items() if why is not None}
        if not given.only:
            results.update(surroundings=machine.surroundings(), quick=given.quick, absent=found)
        with tempfile.TemporaryDirectory(prefix="memlist-doors-") as scratch:
            sets = Sets(Path(os.environ.get("MEMLIST_PICTURES", scratch)), scale.photographs)
            at = Setting(scale, sets.of("common", scale.photographs), found)
            results["photographs"] = next(iter(sets.described.values()))
            for name in given.only or STEPS:
                results[name] = STEPS[name](at)
                raw.write_text(json.dumps(results) + "\n")
    (folder / "doors.md").write_text(page_doors.render(results))
    sys.stdout.write(f"{folder / 'doors.md'}\n")


if __name__ == "__main__":
    main()
