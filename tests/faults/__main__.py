"""Make all faults, and the page that tells of them: `make test-faults`, under fifteen minutes on two cores."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, Optional

from memlist.store import usable_cpus

from .fault import ROOT
from .page import cell, render
from .table import FAULTS

RESULTS, PAGE = Path(__file__).with_name("results.json"), ROOT / "docs/reliability.md"
PACKAGES = ("memlist", "fastai", "torch", "numpy", "pillow")


def machine() -> str:
    "Describe the machine and the versions."
    versions = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in PACKAGES)]
    return f"{usable_cpus()} cores under {platform.system()} {platform.release()}, with {', '.join(versions)}"


def make(keys: List[str], quick: bool, seed: int, results: Dict[str, Any], keep: bool) -> bool:
    """Make these faults, put their lines into `results`, print them; return whether nothing came that must not.

    With `keep`, the page is made again after each of them: a run that is ended early is not lost.
    """
    good = True
    for key in keys:
        fault, begun = FAULTS[key], time.monotonic()
        times = fault.quick if quick else fault.times
        if not times:
            continue
        print(f"{key}: {fault.title}", flush=True)
        outcome = fault.run(times, seed)
        seconds = round(time.monotonic() - begun, 1)
        print(f"    {seconds} s, {outcome.times:,} times: {cell(outcome)}", flush=True)
        for remark in outcome.remarks:
            print(f"    remark: {remark}")
        if not outcome.good:
            good = False
            for culprit in outcome.culprits:
                print(f"    culprit: {culprit}\n", flush=True)
            print(f"    again: python -m faults --only {key} --seed {seed}" + " --quick" * quick, flush=True)
        results["lines"][key] = {"seed": seed, "seconds": seconds, "outcome": outcome.as_dict()}
        if keep:
            write(results)
    return good


def write(results: Dict[str, Any]) -> None:
    "Write the results, in the order of the page, and the page."
    results["lines"] = {key: results["lines"][key] for key in FAULTS if key in results["lines"]}
    results["seconds"] = round(sum(line["seconds"] for line in results["lines"].values()))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(results), encoding="utf-8")


def main(arguments: Optional[List[str]] = None) -> int:
    "Run the command; return 1 if anything came of a fault that must not."
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="each fault a few times; the page stays as it is")
    parser.add_argument("--keep", action="store_true", help="make the page even so")
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="this fault; may be repeated")
    parser.add_argument("--seed", type=int, default=14, help="what is random follows from it")
    parser.add_argument("--render", action="store_true", help="only make the page of the results again")
    parser.add_argument("--list", action="store_true", help="print all faults")
    chosen = parser.parse_args(arguments)
    os.chdir(ROOT)
    if chosen.list:
        for key, fault in FAULTS.items():
            print(f"{key:20} {fault.times:5} {fault.quick:5}  {fault.title}")
        return 0
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"lines": {}}
    results: Dict[str, Any] = kept if chosen.only or chosen.render else {"lines": {}}
    if chosen.render:
        write(results)
        return 0
    command = "make test-faults" + " FAULTS=--quick" * chosen.quick
    results.update(machine=machine(), date=time.strftime("%Y-%m-%d"), command=command)
    keep = chosen.keep or not chosen.quick
    return 0 if make(chosen.only or list(FAULTS), chosen.quick, chosen.seed, results, keep) else 1


if __name__ == "__main__":
    sys.exit(main())
