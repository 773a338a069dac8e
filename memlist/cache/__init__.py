"""Decode each image once, keep it in a store, and restore it from there.

- `decode`: the protocol of a decoder, and the decoder that uses Pillow; `keys`: the key of an item
- `cache`: `ImageCache`, which fetches images from a store and decodes missing ones
- `jobs`, `filling`: what `load_data` does; `info`: what `cache_info` returns
- `decorator`: `cached`; `function`: the decoder of a user's function; `results`: what such functions return, as
  records; `spawned`: how spawned processes find their stores
- `randomness`: whether a user's function is random; `forks`: processes that run it
- `again`: keywords for images that are in memory already; `leaving`: what `without` leaves out
- `arrays`, `plain`: how arrays of any strides, and plain values, are kept as bytes

This folder may import `store`, Pillow and NumPy, but neither torch nor fastai.
"""

from .cache import Fetched, ImageCache
from .decode import Decoded, Decoder, Piece, PillowDecoder
from .decorator import cached
from .filling import load_data
from .info import BadItem, CacheInfo, ImageLoadError
from .jobs import Job, Work
from .leaving import BadItems, lines_without

__all__ = [
    "BadItem",
    "BadItems",
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
    "cached",
    "lines_without",
    "load_data",
]
