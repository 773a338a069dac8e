"""Serialise plain values, such as Pillow keeps in `Image.info`, without pickle.

Lists, tuples, dicts, strings, bytes, numbers, booleans, None and Pillow's rationals (TIFF resolutions) are supported,
but no subclasses of these. Other values raise TypeError; bytes that `dumps` did not write raise ValueError.
"""

from __future__ import annotations

import struct
from typing import Any, List, Tuple

from PIL.TiffImagePlugin import IFDRational

_LENGTH = struct.Struct("<I")
_TAGS = {
    type(None): b"n",
    bool: b"o",
    int: b"i",
    float: b"f",
    str: b"s",
    bytes: b"b",
    list: b"l",
    tuple: b"t",
}


def dumps(value: Any) -> bytes:
    "Return `value` as bytes; raise TypeError if it is not plain."
    parts: List[bytes] = []
    _dump(value, parts)
    return b"".join(parts)


def _dump(value: Any, parts: List[bytes]) -> None:
    kind = type(value)
    if kind in (list, tuple):
        parts += [_TAGS[kind], _LENGTH.pack(len(value))]
        for element in value:
            _dump(element, parts)
    elif kind is dict:
        parts += [b"d", _LENGTH.pack(len(value))]
        for pair in value.items():
            _dump(pair[0], parts)
            _dump(pair[1], parts)
    elif kind is IFDRational:
        parts.append(b"r")
        _dump((value.numerator, value.denominator), parts)
    elif kind in _TAGS:
        body = value if kind is bytes else struct.pack("<d", value) if kind is float else _text(value)
        parts += [_TAGS[kind], _LENGTH.pack(len(body)), body]
    else:
        raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is not a plain value")


def _text(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")


def loads(data: bytes) -> Any:
    "Return the value that `dumps` turned into `data`; raise ValueError for other bytes."
    try:
        value, end = _load(data, 0)
    except (struct.error, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ValueError("these bytes are not a plain value") from error
    if end != len(data):
        raise ValueError("these bytes are not a plain value")
    return value


def _load(data: bytes, at: int) -> Tuple[Any, int]:
    if data[at : at + 1] == b"r":
        ratio, at = _load(data, at + 1)
        return IFDRational(*ratio), at
    tag, (length,), at = data[at : at + 1], _LENGTH.unpack_from(data, at + 1), at + 5
    if tag in (b"l", b"t", b"d"):
        elements = []
        for _ in range(length * (2 if tag == b"d" else 1)):
            element, at = _load(data, at)
            elements.append(element)
        if tag == b"d":
            return dict(zip(elements[::2], elements[1::2])), at
        return (elements if tag == b"l" else tuple(elements)), at
    body, end = data[at : at + length], at + length
    if len(body) != length:
        raise ValueError("these bytes end too soon")
    if tag == b"b":
        return body, end
    if tag == b"f":
        return struct.unpack("<d", body)[0], end
    text = body.decode("utf-8", "surrogatepass")
    if tag == b"s":
        return text, end
    if tag == b"i":
        return int(text), end
    if tag == b"o":
        return text == "True", end
    if tag == b"n":
        return None, end
    raise ValueError("these bytes are not a plain value")
