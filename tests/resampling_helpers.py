"""Random pictures and steps, and what Pillow itself makes of them."""

from __future__ import annotations

import random
from typing import List, Sequence, Tuple

import numpy as np
import PIL.Image

from memlist.resampling import Crop, Resize, Step, Turn

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def by_pillow(picture: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    "Return a picture after its steps, each by a call of Pillow's, or of NumPy's where a window reaches beyond it."
    mode = MODES[picture.shape[2] if picture.ndim == 3 else 1]
    made = PIL.Image.fromarray(picture)
    assert made.mode == mode
    for step in steps:
        if isinstance(step, Resize):
            made = made.resize((step.width, step.height), step.filter)
        elif isinstance(step, Turn):
            made = made.transpose(step.code)
        elif step.mode == "constant":
            fill = step.fill * len(made.getbands()) if len(step.fill) == 1 else step.fill
            canvas = PIL.Image.new(mode, (step.width, step.height), fill if len(fill) > 1 else fill[0])
            canvas.paste(made, (-step.left, -step.top))
            made = canvas
        else:
            made = _padded(made, step)
    array = np.asarray(made)
    return array if array.ndim == 3 else array[:, :, None]


def _padded(picture: PIL.Image.Image, step: Crop) -> PIL.Image.Image:
    array = np.asarray(picture)
    left, top = max(0, -step.left), max(0, -step.top)
    right = max(0, step.left + step.width - picture.width)
    bottom = max(0, step.top + step.height - picture.height)
    pads = [(top, bottom), (left, right), (0, 0)][: array.ndim]
    array = np.pad(array, pads, mode=step.mode)
    x, y = step.left + left, step.top + top
    return PIL.Image.fromarray(np.ascontiguousarray(array[y : y + step.height, x : x + step.width]))


def some_picture(draw: random.Random, channels: int, largest: int = 90) -> np.ndarray:
    "Return noise, or a smooth picture, of up to `largest` pixels a side; at times few pixels, or flat."
    height, width = (draw.choice([draw.randint(1, 8), draw.randint(1, largest)]) for _ in range(2))
    shape = (height, width, channels) if channels > 1 else (height, width)
    source = np.random.default_rng(draw.randrange(1 << 30))
    if draw.random() < 0.2:  # only the ends of the range: filters with negative parts are cut off there
        return source.choice(np.array([0, 255], np.uint8), shape)
    return source.integers(0, 256, shape, dtype=np.uint8)


def some_steps(draw: random.Random, size: Tuple[int, int], channels: int, largest: int = 90) -> List[Step]:
    "Return up to five steps for a picture of `size` (height, width)."
    steps: List[Step] = []
    height, width = size
    for _ in range(draw.choice([0, 1, 1, 2, 2, 3, 4, 5])):
        step = _one(draw, height, width, channels, largest)
        if isinstance(step, Turn):
            height, width = (width, height) if step.code in (2, 4, 5, 6) else (height, width)
        else:
            height, width = step.height, step.width
        steps.append(step)
    return steps


def _one(draw: random.Random, height: int, width: int, channels: int, largest: int) -> Step:
    kind = draw.random()
    if kind < 0.2:
        return Turn(draw.randrange(7))
    if kind < 0.6:
        sides = [draw.choice([old, draw.randint(1, 8), draw.randint(1, largest)]) for old in (width, height)]
        return Resize(*sides, draw.randrange(6))
    if kind < 0.8:  # inside
        wide, high = draw.randint(1, width), draw.randint(1, height)
        return Crop(draw.randint(0, width - wide), draw.randint(0, height - high), wide, high)
    left, top = draw.randint(-width - 3, width + 3), draw.randint(-height - 3, height + 3)
    fill = tuple(draw.randrange(256) for _ in range(draw.choice([1, channels])))
    mode = draw.choice(["constant", "edge", "reflect", "symmetric"])
    return Crop(left, top, draw.randint(1, width + 9), draw.randint(1, height + 9), fill, mode)
