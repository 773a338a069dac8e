"""Figures 14 and 15: random resized crop and flip, against FFCV, and memlist with the heavier default transforms."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict

from bunches import SIZE, Contender, bunch, epoch
from fastai.vision import flip_lr, get_transforms, rand_resize_crop
from inputs import Inputs
from measure import HERE, case, interleave, ratio

from memlist import MemoryImageList

#: The Python of FFCV's environment, which `make bench-ffcv` makes.
FFCV = os.environ.get("MEMLIST_FFCV", str(HERE.parent / ".venv-ffcv" / "bin" / "python"))
COMMON, HEAVY = "memlist, crop and flip", "memlist, default transforms"


class Rival:
    "Run FFCV in a process of its own and ask it for one epoch at a time."

    def __init__(self, folder: Path, beton: Path) -> None:
        script = str(HERE / "rivals" / "ffcv_loader.py")
        command = [FFCV, "-W", "ignore", script, str(folder), str(beton)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.versions = self._answer()["ready"]

    def _answer(self) -> Dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)  # type: ignore[no-any-return]
        raise RuntimeError("FFCV ended; its error is above")

    def epoch(self, pipeline: str, workers: int) -> Contender:
        "Time one epoch, inside FFCV's process."

        def run(k: int) -> float:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"pipeline": pipeline, "workers": workers}) + "\n")
            self.process.stdin.flush()
            return float(self._answer()["seconds_per_image"])

        return run

    def close(self) -> None:
        "End the process."
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def ffcv(inputs: Inputs) -> Dict[str, Any]:
    "Compare crop and flip with FFCV, on one and on two threads."
    if not Path(FFCV).exists():
        return {"cases": [], "notes": [f"FFCV's environment, {FFCV}, is not there: `make bench-ffcv` makes it."]}
    files = inputs.files(inputs.scale.raw)
    rival = Rival(files[0].parent, inputs.folder / "photographs.beton")
    try:
        crop_and_flip = [*rand_resize_crop(SIZE), flip_lr(p=0.5)], []
        common = bunch(MemoryImageList, files, crop_and_flip, 0, batch_tfms=True)
        heavy = bunch(MemoryImageList, files, get_transforms(), 0, batch_tfms=True)
        common.load_data(progress=False)
        cases = []
        for n in (1, 2):
            contenders = {
                COMMON: epoch(common, n),
                HEAVY: epoch(heavy, n),
                "FFCV, floats": rival.epoch("float", n),
                "FFCV, bytes": rival.epoch("uint8", n),
            }
            samples = interleave(contenders, inputs.scale.epochs * 2)
            ratios = [
                ratio("images/s over FFCV's, floats", "FFCV, floats", COMMON, (">=", 1.0)),
                ratio("images/s over FFCV's, bytes", "FFCV, bytes", COMMON),
                ratio("default transforms, images/s over FFCV's crop and flip", "FFCV, floats", HEAVY),
            ]
            cases.append(case(f"{n} thread{'s' * (n > 1)}", samples, ratios))
    finally:
        rival.close()
    versions = ", ".join(f"{name} {version}" for name, version in rival.versions.items())
    return {"cases": cases, "notes": [f"{len(files)} photographs. FFCV's process: {versions}."]}
