"""Keep arrays under keys, in bytes that all processes of a machine share: in anonymous memory or in a file.

`ImageStore` (in `store`) is the public class. `parts` puts a store together from the modules below it: `region` (mapped
bytes), `layout` (the format), `log`, `index`, `lock`, `trust`, `budget`, `counters`, `cachefile` and `repair`. With
`registry` and `sharing`, lists and processes find the same store. `system` reads the limits of the machine, `mounts`
where a file lies, `names` shows names of files on a terminal, and `warning` finds the user's line for a warning.

This folder needs only NumPy and psutil, and no other folder of memlist. It deals with bytes, arrays and the sizes and
times of files; it knows nothing of images and decoders. Of training libraries it knows the names, so that `warning` can
step over their code.
"""

from .budget import DEFAULT_SHARE, MaxRam, format_rule, format_size, parse_max_ram
from .cachefile import CacheFileError
from .checking import Problem
from .layout import DTYPES, digest_of
from .lookup import prepare as prepare_lookup
from .many import Records, read_many
from .names import brief, shown
from .record import Record
from .several import Put, claiming_all, mean_bytes, put_all
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
    "Put",
    "Record",
    "Records",
    "Source",
    "StoreInfo",
    "_rejoined",
    "brief",
    "claiming_all",
    "digest_of",
    "format_rule",
    "format_size",
    "mean_bytes",
    "parse_max_ram",
    "prepare_lookup",
    "put_all",
    "read_many",
    "shown",
    "store_for",
    "usable_cpus",
]
