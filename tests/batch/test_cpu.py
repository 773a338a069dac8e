"""Where numba is missing, switched off or broken, batches on a CPU are made without it, and a warning says why."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import fresh
import numpy as np
import pytest
import torch
from batch_helpers import FAST
from conftest import noise

from memlist.batch import cpu
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Norm
from memlist.batch.threads import ONE_THREAD, Threads

# For each case, in a process of its own that has not imported numba: make one batch by a data bunch, and print the
# warning about it and its mean.
PROGRAM = """
import json, os, random, sys, tempfile, warnings
import numpy as np, torch
import memlist
from fastai.vision import get_transforms, imagenet_stats
from pathlib import Path

def batch(change):
    exec(change)
    said = []
    warnings.showwarning = lambda message, *rest, **more: said.append(str(message))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    lists = memlist.MemoryImageList.from_folder(Path(sys.argv[1])).split_none().label_from_folder()
    data = lists.transform(get_transforms(), size=24).databunch(batch_tfms=True, bs=4, num_workers=0, device="cpu")
    x, y = next(iter(data.normalize(imagenet_stats).train_dl))
    return [one for one in said if "batch_tfms" in one], x.double().mean().item()

assert "numba" not in sys.modules
for name, change in json.loads(sys.argv[2]).items():
    if not os.fork():
        print(json.dumps([name, *batch(change)]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
# Compile anew, and fail, as numba does with a NumPy or LLVM that it does not know.
BROKEN = """
os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
import numba.core.dispatcher
def fails(*args, **kwargs): raise RuntimeError("LLVM is of another version")
numba.core.dispatcher._FunctionCompiler.compile = fails
"""
# The disk where numba keeps what it compiles is full.
FULL = """
os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
import numba.core.caching
def fails(*args, **kwargs): raise OSError(28, "No space left on device")
numba.core.caching.IndexDataCacheFile.save = fails
"""


def results(photos: Path, changes: Dict[str, str]) -> Dict[str, Tuple[List[str], float]]:
    "Return the warnings and the mean of each case."
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    done = fresh.run(
        PROGRAM, str(photos), json.dumps(changes), env={**environment, "OMP_NUM_THREADS": "1"}, ignore=False
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if not line.startswith("numba compiles")]  # once on a machine
    return {name: (said, mean) for name, said, mean in map(json.loads, told)}


# What is done before numba is imported, and what the warning says; None: numba is used.
CASES: Dict[str, Tuple[str, Optional[str]]] = {
    "usable": ("", None),
    "missing": ("sys.modules['numba'] = None", "ModuleNotFoundError"),
    "switched off": ("os.environ['NUMBA_DISABLE_JIT'] = '1'", "NUMBA_DISABLE_JIT is set"),
    "a negative number of threads": ("os.environ['NUMBA_NUM_THREADS'] = '-3'", "Number of threads"),
    "no number of threads": ("os.environ['NUMBA_NUM_THREADS'] = 'many'", None),
    "can't compile": (BROKEN, "LLVM is of another version"),
    "a full disk": (FULL, "No space left on device"),
    "a cache that can't be written": ("os.environ['NUMBA_CACHE_DIR'] = '/proc/nowhere'", None),
}


@pytest.mark.skipif(not FAST, reason="numba is not installed")
def test_numba_that_cannot_be_used_is_done_without(photos: Path) -> None:
    "The batches are the same; a warning says why they are not made by numba, if they are not."
    found = results(photos, {name: change for name, (change, _) in CASES.items()})
    assert found.keys() == CASES.keys()
    for name, (said, mean) in found.items():
        reason = CASES[name][1]
        assert abs(mean - found["usable"][1]) < 1e-5, name
        assert len(said) == (reason is not None), (name, said)
        assert reason is None or ("numba can't be used" in said[0] and reason in said[0]), (name, said)


@pytest.mark.skipif(not FAST, reason="numba is not installed")
def test_a_kernel_that_cannot_be_compiled_later_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    "Values of another type need another kernel, which is compiled when the first batch has them."
    from numba.core.errors import TypingError
    from test_render import plan_of

    from memlist.batch import compiled

    pixels = [Pixels(noise(40, 50, 3, k), 255) for k in range(4)]
    norm = Norm(np.float32([0.4, 0.5, 0.6]), np.float32([2.0, 3.0, 4.0]))
    wanted, made = torch.zeros(4, 3, 24, 24), torch.zeros(4, 3, 24, 24)
    cpu.on_cpu(plan_of(4, 24), pixels, wanted, norm, ONE_THREAD)
    for error in (OSError(28, "No space left on device"), TypingError("no such type")):

        def fails(*args: Any, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(compiled, "run", fails)
            with pytest.warns(UserWarning, match="could not compile a kernel"):
                cpu.on_cpu(plan_of(4, 24), pixels, made, norm, Threads())
        assert float((made - wanted).abs().max()) < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpu.on_cpu(plan_of(4, 24), pixels, made, norm, ONE_THREAD)
