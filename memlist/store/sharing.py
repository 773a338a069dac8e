"""Share a store: `store_for` returns the store of a dataset, and unpickling a store finds the original one.

A process being spawned is sent the descriptors. Any other pickle only names the store; it never holds the arrays.
"""

from __future__ import annotations

import copyreg
from multiprocessing.context import get_spawning_popen
from typing import Any, Callable, Dict, Optional, Tuple

from . import registry
from .budget import MaxRam
from .bytelocks import ByteLocks
from .cachefile import CacheFileError
from .descriptor import sendable
from .fulldisk import frozen
from .lock import Lock
from .parts import received_parts
from .region import Region, named_region
from .store import ImageStore
from .trust import Looks
from .warning import warn_user


def store_for(place: str, max_ram: MaxRam = None, cache_file: Any = None, maker: bytes = b"") -> ImageStore:
    """Return the store over `cache_file`; without one, the store of the dataset at `place`, else a new store.

    If `max_ram` is given, it sets the budget.
    """
    if cache_file is not None:
        return ImageStore.open(cache_file, max_ram, place=place, maker=maker)
    known = registry.at_place(place)
    if not known:
        return ImageStore(max_ram, place=place, maker=maker)
    store: ImageStore = known[-1]
    if max_ram is not None:
        store.set_max_ram(max_ram)
    return store


def _reduce(store: ImageStore) -> Tuple[Any, ...]:
    "Return how to find the store, or make it again, when its pickle is loaded."
    if get_spawning_popen() is None:
        return _rejoined, (store.uid, store.place, store.rule, store.cache_file, store.maker)
    told = {"places": store.places, "cache_file": store.cache_file, "made": store.made}
    sent = (store.parts.region.kind, *map(sendable, store.descriptors()))
    return _received, (store.uid, told, frozen(store.parts.header), store.parts.budget.available, store.maker, *sent)


def _received(
    uid: str,
    told: Dict[str, Any],
    private: Tuple[bytes, ...],
    available: Callable[[], int],
    maker: bytes,
    kind: str,
    *sent: Any,
) -> ImageStore:
    "Return a store over the descriptors that the parent process sent."
    data, mutex, looks = (one.detach() for one in sent)
    region = named_region(data, kind == "unmapped") if kind in ("named", "unmapped") else Region(kind, data)
    lock, seen = Lock(ByteLocks(mutex, opened=False), told["cache_file"]), Looks(looks)
    known: Optional[ImageStore] = registry.STORES.get(uid)
    if known is not None:
        region.close()
        seen.close()
        lock.close()
        if known.parts.lock.bytes.dropped_by_closing:
            known.parts.lock.after_fork()
            known.parts.after_fork()
        return known
    if told["cache_file"] is not None:
        registry.FILE_LOCKS.add(lock)
    store = ImageStore.__new__(ImageStore)
    store._use(received_parts(region, lock, seen, available, maker, private), uid)
    vars(store).update(told)
    return store


def _rejoined(
    uid: str, place: Optional[str], max_ram: MaxRam, cache_file: Optional[str] = None, maker: bytes = b""
) -> ImageStore:
    "Return the store of a pickle: the original, else that of its file, else that of its dataset, else a new one."
    known: Optional[ImageStore] = registry.STORES.get(uid)
    if known is None and cache_file is not None:
        try:
            return ImageStore.open(cache_file, max_ram, place=place, maker=maker)
        except CacheFileError as error:  # the pickle may be loaded on another machine
            warn_user(f"{error} Until then the images are kept in memory instead.")
    if known is None and place is not None:
        known = next(iter(registry.at_place(place)), None)
    return ImageStore(max_ram, place=place, maker=maker) if known is None else known


_rejoined.__module__ = __package__  # pickles name the package, so that they do not depend on its modules
copyreg.pickle(ImageStore, _reduce)  # type: ignore[arg-type]
