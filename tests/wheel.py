"""Try a release as strangers do: the wheel through each of its doors, outside of the checkout. `make package` runs it.

Each door has an environment that holds the wheel and what its extras name. There the code of the README runs first,
with nothing else installed; then the door's example and some of its tests. These come from the sdist, unpacked without
`memlist/`: a test, its subprocesses and an example find no memlist but the installed one.

Torch is installed once: the environments of both fastais begin as a copy of torchvision's, made of hard links.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

#: What the tests and examples need besides.
FOR_TESTS = ["pytest", "pytest-xdist", "hypothesis", "matplotlib", "scikit-learn", "scikit-image"]
FOR_BASE = ["pytest", "hypothesis"]
PYTEST = ["-m", "pytest", "-q", "-m", "not full"]
IN_PARALLEL = ["-n", "2", "--dist", "worksteal"]

#: What a program runs through before the code of a door: the folder of pictures that the README names.
PICTURES = """
import sys, warnings
from pathlib import Path
import numpy as np, PIL.Image
warnings.simplefilter("ignore")
for i in range(40):
    path = Path("data/pets", ("cat", "dog")[i % 2], f"{i}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((48, 64 + i, 3), 5 * i, np.uint8)).save(path)
"""
#: How the base is used, which has no block of its own in the README.
CACHED = """
import memlist
@memlist.cached
def opened(path): return np.asarray(PIL.Image.open(path))
paths = sorted(map(str, Path("data/pets").rglob("*.png")))
for path in paths: assert (opened(path) == np.asarray(PIL.Image.open(path))).all()
assert opened.cache_info(paths)[:2] == (40, 40)
absent = {"torch", "fastai", "torchvision", "matplotlib"} & set(sys.modules)
assert not absent, absent
"""


class Door(NamedTuple):
    "How a door is tried: its extras and constraints, which block of the README it is, and which files run."

    extras: str
    constraints: str
    block: Optional[str]  # a name that the block has and no other
    check: str  # what is true after it
    example: Optional[str]
    tests: List[str]
    begins_with: Optional[str] = None  # the door whose environment this one is a copy of


DOORS = {
    "base": Door(
        "", "constraints.txt", None, CACHED, None,
        ["--noconftest", "tests/store/test_store.py", "tests/store/test_model.py"],
    ),
    "torchvision": Door(
        "[torchvision,fast]", "constraints.txt", "MemoryImageFolder",
        "len(next(iter(loader))); assert train.load_data(progress=False).loaded",
        "torchvision_folder.py", ["tests/torchvision/test_folder.py", "tests/torchvision/test_wrapping.py"],
    ),
    "fastai1": Door(
        "[fastai1,fast]", "constraints.txt", "MemoryImageList",
        "data.one_batch(); assert data.load_data(progress=False).loaded",
        "demo.py", ["tests/fastai1/test_at_once.py", "tests/fastai1/test_saved.py", "tests/test_packaging.py"],
        begins_with="torchvision",
    ),
    "fastai2": Door(
        "[fastai2,fast]", "constraints-fastai2.txt", "in_memory(dls)",
        "dls.one_batch(); assert dls.load_data(progress=False).loaded",
        "fastai2_classes.py", ["tests/fastai2/test_loaders.py"],
        begins_with="torchvision",
    ),
}  # fmt: skip


def run(command: List[str], cwd: Path, quiet: bool = False) -> None:
    "Run a command, which must succeed; if it is `quiet`, show what it prints only where it fails."
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    pipe = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=cwd, env=environment, stdout=pipe, stderr=subprocess.STDOUT if quiet else None)
    if done.returncode:
        sys.stdout.write((done.stdout or b"").decode("utf-8", "replace"))
        sys.exit(f"failed in {cwd}: {' '.join(command)[:300]}")


def unpacked(dist: Path, outside: Path) -> Tuple[Path, Path]:
    "Unpack the sdist without its package; return the wheel and the folder."
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    suite = outside / "suite"
    shutil.rmtree(suite, ignore_errors=True)
    with tarfile.open(sdist) as packed:
        packed.extractall(str(outside))
    (outside / sdist.name[: -len(".tar.gz")]).rename(suite)
    shutil.rmtree(suite / "memlist")
    shutil.rmtree(suite / "memlist.egg-info")
    return wheel, suite


def environment(folder: Path, start: Optional[Path]) -> str:
    "Make an environment, with the packages of another one if there is a `start`; return its Python."
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(folder)], folder.parent, quiet=True)
    if start is not None:
        (ours,), (theirs,) = (one.glob("lib/python*/site-packages") for one in (folder, start))
        shutil.rmtree(ours)
        shutil.copytree(str(theirs), str(ours), symlinks=True, copy_function=os.link)
    return str(folder / "bin/python")


def program(door: Door, suite: Path) -> str:
    "Return the program that uses the door as the README does."
    if door.block is None:
        return PICTURES + door.check
    readme = (suite / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if door.block in block]
    return f"{PICTURES}\n{block}\n{door.check}\n"


def try_door(name: str, wheel: Path, suite: Path, full: bool) -> None:
    "Install the wheel for one door, and run what belongs to it."
    door, begun, outside = DOORS[name], time.monotonic(), suite.parent
    print(f"--- {name}: pip install 'memlist{door.extras}'", flush=True)
    start = outside / door.begins_with if door.begins_with else None
    python = environment(outside / name, start if start is not None and start.exists() else None)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    limits = ["--constraint", str(suite / door.constraints)] if door.extras else []
    run([*pip, f"{wheel}{door.extras}", *limits], outside, quiet=True)
    run([python, "-m", "pip", "check"], outside, quiet=True)
    work = outside / f"{name}-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "door.py").write_text(program(door, suite), encoding="utf-8")
    run([python, "-W", "ignore", "-m", "memlist", "--version"], work)
    run([python, "door.py"], work)
    print(f"--- {name}: installed and used in {time.monotonic() - begun:.0f} s", flush=True)
    if full:
        run([*pip, f"{wheel}[fastai1,fast,test]", *limits], outside, quiet=True)
        run([python, *PYTEST, *IN_PARALLEL], suite)
        return
    run([*pip, *(FOR_TESTS if door.extras else FOR_BASE), *limits], outside, quiet=True)
    if door.example:
        run([python, str(suite / "examples" / door.example), "--quick"], work)
    run([python, *PYTEST, *(IN_PARALLEL if door.extras else []), *door.tests], suite)


def main() -> None:
    "Run the command."
    parser = argparse.ArgumentParser(prog="python tests/wheel.py", description=__doc__)
    parser.add_argument("dist", type=Path, help="the folder that holds one wheel and its sdist")
    parser.add_argument("outside", type=Path, help="where the environments are made")
    parser.add_argument("--full", action="store_true", help="run all tests with fastai 1 instead, and no other door")
    parser.add_argument("--only", action="append", choices=list(DOORS), help="this door; may be repeated")
    chosen = parser.parse_args()
    outside = chosen.outside.resolve()
    outside.mkdir(parents=True, exist_ok=True)
    wheel, suite = unpacked(chosen.dist.resolve(), outside)
    names = ["fastai1"] if chosen.full else chosen.only or list(DOORS)
    for i, name in enumerate(names):
        try_door(name, wheel, suite, chosen.full)
        needed = {DOORS[later].begins_with for later in names[i + 1 :]}
        for done in set(DOORS) - needed:  # each takes gigabytes
            shutil.rmtree(outside / done, ignore_errors=True)


if __name__ == "__main__":
    main()
