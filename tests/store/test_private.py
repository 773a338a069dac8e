"""Cache files in folders that others can write to: private, one's own, and never behind a link."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from conftest import in_child
from stores import filled, right

from memlist.store import CacheFileError, ImageStore, cachefile, store_for
from memlist.store.cachefile import ADVICE

OTHER = 65_534  # somebody else, and a user that exists nearly everywhere
root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@contextlib.contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def refusal(path: Path) -> str:
    "Return why the file is refused; assert that nothing beside it changed, and that `store_for` says the same."
    there = {name: os.lstat(path.parent / name) for name in os.listdir(path.parent)}
    with pytest.raises(CacheFileError) as error:
        ImageStore.open(path)
    with pytest.raises(CacheFileError) as again:
        store_for("place", cache_file=str(path))
    assert str(again.value) == str(error.value) and repr(str(path)) in str(error.value)
    now = {name: os.lstat(path.parent / name) for name in os.listdir(path.parent)}
    now.pop(f"{path.name}.lock", None)
    assert all(os.path.samestat(now[name], status) and now[name].st_mode == status.st_mode
               for name, status in there.items() if name in now)  # fmt: skip
    assert set(now) | {f"{path.name}.lock"} == set(there) | {f"{path.name}.lock"}
    return str(error.value)


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_a_new_cache_file_and_its_lock_are_private(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        images = filled(tmp_path / "cache")
    assert mode(tmp_path / "cache") == mode(tmp_path / "cache.lock") == 0o600
    assert set(os.listdir(tmp_path)) == {"cache", "cache.lock"}
    del images
    assert right(ImageStore.open(tmp_path / "cache")) == 60


@pytest.mark.parametrize("rights", [0o644, 0o640, 0o604, 0o755])
def test_a_file_that_others_could_read_is_made_private(tmp_path: Path, rights: int) -> None:
    filled(tmp_path / "cache")
    os.chmod(tmp_path / "cache", rights)
    os.chmod(tmp_path / "cache.lock", 0o666)
    assert right(ImageStore.open(tmp_path / "cache")) == 60
    assert mode(tmp_path / "cache") == mode(tmp_path / "cache.lock") == 0o600


@pytest.mark.parametrize("rights", [0o664, 0o660, 0o602, 0o666, 0o777])
def test_a_file_that_others_could_write_to_is_refused(tmp_path: Path, rights: int) -> None:
    path = tmp_path / "cache"
    filled(path)
    gc.collect()
    os.chmod(path, rights)
    assert f"could be changed by other users until now (its mode is {rights:o})" in refusal(path)
    os.chmod(path, 0o600)  # as the message says
    assert right(ImageStore.open(path)) == 60


def test_an_empty_file_that_others_can_write_to_is_replaced(tmp_path: Path) -> None:
    with umask(0), open(tmp_path / "cache", "w"):
        pass
    assert mode(tmp_path / "cache") == 0o666
    assert ImageStore.open(tmp_path / "cache").put(b"a", np.zeros(3, "u1")) and mode(tmp_path / "cache") == 0o600


def test_a_file_system_that_knows_no_rights_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "On a USB stick, and on a Windows disk in WSL, every file has the same rights, and setting them has no effect."
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)
    with umask(0):
        monkeypatch.setattr(cachefile, "PRIVATE", 0o777)
        filled(tmp_path / "cache")
        gc.collect()
    assert mode(tmp_path / "cache") == 0o777
    assert right(ImageStore.open(tmp_path / "cache")) == 60


@root
@pytest.mark.parametrize("which", ["cache", "cache.lock"])
def test_a_file_of_another_user_is_refused(tmp_path: Path, which: str) -> None:
    filled(tmp_path / "cache")
    gc.collect()
    os.chown(tmp_path / which, OTHER, -1)
    why = refusal(tmp_path / "cache")
    assert f"belongs to another user (uid {OTHER}, you are 0)" in why
    assert ("its lock file" in why) == (which == "cache.lock")
    os.chown(tmp_path / which, 0, -1)
    assert right(ImageStore.open(tmp_path / "cache")) == 60


@pytest.fixture
def shared() -> Iterator[Path]:
    "Make a folder that everybody can write to, such as /tmp. `tmp_path` lies in one that others can't enter."
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


@root
@pytest.mark.parametrize("which", ["cache", "cache.lock"])
@pytest.mark.parametrize("rights", [0o600, 0o666])
def test_what_somebody_else_planted_is_refused(shared: Path, which: str, rights: int) -> None:
    filled(shared / "cache")
    gc.collect()
    if which == "cache.lock":
        (shared / "cache").unlink()
    os.chmod(shared / which, rights)

    def victim() -> None:
        os.setgid(OTHER)
        os.setuid(OTHER)
        assert f"belongs to another user (uid 0, you are {OTHER})" in refusal(shared / "cache")
        assert ImageStore.open(shared / "mine").put(b"a", np.zeros(3, "u1"))

    assert in_child(victim) == 0


@pytest.mark.parametrize("target", ["there", "missing", "itself", "folder", "cache file"])
@pytest.mark.parametrize("which", ["cache", "cache.lock"])
def test_a_link_is_not_followed(tmp_path: Path, which: str, target: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    to = {"there": elsewhere / "file", "itself": tmp_path / which, "folder": elsewhere}.get(target, elsewhere / target)
    if target == "there":
        to.write_text("precious")
    elif target == "cache file":
        filled(to)
        gc.collect()
    (tmp_path / which).symlink_to(to)
    there = set(os.listdir(elsewhere))
    assert "is a symbolic link, and is not followed" in refusal(tmp_path / "cache")
    assert set(os.listdir(elsewhere)) == there and (tmp_path / which).is_symlink()
    if target == "there":
        assert to.read_text() == "precious" and mode(to) != 0o600


def test_a_link_to_a_file_that_this_process_has_open_is_not_followed_either(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    assert "is a symbolic link" in refusal(tmp_path / "link") and right(images) == 60


def test_links_in_the_folders_above_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    images = filled(tmp_path / "link" / "cache")
    assert images.cache_file == str(tmp_path / "real" / "cache")


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("what", ["link", pytest.param("file", marks=root)])
def test_what_takes_the_place_of_the_file_between_look_and_open_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, after: int
) -> None:
    "Put it there after each of the looks at the name."
    path, planted = tmp_path / "cache", tmp_path / "planted"
    filled(path)
    gc.collect()
    planted.write_bytes(path.read_bytes())
    real, looks = os.lstat, []

    def lstat(name: Any, **kwargs: Any) -> os.stat_result:
        status = real(name, **kwargs)
        looks.append(name)
        if [str(look) for look in looks].count(str(path)) == after and str(name) == str(path):
            os.unlink(path)
            if what == "link":
                os.symlink(planted, path)
            else:
                os.rename(planted, path)
                os.chown(path, OTHER, -1)
        return status

    monkeypatch.setattr(os, "lstat", lstat)
    with pytest.raises(CacheFileError) as error:
        ImageStore.open(path)
    expected = (ADVICE[errno.ELOOP], "symbolic link") if what == "link" else (f"another user (uid {OTHER}",)
    assert any(why in str(error.value) for why in expected)


def test_a_hard_link_is_the_same_file(tmp_path: Path) -> None:
    images = filled(tmp_path / "cache")
    os.link(tmp_path / "cache", tmp_path / "other")
    assert ImageStore.open(tmp_path / "other") is images


def test_another_file_that_is_also_the_lock_keeps_its_rights(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("for all to read")
    os.chmod(tmp_path / "page.html", 0o644)
    os.link(tmp_path / "page.html", tmp_path / "cache.lock")
    filled(tmp_path / "cache")
    assert mode(tmp_path / "page.html") == 0o644 and (tmp_path / "page.html").read_text() == "for all to read"


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_while_the_file_is_created_comes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    real: Callable[..., None] = os.replace

    def replace(source: str, target: str) -> None:
        if when == "after":
            real(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        ImageStore.open(tmp_path / "cache")
    monkeypatch.undo()
    assert set(os.listdir(tmp_path)) == {"cache.lock"} | ({"cache"} if when == "after" else set())
    assert ImageStore.open(tmp_path / "cache").put(b"a", np.zeros(3, "u1"))
