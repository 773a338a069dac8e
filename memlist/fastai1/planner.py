"""Make a `Plan` from the draws of fastai's transforms: where each pixel comes from, for all images of a batch at once.

fastai's coordinate transforms compose into one 3×3 matrix per image (`matrices`), and all that follows sampling reduces
to two lists of indices (`selection`). So a matrix maps the indices of an output pixel to its source, and pixels that a
crop removes are never computed. Each phase returns a value, and `plan_batch` combines them. Nothing here knows about
lists, stores or how pixels are sampled.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.vision import image as fastai_image
from fastai.vision import transform as fastai_transform
from fastai.vision.image import FlowField, Image
from torch import Tensor

from ..batch.plan import Plan
from .draws import Drawn, Pipeline
from .matrices import AFFINE, IDENTITY, MATRICES, Shape, Sizes
from .selection import PIXELS, Selection


class Coordinates(NamedTuple):
    "Hold `matrix`, `sampled` and `pooled` of a `Plan`, and per jittered image its (height, width, 2) grid."

    matrix: np.ndarray
    sampled: np.ndarray
    pooled: np.ndarray
    grids: Dict[int, Tensor]


class Lighting(NamedTuple):
    "Hold `lit`, `gain` and `bias` of a `Plan`."

    lit: np.ndarray
    gain: np.ndarray
    bias: np.ndarray


# Relative to the shrink: far above the error of fastai's grid, and far below what chance meets often.
_CLOSE = 1e-4
Steps = Sequence[Tuple[str, Drawn]]  # the names of transforms, and what they have drawn
Pass = Tuple[Pipeline, Sequence[Drawn]]


def plan_batch(pipeline: Pipeline, drawn: Sequence[Drawn], shapes: Sequence[Shape], mask: bool = False) -> Plan:
    """Return the plan for images of `shapes` (channels, height, width) with the draws `drawn`, one per step.

    `mask`: the images are masks, which are sampled to the nearest pixel and not lit. Raises what collating raises if
    the final sizes of images differ, and what padding raises if an image is too small to reflect.
    """
    steps = [(step.name, one) for step, one in zip(pipeline.steps, drawn)]
    sizes, mode = Sizes.of(pipeline, shapes), "nearest" if mask else pipeline.mode
    where = coordinates(steps, sizes, mode, mask)
    light = lighting([] if mask else steps, len(shapes))
    chosen = select(steps, sizes, pipeline, shapes[0][0])
    rows, columns = chosen.indices()
    swapped, across, down = chosen.swapped, sizes.grid_width, sizes.grid_height
    matrix = where.matrix
    matrix[swapped] = matrix[swapped][:, :, [1, 0, 2]]  # their rows and columns are exchanged
    return Plan(
        height=rows.shape[1],
        width=columns.shape[1],
        matrix=matrix,
        columns=_on_grid(columns, np.where(swapped, down, across), where.sampled),
        rows=_on_grid(rows, np.where(swapped, across, down), where.sampled),
        sampled=where.sampled,
        pooled=where.pooled,
        lit=light.lit,
        gain=light.gain,
        bias=light.bias,
        mode=mode,
        padding=pipeline.sampling,
        aligned=aligned(),
        blank=chosen.blank,
        extras=chosen.extras(rows, columns, where.grids),
    )


def first_pass(pipeline: Pipeline, drawn: Sequence[Drawn], shape: Shape) -> Tuple[Optional[Pass], Pass]:
    """Return the first pass that an image of `shape` needs before the rest, or None, and the remaining pass.

    Each is a pipeline and its draws. `pad` needs a separate pass, because it pads the pixels of the resized image.
    """
    while pipeline.steps and pipeline.steps[0].name == "pad" and not drawn[0].run[0]:
        pipeline, drawn = pipeline._replace(steps=pipeline.steps[1:]), drawn[1:]
    if not pipeline.steps or pipeline.steps[0].name != "pad":
        return None, (pipeline, drawn)
    resized = tuple(pipeline.resized(*shape[1:])) != tuple(shape[1:])
    rows, cols = pipeline.cropped(*shape[1:])
    # When fastai resizes an image, it forgets how to sample it, and samples the padded one with its defaults.
    mode, sampling = ("bilinear", "reflection") if resized else (pipeline.mode, pipeline.sampling)
    left = pipeline._replace(
        steps=pipeline.steps[1:], size=(int(rows), int(cols)), fit=False, mode=mode, sampling=sampling
    )
    return (pipeline._replace(steps=pipeline.steps[:1]), drawn[:1]), (left, drawn[1:])


def aligned() -> bool:
    """Return whether fastai's sampling aligns corners.

    fastai 1.0.60 never asks `grid_sample` to. 1.0.61 does, but it compares versions of torch as strings, and '1.13.1'
    is less than '1.2.0'. So its own function is tried once.
    """
    return _aligned(fastai_image._grid_sample, fastai_image.torch.__version__)


@functools.lru_cache(maxsize=4)
def _aligned(sample: Any, version: str) -> bool:
    "Sample at -0.5, which is a quarter of the way between two pixels if corners are aligned, else on the first one."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at = FlowField((1, 1), torch.tensor([[[[-0.5, 0.0]]]]))
        return bool(sample(torch.tensor([[[0.0, 1.0]]]), at) > 0.125)


# -- coordinates --------------------------------------------------------------------------------------------------


def coordinates(steps: Steps, sizes: Sizes, mode: str, mask: bool = False) -> Coordinates:
    """Compose the coordinate transforms.

    Where the nearest pixel is taken, two of them may be equally near. In a `mask`, a point that is rounded to the other
    one is one among thousands; in an image, it is far from stock's, so fastai's own grid is used for every image.

    fastai moves its grid through each transform in turn, so later matrices are multiplied from the left. But it first
    multiplies all affine matrices and then moves the grid once: there later ones are multiplied from the right.
    """
    n = len(sizes.height)
    moved = np.broadcast_to(IDENTITY, (n, 3, 3))
    affine, any_affine = moved, np.zeros(n, bool)
    sampled = (sizes.grid_height != sizes.height) | (sizes.grid_width != sizes.width)
    noise: Dict[int, List[Tuple[np.ndarray, Tensor]]] = {}  # by image: a matrix, and the noise added after it
    for name, drawn in steps:
        matrix_of, run = MATRICES.get(name), drawn.run
        if (matrix_of is None and name != "jitter") or not run.any():
            continue
        sampled = sampled | run
        if matrix_of is None:
            for b in np.flatnonzero(run).tolist():
                shift = (drawn.at_size(b) - 0.5) * drawn.get("magnitude", b) * 2
                noise.setdefault(b, []).append((moved[b], shift))
            moved = np.where(run[:, None, None], IDENTITY, moved)
            continue
        matrix = matrix_of(drawn, sizes)
        matrix[~run] = IDENTITY
        if name in AFFINE:
            affine, any_affine = affine @ matrix, any_affine | run
        else:
            moved = matrix @ moved
    if any_affine.any():
        # Coordinates go from -1 to 1 along either side, so a rotation depends on the ratio of the sides.
        affine = affine.copy()
        affine[:, 0, 1] *= sizes.grid_height / sizes.grid_width
        affine[:, 1, 0] *= sizes.grid_width / sizes.grid_height
        moved = affine @ moved
    grids = {}
    for b, parts in noise.items():
        points = _points(sizes, b)
        for matrix, shift in parts:
            points = _project(points, matrix).add_(shift)
        grids[b] = _project(points, moved[b])
    pooled = np.zeros((n, 2), np.int64)
    if mode == "bilinear":
        pooled = _pooling(steps, moved, sampled, grids, sizes)
    else:
        mapped = np.flatnonzero(sampled & (moved != IDENTITY).any((1, 2)))
        for b in _tied(moved, mapped, sizes) if mask else mapped.tolist():
            grids.setdefault(b, _stock_grid(steps, sizes, b))
    return Coordinates(np.where(sampled[:, None, None], moved, IDENTITY), sampled, pooled, grids)


def _pooling(
    steps: Steps, moved: np.ndarray, sampled: np.ndarray, grids: Dict[int, Tensor], sizes: Sizes
) -> np.ndarray:
    """Return the sizes that images are averaged down to because sampling would skip pixels, (B, 2) int64, or 0.

    This is fastai's rule, for the whole grid. A quotient of linear functions has its extremes over a rectangle at the
    corners, if its divisor does not change sign, so it is computed only there. fastai decides in float32: where the
    shrink and the zoom are about equal, its own grid is computed.
    """
    pooled = np.zeros((len(moved), 2), np.int64)
    d = np.minimum(sizes.height / sizes.grid_height, sizes.width / sizes.grid_width) / 2
    flat = (sizes.grid_height == 1) & (sizes.grid_width == 1)  # fastai divides by zero there, whatever the shrink
    asked = sampled & ((d > 1) | flat)
    if not asked.any():
        return pooled
    right, lower = (np.where(n > 1, 1.0, -1.0) for n in (sizes.grid_width, sizes.grid_height))
    ones = np.ones(len(moved))
    corners = np.stack([[x, y, ones] for x in (-ones, right) for y in (-ones, lower)], 0).transpose(2, 1, 0)
    x, y, divisor = np.moveaxis(moved @ corners, 1, 0)
    with np.errstate(all="ignore"):
        x, y = x / divisor, y / divisor
        low, high = np.minimum(x.min(1), y.min(1)), np.maximum(x.max(1), y.max(1))
    for b in np.flatnonzero(asked & (divisor.min(1) <= 0)).tolist():
        points = _project(_points(sizes, b), moved[b])
        low[b], high[b] = points.min(), points.max()
    for b, grid in grids.items():
        low[b], high[b] = grid.min(), grid.max()
    with np.errstate(all="ignore"):
        z = 1 / (high - low) * 2
        close = np.flatnonzero(asked & ((np.abs(d - z) <= _CLOSE * d) | (high == low)))
    known: Dict[Tuple[int, ...], float] = {}  # often all images have the same size and a fixed zoom
    for b in close.tolist():
        key = (*(int(n[b]) for n in sizes), hash(moved[b].tobytes()), b if b in grids else -1)
        z[b] = known[key] = known[key] if key in known else _stock_zoom(steps, sizes, b)
    with np.errstate(all="ignore"):
        pool = asked & (d > 1) & (d > z)
    for b in np.flatnonzero(pool).tolist():
        factor = 1 / d[b]
        pooled[b] = int(float(sizes.height[b]) * factor), int(float(sizes.width[b]) * factor)
    return pooled


def _stock_zoom(steps: Steps, sizes: Sizes, b: int) -> float:
    "Return the zoom of image `b` as fastai computes it, from its own float32 grid. Costs a tenth of a millisecond."
    grid = _stock_grid(steps, sizes, b)
    return 1 / (grid.max() - grid.min()).item() * 2  # type: ignore[no-any-return]


def _stock_grid(steps: Steps, sizes: Sizes, b: int) -> Tensor:
    "Return the grid of image `b`, (height, width, 2) float32, made by fastai's own code."
    height, width, *grid = (int(n[b]) for n in sizes)
    image = Image(torch.empty(1).expand(1, height, width))
    image.flow = fastai_image._affine_grid((1, *grid))
    for name, drawn in steps:
        if not drawn.run[b]:
            continue
        if name == "jitter":  # applying it would draw again
            image.flow.flow.add_((drawn.at_size(b) - 0.5) * drawn.get("magnitude", b) * 2)
        elif name in MATRICES:
            getattr(fastai_transform, name).calc(image, **drawn.parameters(b))
    return image.flow.flow[0]


def _tied(moved: np.ndarray, which: np.ndarray, sizes: Sizes) -> List[int]:
    """Return those of the images `which` in which whole rows or columns lie halfway between two pixels.

    Floats can't tell which of the two is nearer: it depends on how fastai rounds. Such lines need a map with exact
    structure: one that sends rows to rows or to columns, or is symmetric about the middle of the image.
    """
    found = []
    for b in which.tolist():
        m = moved[b] / moved[b, 2, 2]
        n, grid = (sizes.width[b], sizes.height[b]), (sizes.grid_width[b], sizes.grid_height[b])
        for k, j in ((0, 0), (0, 1), (1, 0), (1, 1)):  # of source and grid: 0 for x, 1 for y
            if abs(m[k, 1 - j]) < 1e-6 and abs(m[2, 1 - j]) < 1e-6:
                lines = _unit(int(grid[j])).astype(np.float64)
            elif grid[j] % 2 and abs(m[k, 1 - j] - m[2, 1 - j] * m[k, 2]) < 1e-6:
                lines = np.zeros(1)
            else:
                continue
            index = ((m[k, j] * lines + m[k, 2]) / (m[2, j] * lines + 1) + 1) / 2
            index = index * (n[k] - 1) if aligned() else index * n[k] - 0.5
            if (np.abs(index - np.floor(index) - 0.5) < 2e-6 * n[k]).any():
                found.append(b)
                break
    return found


def _points(sizes: Sizes, b: int) -> Tensor:
    "Return the grid that fastai starts with for image `b`, (height, width, 2) float32."
    x, y = (torch.from_numpy(_unit(int(n[b]))) for n in (sizes.grid_width, sizes.grid_height))
    return torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], 2)


def _project(points: Tensor, matrix: np.ndarray) -> Tensor:
    "Move points (height, width, 2) through one projective map."
    m = torch.from_numpy(np.ascontiguousarray(matrix, np.float32))
    moved = points @ m[:, :2].t() + m[:, 2]
    return moved[..., :2] / moved[..., 2:]


def _unit(n: int) -> np.ndarray:
    "Return the coordinates of `n` points of fastai's grids."
    return (torch.linspace(-1, 1, n) if n > 1 else torch.tensor([-1.0])).numpy()


def _on_grid(indices: np.ndarray, n: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    "Return the coordinates at `indices` of grids of `n` points, bit for bit as fastai; if not sampled, the indices."
    if sampled.all() and (n == n[0]).all():  # the usual case
        return _unit(int(n[0]))[indices]  # type: ignore[no-any-return]
    found = indices.astype(np.float32)
    for one in np.unique(n[sampled]).tolist():
        which = sampled & (n == one)
        found[which] = _unit(one)[indices[which]]
    return found


# -- values and pixels --------------------------------------------------------------------------------------------


def lighting(steps: Steps, n: int) -> Lighting:
    "Compose the lighting of `n` images: all additions and multiplications of logits combine into one of each."
    lit, gain, bias = np.zeros(n, bool), np.ones(n), np.zeros(n)
    for name, drawn in steps:
        if name == "brightness":
            change = drawn.array("change", 0.5)
            with np.errstate(all="ignore"):
                bias = bias + np.where(drawn.run, np.log(change / (1 - change)), 0.0)
        elif name == "contrast":
            scale = drawn.array("scale", 1.0)
            gain, bias = gain * scale, bias * scale
        else:
            continue
        lit = lit | drawn.run
    return Lighting(lit, gain, bias)


def select(steps: Steps, sizes: Sizes, pipeline: Pipeline, channels: int) -> Selection:
    "Apply the pixel transforms and the final crop with its padding."
    made, final = Selection(sizes.grid_height, sizes.grid_width, channels), []
    for name, drawn in steps:
        if not drawn.run.any():
            continue
        if name in PIXELS:
            PIXELS[name](made, drawn)
        elif name == "crop_pad":
            final.append(drawn)
    if final:
        made.crop_pad(final, pipeline.cropped(sizes.height, sizes.width), pipeline.padding)
    return made
