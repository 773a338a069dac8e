"""Express each of fastai's coordinate transforms as one 3×3 matrix per image.

fastai moves a grid of coordinates between -1 and 1 through one transform after another, and samples the image at the
resulting points. All of them except `jitter` are projective maps of that grid. Each function here takes the draws of a
transform and the sizes of the images, and returns (B, 3, 3) float64; `MATRICES` lists them by the transform's name.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Sequence, Tuple

import numpy as np
import torch

from .draws import Drawn, Pipeline

Shape = Tuple[int, int, int]
IDENTITY = np.eye(3)
_ORIGINAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))


class Sizes(NamedTuple):
    "Hold the sizes of B images, and of the grids at which fastai samples them, (B,) int64 each."

    height: np.ndarray
    width: np.ndarray
    grid_height: np.ndarray
    grid_width: np.ndarray

    @classmethod
    def of(cls, pipeline: Pipeline, shapes: Sequence[Shape]) -> Sizes:
        "Return the sizes for images of `shapes` (channels, height, width)."
        _, height, width = np.array(shapes, dtype=np.int64).reshape(-1, 3).T
        return cls(height, width, *pipeline.resized(height, width))


def _stack(n: int, entries: Sequence[Sequence[Any]]) -> np.ndarray:
    "Return (n, 3, 3) matrices with these entries, which are numbers or arrays of n."
    made = np.zeros((n, 3, 3))
    for i, row in enumerate(entries):
        for j, value in enumerate(row):
            if isinstance(value, np.ndarray) or value:
                made[:, i, j] = value
    return made


def _rotate(drawn: Drawn, sizes: Sizes) -> np.ndarray:
    angle = drawn.array("degrees", 0.0) * np.pi / 180
    cos, sin = np.cos(angle), np.sin(angle)
    return _stack(len(sizes.height), [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _zoom(drawn: Drawn, sizes: Sizes) -> np.ndarray:
    scale, row, col = drawn.array("scale", 1.0), drawn.array("row_pct", 0.5), drawn.array("col_pct", 0.5)
    s = 1 - 1 / scale
    return _stack(len(sizes.height), [[1 / scale, 0, s * (2 * col - 1)], [0, 1 / scale, s * (2 * row - 1)], [0, 0, 1]])


def _squish(drawn: Drawn, sizes: Sizes) -> np.ndarray:
    scale, row, col = drawn.array("scale", 1.0), drawn.array("row_pct", 0.5), drawn.array("col_pct", 0.5)
    narrow = scale <= 1
    sw, sh = np.where(narrow, scale, 1.0), np.where(narrow, 1.0, 1 / scale)
    return _stack(len(sizes.height), [[sw, 0, (1 - sw) * (2 * col - 1)], [0, sh, (1 - sh) * (2 * row - 1)], [0, 0, 1]])


def _flip_affine(drawn: Drawn, sizes: Sizes) -> np.ndarray:
    return _stack(len(sizes.height), [[-1, 0, 0], [0, 1, 0], [0, 0, 1]])


def _dihedral_affine(drawn: Drawn, sizes: Sizes) -> np.ndarray:
    k = drawn.array("k", 0).astype(np.int64)
    x, y, turn = np.where(k & 1, -1, 1), np.where(k & 2, -1, 1), (k & 4) > 0
    keep = ~turn
    return _stack(len(sizes.height), [[x * keep, x * turn, 0], [y * turn, y * keep, 0], [0, 0, 1]])


def _zoom_squish(drawn: Drawn, sizes: Sizes) -> np.ndarray:
    "Use the first of several draws that stays inside the image; if none does, show as much of the middle as fits."
    ratio = np.sqrt(sizes.grid_width / sizes.grid_height)
    wide = ratio > 1
    w, h = np.where(wide, 1 / ratio**2, 1.0), np.where(wide, 1.0, ratio**2)
    x = y = np.zeros(len(sizes.height))
    row, col = drawn.array("row_pct", 0.5), drawn.array("col_pct", 0.5)
    scale, squish, invert = (
        np.array([drawn.get(name, b).tolist() for b in range(len(sizes.height))])
        for name in ("scale", "squish", "invert")
    )
    with np.errstate(all="ignore"):
        s, r = 1 / np.sqrt(scale), np.sqrt(squish)
        inside = (s * r <= 1) & (s / r <= 1)
        some, first = inside.any(1), (np.arange(len(sizes.height)), inside.argmax(1))
        a, b = (s / r)[first], (s * r)[first]
    turned = invert[first].astype(bool)
    w, h = np.where(some, np.where(turned, a, b), w), np.where(some, np.where(turned, b, a), h)
    x, y = np.where(some, (1 - w) * (2 * col - 1), x), np.where(some, (1 - h) * (2 * row - 1), y)
    return _stack(len(sizes.height), [[w, 0, x], [0, h, y], [0, 0, 1]])


def homography(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the projective maps (n, 3, 3) that map four `targets` (n, 4, 2) to four `points` (n, 4, 2).

    A point (x, y) goes to ((ax + by + c) / (gx + hy + 1), (dx + ey + f) / (gx + hy + 1)). Multiplied out, each pair
    gives two equations that are linear in a to h; four pairs determine them. See Christopher R. Wren, "Perspective
    Transform Estimation" (MIT Media Lab, 1998), which fastai cites too, and Heckbert, "Fundamentals of Texture Mapping
    and Image Warping" (1989), section 2.2.2.
    """
    n = len(points)
    x, y = targets[..., 0], targets[..., 1]
    u, v = points[..., 0], points[..., 1]
    one, zero = np.ones_like(x), np.zeros_like(x)
    upper = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 2)
    lower = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 2)
    solved = np.linalg.solve(np.concatenate([upper, lower], 1), np.concatenate([u, v], 1)[..., None])[..., 0]
    return np.concatenate([solved, np.ones((n, 1))], 1).reshape(n, 3, 3)


def _warp(corners: Any, drawn: Drawn, sizes: Sizes) -> np.ndarray:
    "Return the map of a warp that moves the corners to `corners(drawn, chosen, corners)`."
    made, chosen = np.tile(IDENTITY, (len(sizes.height), 1, 1)), np.flatnonzero(drawn.run)
    points = np.broadcast_to(np.array(_ORIGINAL, np.float64), (len(chosen), 4, 2))
    targets = corners(drawn, chosen.tolist(), points.copy())
    if drawn.fixed.get("invert", False):
        points, targets = targets, points
    made[chosen] = homography(points, targets)
    return made


def _magnitudes(drawn: Drawn, chosen: List[int], n: int) -> np.ndarray:
    "Return the magnitudes of the images `chosen`, (images, n): one tensor was drawn per image, or all share a value."
    if "magnitude" in drawn.values:
        several = drawn.values["magnitude"]
        if isinstance(several[0], torch.Tensor):
            several = torch.stack(list(several)).numpy()
        values = np.asarray(several, np.float64).reshape(len(several), -1)[chosen]
    else:
        fixed = drawn.fixed["magnitude"]
        values = np.array(fixed.tolist() if isinstance(fixed, torch.Tensor) else fixed, np.float64).reshape(1, -1)
    return np.broadcast_to(values, (len(chosen), n))


def _perspective_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    return corners + _magnitudes(drawn, chosen, 8).reshape(-1, 4, 2)


def _symmetric_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    "Extend each side by its own magnitude."
    m = _magnitudes(drawn, chosen, 4)
    return corners * (1 + m[:, [[3, 1], [2, 1], [3, 0], [2, 0]]])


# For each direction: the corners that move, and for each its axis and sign.
_TILTED = {
    0: ((2, 1, -1), (3, 1, 1)),
    1: ((0, 1, -1), (1, 1, 1)),
    2: ((1, 0, -1), (3, 0, 1)),
    3: ((0, 0, -1), (2, 0, 1)),
}
_SKEWED = {
    **{0: (0, 0, -1), 1: (0, 1, -1), 2: (1, 0, -1), 3: (1, 1, 1)},
    **{4: (2, 0, 1), 5: (2, 1, -1), 6: (3, 0, 1), 7: (3, 1, 1)},
}


def _tilt_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    for n, b in enumerate(chosen):
        for corner, axis, sign in _TILTED[drawn.get("direction", b)]:
            corners[n, corner, axis] += sign * float(drawn.get("magnitude", b))
    return corners


def _skew_corners(drawn: Drawn, chosen: List[int], corners: np.ndarray) -> np.ndarray:
    for n, b in enumerate(chosen):
        corner, axis, sign = _SKEWED[drawn.get("direction", b)]
        corners[n, corner, axis] += sign * float(drawn.get("magnitude", b))
    return corners


def _warping(corners: Any) -> Any:
    return lambda drawn, sizes: _warp(corners, drawn, sizes)


#: fastai multiplies these matrices with one another, and moves its grid once.
AFFINE = {
    "rotate": _rotate,
    "zoom": _zoom,
    "squish": _squish,
    "flip_affine": _flip_affine,
    "dihedral_affine": _dihedral_affine,
}
#: All coordinate transforms that are projective maps, by name.
MATRICES = {
    **AFFINE,
    "zoom_squish": _zoom_squish,
    "perspective_warp": _warping(_perspective_corners),
    "symmetric_warp": _warping(_symmetric_corners),
    "tilt": _warping(_tilt_corners),
    "skew": _warping(_skew_corners),
}
