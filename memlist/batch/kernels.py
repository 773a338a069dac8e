"""The formulas of `render`, compiled for a CPU by numba: image by image, row by row, straight from bytes.

A batch of floats does not fit into a CPU's cache, so every pass over it waits for memory; a row of one image does fit.
So a kernel makes one row at a time, or a few short ones: it computes where their pixels come from, mixes, lights and
normalises them, and writes them once. Each step is a loop that a compiler can vectorise, which is why bytes are loaded
four at a time and unpacked later. numba compiles a kernel when a data bunch first needs it, and caches it on disk.

All compiled functions must stay in this file, because numba recompiles a cached function only when the function's own
file changes; so `mask_kernels` has to change with what it uses from here. `compiled` calls them. They release the
GIL, so threads can share a batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import llvmlite.ir as ir
import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

PADDINGS = ("reflection", "border", "zeros")
REFLECTION, ZEROS = 0, 2  # positions in `PADDINGS`


def _can_cache() -> bool:
    "Return whether numba finds a folder for its cache: next to this file, or in the user's cache."
    try:
        njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


_OPTIONS = {
    "nogil": True,
    "cache": _can_cache(),
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}
_I32, _F32 = ir.IntType(32), ir.FloatType()
_F = np.float32
_ONE, _HALF, _LEAST, _MOST = _F(1), _F(0.5), _F(1e-7), _F(1 - 1e-7)
_LOG2E, _FAR = _F(1 / math.log(2)), _F(60)
# 2 / ln 2 · (1, 1/3, 1/5, 1/7, 1/9): log2(m) by the series of artanh((m - 1) / (m + 1)).
_L1, _L3, _L5, _L7, _L9 = (_F(2 / math.log(2) / n) for n in (1, 3, 5, 7, 9))
# ln(2)^n / n!: the series of 2^f.
_E1, _E2, _E3, _E4, _E5, _E6 = (_F(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))


# Values per pass: long loops even for small images, and all of it fits into the L1 cache.
_TILE = 512


# -- bits ---------------------------------------------------------------------------------------------------------
# Instructions that numba does not expose. Its own integer arithmetic has 64 bits, at half the speed.


@intrinsic
def _at(typing_context: Any, address: Any) -> Any:
    "Return an address as a pointer."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def _load(typing_context: Any, address: Any, offset: Any) -> Any:
    "Load the four bytes at `address + offset`."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        base = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        pointer = builder.bitcast(builder.gep(base, [arguments[1]]), _I32.as_pointer())
        return builder.load(pointer, align=1)

    return types.uint32(types.int64, types.int64), code


@intrinsic
def _byte(typing_context: Any, word: Any, shift: Any) -> Any:
    "Return the byte of `word` that begins at bit `shift`, as a float."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        shifted = builder.lshr(arguments[0], builder.trunc(arguments[1], _I32))
        return builder.sitofp(builder.and_(shifted, _I32(255)), _F32)

    return types.float32(types.uint32, types.int64), code


_ROOT = 0x3F3504F3  # the bits of sqrt(1/2): subtracting them puts a mantissa into [sqrt(1/2), sqrt(2))


@intrinsic
def _exponent(typing_context: Any, value: Any) -> Any:
    "Return n of value = m · 2^n with m in [sqrt(1/2), sqrt(2))."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        moved = builder.add(builder.bitcast(arguments[0], _I32), _I32(0x3F800000 - _ROOT))
        return builder.sitofp(builder.sub(builder.ashr(moved, _I32(23)), _I32(127)), _F32)

    return types.float32(types.float32), code


@intrinsic
def _mantissa(typing_context: Any, value: Any) -> Any:
    "Return m of value = m · 2^n with m in [sqrt(1/2), sqrt(2))."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        moved = builder.add(builder.bitcast(arguments[0], _I32), _I32(0x3F800000 - _ROOT))
        return builder.bitcast(builder.add(builder.and_(moved, _I32(0x7FFFFF)), _I32(_ROOT)), _F32)

    return types.float32(types.float32), code


@intrinsic
def _power(typing_context: Any, whole: Any) -> Any:
    "Return 2 to the power of a whole number between -126 and 127."

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.add(builder.fptosi(arguments[0], _I32), _I32(127))
        return builder.bitcast(builder.shl(exponent, _I32(23)), _F32)

    return types.float32(types.float32), code


# -- one row ------------------------------------------------------------------------------------------------------


@njit(**_OPTIONS)
def _between(value: Any, least: Any, most: Any) -> Any:
    "Clamp `value`, and NaN to `least`, so that the result is a valid index."
    above = value if value > least else least
    return above if above < most else most


@njit(**_OPTIONS)
def _within(value: Any, least: Any, most: Any) -> Any:
    "Clamp `value` as torch's `clamp` does: NaN stays NaN."
    above = least if value < least else value
    return most if above > most else above


@njit(**_OPTIONS)
def _points(m: Any, k: int, scale: Any, columns: Any, row: Any, n: int, low: Any, padding: int, out: Any) -> None:
    "Write to `out` the source indices of one output row along axis `k` (0: x, 1: y), of which there are `n`."
    slope, base = m[k, 0], m[k, 1] * row + m[k, 2]
    divisor, turn, last = m[2, 1] * row + m[2, 2], m[2, 0], _F(n - 1)
    a, b, c = scale[k, 0], scale[k, 1], scale[k, 2]
    if turn == 0.0:
        slope, base = slope / divisor, base / divisor
        for j in range(len(out)):
            out[j] = ((slope * columns[j] + base) + a) * b + c
    else:
        for j in range(len(out)):
            out[j] = ((slope * columns[j] + base) / (turn * columns[j] + divisor) + a) * b + c
    if padding == ZEROS:
        for j in range(len(out)):  # two pixels outside the image, all is zero
            out[j] = _between(out[j], _F(-2), last + _F(2))
        return
    if padding == REFLECTION:
        least, most = out[0], out[0]
        for j in range(len(out)):
            least, most = min(least, out[j]), max(most, out[j])
        if not (least >= 0.0 and most <= last):
            # Mirror at the first and the last pixel, or half a pixel outside; an image of one pixel mirrors everything.
            twice = max(_F(2) * (last - _F(2) * low), _ONE)
            for j in range(len(out)):
                away = abs(out[j] - low)
                away -= _F(math.floor(away / twice)) * twice
                out[j] = min(away, twice - away) + low
    for j in range(len(out)):
        out[j] = _between(out[j], _F(0), last)


@njit(**_OPTIONS)
def _light(values: Any, gain: Any, bias: Any) -> None:
    """Apply sigmoid(gain · logit(v) + bias) in place, with an error of at most 3e-7.

    With u = 1/v - 1, logit(v) is -ln u, and the result is 1 / (1 + u^gain · e^-bias). Logarithm and power are taken to
    base 2: the exponent is read from the bits of a float, and the rest is computed by a series (Abramowitz and Stegun,
    4.1.27 and 4.2.1), which ends when further terms would be below the last bit.
    """
    shift = -bias * _LOG2E
    for j in range(len(values)):
        v = _within(values[j], _LEAST, _MOST)
        u = _ONE / v - _ONE
        m = _mantissa(u)
        t = (m - _ONE) / (m + _ONE)
        s = t * t
        power = gain * (_exponent(u) + t * (_L1 + s * (_L3 + s * (_L5 + s * (_L7 + s * _L9))))) + shift
        power = _within(power, -_FAR, _FAR)
        whole = _F(math.floor(power + _HALF))
        f = power - whole
        raised = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
        values[j] = _ONE / (_ONE + raised * _power(whole)) if v == v else v  # NaN stays NaN


@njit(**_OPTIONS)
def _mix(a: Any, b: Any, c: Any, d: Any, shift: int, gx: Any, gy: Any, scale: Any) -> Any:
    "Mix one channel of two pixels and the two below; the words `b` and `d` of the right ones begin one byte early."
    p, q, r, s = _byte(a, shift), _byte(b, shift + 8), _byte(c, shift), _byte(d, shift + 8)
    top, bottom = p + gx * (q - p), r + gx * (s - r)
    return (top + gy * (bottom - top)) * scale


@njit(**_OPTIONS)
def _mixed_rgb(address: int, at: Any, line: int, fx: Any, fy: Any, words: Any, scale: Any, out: Any) -> None:
    """Mix three channels of bytes from pairs of pixels into `out`, (3, width).

    Four bytes are read for the left pixel, of which the last is the right pixel's first, and four for the right pixel,
    of which the first is the left pixel's last. So no byte outside the pair is read.
    """
    for j in range(len(at)):
        o = np.int64(at[j])
        words[0, j], words[1, j] = _load(address, o), _load(address, o + 2)
        words[2, j], words[3, j] = _load(address, o + line), _load(address, o + line + 2)
    a, b, c, d = words[0], words[1], words[2], words[3]
    red, green, blue = out[0], out[1], out[2]
    for j in range(len(at)):
        red[j] = _mix(a[j], b[j], c[j], d[j], 0, fx[j], fy[j], scale)
        green[j] = _mix(a[j], b[j], c[j], d[j], 8, fx[j], fy[j], scale)
        blue[j] = _mix(a[j], b[j], c[j], d[j], 16, fx[j], fy[j], scale)


@njit(**_OPTIONS)
def _mixed(source: Any, at: Any, step: int, line: int, fx: Any, fy: Any, scale: Any, out: Any) -> None:
    "Mix any number of channels, bytes or floats."
    for c in range(len(out)):
        for j in range(len(at)):
            o = np.int64(at[j]) + c
            p, q, r, s = _F(source[o]), _F(source[o + step]), _F(source[o + line]), _F(source[o + line + step])
            top, bottom = p + fx[j] * (q - p), r + fx[j] * (s - r)
            out[c, j] = (top + fy[j] * (bottom - top)) * scale


@njit(**_OPTIONS)
def _mixed_zeros(source: Any, h: int, w: int, x: Any, y: Any, scale: Any, out: Any) -> None:
    "Mix any number of channels, with zeros outside the image."
    for j in range(len(x)):
        x0, y0 = math.floor(x[j]), math.floor(y[j])
        gx, gy = _F(x[j] - x0), _F(y[j] - y0)
        xi, yi = int(x0), int(y0)
        for c in range(len(out)):
            value = _F(0)
            for dy in range(2):
                for dx in range(2):
                    if 0 <= xi + dx < w and 0 <= yi + dy < h:
                        weight = (gx if dx else _ONE - gx) * (gy if dy else _ONE - gy)
                        value += weight * _F(source[((yi + dy) * w + xi + dx) * len(out) + c])
            out[c, j] = value * scale


@njit(**_OPTIONS)
def _whole(x: Any, n: int) -> int:
    """Return 1 or -1 if `x` holds the indices of adjacent pixels, forwards or backwards; else 0.

    The source has `n` pixels along this axis. An index is computed from a coordinate between -1 and 1 with an error of
    a few times 2^-24 · n. Ignoring that error changes values no more than fastai's own rounding does.
    """
    off, first = _F(n) * _F(5e-7), _F(np.rint(x[0]))
    step = 1 if len(x) == 1 or x[1] > x[0] else -1
    for j in range(len(x)):
        if not abs(x[j] - (first + _F(step * j))) <= off:
            return 0
    return step


class Images(NamedTuple):
    """Hold what kernels need to know about a batch of B images.

    - `address`, `height`, `width`, (B,) int64: the addresses of the sources in memory, and their sizes
    - `matrix`, `columns`, `rows`, `lit`, `gain`, `bias`: as in `Plan`, in float32
    - `scale`, (B, 2, 3) float32: see `Plan.scales`
    - `low`: the index of the mirror at the beginning of an axis: 0, or half a pixel outside
    - `padding`: a position in `PADDINGS`
    - `mean`, `over_std`, (channels,) float32: values become `(value - mean) * over_std`
    """

    address: Any
    height: Any
    width: Any
    matrix: Any
    columns: Any
    rows: Any
    lit: Any
    gain: Any
    bias: Any
    scale: Any
    low: Any
    padding: Any
    mean: Any
    over_std: Any


@njit(**_OPTIONS)
def _copied_rgb(images: Any, b: int, source: Any, factor: Any, step: int, x: Any, y: Any, out: Any) -> int:
    """Make the first rows of image `b`, while their pixels are copies of the source's; return the first other row.

    `x` holds the source indices of the columns, which ascend by `step`; `y` is scratch memory for those of the rows.
    """
    n, h, w, m = out.shape[2], images.height[b], images.width[b], images.matrix[b]
    columns, rows, scale = images.columns[b], images.rows[b], images.scale[b]
    mean, over_std = images.mean, images.over_std
    left = int(np.rint(x[0]))
    a0, a1, a2 = factor * over_std[0], factor * over_std[1], factor * over_std[2]
    b0, b1, b2 = mean[0] * over_std[0], mean[1] * over_std[1], mean[2] * over_std[2]
    for i in range(out.shape[1]):
        _points(m, 1, scale, columns[:1], rows[i], h, images.low, images.padding, y[:1])
        top = _F(np.rint(y[0]))
        if not abs(y[0] - top) <= _F(h) * _F(5e-7):
            return i
        start = (int(top) * w + (left if step == 1 else left - n + 1)) * 3
        line = source[start : start + 3 * n]
        red, green, blue = out[0, i], out[1, i], out[2, i]
        if step == 1:
            for j in range(n):
                red[j] = _F(line[3 * j]) * a0 - b0
                green[j] = _F(line[3 * j + 1]) * a1 - b1
                blue[j] = _F(line[3 * j + 2]) * a2 - b2
        else:
            for j in range(n):
                k = 3 * (n - 1 - j)
                red[j] = _F(line[k]) * a0 - b0
                green[j] = _F(line[k + 1]) * a1 - b1
                blue[j] = _F(line[k + 2]) * a2 - b2
    return out.shape[1]


# -- batches ------------------------------------------------------------------------------------------------------
# Both kernels make the images `which` of the batch `out`. The sources of these images are all bytes or all floats
# (`source_type`, `is_bytes`), and their values are multiplied by `factor`.


@njit(**_OPTIONS)
def bilinear(source_type: Any, is_bytes: bool, which: Any, factor: Any, images: Any, out: Any) -> None:
    "Mix each output value from the four pixels around its point."
    channels, out_height, out_width = out.shape[1], out.shape[2], out.shape[3]
    tile = max(1, _TILE // out_width)  # rows at a time
    x, y = np.empty(tile * out_width, np.float32), np.empty(tile * out_width, np.float32)
    at, words = np.empty(tile * out_width, np.int32), np.empty((4, tile * out_width), np.uint32)
    fx, fy = np.empty(tile * out_width, np.float32), np.empty(tile * out_width, np.float32)
    values = np.empty((channels, tile * out_width), np.float32)
    address, height, width, matrix, columns, rows, lit, gain, bias, scale, low, padding, mean, over_std = images
    for b in which:
        h, w, m = height[b], width[b], matrix[b]
        source = carray(_at(address[b]), (h * w * channels,), source_type)
        straight = m[0, 1] == 0.0 and m[2, 0] == 0.0 and m[2, 1] == 0.0
        step, line = (channels if w > 1 else 0), (w * channels if h > 1 else 0)
        left_most, top_most, stride = _F(max(w - 2, 0)), _F(max(h - 2, 0)), float(w * channels)
        begin = 0
        if straight and is_bytes and channels == 3 and padding != ZEROS and not lit[b]:
            # Copy rows for as long as each pixel is one of the source's.
            _points(m, 0, scale[b], columns[b], rows[b, 0], w, low, padding, x[:out_width])
            step_x = _whole(x[:out_width], w)
            if step_x != 0:
                begin = _copied_rgb(images, b, source, factor, step_x, x, y, out[b])
        for top in range(begin, out_height, tile):
            bottom = min(top + tile, out_height)
            n = (bottom - top) * out_width
            for i in range(top, bottom):
                of_row = slice((i - top) * out_width, (i - top + 1) * out_width)
                if top == begin or not straight:
                    _points(m, 0, scale[b], columns[b], rows[b, i], w, low, padding, x[of_row])
                _points(m, 1, scale[b], columns[b], rows[b, i], h, low, padding, y[of_row])
            if padding == ZEROS:
                _mixed_zeros(source, h, w, x[:n], y[:n], factor, values)
            else:
                for j in range(n):
                    # The last pixel has no right neighbour: use the pair that ends with it, if there is one.
                    x0, y0 = min(_F(math.floor(x[j])), left_most), min(_F(math.floor(y[j])), top_most)
                    fx[j], fy[j] = x[j] - x0, y[j] - y0
                    at[j] = y0 * stride + x0 * channels
                if is_bytes and channels == 3 and w > 1:
                    _mixed_rgb(address[b], at[:n], line, fx, fy, words, factor, values)
                else:
                    _mixed(source, at[:n], step, line, fx, fy, factor, values)
            for c in range(channels):
                if lit[b]:
                    _light(values[c, :n], gain[b], bias[b])
                a, k, made, taken = mean[c], over_std[c], out[b, c, top:bottom].reshape(n), values[c]
                for j in range(n):
                    made[j] = (taken[j] - a) * k


@njit(**_OPTIONS)
def nearest(source_type: Any, is_bytes: bool, which: Any, factor: Any, images: Any, out: Any) -> None:
    "Take each output value from the pixel nearest to its point."
    channels, out_height, out_width = out.shape[1], out.shape[2], out.shape[3]
    x, y = np.empty(out_width, np.float32), np.empty(out_width, np.float32)
    row = np.empty((channels, out_width), np.float32)
    address, height, width, matrix, columns, rows, lit, gain, bias, scale, low, padding, mean, over_std = images
    for b in which:
        h, w, m = height[b], width[b], matrix[b]
        source = carray(_at(address[b]), (h * w * channels,), source_type)
        for i in range(out_height):
            _points(m, 0, scale[b], columns[b], rows[b, i], w, low, padding, x)
            _points(m, 1, scale[b], columns[b], rows[b, i], h, low, padding, y)
            for j in range(out_width):
                xi, yi = int(np.rint(x[j])), int(np.rint(y[j]))  # a tie goes to the even one, as in torch
                if 0 <= xi < w and 0 <= yi < h:
                    for c in range(channels):
                        row[c, j] = _F(source[(yi * w + xi) * channels + c]) * factor
                else:
                    for c in range(channels):
                        row[c, j] = 0
            if lit[b]:
                _light(row.reshape(channels * out_width), gain[b], bias[b])
            for c in range(channels):
                for j in range(out_width):
                    out[b, c, i, j] = (row[c, j] - mean[c]) * over_std[c]


@njit(**_OPTIONS)
def pool(source: Any, channels: int, out: Any) -> None:
    """Average an image down into `out`, over the same boxes as torch's `adaptive_avg_pool2d`.

    Both arrays are two-dimensional, (height, width · channels): the source in bytes and `out` in floats.
    """
    h, w = source.shape[0], source.shape[1] // channels
    rows, cols = out.shape[0], out.shape[1] // channels
    sums = np.empty(w * channels, np.float32)
    for i in range(rows):
        top, bottom = i * h // rows, -(-(i + 1) * h // rows)
        sums[:] = 0
        for y in range(top, bottom):
            line = source[y]
            for k in range(w * channels):
                sums[k] += line[k]
        for j in range(cols):
            left, right = j * w // cols, -(-(j + 1) * w // cols)
            over = _ONE / _F((right - left) * (bottom - top))
            for c in range(channels):
                total = _F(0)
                for x in range(left, right):
                    total += sums[x * channels + c]
                out[i, j * channels + c] = total * over
