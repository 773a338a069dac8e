"""Cases made from a seed give stock's batches under one seed, or say why they do not: see `differential`."""

from __future__ import annotations

from pathlib import Path

import differential
import pytest


def test_no_case_differs_unannounced(tmp_path: Path) -> None:
    counts, faults = differential.run(range(60), tmp_path / "cases")
    assert not faults
    assert counts["same"] >= 15 and counts["announced"] >= 2 and sum(counts.values()) == 60


@pytest.mark.full
@pytest.mark.parametrize("part", range(20))
def test_no_case_differs_unannounced_at_length(tmp_path: Path, part: int) -> None:
    counts, faults = differential.run(range(10_000 + 100 * part, 10_100 + 100 * part), tmp_path / "cases")
    assert not faults
    assert counts["same"] >= 25
