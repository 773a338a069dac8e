"""An image, decoded once: from a file to an array, and from there to the store and back.

- `decode`: what a decoder has to do, and the one that does what Pillow does; `keys`: the key of an item
- `cache`: `ImageCache`, which fetches from a store and decodes what is not there
- `jobs`, `filling`: what `load_data` does; `info`: what `cache_info` answers
- `randomness`: whether a user's function is random; `forks`: processes that run it
- `arrays`, `plain`: how arrays of any strides, and plain values, are kept as bytes

It may import `store`, Pillow and NumPy; neither torch nor fastai.
"""

from .cache import Fetched, ImageCache
from .decode import Decoded, Decoder, Piece, PillowDecoder
from .filling import load_data
from .info import CacheInfo, ImageLoadError
from .jobs import Job, Work

__all__ = [
    "CacheInfo",
    "Decoded",
    "Decoder",
    "Fetched",
    "ImageCache",
    "ImageLoadError",
    "Job",
    "Piece",
    "PillowDecoder",
    "Work",
    "load_data",
]
