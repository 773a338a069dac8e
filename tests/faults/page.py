"""Make docs/reliability.md of the raw results."""

from __future__ import annotations

from typing import Any, Dict, List

from .fault import BAD, GOOD, Outcome
from .table import groups

HEAD = """# Can I trust it with a week of training?

This page shows what happens when something goes wrong. Each fault was made on purpose by a program, as often as its
line says. What is promised is the same for all of them:

- **No wrong pixel is served**, ever. An image that can't be trusted is opened from its file again.
- **Nobody hangs** for good. A killed process leaves no lock. While one is *stopped* (Ctrl-Z) in a write, others that
  want to write, or to open the file, wait until it goes on. After five seconds they name it.
- **No exceptions but documented ones**: `CacheFileError` for a file that can't be used, `ImageLoadError` for images
  that can't be opened, and a RuntimeError where a signal handler writes to a store within its own thread's write.
- **At worst, work is lost**: records that were just being written, or those that a broken file held. They are decoded
  again when they are needed.

$summary Where one of these came up, its line says so in bold type; "nothing else" stands for none of them.
"Fewer records" is what a purge, or damage to a file, leaves behind.
"""

LAST = """
## How this was taken

By `$command`, in $seconds s, on $machine. Taken on $date.

The page is made of `tests/faults/results.json`, which has the seed of every line. `PYTHONPATH=tests python -m faults
--only KEY --seed N` makes one line again; `tests/faults/__init__.py` says how, and how to add one. A seed decides what
is drawn. Where the strike comes at a random moment, the system decides what runs just then: such runs are alike, and
never the same.

## What this page does not show

- **A machine that loses its power**, or whose kernel crashes: what the system had not yet written to the disk is lost.
  A `cache_file` is then read like a damaged one: each record has a checksum, and is verified before its first use.
- **Broken memory.** Records of a `cache_file` are verified once per session, those in memory never.
- **Network file systems.** A `cache_file` belongs on a local disk.
- **A program that writes into the store's memory** by a stray pointer. What a list hands out are copies.
"""


def cell(outcome: Outcome) -> str:
    "Say what came of a fault, the promised first; what must not come of it is in bold type."
    if outcome.impossible:
        return f"can't be made on this machine: {outcome.impossible}"
    good = [f"{outcome.counts[what]:,} {words}" for what, words in GOOD.items() if outcome.counts.get(what)]
    bad = [f"**{outcome.counts[what]:,} {words}**" for what, words in BAD.items() if outcome.counts.get(what)]
    return ", ".join([*good, *(bad or ["nothing else"])])


def render(results: Dict[str, Any]) -> str:
    "Return the page: all faults that `results` has a line for, under their headings."
    outcomes = {key: Outcome(**line["outcome"]) for key, line in results["lines"].items()}
    parts = [HEAD.replace("$summary", summary(list(outcomes.values())))]
    for group, faults in groups().items():
        known = [fault for fault in faults if fault.key in outcomes]
        if not known:
            continue
        parts.append(
            f"\n## {group}\n\n| what happens | how it is made | times | what came of it |\n| --- | --- | ---: | --- |"
        )
        for fault in known:
            made = outcomes[fault.key]
            parts.append(f"\n| {fault.title} | {fault.how} | {made.times:,} | {cell(made)} |")
        parts.append("\n")
        notes = [note for fault in known for note in outcomes[fault.key].notes]
        parts += ["\n", *(f"- {note}.\n" for note in notes)] if notes else []
    last = LAST
    for name in ("command", "seconds", "machine", "date"):
        last = last.replace(f"${name}", str(results[name]))
    return "".join(parts) + last


def summary(outcomes: List[Outcome]) -> str:
    "Return the sum of the whole page, in one sentence."
    times = sum(outcome.times for outcome in outcomes)
    totals = {what: sum(outcome.counts.get(what, 0) for outcome in outcomes) for what in BAD}
    return (
        f"In all, {times:,} faults of {len(outcomes)} kinds: "
        + ", ".join(f"**{n:,}** {BAD[what]}" for what, n in totals.items())
        + "."
    )
