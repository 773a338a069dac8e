"""Find out which rows and columns of its source each image of a plan is mixed from."""

from __future__ import annotations

import numpy as np

from .plan import Plan

# Pixels more on each side than computed here: the kernels and torch compute coordinates in float32.
_MARGIN = 1


def needed(plan: Plan, height: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the parts of the sources that the images need, (B, 4) int64: top, bottom, left and right; ends exclusive.

    `height` and `width`, (B,), are the sizes of the sources. A quotient of linear functions has its extremes over a
    rectangle at the corners if its divisor does not change sign, so only the corners of the output are computed.
    Where that is not certain, and where an image has a grid of its own, all of the source is returned. Neither is
    averaging (`Plan.pooled`) looked at.
    """
    n = np.stack([width, height], 1)
    ends = [(one.min(1).astype(np.float64), one.max(1).astype(np.float64)) for one in (plan.columns, plan.rows)]
    corners = np.stack([np.stack([x, y, np.ones(len(n))]) for x in ends[0] for y in ends[1]]).transpose(2, 1, 0)
    x, y, divisor = np.moveaxis(plan.matrix @ corners, 1, 0)
    scale = plan.scales(height, width).astype(np.float64)[..., None]
    with np.errstate(all="ignore"):
        points = (np.stack([x / divisor, y / divisor], 1) + scale[:, :, 0]) * scale[:, :, 1] + scale[:, :, 2]
    sure = (divisor.min(1) > 0) & np.isfinite(points).all((1, 2))
    for b, extra in plan.extras.items():
        sure[b] &= extra.grid is None
    points[~sure] = 0
    low, high = points.min(2), points.max(2)
    if plan.padding == "reflection":
        edge = 0.0 if plan.aligned else 0.5
        first, last = -edge, n - 1 + edge  # the mirrors
        low, high = (
            np.where(high > last, np.minimum(low, 2 * last - high), low),
            np.where(low < first, np.maximum(high, 2 * first - low), high),
        )
    begin = np.floor(np.clip(low, 0, n - 1)).astype(np.int64) - _MARGIN
    end = np.floor(np.clip(high, 0, n - 1)).astype(np.int64) + 2 + _MARGIN  # the right neighbour, too
    begin, end = np.maximum(begin, 0), np.minimum(end, n)
    begin[~sure], end[~sure] = 0, n[~sure]
    return np.stack([begin[:, 1], end[:, 1], begin[:, 0], end[:, 0]], 1)
