"""Know fastai's own code, and see whether any of it has been replaced.

Images from memory, and batches made at once, are equal to fastai's only as long as fastai's own code would have made
them. So everything that they stand in for is compared with what it was when this module was imported.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import CodeType, MethodType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
import torchvision.transforms.functional
from fastai import imports
from fastai.data import core as data_core
from fastai.data import load
from fastai.data import transforms as data_transforms
from fastai.vision import augment
from fastai.vision import core as vision_core
from fastai.vision import data as vision_data
from fasttransform import Pipeline, Transform
from fasttransform import transform as transforms
from plum import NotFoundLookupError
from torch.utils.data._utils import collate

PILBase, PILImage, PILMask = vision_core.PILBase, vision_core.PILImage, vision_core.PILMask
DataLoader, TfmdDL, DataLoaders = load.DataLoader, data_core.TfmdDL, data_core.DataLoaders
Datasets, TfmdLists = data_core.Datasets, data_core.TfmdLists
RandTransform = augment.RandTransform
L = data_core.L

#: fastai's classes of images, and of what they are turned into.
_IMAGES = PILBase, PILImage, vision_core.PILImageBW, PILMask
_TENSORS = tuple(cls._tensor_cls for cls in _IMAGES[1:])
#: What a subclass of these may have of its own: it does not matter for batches, or is looked up where it matters.
_HARMLESS = {
    *("_open_args", "_show_args", "_tensor_cls", "create", "show", "__repr__", "__module__", "__doc__", "__qualname__"),
    *("__annotations__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__annotate_func__"),
    *("__annotations_cache__", "__annotate__", "__signature__"),
}
#: Classes of transforms that run on one image and that are known.
_GEOMETRY = augment.Resize, augment.RandomResizedCrop, augment.RandomCrop, augment.CropPad
_TURNS = augment.FlipItem, augment.DihedralItem
#: The methods of a loader that make a batch.
_LOADING = (
    "create_batches",
    "do_item",
    "create_item",
    "create_batch",
    "do_batch",
    "chunkify",
    "retain",
    "prebatched",
)


class Name(NamedTuple):
    "A name, the object or module that has it, and what it was bound to."

    owner: Any
    name: str
    value: Any

    def same(self) -> bool:
        "Return whether it is still bound to the same object."
        return vars(self.owner).get(self.name) is self.value


@functools.lru_cache(maxsize=None)
def sample(kind: Any) -> Any:
    "Return an object of a class of images or tensors: plum finds functions by objects, not by classes."
    return kind(PIL.Image.new("L", (1, 1))) if issubclass(kind, PILBase) else torch.empty(0).as_subclass(kind)


#: Functions that return what they are given; fastai puts them where a user gave none.
_NOTHING = transforms.noop, imports.noop


def encoder(f: Any, one: Any) -> Optional[Callable[..., Any]]:
    "Return the function by which the transform `f` encodes the object `one`; None if it leaves it alone."
    found = getattr(f, "encodes", None)
    if found is None:
        return None
    try:
        function, args = (found._f, (f, one)) if isinstance(found, MethodType) else (found, (one,))  # type: ignore[attr-defined]
        function = function._resolve_method_with_cache(args)[0]
    except NotFoundLookupError:
        return None
    except AttributeError:  # it is no function of plum's, which fastai's own code can't call
        return found  # type: ignore[no-any-return]
    return None if function in _NOTHING else function


def _opening() -> Iterator[Name]:
    "Yield the names that opening an image depends on."
    for name in ("create", "__init__", "__new__"):
        if name in vars(PILBase):
            yield Name(PILBase, name, vars(PILBase)[name])
    for owner, name in ((vision_core, "load_image"), (PIL.Image, "open"), (PIL.Image.Image, "convert")):
        yield Name(owner, name, vars(owner)[name])
    yield Name(PIL.ImageFile.ImageFile, "load", vars(PIL.ImageFile.ImageFile)["load"])
    for name in ("_new", "tobytes", "__array_interface__"):
        if name in vars(PIL.Image.Image):
            yield Name(PIL.Image.Image, name, vars(PIL.Image.Image)[name])
    for name in ("__call__", "_call", "_do_call"):
        yield Name(Transform, name, vars(Transform)[name])


def _making() -> Iterator[Name]:
    "Yield the names that making a batch depends on."
    for name in ("crop", "resize", "transpose", "size", "crop_pad", "_do_crop_pad", "flip_lr"):
        yield Name(PIL.Image.Image, name, vars(PIL.Image.Image)[name])
    yield Name(PILImage, "dihedral", vars(PILImage)["dihedral"])
    for name in ("_get_sz", "_process_sz", "tvpad", "random", "math", "operator", "fastuple"):
        yield Name(augment, name, vars(augment)[name])
    yield Name(torchvision.transforms.functional, "pad", torchvision.transforms.functional.pad)
    yield Name(vision_core, "image2tensor", vision_core.image2tensor)
    yield Name(vision_core, "tensor", vars(vision_core)["tensor"])
    yield Name(vision_data, "clip_remove_empty", vision_data.clip_remove_empty)
    for name in ("fa_collate", "default_collate", "chunked", "collate_error", "retain_types"):
        yield Name(load, name, vars(load)[name])
    yield Name(collate, "collate_tensor_fn", collate.collate_tensor_fn)
    yield Name(torch, "stack", torch.stack)
    yield Name(transforms, "compose_tfms", transforms.compose_tfms)
    yield Name(Pipeline, "__call__", vars(Pipeline)["__call__"])
    yield Name(RandTransform, "__call__", vars(RandTransform)["__call__"])
    for cls in (Datasets, TfmdLists):
        yield Name(cls, "__getitem__", vars(cls)["__getitem__"])
    yield Name(TfmdLists, "_after_item", vars(TfmdLists)["_after_item"])


def _own(value: Any) -> bool:
    "Return whether a function comes from the files of the library whose module it names."
    function = getattr(value, "__func__", getattr(value, "fget", value))
    code = getattr(function, "__code__", None)
    if code is None:
        return True
    packages = ("fastai", "fasttransform", "fastcore", "torch", "torchvision", "PIL")
    parts = Path(code.co_filename).parts
    return any(package in parts for package in packages)


class Stock:
    """Fastai's own code, as it was when this object was made.

    - `encodes`: the functions that encode an image, of transforms that are known
    - `tensors`: those of `ToTensor`
    - `draws`: the functions that draw, once per item
    - `loading`: the methods of a `DataLoader` that make a batch
    - `members`: what each class of images has of its own
    """

    def __init__(self) -> None:
        self.opening: List[Name] = list(_opening())
        self.making: List[Name] = list(_making())
        scaler = vision_core.PointScaler
        known = [cls(1) for cls in (*_GEOMETRY, *_TURNS, scaler)]
        self.encodes = {encoder(f, sample(kind)) for f in known for kind in (PILImage, PILMask)}
        self.tensors = {encoder(vision_core.ToTensor(), sample(kind)) for kind in (PILImage, PILMask)}
        classes = (RandTransform, *_GEOMETRY, *_TURNS)
        self.draws = {vars(cls)["before_call"] for cls in classes if "before_call" in vars(cls)}
        self.loading: Dict[str, Any] = {name: vars(DataLoader)[name] for name in _LOADING}
        self.members: Dict[type, Dict[str, Any]] = {cls: dict(vars(cls)) for cls in _IMAGES}
        everything = [*(one.value for one in self.opening + self.making), *self.encodes, *self.tensors, *self.draws]
        self._own = all(map(_own, [*everything, *self.loading.values()]))

    def opens(self) -> bool:
        "Return whether images are opened by fastai's and Pillow's own code."
        return self._own and all(one.same() for one in self.opening)

    def replaced(self) -> str:
        "Return the name of something that was replaced and that batches depend on; an empty string if nothing was."
        if not self._own:
            return "a function of fastai's"
        stack = collate.default_collate_fn_map.get(torch.Tensor) is collate.collate_tensor_fn
        names = (f"{_called(one.owner)}.{one.name}" for one in self.opening + self.making if not one.same())
        return next(names, "" if stack else "the collate function of tensors")

    def overridden(self, kind: type) -> str:
        "Return the name of something that images of `kind` do in a way of their own; an empty string if nothing."
        for cls in kind.__mro__[: kind.__mro__.index(PIL.Image.Image)]:
            own = self.members.get(cls, {})
            for name, value in list(vars(cls).items()):
                changed = name not in _HARMLESS and own.get(name, _NOTHING) is not value
                if changed and (name.startswith("__") or hasattr(PILBase, name)):
                    return f"{cls.__name__}.{name}"
        tensors = getattr(kind, "_tensor_cls", None)
        return "" if tensors in _TENSORS else f"{kind.__name__}._tensor_cls"


STOCK = Stock()


def _called(owner: Any) -> str:
    return getattr(owner, "__qualname__", owner.__name__).rpartition("torch.")[2]


def opened_by(f: Any) -> Optional[type]:
    """Return the class of images that a transform opens by fastai's own `create`; None if it does anything else.

    Such a transform is `Transform(PILImage.create)`, which is what `ImageBlock` and `MaskBlock` put into a pipeline.
    """
    if type(f) is not Transform or "decodes" in vars(f) or "setups" in vars(f) or "encodes" not in vars(f):
        return None
    methods = f.encodes.methods
    bound = methods[0].implementation if len(methods) == 1 else None
    if not isinstance(bound, MethodType) or not isinstance(bound.__self__, type):
        return None
    cls = bound.__self__
    own = vars(PILBase)["create"].__func__
    return cls if issubclass(cls, PILBase) and bound.__func__ is own and own is create_of(cls) else None


def create_of(cls: type) -> Any:
    "Return the function that opens images of `cls`."
    made = getattr(cls, "create", None)
    if isinstance(made, Transform):  # fastai wraps that of masks
        methods = made.encodes.methods
        made = methods[0].implementation if len(methods) == 1 else None
    return getattr(made, "__func__", None)


def mode_of(cls: Any) -> Optional[str]:
    "Return the mode that images of `cls` are converted to; None if they are opened in another way."
    given = cls._open_args
    mode = given.get("mode") if isinstance(given, dict) and len(given) == 1 else None
    return mode if isinstance(mode, str) else None


def does_nothing(f: Any) -> bool:
    "Return whether a transform returns what it is given, whatever that is."
    if type(f) is not Transform or "_do_call" in vars(f) or "_call" in vars(f):
        return False
    return "encodes" in vars(f) and all(one.implementation in _NOTHING for one in f.encodes.methods)


def is_own_getter(f: Any) -> bool:
    "Return whether a transform is one of fastai's own that picks a part of an item, and none that runs other code."
    return does_nothing(f) or type(f) in _GETTERS


_GETTERS = data_transforms.ItemGetter, data_transforms.AttrGetter, data_transforms.ColReader


# The code of the generator that `DataLoader.sample` returns.
_SAMPLING = tuple(one for one in DataLoader.sample.__code__.co_consts if isinstance(one, CodeType))


def takes_from_list(dl: Any, samples: Any) -> bool:
    "Return whether indices come from a list by fastai's own code, so that taking them early changes nothing."
    own = getattr(samples, "gi_code", None) in _SAMPLING
    return own and type(vars(dl).get("_DataLoader__idxs")) in (list, tuple, range, L, np.ndarray)


def split_of(ds: Any) -> Tuple[Any, ...]:
    "Return the lists of a dataset, one per part of an item; none if it is not one of fastai's own."
    if type(ds) is Datasets and "__getitem__" not in vars(ds):
        lists = tuple(ds.tls)
    else:
        lists = (ds,)
    return lists if all(type(tl) is TfmdLists and "_after_item" not in vars(tl) for tl in lists) else ()
