"""Make batches on a CPU: with the compiled kernels if numba can be used, else in torch."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from .pixels import Pixels
from .plan import Norm, Plan
from .render import finish, sample
from .threads import Threads


def prepare(*names: str) -> str:
    """Compile the kernels `names`, some seconds for each that no process on this machine has compiled before.

    The names are those of `compiled.prepare`. Other kernels are compiled when a batch first needs them; those that are
    compiled in time are inherited by forked workers. Return why batches will be made without kernels, for instance
    since numba is not installed; else an empty string.
    """
    found = _prepared()
    if not isinstance(found, ModuleType):
        return _reason(found)
    try:
        found.prepare(*names)
    except found.FAILURES as error:
        return _reason(error)
    return ""


def without_kernels() -> str:
    "Return why numba can't be used, as far as its import tells; else an empty string. Compiles nothing."
    found = _imported()
    return "" if isinstance(found, ModuleType) else _reason(found)


def _kernels() -> Optional[ModuleType]:
    found = _prepared()
    return found if isinstance(found, ModuleType) else None


@functools.lru_cache(maxsize=1)
def _imported() -> Any:
    "Return the module `compiled`, or the error that its import raises."
    try:
        from numba import config

        from . import compiled  # only now: importing numba takes a second
    except Exception as error:  # an odd NUMBA_NUM_THREADS is a ValueError, and a broken library an OSError
        return error
    return ImportError("NUMBA_DISABLE_JIT is set") if config.DISABLE_JIT else compiled


@functools.lru_cache(maxsize=1)
def _prepared() -> Any:
    "Return the module `compiled` once it has compiled its smallest kernel, or the error that this raises."
    found = _imported()
    try:
        if isinstance(found, ModuleType):
            found.prepare(found.SMALLEST)
    except Exception as error:  # from numba, LLVM, or the files of numba's cache
        return error
    return found


def _reason(error: Exception) -> str:
    "Return an error as one line."
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0]}"


def by_kernels_alone(plan: Plan, norm: Optional[Norm]) -> bool:
    "Return whether the kernels make the whole batch, so that any thread may make any part of it."
    finite = norm is None or all(np.isfinite(one).all() for one in norm)
    return finite and plan.blank is None and not plan.extras and _kernels() is not None


def on_cpu(plan: Plan, pixels: Sequence[Pixels], out: Tensor, norm: Optional[Norm], threads: Threads) -> None:
    """Make the batch in `out`, (B, channels, height, width), float32 or int64, reading pixels in place.

    `norm` is applied last, if given. Images without a matrix (see `Extras.grid`) are made by torch, and so are all if
    there are no kernels.
    """
    kernels, which = _kernels(), np.arange(len(out))
    odd = [b for b, extra in plan.extras.items() if extra.grid is not None] if kernels is not None else which.tolist()
    compiled = np.setdiff1d(which, odd) if odd else which
    unfinished = plan.blank is not None or bool(plan.extras)
    # A deviation of zero makes infinity or NaN of a channel, and the kernels take finite numbers only.
    apart = unfinished or (norm is not None and not all(np.isfinite(one).all() for one in norm))
    if kernels is not None and len(compiled):
        try:
            kernels.run(plan, pixels, out.numpy(), None if apart else norm, compiled, threads)
        except kernels.FAILURES as error:  # other types of values have kernels of their own
            said = f"numba could not compile a kernel for these images, so torch makes them ({_reason(error)})"
            warnings.warn(said, stacklevel=2)
            odd = which.tolist()
    for b in odd:
        sample(plan.of(slice(b, b + 1)), pixels[b], out[b : b + 1])
    if unfinished:
        finish(plan, out)
    if norm is not None:
        mean, over_std = (torch.from_numpy(one)[:, None, None] for one in norm)
        for b in which.tolist() if apart else odd:
            out[b].sub_(mean).mul_(over_std)
