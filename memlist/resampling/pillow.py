"""Make one picture by Pillow itself: what the kernels are measured by, and what stands in for them."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import PIL.Image

from .axes import FILLED, turned, window
from .steps import Crop, Resize, Step, Turn

# Pillow's modes of arrays by their number of channels.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def apply(pixels: np.ndarray, steps: Sequence[Step]) -> np.ndarray:
    """Return a picture, (height, width, channels) uint8, after `steps`. It may be a view of the same memory.

    A resize is `PIL.Image.Image.resize`. Windows and turns, which only copy pixels, are views where they can be.
    """
    for step in steps:
        if isinstance(step, Resize):
            pixels = _resized(pixels, step)
        elif isinstance(step, Crop):
            pixels = _cropped(pixels, step)
        else:
            pixels = _turned(pixels, step)
    return pixels


def _resized(pixels: np.ndarray, step: Resize) -> np.ndarray:
    height, width, channels = pixels.shape
    mode = _MODES[channels]
    picture = PIL.Image.frombuffer(mode, (width, height), np.ascontiguousarray(pixels), "raw", mode, 0, 1)
    resized = picture.resize((step.width, step.height), step.filter)
    return np.asarray(resized).reshape(step.height, step.width, channels)


def _cropped(pixels: np.ndarray, step: Crop) -> np.ndarray:
    rows, columns = step.top + step.height, step.left + step.width
    if step.top >= 0 and step.left >= 0 and rows <= pixels.shape[0] and columns <= pixels.shape[1]:
        return pixels[step.top : rows, step.left : columns]
    where = window(pixels.shape[0], step.top, step.height, step.mode)
    across = window(pixels.shape[1], step.left, step.width, step.mode)
    made = pixels[where[:, None], across]
    made[where == FILLED] = step.fill
    made[:, across == FILLED] = step.fill
    return made


def _turned(pixels: np.ndarray, step: Turn) -> np.ndarray:
    swapped, down, right = turned(step.code)
    if swapped:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[::down, ::right]
