"""memlist: decoded images in RAM, one copy for every worker.

With fastai 1: swap `ImageList` for `MemoryImageList`, change nothing else, and get the same pixels, sooner. With fastai
2: `in_memory(dls)`. With torchvision: `MemoryImageFolder`. With any Python: `cached`. Names that need a library which
is not installed are left out; asking for one says what to install. `memlist.store` needs only NumPy and psutil.
"""

from __future__ import annotations

import sys

from . import doors, former
from .doors import in_memory as in_memory
from .store import CacheFileError, ImageStore

__version__ = "1.0.0"
__all__ = ["CacheFileError", "ImageStore"]


if doors.installed("PIL"):
    from .cache import CacheInfo, ImageLoadError, cached

    __all__ += ["CacheInfo", "ImageLoadError", "cached"]


def _is_command() -> bool:
    "Return whether `python -m memlist` imports this: its commands need no front end, and fastai takes seconds."
    given = getattr(sys, "orig_argv", [])  # since Python 3.10
    return sys.argv[:1] == ["-m"] and "-m" in given and given[given.index("-m") + 1] == __name__


if doors.fastai() == 1 and not _is_command():  # at once: what it repairs has to be repaired before it is used
    from . import fastai1
    from .fastai1 import *  # noqa: F403

    __all__ += fastai1.__all__

for _name in __all__:  # so that pickles do not depend on where the public classes are defined
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__

former.install()

__all__ += doors.names()


def __getattr__(name: str) -> object:
    "Return a module by its former name, or a name of a front end; say which library a name needs."
    if name in former.MOVED:
        return sys.modules[f"memlist.{name}"]
    found = doors.opened(name)
    if found is None:
        raise AttributeError(f"module 'memlist' has no attribute {name!r}")
    return found
