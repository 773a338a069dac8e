"""Cache files broken in all ways: a `CacheFileError`, a record less or the right pixels, and never anything else."""

from __future__ import annotations

import pytest
from fuzz import run


@pytest.mark.parametrize(
    "seeds", [range(80), *(pytest.param(range(n, n + 500), marks=pytest.mark.full) for n in range(1000, 6000, 500))]
)
def test_whatever_is_done_to_a_file(seeds: range) -> None:
    counts, faults = run(seeds)
    assert not faults, "\n".join(f"case {seed}: {what}" for seed, what in faults.items())
    assert sum(counts.values()) == len(seeds) and set(counts) <= {"refused", "whole", "some", "none"}
    assert counts["some"] > counts["none"] + counts["refused"]  # damage costs what it touches
