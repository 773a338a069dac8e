"""The formulas of `render`, compiled for a CPU by numba: image by image, row by row, straight from bytes.

A batch of floats does not fit into a CPU's cache, so every pass over it waits for memory; a row of one image does fit.
So a kernel makes one row at a time, or a few short ones: it computes where their pixels come from, mixes, lights and
normalises them, and writes them once. Each step is a loop that a compiler can vectorise, which is why bytes are loaded
four at a time and unpacked later. While it works on some rows, it asks for those of the source that come next.

There are several kernels, because each of them takes seconds to compile and most pipelines need only one or two.
`compiled` calls them, and `compiling` compiles them. They release the GIL, so threads can share a batch.

All kernels take the same arguments, if they take them at all:

- `which`, int64: the images to make. The sources of these images are all bytes or all floats (`source_type`), and their
  values are multiplied by `factor`
- `sources`, (B, 3) int64: the address in memory, the height and the width of each source
- `maps`, (B, 5, 3) float32: the matrix of each image, and its two rows of `Plan.scales`
- `columns`, `rows`: as in `Plan`
- `low`: the index of the mirror at the beginning of an axis: 0, or half a pixel outside
- `padding`: a position in `PADDINGS`
- `lights`, (B, 3) float32: whether each image is lit, its gain and its bias; None if none is, which is compiled apart
- `norm`, (2, channels) float32: values become `(value - norm[0]) * norm[1]`
- `past`: whether to write past the caches, since the batch is larger than they are
- `out`, (B, channels, height, width)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit

from .bits import (
    LINE,
    address_of,
    at,
    byte,
    exponent,
    fetch,
    fetch_far,
    floor,
    load,
    mantissa,
    offset,
    power,
    settle,
    stream,
)
from .compiling import OPTIONS, kernel

PADDINGS = ("reflection", "border", "zeros")
REFLECTION, ZEROS = 0, 2  # positions in `PADDINGS`

_F = np.float32
_ONE, _HALF, _LEAST, _MOST = _F(1), _F(0.5), _F(1e-7), _F(1 - 1e-7)
_LOG2E, _FAR = _F(1 / math.log(2)), _F(60)
# 2 / ln 2 · (1, 1/3, 1/5, 1/7, 1/9): log2(m) by the series of artanh((m - 1) / (m + 1)).
_L1, _L3, _L5, _L7, _L9 = (_F(2 / math.log(2) / n) for n in (1, 3, 5, 7, 9))
# ln(2)^n / n!: the series of 2^f.
_E1, _E2, _E3, _E4, _E5, _E6 = (_F(math.log(2) ** n / math.factorial(n)) for n in range(1, 7))


# Values per pass: long loops even for small images, and all of it fits into the L1 cache.
_TILE = 512
# What LLVM's loops do at a time; what remains is done one by one.
_STEP = 64
# Rows of the source to ask for ahead of those in use, and the bytes of a line of a cache.
_AHEAD, _CACHE_LINE = 12, 64


# -- one row ------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _between(value: Any, least: Any, most: Any) -> Any:
    "Clamp `value`, and NaN to `least`, so that the result is a valid index."
    above = value if value > least else least
    return above if above < most else most


@njit(**OPTIONS)
def _within(value: Any, least: Any, most: Any) -> Any:
    "Clamp `value` as torch's `clamp` does: NaN stays NaN."
    above = least if value < least else value
    return most if above > most else above


@njit(**OPTIONS)
def _points(m: Any, k: int, columns: Any, row: Any, n: int, low: Any, padding: int, out: Any) -> None:
    """Write to `out` the source indices of one output row along axis `k` (0: x, 1: y).

    `m` is the image's part of `maps`, and the source has `n` pixels along that axis. `columns` are the row's, and more,
    up to a multiple of `_STEP`.
    """
    slope, base = m[k, 0], m[k, 1] * row + m[k, 2]
    divisor, turn, last = m[2, 1] * row + m[2, 2], m[2, 0], _F(n - 1)
    a, b, c = m[3 + k, 0], m[3 + k, 1], m[3 + k, 2]
    least, most = (_F(-2), last + _F(2)) if padding == ZEROS else (_F(0), last)  # two pixels outside, all is zero
    if turn == 0.0:
        slope, base = slope / divisor, base / divisor
        for j in range(len(out)):
            out[j] = ((slope * columns[j] + base) + a) * b + c
    else:
        for j in range(len(out)):
            out[j] = ((slope * columns[j] + base) / (turn * columns[j] + divisor) + a) * b + c
    outside = _F(0)
    for j in range(len(out)):
        outside += abs(_between(out[j], least, most) - out[j])
    if outside == 0.0:  # not so with a NaN
        return
    if padding == REFLECTION:
        # Mirror at the first and the last pixel, or half a pixel outside; an image of one pixel mirrors everything.
        twice = max(_F(2) * (last - _F(2) * low), _ONE)
        for j in range(len(out)):
            away = abs(out[j] - low)
            away -= floor(away / twice) * twice
            out[j] = min(away, twice - away) + low
    for j in range(len(out)):
        out[j] = _between(out[j], least, most)


@njit(**OPTIONS)
def _padded(columns: Any, b: int, out: Any) -> None:
    "Write the columns of image `b` to `out`, and repeat the last one to its end."
    for j in range(len(out)):
        out[j] = columns[b, min(j, columns.shape[1] - 1)]


@njit(**OPTIONS)
def _light(values: Any, n: int, gain: Any, bias: Any) -> None:
    """Apply sigmoid(gain · logit(v) + bias) to the first `n` values in place, with an error of at most 3e-7.

    With u = 1/v - 1, logit(v) is -ln u, and the result is 1 / (1 + u^gain · e^-bias). Logarithm and power are taken to
    base 2: the exponent is read from the bits of a float, and the rest is computed by a series (Abramowitz and Stegun,
    4.1.27 and 4.2.1), which ends when further terms would be below the last bit.
    """
    shift = -bias * _LOG2E
    for j in range(n):
        v = _within(values[j], _LEAST, _MOST)
        u = _ONE / v - _ONE
        m = mantissa(u)
        t = (m - _ONE) / (m + _ONE)
        s = t * t
        raised_by = gain * (exponent(u) + t * (_L1 + s * (_L3 + s * (_L5 + s * (_L7 + s * _L9))))) + shift
        raised_by = _within(raised_by, -_FAR, _FAR)
        whole = floor(raised_by + _HALF)
        f = raised_by - whole
        raised = _ONE + f * (_E1 + f * (_E2 + f * (_E3 + f * (_E4 + f * (_E5 + f * _E6)))))
        values[j] = _ONE / (_ONE + raised * power(whole)) if v == v else v  # NaN stays NaN


@njit(**OPTIONS)
def _mix(a: Any, b: Any, c: Any, d: Any, shift: int, gx: Any, gy: Any, scale: Any) -> Any:
    "Mix one channel of two pixels and the two below; the words `b` and `d` of the right ones begin one byte early."
    p, q, r, s = byte(a, shift), byte(b, shift + 8), byte(c, shift), byte(d, shift + 8)
    top, bottom = p + gx * (q - p), r + gx * (s - r)
    return (top + gy * (bottom - top)) * scale


@njit(**OPTIONS)
def _mixed_rgb(address: int, where: Any, n: int, line: int, fx: Any, fy: Any, words: Any, scale: Any, out: Any) -> None:
    """Mix three channels of bytes from pairs of pixels into `out`, (3, at least n).

    Four bytes are read for the left pixel, of which the last is the right pixel's first, and four for the right pixel,
    of which the first is the left pixel's last. So no byte outside the pair is read.
    """
    for j in range(n):
        o = np.int64(where[j])
        words[0, j], words[1, j] = load(address, o), load(address, o + 2)
        words[2, j], words[3, j] = load(address, o + line), load(address, o + line + 2)
    for j in range(n):
        a, b, c, d = words[0, j], words[1, j], words[2, j], words[3, j]
        out[0, j] = _mix(a, b, c, d, 0, fx[j], fy[j], scale)
        out[1, j] = _mix(a, b, c, d, 8, fx[j], fy[j], scale)
        out[2, j] = _mix(a, b, c, d, 16, fx[j], fy[j], scale)


@njit(**OPTIONS)
def _mixed(source: Any, where: Any, n: int, step: int, line: int, fx: Any, fy: Any, scale: Any, out: Any) -> None:
    "Mix any number of channels, bytes or floats."
    for c in range(len(out)):
        for j in range(n):
            o = np.int64(where[j]) + c
            p, q, r, s = _F(source[o]), _F(source[o + step]), _F(source[o + line]), _F(source[o + line + step])
            top, bottom = p + fx[j] * (q - p), r + fx[j] * (s - r)
            out[c, j] = (top + fy[j] * (bottom - top)) * scale


@njit(**OPTIONS)
def _mixed_zeros(source: Any, h: int, w: int, x: Any, y: Any, n: int, scale: Any, out: Any) -> None:
    "Mix any number of channels, with zeros outside the image."
    for j in range(n):
        x0, y0 = floor(x[j]), floor(y[j])
        gx, gy = x[j] - x0, y[j] - y0
        xi, yi = int(x0), int(y0)
        for c in range(len(out)):
            value = _F(0)
            for dy in range(2):
                for dx in range(2):
                    if 0 <= xi + dx < w and 0 <= yi + dy < h:
                        weight = (gx if dx else _ONE - gx) * (gy if dy else _ONE - gy)
                        value += weight * _F(source[((yi + dy) * w + xi + dx) * len(out) + c])
            out[c, j] = value * scale


@njit(**OPTIONS)
def _corners(x: Any, y: Any, n: int, h: int, w: int, channels: int, where: Any, fx: Any, fy: Any) -> None:
    "Write the place of the upper left one of the four pixels around each point, and the weights of the others."
    left_most, top_most, line = _F(max(w - 2, 0)), _F(max(h - 2, 0)), w * channels
    for j in range(n):
        # The last pixel has no right neighbour: use the pair that ends with it, if there is one.
        x0, y0 = floor(x[j]), floor(y[j])
        x0, y0 = x0 if x0 < left_most else left_most, y0 if y0 < top_most else top_most
        fx[j], fy[j] = x[j] - x0, y[j] - y0
        where[j] = offset(x0, y0, channels, line)


@njit(**OPTIONS)
def _fetched(address: int, line: int, pixel: int, h: int, x: Any, y: Any, n: int, width: int, known: int) -> int:
    """Ask for the rows of the source that come after those around the first `n` points; return the first other row.

    Rows before `known` have been asked for. The points are in rows of `width`, and their corners tell which columns
    are needed. A source that is read from below or from the side was read in whole, or is not read ahead.
    """
    a, b, c = width - 1, n - width, n - 1
    left, right = min(min(x[0], x[a]), min(x[b], x[c])), max(max(x[0], x[a]), max(x[b], x[c]))
    above, below = min(min(y[0], y[a]), min(y[b], y[c])), max(max(y[0], y[a]), max(y[b], y[c]))
    first, goal = max(known, int(above)), min(h, int(below) + _AHEAD)
    for row in range(first, goal):
        begin = address + row * line
        for place in range(begin + int(left) * pixel, begin + (int(right) + 2) * pixel, _CACHE_LINE):
            fetch_far(place)
    return max(known, goal)


@njit(**OPTIONS)
def _write(values: Any, n: int, past: bool, out: Any, b: int, begin: int) -> None:
    "Write the first `n` values of each channel to image `b`, from pixel `begin` of its planes on."
    plane = out.shape[2] * out.shape[3]
    for c in range(len(values)):
        goal = address_of(out) + 4 * ((b * len(values) + c) * plane + begin)
        source = address_of(values) + 4 * c * values.shape[1]
        made = carray(at(goal), (n,), np.float32)
        before, lines = n, 0
        if past:
            before = min(n, (-goal & (_CACHE_LINE - 1)) >> 2)  # up to where a line of the cache begins
            lines = (n - before) // LINE
        for j in range(before):
            made[j] = values[c, j]
        for k in range(lines):
            place = 4 * (before + k * LINE)
            stream(goal + place, source + place)
        for j in range(before + lines * LINE, n):
            made[j] = values[c, j]


# -- kernels ------------------------------------------------------------------------------------------------------


@kernel
def copied_rgb(which: Any, factor: Any, sources: Any, first: Any, tops: Any, norm: Any, past: bool, out: Any) -> None:
    """Copy images of three channels of bytes whose pixels are adjacent pixels of the source.

    `first`, (B, 2) int64, is the source column of the first column, and what is added for each further one: 1 or -1.
    `tops`, (B, height) int64, are the source rows.
    """
    height, n = out.shape[2], out.shape[3]
    values = np.empty((3, n), np.float32)
    a0, a1, a2 = factor * norm[1, 0], factor * norm[1, 1], factor * norm[1, 2]
    b0, b1, b2 = norm[0, 0] * norm[1, 0], norm[0, 1] * norm[1, 1], norm[0, 2] * norm[1, 2]
    for b in which:
        address, width, left, step = sources[b, 0], sources[b, 2], first[b, 0], first[b, 1]
        begin = address + 3 * (left if step == 1 else left - n + 1)
        for i in range(height):
            ahead = begin + 3 * width * tops[b, min(i + _AHEAD, height - 1)]
            for place in range(ahead, ahead + 3 * n, _CACHE_LINE):
                fetch(place)
            line = carray(at(begin + 3 * width * tops[b, i]), (3 * n,), np.uint8)
            if step == 1:
                for j in range(n):
                    values[0, j] = _F(line[3 * j]) * a0 - b0
                    values[1, j] = _F(line[3 * j + 1]) * a1 - b1
                    values[2, j] = _F(line[3 * j + 2]) * a2 - b2
            else:
                for j in range(n):
                    k = 3 * (n - 1 - j)
                    values[0, j] = _F(line[k]) * a0 - b0
                    values[1, j] = _F(line[k + 1]) * a1 - b1
                    values[2, j] = _F(line[k + 2]) * a2 - b2
            _write(values, n, past, out, b, i * n)
    if past:
        settle()


@njit(**OPTIONS)
def _finished(values: Any, n: int, b: int, lights: Any, norm: Any, past: bool, out: Any, begin: int) -> None:
    "Light, normalise and write the first `n` values of each channel, pixels of image `b` from `begin` on."
    for c in range(len(values)):
        if lights is not None and lights[b, 0] != 0.0:
            _light(values[c], n, lights[b, 1], lights[b, 2])
        mean, over_std = norm[0, c], norm[1, c]
        for j in range(n):
            values[c, j] = (values[c, j] - mean) * over_std
    _write(values, n, past, out, b, begin)


@kernel
def mixed_rgb(
    which: Any,
    factor: Any,
    sources: Any,
    maps: Any,
    columns: Any,
    rows: Any,
    low: Any,
    padding: int,
    lights: Any,
    norm: Any,
    past: bool,
    out: Any,
) -> None:
    "Mix each value of three channels from the four pixels of bytes around its point, without zeros outside the image."
    height, width = out.shape[2], out.shape[3]
    tile = max(1, _TILE // width)  # rows at a time
    across = np.empty((width + _STEP - 1) // _STEP * _STEP, np.float32)
    points = np.empty((2, tile * width + _STEP), np.float32)
    x, y = points[0], points[1]
    fx, fy = np.empty(tile * width, np.float32), np.empty(tile * width, np.float32)
    where, words = np.empty(tile * width, np.int32), np.empty((4, tile * width), np.uint32)
    values = np.empty((3, tile * width), np.float32)
    for b in which:
        address, h, w, m = sources[b, 0], sources[b, 1], sources[b, 2], maps[b]
        straight = m[0, 1] == 0.0 and m[2, 0] == 0.0 and m[2, 1] == 0.0
        line, known = (w * 3 if h > 1 else 0), np.int64(0)
        _padded(columns, b, across)
        for top in range(0, height, tile):
            used = min(tile, height - top)
            for k in range(1 if straight and top > 0 else 0, 2):
                for i in range(used):
                    made = points[k, i * width : i * width + len(across)]
                    _points(m, k, across, rows[b, top + i], sources[b, 2 - k], low, padding, made)
            n = used * width
            known = _fetched(address, w * 3, 3, h, x, y, n, width, known)
            _corners(x, y, n, h, w, 3, where, fx, fy)
            _mixed_rgb(address, where, n, line, fx, fy, words, factor, values)
            _finished(values, n, b, lights, norm, past, out, top * width)
    if past:
        settle()


@kernel
def mixed(
    source_type: Any,
    which: Any,
    factor: Any,
    sources: Any,
    maps: Any,
    columns: Any,
    rows: Any,
    low: Any,
    padding: int,
    lights: Any,
    norm: Any,
    past: bool,
    out: Any,
) -> None:
    "Mix each value of any number of channels from the four pixels around its point."
    channels, height, width = out.shape[1], out.shape[2], out.shape[3]
    across = np.empty((width + _STEP - 1) // _STEP * _STEP, np.float32)
    points = np.empty((2, len(across)), np.float32)
    x, y = points[0], points[1]
    fx, fy = np.empty(width, np.float32), np.empty(width, np.float32)
    where, values = np.empty(width, np.int32), np.empty((channels, width), np.float32)
    for b in which:
        h, w, m = sources[b, 1], sources[b, 2], maps[b]
        source = carray(at(sources[b, 0]), (h * w * channels,), source_type)
        step, line = (channels if w > 1 else 0), (w * channels if h > 1 else 0)
        _padded(columns, b, across)
        for i in range(height):
            for k in range(2):
                _points(m, k, across, rows[b, i], sources[b, 2 - k], low, padding, points[k])
            if padding == ZEROS:
                _mixed_zeros(source, h, w, x, y, width, factor, values)
            else:
                _corners(x, y, width, h, w, channels, where, fx, fy)
                _mixed(source, where, width, step, line, fx, fy, factor, values)
            _finished(values, width, b, lights, norm, past, out, i * width)
    if past:
        settle()


@kernel
def nearest(
    source_type: Any,
    which: Any,
    factor: Any,
    sources: Any,
    maps: Any,
    columns: Any,
    rows: Any,
    low: Any,
    padding: int,
    lights: Any,
    norm: Any,
    out: Any,
) -> None:
    "Take each output value from the pixel nearest to its point."
    channels, height, width = out.shape[1], out.shape[2], out.shape[3]
    across = np.empty((width + _STEP - 1) // _STEP * _STEP, np.float32)
    points, values = np.empty((2, len(across)), np.float32), np.empty((channels, width), np.float32)
    x, y = points[0], points[1]
    for b in which:
        h, w, m = sources[b, 1], sources[b, 2], maps[b]
        source = carray(at(sources[b, 0]), (h * w * channels,), source_type)
        _padded(columns, b, across)
        for i in range(height):
            for k in range(2):
                _points(m, k, across, rows[b, i], sources[b, 2 - k], low, padding, points[k])
            for j in range(width):
                xi, yi = int(np.rint(x[j])), int(np.rint(y[j]))  # a tie goes to the even one, as in torch
                inside = 0 <= xi < w and 0 <= yi < h
                for c in range(channels):
                    values[c, j] = _F(source[(yi * w + xi) * channels + c]) * factor if inside else _F(0)
            for c in range(channels):
                if lights is not None and lights[b, 0] != 0.0:
                    _light(values[c], width, lights[b, 1], lights[b, 2])
                for j in range(width):
                    out[b, c, i, j] = (values[c, j] - norm[0, c]) * norm[1, c]


@kernel
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
