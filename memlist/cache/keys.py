"""Keys: the bytes that identify the image of an item. No key depends on code."""

from __future__ import annotations

import datetime
import os
import sys
from hashlib import blake2b
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, Callable, Optional, Tuple, Union

import numpy as np

from . import plain

#: Returns what stands in a key for a string that may name a file.
Named = Callable[[Any], Any]
PATHS = (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)


class Unkeyable(TypeError):
    "Raised for an item that no key can identify, because it is neither plain data nor an array."

    def __init__(self, value: Any) -> None:
        kind = type(value)
        text = "is not supported in a key. Numbers, strings, paths, dates, arrays, and tuples and lists of these are"
        super().__init__(f"a {kind.__module__}.{kind.__qualname__} {text}")


def file_key(item: Any) -> bytes:
    """Return the key of the file that `item` names, as stock `open_image` would open it; raise Unkeyable.

    A `str` and a `Path` of the same file have the same key. A `..` is resolved on disk, because links affect it.
    """
    if not isinstance(item, (str, os.PathLike)):
        raise Unkeyable(item)
    name = os.fspath(item)
    if isinstance(name, bytes):
        return _encoded(os.path.abspath(name))
    if name[:1] != "/" or "//" in name or "/." in name or name[-1] == "/":  # else it is normalised already
        name = os.path.realpath(name) if ".." in name else os.path.abspath(name)
    return _encoded(name)


def item_key(item: Any) -> bytes:
    """Return the key of any item, for a user's own `open`; raise Unkeyable.

    Items of the same type and value have the same key. A relative path is taken from the current directory, also in a
    tuple, and so is every other string: it may be part of a path.
    """
    kind = type(item)
    if kind in (str, np.str_) or kind in PATHS:
        name = str(item)
        return kind.__name__.encode() + b" " + _encoded(name if name[:1] == "/" else os.path.join(os.getcwd(), name))
    return _key(item, _from_here)


def value_key(value: Any) -> bytes:
    """Return bytes that differ if two values differ in type or content; raise Unkeyable.

    Plain data (see `plain`), paths, dates, arrays, tensors and data frames are supported, and tuples (named ones too),
    lists and dicts of these. Objects of other classes are refused: a subclass of `int` may hold more than its value.
    """
    return _key(value, None)


def _key(value: Any, named: Optional[Named]) -> bytes:
    try:
        return plain.dumps(_plain(value, named))
    except (TypeError, RecursionError):
        raise Unkeyable(value) from None


def _from_here(name: Union[str, bytes]) -> Tuple[str, Union[str, bytes]]:
    """Return a string as an absolute path; as it is, if it can't be one because it is empty or has a null in it.

    It is in a tuple, so that records of earlier versions, which did not look at files in tuples, are not found.
    """
    if isinstance(name, str):
        absolute = name[:1] in ("/", "") or "\0" in name
        return "name", name if absolute else os.path.join(os.getcwd(), name)
    absolute = name[:1] in (b"/", b"") or b"\0" in name
    return "name", name if absolute else os.path.join(os.getcwdb(), name)


def _plain(value: Any, named: Optional[Named]) -> Any:
    """Replace values that `plain` does not support with tuples, whose first element names the original type.

    `named` replaces each string that may name a file.
    """
    kind = type(value)
    if named and kind in (str, bytes):
        return named(value)
    if kind is list:
        return [_plain(one, named) for one in value]
    if kind is tuple:
        return ("tuple", *[_plain(one, named) for one in value])
    if isinstance(value, tuple) and hasattr(kind, "_fields") and not hasattr(value, "__dict__"):
        return ("named", kind.__module__, kind.__qualname__, *[_plain(one, named) for one in value])
    pandas, torch = sys.modules.get("pandas"), sys.modules.get("torch")  # if not imported, no value has their types
    if kind in (datetime.date, datetime.datetime) or (pandas and kind is pandas.Timestamp):
        return ("time", kind.__name__, value.isoformat(), str(getattr(value, "tzinfo", None)))
    if kind is dict:
        return [("dict",), *((_plain(key, named), _plain(one, named)) for key, one in value.items())]
    if kind in PATHS:
        return ("path", kind.__name__, named(str(value)) if named else str(value))
    if pandas and isinstance(value, (pandas.DataFrame, pandas.Series)):
        frame = value.to_frame() if isinstance(value, pandas.Series) else value
        columns = [_plain(frame.iloc[:, i].to_numpy(), named) for i in range(frame.shape[1])]
        index = _plain(frame.index.to_numpy(), named)
        return ("frame", kind.__name__, [_plain(one, named) for one in frame.columns], index, columns)
    if torch and kind is torch.Tensor:
        return ("tensor", value.requires_grad, _plain(value.detach().cpu().numpy(), None))
    if kind is np.ndarray and value.dtype.hasobject:
        return ("objects", value.shape, [_plain(one, named) for one in value.flat])
    if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        if named and (value.dtype.kind in "US" or value.dtype.names):
            dtype = str(value.dtype) if value.dtype.names else value.dtype.kind  # its length is that of a relative path
            return ("names", kind.__name__, dtype, value.shape, _plain(value.tolist(), named))
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
    "Return a digest of `parts`, 16 bytes; raise Unkeyable."
    return blake2b(value_key(parts), digest_size=16).digest()
