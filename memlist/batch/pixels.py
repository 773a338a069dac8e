"""The pixels of one image, as a cache stores them and the kernels read them."""

from __future__ import annotations

from typing import Any, NamedTuple, Tuple

import numpy as np
import torch
from torch import Tensor


class Pixels(NamedTuple):
    """Hold the pixels of one image.

    - `array`: (height, width, channels), uint8 or float32
    - `divisor`: 255 or 1; the values of the image are `array / divisor`
    - `cls`: the class of image to make; its meaning is up to the front end
    - `viewed`: True for a view into a store, which is valid only while the store's generation stays the same
    """

    array: np.ndarray
    divisor: int
    cls: Any = None
    viewed: bool = False

    @classmethod
    def of_tensor(cls, px: Tensor, kind: Any = None) -> Pixels:
        "Return the pixels of a (channels, height, width) float tensor, without a copy if it has fastai's layout."
        return cls(np.ascontiguousarray(px.detach().permute(1, 2, 0).numpy()), 1, kind)

    @property
    def size(self) -> Tuple[int, int]:
        "Return height and width, as a `torch.Size`."
        return torch.Size(self.array.shape[:2])  # type: ignore[return-value]

    @property
    def shape(self) -> Tuple[int, int, int]:
        "Return channels, height and width."
        height, width, channels = self.array.shape
        return channels, height, width
