"""Warnings that point at the user's own line, and messages that more than one front end shows."""

from __future__ import annotations

import sys
import warnings

#: The packages whose code is not the user's own.
LIBRARIES = ("memlist", "fastai", "fastcore", "fasttransform", "plum", "torch", "torchvision")


def warn_user(message: str) -> None:
    "Warn at the line of the user's own code that led here, not at one of a library."
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def reduced(name: str, max_size: int, whose: str, images: str = "images") -> str:
    """Return the message that pixels differ from those of stock, because of `max_size`.

    `name`: what has the images; `whose`: the object of stock that has the other pixels.
    """
    return (
        f"{name}: with max_size={max_size} {images} are kept with their shorter side reduced to {max_size} pixels at "
        f"most, so the pixels of larger ones differ from those of {whose}. For the same pixels, leave max_size out."
    )
