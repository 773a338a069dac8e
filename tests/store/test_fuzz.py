"""Cache files broken in all ways: a `CacheFileError`, a record less or the right pixels, and never anything else."""

from __future__ import annotations

import pytest
from fuzz import run

MORE = [range(40, 80), *(range(n, n + 500) for n in range(1000, 6000, 500))]


@pytest.mark.parametrize("seeds", [range(40), *(pytest.param(seeds, marks=pytest.mark.full) for seeds in MORE)])
def test_whatever_is_done_to_a_file(seeds: range) -> None:
    counts, faults = run(seeds)
    assert not faults, "\n".join(f"case {seed}: {what}" for seed, what in faults.items())
    assert sum(counts.values()) == len(seeds) and set(counts) <= {"refused", "whole", "some", "none"}
    assert counts["some"] > counts["none"] + counts["refused"]  # damage costs what it touches
