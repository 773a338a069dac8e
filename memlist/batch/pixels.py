"""`Pixels`: one image as bytes, the type that batches are made of."""

from __future__ import annotations

from typing import NamedTuple, Tuple

import numpy as np
import torch


class Pixels(NamedTuple):
    """The pixels of one image as they are kept: `array`, uint8, (height, width, channels).

    - `divisor`: 255 if a value v becomes v / 255, or 1
    - `cls`: the class of image that they become
    - `viewed`: whether `array` is a view into a store, good only while the store's generation stands
    """

    array: np.ndarray
    divisor: int
    cls: type
    viewed: bool = False

    @property
    def size(self) -> Tuple[int, int]:
        "Height and width, as `Image.size` has them."
        return torch.Size(self.array.shape[:2])  # type: ignore[return-value]

    @property
    def shape(self) -> Tuple[int, int, int]:
        "Channels, height and width, as `Image.shape` has them."
        height, width, channels = self.array.shape
        return channels, height, width
