"""The kernels make what the installed Pillow makes, are asked whether they do, and touch no memory but the batch's."""

from __future__ import annotations

import ctypes
import mmap
import random
from typing import Any, List, Tuple

import numpy as np
import PIL.Image
import pytest
from batch_helpers import FAST
from conftest import in_child, noise
from resampling_helpers import by_pillow, some_picture, some_steps

from memlist.batch import cpu
from memlist.batch.threads import ONE_THREAD
from memlist.resampling import Crop, Resize, Step, prepare, probe, render
from memlist.resampling.probe import Probed, probed

needs_numba = pytest.mark.skipif(not FAST, reason="numba is not installed")


@needs_numba
def test_installed_pillow_is_made_by_kernels() -> None:
    assert prepare() == ""
    found = probed()
    assert isinstance(found, Probed)
    assert found.newer == (int(PIL.__version__.split(".")[0]) >= 13)


@needs_numba
@pytest.mark.parametrize("n", [300, pytest.param(4000, marks=pytest.mark.full)])
def test_random_steps_by_kernels_alone(n: int) -> None:
    found = probed()
    assert isinstance(found, Probed)
    for seed in range(n):
        draw = random.Random(seed)
        channels = draw.choice([1, 2, 3, 3, 4])
        picture = some_picture(draw, channels, draw.choice([40, 90, 400]))
        steps = some_steps(draw, picture.shape[:2], channels, draw.choice([40, 90, 400]))
        wanted = by_pillow(picture, steps)
        out = np.zeros((1, channels, *wanted.shape[:2]), np.uint8).transpose(0, 2, 3, 1)
        assert found.compiled.run([picture], [steps], out, None, found.newer, ONE_THREAD)
        assert (out[0] == wanted).all(), (seed, picture.shape, steps)


@needs_numba
def test_every_size_of_one_side(n: int = 60) -> None:
    for filter in range(1, 6):
        pictures = [noise(size, 5, 3, size) for size in range(1, n)] + [noise(5, size, 3, size) for size in range(1, n)]
        steps: List[List[Step]] = [[Resize(7, 20, filter)] for _ in pictures]
        out = np.zeros((len(pictures), 20, 7, 3), np.uint8)
        render(pictures, steps, out)
        for picture, some, made in zip(pictures, steps, out):
            assert (made == by_pillow(picture, some)).all(), (picture.shape, some)


def _other(self: Any, size: Tuple[int, int], resample: Any = None, *more: Any, **others: Any) -> Any:
    "Resize as a library with other filters would."
    made = PIL.Image.Image.reduce(self, 1).transform(size, PIL.Image.EXTENT, (0, 0, *self.size), 2)
    return made.point(lambda value: value ^ 1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_another_resize_is_used_itself(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, steps = noise(30, 40), [Crop(3, 4, 25, 20), Resize(13, 17, 2)]
    stock = by_pillow(picture, steps)
    values = None if dtype == "uint8" else np.arange(768, dtype=np.float32).reshape(256, 3)
    with monkeypatch.context() as patch:
        patch.setattr(PIL.Image.Image, "resize", _other)
        wanted, out = by_pillow(picture, steps), np.zeros((1, 17, 13, 3), dtype)
        render([picture], [steps], out, values)
        assert "in another way" in str(prepare()) or not FAST
        assert (out[0] == (wanted if values is None else values[wanted, np.arange(3)])).all()
        assert (wanted != stock).any()
    made = np.zeros((1, 17, 13, 3), np.uint8)
    render([picture], [steps], made)
    assert (made[0] == stock).all()


def test_without_numba_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "without_kernels", lambda: "ImportError: no numba")
    probe._probed.cache_clear()
    try:
        assert prepare() == "ImportError: no numba"
        picture, steps = noise(30, 40), [Resize(13, 17, 3)]
        out = np.zeros((1, 17, 13, 3), np.uint8)
        render([picture], [steps], out)
        assert (out[0] == by_pillow(picture, steps)).all()
    finally:
        probe._probed.cache_clear()


@needs_numba
def test_resize_with_a_fault_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    from memlist.resampling import compiled

    def broken(*given: Any) -> bool:
        raise OSError("no folder for compiled code")

    monkeypatch.setattr(compiled, "run", broken)
    probe._probed.cache_clear()
    try:
        assert "no folder" in prepare()
    finally:
        probe._probed.cache_clear()


def _at_the_edge(shape: Tuple[int, ...], after: bool) -> np.ndarray:
    "Return an array of bytes that begins, or ends, where memory may not be touched."
    page, nbytes = mmap.PAGESIZE, int(np.prod(shape))
    whole = -(-nbytes // page) * page
    memory = np.frombuffer(mmap.mmap(-1, whole + 2 * page), np.uint8)
    address = memory.ctypes.data
    for guard in (address, address + page + whole):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(guard), page, 0) == 0
    first = page + whole - nbytes if after else page
    return memory[first : first + nbytes].reshape(shape)


def _all_at_the_edge() -> None:
    draw = random.Random(0)
    for i in range(400):
        channels = draw.choice([1, 2, 3, 4])
        made = some_picture(draw, channels)
        picture = _at_the_edge(made.shape, draw.random() < 0.5)
        picture[:] = made
        height, width = picture.shape[:2]
        steps = some_steps(draw, (height, width), channels)
        if i % 2:  # the whole picture: both passes, in each order, or one of them
            new = [
                (width * 2, height),
                (width // 2 + 1, height * 2),
                (width, height // 2 + 1),
                (width * 2, height // 9 + 1),
            ]
            steps = [Resize(*draw.choice(new), draw.randrange(1, 6))]
        wanted = by_pillow(picture, steps)
        height, width = wanted.shape[:2]
        out = _at_the_edge((1, channels, height, width), draw.random() < 0.5).transpose(0, 2, 3, 1)
        render([picture], [steps], out)
        assert (out[0] == wanted).all()


@needs_numba
def test_no_byte_beyond_a_picture_is_touched() -> None:
    prepare()
    assert in_child(_all_at_the_edge) == 0
