"""Make the pictures of a batch."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np

from ..batch.threads import ONE_THREAD, Threads
from . import pillow
from .probe import Probed, probed
from .steps import MIRRORED, Crop, Resize, Step, Turn


def render(
    pictures: Sequence[np.ndarray],
    steps: Sequence[Sequence[Step]],
    out: np.ndarray,
    values: Optional[np.ndarray] = None,
    threads: Threads = ONE_THREAD,
) -> None:
    """Write each picture of a batch into `out` after its steps, as Pillow makes them, to the bit.

    - `pictures`: n arrays of bytes, (height, width) or (height, width, channels), each of its own size. Two or four
      channels are those of "LA" and "RGBA": Pillow multiplies them by alpha while it resizes. `supported` tells which
      of Pillow's modes this fits.
    - `steps`: for each picture what is done to it, in this order
    - `out`: (n, height, width, channels), of any strides, so a tensor with channels first is given as a transposed view
    - `values`: (256, channels) of the type of `out`: what is written for a byte of each channel, so that a conversion
      and a normalisation cost nothing more. Without it, `out` has to hold bytes.
    - `threads`: those that share the work

    The kernels of this folder do it, where they have been found to make what the installed Pillow makes (see `probe`);
    elsewhere Pillow itself, with the same result. A picture of 500 x 375 pixels of which a window becomes 224 x 224
    floats takes a kernel 0.25 ms of a processor of 2023, and 0.1 ms more where sizes or filters need more sums.

    Raises ValueError where a picture, its steps and `out` don't fit together; then nothing has been written.
    """
    _check(pictures, steps, out, values)
    found = probed()
    if isinstance(found, Probed) and found.compiled.run(pictures, steps, out, values, found.newer, threads):
        return
    channels = np.arange(out.shape[3])

    def some(which: np.ndarray) -> None:
        for i in which.tolist():
            made = pillow.apply(_three(pictures[i]), steps[i])
            out[i] = made if values is None else values[made, channels]

    threads.map(some, np.arange(len(pictures)), out.size)


def prepare() -> str:
    """Compile the kernels that `render` uses, or load them from the disk, so that forked workers have them.

    Return why Pillow will do their work instead, for instance since numba is not installed; else an empty string.
    """
    found = probed()
    if not isinstance(found, Probed):
        return found
    found.compiled.prepare()
    return ""


def _three(picture: np.ndarray) -> np.ndarray:
    "Return an array with an axis for channels."
    return picture if picture.ndim == 3 else picture[:, :, None]


def _check(
    pictures: Sequence[np.ndarray], steps: Sequence[Sequence[Step]], out: np.ndarray, values: Optional[np.ndarray]
) -> None:
    "Raise ValueError where the arguments of `render` don't fit together."
    if not len(pictures) == len(steps) == len(out):
        raise ValueError(
            f"{len(pictures)} pictures, {len(steps)} lists of steps, {len(out)} places: give as many of each"
        )
    channels = out.shape[3]
    if values is None and out.dtype != np.uint8:
        raise ValueError(f"out is of {out.dtype}: without `values`, pictures are bytes, so give an array of uint8")
    if values is not None and (values.dtype != out.dtype or values.shape != (256, channels)):
        raise ValueError(
            f"values are {values.shape} of {values.dtype}: give (256, {channels}) of {out.dtype}, as out is"
        )
    for i, (picture, some) in enumerate(zip(pictures, steps)):
        bands = picture.shape[2:] or (1,)
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or bands != (channels,):
            raise ValueError(
                f"picture {i} is {picture.shape} of {picture.dtype}: give uint8, (height, width, {channels}), like out"
            )
        size = _size_after(picture.shape[:2], some, f"picture {i}", channels)
        if size != out.shape[1:3]:
            raise ValueError(f"picture {i} is {size} after its steps and out {out.shape[1:3]}: make them the same")


def _size_after(size: Tuple[int, ...], steps: Sequence[Step], what: str, channels: int) -> Tuple[int, ...]:
    "Return height and width after `steps`."
    for step in steps:
        if isinstance(step, Turn):
            if step.code not in range(7):
                raise ValueError(f"{what}: {step} is no turn of Pillow's: use 0 to 6")
            size = size[::-1] if step.code in (2, 4, 5, 6) else size
        else:
            size = step.height, step.width
            if min(size) < 1:
                raise ValueError(f"{what}: {step} leaves nothing: give at least one pixel")
            if isinstance(step, Resize) and step.filter not in range(6):
                raise ValueError(f"{what}: {step} has an unknown filter: use 0 to 5")
            if isinstance(step, Crop):
                known = step.mode in ("constant", *MIRRORED) and len(step.fill) in (1, channels)
                if not known or min(step.fill) < 0 or max(step.fill) > 255:
                    raise ValueError(
                        f"{what}: {step} is not known: use a mode of numpy.pad, and a byte per channel or one"
                    )
    return size
