"""Notice that somebody replaced code of fastai which batches made at once do not run.

What has to be watched is read from fastai itself: `_Walk` starts at the few functions and classes that the batch path
takes the place of, and follows every name that their code uses, through fastai's modules and classes and into torch,
NumPy and the standard library. What a name should hold is read from the source of its module, so a replacement made
before memlist was imported is noticed, too.
"""

from __future__ import annotations

import ast
import builtins
import dis
import functools
import inspect
import sys
import sysconfig
import types
import warnings
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from fastai.basic_data import DeviceDataLoader
from fastai.core import Category, FloatItem, MultiCategory
from fastai.data_block import CategoryList, CategoryListBase, FloatList, ItemList, LabelList, MultiCategoryList
from fastai.torch_core import data_collate, log_uniform, rand_bool, uniform, uniform_int
from fastai.vision import image as fastai_image
from fastai.vision.data import _normalize_batch, bb_pad_collate
from fastai.vision.gan import GANItemList
from fastai.vision.image import Image, ImagePoints, ImageSegment, RandTransform, Transform

from .transforms import KNOWN

_ABSENT = object()
#: memlist's own replacements: repairs, and methods that do the same.
_OURS = "memlist.fastai1.compat", "memlist.fastai1.attach"
_LIBRARIES = {"torch", "numpy", "scipy", "PIL", "matplotlib", "pandas", "fastprogress"}
_STOCK_GETITEM = LabelList.__getitem__  # before `attach` replaces it
#: Functions that the batch path takes the place of, besides the transforms' own.
_FUNCTIONS = data_collate, bb_pad_collate, _normalize_batch, uniform, log_uniform, uniform_int, rand_bool
#: Single methods that the batch path takes the place of; the rest of their classes runs as it is.
_METHODS = (
    (LabelList, "__getitem__"),
    (ItemList, "__getitem__"),
    (ItemList, "get"),
    (CategoryListBase, "c"),
    *((cls, "get") for cls in (CategoryList, MultiCategoryList, FloatList, GANItemList)),
    *((cls, "__init__") for cls in (Category, MultiCategory, FloatItem)),
    (DeviceDataLoader, "__iter__"),
    (DeviceDataLoader, "proc_batch"),
)
# What Python itself calls.
_CALLED = {f"__{name}__" for name in ("new", "init", "post_init", "call", "eq", "getattr", "getattribute", "setattr")}
#: Classes of which the batch path takes the place, as far as the code that is followed uses their attributes.
_CLASSES = (
    Image,
    ImageSegment,
    RandTransform,
    *(cls for cls in vars(fastai_image).values() if isinstance(cls, type) and issubclass(cls, Transform)),
)


class Watched(NamedTuple):
    """Hold what a name has to hold.

    - `holder`: the module or class, by its namespace; `title` is its name in messages
    - `value`: the object, or `_ABSENT`; compared by identity, or if `literal`, by value
    - `parts`: of each function in it, its code and its defaults, which can be replaced, too
    """

    title: str
    namespace: Any
    name: str
    value: Any
    literal: bool
    parts: Tuple[Tuple[Any, Any, Any, Any], ...]

    def replaced(self) -> bool:
        "Return whether the name holds something else by now."
        _, namespace, name, wanted, literal, parts = self
        value = namespace.get(name, _ABSENT)
        if value is not wanted and not (literal and value == wanted):
            return True
        for function, code, defaults, named in parts:
            if function.__defaults__ is not defaults or function.__kwdefaults__ is not named:
                return True
            if function.__code__ is not code and function.__code__ != code:
                return True
        return False


def replaced() -> str:
    "Return the name of something that was replaced in fastai, or an empty string. Costs 50 µs, the first time 0.1 s."
    watched, found = _walked()
    if found:
        _walked.cache_clear()  # it may be put back
        return found
    return next((f"{one.title}.{one.name}" for one in watched if one.replaced()), "")


@functools.lru_cache(maxsize=1)
def _walked() -> Tuple[Tuple[Watched, ...], str]:
    "Return everything to watch, and the name of something that is replaced already, if any."
    walk = _Walk()
    return tuple(walk.watched.values()), walk.found


class _Walk:
    "Follow the names in fastai's code, and compare what they hold with the source."

    def __init__(self) -> None:
        self.watched: Dict[Tuple[int, str], Watched] = {}
        self.found = ""
        self.attributes: Set[str] = {known.method for known in KNOWN.values()}  # called by `getattr`
        self.seen: Set[Any] = set()
        self.waiting: List[Any] = []
        self.classes: List[type] = []
        self._follow_class(*_CLASSES)
        for cls, name in _METHODS:
            self._watch(cls, name)
        if not self._compare(_STOCK_GETITEM, LabelList, "__getitem__"):
            self.found = "LabelList.__getitem__"
        for function in (_STOCK_GETITEM, *_FUNCTIONS, *KNOWN):
            self.waiting.append(function)
            if function is not _STOCK_GETITEM:
                self._watch(sys.modules[_home(function)], function.__code__.co_name)
        while self.waiting:
            while self.waiting:
                self._follow(self.waiting.pop())
            for cls in self.classes:
                for name in self.attributes:
                    if hasattr(cls, name):
                        self._watch(cls, name)

    def _follow_class(self, *classes: type) -> None:
        "Watch the methods that Python itself calls, and from now on all attributes that some code uses."
        for cls in classes:
            for one in cls.__mro__:
                if one not in self.classes and one.__module__.split(".")[0] == "fastai":
                    self.classes.append(one)
                    for name in _CALLED:
                        self._watch(one, name)

    def _follow(self, function: Any) -> None:
        "Watch all names in the code of a function."
        if function.__code__ in self.seen:
            return
        self.seen.add(function.__code__)
        module = sys.modules[_home(function)]
        for chain in _chains(function.__code__):
            value: Any = None if not chain[0] else self._watch(module, chain[0])
            for name in chain[1:]:
                if isinstance(value, types.ModuleType):
                    value = self._of_module(value, name)
                elif name[:2] != "__":
                    self.attributes.add(name)

    def _of_module(self, module: types.ModuleType, name: str) -> Any:
        "Watch a name of a module, and of the original of one that `compat` lends; return what it holds."
        held, original = self._watch(module, name), vars(module).get("_original")
        if original is None:
            return held
        # What was lent may call the original's function of this name.
        real = self._watch(original, name) if name in vars(original) else None
        return held if name in vars(module) else real

    def _watch(self, holder: Any, name: str) -> Any:
        "Watch one name, compare what it holds with the source, and follow it if it is fastai's; return what it holds."
        space = vars(holder)
        if (id(holder), name) in self.watched:
            return space.get(name, _ABSENT)
        if name not in space and isinstance(holder, types.ModuleType):
            with warnings.catch_warnings():  # of what is deprecated
                warnings.simplefilter("ignore")
                getattr(holder, name, None)  # some modules hold a name once it was asked for
        value = space.get(name, _ABSENT)
        functions = list(_functions(value))
        parts = tuple((one, one.__code__, one.__defaults__, one.__kwdefaults__) for one in functions)
        wanted = _literals(holder.__name__).get(name, value) if isinstance(value, (list, dict)) else value
        made = Watched(holder.__name__, space, name, wanted, isinstance(value, (list, dict)), parts)
        self.watched[id(holder), name] = made
        origin = _imported().get(name) if holder.__name__.split(".")[0] == "fastai" else None
        is_module = isinstance(value, types.ModuleType)
        good = origin is None or (is_module and getattr(value, "_original", value) is sys.modules.get(origin))
        if not good or made.replaced() or not all(self._compare(one, holder, name) for one in functions):
            self.found = self.found or f"{holder.__name__}.{name}"
        if isinstance(value, type) and value.__module__.startswith("fastai.vision") and value is not ImagePoints:
            self._follow_class(value)
        self.waiting += [one for one in functions if _home(one).split(".")[0] == "fastai"]
        return getattr(builtins, name, None) if value is _ABSENT else value

    def _compare(self, function: Any, holder: Any, name: str) -> bool:
        "Return whether a function is the one that its module's source defines."
        home, code = _home(function), function.__code__
        if home.split(".")[0] != "fastai":
            return home in _OURS or _is_library(home)
        if code.co_filename == "<string>" and code.co_name in _CALLED:  # made by `dataclass`
            return True
        codes = _codes(home)
        # Methods may have other names than their functions; what a module holds has its own.
        named = isinstance(holder, type) or code.co_name in (name, "<lambda>")
        return codes is None or (code in codes and named)


def _functions(value: Any) -> Iterator[Any]:
    "Yield the Python functions that an attribute is made of."
    if isinstance(value, types.FunctionType):
        yield value
        if _home(value) in _OURS:  # a repair that calls what it repairs
            for cell in value.__closure__ or ():
                yield from _functions(cell.cell_contents)
    elif isinstance(value, property):
        yield from (one for one in (value.fget, value.fset) if isinstance(one, types.FunctionType))
    elif isinstance(value, (classmethod, staticmethod, types.MethodType)):
        yield from _functions(value.__func__)


def _home(function: Any) -> str:
    "Return the name of the module that a function belongs to, whatever the function says of itself."
    return str(function.__globals__.get("__name__", function.__module__))


@functools.lru_cache(maxsize=None)
def _is_library(home: str) -> bool:
    "Return whether a module belongs to a library that fastai uses, or to the standard library."
    top = home.split(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    standard = file.startswith(sysconfig.get_paths()["stdlib"]) and "-packages" not in file
    return top in _LIBRARIES or standard


def _chains(code: types.CodeType) -> Iterator[List[str]]:
    "Yield each global name that code uses, with the attributes taken from it; others follow an empty name."
    chain = [""]
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield chain
            chain = [step.argval]
        elif isinstance(step.argval, str) and ("ATTR" in step.opname or step.opname == "LOAD_METHOD"):
            chain = [*chain, step.argval]
        elif step.opname not in ("PRECALL", "CACHE", "PUSH_NULL"):
            yield chain
            chain = [""]
    yield chain
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _chains(inner)


@functools.lru_cache(maxsize=None)
def _codes(module: str) -> Optional[Set[types.CodeType]]:
    "Return all code that the source of a module compiles to; None if there is no source."
    found: Set[types.CodeType] = set()
    try:
        waiting = [sys.modules[module].__spec__.loader.get_code(module)]  # type: ignore[union-attr]
    except (ImportError, AttributeError, OSError, KeyError):
        return None
    while waiting:
        code = waiting.pop()
        found.add(code)
        waiting += [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return found


@functools.lru_cache(maxsize=None)
def _literals(module: str) -> Dict[str, Any]:
    "Return the constants of a module that its source writes out."
    found: Dict[str, Any] = {}
    for one in _tree(module).body:
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            try:
                found[one.targets[0].id] = ast.literal_eval(one.value)
            except ValueError:
                continue
    return found


@functools.lru_cache(maxsize=None)
def _imported() -> Dict[str, str]:
    "Return the modules that fastai imports under a name of their own, by that name."
    found = {}
    for module in ("fastai.imports.core", "fastai.imports.torch", "fastai.core", "fastai.torch_core"):
        for one in ast.walk(_tree(module)):
            if isinstance(one, ast.Import):
                found.update({alias.asname or alias.name: alias.name for alias in one.names})
    return found


def _tree(module: str) -> ast.Module:
    "Return the syntax tree of a module; an empty one if there is no source."
    try:
        return ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError):
        return ast.parse("")
