"""The names of front ends, which are imported when they are first asked for: that takes seconds.

A name whose library is not installed raises an ImportError with the one command that helps.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Union

from .store import MaxRam, brief

if TYPE_CHECKING:  # only for `help` and mypy: importing them takes seconds
    from fastai.data.core import DataLoaders
    from torch.utils.data import Dataset

#: Names that only fastai 1 has, besides all that begin with "Memory" and are in no other table.
FASTAI1 = "InMemory", "compat"
#: Names that both fastai 1 and fastai 2 have; the one that is installed decides.
FASTAI = "Comparison", "DataWait", "compare"
FASTAI2 = "MemoryImageBlock", "MemoryMaskBlock"
TORCHVISION = "MemoryImageFolder", "MemoryLoader"

#: The oldest fastai 2 whose code is known.
OLDEST = 2, 8


def installed(library: str, module: str = "__init__.py") -> bool:
    "Return whether `library` is installed and has this module, without importing it."
    try:
        spec = find_spec(library)
    except (ImportError, ValueError):
        return False
    return spec is not None and any(Path(folder, module).exists() for folder in spec.submodule_search_locations or ())


def fastai() -> int:
    "Return which fastai is installed: 1, 2, or 0 if none is. One environment can't have both."
    if installed("fastai", "basic_data.py"):  # fastai 2 has no such module
        return 1
    return 2 if installed("fastai", "data/load.py") else 0


def names() -> List[str]:
    "Return the names of front ends whose libraries are installed, apart from fastai 1, which is imported at once."
    found = [*FASTAI, *FASTAI2] if fastai() == 2 else []
    found += TORCHVISION if installed("torchvision") else ()
    return [*found, "in_memory"] if found else []


def opened(name: str) -> Optional[object]:
    "Return what a front end has under a name; None if none has it. Raises ImportError if its library is missing."
    if name in TORCHVISION:
        return getattr(_torchvision(name), name)
    if name in FASTAI2 or (name in FASTAI and fastai() == 2):
        return getattr(_fastai2(name), name)
    if fastai() != 1 and (name in (*FASTAI, *FASTAI1) or name.startswith("Memory")):
        raise ImportError(_needs(name, "fastai 1", "fastai1"))
    return None


def in_memory(
    data: Union[DataLoaders, Dataset[Any]],
    max_ram: MaxRam = None,
    cache_file: Any = None,
    max_size: Optional[int] = None,
    batches: Optional[bool] = None,
) -> Any:
    """Keep the images of `data` in memory that all processes share; return what to use in its place::

        dls = in_memory(ImageDataLoaders.from_folder(path, item_tfms=Resize(224)), max_ram="8GB").load_data()
        dataset = in_memory(torchvision.datasets.ImageFolder(path, transform))

    - `data`: fastai 2's `DataLoaders`, see `memlist.fastai2.in_memory`, or a dataset that opens its files by its
      attribute `loader`, as those of torchvision do, see `memlist.torchvision.in_memory`
    - `max_ram`, `cache_file`, `max_size`: the budget, a file that keeps the images, and a limit for their shorter side
    - `batches`: False to have each item of DataLoaders made on its own

    Called again with DataLoaders, it keeps what you leave out; see there for what you give.

    Raises TypeError for anything else, and ImportError if the library for it is not installed.
    """
    if _made_from("fastai", data):
        if fastai() == 1:
            raise TypeError(
                f"in_memory takes DataLoaders of fastai 2, or a dataset, and this is a {type(data).__name__} of fastai "
                "1: please build it with MemoryImageList in the place of ImageList."
            )
        return _fastai2("in_memory").in_memory(data, max_ram, cache_file, max_size, batches)
    if not installed("torchvision"):
        raise ImportError(_needs("in_memory", "fastai 2", "fastai2"))
    if fastai() == 2 and not _may_be_dataset(data):
        raise TypeError(
            "in_memory takes DataLoaders of fastai 2, or a dataset of torchvision's kind, and this is a "
            f"{type(data).__name__}: please give what `ImageDataLoaders.from_…`, or `dataloaders` of a DataBlock or of "
            "Datasets, returns, or a dataset whose attribute `loader` opens its files. A function of your own that "
            "opens files can be decorated with `memlist.cached`."
        )
    if batches is not None and batches is not True:
        raise TypeError(f"batches={brief(batches)} is for DataLoaders of fastai 2, and this is a {type(data).__name__}")
    return _torchvision("in_memory").in_memory(data, max_ram, cache_file, max_size)


def _made_from(library: str, data: Any) -> bool:
    "Return whether an object is of a class of the library's or of one made from it, or holds such objects."
    parts = data if isinstance(data, (list, tuple)) else (data,)
    return any(base.__module__.split(".")[0] == library for part in parts for base in type(part).__mro__)


def _may_be_dataset(data: Any) -> bool:
    "Return whether torchvision's front end is the one that can say what is wrong with an object, if anything is."
    return isinstance(data, type) or hasattr(data, "loader") or _made_from("torch", data)


def _torchvision(name: str) -> Any:
    if not installed("torchvision"):
        raise ImportError(_needs(name, "torchvision", "torchvision"))
    return import_module(".torchvision", __package__)


def _fastai2(name: str) -> Any:
    if fastai() != 2:
        raise ImportError(_needs(name, "fastai 2", "fastai2"))
    known = _release("fastai")
    if known and known < OLDEST:
        older = ".".join(map(str, known))
        raise ImportError(
            f"memlist.{name} needs fastai 2.8 or newer, and here is {older}: pip install --upgrade 'memlist[fastai2]'"
        )
    return import_module(".fastai2", __package__)


def _needs(name: str, library: str, extra: str) -> str:
    "Return the message about a library that is missing, which ends with the command that installs it."
    here = fastai()
    if here and library.startswith("fastai"):
        return (
            f"memlist.{name} needs {library}, and fastai {here} is installed here. The two can't share an environment. "
            f"Create another one, and run there, in a clone of memlist: pip install '.[{extra}]'"
        )
    return f"memlist.{name} needs {library}, which is not installed here: pip install 'memlist[{extra}]'"


def _release(package: str) -> Tuple[int, ...]:
    "Return the first two numbers of a package's version; none if it has no version that can be read."
    try:
        return tuple(int(part) for part in version(package).split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return ()
