"""Run the steps that a change has to pass, and print a table of what ran. A step that fails does not end the run.

Each step is a make target. `.ci/run` runs the usual ones, `.ci/run lint docs` those two, `.ci/run all` every step.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from typing import Dict, List, NamedTuple, Tuple

#: What `.ci/run` runs: for each step, what the table calls it, and the make targets with their variables.
STEPS: Dict[str, Tuple[str, List[str]]] = {
    "environments": ("Environments", ["environments"]),
    "lint": ("Lint", ["lint"]),
    "test-fastai1": ("Tests, fastai 1", ["test-fastai1"]),
    "test-fastai2": ("Tests, fastai 2", ["test-fastai2"]),
    "docs": ("The site", ["docs"]),
    "package": ("The package, all doors", ["package"]),
    "test-legacy": ("Tests, Python 3.8 and torch 1.8.1", ["test-legacy"]),
    "test-faults": ("Reliability, short form", ["test-faults", "FAULTS=--quick"]),
}
#: Steps that run only where they are named.
ON_REQUEST: Dict[str, Tuple[str, List[str]]] = {
    "test-latest": ("Tests, Python 3.13", ["test-latest"]),
}
HEADINGS = ("step", "result", "passed", "skipped", "failed", "minutes")
#: The last line of a run of pytest: "2 failed, 2745 passed, 3 skipped in 480.12s (0:08:00)".
SUMMARY = re.compile(r"^=*\s*((?:\d+ \w+, )*\d+ \w+) in [\d.]+s\b")


class Result(NamedTuple):
    "Hold what came of a step: its title, its exit status, how many tests ended how, and the seconds it took."

    title: str
    status: int
    counts: Dict[str, int]
    seconds: float

    def row(self) -> Tuple[str, ...]:
        "Return the row of the table."
        failed = self.counts.get("failed", 0) + self.counts.get("error", 0) + self.counts.get("errors", 0)
        counts = (self.counts.get("passed", 0), self.counts.get("skipped", 0), failed)
        result = "passed" if self.status == 0 else f"FAILED ({self.status})"
        return (self.title, result, *(str(n) if self.counts else "" for n in counts), f"{self.seconds / 60:.1f}")


def add_counts(line: str, counts: Dict[str, int]) -> None:
    "Add the counts of a summary of pytest to `counts`; leave them if the line is none."
    found = SUMMARY.match(line)
    for part in found[1].split(", ") if found else ():
        number, what = part.split(" ")
        counts[what] = counts.get(what, 0) + int(number)


def run(name: str) -> Result:
    "Run a step, and show its output as it comes."
    title, targets = {**STEPS, **ON_REQUEST}[name]
    print(f"\n=== {title}: make {' '.join(targets)}", flush=True)
    counts: Dict[str, int] = {}
    begun = time.monotonic()
    command = [os.environ.get("MAKE", "make"), "--no-print-directory", *targets]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    line = b""
    while True:
        piece = os.read(
            process.stdout.fileno(), 65536
        )  # what there is: the dots of pytest come long before a line ends
        if not piece:
            break
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        *whole, line = (line + piece).split(b"\n")
        for one in whole:
            add_counts(one.decode("utf-8", "replace"), counts)
    return Result(title, process.wait(), counts, time.monotonic() - begun)


def table(results: List[Result]) -> str:
    "Return the table, in Markdown that is aligned for a terminal."
    rows = [HEADINGS, *(result.row() for result in results)]
    rows.append(("all", "", "", "", "", f"{sum(result.seconds for result in results) / 60:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main(names: List[str]) -> int:
    "Run these steps, or the usual ones; return 1 if one has failed, and 2 if a name is none of a step."
    if names == ["all"]:
        names = [*STEPS, *ON_REQUEST]
    unknown = [name for name in names if name not in STEPS and name not in ON_REQUEST]
    if unknown:
        print(f"{unknown[0]} is not a step: the steps are {', '.join([*STEPS, *ON_REQUEST])}, all", file=sys.stderr)
        return 2
    results = [run(name) for name in names or STEPS]
    made = table(results)
    print(f"\n{made}", flush=True)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        with open(summary, "a", encoding="utf-8") as file:
            file.write(f"{made}\n")
    return int(any(result.status for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
