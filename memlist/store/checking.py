"""Check a whole store: every record and the index."""

from __future__ import annotations

import os
import time
from typing import List, NamedTuple, Tuple

from .layout import PURGE, RECORD, Block
from .parts import Parts


class Problem(NamedTuple):
    "Describe a problem found by `ImageStore.check`: the path of the record's source, if known, and what is wrong."

    path: str
    what: str


def check_store(parts: Parts, fix: bool) -> List[Problem]:
    "Verify every record and the index; see `ImageStore.check`."
    header, log, index = parts.header, parts.log, parts.index
    problems: List[Problem] = []
    bad: List[Tuple[int, Block]] = []
    damaged = False
    with parts.steady():
        looked, generation, entries = time.monotonic_ns(), header.generation, list(log.walk(header.tail))
        records, nbytes = header.records, header.nbytes
    for offset, length, block in entries:
        if block is None:
            problems.append(Problem("", f"{length:,} bytes of the log, from byte {offset:,} on, are damaged"))
            damaged = True
        elif block.kind == RECORD:
            found, wrong = index.find(block.digest), parts.fault(offset, block)
            path = os.fsdecode(log.path(offset, block))
            if found and found[0] == offset:
                records, nbytes = records - 1, nbytes - block.array_bytes
                if wrong:
                    problems.append(Problem(path, wrong))
                    bad.append((offset, block))
                else:
                    parts.trust.verified(block.number, looked)
            elif not found and log.whole(offset) == block:  # else the record was dropped meanwhile
                problems.append(Problem(path, "it is missing from the index"))
                damaged = True
    if header.purges != generation // PURGE:  # the store was emptied meanwhile
        return check_store(parts, fix)
    if (records, nbytes) != (0, 0) and not damaged and header.generation == generation:
        problems.append(Problem("", "the counts in its header are wrong"))
        damaged = True
    if fix and problems:
        with parts.held():
            if header.purges == generation // PURGE:
                for offset, block in bad:
                    if index.has(block.digest, offset):
                        header.generation += 1
                        log.drop(offset)
                if damaged:
                    index.rebuild(list(log.walk(header.tail)))
    return problems
