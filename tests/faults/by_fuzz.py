"""Faults that a generator makes of a seed, each in some thousands of ways."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Callable, Dict, Tuple

from memlist.store import usable_cpus

from .by_tests import BROKEN
from .fault import ROOT, Fault, Outcome, Run

ODD = "Odd use of `batch_tfms=True`"
# What a script prints: counts, and the culprits.
Read = Callable[[str], Tuple[Dict[str, int], Dict[str, str]]]


def by_script(script: str, read: Read, meaning: Dict[str, str]) -> Run:
    """Return a function that makes a fault by a script, which runs the cases from one seed up to another.

    As many of them run at once as there are cores. `meaning` translates what the script counts.
    """

    def run(times: int, seed: int) -> Outcome:
        n, made = usable_cpus(), Outcome(times)
        cuts = [seed + times * k // n for k in range(n + 1)]
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(ROOT / "tests" / script), str(first), str(stop)],
                stdout=subprocess.PIPE,
                text=True,
                env=None,
            )
            for first, stop in zip(cuts, cuts[1:])
        ]
        for process in processes:
            counts, culprits = read(process.communicate()[0])
            for what, number in counts.items():
                made.add(meaning[what], number)
            made.culprits += culprits.values()
            if process.returncode:
                made.add("errors", 1, f"{script} ended with {process.returncode}")
        return made

    return run


def _of_files(text: str) -> Tuple[Dict[str, int], Dict[str, str]]:
    counts: Dict[str, int] = {}
    culprits: Dict[str, str] = {}
    for line in text.splitlines():
        seed, outcome = json.loads(line)
        if outcome != "began":
            what = outcome.split(":")[0]
            counts[what] = counts.get(what, 0) + 1
            if what == "fault":
                culprits[seed] = f"seed {seed}: {outcome}"
    return counts, culprits


def _of_batches(text: str) -> Tuple[Dict[str, int], Dict[str, str]]:
    counts, faults = json.loads(text.splitlines()[-1])
    return counts, {fault: fault for fault in faults}


FAULTS = [
    Fault(
        "fuzzed-files",
        BROKEN,
        "A cache file that a fuzzer has changed",
        "files of several segments, also sparse ones and copies of a file in use; words, blocks, index and pixels are "
        "changed, cut, moved, swapped and overwritten, half of the time under right checksums; then all is read, "
        "written, checked, mended and purged",
        by_script(
            "fuzz.py",
            _of_files,
            {"whole": "right", "some": "fewer", "none": "fewer", "refused": "refused", "fault": "errors"},
        ),
        times=300,
        quick=10,
    ),
    Fault(
        "batches-against-stock",
        ODD,
        "Batches against fastai's own, under one seed",
        "random lists, images, sizes, transforms, parameters of any form, exact ratios, patched fastai, default types "
        "and numbers of threads; what differs must be announced; what fastai raises must be raised",
        by_script(
            "differential.py",
            _of_batches,
            {"same": "right", "raised": "right", "announced": "announced", "different": "wrong"},
        ),
        times=600,
        quick=20,
    ),
]
