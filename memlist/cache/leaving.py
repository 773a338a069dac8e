"""Leave out the items that could not be loaded: which they are, and the lines that do it."""

from __future__ import annotations

import os
from typing import Any, Iterable, Set

import numpy as np

from ..store import brief
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


class BadItems:
    """Answer whether an item is among those that could not be loaded.

    `errors` is an `ImageLoadError`, its `errors`, or the items themselves. A file is found by its path, whether that is
    a `str` or a `Path`, relative or not. Raises TypeError for anything else.
    """

    def __init__(self, errors: Any) -> None:
        if isinstance(errors, (str, bytes, os.PathLike)):
            errors = [errors]
        found = errors.errors if isinstance(errors, ImageLoadError) else errors
        if not isinstance(found, Iterable):
            raise TypeError(f"without({brief(errors)}): use an ImageLoadError, or the items that are to be left out")
        self._keys: Set[Any] = {_name_of(one.item if isinstance(one, BadItem) else one) for one in found}

    def __contains__(self, item: Any) -> bool:
        return bool(self._keys) and _name_of(item) in self._keys


def _name_of(item: Any) -> Any:
    "Return a value that is equal for equal items, and for all spellings of the path of one file."
    if isinstance(item, np.generic) and not isinstance(item, str):
        item = item.item()
    try:
        return keys.file_key(item) if isinstance(item, (str, os.PathLike)) else keys.value_key(item)
    except keys.Unkeyable:
        return id(item)
