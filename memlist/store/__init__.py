"""Keep arrays under keys, in bytes that all processes of a machine share: in memory without a name, or in a file.

`ImageStore` (in `store`) is the door. `parts` puts a store together from the modules below it: `region` (mapped bytes),
`layout` (the format), `log`, `index`, `lock`, `trust`, `budget`, `counters`, `cachefile` and `repair`. `registry` and
`sharing` are how lists and processes find the same store. `system` reads what the machine has.

All that lives here needs NumPy and psutil, and nothing else of memlist. It knows bytes, arrays and the sizes and times
of files; images, decoders and libraries for training do not come in.
"""

from .budget import DEFAULT_SHARE, MaxRam, format_size, parse_max_ram
from .cachefile import CacheFileError
from .checking import Problem
from .layout import DTYPES
from .record import Record
from .sharing import _rejoined, store_for
from .source import Source
from .store import ImageStore, StoreInfo
from .system import usable_cpus

__all__ = [
    "DEFAULT_SHARE",
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
    "parse_max_ram",
    "store_for",
    "usable_cpus",
]
