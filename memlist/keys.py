"""Keys: what decides the pixels of an item, as bytes that are equal in every process.

A key names the item (for a file, its absolute path) and how it is decoded. For a user's own `open` that is the code of
the list's classes and the values that the list carries along, so a cell that is edited and run again never meets the
pixels of its former self. What can't be put in a key is not cached.
"""

from __future__ import annotations

import enum
import functools
import os
import random
import re
import sys
import sysconfig
import types
from contextlib import suppress
from hashlib import blake2b
from pathlib import PurePath
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Set, Tuple, Union

import numpy as np
import torch

GENERATORS = (random.Random, np.random.RandomState, np.random.Generator, torch.Generator)
_INSTALLED = {os.path.realpath(sysconfig.get_paths()[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_INSTALLED.add(os.path.dirname(os.path.realpath(__file__)))
Seen = Dict[int, Tuple[bytes, Any]]
_SCALARS = (type(None), bool, int, float, complex, str, bytes)
# What draws where nobody sees it when it is made inside a function.
_HIDDEN_DRAWS = {"default_rng", "RandomState", "SystemRandom", "urandom", "Generator"}
# Values that can't change under us: a token made of these alone need not be made again.
FROZEN = (*_SCALARS, PurePath, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
# Arrays beyond this are known by identity from one read to the next: hashing them would cost more than decoding.
LARGE = 1 << 16


class Unkeyable(TypeError):
    "A value that can't be put in a key; `value` says which."

    def __init__(self, value: Any) -> None:
        super().__init__(f"a {type(value).__name__} can't be put in a key")
        self.value = value


def file_key(item: Any) -> bytes:
    """The file that `item` names, as stock `open_image` would open it; raises Unkeyable where it names none.

    `str` and `Path` of one file are one key. A `..` is resolved on disk, since what it means depends on links.
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
    "Any item, for an `open` of the user's own, which may read more out of a string than the file that it names."
    if isinstance(item, (str, os.PathLike)):
        name = os.fspath(item)
        if isinstance(name, str):
            # Not `abspath`: only `open` knows whether 'a/./b' is a path.
            return b"s" + _encoded(name if os.path.isabs(name) else os.path.join(os.getcwd(), name))
    return b"v" + token([item])


def _encoded(name: Union[str, bytes]) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        raise Unkeyable(name) from None


def token(values: Iterable[Any]) -> bytes:
    "16 bytes that differ when any of `values` does; raises Unkeyable."
    parts: List[bytes] = []
    seen: Seen = {}
    for value in values:
        _feed(parts, value, seen)
    return blake2b(b"".join(parts), digest_size=16).digest()


class Watched(NamedTuple):
    "A value that a token was made of, where it was found, and the token of what may change inside it."

    space: Any
    name: str
    value: Any
    token: Optional[bytes]

    def same(self) -> bool:
        "Whether it is what it was."
        known = isinstance(self.space, Mapping)
        now = self.space.get(self.name) if known else getattr(self.space, self.name, None)
        if now is self.value and self.token is None:
            return True
        return self.token is not None and type(now) is type(self.value) and token([now]) == self.token


def watch(space: Any, name: str, value: Any) -> Watched:
    "Remember `value`, under `name` in a dict or an object, so that `same` can tell whether it has changed."
    size = value.numel() * value.element_size() if isinstance(value, torch.Tensor) else getattr(value, "nbytes", 0)
    large = isinstance(value, (np.ndarray, torch.Tensor)) and size > LARGE
    return Watched(space, name, value, None if large or isinstance(value, FROZEN) else token([value]))


def watch_globals(functions: Iterable[types.FunctionType]) -> List[Watched]:
    "What `functions` of a user's own, and those that they name, read of their modules' globals."
    found: List[Watched] = []
    queue, seen = list(functions), set()
    while queue:
        function = queue.pop()
        if id(function) in seen or is_library(function.__module__):
            continue
        seen.add(id(function))
        for name in _names(function.__code__) & set(function.__globals__):
            value = function.__globals__[name]
            found.append(watch(function.__globals__, name, value))
            if isinstance(value, types.FunctionType):
                queue.append(value)
    return found


def watch_class(cls: type, stock: Iterable[str]) -> List[Watched]:
    "The attributes of a user's classes, and what their functions read."
    found: List[Watched] = []
    for base in cls.__mro__[:-1]:
        if base.__module__.split(".")[0] in stock or is_library(base.__module__):
            continue
        for name, value in vars(base).items():
            if name.startswith("__"):
                continue
            with suppress(Unkeyable):  # as in the token itself, which raises where it matters
                found.append(watch(vars(base), name, value))
            if isinstance(value, types.FunctionType):
                found += watch_globals([value])
    return found


def class_token(cls: type, stock: Iterable[str]) -> bytes:
    "The code and constants of `cls` and its bases, but for those whose top package is in `stock`."
    parts: List[bytes] = []
    for base in cls.__mro__[:-1]:
        parts.append(f"class {_module(base)}.{base.__qualname__};".encode())
        if base.__module__.split(".")[0] in stock or is_library(base.__module__):
            continue
        for name, value in sorted(vars(base).items()):
            if name.startswith("__") and name.endswith("__") and name not in ("__init__", "__call__"):
                continue
            try:
                part: List[bytes] = [name.encode()]
                _feed(part, value, {})
                parts += part
            except Unkeyable as error:  # a class attribute is seldom what pixels depend on, but its code is
                if (
                    isinstance(error.value, GENERATORS)
                    or callable(value)
                    or isinstance(value, (staticmethod, property))
                ):
                    raise
    return blake2b(b"".join(parts), digest_size=16).digest()


def _feed(made: List[bytes], value: Any, seen: Seen) -> None:
    kind = type(value)
    if kind in _SCALARS:
        made.append(f"{kind.__name__} {value!r};".encode("utf-8", "surrogatepass"))
        return
    if id(value) in seen:  # met before: its digest, or inside itself
        made.append(seen[id(value)][0])
        return
    seen[id(value)] = b"again;", value  # kept, so that nobody else gets its id
    parts: List[bytes] = []
    _feed_parts(parts, value, kind, seen)
    digest = blake2b(b"".join(parts), digest_size=16).digest()
    seen[id(value)] = digest, value
    made.append(digest)


def _feed_parts(parts: List[bytes], value: Any, kind: type, seen: Seen) -> None:
    # What holds its own random state draws where nobody sees it: never the same pixels twice.
    if isinstance(value, GENERATORS):
        raise Unkeyable(value)
    parts.append(f"{_module(kind)}.{kind.__qualname__}(".encode())
    if isinstance(value, PurePath):
        parts.append(_encoded(str(value)))
    elif isinstance(value, enum.Enum):
        parts.append(value.name.encode())
    elif isinstance(value, torch.Tensor):
        _feed(parts, value.detach().cpu().numpy(), seen)
    elif isinstance(value, np.ndarray) and value.dtype.hasobject:
        _feed(parts, [value.shape, value.tolist()], seen)
    elif isinstance(value, (np.ndarray, np.generic)):
        shape = f"{value.dtype.str}{value.shape}".encode()
        parts.append(shape + blake2b(np.ascontiguousarray(value).tobytes()).digest())
    elif isinstance(value, types.FunctionType):
        _feed_function(parts, value, seen)
    elif isinstance(value, types.MethodType):
        _feed(parts, value.__func__, seen)
        _feed(parts, value.__self__, seen)
    elif isinstance(value, (staticmethod, classmethod)):
        _feed(parts, value.__func__, seen)
    elif isinstance(value, property):
        _feed(parts, value.fget, seen)
    elif isinstance(value, functools.partial):
        _feed(parts, [value.func, value.args, value.keywords], seen)
    elif isinstance(value, re.Pattern):
        parts.append(repr((value.pattern, value.flags)).encode())
    elif isinstance(value, type) and not is_library(value.__module__):
        parts.append(class_token(value, ()))
    elif isinstance(value, (type, types.BuiltinFunctionType, np.ufunc)):
        parts.append(f"{getattr(value, '__module__', '')}.{value.__name__}".encode())
    elif isinstance(value, types.ModuleType):
        parts.append(value.__name__.encode())
    elif isinstance(value, types.CodeType):
        _feed_code(parts, value, seen)
    else:
        _feed_object(parts, value, seen)
    parts.append(b")")


def _feed_object(parts: List[bytes], value: Any, seen: Seen) -> None:
    "Containers by their elements, other objects by their attributes."
    known = False
    if isinstance(value, dict):
        known = True
        for pair in value.items():
            _feed(parts, pair, seen)
    elif isinstance(value, (list, tuple)):
        known = True
        for element in value:
            _feed(parts, element, seen)
    elif isinstance(value, (set, frozenset)):
        known = True
        for element in sorted(value, key=repr):
            _feed(parts, element, seen)
    attributes: Dict[str, Any] = getattr(value, "__dict__", {})
    if not is_library(type(value).__module__):
        parts.append(class_token(type(value), ()))
    if not known and not hasattr(value, "__dict__"):
        raise Unkeyable(value)
    for name, attribute in sorted(attributes.items()):
        parts.append(name.encode())
        _feed(parts, attribute, seen)


def _feed_function(parts: List[bytes], function: types.FunctionType, seen: Seen) -> None:
    """A function by its code, defaults, closure, and all that it names in its module.

    A library's functions go by name alone: they do not change within a session.
    """
    parts.append(f"{_module(function)}.{function.__qualname__}".encode())
    if not is_library(function.__module__) and _names(function.__code__) & _HIDDEN_DRAWS:
        raise Unkeyable(function)
    if is_library(function.__module__) and not function.__closure__:
        for name in function.__code__.co_names:  # but for what a user has put into the library
            named = function.__globals__.get(name)
            if isinstance(named, functools.partial) or not is_library(getattr(named, "__module__", None) or "builtins"):
                _feed(parts, [name, named], seen)
        return
    _feed_code(parts, function.__code__, seen)
    _feed(parts, function.__defaults__, seen)
    _feed(parts, function.__kwdefaults__, seen)
    for cell in function.__closure__ or ():
        try:
            contents = cell.cell_contents
        except ValueError:  # an empty cell
            parts.append(b"empty;")
        else:
            if not (isinstance(contents, type) and function.__qualname__.startswith(contents.__qualname__ + ".")):
                _feed(parts, contents, seen)  # all but the `__class__` of `super()`
    names = sorted(_names(function.__code__))
    for name in names:
        if name not in function.__globals__:
            continue
        named = function.__globals__[name]
        parts.append(name.encode())
        _feed(parts, named, seen)
        if isinstance(named, types.ModuleType) and not is_library(named.__name__):
            for inner in names:
                if inner in vars(named):
                    _feed(parts, [inner, vars(named)[inner]], seen)


def _names(code: types.CodeType) -> Set[str]:
    "The global names and attributes that `code` and the functions inside it use."
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def _module(thing: Any) -> str:
    "Its module; a spawned process calls the script by another name."
    name = str(getattr(thing, "__module__", ""))
    return "__main__" if name == "__mp_main__" else name


@functools.lru_cache(maxsize=None)
def is_library(module: str) -> bool:
    "Whether `module` is of the standard library or installed, and not the user's own, which is edited and reloaded."
    top = module.split(".")[0]
    if top in ("__main__", "__mp_main__"):
        return False
    found = sys.modules.get(top)
    name = getattr(found, "__file__", None) or (list(getattr(found, "__path__", [])) or [""])[0]
    if not name:  # built in; or of no file, as in a notebook or `exec`
        return top in sys.builtin_module_names
    return any(os.path.realpath(name).startswith(os.path.join(folder, "")) for folder in _INSTALLED)


def _feed_code(parts: List[bytes], code: types.CodeType, seen: Seen) -> None:
    parts += [code.co_code, repr(code.co_names).encode(), repr(code.co_varnames).encode()]
    for constant in code.co_consts:
        _feed(parts, constant, seen)
