"""Bytes that all processes of a machine share, under keys. It needs NumPy and psutil, and knows nothing of images."""

from .cachefile import CacheFileError
from .store import DTYPES, ImageStore, Problem, Record, Source, StoreInfo, _rejoined, open_descriptors, store_for
from .system import MaxRam, format_size, parse_max_ram, usable_cpus

__all__ = [
    "DTYPES",
    "CacheFileError",
    "ImageStore",
    "MaxRam",
    "Problem",
    "Record",
    "Source",
    "StoreInfo",
    "_rejoined",
    "format_size",
    "open_descriptors",
    "parse_max_ram",
    "store_for",
    "usable_cpus",
]
