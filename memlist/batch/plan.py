"""The plan of a batch: where each output pixel comes from, and how its value changes.

A 3×3 matrix maps the coordinates of an output pixel to a point of the source; the value sampled there is lit, and
perhaps replaced. Front ends make plans (for fastai 1, `memlist/fastai1/planner.py`); `kernels` and `render` execute
them. Nothing here knows which transforms a plan stands for.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from torch import Tensor


class Plan(NamedTuple):
    """Describe how B images of `height` × `width` are made from B sources of any size.

    - `matrix`, (B, 3, 3) float64: maps (column, row, 1) to a point of the source, in homogeneous coordinates
    - `columns` (B, width) and `rows` (B, height), float32: the coordinates of the output pixels on the grid
    - `sampled`, (B,) bool: True if coordinates lie in [-1, 1], as for `grid_sample`; False if they are indices of the
      source's pixels, which are copied
    - `pooled`, (B, 2) int: rows and columns that the source is averaged down to before it is sampled, or 0
    - `lit` (B,) bool, `gain` and `bias` (B,): lighting is sigmoid(gain · logit(value) + bias)
    - `mode`, `padding`: how to sample, and what lies outside the source, in the terms of `grid_sample`
    - `aligned`: whether -1 and 1 are the centres of the corner pixels, and not their outer edges
    - `blank`: which rows and columns are zero, two (B, n) bools; None if no image has any
    - `extras`: what only some transforms need, by the image's position in the batch
    """

    height: int
    width: int
    matrix: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    sampled: np.ndarray
    pooled: np.ndarray
    lit: np.ndarray
    gain: np.ndarray
    bias: np.ndarray
    mode: str
    padding: str
    aligned: bool
    blank: Optional[Tuple[np.ndarray, np.ndarray]] = None
    extras: Dict[int, Extras] = {}  # noqa: RUF012 - never written to

    def of(self, chosen: Any) -> Plan:
        "Return the plan of the images `chosen`: a slice, or indices."
        blank = None if self.blank is None else (self.blank[0][chosen], self.blank[1][chosen])
        arrays = {name: getattr(self, name)[chosen] for name in _PER_IMAGE}
        extras = {}
        if self.extras:
            which = np.arange(len(self.rows))[chosen].tolist()
            extras = {k: self.extras[b] for k, b in enumerate(which) if b in self.extras}
        return self._replace(blank=blank, extras=extras, **arrays)

    def scales(self, height: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Return a, b and c of `index = (coordinate + a) · b + c`, (B, 2, 3) float32, for x and y.

        `height` and `width`, (B,), are the sizes of the sources after pooling. The operations are those of
        `grid_sample`, so that a coordinate halfway between two pixels is rounded to the same one as in fastai.
        """
        made = np.zeros((len(height), 2, 3), np.float32)
        made[:, :, 1] = 1
        for axis, n in ((0, width), (1, height)):
            made[self.sampled, axis, 0] = 1
            made[self.sampled, axis, 1] = ((n - 1) / 2 if self.aligned else n / 2)[self.sampled]
            made[self.sampled, axis, 2] = 0 if self.aligned else -0.5
        return made


_PER_IMAGE = ("matrix", "columns", "rows", "sampled", "pooled", "lit", "gain", "bias")


class Extras(NamedTuple):
    """Hold what only some transforms need, for one image.

    - `grid`, (height, width, 2) float32: source coordinates, if no matrix can express them
    - `holes`: pairs of a bool per row and a bool per column; pixels are zero where both are true
    - `planes`: channels, and the (height, width) values that replace them
    """

    grid: Optional[Tensor] = None
    holes: Sequence[Tuple[np.ndarray, np.ndarray]] = ()
    planes: Sequence[Tuple[int, Tensor]] = ()


class Norm(NamedTuple):
    "Hold the normalisation of a batch: values become `(value - mean) * over_std`; both are (channels,) float32."

    mean: np.ndarray
    over_std: np.ndarray
