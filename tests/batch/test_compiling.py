"""Kernels are compiled once on a machine, with a word, and only those that are needed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, List

import fresh
import numpy as np
import pytest
import torch
from batch_helpers import FAST, TRAIN, classification
from conftest import noise
from fastai.vision import crop_pad, flip_lr
from test_render import plan_of

import memlist as m
from memlist.batch.maker import PLAIN_MAKER, Job
from memlist.batch.pixels import Pixels
from memlist.fastai1 import loader

pytestmark = pytest.mark.skipif(not FAST, reason="numba is not installed")

# Run each group of steps at the same time, group after group, each step in a process of its own that has not imported
# the kernels; print what the step printed, how much it compiled, and where it keeps that.
PROGRAM = """
import contextlib, io, json, os, sys, tempfile
import memlist, numba
from numba.core import event
from numba.core.caching import _CacheLocator

class Count(event.Listener):
    n = 0
    def on_start(self, event): self.n += event.data["dispatcher"].__name__ == "copied_rgb"
    def on_end(self, event): pass

def step(change):
    exec(change, globals())
    said, count = io.StringIO(), Count()
    with contextlib.redirect_stdout(said), event.install_listener("numba:compile", count):
        from memlist.batch import compiled
        compiled.prepare("copied")
        compiled.prepare("copied")
    folder = compiled.copied_rgb.stats.cache_path
    return said.getvalue(), count.n, folder

assert "memlist.batch.kernels" not in sys.modules
for group in json.loads(sys.argv[1]):
    begun = []
    for name, change in group.items():
        begun.append(os.fork())
        if not begun[-1]:
            os.write(1, (json.dumps([name, *step(change)]) + "\\n").encode())
            os._exit(0)
    for pid in begun:
        assert os.waitpid(pid, 0)[1] == 0, group
"""
# numba finds that it can't write to any folder, except for those of temporary files.
READ_ONLY = """
before = _CacheLocator.ensure_cache_path
def ensure_cache_path(self):
    if not self.get_cache_path().startswith(tempfile.gettempdir()): raise OSError("read-only")
    before(self)
_CacheLocator.ensure_cache_path = ensure_cache_path
"""
# As after an upgrade that leaves the time and the size of the file with the kernel as they were.
UPGRADED = "import memlist.batch.compiling as c; c._Cache.content = 'of the next version'"


def run(folder: Path, groups: List[Dict[str, str]]) -> Dict[str, Any]:
    "Return for each step what it printed, how often it compiled, and its folder."
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    environment.update(NUMBA_CACHE_DIR=str(folder / "cache"), TMPDIR=str(folder), OMP_NUM_THREADS="1")
    done = fresh.run(PROGRAM, json.dumps(groups), env=environment)
    assert done.returncode == 0, done.stderr
    return {name: rest for name, *rest in map(json.loads, done.stdout.splitlines())}


def test_a_kernel_is_compiled_once_on_a_machine(tmp_path: Path) -> None:
    "Compile once for processes that come one after another or at once, again after an upgrade, and in a safe folder."
    private = tmp_path / f"memlist-numba-{os.getuid()}"
    nowhere = f"numba.config.CACHE_DIR = ''\n{READ_ONLY}"
    groups = [
        {"one at once": "", "another at once": ""},
        {"later": "", "upgraded": UPGRADED},
        {"upgraded, later": UPGRADED, "before the upgrade": "", "read-only": nowhere},
        {"read-only, later": nowhere},
        {"a folder that others can write to": f"os.chmod({str(private)!r}, 0o777)\n{nowhere}"},
    ]
    found = run(tmp_path, groups)
    compiled = {name: n for name, (_, n, _) in found.items()}
    assert compiled.pop("one at once") + compiled.pop("another at once") == 1
    assert compiled == {
        "later": 0,
        "upgraded": 1,
        "upgraded, later": 0,
        "before the upgrade": 0,
        "read-only": 1,
        "read-only, later": 0,
        "a folder that others can write to": 1,
    }
    for name, (said, n, _) in found.items():
        line = (
            "numba compiles code for cropped and flipped images: about 1 s, more on a busy machine, once for this kind "
        )
        assert said.count("\n") == n == said.count(f"{line}of batch on this machine\n"), name
    assert str(private) in found["read-only"][2] and found["a folder that others can write to"][2] is None


def test_the_kernels_that_are_prepared_are_those_that_batches_need(photos: Path) -> None:
    "No batch compiles another one: their arguments always have the types that were prepared."
    from memlist.batch import compiled, kernels

    simple = [crop_pad(), flip_lr(p=0.5)], [crop_pad()]
    wanted = {"lit": (TRAIN, []), "copied": simple}
    for name, tfms in wanted.items():
        data = classification(m.MemoryImageList, photos, tfms)().databunch(batch_tfms=True, bs=4, num_workers=0)
        assert name in loader._kernels(data.train_ds)
        list(data.train_dl)
    for array in (noise(40, 50, 3, 1), noise(40, 50, 3, 2).astype(np.float32)):
        line = np.linspace(-1, 1, 24, dtype=np.float32)
        for columns in (np.broadcast_to(line, (2, 24)), np.stack([line, line])[:, ::-1]):  # read-only, and backwards
            plan = plan_of(2, 24, columns=columns)
            PLAIN_MAKER.make_all([Job(plan, [Pixels(array, 255)] * 2, torch.float32)])[0]
    known = {compiled._signature(lit) for lit in (True, False)}
    assert set(kernels.mixed_rgb.signatures) <= known
    assert len(kernels.copied_rgb.signatures) == 1
    assert all(one[1:] in known for one in kernels.mixed.signatures)
