"""memlist: decoded images in RAM, one copy for every worker.

With fastai 1: swap `ImageList` for `MemoryImageList`, change nothing else, and get the same pixels, sooner. Names that
need a library which is not installed are left out. `memlist.store` needs only NumPy and psutil.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import former
from .store import CacheFileError, ImageStore

__version__ = "0.1.0"
__all__ = ["CacheFileError", "ImageStore"]


def _installed(library: str, module: str = "__init__.py") -> bool:
    "Return whether `library` is installed and has this module, without importing it."
    try:
        spec = find_spec(library)
    except (ImportError, ValueError):
        return False
    return spec is not None and any(Path(folder, module).exists() for folder in spec.submodule_search_locations or ())


if _installed("PIL"):
    from .cache import CacheInfo, ImageLoadError, cached

    __all__ += ["CacheInfo", "ImageLoadError", "cached"]


def _is_command() -> bool:
    "Return whether `python -m memlist` imports this: its commands need no front end, and fastai takes seconds."
    given = getattr(sys, "orig_argv", [])  # since Python 3.10
    return sys.argv[:1] == ["-m"] and "-m" in given and given[given.index("-m") + 1] == __name__


if _installed("fastai", "basic_data.py") and not _is_command():  # fastai 1; fastai 2 has no such module
    from . import fastai1
    from .fastai1 import *  # noqa: F403

    __all__ += fastai1.__all__

for _name in __all__:  # so that pickles do not depend on where the public classes are defined
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__

former.install()

if _installed("torchvision"):  # imported when it is first asked for, because it takes seconds
    __all__ += ["MemoryImageFolder", "MemoryLoader"]  # noqa: F405


def __getattr__(name: str) -> object:
    "Return a module by its former name, or say which library a name needs."
    if name in former.MOVED:
        return sys.modules[f"memlist.{name}"]
    if name in ("MemoryImageFolder", "MemoryLoader") and name in __all__:
        return getattr(import_module(".torchvision", __name__), name)
    if name in former.FASTAI1 or name.startswith("Memory"):
        raise AttributeError(f"memlist.{name} needs fastai 1, which is not installed here: pip install 'fastai<2'")
    raise AttributeError(f"module 'memlist' has no attribute {name!r}")
