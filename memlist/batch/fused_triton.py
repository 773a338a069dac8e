"""The formulas of `render` as functions that Triton compiles for a GPU: all of them at once, per output pixel.

The operations on floats are those of `render`, in its order, so a value differs from one of `render` by a last bit at
most. A GPU must therefore compile this with `enable_fp_fusion=False`: no product is fused with a sum. Division rounds
as the standard for floats says, and `EXACT` takes logarithm, power and remainder from the library that torch takes
them from. Triton's interpreter, which runs the same functions without a GPU, lacks it.

Importing this module needs Triton. It reads the annotations below, so they must not become strings.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice

from .table import PLACES

#: The modes of padding, by the number that stands for each.
REFLECTION, BORDER, ZEROS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
#: Where the numbers of an image are, and how many there are, see `Table.sent`; the matrix comes first.
SCALE, SIZE, FIRST, LAST = (tl.constexpr(PLACES[name]) for name in ("scale", "size", "first", "last"))
GAIN, BIAS, LIT, DIVISOR = (tl.constexpr(PLACES[name]) for name in ("gain", "bias", "lit", "divisor"))
NUMBERS = tl.constexpr(PLACES["end"])
#: Values are clamped to this distance from 0 and 1 before lighting, as in `render`; both are floats of 32 bits.
LEAST, MOST = tl.constexpr(1e-7), tl.constexpr(1 - 1e-7)


@triton.jit
def _padded(at, n, PADDING: tl.constexpr, ALIGNED: tl.constexpr, EXACT: tl.constexpr):
    "Bring coordinates into an image of `n` pixels; with padding by zeros, to two pixels outside of it at most."
    first, last = 0.0, n - 1.0
    if PADDING == REFLECTION:
        if ALIGNED:
            low, span = 0.0, n - 1.0
        else:
            low, span = -0.5, n
        twice = 2.0 * span
        twice = tl.where(twice < 1.0, 1.0, twice)
        at = tl.abs(at - low)
        at = libdevice.fmod(at, twice) if EXACT else at % twice
        at = tl.where(twice - at < at, twice - at, at) + low
    elif PADDING == ZEROS:
        first, last = -2.0, n + 1.0
    at = tl.where(at != at, first, at)
    at = tl.where(at < first, first, at)
    return tl.where(at > last, last, at)


@triton.jit
def _points(numbers, column, row, PADDING: tl.constexpr, ALIGNED: tl.constexpr, EXACT: tl.constexpr):
    "Return the unrounded source columns and rows, padded."
    matrix, scale = numbers, numbers + SCALE
    x = tl.load(matrix) * column + (tl.load(matrix + 1) * row + tl.load(matrix + 2))
    y = tl.load(matrix + 3) * column + (tl.load(matrix + 4) * row + tl.load(matrix + 5))
    divisor = tl.load(matrix + 6) * column + (tl.load(matrix + 7) * row + tl.load(matrix + 8))
    x, y = tl.math.div_rn(x, divisor), tl.math.div_rn(y, divisor)
    x = (x + tl.load(scale)) * tl.load(scale + 1) + tl.load(scale + 2)
    y = (y + tl.load(scale + 3)) * tl.load(scale + 4) + tl.load(scale + 5)
    x = _padded(x, tl.load(numbers + SIZE), PADDING, ALIGNED, EXACT)
    return x, _padded(y, tl.load(numbers + SIZE + 1), PADDING, ALIGNED, EXACT)


@triton.jit
def _rounded(at):
    "Round to the nearest whole number, a tie to the even one."
    whole = tl.floor(at)
    rest = at - whole
    odd = whole - 2.0 * tl.floor(whole * 0.5)
    up = (rest > 0.5) | ((rest == 0.5) & (odd == 1.0))
    return tl.where(up, whole + 1.0, whole)


@triton.jit
def _tap(x, y, weight, numbers, start, line, PADDING: tl.constexpr):
    "Return the numbers of the pixels (x, y), or of the nearest ones that are there, and their weights."
    if PADDING == ZEROS:
        width, height = tl.load(numbers + SIZE), tl.load(numbers + SIZE + 1)
        weight = weight * ((x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)).to(tl.float32)
    left, top = tl.load(numbers + FIRST), tl.load(numbers + FIRST + 1)
    right, bottom = tl.load(numbers + LAST), tl.load(numbers + LAST + 1)
    x, y = tl.where(x > right, right, x), tl.where(y > bottom, bottom, y)
    x, y = tl.where(x < left, left, x), tl.where(y < top, top, y)
    return y.to(tl.int64) * line + x.to(tl.int64) + start, weight


@triton.jit
def _value(pixels, place, there):
    "Return pixels as floats."
    return tl.load(pixels + place, mask=there, other=0).to(tl.float32)


@triton.jit
def _hole(hole_rows, hole_columns, i, j, used, holes, height, width):
    "Return a number other than zero for the pixels (i, j) that lie in a hole."
    hole = i * 0
    for n in range(holes):
        across = tl.load(hole_rows + n * height + i, mask=used, other=0)
        down = tl.load(hole_columns + n * width + j, mask=used, other=0)
        hole = hole | (across.to(tl.int32) * down.to(tl.int32))
    return hole


@triton.jit
def _lit(value, gain, bias, EXACT: tl.constexpr):
    "Return sigmoid(gain · logit(value) + bias); NaN stays NaN."
    value = tl.where(value < LEAST, LEAST, value)
    value = tl.where(value > MOST, MOST, value)
    odds = tl.math.div_rn(1.0, value) - 1.0
    logit = 0.0 - (libdevice.log(odds) if EXACT else tl.log(odds))
    power = 0.0 - (logit * gain + bias)
    return tl.math.div_rn(1.0, 1.0 + (libdevice.exp(power) if EXACT else tl.exp(power)))


@triton.jit
def _taps(x, y, numbers, start, line, NEAREST: tl.constexpr, PADDING: tl.constexpr):
    "Return the pixels that the points are mixed from, and their weights; if `NEAREST`, only the first one counts."
    if NEAREST:
        x, y = _rounded(x), _rounded(y)
    left, top = tl.floor(x), tl.floor(y)
    across, down = x - left, y - top
    a, of_a = _tap(left, top, (1.0 - across) * (1.0 - down), numbers, start, line, PADDING)
    b, of_b = _tap(left + 1.0, top, across * (1.0 - down), numbers, start, line, PADDING)
    c, of_c = _tap(left, top + 1.0, (1.0 - across) * down, numbers, start, line, PADDING)
    d, of_d = _tap(left + 1.0, top + 1.0, across * down, numbers, start, line, PADDING)
    return a, of_a, b, of_b, c, of_c, d, of_d


@triton.jit(do_not_specialize=("begin", "skipped", "blocks", "height", "width", "channels", "holes"))
def made(
    pixels,
    out,
    order,
    numbers,
    places,
    columns,
    rows,
    hole_rows,
    hole_columns,
    mean,
    over_std,
    begin,
    skipped,
    blocks,
    height,
    width,
    channels,
    holes,
    NEAREST: tl.constexpr,
    PADDING: tl.constexpr,
    ALIGNED: tl.constexpr,
    NORMED: tl.constexpr,
    EXACT: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Make `BLOCK` pixels of one image, and `GROUP` channels of each.

    There are `blocks` programs per image, and on a second axis one per group of channels. The arrays are those of
    `Table.sent`, used from image `begin` on; `pixels` lack the first `skipped`. Image k becomes `out[order[k]]`.
    """
    k = (begin + tl.program_id(0) // blocks).to(tl.int64)
    at = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    used, i, j = at < height * width, at // width, at % width
    numbers += NUMBERS * k
    start, line = tl.load(places + 2 * k) - skipped, tl.load(places + 2 * k + 1)
    column = tl.load(columns + k * width + j, mask=used, other=0.0)
    row = tl.load(rows + k * height + i, mask=used, other=0.0)
    x, y = _points(numbers, column, row, PADDING, ALIGNED, EXACT)
    a, of_a, b, of_b, c, of_c, d, of_d = _taps(x, y, numbers, start, line, NEAREST, PADDING)
    hole = _hole(hole_rows + k * holes * height, hole_columns + k * holes * width, i, j, used, holes, height, width)
    gain, bias, lit = tl.load(numbers + GAIN), tl.load(numbers + BIAS), tl.load(numbers + LIT)
    divisor, goal = tl.load(numbers + DIVISOR), tl.load(order + k) * channels
    for member in tl.static_range(GROUP):
        channel = tl.program_id(1) * GROUP + member
        there = used & (channel < channels)
        value = _value(pixels + channel, a * channels, there) * of_a
        if not NEAREST:
            value += _value(pixels + channel, b * channels, there) * of_b
            value += _value(pixels + channel, c * channels, there) * of_c
            value += _value(pixels + channel, d * channels, there) * of_d
        value = tl.math.div_rn(value, divisor)
        if lit != 0.0:
            value = _lit(value, gain, bias, EXACT)
        value = tl.where(hole != 0, 0.0, value)
        if NORMED:
            known = tl.where(channel < channels, channel, 0)
            value = (value - tl.load(mean + known)) * tl.load(over_std + known)
        tl.store(out + (goal + channel) * (height * width) + at, value.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=("begin", "skipped", "blocks", "channels"))
def averaged(pixels, averages, out, begin, skipped, blocks, channels, BLOCK: tl.constexpr):
    """Average images down over the same boxes as torch's `adaptive_avg_pool2d`: `BLOCK` values of one image.

    There are `blocks` programs per image. The first image is number `begin` of `averages`, (n, 6) int64: the number of
    an image's first pixel, its height and width, the rows and columns that it gets, and the number of the first pixel
    that it gets among all averages, of which `out` lacks the first `skipped` ones. Sizes must be below those for which
    a product here would need more than 32 bits, see `Fused`.
    """
    program = tl.program_id(0)
    one = averages + (begin + program // blocks).to(tl.int64) * 6
    start, goal = tl.load(one), tl.load(one + 5) - skipped
    height, width = tl.load(one + 1).to(tl.int32), tl.load(one + 2).to(tl.int32)
    rows, columns = tl.load(one + 3).to(tl.int32), tl.load(one + 4).to(tl.int32)
    at = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    used = at < rows * columns * channels
    pixel, channel = at // channels, at % channels
    i, j = pixel // columns, pixel % columns
    top, bottom = i * height // rows, ((i + 1) * height + rows - 1) // rows
    left, right = j * width // columns, ((j + 1) * width + columns - 1) // columns
    total = tl.full((BLOCK,), 0.0, tl.float32)
    for down in range(height // rows + 2):
        for across in range(width // columns + 2):
            y, x = top + down, left + across
            there = used & (y < bottom) & (x < right)
            place = (start + y.to(tl.int64) * width + x) * channels + channel
            total += tl.load(pixels + place, mask=there, other=0).to(tl.float32)
    value = tl.math.div_rn(tl.math.div_rn(total, (bottom - top).to(tl.float32)), (right - left).to(tl.float32))
    tl.store(out + goal * channels + at, value, mask=used)
