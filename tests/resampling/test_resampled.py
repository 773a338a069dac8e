"""A batch equals, to the bit, what Pillow makes of each picture alone."""

from __future__ import annotations

import random
from typing import List, Tuple

import numpy as np
import pytest
from resampling_helpers import by_pillow, some_picture, some_steps

from memlist.batch.threads import Threads
from memlist.resampling import Crop, Resize, Step, Turn, render, supported

Case = Tuple[np.ndarray, List[Step], np.ndarray]


def case(draw: random.Random, channels: int) -> Case:
    "Return a picture, its steps, and what Pillow makes of them."
    picture = some_picture(draw, channels)
    steps = some_steps(draw, picture.shape[:2], channels)
    return picture, steps, by_pillow(picture, steps)


def rendered(cases: List[Case], layout: str = "last", dtype: str = "uint8") -> Tuple[np.ndarray, np.ndarray]:
    "Return what `render` makes of pictures whose results have one size, and what it has to be."
    wanted = np.stack([one[2] for one in cases])
    n, height, width, channels = wanted.shape
    if layout == "last":
        out = np.zeros(wanted.shape, dtype)
    elif layout == "first":
        out = np.zeros((n, channels, height, width), dtype).transpose(0, 2, 3, 1)
    else:
        out = np.zeros((n, width * 2, height, channels + 1), dtype).transpose(0, 2, 1, 3)[:, :, ::-2, :channels]
    values = None
    if dtype != "uint8":
        values = np.random.default_rng(0).normal(size=(256, channels)).astype(dtype)
        if np.issubdtype(dtype, np.floating):
            values[:6] = np.array([0, -0.0, np.nan, np.inf, -np.inf, 3], dtype)[:, None]
        wanted = values[wanted, np.arange(channels)]
    render([one[0] for one in cases], [one[1] for one in cases], out, values)
    return out, wanted


def equal(made: np.ndarray, wanted: np.ndarray) -> bool:
    return made.dtype == wanted.dtype and np.ascontiguousarray(made).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [120, pytest.param(2000, marks=pytest.mark.full)])
def test_random_steps_equal_pillow(channels: int, n: int) -> None:
    draw = random.Random(channels)
    for i in range(n):
        one = case(draw, channels)
        layout = draw.choice(["last", "first", "odd"])
        made, wanted = rendered([one], layout, draw.choice(["uint8", "uint8", "float32"]))
        assert equal(made, wanted), (i, one[0].shape, one[1], layout)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "int16"])
def test_values_of_any_type_are_copied(dtype: str) -> None:
    draw = random.Random(7)
    for channels in (1, 3):
        picture = some_picture(draw, channels)
        steps: List[Step] = [Resize(20, 31, 2), Crop(-2, 3, 21, 26, (1,)), Turn(0)]
        assert equal(*rendered([(picture, steps, by_pillow(picture, steps))], "first", dtype))


@pytest.mark.parametrize("filter", range(6))
def test_batch_of_many_sizes_over_threads(filter: int) -> None:
    draw, cases = random.Random(filter), []
    for _ in range(30):
        picture = some_picture(draw, 3, 200)
        height, width = picture.shape[:2]
        wide, high = draw.randint(1, width), draw.randint(1, height)
        crop = Crop(draw.randint(0, width - wide), draw.randint(0, height - high), wide, high)
        steps = [crop, Resize(150, 130, filter), *([Turn(0)] if draw.random() < 0.5 else [])]
        cases.append((picture, steps, by_pillow(picture, steps)))
    out = np.zeros((30, 130, 150, 3), np.uint8)
    threads = Threads(3)
    render([one[0] for one in cases], [one[1] for one in cases], out, threads=threads)
    threads.close()
    assert equal(out, np.stack([one[2] for one in cases]))


def test_pictures_of_one_size_with_different_steps() -> None:
    draw, cases = random.Random(0), []
    for i in range(60):
        picture = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        size = draw.choice([(30, 45), (31, 45), (30, 46)])
        steps = [Resize(*size, draw.randrange(6)), Crop(draw.choice([0, 3]), draw.choice([0, 4]), 21, 19)]
        cases.append((picture, steps, by_pillow(picture, steps)))
    assert equal(*rendered(cases))


def test_pictures_may_be_read_only_views() -> None:
    whole = np.random.default_rng(0).integers(0, 256, 40 * 30 * 3 + 5, dtype=np.uint8)
    whole.flags.writeable = False
    picture = whole[5:].reshape(40, 30, 3)
    steps: List[Step] = [Crop(3, 4, 20, 30), Resize(17, 19, 3)]
    assert equal(*rendered([(picture, steps, by_pillow(picture, steps))]))


def test_rows_may_lie_apart() -> None:
    whole = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    picture = whole[3:33, 10:41]
    steps: List[Step] = [Resize(17, 19, 3)]
    assert equal(*rendered([(picture, steps, by_pillow(picture, steps))]))


def test_empty_batch() -> None:
    render([], [], np.zeros((0, 3, 3, 3), np.uint8))


PICTURE = np.zeros((4, 5, 3), np.uint8)
ONE = np.zeros((1, 4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    "given, said",
    [
        (([PICTURE], [], ONE), "1 pictures, 0 lists"),
        (([PICTURE], [[]], ONE.astype(np.float32)), "without `values`"),
        (([PICTURE], [[]], ONE, np.zeros((256, 1), np.uint8)), "values are"),
        (([PICTURE], [[]], ONE, np.zeros((256, 3), np.float32)), "values are"),
        (([PICTURE[:, :, :1]], [[]], ONE), "picture 0 is"),
        (([PICTURE.astype(np.float32)], [[]], ONE), "picture 0 is"),
        (([PICTURE], [[Resize(5, 5, 2)]], ONE), "after its steps"),
        (([PICTURE], [[Turn(2)]], ONE), "after its steps"),
        (([PICTURE], [[Resize(5, 0, 2)]], ONE), "leaves nothing"),
        (([PICTURE], [[Resize(5, 4, 6)]], ONE), "unknown filter"),
        (([PICTURE], [[Turn(7)]], ONE), "no turn"),
        (([PICTURE], [[Crop(0, 0, 5, 4, (0,), "wrap")]], ONE), "not known"),
        (([PICTURE], [[Crop(0, 0, 5, 4, (0, 0))]], ONE), "not known"),
        (([PICTURE], [[Crop(0, 0, 5, 4, (256,))]], ONE), "not known"),
        (([PICTURE], [[Crop(0, 0, 5, 4, (0, -1, 0))]], ONE), "not known"),
    ],
)
def test_what_does_not_fit_is_refused(given: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        render(*given)


def test_supported_modes() -> None:
    assert all(supported(mode, filter) for mode in ("L", "RGB", "LA", "RGBA", "HSV") for filter in range(6))
    assert supported("P") and supported("CMYK") and not supported("P", 2) and not supported("CMYK", 3)
    assert not any(supported(mode) for mode in ("1", "I", "F", "I;16"))
    assert not supported("RGB", 6)
