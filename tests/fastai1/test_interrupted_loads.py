"""A Ctrl-C at every line of `load_data` and `purge`: the lists still load, read and purge afterwards."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest
from conftest import assert_same_item, photo
from fastai.vision import ImageList, open_image
from kills import moments
from strikes import FOLDER, Strike

import memlist as m


class Own(m.MemoryImageList):
    def open(self, fn: Any) -> Any:
        return open_image(fn)


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    for i in range(3):
        photo(i, 12, 10).save(tmp_path / f"{i}.png")
    return sorted(tmp_path.glob("*.png"))


def assert_usable(il: Any, files: List[Path]) -> None:
    il.load_data(progress=False)
    assert il.loaded and il.cache_info().cached == len(files)
    plain = ImageList(files)
    for i in range(len(files)):
        assert_same_item(il[i], plain[i])
    il.purge()
    assert not il.loaded
    assert_same_item(il[0], plain[0])


# One in so many moments is struck: of a call of MemoryImageList, and of one of Own, which forks a process per load.
ONE_IN = {"a sample": (4, 40), "lines": (1, 40), "all": (1, 5)}


# An interrupt in a hook that runs before a fork is printed, and the call goes on: Python does that.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "moments_of",
    ["a sample", pytest.param("lines", marks=pytest.mark.full), pytest.param("all", marks=pytest.mark.full)],
)
@pytest.mark.parametrize("kind", [m.MemoryImageList, Own])
@pytest.mark.parametrize(
    ("call", "n_workers"),
    [("load_data", 0), ("load_data", 2), ("purge", 0), pytest.param("purge", 2, marks=pytest.mark.full)],
)
def test_an_interrupt_at_each_line(
    files: List[Path],
    tmp_path: Path,
    call: str,
    kind: Any,
    n_workers: int,
    moments_of: str,
    record_property: Callable[[str, int], None],
) -> None:
    def task(il: Any) -> Callable[[], Any]:
        if call == "purge":
            il.load_data(progress=False)
            return il.purge
        return lambda: il.load_data(n_workers=n_workers, progress=False)

    when = moments(task(kind(files, path=tmp_path)), FOLDER)
    if moments_of == "all" and kind is not Own:
        when = list(range(1, when[-1] + 1))
    when = when[:: ONE_IN[moments_of][kind is Own]]
    record_property("times", len(when))
    record_property("right", len(when))
    for n in when:
        il = kind(files, path=tmp_path)
        strike = Strike(n)
        strike.during(task(il))
        for thread in threading.enumerate():
            if thread.name.startswith("memlist-"):
                thread.join(60)
        with contextlib.suppress(ChildProcessError):
            assert os.waitpid(-1, os.WNOHANG) == (0, 0), f"struck at {strike.where}: a child is left"
        try:
            assert_usable(il, files)
        except BaseException as error:
            raise AssertionError(f"struck at {strike.where}, moment {n}") from error
