"""Turn the steps of a picture into jobs of the kernels.

A window, a turn and a resize by the nearest filter only choose pixels. Such steps are gathered in a `_View` and cost
nothing until a filter, or the end, needs their pixels: then one job writes them, in the order that they have by then.
What lies between two filters goes through memory that each thread has for itself.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from .axes import nearest, turned, window
from .steps import NEAREST, Crop, Resize, Step, Turn

# Rows or columns of a source, one after the other: the first, and 1 or -1; or their indices.
_Axis = Union[Tuple[int, int], np.ndarray]
# Where bytes lie: an address, or below 0 the place in a thread's own memory: -1 is its first byte, -2 the next.
Address = int


class Field(IntEnum):
    "Columns of the table of jobs."

    KIND = 0
    SOURCE = 1  # address of the first pixel
    LINE = 2  # bytes from row to row
    HEIGHT = 3  # of the source that is resized
    WIDTH = 4
    NEW_HEIGHT = 5  # the size that it is resized to
    NEW_WIDTH = 6
    FILTER = 7
    TOP = 8  # the first row and column that are wanted of it
    LEFT = 9
    ROWS = 10  # how many rows and columns are written
    COLUMNS = 11
    ROW_INDEX = 12  # address of the indices of rows and columns to copy; 0 if they follow one another
    COLUMN_INDEX = 13
    TO = 14  # address of the first pixel to write, and bytes from row to row, column to column, channel to channel
    TO_ROW = 15
    TO_COLUMN = 16
    TO_CHANNEL = 17
    LAST = 18  # whether what is written is the result
    FILL = 19  # the values of up to four channels, eight bits each
    CHANNELS = 20


FIELDS = len(Field)


class Kind(IntEnum):
    "Kinds of jobs."

    PAINT = 0
    COPY = 1
    RESIZE = 2


class Target(NamedTuple):
    "Memory to write a picture to: its address, and bytes from row to row, column to column, channel to channel."

    address: Address
    row: int
    column: int
    channel: int
    last: bool


class Jobs(NamedTuple):
    "Hold the jobs of a picture, how many bytes of a thread's own memory they use, and what must be kept for them."

    rows: List[List[int]]
    nbytes: int
    kept: List[np.ndarray]


class _Rect(NamedTuple):
    "Hold a rectangle of a picture."

    top: int
    left: int
    height: int
    width: int


class _Source(NamedTuple):
    "Hold pixels: where they lie and their size; with a `resize`, those that it makes of them."

    address: Address
    line: int
    height: int
    width: int
    resize: Optional[Resize]

    @property
    def size(self) -> Tuple[int, int]:
        "Height and width, after the resize."
        return (self.resize.height, self.resize.width) if self.resize is not None else (self.height, self.width)


class _View(NamedTuple):
    """Tell where the pixels of a picture of a `size` come from.

    Those of `inside` are pixels of the source: its rows are `down`, its columns `right`, or the other way round where
    they are `swapped`. All others are `fill`.
    """

    size: Tuple[int, int]
    inside: _Rect
    down: _Axis
    right: _Axis
    swapped: bool
    fill: Tuple[int, ...]

    @property
    def whole(self) -> bool:
        "True if nothing is filled."
        return self.inside[2:] == self.size

    @property
    def straight(self) -> bool:
        "True if it is a window of the source, perhaps with the last row first."
        down, right = self.down, self.right
        in_order = isinstance(down, tuple) and isinstance(right, tuple) and right[1] == 1
        return in_order and self.whole and not self.swapped


def _all_of(size: Tuple[int, int]) -> _View:
    return _View(size, _Rect(0, 0, *size), (0, 1), (0, 1), False, (0,))


def _chosen(axis: _Axis, indices: np.ndarray) -> np.ndarray:
    "Return the rows or columns at `indices` of an axis."
    return axis[indices] if isinstance(axis, np.ndarray) else axis[0] + axis[1] * indices


def _part(axis: _Axis, first: int, count: int) -> _Axis:
    return axis[first : first + count] if isinstance(axis, np.ndarray) else (axis[0] + axis[1] * first, axis[1])


def _reversed(axis: _Axis, count: int) -> _Axis:
    return axis[::-1] if isinstance(axis, np.ndarray) else (axis[0] + axis[1] * (count - 1), -axis[1])


def _turned(view: _View, step: Turn) -> _View:
    swapped, down, right = turned(step.code)
    (height, width), (top, left, high, wide), rows, columns = view.size, view.inside, view.down, view.right
    if swapped:
        height, width, top, left, high, wide, rows, columns = width, height, left, top, wide, high, columns, rows
    if down < 0:
        rows, top = _reversed(rows, high), height - top - high
    if right < 0:
        columns, left = _reversed(columns, wide), width - left - wide
    return _View((height, width), _Rect(top, left, high, wide), rows, columns, view.swapped != swapped, view.fill)


def _cropped(view: _View, step: Crop) -> Optional[_View]:
    "Return the view after a crop; None where pixels have to be written first."
    (height, width), size = view.size, (step.height, step.width)
    bottom, end = step.top + step.height, step.left + step.width
    beyond = step.top < 0 or step.left < 0 or bottom > height or end > width
    if beyond and not view.whole and (step.mode != "constant" or step.fill != view.fill):
        return None
    if beyond and step.mode != "constant":
        down = _chosen(view.down, window(height, step.top, step.height, step.mode))
        right = _chosen(view.right, window(width, step.left, step.width, step.mode))
        return _View(size, _Rect(0, 0, *size), down, right, view.swapped, view.fill)
    was = view.inside
    top, left = max(step.top, was.top), max(step.left, was.left)
    high = max(0, min(bottom, was.top + was.height) - top)
    wide = max(0, min(end, was.left + was.width) - left)
    inside = _Rect(top - step.top, left - step.left, high, wide) if high and wide else _Rect(0, 0, 0, 0)
    rows, columns = _part(view.down, top - was.top, high), _part(view.right, left - was.left, wide)
    return _View(size, inside, rows, columns, view.swapped, step.fill if beyond else view.fill)


def _by_nearest(view: _View, step: Resize) -> Optional[_View]:
    "Return the view after a resize by the nearest filter; None where pixels have to be written first."
    if not view.whole:
        return None
    size = step.height, step.width
    down = _chosen(view.down, nearest(view.size[0], step.height))
    right = _chosen(view.right, nearest(view.size[1], step.width))
    return _View(size, _Rect(0, 0, *size), down, right, view.swapped, view.fill)


class Planner:
    "Make the jobs of one picture, whose pixels lie at `address`, with `line` bytes from row to row."

    def __init__(self, address: Address, line: int, size: Tuple[int, int], channels: int) -> None:
        self._channels = channels
        self._jobs = Jobs([], 0, [])
        self._source = _Source(address, line, *size, None)
        self._view = _all_of(size)

    def plan(self, steps: Sequence[Step], target: Target) -> Jobs:
        "Return the jobs that write the picture after `steps` to `target`."
        for step in steps:
            if isinstance(step, Turn):
                self._view = _turned(self._view, step)
            elif isinstance(step, Crop):
                self._view = _cropped(self._view, step) or _cropped(self._written(), step)  # type: ignore[assignment]
            elif (step.height, step.width) != self._view.size:
                if step.filter == NEAREST:
                    found = _by_nearest(self._view, step) or _by_nearest(self._written(), step)
                    self._view = found  # type: ignore[assignment]
                else:
                    self._resize(step)
        self._write(target)
        return self._jobs

    def _resize(self, step: Resize) -> None:
        "Put a resize by a filter on top of the source, of a window of which it may be."
        if self._source.resize is not None or not self._view.straight:
            self._written()
        source, view = self._source, self._view
        down, right = view.down, view.right
        assert isinstance(down, tuple) and isinstance(right, tuple)
        address = _moved(source.address, down[0] * source.line + right[0] * self._channels)
        self._source = _Source(address, down[1] * source.line, *view.size, step)
        self._view = _all_of((step.height, step.width))

    def _written(self) -> _View:
        "Write the picture as it is now to the thread's own memory, and go on from there."
        height, width = self._view.size
        target = self._lent(height, width)
        self._write(target)
        self._source = _Source(target.address, target.row, height, width, None)
        self._view = _all_of((height, width))
        return self._view

    def _lent(self, height: int, width: int) -> Target:
        "Return a part of the thread's own memory, for a picture."
        line, first = width * self._channels, self._jobs.nbytes
        self._jobs = self._jobs._replace(nbytes=first + height * line)
        return Target(-1 - first, line, self._channels, 1, False)

    def _write(self, target: Target) -> None:
        "Add the jobs that write the picture as it is now."
        view, inside = self._view, self._view.inside
        if not view.whole:
            self._paint(target)
        if not inside.height:
            return
        target = _at(target, inside.top, inside.left)
        down, right, rows, columns = view.down, view.right, inside.height, inside.width
        if view.swapped:
            down, right, rows, columns = right, down, columns, rows
            target = target._replace(row=target.column, column=target.row)
        if self._source.resize is None:
            self._copy(self._source, down, right, rows, columns, target)
        elif isinstance(down, tuple) and isinstance(right, tuple):
            self._resized(down, right, rows, columns, target)
        else:
            height, width = self._source.size
            between = self._lent(height, width)
            self._resized((0, 1), (0, 1), height, width, between)
            self._copy(_Source(between.address, between.row, height, width, None), down, right, rows, columns, target)

    def _paint(self, target: Target) -> None:
        "Fill what lies around the pixels of the source."
        (height, width), (top, left, high, wide) = self._view.size, self._view.inside
        fill = self._view.fill * self._channels if len(self._view.fill) == 1 else self._view.fill
        packed = sum((value & 255) << 8 * k for k, value in enumerate(fill))
        around = (
            _Rect(0, 0, top, width),
            _Rect(top + high, 0, height - top - high, width),
            _Rect(top, 0, high, left),
            _Rect(top, left + wide, high, width - left - wide),
        )
        for rect in around:
            if rect.height and rect.width:
                self._add(Kind.PAINT, _at(target, rect.top, rect.left), rect.height, rect.width, {Field.FILL: packed})

    def _copy(self, source: _Source, down: _Axis, right: _Axis, rows: int, columns: int, target: Target) -> None:
        line, pixel, address = source.line, self._channels, source.address
        more = {Field.ROW_INDEX: 0, Field.COLUMN_INDEX: 0}
        if isinstance(down, tuple):
            address, line = _moved(address, down[0] * line), line * down[1]
        else:
            more[Field.ROW_INDEX] = self._kept(down)
        if isinstance(right, tuple):
            first = right[0]
            if right[1] < 0:  # from its other end on
                first -= columns - 1
                target = _at(target, 0, columns - 1)._replace(column=-target.column)
            address = _moved(address, first * pixel)
        else:
            more[Field.COLUMN_INDEX] = self._kept(right)
        self._add(Kind.COPY, target, rows, columns, {Field.SOURCE: address, Field.LINE: line, **more})

    def _resized(self, down: Tuple[int, int], right: Tuple[int, int], rows: int, columns: int, target: Target) -> None:
        "Add a resize of which a window is wanted: its rows and columns in their order, or in the reverse."
        source, (top, left) = self._source, (down[0], right[0])
        assert source.resize is not None
        if down[1] < 0:
            top -= rows - 1
            target = _at(target, rows - 1, 0)._replace(row=-target.row)
        if right[1] < 0:
            left -= columns - 1
            target = _at(target, 0, columns - 1)._replace(column=-target.column)
        new = source.resize
        fields = {Field.SOURCE: source.address, Field.LINE: source.line, Field.HEIGHT: source.height}
        fields.update({Field.WIDTH: source.width, Field.NEW_HEIGHT: new.height, Field.NEW_WIDTH: new.width})
        fields.update({Field.FILTER: new.filter, Field.TOP: top, Field.LEFT: left})
        self._add(Kind.RESIZE, target, rows, columns, fields)

    def _kept(self, indices: np.ndarray) -> int:
        "Return the address of an array of indices, which is kept until the jobs are done."
        array = np.ascontiguousarray(indices, np.int64)
        self._jobs.kept.append(array)
        return int(array.__array_interface__["data"][0])

    def _add(self, kind: Kind, target: Target, rows: int, columns: int, fields: Dict[Field, int]) -> None:
        row = [0] * FIELDS
        row[Field.KIND], row[Field.ROWS], row[Field.COLUMNS], row[Field.CHANNELS] = kind, rows, columns, self._channels
        row[Field.TO : Field.LAST + 1] = target
        for field, value in fields.items():
            row[field] = value
        self._jobs.rows.append(row)


def _moved(address: Address, offset: int) -> Address:
    "Return the address that lies `offset` bytes further."
    return address + offset if address >= 0 else address - offset


def _at(target: Target, row: int, column: int) -> Target:
    "Return the part of a target that begins at a row and a column."
    return target._replace(address=_moved(target.address, row * target.row + column * target.column))
