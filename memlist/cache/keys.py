"""Keys: the bytes that name the image of an item. They say which item it is; no key depends on anybody's code."""

from __future__ import annotations

import datetime
import os
from hashlib import blake2b
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Union

import numpy as np
import pandas as pd
import torch

from . import plain

PATHS = (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)


class Unkeyable(TypeError):
    "An item that no key can tell from others: it is neither plain data nor an array."

    def __init__(self, value: Any) -> None:
        kind = type(value)
        text = "is not supported in a key. Numbers, strings, paths, dates, arrays, and tuples and lists of these are"
        super().__init__(f"a {kind.__module__}.{kind.__qualname__} {text}")


def file_key(item: Any) -> bytes:
    """Return the key of the file that `item` names, as stock `open_image` would open it; raises Unkeyable.

    `str` and `Path` of one file have one key. A `..` is resolved on disk, since its meaning depends on links.
    """
    if not isinstance(item, (str, os.PathLike)):
        raise Unkeyable(item)
    name = os.fspath(item)
    if isinstance(name, bytes):
        return _encoded(os.path.abspath(name))
    if name[:1] != "/" or "//" in name or "/." in name or name[-1] == "/":  # else it is as short as can be
        name = os.path.realpath(name) if ".." in name else os.path.abspath(name)
    return _encoded(name)


def item_key(item: Any) -> bytes:
    """Return the key of any item, for an `open` of the user's own; raises Unkeyable.

    Two items have one key if they have the same type and value. A relative path is taken from the current directory.
    """
    kind = type(item)
    if kind in (str, np.str_) or kind in PATHS:
        name = str(item)
        return kind.__name__.encode() + b" " + _encoded(name if name[:1] == "/" else os.path.join(os.getcwd(), name))
    return value_key(item)


def value_key(value: Any) -> bytes:
    """Return bytes that differ wherever two values differ in type or content; raises Unkeyable.

    Known are plain data (see `plain`), paths, dates, arrays, tensors and data frames, and tuples, named ones too, lists
    and dicts of these. An object of
    another class, a subclass of `int` or `str` for one, may hold more than its value, and is refused.
    """
    try:
        return plain.dumps(_plain(value))
    except (TypeError, RecursionError):
        raise Unkeyable(value) from None


def _plain(value: Any) -> Any:
    "Replace what `plain` does not know by tuples, whose first element says what they stand for."
    kind = type(value)
    if kind is list:
        return list(map(_plain, value))
    if kind is tuple:
        return ("tuple", *map(_plain, value))
    if isinstance(value, tuple) and hasattr(kind, "_fields") and not hasattr(value, "__dict__"):
        return ("named", kind.__module__, kind.__qualname__, *map(_plain, value))
    if kind in (datetime.date, datetime.datetime, pd.Timestamp):
        return ("time", kind.__name__, value.isoformat(), str(getattr(value, "tzinfo", None)))
    if kind is dict:
        return [("dict",), *((_plain(key), _plain(one)) for key, one in value.items())]
    if kind in PATHS:
        return ("path", kind.__name__, str(value))
    if isinstance(value, (pd.DataFrame, pd.Series)):
        frame = value.to_frame() if isinstance(value, pd.Series) else value
        columns = [_plain(frame.iloc[:, i].to_numpy()) for i in range(frame.shape[1])]
        return ("frame", kind.__name__, [_plain(one) for one in frame.columns], _plain(frame.index.to_numpy()), columns)
    if kind is torch.Tensor:
        return ("tensor", value.requires_grad, _plain(value.detach().cpu().numpy()))
    if kind is np.ndarray and value.dtype.hasobject:
        return ("objects", value.shape, [_plain(one) for one in value.flat])
    if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        content = np.ascontiguousarray(value).tobytes()
        digest = content if len(content) <= 32 else blake2b(content, digest_size=16).digest()
        return ("array", kind.__name__, str(value.dtype), value.shape, digest)
    return value


def _encoded(name: Union[str, bytes]) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        raise Unkeyable(name) from None


def digest(*parts: Any) -> bytes:
    "Return 16 bytes that stand for `parts`; raises Unkeyable."
    return blake2b(value_key(parts), digest_size=16).digest()
