"""The notebook of fastai 2 runs from top to bottom, and its committed outputs come from such a run."""

from __future__ import annotations

from test_notebooks import check_committed, run_from_top_to_bottom

NAME = "fastai2_pets"


def test_notebook_runs_from_top_to_bottom() -> None:
    run_from_top_to_bottom(NAME)


def test_committed_notebook_was_run_in_order() -> None:
    check_committed(NAME)
