"""All faults, in the order of the page."""

from __future__ import annotations

from typing import Dict, List

from . import at_lines, by_fuzz, by_tests, longrun, storm
from .fault import Fault

FAULTS: Dict[str, Fault] = {
    fault.key: fault for fault in [*storm.FAULTS, *longrun.FAULTS, *at_lines.FAULTS, *by_tests.FAULTS, *by_fuzz.FAULTS]
}


def groups() -> Dict[str, List[Fault]]:
    "Return the faults under their headings, both in the order of the page."
    found: Dict[str, List[Fault]] = {}
    for fault in FAULTS.values():
        found.setdefault(fault.group, []).append(fault)
    return found
