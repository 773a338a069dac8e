"""Call the compiled kernels for a plan and the pixels of a batch. Importing this module needs numba."""

from __future__ import annotations

import functools
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, cast

import numpy as np
from numba import types
from numba.core.errors import NumbaError

from .compiling import compile_once
from .copies import Copies, copies
from .kernels import PADDINGS, copied_rgb, mixed, mixed_rgb, nearest, pool
from .mask_kernels import nearest_bytes
from .pixels import Pixels
from .plan import Norm, Plan
from .threads import Threads

#: What compiling raises, and keeping what was compiled on a disk.
FAILURES = (NumbaError, OSError)
# Batches of so many bytes and more are written past the caches, which could not hold them until they are used.
_PAST_CACHES = 1 << 24

# Ways to make an image: by copying bytes of three channels, or mixing them; of any channels, floats or bytes; a mask.
_COPIED, _RGB, _FLOAT, _BYTE, _MASK = range(5)
_TYPES = {_FLOAT: "float32", _BYTE: "uint8"}
_KINDS = {"uint8": types.uint8, "float32": types.float32, "int64": types.int64}
_INTS, _FLOATS = (types.Array(_KINDS[kind], 1, "C") for kind in ("int64", "float32"))
_LIT = {True: ", with other lighting", False: ""}
_LIGHTS = {True: _FLOATS.copy(ndim=2), False: types.none}
# Types of the kernels' arguments: `which`, `factor`, `sources`; `maps` to `padding`; `norm`; `past` and `out`.
_SOURCES = _INTS, types.float32, _INTS.copy(ndim=2)
_MAPS = _FLOATS.copy(ndim=3), _FLOATS.copy(ndim=2), _FLOATS.copy(ndim=2), types.float32, types.int64
_NORM = _FLOATS.copy(ndim=2)
_END = types.boolean, _FLOATS.copy(ndim=4)


# Each function compiles a kernel once per process; the numbers are seconds on a machine of 2026.


@functools.lru_cache(maxsize=None)
def _copied_rgb() -> Any:
    compile_once(
        copied_rgb, (*_SOURCES, _INTS.copy(ndim=2), _INTS.copy(ndim=2), _NORM, *_END), 1, "cropped and flipped images"
    )
    return copied_rgb


def _signature(lit: bool) -> Tuple[Any, ...]:
    return (*_SOURCES, *_MAPS, _LIGHTS[lit], _NORM, *_END)


def _lit_rgb() -> bool:
    "Return whether the kernel for lit images has been compiled; then it makes others too, instead of another one."
    return _signature(True) in mixed_rgb.overloads


@functools.lru_cache(maxsize=None)
def _mixed_rgb(lit: bool) -> Any:
    compile_once(mixed_rgb, _signature(lit), 3, f"turned, zoomed or warped images{_LIT[lit]}")
    return mixed_rgb


@functools.lru_cache(maxsize=None)
def _mixed(kind: str, lit: bool) -> Any:
    makes = f"turned, zoomed or warped images, any channels, from {kind}{_LIT[lit]}"
    compile_once(mixed, (types.NumberClass(_KINDS[kind]), *_signature(lit)), 3, makes)
    return functools.partial(mixed, getattr(np, kind))


@functools.lru_cache(maxsize=None)
def _nearest(kind: str, lit: bool, made: str) -> Any:
    out = types.Array(_KINDS[made], 4, "C")
    makes = f"images of the nearest pixels, from {kind} to {made}{_LIT[lit]}"
    compile_once(nearest, (types.NumberClass(_KINDS[kind]), *_SOURCES, *_MAPS, _LIGHTS[lit], _NORM, out), 1, makes)
    return functools.partial(nearest, getattr(np, kind))


@functools.lru_cache(maxsize=None)
def _nearest_bytes() -> Any:
    compile_once(nearest_bytes, (*_SOURCES, *_MAPS, types.Array(types.int64, 4, "C")), 1, "masks")
    return nearest_bytes


@functools.lru_cache(maxsize=None)
def _pool() -> Any:
    compile_once(pool, (types.Array(types.uint8, 2, "C"), types.int64, _FLOATS.copy(ndim=2)), 0, "images averaged down")
    return pool


#: The kernel that tells whether numba works at all.
SMALLEST = "pool"


def prepare(*names: str) -> None:
    """Compile kernels, or load them from the disk.

    - "pool": averages images down
    - "copied", "mixed": make images of three channels of bytes, by copying or by mixing pixels
    - "lit": the same as "mixed", and lights them
    """
    for name in names:
        if name == "pool":
            _pool()
        elif name == "copied":
            _copied_rgb()
        else:
            _mixed_rgb(name == "lit" or _lit_rgb())


class _Call(NamedTuple):
    "Hold what kernels are called with for one batch; see `kernels`."

    sources: np.ndarray
    maps: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    low: np.float32
    padding: int
    lights: Optional[np.ndarray]
    norm: np.ndarray
    past: bool
    out: np.ndarray


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
    channels, arrays = out.shape[1], [one.array for one in pixels]
    pooled = plan.pooled[:, 0] > 0
    call = _call(plan, arrays, pooled, norm, out)
    floats = np.array([array.dtype == np.float32 for array in arrays]) | pooled
    narrow = call.sources[:, 2] < 2
    rgb = ~floats & ~narrow if channels == 3 and plan.mode != "nearest" and plan.padding != "zeros" else floats & False
    still = np.zeros(len(out), bool)
    copied: Optional[Copies] = None
    if (rgb & ~plan.lit).any():
        copied = copies(call.maps, call.columns, call.rows, call.sources[:, 1:])
        still = rgb & ~plan.lit & copied.found
    # Which kernel makes an image, and what its values are multiplied by: kernels are compiled before threads begin.
    factors = np.array([1 / one.divisor for one in pixels], np.float32)
    masks = ~floats & (factors == 1) & _unchanged(plan, norm, out)
    kinds = np.select([still, rgb, masks, floats], [_COPIED, _RGB, _MASK, _FLOAT], _BYTE)
    kernel_of = {kind: _kernel(kind, plan.mode, call, copied) for kind in np.unique(kinds[which]).tolist()}

    def some(chosen: np.ndarray) -> None:
        for b in chosen[pooled[chosen]].tolist():
            small = _pooled(arrays[b], call.sources[b, 1:], channels)
            call.sources[b, 0] = small.ctypes.data
            kernel_of[kinds[b]](np.array([b]), factors[b])
        chosen = chosen[~pooled[chosen]]
        for kind, factor in sorted(set(zip(kinds[chosen].tolist(), factors[chosen].tolist()))):
            alike = (kinds[chosen] == kind) & (factors[chosen] == factor)
            kernel_of[kind](chosen[alike], np.float32(factor))

    if pooled.any():
        _pool()
    threads.map(some, which, out[0].size * len(which))


def _unchanged(plan: Plan, norm: Optional[Norm], out: np.ndarray) -> bool:
    "Return whether values of one channel are those of single pixels of their sources, apart from a divisor."
    plain = plan.mode == "nearest" and norm is None and not plan.lit.any()
    return bool(plain and out.dtype == np.int64 and out.shape[1] == 1)


def _call(plan: Plan, arrays: List[np.ndarray], pooled: np.ndarray, norm: Optional[Norm], out: np.ndarray) -> _Call:
    "Return the arguments of all kernels."
    channels = out.shape[1]
    sources = np.array([(one.__array_interface__["data"][0], *one.shape[:2]) for one in arrays], np.int64)
    sources[pooled, 1:] = plan.pooled[pooled]
    lights = np.stack([plan.lit, plan.gain, plan.bias], 1)
    return _Call(
        sources=sources,
        maps=_floats(np.concatenate([plan.matrix, plan.scales(sources[:, 1], sources[:, 2])], 1)),
        columns=_floats(plan.columns),
        rows=_floats(plan.rows),
        low=np.float32(0 if plan.aligned else -0.5),
        padding=PADDINGS.index(plan.padding),
        lights=_floats(lights) if plan.lit.any() or _lit_rgb() else None,
        norm=_floats(np.stack(norm or (np.zeros(channels), np.ones(channels)))),
        past=out.nbytes >= _PAST_CACHES,
        out=out,
    )


def _floats(values: np.ndarray) -> np.ndarray:
    "Return an array of the one type that kernels are compiled for."
    return np.require(values, np.float32, ["C", "W"])


def _kernel(kind: int, mode: str, call: _Call, copied: Optional[Copies]) -> Callable[[np.ndarray, np.float32], None]:
    "Return a function that makes the images that it is given."
    lit = call.lights is not None
    made, given = None, cast(Tuple[Any, ...], call)
    if kind == _COPIED:
        assert copied is not None
        made, given = _copied_rgb(), (call.sources, copied.first, copied.tops, call.norm, call.past, call.out)
    elif kind == _RGB:
        made = _mixed_rgb(lit)
    elif kind == _MASK:
        made, given = _nearest_bytes(), (*given[:6], call.out)
    elif mode == "nearest":
        made, given = _nearest(_TYPES[kind], lit, call.out.dtype.name), (*given[:8], call.out)
    else:
        made = _mixed(_TYPES[kind], lit)
    return lambda chosen, factor: made(chosen, factor, *given)


def _pooled(array: np.ndarray, size: np.ndarray, channels: int) -> np.ndarray:
    "Return an image averaged down to `size`."
    small = np.empty((size[0], size[1] * channels), np.float32)
    _pool()(array.reshape(len(array), -1), channels, small)
    return small
