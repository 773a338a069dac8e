"""Replacing what batches made at once take the place of in fastai is noticed: stock runs it, with a warning."""

from __future__ import annotations

import sys
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, List, Set

import fastai.vision as fv
import fresh
import numpy as np
import pytest
import torch
from batch_helpers import bunches, classification, same_mask, told
from batch_helpers import masks as masks
from conftest import assert_same_data, seed
from fastai.vision import Image, ImageList, ImageSegment, get_transforms

import memlist as m
from memlist.fastai1 import patches

TFMS = get_transforms(max_rotate=30.0)
EVERYTHING = [
    *TFMS[0],
    fv.dihedral(),
    fv.dihedral_affine(),
    fv.flip_affine(p=1.0),
    fv.squish(scale=(0.7, 1.4)),
    fv.perspective_warp(magnitude=(-0.1, 0.1)),
    fv.tilt(direction=(0, 3), magnitude=0.2),
    fv.skew(direction=(0, 7), magnitude=0.2),
    fv.jitter(magnitude=0.01),
    fv.cutout(n_holes=(1, 2)),
    fv.rgb_randomize(use_on_y=False),
    fv.pad(padding=2),
    *fv.rand_resize_crop(20),
]


def codes_run(data: Any) -> Set[types.CodeType]:
    "Return the code of fastai's functions that making an epoch runs."
    found: Set[types.CodeType] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and str(frame.f_globals.get("__name__")).startswith("fastai."):
            found.add(frame.f_code)

    seed(0)
    sys.setprofile(note)
    try:
        for dl in (data.train_dl, data.valid_dl):
            list(dl)
    finally:
        sys.setprofile(None)
    return found


def within(codes: Set[types.CodeType]) -> Set[types.CodeType]:
    "Return the code inside other code, of comprehensions and inner functions."
    inner = {one for code in codes for one in code.co_consts if isinstance(one, types.CodeType)}
    return inner | within(inner) if inner else inner


def watched() -> Set[types.CodeType]:
    assert patches.replaced() == ""
    return {code for one in patches._walked()[0] for _, code, _, _ in one.parts}


def test_all_that_stock_runs_and_batches_do_not_is_watched(masks: Path) -> None:
    "The calls are recorded, with every transform: what is watched is found by reading code, not by these calls."
    left: Set[types.CodeType] = set()
    for ours, stock, label, label_kwargs in (
        (m.MemoryImageList, ImageList, None, {}),
        (m.MemorySegmentationItemList, fv.SegmentationItemList, same_mask, {"classes": list(range(4))}),
    ):

        def lists(cls: Any, label: Any = label, label_kwargs: Any = label_kwargs) -> Callable[[], Any]:
            def make() -> Any:
                split = cls.from_folder(masks).split_by_rand_pct(0.3, seed=1)
                labelled = split.label_from_func(label, **label_kwargs) if label else split.label_from_folder()
                return labelled.transform((EVERYTHING, TFMS[1]), size=20, tfm_y=label is not None)

            return make

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            mine, theirs = bunches(lists(ours), lists(stock))
            left |= codes_run(theirs) - codes_run(mine)
        assert not told(caught)
    known = watched() | {function.__code__ for function in patches.KNOWN}
    known |= within(known)
    # Opening is what the cache is for; `LabelList.__getitem__` is replaced, and looked at by its name.
    others = {"open", "open_image", "open_mask", "pil2tensor", "get", "__getitem__", "__getattr__"}
    unknown = left - known
    unknown -= within(unknown)
    assert {code for code in unknown if code.co_name not in others} == set()
    assert len(left & known) > 30


FUNCTIONS = [
    (fv.image, "_grid_sample"),
    (fv.image, "tis2hw"),
    (fv.image, "rand_bool"),
    (fv.image, "logit_"),
    (fv.image, "_get_resize_target"),
    (fv.transform, "tis2hw"),
    (fv.transform, "_find_coeffs"),
    (fv.transform, "_solve_func"),
    (fv.transform, "_apply_perspective"),
    (fv.transform, "_crop_pad_default"),
    (fv.transform, "_get_zoom_mat"),
    (fv.transform, "_affine_mult"),
    (fv.data, "normalize"),
    (sys.modules["fastai.torch_core"], "uniform"),
    (sys.modules["fastai.torch_core"], "to_data"),
    (sys.modules["fastai.core"], "recurse"),
    (Image, "affine"),
    (Image, "coord"),
    (Image, "lighting"),
    (Image, "clone"),
    (Image, "resize"),
    (Image, "__init__"),
    (Image, "data"),
    (Image, "affine_mat"),
    (Image, "logit_px"),
    (ImageSegment, "refresh"),
    (fv.RandTransform, "resolve"),
    (fv.RandTransform, "__call__"),
    (fv.Transform, "calc"),
    (fv.LabelList, "__getitem__"),
    (fv.ItemList, "__getitem__"),
    (fv.DeviceDataLoader, "proc_batch"),
    (torch.nn.functional, "grid_sample"),
    (torch.nn.functional, "interpolate"),
    (torch, "addmm"),
    (fv.image, "F"),
    (fv.transform, "np"),
]


@pytest.fixture(autouse=True)
def walked() -> None:
    "Begin with fastai as it is: what is watched is found out when it is first asked for."
    patches._walked.cache_clear()
    assert patches.replaced() == ""


def other(value: Any) -> Any:
    "Return a replacement that does the same."
    if isinstance(value, property):
        return property(lambda self: value.fget(self), value.fset)
    if isinstance(value, types.ModuleType):
        return types.SimpleNamespace(**vars(value))
    return lambda *args, **kwargs: value(*args, **kwargs)


def test_a_function_that_is_put_into_a_lent_module_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fv.transform.np, "array", other(np.array))
    assert "array" in patches.replaced()
    monkeypatch.undo()
    assert patches.replaced() == ""


@pytest.mark.parametrize("owner, name", FUNCTIONS)
def test_a_replacement_is_noticed_and_its_end_too(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert patches.replaced() == ""
    monkeypatch.setattr(owner, name, other(vars(owner)[name]))
    assert name in patches.replaced()
    patches._walked.cache_clear()  # as if it had been made before memlist was imported
    assert name in patches.replaced()
    monkeypatch.undo()
    assert patches.replaced() == ""


def test_an_attribute_that_a_subclass_gets_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls, name in ((ImageSegment, "clone"), (fv.TfmPixel, "calc"), (ImageSegment, "px")):
        monkeypatch.setattr(cls, name, other(getattr(cls, name)), raising=False)
        assert patches.replaced() == f"{cls.__name__}.{name}"
        monkeypatch.undo()


def test_code_and_constants_changed_in_place_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def code(size: Any) -> Any:
        return [size, size]

    for owner, name, value in (
        (fv.image.tis2hw, "__code__", code.__code__),
        (Image.apply_tfms, "__defaults__", (True, None, None, None, None, "zeros", "bilinear", True)),
    ):
        monkeypatch.setattr(owner, name, value)
        assert patches.replaced()
        monkeypatch.undo()
    monkeypatch.setitem(fv.transform._pad_mode_convert, "zeros", "reflect")
    for _ in range(2):
        assert patches.replaced() == "fastai.vision.transform._pad_mode_convert"
        patches._walked.cache_clear()
    monkeypatch.undo()
    assert patches.replaced() == ""


def test_what_batches_do_not_depend_on_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in (
        (Image, "show"),
        (Image, "_repr_png_"),
        (fv.image, "show_image"),
        (fv.DataBunch, "show_batch"),
        (fv.ItemList, "filter_by_func"),
        (fv.Learner, "fit"),
        (fv.data, "get_image_files"),
    ):
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: None)
    fv.TfmPixel(_twice)  # a user's own transform becomes a method of `Image`
    assert patches.replaced() == ""


def _twice(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("owner, name", [(fv.image, "_grid_sample"), (Image, "data"), (fv.transform, "_get_zoom_mat")])
def test_patched_fastai_makes_the_batches(
    owner: Any, name: str, late: bool, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Also if it is patched after the loader was made."
    stock_value = vars(owner)[name]
    changed: Any = lambda *args, **kwargs: stock_value(*args, **kwargs)  # noqa: E731
    if isinstance(stock_value, property):
        changed = property(lambda self: stock_value.fget(self) * 0.5)
    if not late:
        monkeypatch.setattr(owner, name, changed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ours, stock = bunches(*(classification(cls, photos, TFMS) for cls in (m.MemoryImageList, ImageList)))
        assert len(told(caught)) == (0 if late else 1)
        monkeypatch.setattr(owner, name, changed)
        for k in range(2):
            seed(k)
            mine = list(ours.train_dl)
            seed(k)
            for one, another in zip(mine, stock.train_dl):
                assert_same_data(one, another)
    assert len(told(caught)) == 1 and f"{name} was replaced" in told(caught)[0]


class Negative(fv.TfmPixel):
    "Do something of its own around one of fastai's functions."

    def calc(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return Image(1 - super().calc(x, *args, **kwargs).px)


@pytest.fixture
def flipped() -> Iterator[List[Any]]:
    "Return transforms that are fastai's functions, used otherwise."
    function = fv.transform.flip_lr.func
    name, known = function.__name__, vars(Image).get("flip_lr")
    function.__name__ = f"_{name}"  # `Transform` takes the first letter away
    made: List[Any] = [Negative(function)()]
    turned = fv.TfmAffine.__new__(fv.TfmAffine)
    vars(turned).update(vars(fv.rotate))
    turned.calc = lambda x, *args, **kwargs: x  # on the instance
    made.append(turned(degrees=(10.0, 20.0)))
    yield made
    function.__name__ = name
    Image.flip_lr = known


def test_a_transform_that_calculates_by_itself_runs_as_stock(photos: Path, flipped: List[Any]) -> None:
    for tfm, reason in zip(flipped, ("flip_lr is of your class Negative", "rotate has its own calc")):
        with pytest.warns(UserWarning, match=reason):
            ours, stock = bunches(*(classification(cls, photos, ([tfm], [])) for cls in (m.MemoryImageList, ImageList)))
        seed(0)
        mine = list(ours.train_dl)
        seed(0)
        for one, another in zip(mine, stock.train_dl):
            assert_same_data(one, another)


def test_a_patch_from_before_the_import_is_noticed(photos: Path) -> None:
    names = [
        "fv.image._grid_sample",
        "fv.LabelList.__getitem__",
        "torch.nn.functional.grid_sample",
        "fv.torch_core.recurse",
    ]
    program = f"""
        import torch
        torch.gesv = getattr(torch, "solve", None) or (lambda b, a: (torch.linalg.solve(a, b),))
        import fastai.vision as fv
        import fastai.torch_core, sys
        fv.torch_core = fastai.torch_core
        kept = [{", ".join(names)}]
        {"; ".join(f"{name} = lambda *args, **kwargs: kept[{k}](*args, **kwargs)" for k, name in enumerate(names))}
        import memlist as m
        from memlist.fastai1 import patches
        fv.LabelList.__getitem__ = m.fastai1.attach._stock_getitem
        print(patches.replaced())
        patches._STOCK_GETITEM = kept[1]
        fv.LabelList.__getitem__ = kept[1]
        for name, stock in zip({names[:1] + names[2:]!r}, [kept[0], *kept[2:]]):
            print(patches.replaced())
            exec(f"{{name}} = stock")
        print(repr(patches.replaced()))
    """
    done = fresh.run(textwrap.dedent(program))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "LabelList.__getitem__",
        "fastai.torch_core.recurse",
        "fastai.torch_core.recurse",
        "fastai.torch_core.recurse",
        "''",
    ]
