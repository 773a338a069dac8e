"""Digests of a list's items are made once, and again whenever they would be others."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from memlist.cache import keys
from memlist.cache.digests import Digests
from memlist.store import digest_of

PREFIX = b"prefix "


def wanted(items: Any, indices: Any) -> List[bytes]:
    return [digest_of(PREFIX + keys.file_key(items[i])) for i in indices]


def made(digests: Digests, items: Any, indices: Any) -> List[bytes]:
    return [one.tobytes() for one in digests.of(items, indices)]


def objects(names: List[Any]) -> np.ndarray:
    found = np.empty(len(names), object)
    found[:] = names
    return found


FORMS = {
    "paths": lambda: objects([Path(f"/data/{i}.png") for i in range(20)]),
    "strings": lambda: objects([f"/data/{i}.png" for i in range(20)]),
    "a list": lambda: [Path(f"/data/{i}.png") for i in range(20)],
    "an array of strings": lambda: np.array([f"/data/{i}.png" for i in range(20)]),
    "every second of an array": lambda: objects([Path(f"/data/{i}.png") for i in range(40)])[::2],
}


@pytest.mark.parametrize("form", list(FORMS))
def test_items_that_change(form: str, monkeypatch: Any) -> None:
    items, digests = FORMS[form](), Digests(PREFIX)
    for indices in ([3], [3, 4, 4, 19, -1], list(range(20))):
        for _ in range(2):
            assert made(digests, items, indices) == wanted(items, indices)
    monkeypatch.setattr(keys, "file_key", lambda item: pytest.fail("made before"))
    digests.of(items, list(range(20)))
    monkeypatch.undo()
    items[4] = type(items[0])("/data/x.png")  # in place
    assert made(digests, items, [3, 4, 5]) == wanted(items, [3, 4, 5])
    items[4], items[5] = items[5], items[4]
    assert made(digests, items, [4, 5]) == wanted(items, [4, 5])
    items = items[3:]
    assert made(digests, items, [0, 1, 2]) == wanted(items, [0, 1, 2])
    with pytest.raises(IndexError):
        digests.of(items, [99])


def test_relative_names_depend_on_the_current_directory(tmp_path: Path, monkeypatch: Any) -> None:
    items, digests, seen = objects([Path("a.png"), "b.png", "/c.png"]), Digests(PREFIX), []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        seen.append(made(digests, items, [0, 1, 2]))
        assert seen[-1] == wanted(items, [0, 1, 2])
    assert seen[0][0] != seen[1][0] and seen[0][2] == seen[1][2]


def test_what_is_resolved_on_disk_is_resolved_each_time(tmp_path: Path) -> None:
    for name in ("one/below", "two/below"):
        (tmp_path / name).mkdir(parents=True)
    link, seen = tmp_path / "link", []
    items, digests = objects([f"{link}/../a.png", f"{tmp_path}/b.png"]), Digests(PREFIX)
    for name in ("one", "two"):
        link.symlink_to(tmp_path / name / "below")
        seen.append(made(digests, items, [0, 1]))
        assert seen[-1] == wanted(items, [0, 1])
        link.unlink()
    assert seen[0][0] != seen[1][0]


class Moving(os.PathLike):  # type: ignore[type-arg]
    "Name another file from time to time."

    name = "/a.png"

    def __fspath__(self) -> str:
        return self.name


def test_items_that_may_change_themselves_are_asked_each_time() -> None:
    item = Moving()
    items, digests = objects([item, Path("/b.png")]), Digests(PREFIX)
    assert made(digests, items, [0, 1]) == wanted(items, [0, 1])
    item.name = "/c.png"
    assert made(digests, items, [0, 1]) == wanted(items, [0, 1])


def test_an_item_without_a_key_has_no_digest() -> None:
    items, digests = objects([Path("/a.png"), 5, "\ud800"]), Digests(PREFIX)
    assert made(digests, items, [0, 1, 2]) == [*wanted(items, [0]), bytes(16), bytes(16)]
    items[1] = "/b.png"
    assert made(digests, items, [1]) == wanted(items, [1])
    items[1] = 6
    assert made(digests, items, [1]) == [bytes(16)]
    assert digests.of(objects([]), []).shape == (0, 16)


def test_an_object_that_takes_the_place_of_a_dead_one_is_another_one() -> None:
    "Python may give a new object the address of one that is gone."
    items, digests = objects([None]), Digests(PREFIX)
    for i in range(200):
        items[0] = Path(f"/{i}.png")
        assert made(digests, items, [0]) == wanted(items, [0])


def test_all_can_be_made_in_advance(monkeypatch: Any) -> None:
    items, digests = FORMS["paths"](), Digests(PREFIX)
    digests.make_all(items)
    monkeypatch.setattr(keys, "file_key", lambda item: pytest.fail("made before"))
    digests.of(items, [0, 7, 19])


def test_caches_that_are_pickled_with_their_list_have_none() -> None:
    from memlist.fastai1.owned import Scratch

    scratch = Scratch()
    assert len(pickle.dumps(scratch)) < 200
