"""Items that could not be loaded: how the error names them, and how they are left out."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import memlist as m
from memlist.cache import BadItems


def test_a_file_is_found_however_its_path_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("a/b.png", Path("a/b.png"), str(tmp_path / "a" / "b.png"), tmp_path / "c" / ".." / "a" / "b.png"):
        bad = BadItems([given])
        assert "a/b.png" in bad and tmp_path / "a" / "b.png" in bad and np.str_("a//b.png") in bad
        assert "b.png" not in bad and tmp_path / "a" not in bad
    assert "a/b.png" in BadItems("a/b.png") and "a" not in BadItems("a/b.png")


def test_items_that_are_no_paths_are_found_by_their_value() -> None:
    odd = object()
    bad = BadItems([3, ("x", 2), np.arange(3), odd])
    assert 3 in bad and np.int64(3) in bad and ("x", 2) in bad and np.arange(3) in bad and odd in bad
    assert 4 not in bad and "3" not in bad and ("x", 3) not in bad and np.arange(4) not in bad and object() not in bad


def test_the_error_and_its_pairs_are_taken_like_the_items() -> None:
    error = m.ImageLoadError([("a.png", "broken"), (7, "odd")])
    assert error.errors == [("a.png", "broken"), (7, "odd")] and error.items == ["a.png", 7]
    for given in (error, error.errors, error.items):
        assert "a.png" in BadItems(given) and 7 in BadItems(given) and "broken" not in BadItems(given)
    with pytest.raises(TypeError, match=r"without\(5\): use an ImageLoadError"):
        BadItems(5)


def test_an_item_that_was_given_by_hand_has_to_be_there() -> None:
    error = m.ImageLoadError([("a.png", "broken"), ("b.png", "broken")])
    for given in (error, error.errors, []):
        bad = BadItems(given)
        assert ("a.png" in bad) == (given != [])
        bad.check("the data")
    for given in ("typo.png", ["a.png", "typo.png"], [Path("typo.png"), *error.errors]):
        bad = BadItems(given)
        assert "c.png" not in bad and ("a.png" in bad) == (given != "typo.png")
        with pytest.raises(
            ValueError, match=r"^the data: it does not open 'typo.png', which .*nothing was left out\. Pl"
        ):
            bad.check("the data")
    with pytest.raises(ValueError, match=r"does not open 0, 1, 2, 3, 4 and 2 more, which"):
        BadItems(range(7)).check("the data")


def test_an_error_that_was_pickled_has_its_lines() -> None:
    error = m.ImageLoadError([("a.png", "broken")], "do this")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and str(again).endswith("\n\ndo this") and again.errors == error.errors
    assert "Training will fail at this image. To leave it out:" in str(error)


def test_the_lines_for_a_function_run_as_they_are_printed(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        PIL.Image.new("RGB", (4, 4)).save(path)
    paths[2].write_bytes(b"no picture")

    def load(path: Any) -> Any:
        return PIL.Image.open(path).convert("RGB")

    space = {"load": m.cached(load), "paths": paths}
    with pytest.raises(m.ImageLoadError) as caught:
        space["load"].load_data(paths, progress=False)
    exec("\n".join(str(caught.value).splitlines()[-3:]), space)
    assert space["paths"] == paths[:2] + paths[3:]
    assert os.fspath(paths[2]) in str(caught.value)


def test_a_budget_is_shown_as_people_write_it() -> None:
    from memlist.store import format_rule

    rules = [m.ImageStore(given).rule for given in ("10MB", 10_000_000, "1.5 GiB", 0.25, None)]
    assert [format_rule(rule) for rule in rules] == [
        "10 MB",
        "10 MB",
        "1.61 GB",
        "25 % of the available memory",
        "80 % of the available memory",
    ]
