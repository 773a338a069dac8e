"""Call the compiled kernels for a plan and the pixels of a batch. Importing this module needs numba."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import numpy as np
from numba.core.errors import NumbaError

from .kernels import PADDINGS, Images, bilinear, nearest, pool
from .mask_kernels import nearest_bytes
from .pixels import Pixels
from .plan import Norm, Plan
from .threads import Threads

#: What compiling raises, and keeping what was compiled on a disk.
FAILURES = (NumbaError, OSError)


def run(
    plan: Plan,
    pixels: Sequence[Pixels],
    out: np.ndarray,
    norm: Optional[Norm],
    which: np.ndarray,
    threads: Threads,
) -> None:
    """Make the images `which` of `plan` in `out`, (B, channels, height, width) float32 or int64.

    Sources are read in place, so `pixels` must be kept alive until this returns. `norm` must be finite.
    """
    channels = out.shape[1]
    arrays = [one.array for one in pixels]
    pooled = plan.pooled[:, 0] > 0
    height, width = (
        np.where(pooled, plan.pooled[:, k], [array.shape[k] for array in arrays]).astype(np.int64) for k in (0, 1)
    )
    address = np.array([array.__array_interface__["data"][0] for array in arrays], np.int64)
    factor = np.array([1 / one.divisor for one in pixels], np.float32)
    floats = np.array([array.dtype == np.float32 for array in arrays]) | pooled
    mean, over_std = norm or (np.zeros(channels, np.float32), np.ones(channels, np.float32))
    kernel, of_bytes = _kernels(plan, norm, out)
    images = Images(
        address,
        height,
        width,
        plan.matrix.astype(np.float32),
        plan.columns,
        plan.rows,
        plan.lit,
        plan.gain.astype(np.float32),
        plan.bias.astype(np.float32),
        plan.scales(height, width),
        np.float32(0 if plan.aligned else -0.5),
        PADDINGS.index(plan.padding),
        mean,
        over_std,
    )

    def some(chosen: np.ndarray) -> None:
        if pooled[chosen].any():
            for b in chosen[pooled[chosen]].tolist():
                small = np.empty((height[b], width[b] * channels), np.float32)
                array = arrays[b]
                pool(array.reshape(array.shape[0], -1), channels, small)
                address[b] = small.ctypes.data
                alike(np.array([b]), False)
            chosen = chosen[~pooled[chosen]]
        for is_bytes in (True, False):
            part = chosen[floats[chosen] != is_bytes]
            if len(part):
                alike(part, is_bytes)

    def alike(chosen: np.ndarray, is_bytes: bool) -> None:
        kind, factors = np.uint8 if is_bytes else np.float32, factor[chosen]
        for one in factors[:1] if (factors == factors[0]).all() else np.unique(factors):
            (of_bytes if is_bytes and one == 1 else kernel)(kind, is_bytes, chosen[factors == one], one, images, out)

    threads.map(some, which, out[0].size * len(which))


def _kernels(plan: Plan, norm: Optional[Norm], out: np.ndarray) -> Tuple[Any, Any]:
    "Return the kernel for the images of `plan`, and the one for those whose values are the bytes of their sources."
    if plan.mode != "nearest":
        return bilinear, bilinear
    unchanged = out.dtype == np.int64 and out.shape[1] == 1 and norm is None and not plan.lit.any()
    return nearest, nearest_bytes if unchanged else nearest


def prepare() -> None:
    "Compile the kernels for the usual pipelines, or load them from numba's cache on disk."
    one, ones, line = np.ones(1, np.int64), np.ones(1, np.float32), np.zeros((1, 1), np.float32)
    matrix, scale, norm = np.eye(3, dtype=np.float32)[None], np.zeros((1, 2, 3), np.float32), np.zeros(3, np.float32)
    made = np.empty((1, 3, 1, 1), np.float32)
    for kernel, kind, out in (
        (bilinear, np.uint8, made),
        (bilinear, np.float32, made),  # images that were averaged down first
        (nearest_bytes, np.uint8, np.empty((1, 1, 1, 1), np.int64)),  # masks
    ):
        pixel = np.zeros(3, kind)
        where = np.array([pixel.ctypes.data], np.int64), one, one
        lighting = np.zeros(1, bool), ones, ones
        images = Images(*where, matrix, line, line, *lighting, scale, np.float32(0), 0, norm, norm)
        kernel(kind, kind is np.uint8, one - 1, ones[0], images, out)
    pool(np.zeros((1, 3), np.uint8), 3, np.empty((1, 3), np.float32))
