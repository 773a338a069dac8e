"""Compare batches with stock fastai's: cases are made from a seed, run twice under one seed, and compared.

`run(seeds, folder)` counts what came of each case:

- "same": every batch, and the state of every random generator, is stock's within the promise (`difference`)
- "announced": the same, but a warning named the reason why stock's own code made batches of one loader
- "raised": ours raised what stock raised, at the same stage
- "different": none of these, so a fault

As a script, it takes the first seed and the one to stop at: `python tests/differential.py 0 2000`.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import PIL.Image
import torch

import memlist as m  # isort: skip - it repairs fastai, which comes next
import fastai.vision as fv
from fastai.vision import data as fv_data
from fastai.vision.gan import GANItemList

PADDINGS = ("reflection", "border", "zeros")
SIZES = ((40, 40), (64, 64), (96, 96), (60, 40), (20, 90), (33, 57), (84, 84), (48, 64))
PER_SIZE = 5  # pictures of each size
STATS = ([0.5, 0.4, 0.3, 0.2], [0.3, 0.2, 0.25, 0.5])


class Custom(fv.ImageList):
    "Return floats that are no multiples of 1/255."

    def open(self, fn: Any) -> fv.Image:
        return fv.Image(fv.open_image(fn).px * 0.37)


class Holed(fv.ImageList):
    "Return floats with NaN and infinity in some images."

    def open(self, fn: Any) -> fv.Image:
        px = fv.open_image(fn).px * 0.9
        if int(Path(fn).stem) % 2:
            px[:, 7, 5], px[:, 3, 9], px[0, 10, 10] = float("nan"), float("inf"), -float("inf")
        return fv.Image(px)


class MemoryCustom(m.InMemory, Custom):
    pass


class MemoryHoled(m.InMemory, Holed):
    pass


def make_pictures(folder: Path) -> None:
    "Write the pictures, and a mask per picture, into `folder`."
    (folder / "pictures").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(len(SIZES) * PER_SIZE):
        height, width = SIZES[i // PER_SIZE]
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / (3 + i % 5) + i) + np.cos(y / (4 + c) + i * c) for c in range(4)]
        levels = np.clip(64 * (np.stack(waves, 2) + 2), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(levels[..., :3]).save(folder / "pictures" / f"{i:03}.png")
        PIL.Image.fromarray(levels[..., 3] // 64).save(folder / "masks" / f"{i:03}.png")


# -- parameters ---------------------------------------------------------------------------------------------------


def identity(value: Any) -> Any:
    return value


def form(rng: random.Random, low: float, high: float, odd: bool) -> Any:
    "Return a parameter between `low` and `high`: a number or a pair, or in any other form if `odd`."
    a, b = sorted((rng.uniform(low, high), rng.uniform(low, high)))
    if not odd:
        return rng.choice([a, (a, b), [a, b], round(a, 1), (low, high)])
    others: List[Callable[[], Any]] = [
        lambda: np.float64(a),
        lambda: np.float32(a),
        lambda: (np.float64(a), np.float32(b)),
        lambda: torch.tensor(a),
        lambda: torch.tensor([a, b]),
        lambda: (torch.tensor(a), torch.tensor(b)),
        lambda: np.array([a, b]),
        lambda: np.array(a),
        lambda: (a,),
        lambda: (a, b, 1),
        lambda: (a, b, 4),
        lambda: (a, b, a, b),
        lambda: (),
        lambda: None,
        lambda: (None, b),
        lambda: "x",
        lambda: str(a),
        lambda: identity,
        lambda: (b, a),
        lambda: range(int(low), int(low) + 2),
        lambda: (int(low), int(high) + 1),
        lambda: True,
        lambda: complex(a, 0),
        lambda: float("nan"),
        lambda: float("inf"),
        lambda: -a,
        lambda: 0,
        lambda: ((a, b), 2),
        lambda: {"a": a},
        lambda: (bool(a), b),
    ]
    return rng.choice(others)()


def whole(rng: random.Random, low: int, high: int, odd: bool) -> Any:
    "Return a pair of whole numbers, or any other form if `odd`."
    a, b = sorted((rng.randint(low, high), rng.randint(low, high)))
    if not odd:
        return (a, b)
    others: List[Any] = [
        a, (a,), (a, b, 1), (a, b, 3), np.int64(a), (np.int64(a), np.int64(b)), torch.tensor(a), torch.tensor([a, b]),
        float(a), (a + 0.5, b + 0.5), None, range(a, b), range(a, a + 2), "x", True, (b + 1, a), -1,
        [a, b], np.array([a, b]),
    ]  # fmt: skip
    return rng.choice(others)


POSITIONS = {"row_pct": (0.0, 1.0), "col_pct": (0.0, 1.0)}
#: By the name of a transform: per parameter the function that draws its form, and the range.
PARAMETERS: Dict[str, Dict[str, Tuple[Any, Any, Any]]] = {
    "flip_lr": {},
    "dihedral": {"k": (whole, 0, 7)},
    "dihedral_affine": {"k": (whole, 0, 7)},
    "flip_affine": {},
    "rotate": {"degrees": (form, -90.0, 90.0)},
    "zoom": {"scale": (form, 0.7, 2.0), **{name: (form, *span) for name, span in POSITIONS.items()}},
    "squish": {"scale": (form, 0.6, 1.6), **{name: (form, *span) for name, span in POSITIONS.items()}},
    "symmetric_warp": {"magnitude": (form, -0.3, 0.3)},
    "perspective_warp": {"magnitude": (form, -0.2, 0.2)},
    "tilt": {"direction": (whole, 0, 3), "magnitude": (form, -0.3, 0.3)},
    "skew": {"direction": (whole, 0, 7), "magnitude": (form, -0.3, 0.3)},
    "brightness": {"change": (form, 0.1, 0.9)},
    "contrast": {"scale": (form, 0.5, 2.0)},
    "jitter": {"magnitude": (form, -0.02, 0.02)},
    "cutout": {"n_holes": (whole, 1, 3), "length": (whole, 2, 12)},
    "rgb_randomize": {"channel": (whole, 0, 2), "thresh": (form, 0.1, 0.9)},
    "pad": {"padding": (whole, 1, 4), "mode": (None, None, None)},
    "crop": {"size": (None, None, None), **{name: (form, *span) for name, span in POSITIONS.items()}},
    "crop_pad": {name: (form, *span) for name, span in POSITIONS.items()},
    "zoom_squish": {
        "scale": (None, None, None), "squish": (None, None, None), "invert": (None, None, None),
        **{name: (form, *span) for name, span in POSITIONS.items()},
    },
}  # fmt: skip
NEEDED = {"rotate": "degrees", "tilt": "direction", "skew": "direction"}
NEEDED.update(brightness="change", contrast="scale", jitter="magnitude", pad="padding", crop="size")


def special(rng: random.Random, name: str, key: str, odd: bool) -> Any:
    "Return a parameter that has a form of its own."
    if key == "mode":
        return rng.choice([*PADDINGS, *(["reflect", None, 3] if odd else [])])
    if key == "size":
        sizes = [
            16,
            (16, 20),
            [20, 16],
            *([(3, 16, 16), "16", 16.0, np.int64(16), torch.tensor([16, 16])] if odd else []),
        ]
        return rng.choice(sizes)
    n = rng.choice([8, 3, 1])
    if key == "invert":
        return rng.choice([(0.5, n), (0.5, 8), *([0.5, (0.5,), (0.5, 8, 1), None, True] if odd else [])])
    low, high = (1.0, 2.0) if key == "scale" else (0.75, 1.33)
    others = [(low, high), low, (low, high, 5), torch.ones(8), (low, high, (2, 2)), None] if odd else []
    return rng.choice([(low, high, n), (low, high, 8), *others])


def transform(rng: random.Random, oddity: float) -> Any:
    "Return one transform with random parameters, each of an odd form with probability `oddity`."
    name = rng.choice(sorted(PARAMETERS))
    kwargs: Dict[str, Any] = {}
    for key, (kind, low, high) in PARAMETERS[name].items():
        odd = rng.random() < oddity
        given = special(rng, name, key, odd) if kind is None else kind(rng, low, high, odd)
        asked = key == NEEDED.get(name) or (name == "zoom_squish" and kind is None) or key == "magnitude"
        if key == "k":  # fastai draws it without arguments
            asked = odd
            if not odd:
                continue
        if (asked and not (odd and rng.random() < 0.1)) or rng.random() < 0.6:
            kwargs[key] = given
    if name in ("rgb_randomize", "pad") and rng.random() < 0.8:  # a channel and a padding are ints, not drawn
        for key in {"channel", "padding"} & set(kwargs):
            kwargs[key] = rng.randint(0, 2)
    if name == "rgb_randomize" and not (rng.random() < oddity):
        kwargs["thresh"] = rng.choice([0.3, 0.8, 1])
    if "warp" in name and rng.random() < 0.3:
        kwargs["invert"] = rng.choice([True, False])
    p: Any = rng.choice([1.0, 0.5, 0.75, 1])
    if rng.random() < oddity:
        p = rng.choice(
            [0, True, torch.tensor(0.5), np.float64(0.5), np.float32(0.3), np.array(0.5), None, "1", (0.5,), 2]
        )
    fixed = rng.random() < 0.1
    if fixed:
        if oddity < rng.random():
            kwargs = {key: value if key == "size" else _first(value) for key, value in kwargs.items()}
        if "dihedral" in name:
            kwargs["k"] = rng.randint(0, 7)
    return getattr(fv, name, None)(**kwargs, p=p, is_random=not fixed) if hasattr(fv, name) else zoom_squish(kwargs, p)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, (tuple, list)) and value else value


def zoom_squish(kwargs: Dict[str, Any], p: Any) -> Any:
    return fv.transform.zoom_squish(**kwargs, p=p)


def transforms(rng: random.Random, oddity: float) -> Any:
    "Return the transforms of the training set: fastai's usual ones, those of TTA, or any."
    kind = rng.random()
    if kind < 0.12:
        return fv.get_transforms(max_rotate=rng.choice([0.0, 10.0, 45.0]), max_warp=rng.choice([0.0, 0.2]))[0]
    if kind < 0.3:  # as TTA, and zooms that meet the shrink exactly
        scale = rng.choice([1.25, 1.5, 1.35, 1.2, 2.0, 1.0, 0.75, 1.75])
        at = {"row_pct": rng.choice([0, 1, 0.5]), "col_pct": rng.choice([0, 1]), "is_random": False}
        return [fv.zoom(scale=scale, **at), fv.crop_pad(**at), *([fv.flip_lr(p=1.0)] if rng.random() < 0.5 else [])]
    if kind < 0.38:
        return rng.choice([[], None, fv.flip_lr(p=0.5), fv.rand_resize_crop(16), (fv.rotate(degrees=(-10, 10)),)])
    return [transform(rng, oddity) for _ in range(rng.choice([1, 1, 2, 2, 3, 4]))]


def arguments(rng: random.Random, oddity: float) -> Dict[str, Any]:
    "Return the other arguments of `transform`."
    n = rng.choice([16, 24, 32, 33, 20, 12])
    made: Dict[str, Any] = {}
    if rng.random() < 0.85:
        made["size"] = rng.choice([n, n, n, (n, n), (n, n + 7), [n + 4, n]])
        if rng.random() < oddity / 3:
            odd = [np.int64(n), (3, n, n), torch.tensor([n, n]), str(n), float(n), (n,), 0, -3, (0, n), True, (n, None)]
            made["size"] = rng.choice([*odd, np.array([n, n]), (n + 0.5, n), range(n, n + 2), None])
    if rng.random() < 0.5:
        made["resize_method"] = rng.choice([*fv.ResizeMethod, 1, 2, 3, None])
        if rng.random() < oddity / 3:
            made["resize_method"] = rng.choice([4, 0, 5, "crop", 1.0, 2.5])
    if rng.random() < 0.6:
        made["padding_mode"] = rng.choice([*PADDINGS, *(["reflect", None] if rng.random() < oddity / 3 else [])])
    if rng.random() < 0.2:
        made["mult"] = rng.choice([4, 8, None, *([2.5, 0, "4", np.int64(4)] if rng.random() < oddity else [])])
    if rng.random() < 0.12:
        made["mode"] = rng.choice(["nearest", "bilinear", *(["bicubic", None] if rng.random() < oddity else [])])
    if rng.random() < 0.1:
        made["remove_out"] = rng.choice([True, False, None])
    if rng.random() < oddity / 10:
        made["do_resolve"] = rng.choice([True, False, 0])
    return made


# -- lists --------------------------------------------------------------------------------------------------------


def dots(path: Any) -> torch.Tensor:
    return torch.tensor([[3.0, 4.0], [12.0, 13.0], [19.0, 1.0]])


def frames(path: Any) -> Any:
    n = 1 + int(Path(path).stem) % 3
    return [[[i, i + 1, 12 + i, 15.0] for i in range(n)], ["face"] * n]


def mask_of(path: Any) -> Path:
    return Path(path).parent.parent / "masks" / Path(path).name


def letter(path: Any) -> str:
    return "ab"[int(Path(path).stem) % 2]


class Kind(NamedTuple):
    "Describe a kind of dataset: its two classes, how it is labelled, and what it needs."

    ours: Any
    stock: Any
    label: Any
    targets: bool = False  # whether targets may be transformed
    ours_kwargs: Dict[str, Any] = {}  # noqa: RUF012
    stock_kwargs: Dict[str, Any] = {}  # noqa: RUF012
    collate: Any = None


KINDS = {
    "classes": Kind(m.MemoryImageList, fv.ImageList, letter),
    "masks": Kind(
        m.MemorySegmentationItemList, fv.SegmentationItemList, mask_of, True,
        {"classes": list(range(4))}, {"classes": list(range(4))},
    ),
    "images": Kind(m.MemoryImageImageList, fv.ImageImageList, fv.noop, True),
    "points": Kind(m.MemoryPointsItemList, fv.PointsItemList, dots, True),
    "boxes": Kind(m.MemoryObjectItemList, fv.ObjectItemList, frames, True, collate=fv.bb_pad_collate),
    "gan": Kind(
        GANItemList, GANItemList, fv.noop, True, {"label_cls": m.MemoryImageLabelList}, {"label_cls": fv.ImageList}
    ),
    "floats": Kind(MemoryCustom, Custom, letter),
    "holed": Kind(MemoryHoled, Holed, letter),
}  # fmt: skip


def bunch(ours: bool, start: int, folder: Path) -> Any:
    "Return the data bunch of the case `start`, ours or stock's, made by the same choices."
    rng = random.Random(start)
    oddity = rng.choice([0.0, 0.0, 0.0, 0.05, 0.1, 0.3])
    name = rng.choice(["classes"] * 5 + sorted(KINDS))
    kind = KINDS[name]
    size = rng.randrange(len(SIZES)) if rng.random() < 0.5 else None
    pictures = sorted((folder / "pictures").iterdir())
    some = rng.sample(pictures, 7) if size is None else pictures[PER_SIZE * size : PER_SIZE * (size + 1)]
    list_kwargs = {}
    if kind.label is letter and name == "classes":
        list_kwargs["convert_mode"] = rng.choice(["RGB", "RGB", "RGB", "L", "RGBA", "F"])
    tfm_y = kind.targets and rng.random() < 0.8
    tfms, other, kwargs = transforms(rng, oddity), transforms(rng, oddity), arguments(rng, oddity)
    larger = name == "images" and tfm_y and rng.random() < 0.3
    bs, normalised = rng.choice([1, 2, 4]), rng.choice([None, "x", "x", "y"])
    loader_tfms, on_device = rng.random(), rng.random() < 0.15
    cls, label_kwargs = (kind.ours, kind.ours_kwargs) if ours else (kind.stock, kind.stock_kwargs)
    lists = cls(some, path=folder, **list_kwargs).split_by_idx([0, 1]).label_from_func(kind.label, **label_kwargs)
    if rng.random() < 0.6:
        lists = lists.transform((tfms, other), tfm_y=tfm_y, **kwargs)
    else:  # as TTA sets them: fastai does not try them first
        lists = lists.transform(([], other), tfm_y=tfm_y, size=kwargs.get("size", 24) if oddity == 0.0 else 24)
        lists.train.tfms, lists.train.tfmargs = tfms, kwargs
        if tfm_y:
            lists.train.tfms_y, lists.train.tfmargs_y = tfms, kwargs
    if larger:
        lists = lists.transform_y(size=48)
    workers = int(rng.random() < 0.01)
    made = lists.databunch(
        bs=bs, num_workers=workers, device=torch.device("cpu"), no_check=rng.random() < 0.9,
        **({"batch_tfms": True} if ours else {}), **({"collate_fn": kind.collate} if kind.collate else {}),
    )  # fmt: skip
    channels = {"L": 1, "RGBA": 4, "F": 1}.get(list_kwargs.get("convert_mode", ""), 3)
    if normalised and name != "gan":
        made.normalize([one[:channels] for one in STATS], do_y=normalised == "y" and name == "images")
    if ours and on_device:  # packed for a device, which is the CPU here
        for dl in (made.train_dl, made.valid_dl):
            dl.on_device = True
    if loader_tfms < 0.03:
        made.train_dl.tfms = doubled
    elif loader_tfms < 0.06:
        made.add_tfm(doubled)
    return made


def doubled(b: Any) -> Any:
    return [b[0] * 2, b[1]]


# -- what surrounds a case ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def changed(restore: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    finally:
        restore()


class Patch:
    "Wrap one of fastai's functions, and count the calls."

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name, self.calls = owner, name, 0

    def __enter__(self) -> Patch:
        self.stock = stock = vars(self.owner)[self.name]
        patch = self

        def counted(*args: Any, **kwargs: Any) -> Any:
            patch.calls += 1
            return function(*args, **kwargs)

        function = stock.fget if isinstance(stock, property) else stock
        setattr(self.owner, self.name, property(counted, stock.fset) if isinstance(stock, property) else counted)
        return self

    def __exit__(self, *details: Any) -> None:
        setattr(self.owner, self.name, self.stock)


def patchable() -> List[Tuple[Any, str]]:
    "Return the functions of fastai's modules and the methods and properties of its classes, which may be patched."
    modules = [fv.image, fv.transform, fv_data, sys.modules["fastai.torch_core"], sys.modules["fastai.data_block"]]
    modules += [sys.modules["fastai.core"], sys.modules["fastai.basic_data"]]
    classes = (
        fv.Image, fv.ImageSegment, fv.RandTransform, fv.Transform, fv.FlowField, fv.ItemList, fv.LabelList,
        fv.DeviceDataLoader, fv.ItemBase,
    )  # fmt: skip
    function = type(identity)
    found = [
        (module, name) for module in modules for name, value in vars(module).items() if isinstance(value, function)
    ]
    for cls in classes:
        found += [
            (cls, name)
            for name, value in vars(cls).items()
            if isinstance(value, (function, property)) and name not in ("__getattr__", "__setstate__")
        ]
    # The cache is there to call these less often.
    found = [(owner, name) for owner, name in found if not name.startswith(("open", "pil2tensor"))]
    return sorted(found, key=lambda one: (one[0].__name__, one[1]))


def surroundings(rng: random.Random) -> Tuple[str, Any]:
    "Return a name and a context: nothing, a patch, or a setting of torch's."
    kind = rng.random()
    if kind < 0.65:
        return "", contextlib.nullcontext()
    if kind < 0.85:
        owner, name = rng.choice(patchable())
        return f"{owner.__name__}.{name}", Patch(owner, name)
    return rng.choice(settings())


def settings() -> List[Tuple[str, Any]]:
    "Return settings of torch's and NumPy's that may change images."

    @contextlib.contextmanager
    def dtype(wanted: torch.dtype) -> Iterator[None]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(wanted)
        with changed(lambda: torch.set_default_dtype(before)):
            yield

    @contextlib.contextmanager
    def threads(n: int) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        with changed(lambda: torch.set_num_threads(before)):
            yield

    @contextlib.contextmanager
    def deterministic() -> Iterator[None]:
        torch.use_deterministic_algorithms(True)
        with changed(lambda: torch.use_deterministic_algorithms(False)):
            yield

    @contextlib.contextmanager
    def device(name: str) -> Iterator[None]:
        torch.set_default_device(name)
        with changed(lambda: torch.set_default_device(None)):
            yield

    @contextlib.contextmanager
    def precision() -> Iterator[None]:
        torch.set_float32_matmul_precision("medium")
        with changed(lambda: torch.set_float32_matmul_precision("highest")):
            yield

    made = [
        ("float64", dtype(torch.float64)), ("float16", dtype(torch.float16)), ("float64", dtype(torch.float64)),
        ("threads", threads(2)), ("grad", torch.no_grad()), ("grad", torch.enable_grad()),
        ("deterministic", deterministic()), ("numpy", np.errstate(all="raise")),
    ]  # fmt: skip
    if hasattr(torch, "set_default_device"):
        made += [("device", device("meta")), ("precision", precision())]
    if hasattr(torch, "autocast") and hasattr(torch, "is_autocast_cpu_enabled"):
        made.append(("autocast", torch.autocast("cpu", dtype=torch.bfloat16)))
    return made


# -- comparison ---------------------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    "Hold what came of one side of a case: batches, or what was raised at which stage, and the generators' states."

    batches: List[Any]
    raised: str
    generators: List[Any]
    announced: List[str]
    calls: int


def outcome(ours: bool, start: int, folder: Path) -> Outcome:
    "Run one side of the case `start`."
    rng = random.Random(-start - 1)
    context = surroundings(rng)[1]
    late = rng.random() < 0.5  # whether the surroundings change only after the loader was made
    batches: List[Any] = []
    raised, stage = "", "built"
    reseed(start)
    with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as stack:
        warnings.simplefilter("always")
        try:
            if not late:
                stack.enter_context(context)
            data = bunch(ours, start, folder)
            if late:
                stack.enter_context(context)
            if isinstance(context, Patch):
                context.calls = 0
            reseed(start + 1)
            for k, dl in enumerate((data.train_dl, data.valid_dl, data.train_dl)):
                stage = f"epoch {k}"
                batches += dl
        except Exception as error:
            raised = f"{stage}: {type(error).__name__}"
    told = [str(one.message) for one in caught if "batch_tfms" in str(one.message)]
    return Outcome(batches, raised, generators(), told, context.calls if isinstance(context, Patch) else 0)


def reseed(n: int) -> None:
    random.seed(n)
    np.random.seed(n % 2**32)
    torch.manual_seed(n)


def generators() -> List[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def difference(ours: Any, stock: Any) -> str:
    """Return how a batch differs from stock's beyond the promise; an empty string if it does not.

    The promise: 99.9 % of the values of images within 1e-3 and a mean difference of at most 1e-5; all else is equal.
    """
    if type(ours) is not type(stock):
        return f"{type(ours).__name__}, and not {type(stock).__name__}"
    if isinstance(stock, (tuple, list)):
        if len(ours) != len(stock):
            return "lengths differ"
        return next((found for found in (difference(*pair) for pair in zip(ours, stock)) if found), "")
    if not isinstance(stock, torch.Tensor):
        return "" if bool(np.all(ours == stock)) else "values differ"
    if ours.dtype != stock.dtype or ours.shape != stock.shape or ours.device != stock.device:
        return f"{ours.dtype} {tuple(ours.shape)}, and not {stock.dtype} {tuple(stock.shape)}"
    if stock.device.type == "meta":
        return ""
    same = (ours == stock) | ((ours != ours) & (stock != stock))
    if bool(same.all()):
        return ""
    if stock.dim() != 4:
        return f"{int((~same).sum())} of {same.numel()} values are not the same"
    if not stock.is_floating_point():
        share = float(same.double().mean())
        return "" if share >= 0.999 else f"only {share:.2%} of the mask is the same"
    away = torch.where(same, torch.zeros_like(stock), (ours - stock).abs()).double()
    share, mean = float((away <= 1e-3).double().mean()), float(away.mean())
    return "" if share >= 0.999 and mean <= 1e-5 else f"{share:.2%} within 1e-3, mean {mean:.1e}"


class Verdict(NamedTuple):
    "Hold what came of a case, one of `run`'s counts, and the details."

    kind: str
    details: str


def judged(start: int, folder: Path) -> Verdict:
    "Run the case `start` both ways, and compare."
    stock, ours = outcome(False, start, folder), outcome(True, start, folder)
    what = surroundings(random.Random(-start - 1))[0]
    reason = ours.announced[0] if ours.announced else ""
    details = f"seed {start} {what}: "
    if ours.raised != stock.raised:
        return Verdict("different", f"{details}raised {ours.raised or 'nothing'}, and not {stock.raised or 'nothing'}")
    if len(ours.batches) != len(stock.batches):
        return Verdict("different", f"{details}{len(ours.batches)} batches, and not {len(stock.batches)}")
    for k, (one, other) in enumerate(zip(ours.batches, stock.batches)):
        found = difference(one, other)
        if found:
            return Verdict("different", f"{details}batch {k}: {found} {reason}")
    if not stock.raised and ours.generators != stock.generators:
        return Verdict("different", f"{details}the generators' states differ {reason}")
    if stock.calls != ours.calls and not reason:
        return Verdict("different", f"{details}was called {ours.calls} times, and not {stock.calls}")
    if stock.raised:
        return Verdict("raised", f"{details}{stock.raised}")
    return Verdict("announced" if reason else "same", details + reason)


def run(seeds: Iterable[int], folder: Optional[Path] = None) -> Tuple[Counter, List[str]]:
    "Judge each case; return the counts, and the details of the cases that are different. About 50 ms per case."
    counts: Counter = Counter()
    faults: List[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "cases" if folder is None else folder
        if not place.exists():
            make_pictures(place)
        for start in seeds:
            kind, details = judged(start, place)
            counts[kind] += 1
            if kind == "different":
                faults.append(details)
    return counts, faults


if __name__ == "__main__":
    found = run(range(*(int(one) for one in sys.argv[1:3] or ("0", "2000"))))
    print(json.dumps(found))  # on the last line: fastai prints, too
