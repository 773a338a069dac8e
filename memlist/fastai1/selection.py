"""Apply pixel transforms: flips, crops and paddings choose rows and columns; holes and planes are recorded.

fastai's pixel transforms only choose and reorder points of the grid at which an image was sampled, so two lists of
indices per image can express them, one along rows and one along columns.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from fastai.vision.image import tis2hw
from torch import Tensor
from torch.utils.data.dataloader import default_collate

from ..batch.plan import Extras
from .draws import Drawn

Extent = Tuple[Any, Any]  # of one axis of one image: start and step


class Axis:
    "Hold the indices of the grid along one axis of the output: per image, `start + step · i` for i below `n`."

    def __init__(self, n: np.ndarray) -> None:
        self.n = n.copy()
        self.start, self.step = np.zeros_like(n), np.ones_like(n)

    def choose(self, run: np.ndarray, start: np.ndarray, n: np.ndarray) -> None:
        "Keep `n` indices from `start` on, in the images that `run`."
        self.start = np.where(run, self.start + self.step * start, self.start)
        self.n = np.where(run, n, self.n)

    def reverse(self, run: np.ndarray) -> None:
        "Reverse the indices, in the images that `run`."
        self.start = np.where(run, self.start + self.step * (self.n - 1), self.start)
        self.step = np.where(run, -self.step, self.step)

    def extent(self, b: int) -> Extent:
        "Return start and step of image `b`."
        return self.start[b], self.step[b]


class Selection:
    """Apply pixel transforms, in their order, to the grids of B images with `channels` each.

    - `axes`: the indices along rows and along columns
    - `swapped`, (B,) bool: rows run along the columns of the grid, and columns along its rows
    - `blank`: which rows and columns are zero, two (B, n) bools; None if no image has any

    A method with the name of a transform takes the draws of the transform; it changes only the images in `drawn.run`.
    """

    def __init__(self, grid_height: np.ndarray, grid_width: np.ndarray, channels: int) -> None:
        self.axes, self.channels = [Axis(grid_height), Axis(grid_width)], channels
        self.swapped = np.zeros(len(grid_height), bool)
        self.blank: Optional[Tuple[np.ndarray, np.ndarray]] = None
        self._taken: Optional[List[np.ndarray]] = None  # by axis: positions on it, after padding
        self._holes: Dict[int, List[Tuple[Any, List[Extent]]]] = {}
        self._planes: Dict[int, List[Tuple[int, Tensor, List[Extent], bool]]] = {}

    # -- transforms -------------------------------------------------------------------------------------------

    def flip_lr(self, drawn: Drawn) -> None:
        self.axes[1].reverse(drawn.run)

    def dihedral(self, drawn: Drawn) -> None:
        k = drawn.array("k", 0).astype(np.int64)
        self.axes[0].reverse((k & 1) > 0)
        self.axes[1].reverse((k & 2) > 0)
        turn = (k & 4) > 0
        rows, cols = self.axes
        for name in ("start", "step", "n"):
            one, other = getattr(rows, name), getattr(cols, name)
            setattr(rows, name, np.where(turn, other, one))
            setattr(cols, name, np.where(turn, one, other))
        self.swapped = self.swapped ^ turn

    def crop(self, drawn: Drawn) -> None:
        "Slice as Python does: a negative start counts from the end."
        wanted_of_both = tis2hw(drawn.fixed["size"])
        for axis, name, wanted in zip(self.axes, ("row_pct", "col_pct"), wanted_of_both):
            start = _starts(axis.n, wanted, [drawn], name)
            stop = start + wanted
            start, stop = (np.clip(np.where(one < 0, one + axis.n, one), 0, axis.n) for one in (start, stop))
            axis.choose(drawn.run, start, np.maximum(stop - start, 0))

    def rgb_randomize(self, drawn: Drawn) -> None:
        for b in np.flatnonzero(drawn.run).tolist():
            channel, plane = drawn.at_size(b)
            extents = [axis.extent(b) for axis in self.axes]
            self._planes.setdefault(b, []).append((channel, plane, extents, self.swapped[b]))

    def cutout(self, drawn: Drawn) -> None:
        for b in np.flatnonzero(drawn.run).tolist():
            extents = [axis.extent(b) for axis in self.axes]
            self._holes.setdefault(b, []).extend((hole, extents) for hole in drawn.at_size(b))

    def pad(self, drawn: Drawn) -> None:
        "Pad one image: `planner.first_pass` makes batches of one."
        by = np.array([drawn.get("padding", 0)])
        self._take([-by, -by], [axis.n + 2 * by for axis in self.axes], by, by, drawn.get("mode", 0))

    def crop_pad(self, several: List[Drawn], wanted: Tuple[np.ndarray, np.ndarray], padding: str) -> None:
        "Crop to the `wanted` rows and columns, and pad smaller images; use the first of `several` draws that runs."
        run = np.any([drawn.run for drawn in several], 0)
        needed = run & ((self.axes[0].n != wanted[0]) | (self.axes[1].n != wanted[1]))
        if not needed.any():
            return
        short = (self.axes[0].n < wanted[0]) | (self.axes[1].n < wanted[1])
        starts, pads = [], []
        for axis, name, n in zip(self.axes, ("row_pct", "col_pct"), wanted):
            pad = np.where(needed & short, np.maximum((n - axis.n + 1) // 2, 0), 0)
            starts.append(_starts(axis.n + 2 * pad, n, several, name) - pad)
            pads.append(pad)
        sizes = [np.where(needed, n, axis.n) for axis, n in zip(self.axes, wanted)]
        if not any(pad.any() for pad in pads):
            for axis, start, n in zip(self.axes, starts, sizes):
                axis.choose(needed, start, n)
        else:
            starts = [np.where(needed, start, 0) for start in starts]
            self._take(starts, sizes, pads[0], pads[1], padding)

    def _take(
        self, starts: List[np.ndarray], sizes: List[np.ndarray], row_pad: np.ndarray, col_pad: np.ndarray, padding: str
    ) -> None:
        "Take the indices from `start` to `start + size`, and fill in those outside as `padding` says."
        found, blank = [], []
        for axis, start, n, pad in zip(self.axes, starts, _uniform(self.channels, sizes), (row_pad, col_pad)):
            index = start[:, None] + np.arange(n)
            last = (axis.n - 1)[:, None]
            blank.append((index < 0) | (index > last))
            if padding == "reflection":
                for b in np.flatnonzero(pad >= axis.n).tolist():
                    _refuse_padding(self.axes, b, row_pad, col_pad)
                index = last - np.abs(last - np.abs(index))
            found.append(np.clip(index, 0, last))
        self._taken = found
        if padding == "zeros":
            self.blank = (blank[0], blank[1])

    # -- results ----------------------------------------------------------------------------------------------

    def indices(self) -> Tuple[np.ndarray, np.ndarray]:
        """Return the indices of the grid for the output, (B, height) for its rows and (B, width) for its columns.

        Raises what collating raises if the images have different sizes.
        """
        taken = self._taken
        if taken is None:
            sizes = _uniform(self.channels, [axis.n for axis in self.axes])
            taken = [np.broadcast_to(np.arange(n), (len(self.swapped), n)) for n in sizes]
        rows, columns = (axis.start[:, None] + axis.step[:, None] * i for axis, i in zip(self.axes, taken))
        return rows, columns

    def extras(self, rows: np.ndarray, columns: np.ndarray, grids: Dict[int, Tensor]) -> Dict[int, Extras]:
        "Return what `Plan.extras` has for the images with holes, planes or one of `grids`, (height, width, 2) each."
        made = {}
        for b in {*grids, *self._holes, *self._planes}:
            grid = grids.get(b)
            if grid is not None:
                grid = grid.transpose(0, 1) if self.swapped[b] else grid
                grid = grid[torch.from_numpy(rows[b])][:, torch.from_numpy(columns[b])]
            holes = []
            for (top, bottom, left, right), extents in self._holes.get(b, ()):
                i, j = ((one[b] - start) // step for one, (start, step) in zip((rows, columns), extents))
                holes.append(((top <= i) & (i < bottom), (left <= j) & (j < right)))
            planes = []
            for channel, plane, extents, swapped in self._planes.get(b, ()):
                # Map the grid to the image that the plane was drawn for, which may have been rotated since.
                turned = swapped != self.swapped[b]
                at = (columns[b], rows[b]) if turned else (rows[b], columns[b])
                i, j = (torch.from_numpy((one - start) // step) for one, (start, step) in zip(at, extents))
                values = plane[i][:, j]
                planes.append((channel, values.t() if turned else values))
            made[b] = Extras(grid, holes, planes)
        return made


#: The transforms that `Selection` applies in their order, by name; a single `crop_pad` comes last.
PIXELS = {name: getattr(Selection, name) for name in ("flip_lr", "dihedral", "crop", "rgb_randomize", "cutout", "pad")}


def refuse_sizes(channels: int, sizes: Sequence[Sequence[int]]) -> None:
    "Raise what collating images of different sizes raises."
    default_collate([torch.empty(1).expand(channels, height, width) for height, width in sizes])


def _starts(extent: np.ndarray, wanted: Any, several: Sequence[Drawn], name: str) -> np.ndarray:
    "Return where a crop begins, per image, as `draws.crop_start` does, by the first of `several` draws that runs."
    pct = several[-1].array(name, 0.5)
    for drawn in several[-2::-1]:
        pct = np.where(drawn.run, drawn.array(name, 0.5), pct)
    return np.trunc((extent - wanted + 1) * np.where(pct == 1.0, 1 - 1e-7, pct)).astype(np.int64)


def _uniform(channels: int, sizes: Sequence[np.ndarray]) -> Tuple[int, int]:
    "Return the size that all images have; if their sizes differ, raise what collating them raises."
    rows, cols = sizes
    if (rows != rows[0]).any() or (cols != cols[0]).any():
        refuse_sizes(channels, list(zip(rows.tolist(), cols.tolist())))
    return int(rows[0]), int(cols[0])


def _refuse_padding(axes: List[Axis], b: int, row_pad: np.ndarray, col_pad: np.ndarray) -> None:
    "Raise what torch raises if an image is too small to reflect."
    empty = torch.empty(1, 1, int(axes[0].n[b]), int(axes[1].n[b]))
    F.pad(empty, (int(col_pad[b]),) * 2 + (int(row_pad[b]),) * 2, mode="reflect")
