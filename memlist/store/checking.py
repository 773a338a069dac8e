"""Check a whole store: every record and the index."""

from __future__ import annotations

import os
import time
from typing import List, NamedTuple, Tuple

from .layout import PURGE, RECORD, Block
from .log import Entry
from .parts import Parts
from .source import files_of


class Problem(NamedTuple):
    "Describe a problem found by `ImageStore.check`: the paths of the record's source, if known, and what is wrong."

    path: str
    what: str


# How often a store is checked again after it was repaired. Once is enough, but for crafted files.
MOST_PASSES = 5


def check_store(parts: Parts, fix: bool) -> List[Problem]:
    "Verify every record and the index; see `ImageStore.check`. After a repair, check again what the new index has."
    problems = found = _check(parts, fix)
    for _ in range(MOST_PASSES if fix else 0):
        if not found:
            break
        found = _check(parts, fix)
        problems = problems + [one for one in found if one not in problems]
    return problems


def _check(parts: Parts, fix: bool) -> List[Problem]:
    "Check the store once."
    header, log, index = parts.header, parts.log, parts.index
    problems: List[Problem] = []
    bad: List[Tuple[int, Block]] = []
    damaged = False
    what = "cache file" if parts.region.persistent else "store"
    if not log.reach(header.tail - 1):
        why = "it can't be checked: this process has too little address space, or too few descriptors, to map it"
        return [Problem("", why)]

    def look() -> Tuple[int, int, List[Entry], int, int]:
        looked = time.monotonic_ns()
        return looked, header.generation, list(log.walk(header.tail)), header.records, header.nbytes

    looked, generation, entries, records, nbytes = parts.steady(look)

    def mend() -> None:
        if header.purges == generation // PURGE:
            for offset, block in bad:
                if index.has(block.digest, offset):
                    header.generation += 1
                    log.drop(offset, sure=False)
            if damaged:
                index.rebuild(list(log.walk(header.tail)))

    for offset, length, block in entries:
        if block is None:
            problems.append(Problem("", f"{length:,} bytes of the {what}, from byte {offset:,} on, are damaged"))
            damaged = True
        elif block.kind == RECORD:
            found, wrong = index.find(block.digest), parts.fault(offset, block)
            path = ", ".join(map(os.fsdecode, files_of(log.payload(offset, block).path())))
            if found and found[0] == offset:
                records, nbytes = records - 1, nbytes - block.array_bytes
                if wrong and index.has(block.digest, offset):  # else another process has just replaced it
                    problems.append(Problem(path, wrong))
                    bad.append((offset, block))
                else:
                    parts.trust.verified(offset, block.number, looked)
            elif not found and log.whole(offset) == block:  # else the record was dropped meanwhile
                problems.append(Problem(path, "it is missing from the index"))
                damaged = True
    if header.purges != generation // PURGE:  # the store was emptied meanwhile
        return _check(parts, fix)
    if (records, nbytes) != (0, 0) and not damaged and header.generation == generation:
        problems.append(Problem("", "the counts in its header are wrong"))
        damaged = True
    if fix and problems:
        parts.locked(mend)
    return problems
