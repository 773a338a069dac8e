"""Repairs of fastai 1 for the stacks that came after it.

PyTorch, NumPy and pandas have moved on since fastai 1.0.61, the last fastai 1. What that broke is repaired
here, as a side effect of `import memlist`: one small function per fault, which acts only where its fault
is present. `applied()` names the repairs in force.

All of it happens inside fastai's own modules: torch, NumPy and pandas stay as they are for everybody else.
Two tools do the work:

- `_rebind` puts a new function wherever fastai holds the old one. A fastai module that is imported later
  gets the new one, too, by its `from .core import *`.
- `_lend` shows one fastai module a torch, NumPy or pandas in which a few names are exchanged. fastai's
  code then runs unchanged, where a repaired copy of it would have to follow every release.

The repairs cover what `fastai.vision` uses. `fastai.text`, `fastai.tabular` and `fastai.collab` have
faults of their own, which stay: importing those modules only to repair them would cost everybody time and
dependencies.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
import warnings
from collections.abc import Sized
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Callable, Iterator, Tuple

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

__all__ = ["applied"]


def _solve(b: torch.Tensor, a: torch.Tensor) -> Tuple[torch.Tensor]:
    """Do what `torch.solve` did, with its arguments and its result, except for the LU factors that nobody reads."""
    return (torch.linalg.solve(a, b),)


@contextmanager
def _gesv_while_importing() -> Iterator[None]:
    """Let `fastai.vision.transform` be imported where torch has neither `solve` nor `gesv`.

    It looks for one of the two while it is imported, before there is anything to repair. torch is left as it
    was.
    """
    if hasattr(torch, "solve") or hasattr(torch, "gesv"):
        yield
        return
    torch.gesv = _solve  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del torch.gesv  # type: ignore[attr-defined]


try:
    with _gesv_while_importing(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # which is fastai's own affair
        from fastai import basic_data, basic_train, core, data_block, torch_core
        from fastai.vision import data, image, interpret, learner, transform
except ModuleNotFoundError as error:
    if error.name != "pkg_resources":
        raise
    raise ImportError(
        "fastai 1 imports pkg_resources, which setuptools has dropped in version 82. "
        'To get it back: pip install "setuptools<80.9"'
    ) from error


class _Lent(ModuleType):
    """A module as one fastai module sees it: a few names exchanged, all others looked up in the original."""

    def __init__(self, original: ModuleType, exchanged: dict[str, Any]) -> None:
        super().__init__(original.__name__, original.__doc__)
        self.__dict__.update(exchanged)
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def _lend(borrower: ModuleType, name: str, **exchanged: Any) -> None:
    """Let `borrower` see the module that it calls `name` with `exchanged` in it.

    This is for modules whose `__all__` leaves `name` out. Without that, `from fastai.vision import *`
    would carry what was lent on into the user's own code.
    """
    if name in getattr(borrower, "__all__", [name]):
        raise ValueError(f"{borrower.__name__} exports its {name}")
    # The real module, not what `borrower` sees now: reloading this one must not lend what was lent.
    original = sys.modules[getattr(borrower, name).__name__]
    setattr(borrower, name, _Lent(original, exchanged))


def _rebind(old: object, new: object) -> None:
    """Put `new` in the place of `old` in all of fastai: `import *` has spread references to it."""
    for module_name, module in list(sys.modules.items()):
        if module is not None and module_name.split(".")[0] == "fastai":
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


def _is_ours(function: Callable[..., Any]) -> bool:
    """Return whether `function` is a repair already, as it is when this module is reloaded."""
    return function.__module__ == __name__


def _quietly(probe: Callable[[], Any]) -> Any:
    """Return what `probe` returns, without warnings: a stack that only warns has no fault yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return probe()


def _fails(probe: Callable[[], Any], fault: type[Exception]) -> bool:
    """Return whether `probe` raises `fault`."""
    try:
        _quietly(probe)
    except fault:
        return True
    return False


def _warns(probe: Callable[[], Any], category: type[Warning], text: str) -> bool:
    """Return whether `probe` warns with a message of this category that contains `text`."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        probe()
    return any(issubclass(one.category, category) and text in str(one.message) for one in shown)


def ragged_arrays() -> bool:
    """`np.array` raises for nested lists of unequal lengths, where it used to make an array of lists.

    Affected: multi-label classification and boxes, through `fastai.core.array`.
    The fix: where NumPy finds no common shape, `array` asks for objects, as NumPy did by itself. Boxes
    that are tensors have no such array either: then every item is kept as it is.
    """
    if not _fails(lambda: np.array([[0], [0, 0]]), ValueError):
        return False
    original = core.array
    if _is_ours(original):
        return True

    def array(a: Any, dtype: Any = None, **kwargs: Any) -> Any:
        "Same as `np.array` but also handles generators. `kwargs` are passed to `np.array` with `dtype`."
        # An iterator, such as `csv.reader`, can be read only once: a second try must not find it empty.
        if not isinstance(a, Sized) and not hasattr(a, "__array_interface__"):
            a = list(a)
        for wanted in (dtype, object):
            try:
                return original(a, dtype=wanted, **kwargs)
            except ValueError:
                if dtype not in (None, object):
                    raise
        items = np.empty(len(a), dtype=object)
        for i, item in enumerate(a):
            items[i] = item
        return items

    _rebind(original, array)
    return True


def removed_solve() -> bool:
    """`torch.solve` is gone, or is there only to raise.

    Affected: `symmetric_warp`, hence the default `get_transforms()`, and `perspective_warp`, `tilt` and
    `skew`. They are drawn at random, so that a `DataBunch` may be built well and `fit` fail later.
    The fix: `fastai.vision.transform` uses `torch.linalg.solve`.
    """
    solve = getattr(torch, "solve", None) or getattr(torch, "gesv", None)
    if solve is not None and not _fails(lambda: solve(torch.ones(1, 1), torch.eye(1)), RuntimeError):
        return False
    transform._solve_func = _solve
    return True


def refused_pickles() -> bool:
    """`torch.load` refuses whatever holds more than tensors, unless it is told otherwise.

    Affected: `load_learner`, `load_data`, `LabelLists.load_empty`, `Learner.purge`, and `Learner.load`
    of an optimizer that has NumPy numbers in it. `fit` and `fit_one_cycle` put them there, and `lr_find`
    loads what it has saved.
    The fix: the modules of these five unpickle what they are asked to load. `torch.load` itself goes on
    refusing.
    """
    probe = io.BytesIO()
    torch.save(refused_pickles, probe)  # nobody can have put this function on torch's list of safe ones
    probe.seek(0)
    if not _fails(lambda: torch.load(probe), pickle.UnpicklingError):
        return False

    def load(f: Any, *args: Any, **kwargs: Any) -> Any:
        "`torch.load` as it was: it takes any pickle."
        return torch.load(f, *args, **{"weights_only": False, **kwargs})

    for module in (basic_data, basic_train, data_block):
        _lend(module, "torch", load=load)
    return True


def removed_numpy_aliases() -> bool:
    """`np.object` and `np.float` are gone.

    Affected: `ImageBBox.create`, for boxes that come as an array, as they do where every image has
    equally many; the heat maps of `SegmentationInterpretation.show_xyz`; `_decode`, for one-hot labels.
    The fix: the modules of these three find the built-in types under the two names, which never meant
    more.
    """
    if not _fails(lambda: (np.object, np.float), AttributeError):  # type: ignore[attr-defined]
        return False
    for module in (data_block, image, interpret):
        _lend(module, "np", object=object, float=float)
    return True


def object_points() -> bool:
    """`np.array` takes tensors of equal shape apart, where it used to make an array of tensors.

    Affected: `PointsItemList`. `scale_flow` gets an array of objects, which no tensor can divide.
    The fix: `scale_flow` makes a tensor of an array first.
    """
    if _quietly(lambda: np.array([torch.zeros(1, 2)], dtype=object)).ndim == 1:
        return False
    original = image.scale_flow
    if _is_ours(original):
        return True

    def scale_flow(flow: Any, to_unit: bool = True) -> Any:
        "Scale the coords in `flow` to -1/1 or the image size depending on `to_unit`."
        if isinstance(flow.flow, np.ndarray):
            flow.flow = torch.tensor(flow.flow.tolist())
        return original(flow, to_unit)

    _rebind(original, scale_flow)
    return True


def double_matrices() -> bool:
    """`torch.tensor` makes doubles of NumPy floats, and a matrix of doubles multiplies with no floats.

    Affected: `rotate`, hence the default `get_transforms()`, in fastai 1.0.60. fastai 1.0.61 converts
    them.
    The fix: `Image.affine` gets its matrix as floats.
    """
    original = image.Image.affine
    if _is_ours(original):
        return True
    doubles = [[np.float64(i == j) for j in range(3)] for i in range(3)]
    if not _fails(lambda: original(image.Image(torch.zeros(1, 1, 1)), lambda: doubles), RuntimeError):
        return False

    def affine(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        "Equivalent to `image.affine_mat = image.affine_mat @ func()`."
        return original(self, lambda: torch_core.tensor(func(*args, **kwargs)).float())

    image.Image.affine = affine
    return True


def guessed_delimiter() -> bool:
    """`pd.read_csv(delimiter=None)` guesses the delimiter, where it used to take the comma.

    Affected: every `from_csv`, which passes None on unless told otherwise. No error tells: a file of a
    single column is cut in two at some letter that its lines have in common.
    The fix: in the modules that have a `from_csv`, None again means that no delimiter is given.
    """
    if len(_quietly(lambda: pd.read_csv(io.StringIO("a b\n1 2\n"), delimiter=None)).columns) == 1:
        return False

    def read_csv(*args: Any, delimiter: Any = None, **kwargs: Any) -> Any:
        "`pd.read_csv` as it was: a `delimiter` of None is none given."
        if delimiter is not None:
            kwargs["delimiter"] = delimiter
        return pd.read_csv(*args, **kwargs)

    for module in (data_block, data):
        _lend(module, "pd", read_csv=read_csv)
    return True


def nonzero_of_scalars() -> bool:
    """`np.nonzero` raises for a scalar, where it used to take it for an array of length 1.

    Affected: `ClassificationInterpretation.plot_multi_top_losses`, where an image has a single label.
    The fix: the module of that method has a `nonzero` that still does.
    """
    if not _fails(lambda: np.nonzero(np.array(1)), ValueError):
        return False

    def nonzero(a: Any) -> Any:
        "`np.nonzero` as it was: it takes a scalar, too."
        return np.nonzero(np.atleast_1d(a))

    _lend(learner, "np", nonzero=nonzero)
    return True


def pinned_without_accelerator() -> bool:
    """`DataLoader` warns of `pin_memory=True` where no accelerator is found.

    Affected: everybody without a GPU. fastai pins memory unless it is told otherwise, so each `fit` warns
    of an argument that nobody has given.
    The fix: where torch warns, fastai's `DataLoader` pins memory only if it is told to. Nothing was pinned
    there before.
    """
    original = basic_data.intercept_args
    if not original.__defaults__ or True not in original.__defaults__:
        return True  # this module is reloaded
    loader: Any = torch.utils.data.DataLoader([0], pin_memory=True)  # type: ignore[arg-type]
    loader.generator = torch.Generator()  # so that no number is drawn from torch's own
    if not _warns(lambda: iter(loader), UserWarning, "pin_memory"):
        return False
    original.__defaults__ = tuple(False if value is True else value for value in original.__defaults__)
    return True


def arrays_of_tensors() -> bool:
    """`np.array` warns of a tensor: it asks for an argument `copy` that torch's `__array__` does not have.

    Affected: `flip_lr`, hence the default `get_transforms()`, with a line for every process.
    The fix: `fastai.vision.transform` makes an array of a tensor by `Tensor.numpy`.
    """
    if not _warns(lambda: np.array(torch.zeros(1)), DeprecationWarning, "__array__"):
        return False

    def array(a: Any, *args: Any, **kwargs: Any) -> Any:
        "`np.array`, without a warning if it is given a tensor."
        return np.array(a.numpy() if isinstance(a, torch.Tensor) else a, *args, **kwargs)

    _lend(transform, "np", array=array)
    return True


def warned_scale_factor() -> bool:
    """`F.interpolate` warns of a `scale_factor`, whose meaning changed in torch 1.6; later versions are silent again.

    Affected: every transform that shrinks an image, with a line per image.
    The fix: `fastai.vision.image` says that it means what the present version does.
    """
    image_of_ones = torch.ones(1, 1, 4, 4)
    probe = functools.partial(functional.interpolate, image_of_ones, scale_factor=0.7, mode="area")
    if not _warns(probe, UserWarning, "recompute_scale_factor"):
        return False

    def interpolate(*args: Any, **kwargs: Any) -> Any:
        "`F.interpolate`, which is told not to compute `scale_factor` again."
        return functional.interpolate(*args, **{"recompute_scale_factor": False, **kwargs})

    _lend(image, "F", interpolate=interpolate)
    return True


REPAIRS: Tuple[Callable[[], bool], ...] = (
    ragged_arrays,
    removed_solve,
    refused_pickles,
    removed_numpy_aliases,
    object_points,
    double_matrices,
    guessed_delimiter,
    nonzero_of_scalars,
    pinned_without_accelerator,
    arrays_of_tensors,
    warned_scale_factor,
)

_IN_FORCE: Tuple[str, ...] = tuple(repair.__name__ for repair in REPAIRS if repair())


def applied() -> Tuple[str, ...]:
    """Return the names of the repairs in force; the docstring of the function of that name describes each."""
    return _IN_FORCE
