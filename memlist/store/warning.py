"""Warnings that point at the user's own line."""

from __future__ import annotations

import sys
import warnings
from typing import Type

#: The packages whose code is not the user's own.
LIBRARIES = ("memlist", "fastai", "fastcore", "fasttransform", "plum", "torch", "torchvision")


def warn_user(message: str, category: Type[Warning] = UserWarning) -> None:
    "Warn at the line of the user's own code that led here, not at one of a library."
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
