"""Pillow's 8-bit resampling to the bit, and copies of pixels, compiled by numba. Importing this module needs numba.

The formula is that of `ImagingResampleInner`, `_ImagingResampleHorizontal_8bpc` and `_ImagingResampleVertical_8bpc` in
Pillow's `src/libImaging/Resample.c`: two passes, each a sum of bytes times weights of 22 bits behind the point, in
integers, rounded to bytes. Integers add up to the same sum in any order, so sixteen values are mixed at a time:
neighbours in a row for the vertical pass; for the horizontal one, those of sixteen rows, whose bytes are transposed
before and after it. Rows are made when they are needed, while what they are made of is in a cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit

from ..batch.bits import address_of, at
from ..batch.compiling import exact_kernel
from .bits import LANES, PRECISION, columns_of, put, rows_of, weigh_1, weigh_2, weigh_3, weigh_4
from .jobs import Field, Kind
from .weight_kernels import OPTIONS, fill_weights, most_weights

_PAINT, _COPY, _RESIZE = (int(one) for one in Kind)
_KIND, _SOURCE, _LINE, _HEIGHT, _WIDTH, _NEW_HEIGHT, _NEW_WIDTH, _FILTER, _TOP, _LEFT = (
    int(f) for f in list(Field)[:10]
)
_ROWS, _COLUMNS, _ROW_INDEX, _COLUMN_INDEX, _TO, _TO_ROW, _TO_COLUMN, _TO_CHANNEL, _LAST, _FILL, _CHANNELS = (
    int(field) for field in list(Field)[10:]
)
# Rows of scratch are whole vectors of 64 bytes, and have room for one more.
_WIDE = 64


# -- writing ------------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _put_plain(row: Any, channels: int, columns: int, to: int, column: int, channel: int) -> None:
    "Write a row of bytes with any distance between them."
    for j in range(columns):
        for c in range(channels):
            put(to + j * column + c * channel, row[j * channels + c])


@njit(**OPTIONS)
def _emit_bytes(address: int, channels: int, columns: int, to: int, column: int, channel: int) -> None:
    "Write a row of pixels as bytes, `column` and `channel` bytes apart."
    n = columns * channels
    row = carray(at(address), (n,), np.uint8)
    if column == channels and (channel == 1 or channels == 1):
        made = carray(at(to), (n,), np.uint8)
        for j in range(n):
            made[j] = row[j]
    elif column == 1 and channels == 3:
        red, green = carray(at(to), (columns,), np.uint8), carray(at(to + channel), (columns,), np.uint8)
        blue = carray(at(to + 2 * channel), (columns,), np.uint8)
        for j in range(columns):
            red[j], green[j], blue[j] = row[3 * j], row[3 * j + 1], row[3 * j + 2]
    elif column == -1 and channels == 3:
        first, last = to - columns + 1, 3 * columns - 3
        red, green = carray(at(first), (columns,), np.uint8), carray(at(first + channel), (columns,), np.uint8)
        blue = carray(at(first + 2 * channel), (columns,), np.uint8)
        for j in range(columns):
            red[j], green[j], blue[j] = row[last - 3 * j], row[last - 3 * j + 1], row[last - 3 * j + 2]
    else:
        _put_plain(row, channels, columns, to, column, channel)


@njit(**OPTIONS)
def _emit_values(address: int, channels: int, columns: int, to: int, column: int, channel: int, values: Any) -> None:
    "Write for a row of bytes what `values` has for each, 256 per channel."
    item = values.itemsize
    row = carray(at(address), (columns * channels,), np.uint8)
    if column == item or column == -item:
        first = to if column > 0 else to - (columns - 1) * item
        for c in range(channels):
            made = carray(at(first + c * channel), (columns,), values.dtype)
            some = values[256 * c : 256 * c + 256]
            if column > 0:
                for j in range(columns):
                    made[j] = some[row[j * channels + c]]
            else:
                for j in range(columns):
                    made[j] = some[row[(columns - 1 - j) * channels + c]]
    else:
        for j in range(columns):
            for c in range(channels):
                put(to + j * column + c * channel, values[256 * c + np.int64(row[j * channels + c])])


@njit(**OPTIONS)
def _emit(job: Any, rows: int, pitch: int, to: int, values: Any) -> None:
    "Write the rows of a job, whose bytes lie from `rows` on, `pitch` bytes apart."
    as_values = job[_LAST] and len(values)
    for i in range(job[_ROWS]):
        address, goal = rows + i * pitch, to + i * job[_TO_ROW]
        if as_values:
            _emit_values(address, job[_CHANNELS], job[_COLUMNS], goal, job[_TO_COLUMN], job[_TO_CHANNEL], values)
        else:
            _emit_bytes(address, job[_CHANNELS], job[_COLUMNS], goal, job[_TO_COLUMN], job[_TO_CHANNEL])


# -- jobs that copy -----------------------------------------------------------------------------------------------
# What makes rows of bytes returns their address and how far apart they lie.


@njit(**OPTIONS)
def _filled(job: Any, scratch: int) -> Any:
    "Return a row of one value, for all rows."
    channels, fill = job[_CHANNELS], job[_FILL]
    row = carray(at(scratch), (job[_COLUMNS] * channels,), np.uint8)
    for j in range(job[_COLUMNS]):
        for c in range(channels):
            row[j * channels + c] = np.uint8((fill >> (8 * c)) & 255)
    return scratch, 0


@njit(**OPTIONS)
def _chosen(job: Any, source: int, scratch: int) -> Any:
    "Return the rows and columns of an index, or those that follow one another."
    rows, columns, channels, line = job[_ROWS], job[_COLUMNS], job[_CHANNELS], job[_LINE]
    if not job[_ROW_INDEX] and not job[_COLUMN_INDEX]:
        return source, line
    down = carray(at(job[_ROW_INDEX]), (rows,), np.int64)
    right = carray(at(job[_COLUMN_INDEX]), (columns,), np.int64)
    pitch = columns * channels
    for i in range(rows):
        row = carray(at(source + (down[i] if job[_ROW_INDEX] else i) * line), (1,), np.uint8)
        made = carray(at(scratch + i * pitch), (pitch,), np.uint8)
        if not job[_COLUMN_INDEX]:
            for j in range(pitch):
                made[j] = row[j]
        elif channels == 1:
            for j in range(columns):
                made[j] = row[np.uint64(right[j])]
        else:
            for j in range(columns):
                for c in range(channels):
                    made[j * channels + c] = row[np.uint64(right[j] * channels + c)]
    return scratch, pitch


# -- resampling ---------------------------------------------------------------------------------------------------


@njit(**OPTIONS)
def _weigh_row(to: int, source: int, line: int, nbytes: int, count: int, weights: int) -> None:
    "Mix `count` rows of `nbytes` bytes, which lie `line` bytes apart. Reads and writes nothing beyond them."
    done = 0
    while done + 64 <= nbytes:
        weigh_4(to + done, source + done, line, count, weights)
        done += 64
    while done + LANES <= nbytes:
        weigh_1(to + done, source + done, line, count, weights)
        done += LANES
    if done < nbytes and nbytes >= LANES:
        weigh_1(to + nbytes - LANES, source + nbytes - LANES, line, count, weights)
    elif done < nbytes:
        made, some = carray(at(to), (nbytes,), np.uint8), carray(at(weights), (count,), np.int32)
        for j in range(nbytes):
            total = np.int64(1 << (PRECISION - 1))
            for k in range(count):
                total += np.int64(carray(at(source + j + k * line), (1,), np.uint8)[0]) * some[k]
            whole = total >> PRECISION
            made[j] = np.uint8(0 if whole < 0 else whole if whole < 255 else 255)


@njit(**OPTIONS)
def _columns(to: int, lines: Any, nbytes: int, done: int) -> int:
    "Transpose the next bytes of sixteen rows after the first `done`; return how many are done then."
    if nbytes >= LANES:
        first = min(done, nbytes - LANES)
        columns_of(to + first * LANES, address_of(lines), first)
        return first + LANES
    made = carray(at(to), (nbytes * LANES,), np.uint8)
    for k in range(LANES):
        row = carray(at(lines[k]), (nbytes,), np.uint8)
        for j in range(nbytes):
            made[j * LANES + k] = row[j]
    return nbytes


@njit(**OPTIONS)
def _across(to: int, pitch: int, lines: Any, channels: int, bounds: Any, weights: Any, scratch: int) -> None:
    """Make the horizontal pass of sixteen rows; write them `pitch` bytes apart from `to` on.

    `lines` are the addresses of their first pixel, which is the first of `bounds`. Up to fifteen bytes more are written
    per row.
    """
    width, base = len(bounds), bounds[0, 0]
    nbytes = (bounds[width - 1, 0] + bounds[width - 1, 1] - base) * channels
    pixel = LANES * channels
    made = scratch + (nbytes + LANES) * LANES
    done = sent = 0
    place, most = address_of(weights), weights.shape[1] * 4
    for x in range(width):
        first, count = bounds[x, 0] - base, bounds[x, 1]
        while done < (first + count) * channels:
            done = _columns(scratch, lines, nbytes, done)
        source, goal, some = scratch + first * pixel, made + x * pixel, place + x * most
        if channels == 3:
            weigh_3(goal, source, pixel, count, some)
        elif channels == 1:
            weigh_1(goal, source, pixel, count, some)
        elif channels == 4:
            weigh_4(goal, source, pixel, count, some)
        else:
            weigh_2(goal, source, pixel, count, some)
        while sent + LANES <= (x + 1) * channels:
            rows_of(to + sent, pitch, made + sent * LANES)
            sent += LANES
    if sent < width * channels:
        rows_of(to + sent, pitch, made + sent * LANES)


@njit(**OPTIONS)
def _lines(lines: Any, source: int, line: int, first: int, rows: int) -> None:
    "Set sixteen addresses of rows from `first` on; beyond the last of `rows` they stay there."
    for k in range(LANES):
        lines[k] = source + min(first + k, rows - 1) * line


@njit(**OPTIONS)
def _premultiplied(job: Any, source: int, to: int, line: int) -> None:
    "Copy a source whose last channel is alpha, and multiply the others by it: `MULDIV255` in Pillow's ImagingUtils.h."
    channels, width = job[_CHANNELS], job[_WIDTH]
    for i in range(job[_HEIGHT]):
        row = carray(at(source + i * job[_LINE]), (width * channels,), np.uint8)
        made = carray(at(to + i * line), (width * channels,), np.uint8)
        for j in range(0, width * channels, channels):
            alpha = np.uint32(row[j + channels - 1])
            for c in range(channels - 1):
                product = np.uint32(row[j + c]) * alpha + np.uint32(128)
                made[j + c] = np.uint8(((product >> np.uint32(8)) + product) >> np.uint32(8))
            made[j + channels - 1] = np.uint8(alpha)


@njit(**OPTIONS)
def _divide(address: int, channels: int, columns: int) -> None:
    "Divide a row of pixels by alpha, their last channel: `rgba2rgbA` in Pillow's Convert.c."
    row = carray(at(address), (columns * channels,), np.uint8)
    for j in range(0, columns * channels, channels):
        alpha = np.int64(row[j + channels - 1])
        if alpha != 255 and alpha != 0:
            for c in range(channels - 1):
                divided = 255 * np.int64(row[j + c]) // alpha
                row[j + c] = np.uint8(divided if divided < 255 else 255)


@njit(**OPTIONS)
def _rows_first(job: Any, source: int, line: int, x: Any, wx: Any, y: Any, wy: Any, scratch: int) -> Any:
    "Resize with the horizontal pass first, as rows of it are needed for the vertical one; or with that one alone."
    rows, channels, lines = job[_ROWS], job[_CHANNELS], np.empty(LANES, np.int64)
    width = job[_COLUMNS] * channels
    pitch = -(-width // _WIDE) * _WIDE + _WIDE
    vertical = job[_HEIGHT] != job[_NEW_HEIGHT]
    top = y[0, 0] if vertical else job[_TOP]
    needed = y[rows - 1, 0] + y[rows - 1, 1] - top if vertical else rows
    made, between = scratch, scratch + (rows * pitch if vertical else 0)
    free = between + (needed + LANES) * pitch
    first = source + top * line + x[0, 0] * channels
    done, place, most = 0, address_of(wy), wy.shape[1] * 4
    for i in range(rows):
        begin, count = (y[i, 0] - top, y[i, 1]) if vertical else (i, 1)
        while done < begin + count:
            _lines(lines, first, line, done, needed)
            _across(between + done * pitch, pitch, lines, channels, x, wx, free)
            done += LANES
        if vertical:
            for j in range(0, width, _WIDE):
                weigh_4(made + i * pitch + j, between + begin * pitch + j, pitch, count, place + i * most)
    return made, pitch


@njit(**OPTIONS)
def _columns_first(job: Any, source: int, line: int, x: Any, wx: Any, y: Any, wy: Any, scratch: int) -> Any:
    "Resize with the vertical pass first, sixteen rows at a time; or with that one alone."
    rows, channels, lines = job[_ROWS], job[_CHANNELS], np.empty(LANES, np.int64)
    horizontal = job[_WIDTH] != job[_NEW_WIDTH]
    last = len(x) - 1
    left = x[0, 0] if horizontal else job[_LEFT]
    nbytes = (x[last, 0] + x[last, 1] - left if horizontal else job[_COLUMNS]) * channels
    pitch = -(-nbytes // _WIDE) * _WIDE + _WIDE
    wide = -(-job[_COLUMNS] * channels // _WIDE) * _WIDE + _WIDE
    made = scratch + (LANES if horizontal else rows) * pitch
    free = made + (rows + LANES) * wide
    place, most = address_of(wy), wy.shape[1] * 4
    for i in range(rows):
        first = source + y[i, 0] * line + left * channels
        goal = scratch + (i % LANES if horizontal else i) * pitch
        _weigh_row(goal, first, line, nbytes, y[i, 1], place + i * most)
        if horizontal and (i % LANES == LANES - 1 or i == rows - 1):
            _lines(lines, scratch, pitch, 0, i % LANES + 1)
            _across(made + i // LANES * LANES * wide, wide, lines, channels, x, wx, free)
    return (made, wide) if horizontal else (scratch, pitch)


@njit(**OPTIONS)
def _rows_come_first(job: Any, newer: bool) -> bool:
    "Return whether the horizontal pass comes first: before Pillow 13 always; then unless the height shrinks far more."
    down, across = job[_HEIGHT] - job[_NEW_HEIGHT], job[_WIDTH] - job[_NEW_WIDTH]
    return not (newer and down > 0 and down > across * 2)


@njit(**OPTIONS)
def _scratch_of(job: Any) -> int:
    "Return how many bytes of scratch a job needs at most."
    made = job[_COLUMNS] * job[_CHANNELS] + 2 * _WIDE
    if job[_KIND] != _RESIZE:
        return job[_ROWS] * made
    row = (job[_WIDTH] + 1) * job[_CHANNELS] + 2 * _WIDE
    alpha = job[_HEIGHT] * row if job[_CHANNELS] % 2 == 0 else 0
    rows = job[_ROWS] + max(job[_HEIGHT], job[_ROWS]) + 3 * LANES
    return alpha + rows * made + LANES * (3 * row + 2 * made)


@njit(**OPTIONS)
def _resized(job: Any, source: int, newer: bool, x: Any, wx: Any, y: Any, wy: Any, scratch: int) -> Any:
    "Return a picture that is resized, or a window of it."
    line, channels, alpha = job[_LINE], job[_CHANNELS], job[_CHANNELS] % 2 == 0
    if alpha:
        line = job[_WIDTH] * channels
        _premultiplied(job, source, scratch, line)
        source, scratch = scratch, scratch + job[_HEIGHT] * line + _WIDE
    if job[_WIDTH] != job[_NEW_WIDTH] and (job[_HEIGHT] == job[_NEW_HEIGHT] or _rows_come_first(job, newer)):
        rows, pitch = _rows_first(job, source, line, x, wx, y, wy, scratch)
    else:
        rows, pitch = _columns_first(job, source, line, x, wx, y, wy, scratch)
    if alpha:
        for i in range(job[_ROWS]):
            _divide(rows + i * pitch, channels, job[_COLUMNS])
    return rows, pitch


@njit(**OPTIONS)
def _weights(kind: int, size: int, made: int, first: int, n: int) -> Any:
    "Return the bounds and the weights of `n` pixels from `first` on; see `fill_weights`."
    most = most_weights(kind, size, made)
    bounds, weights = np.empty((n, 2), np.int64), np.empty((n, most), np.int32)
    fill_weights(kind, size, made, first, bounds, weights, np.empty(most))
    return bounds, weights


@njit(**OPTIONS)
def _other(now: Any, job: Any, fields: Any) -> bool:
    "Return whether a job differs from what `now` holds in any of `fields`; set `now` to it."
    other = False
    for k in range(len(fields)):
        other |= now[k] != job[fields[k]]
        now[k] = job[fields[k]]
    return other


_ACROSS = np.array([_FILTER, _WIDTH, _NEW_WIDTH, _LEFT, _COLUMNS])
_DOWN = np.array([_FILTER, _HEIGHT, _NEW_HEIGHT, _TOP, _ROWS])


@exact_kernel
def work(jobs: Any, nbytes: int, newer: bool, values: Any) -> None:
    """Do jobs, one after the other.

    - `jobs`, (n, fields) int64: see `jobs.Field`
    - `nbytes`: how much memory they use to hand pictures on
    - `newer`: whether the passes of a resize are ordered as since Pillow 13
    - `values`: what to write for the bytes of the result, 256 per channel; empty to write the bytes
    """
    most = 0
    for k in range(len(jobs)):
        most = max(most, _scratch_of(jobs[k]))
    between, memory = np.empty(nbytes + _WIDE, np.uint8), np.empty(most + 2 * _WIDE, np.uint8)
    scratch = (address_of(memory) + _WIDE) // _WIDE * _WIDE
    x, wx = _weights(3, 2, 1, 0, 1)
    y, wy = _weights(3, 2, 1, 0, 1)
    across, down = np.zeros(5, np.int64), np.zeros(5, np.int64)
    for k in range(len(jobs)):
        job = jobs[k]
        source, to = job[_SOURCE], job[_TO]
        if source < 0:
            source = address_of(between) - 1 - source
        if to < 0:
            to = address_of(between) - 1 - to
        if job[_KIND] == _PAINT:
            rows, pitch = _filled(job, scratch)
        elif job[_KIND] == _COPY:
            rows, pitch = _chosen(job, source, scratch)
        else:
            # Weights of the job before are used again where they are the same.
            if _other(across, job, _ACROSS):
                x, wx = _weights(job[_FILTER], job[_WIDTH], job[_NEW_WIDTH], job[_LEFT], job[_COLUMNS])
            if _other(down, job, _DOWN):
                y, wy = _weights(job[_FILTER], job[_HEIGHT], job[_NEW_HEIGHT], job[_TOP], job[_ROWS])
            rows, pitch = _resized(job, source, newer, x, wx, y, wy, scratch)
        _emit(job, rows, pitch, to, values)
    between[0] = memory[0] = 0  # numba frees an array after its last use, and an address is none
