"""Keywords for images that are in memory already: which of them come too late."""

from __future__ import annotations

import os
from typing import Any, Optional

from ..store import ImageStore, shown
from ..store.cachefile import resolve
from ..store.registry import over_file


def check_again(
    store: ImageStore, held_size: Optional[int], cache_file: Any, max_size: Optional[int], whose: str, remedy: str
) -> None:
    """Raise ValueError for a `cache_file` or `max_size` that would need other records than those in `store`.

    `held_size`: the `max_size` of these records; None for a keyword that was left out. `whose` and `remedy` complete
    the message: "the images of `whose` are in memory already", "please `remedy`", with `{keyword}` for what was given.
    """
    if max_size is not None and max_size != held_size:
        held = "at full size" if held_size is None else f"with max_size={held_size}"
        raise _too_late(whose, held, f"max_size={max_size}", remedy)
    if cache_file is not None and over_file(resolve(cache_file)) is not store:
        file = store.cache_file
        held = "in no file" if file is None else f"in the file {shown(file)}"
        if file == resolve(cache_file):
            held += ", which was deleted or replaced since"
        raise _too_late(whose, held, f"cache_file='{shown(os.fsdecode(cache_file))}'", remedy)


def _too_late(whose: str, held: str, keyword: str, remedy: str) -> ValueError:
    return ValueError(
        f"in_memory: the images of {whose} are in memory already, {held}, and {keyword} can't change that. "
        f"Please {remedy.format(keyword=keyword)}."
    )
