"""Steps that a picture goes through: a window of it, another size, a turn by right angles or a flip."""

from __future__ import annotations

from typing import NamedTuple, Tuple, Union

# Pillow's numbers of filters.
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)

#: What `Crop.mode` may be, besides "constant".
MIRRORED = "edge", "reflect", "symmetric"

# Modes whose bytes go through Pillow's filters as they are. Those with alpha are multiplied by it before and divided by
# it afterwards; as an array of two or four channels tells nothing else, it is taken for one of these.
_PLAIN = "L", "RGB", "HSV", "YCbCr", "LAB"
_ALPHA = "LA", "RGBA"
# Modes of one byte per channel that only keep their meaning where pixels are copied: other modes of four channels
# without alpha, and indices into a palette, which Pillow never mixes.
_COPIED = "P", "CMYK", "RGBX", "PA", "La", "RGBa"


class Crop(NamedTuple):
    """A window of a picture, in pixels. It may reach beyond the picture.

    Outside lies `fill`, one value per channel or one for all; or what `numpy.pad` puts there, for a `mode` of "edge",
    "reflect" or "symmetric".
    """

    left: int
    top: int
    width: int
    height: int
    fill: Tuple[int, ...] = (0,)
    mode: str = "constant"


class Resize(NamedTuple):
    """Another size, in pixels, by one of Pillow's filters.

    0 is nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming.
    """

    width: int
    height: int
    filter: int


class Turn(NamedTuple):
    """A flip or a turn by right angles, by Pillow's number.

    0 flips left and right, 1 top and bottom; 2, 3 and 4 turn counterclockwise by 90, 180 and 270 degrees; 5 exchanges
    rows and columns; 6 does so after a turn by 180 degrees.
    """

    code: int


Step = Union[Crop, Resize, Turn]


def supported(mode: str, filter: int = NEAREST) -> bool:
    """Return whether `render` makes of the array of a picture what Pillow makes of the picture.

    `mode` is the picture's mode in Pillow, and `filter` the one of its resize; a picture that is not resized can be
    asked for with the nearest filter. False for modes that have more than a byte per channel ("I", "F", "I;16") or less
    ("1"), and for filters beyond the first six.
    """
    if filter not in range(6):
        return False
    return mode in _PLAIN or mode in _ALPHA or (mode in _COPIED and filter == NEAREST)
