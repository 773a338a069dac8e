"""Bytes that all processes of a machine share, under keys. It needs NumPy and psutil, and knows nothing of images."""

from .cachefile import CacheFileError
from .source import Source
from .store import ImageStore, Problem, Record, StoreInfo, _rejoined

__all__ = ["CacheFileError", "ImageStore", "Problem", "Record", "Source", "StoreInfo", "_rejoined"]
