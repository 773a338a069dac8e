"""Make batches on a CPU: with the compiled kernels if numba is installed, else in torch."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from .pixels import Pixels
from .plan import Norm, Plan
from .render import finish, sample
from .threads import Threads


def prepare() -> None:
    "Compile the kernels if numba is installed: some seconds, once per machine, because numba caches them on disk."
    kernels = _kernels()
    if kernels is not None:
        kernels.prepare()


def without_kernels() -> str:
    "Return why there are no compiled kernels; an empty string if there are."
    found = _imported()
    return "" if isinstance(found, ModuleType) else str(found)


def _kernels() -> Optional[ModuleType]:
    found = _imported()
    return found if isinstance(found, ModuleType) else None


@functools.lru_cache(maxsize=1)
def _imported() -> Any:
    "Return the module `compiled`, or the error that its import raises."
    try:
        from . import compiled  # only now: importing numba takes a second
    except ImportError as error:
        return error
    return compiled


def on_cpu(plan: Plan, pixels: Sequence[Pixels], out: Tensor, norm: Optional[Norm], threads: Threads) -> None:
    """Make the batch in `out`, (B, channels, height, width), float32 or int64, reading pixels in place.

    `norm` is applied last, if given. Images without a matrix (see `Extras.grid`) are made by torch.
    """
    kernels, which = _kernels(), np.arange(len(out))
    odd = [b for b, extra in plan.extras.items() if extra.grid is not None] if kernels is not None else which.tolist()
    compiled = np.setdiff1d(which, odd) if odd else which
    unfinished = plan.blank is not None or bool(plan.extras)
    if kernels is not None and len(compiled):
        kernels.run(plan, pixels, out.numpy(), None if unfinished else norm, compiled, threads)
    for b in odd:
        sample(plan.of(slice(b, b + 1)), pixels[b], out[b : b + 1])
    if unfinished:
        finish(plan, out)
    if norm is not None:
        mean, over_std = (torch.from_numpy(one)[:, None, None] for one in norm)
        for b in which.tolist() if unfinished else odd:
            out[b].sub_(mean).mul_(over_std)
