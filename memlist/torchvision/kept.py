"""`Kept`: load images as a dataset's own loader does, from memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import PIL.Image
import PIL.ImageFile

from ..cache import keys
from ..cache.cache import FULL, Fetched, ImageCache
from ..cache.decode import DECODER, PillowDecoder, check_max_size
from ..cache.decorator import Cached, Results
from ..cache.results import picture_of
from ..store import ImageStore, MaxRam, Records, shown, store_for
from . import messages
from .known import is_stock_loader, loads_by_pillow

Loader = Callable[[Any], Any]


class Picture(NamedTuple):
    "The bytes of a picture, (height, width) or (height, width, channels), and its mode in Pillow."

    array: np.ndarray
    mode: str


class Kept:
    """Load as `loader` does, once per file and machine, and from memory after that; an equal PIL image each time.

    torchvision's own loader goes into the store of the dataset at `root`, which all datasets of that folder share. What
    a loader of your own returns belongs to this object, as with `memlist.cached`; a function that is cached already
    keeps its own store.

    - `name`: the name of the dataset in messages
    - `max_ram`, `cache_file`, `max_size`: see `MemoryImageFolder`
    """

    def __init__(
        self, loader: Loader, root: Any, name: str, max_ram: MaxRam, cache_file: Any, max_size: Optional[int]
    ) -> None:
        self.loader, self.name, self.max_size = loader, name, max_size
        self.built = time.monotonic_ns()
        self.stock = is_stock_loader(loader)
        self.place: Optional[str] = None if root is None else str(Path(root).resolve())
        self._images: Optional[ImageCache] = None
        self._truncated = False
        _check(loader, self.stock, name, cache_file, max_size)
        if isinstance(loader, Cached):
            self.store = loader.images.store
        elif self.stock and self.place is not None:
            self.store = store_for(self.place, max_ram, cache_file, DECODER)
        elif self.stock and cache_file is not None:
            self.store = ImageStore.open(cache_file, max_ram, maker=DECODER)
        else:
            self.store = ImageStore(max_ram)
        if max_size is not None:
            messages.say_reduced(self.store, name, max_size)

    @property
    def images(self) -> ImageCache:
        "The cache of this process over the store."
        if isinstance(self.loader, Cached):
            return self.loader.images
        truncated = bool(PIL.ImageFile.LOAD_TRUNCATED_IMAGES)
        if self._images is None or self._truncated != truncated:  # the decoder's keys depend on it
            self._truncated = truncated
            decoder: Any
            if self.stock:
                decoder = PillowDecoder("RGB", self.max_size, whole=True)
            else:
                decoder = Results(self.loader, self.store, self.store, b"", True)
            self._images = ImageCache(self.store, decoder, self.built if self.built > self.store.made else 0)
        return self._images

    @property
    def records(self) -> int:
        "The number of records per image: one with the pixels, and for torchvision's own loader one with the rest."
        return 2 if self.stock else 1

    def __call__(self, path: Any) -> Any:
        "Return what the loader returns for `path`, in memory of its own; raise what the loader raises."
        if isinstance(self.loader, Cached):
            return self.loader(path)
        if not self._serves():
            return self.loader(path)
        return self._fetched(self.images, path)

    def look(self, items: Sequence[Any], indices: Sequence[int]) -> Optional[Records]:
        """Return the pixels of the files `items` at `indices` as far as they are stored, in one look-up.

        None if each has to be asked for by `picture`. The arrays are views: ask `valid` after reading them.
        """
        if not self.stock or not self._serves():
            return None
        prefix = self.images.decoder.prefix  # type: ignore[attr-defined]
        try:
            return self.images.read_many(items, np.array(indices, np.intp), prefix)
        except Exception:  # an index is out of range: reading that item raises what stock raises
            return None

    def picture(self, path: Any) -> Union[Picture, Any]:
        """Return the pixels of `path` where they lie in the store, or a copy of them; other results as they are.

        Raises what the loader raises.
        """
        if not self._serves():
            return as_picture(self.loader(path))
        images = self.images
        return as_picture(self._fetched(images.with_decoder(_Views(images.decoder)), path))

    def valid(self, generation: int) -> bool:
        "Return whether views that were read since the store had this generation are still what they were."
        return self.store.generation == generation

    def _serves(self) -> bool:
        "Return whether images come from memory: torchvision's own loader may be told to do something else."
        return not self.stock or loads_by_pillow()

    def _fetched(self, images: ImageCache, path: Any) -> Any:
        fetched: Optional[Fetched] = None
        try:
            fetched = images.fetch(path)
        except keys.Unkeyable:
            pass
        except Exception:
            if not self.stock:
                raise
        if fetched is None:
            # Raises what stock raises, in its own words. Not above: Python would print the other error before it.
            return self.loader(path)
        if fetched.reason:
            messages.say_never(self.store, self.name, path, fetched.reason)
        elif fetched.outcome == FULL:
            messages.say_full(self.store, self.name)
        return fetched.image

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), "_images": None}

    def __repr__(self) -> str:
        return f"<{shown(getattr(self.loader, '__qualname__', self.loader))}, kept in memory>"


def _check(loader: Loader, stock: bool, name: str, cache_file: Any, max_size: Optional[int]) -> None:
    "Raise TypeError or ValueError for settings that are wrong, or that only torchvision's own loader has."
    if max_size is not None:
        check_max_size(max_size)
    if max_size is not None and not stock:
        raise ValueError(f"max_size={max_size}: {name} has a loader of your own; please reduce the images there")
    if cache_file is not None and not stock:
        raise TypeError(
            f"{name} has a loader of your own, and only you know when its code changes: please decorate it with "
            '`memlist.cached(cache_file=…, version="1")`, and leave cache_file out here'
        )


def as_picture(made: Any) -> Any:
    "Return a PIL image as `Picture`, if it is an array of bytes; else `made`."
    if type(made) is not PIL.Image.Image or made.mode in ("1", "P", "PA"):
        return made
    array = np.asarray(made)
    return Picture(array, made.mode) if array.dtype == np.uint8 else made


class _Views:
    "Decode as `decoder` does, but restore images as views into the store."

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def restore(self, records: Sequence[Any]) -> Any:
        "Return a `Picture`; for other results what the decoder restores."
        if isinstance(self._decoder, PillowDecoder):
            return Picture(records[0].array, self._decoder.mode)
        found = picture_of(records[0].array, records[0].tag)
        return self._decoder.restore(records) if found is None else Picture(*found)

    def finish(self, restored: Any) -> Any:
        return restored if isinstance(restored, Picture) else self._decoder.finish(restored)


class Paths(Sequence[Any]):
    "The paths of `samples`, pairs of a path and a target."

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, i: Any) -> Any:
        return self._samples[i][0]

    def all(self) -> List[Any]:
        "Return all paths."
        return [one[0] for one in self._samples]
