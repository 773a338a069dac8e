"""Leave out the items that could not be loaded: which they are, and the lines that do it."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable, Set

import numpy as np

from ..store import brief, shown
from . import keys
from .info import BadItem, ImageLoadError

#: The lines that a message prints. They run as they stand, for an object with the name that the message guesses.
LINES = """from memlist import ImageLoadError
try: {name}.load_data({given})
except ImageLoadError as error: {rest}"""


def lines_without(name: str, given: str = "", rest: str = "{name} = {name}.without(error)") -> str:
    """Return three lines of Python that leave out of `name` what can't be loaded.

    `given`: the arguments of `load_data`; `rest`: the line that leaves `error` out.
    """
    return LINES.format(name=name, given=given, rest=rest.format(name=name))


#: A message names at most this many items.
MOST_NAMED = 5


class BadItems:
    """Answer whether an item is among those that could not be loaded.

    `errors` is an `ImageLoadError`, its `errors`, or the items themselves. A file is found by its path, whether that is
    a `str` or a `Path`, relative or not. Raises TypeError for anything else.

    Each answer is remembered for `check`: an item that somebody wrote by hand has to be somewhere, while an error may
    be of more data than it is passed to.
    """

    def __init__(self, errors: Any) -> None:
        if isinstance(errors, (str, bytes, os.PathLike)):
            errors = [errors]
        found = errors.errors if isinstance(errors, ImageLoadError) else errors
        if not isinstance(found, Iterable):
            raise TypeError(f"without({brief(errors)}): use an ImageLoadError, or the items that are to be left out")
        self._keys: Set[Any] = set()
        self._unseen: Dict[Any, Any] = {}
        for one in found:
            name = _name_of(one.item if isinstance(one, BadItem) else one)
            self._keys.add(name)
            if not isinstance(one, BadItem):
                self._unseen[name] = one

    def __contains__(self, item: Any) -> bool:
        if not self._keys:
            return False
        name = _name_of(item)
        self._unseen.pop(name, None)
        return name in self._keys

    def check(self, where: str) -> None:
        """Raise ValueError if an item that was given by hand equals none that was asked for so far.

        `where`: the name of the data that was asked for all its items.
        """
        unseen = list(self._unseen.values())
        if not unseen:
            return
        listed = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in unseen[:MOST_NAMED]]
        names = ", ".join(shown(repr(one)) for one in listed)
        if len(unseen) > MOST_NAMED:
            names += f" and {len(unseen) - MOST_NAMED} more"
        raise ValueError(
            f"{where}: it does not open {names}, which without(…) was given, and nothing was left out. Please check "
            "the spelling; a relative path begins in the working directory. An ImageLoadError may also name images of "
            "other data: pass the error itself."
        )


def _name_of(item: Any) -> Any:
    "Return a value that is equal for equal items, and for all spellings of the path of one file."
    if isinstance(item, np.generic) and not isinstance(item, str):
        item = item.item()
    try:
        return keys.file_key(item) if isinstance(item, (str, os.PathLike)) else keys.value_key(item)
    except keys.Unkeyable:
        return id(item)
