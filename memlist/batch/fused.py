"""Make images on a GPU with one kernel per group of images, which Triton compiles, where that is possible.

The formulas of `render` start many small computations, and starting them keeps the processor busy for longer than the
GPU needs to run them. Where there is no Triton, for a plan of an unknown kind, and where the kernel can't be compiled
or started, `render` makes the images.
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from typing import Any, Dict, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

from .render import LEAST, PARTS, Average
from .table import Table

# The numbers of the kernel for the kinds of padding, and the types of values that it reads and writes.
_PADDINGS = {"reflection": 0, "border": 1, "zeros": 2}
_READ, _WRITTEN = (torch.uint8, torch.float32), (torch.float32, torch.int64)
# The arrays that it reads, in the order of its arguments.
_ARRAYS = ("order", "numbers", "places", "columns", "rows", "hole_rows", "hole_columns")
# Pixels that a program makes, and values that it averages; threads are four times 32.
_BLOCK = 512
# Channels that a program makes of each pixel, at most.
_GROUP = 4
# How near a value has to be to that of `render`, and how large a part of the values.
_NEAR, _ALIKE = 1e-3, 0.999
# What the kernels make, in the user's words.
_MAKES = {"made": "batches on the GPU", "averaged": "images averaged down on the GPU"}
# A first start that takes so many seconds was waiting for the compiler; a line says so.
_WORTH_A_LINE = 0.3


class Fused:
    """Make images with the kernels of `code`, the module `fused_triton`.

    - `exact`: whether they are compiled for a GPU; False if Triton interprets them, which a test on a CPU does
    - `failed`: why they can't be used; empty as long as they can
    """

    def __init__(self, code: Any, exact: bool = True) -> None:
        self._code, self._exact = code, exact
        self._started: Set[str] = set()
        self._known: Set[Any] = set()
        self._options: Dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False} if exact else {}
        self.failed = ""

    def make(
        self,
        table: Table,
        found: Dict[str, Tensor],
        chosen: slice,
        pixels: Tensor,
        out: Tensor,
        norm: Optional[Tuple[Tensor, Tensor]],
        averages: Sequence[Average] = (),
    ) -> bool:
        """Make the images `chosen` in `out`, as `render` does; return whether they are made.

        `found` has the arrays of `Table.sent`, all on the device of `out`, and `order` and `averages`, see `packed`;
        `table` is read for what is no array. Pictures are averaged down in parts, because the averages may take more
        memory than the batch.
        """
        known = table.mode in ("nearest", "bilinear") and table.padding in _PADDINGS
        if self.failed or not known or pixels.dtype not in _READ or out.dtype not in _WRITTEN:
            return False
        if not averages:
            return self._sample(table, found, chosen, pixels, 0, out, norm)
        if any(_wide(one, out.shape[1]) for one in averages):
            return False
        step = max(-(-len(averages) // PARTS), LEAST // (out.shape[2] * out.shape[3]), 1)
        skipped = 0
        for begin in range(0, len(averages), step):
            some = averages[begin : begin + step]
            source = self._average(found, pixels, some, begin, skipped)
            part = slice(chosen.start + begin, chosen.start + begin + len(some))
            if source is None or not self._sample(table, found, part, source, skipped, out, norm):
                return False
            skipped += len(source)
        return True

    def knows(self, kind: Any) -> bool:
        "Return whether images of this kind were compared with those of `render` before."
        return kind in self._known

    def confirmed(self, kind: Any, made: Tensor, wanted: Tensor) -> bool:
        """Return whether images of a new `kind` are those that `render` makes; if not, the kernels are used no more.

        All but one in a thousand values have to be within a thousandth: a point halfway between two pixels of a mask
        may be rounded either way. Waits for the device.
        """
        self._known.add(kind)
        near = torch.isclose(made, wanted, rtol=_NEAR, atol=_NEAR, equal_nan=True)
        if float(near.float().mean()) >= _ALIKE:
            return True
        self.failed = "what it makes is not what torch makes"
        self._warn()
        return False

    def _warn(self) -> None:
        said = "Triton's kernel can't make batches here, so torch makes them"
        warnings.warn(f"{said} ({self.failed})", stacklevel=3)

    def _sample(
        self,
        table: Table,
        found: Dict[str, Tensor],
        chosen: slice,
        pixels: Tensor,
        skipped: int,
        out: Tensor,
        norm: Optional[Tuple[Tensor, Tensor]],
    ) -> bool:
        "Make the images `chosen` from `pixels`, which lack the first `skipped` ones; return whether they are made."
        _, channels, height, width = out.shape
        group, blocks = min(channels, _GROUP), -(-height * width // _BLOCK)
        mean, over_std = norm or (found["numbers"], found["numbers"])  # those are not read
        kind = table.mode == "nearest", _PADDINGS[table.padding], table.aligned, norm is not None, self._exact
        return self._start(
            "made",
            (blocks * (chosen.stop - chosen.start), -(-channels // group)),
            (pixels, out, *(found[name] for name in _ARRAYS), mean, over_std),
            (chosen.start, skipped, blocks, height, width, channels, found["hole_rows"].shape[1]),
            (*map(int, kind), group, _BLOCK),
        )

    def _average(
        self, found: Dict[str, Tensor], pixels: Tensor, averages: Sequence[Average], begin: int, skipped: int
    ) -> Optional[Tensor]:
        """Return these averages, one after another, (n, channels) float32; None if they can't be made.

        They are those from number `begin` on of the array of `found`, and `skipped` pixels come of the ones before.
        """
        sizes = [rows * cols for _, _, _, rows, cols in averages]
        channels = pixels.shape[1]
        out = torch.empty((sum(sizes), channels), dtype=torch.float32, device=pixels.device)
        blocks = -(-max(sizes) * channels // _BLOCK)
        arrays = pixels, found["averages"], out
        numbers = begin, skipped, blocks, channels
        return out if self._start("averaged", (blocks * len(sizes),), arrays, numbers, (_BLOCK,)) else None

    def _start(
        self,
        name: str,
        grid: Tuple[int, ...],
        arrays: Tuple[Tensor, ...],
        numbers: Tuple[int, ...],
        constants: Tuple[int, ...],
    ) -> bool:
        "Start a kernel; return whether that succeeded. After a failure no kernel is started any more."
        begun = time.monotonic()
        try:
            with torch.cuda.device(arrays[0].device) if arrays[0].is_cuda else contextlib.nullcontext():
                getattr(self._code, name)[grid](*arrays, *numbers, *constants, **self._options)
        except Exception as error:  # no compiler, a device that Triton does not know, an error in Triton
            self.failed = " ".join([type(error).__name__ + ":", *str(error).strip().splitlines()[-1:]])
            self._warn()
            return False
        if name not in self._started:
            self._started.add(name)
            _say(name, time.monotonic() - begun)
        return True


def _wide(average: Average, channels: int) -> bool:
    "Return whether the numbers of an image to average down need more than the 32 bits that the kernel computes with."
    _, height, width, rows, cols = average
    return max(height * (rows + 2), width * (cols + 2), rows * cols * channels + _BLOCK) >= 1 << 31


def _say(name: str, seconds: float) -> None:
    "Print a line if a first start took so long that something was compiled."
    if seconds > _WORTH_A_LINE:
        with contextlib.suppress(OSError, ValueError):  # a closed output must not make a call fail
            took = f"{seconds:.1f} s, once for this kind of batch on this machine"
            print(f"Triton has compiled code for {_MAKES[name]}: {took}", flush=True)


def fused_on(device: torch.device) -> Optional[Fused]:
    "Return the kernels for `device`, or None if there are none."
    return _fused() if device.type == "cuda" else None


@functools.lru_cache(maxsize=1)
def _fused() -> Optional[Fused]:
    try:
        from . import fused_triton  # only now: importing Triton takes time, and it may be missing
    except Exception:  # a broken installation may raise anything
        return None
    return Fused(fused_triton)
