"""`ImageCache` and `load_data` without a front end: any decoder, any items, no fastai."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import numpy as np
import PIL.Image
import pytest
from conftest import Opens, in_child, photo

from memlist import ImageLoadError, ImageStore
from memlist.cache import ImageCache, PillowDecoder, Work, load_data
from memlist.cache.cache import FULL, HIT, KEPT, NEVER
from memlist.cache.decode import Decoded, Piece
from memlist.cache.info import cache_info


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    for i in range(12):
        photo(i, 20, 30).save(tmp_path / f"{i:02}.png")
    return sorted(tmp_path.iterdir())


class Squares:
    "Decode numbers: the image of n is n², stored as an array of n bytes."

    one_for_all = True

    def __init__(self) -> None:
        self.calls = 0

    def keys(self, item: Any) -> Any:
        return (b"%d" % item,)

    def open(self, item: Any, keep: bool = True) -> Decoded:
        self.calls += 1
        if item == 13:
            return Decoded(169, reason="it is unlucky")
        return Decoded(item**2, (Piece(np.zeros(item, np.uint8), item**2),))

    def pieces(self, item: Any) -> Decoded:
        if item < 0:
            raise ValueError(f"{item} is negative")
        return self.open(item)

    def trusted(self) -> bool:
        return True

    def restore(self, records: Any) -> Any:
        return records[0].tag

    def finish(self, restored: Any) -> Any:
        return restored

    def original(self, records: Any) -> None:
        return None

    def nbytes(self, item: Any) -> int:
        return item


def arrays(files: List[Path]) -> List[np.ndarray]:
    return [np.asarray(PIL.Image.open(file)) for file in files]


def test_pixels_are_decoded_once_and_equal(files: List[Path], opens: Opens) -> None:
    images = ImageCache(ImageStore(), PillowDecoder("RGB"))
    wanted = arrays(files)
    opens.take()
    for outcome in (KEPT, HIT, HIT):
        for file, array in zip(files, wanted):
            fetched = images.fetch(file)
            assert fetched.outcome == outcome and fetched.own and fetched.original is None
            assert np.array_equal(fetched.image, array)
            fetched.image[:] = 0  # callers may change their copy
    assert set(opens.take().values()) == {1}
    assert images.store.reads() == (24, 12)


def test_fetch_many_returns_hits_and_decodes_the_rest(files: List[Path]) -> None:
    images = ImageCache(ImageStore(), PillowDecoder("L", most=10))
    images.fetch(files[0])
    found = images.fetch_many(files)
    assert [one.outcome for one in found] == [HIT] + [KEPT] * 11
    assert {one.image.shape for one in found} == {(10, 15)} and {one.original for one in found} == {(20, 30)}
    assert images.store.reads() == (1, 12)


def test_whole_keeps_the_metadata_of_a_pil_image(tmp_path: Path) -> None:
    photo(1).save(tmp_path / "a.png", dpi=(72, 72))
    images = ImageCache(ImageStore(), PillowDecoder("RGB", whole=True))
    for _ in range(2):
        image = images.fetch(tmp_path / "a.png").image
        assert isinstance(image, PIL.Image.Image) and round(image.info["dpi"][0]) == 72
    assert len(images.store) == 2


def test_a_pil_image_that_can_not_be_rebuilt_is_not_kept(files: List[Path]) -> None:
    class Marked(PillowDecoder):
        def _decode(self, item: Any) -> Any:
            image, original = super()._decode(item)
            image.mark = "set by a plug-in"
            return image, original

    images = ImageCache(ImageStore(), Marked("RGB", whole=True))
    for _ in range(2):
        fetched = images.fetch(files[0])
        assert fetched.outcome == KEPT and "can't be rebuilt" in fetched.reason and fetched.image.mark
    assert len(images.store) == 0 and images.store.reads() == (0, 2)


def test_a_file_that_has_changed_is_decoded_again(files: List[Path]) -> None:
    store = ImageStore()
    ImageCache(store, PillowDecoder("RGB")).fetch_many(files)
    photo(40, 20, 30).save(files[3])
    os.utime(files[3], ns=(1, 1))
    old = ImageCache(store, PillowDecoder("RGB")).fetch(files[3])
    new = ImageCache(store, PillowDecoder("RGB"), since=2**62).fetch(files[3])
    assert old.outcome == HIT and new.outcome == KEPT
    assert np.array_equal(new.image, arrays(files)[3]) and not np.array_equal(old.image, new.image)


@pytest.mark.parametrize("how", ["written over", "another file put in its place"])
def test_a_file_of_the_same_size_and_time_is_noticed_without_a_cache_file(tmp_path: Path, how: str) -> None:
    path, new = tmp_path / "image.bmp", tmp_path / "new.bmp"
    photo(1).save(path)
    stat = path.stat()
    cache = ImageCache(ImageStore(), PillowDecoder("RGB"))
    cache.fetch(path)
    photo(2).save(path if how == "written over" else new)
    if how != "written over":
        os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        new.replace(path)
    while (
        path.stat().st_ctime_ns == stat.st_ctime_ns or path.stat().st_mtime_ns != stat.st_mtime_ns
    ):  # of a coarse clock
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert cache.fetch(path).outcome == HIT  # in the same list, epochs stay equal
    assert cache.changed(cache.decoder.keys(path), path)  # what load_data asks
    later = ImageCache(cache.store, PillowDecoder("RGB"), since=2**62).fetch(path)
    assert later.outcome == KEPT and np.array_equal(later.image, arrays([path])[0])


def test_a_data_set_that_was_unpacked_again_is_found_in_its_cache_file(tmp_path: Path) -> None:
    path = tmp_path / "image.bmp"
    photo(1).save(path)
    stat = path.stat()
    images = ImageCache(ImageStore.open(tmp_path / "cache"), PillowDecoder("RGB"))
    images.fetch(path)
    path.unlink()
    photo(1).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not images.changed(images.decoder.keys(path), path) and images.store.check() == []
    assert ImageCache(images.store, PillowDecoder("RGB"), since=2**62).fetch(path).outcome == HIT


def test_an_image_that_was_purged_while_it_was_made_is_not_served() -> None:
    class Ones(Squares):
        purges: List[Any] = []  # noqa: RUF012

        def open(self, item: Any, keep: bool = True) -> Decoded:
            return Decoded(np.ones(9000, np.uint8), (Piece(np.ones(9000, np.uint8)),))

        def restore(self, records: Any) -> Any:
            while self.purges:
                self.purges.pop()()
            return records[0].array.copy()

    images = ImageCache(ImageStore(), Ones())
    images.fetch(1)
    Ones.purges.append(images.store.purge)
    again = images.fetch(1)
    assert again.outcome == KEPT and again.image.all() and images.fetch(1).image.all()


def test_images_that_are_not_kept_have_a_reason() -> None:
    images = ImageCache(ImageStore(), Squares())
    assert images.fetch(13)[:4] == (169, NEVER, None, "it is unlucky") and len(images.store) == 0
    assert images.fetch(12, keep=False).outcome == KEPT and len(images.store) == 0
    assert not images.fetch(12).own and images.fetch(12) == (144, HIT, None, "", True)
    small = ImageCache(ImageStore(max_ram=0), Squares())
    assert small.fetch(5)[:2] == (25, FULL)


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("user_code", [False, True])
def test_each_item_is_decoded_once_and_counted(n_workers: int, user_code: bool, capsys: Any) -> None:
    images = ImageCache(ImageStore(), Squares())
    work = Work("squares", images, [*range(1, 12), 5, 13], user_code)
    with pytest.warns(UserWarning, match="squares: 13 is not kept in memory, because it is unlucky"):
        load_data([work], n_workers)
    assert "12 images" in capsys.readouterr().out
    assert cache_info([work])[:2] == (11, 12)
    assert images.fetch(5).outcome == HIT
    load_data([Work("squares", images, range(1, 12))], n_workers)
    assert capsys.readouterr().out == ""


def test_loading_leaves_the_random_generators_as_they_were() -> None:
    class Drawing(Squares):
        def pieces(self, item: Any) -> Decoded:
            random.random(), np.random.rand()
            return super().pieces(item)

    before = random.getstate(), np.random.get_state()[2]
    load_data([Work("squares", ImageCache(ImageStore(), Drawing()), range(5), user_code=True)], progress=False)
    assert (random.getstate(), np.random.get_state()[2]) == before


def test_errors_are_listed_after_the_rest_is_loaded() -> None:
    images = ImageCache(ImageStore(), Squares())
    with pytest.raises(ImageLoadError, match="2 images could not be loaded:\n  -1: ValueError: -1 is negative"):
        load_data([Work("squares", images, [3, -1, 4, -2])], progress=False)
    assert all(images.fetch(n).outcome == HIT for n in (3, 4))


def test_processes_share_what_is_decoded(files: List[Path], opens: Opens) -> None:
    images = ImageCache(ImageStore(), PillowDecoder("RGB"))
    assert in_child(lambda: images.fetch_many(files)) == 0
    opens.take()
    assert {one.outcome for one in images.fetch_many(files)} == {HIT} and not opens.take()


def test_it_works_without_torch_and_fastai(files: List[Path]) -> None:
    program = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "fastai", "torchvision", "pandas", "matplotlib", "fastprogress"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from memlist import ImageStore
from memlist.cache import ImageCache, PillowDecoder, Work, load_data
images = ImageCache(ImageStore(), PillowDecoder("RGB"))
load_data([Work("pictures", images, sys.argv[1:])])
assert [one.outcome for one in images.fetch_many(sys.argv[1:])] == ["hit"] * 12
"""
    done = subprocess.run([sys.executable, "-c", program, *map(str, files)], capture_output=True, text=True)
    assert done.returncode == 0 and "12 images" in done.stdout, done.stderr
