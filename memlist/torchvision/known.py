"""The transforms that are known, and whether their code is still torchvision's own.

A transform is known if its class is exactly one of torchvision's, and nothing of the code that runs was replaced: no
method on the object, no hook, no function of torchvision's modules, no method of Pillow's images.
"""

from __future__ import annotations

import importlib
import warnings
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

import PIL.Image
import PIL.ImageOps
import torch
import torchvision
import torchvision.datasets.folder
import torchvision.transforms.functional
import torchvision.transforms.transforms
from torch import nn


def _module(name: str) -> Optional[ModuleType]:
    "Return a module of torchvision; None if this version has none of this name."
    with suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the second generation called itself a beta once
        return importlib.import_module(f"torchvision.{name}")
    return None


V1 = torchvision.transforms.transforms
V2 = _module("transforms.v2")
if not hasattr(getattr(V2, "Transform", None), "make_params"):  # its early versions are left to torchvision
    V2 = None
tv_tensors: Any = _module("tv_tensors")
V2_FORWARD: Any = getattr(V2, "Transform", None) and V2.Transform.forward  # type: ignore[union-attr]
FUNCTIONAL_PIL: Any = _module("transforms._functional_pil") or _module("transforms.functional_pil")

# What a transform does, by the name of its class; both generations use the same names.
CONTAINER, GEOMETRY, CONVERSION, VALUES = "container", "geometry", "conversion", "values"
KINDS: Dict[str, str] = {
    "Compose": CONTAINER,
    "Resize": GEOMETRY,
    "CenterCrop": GEOMETRY,
    "RandomResizedCrop": GEOMETRY,
    "RandomCrop": GEOMETRY,
    "RandomHorizontalFlip": GEOMETRY,
    "RandomVerticalFlip": GEOMETRY,
    "ToTensor": CONVERSION,
    "PILToTensor": CONVERSION,
    "ToImage": CONVERSION,
    "ToDtype": VALUES,
    "ConvertImageDtype": VALUES,
    "Normalize": VALUES,
    "ToPureTensor": VALUES,
}


class KnownClass(NamedTuple):
    "A known class: what it does, whether it is of the second generation, and the names that an object may not replace."

    kind: str
    v2: bool
    methods: Set[str]


def _classes() -> Iterator[Tuple[type, KnownClass]]:
    for module in (V1, V2):
        for name, kind in KINDS.items():
            cls = getattr(module, name, None)
            if isinstance(cls, type) and cls.__module__.startswith("torchvision."):
                names = {n for n in dir(cls) if callable(getattr(cls, n)) and n not in ("__class__",)}
                yield cls, KnownClass(kind, module is V2, names)
    yield (
        nn.Sequential,
        KnownClass(CONTAINER, False, {n for n in dir(nn.Sequential) if callable(getattr(nn.Sequential, n))}),
    )


class Library:
    """The code of torchvision and Pillow that known transforms run, as it was when this object was made.

    `unchanged` compares it with the present one: some hundred names, in some 20 µs.
    """

    def __init__(self) -> None:
        self.classes: Dict[type, KnownClass] = dict(_classes())
        self._names: List[Tuple[Mapping[Any, Any], Any, Any]] = []
        self.replaced = ""
        for name in ("functional", "_functional_pil", "_functional_tensor", "functional_pil", "functional_tensor"):
            self._add_module(_module(f"transforms.{name}"))
        for name in ("_geometry", "_meta", "_misc", "_type_conversion", "_utils"):
            self._add_module(_module(f"transforms.v2.functional.{name}"))
        self._add_module(_module("transforms.v2._utils"))
        self._add_module(_module("transforms.v2._geometry"))
        self._add_module(_module("transforms._utils"))
        self._add_module(V1)
        for cls in self.classes:
            for base in cls.__mro__[:-1]:
                if base is not nn.Module or cls is nn.Sequential:
                    self._add_class(base)
        for name in _PILLOW:
            if name in vars(PIL.Image.Image):
                self._add(vars(PIL.Image.Image), name, vars(PIL.Image.Image)[name])
        self._add(vars(PIL.Image), "open", PIL.Image.open)
        self._add(vars(PIL.ImageOps), "expand", PIL.ImageOps.expand)
        for functional, kernels in getattr(_module("transforms.v2.functional._utils"), "_KERNEL_REGISTRY", {}).items():
            if functional.__name__ in ("resize", "crop", "center_crop", "resized_crop", "pad", *_FLIPS, *_CONVERSIONS):
                for kind, kernel in kernels.items():
                    self._add(kernels, kind, kernel)

    def unchanged(self) -> bool:
        "Return whether all of it is as it was, and was torchvision's own then."
        hooks = nn.modules.module
        if self.replaced or hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return False
        return all(names.get(name) is value for names, name, value in self._names)

    def _add_module(self, module: Optional[ModuleType]) -> None:
        for name, value in vars(module).items() if module is not None else ():
            if isinstance(value, FunctionType):
                self._add(vars(module), name, value)

    def _add_class(self, cls: type) -> None:
        for name, value in vars(cls).items():
            if isinstance(value, (FunctionType, staticmethod, classmethod, property)):
                self._add(vars(cls), name, value)

    def _add(self, names: Mapping[Any, Any], name: Any, value: Any) -> None:
        function = getattr(value, "fget", getattr(value, "__func__", value))
        if str(getattr(function, "__module__", "torch")).split(".")[0] not in _LIBRARIES:
            self.replaced = str(name)
        self._names.append((names, name, value))


# Who may have defined a function that torchvision's modules hold.
_LIBRARIES = {"torchvision", "torch", "PIL", "numpy", "typing", "functools", "warnings", "contextlib", "collections"}
# The methods of Pillow's images that torchvision calls for the known transforms, and those that these call.
_PILLOW = "crop", "resize", "transpose", "convert", "copy", "load", "tobytes", "getbands", "paste", "_new", "_crop"
_FLIPS = "horizontal_flip", "vertical_flip"
_CONVERSIONS = "to_dtype", "normalize", "pil_to_tensor", "to_image"


def is_plain(transform: Any, known: KnownClass) -> bool:
    "Return whether an object of a known class runs the code of its class: nothing replaced on it, and no hooks."
    attributes = vars(transform)
    if not known.methods.isdisjoint(attributes):
        return False
    children = known.kind == CONTAINER
    return not any(attributes.get(name) for name in _OTHER_CODE if not (children and name == "_modules"))


# What a module runs besides its own methods, or instead of them.
_OTHER_CODE = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_modules", "_parameters", "_buffers", "_compiled_call_impl"),
)


LIBRARY = Library()
_FOLDER = torchvision.datasets.folder
_LOADERS = _FOLDER.default_loader, _FOLDER.pil_loader
STOCK_GETITEM = _FOLDER.DatasetFolder.__getitem__


def on_cpu() -> bool:
    "Return whether new tensors are made on the CPU: not inside `with torch.device(...)` of another."
    return torch.empty(0).device.type == "cpu"


def is_stock_loader(loader: Any) -> bool:
    "Return whether `loader` is torchvision's own, which opens a file with Pillow and converts it to RGB."
    return loader in _LOADERS and loader.__module__ == _FOLDER.__name__


def loads_by_pillow() -> bool:
    "Return whether torchvision's own loader does what it did when this module was imported, and uses Pillow."
    return bool(torchvision.get_image_backend() == "PIL" and _FOLDER.pil_loader is _LOADERS[1])


def is_stock_getitem(dataset: Any) -> bool:
    "Return whether `dataset` makes its items by `DatasetFolder`'s own code."
    own = type(dataset).__getitem__ is STOCK_GETITEM and "__getitem__" not in vars(dataset)
    return own and STOCK_GETITEM.__module__ == _FOLDER.__name__
