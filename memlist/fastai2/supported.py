"""Find out whether the batches of a loader can be made at once, or why not.

A transform is known if all that it does to an image is a function of fastai's own that is known, whatever its class is
called: the functions that would be called are looked up as fastai looks them up. What it does to other parts of an
item, such as labels and points, does not matter: fastai's own code does it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from fastai.vision.data import bb_pad
from fasttransform import Pipeline, Transform

from ..resampling import supported
from .opening import FromMemory
from .stock import STOCK, PILMask, RandTransform, does_nothing, encoder, mode_of, sample, split_of


class Unknown(Exception):
    "Raised with the reason why batches can't be made at once."


class Stage(NamedTuple):
    """Hold a transform of a pipeline, as it is to be called for one batch.

    - `draws`: whether it draws before each item
    - `split_idx`: the side of the split; `skipped`: whether it does nothing on that side
    - `encoders`: for each class of objects the function that it calls; None if it leaves them alone
    """

    f: Any
    draws: bool
    split_idx: Any
    skipped: bool
    encoders: Dict[type, Optional[Callable[..., Any]]]

    def encoder(self, kind: type, one: Any = None) -> Optional[Callable[..., Any]]:
        "Return the function that is called for objects of `kind`, such as `one`; None if there is none."
        if kind not in self.encoders:
            self.encoders[kind] = encoder(self.f, sample(kind) if one is None else one)
        return self.encoders[kind]


class Part(NamedTuple):
    """Hold how one part of an item is made.

    - `tl`: its list; `before`: what comes before the image is opened, or all there is
    - `opening`: what opens the image; None for a part that is no image from memory; `how`: see `FromMemory.how`
    - `after`: what comes after that
    """

    tl: Any
    before: Sequence[Any]
    opening: Optional[FromMemory]
    how: Tuple[str, bool]
    after: Sequence[Stage]


class Plan(NamedTuple):
    "Hold how the items of one batch are made: their parts, and what is done to all parts; `tuples`: as one tuple."

    parts: Sequence[Part]
    stages: Sequence[Stage]
    tuples: bool


def loads_as_stock(dl: Any) -> str:
    "Return the name of a method of the loader that is not fastai's own and that batches depend on; or nothing."
    cls = type(dl)
    bases = [base for base in cls.__mro__ if not base.__module__.startswith(f"{__package__}.")]
    for name, own in STOCK.loading.items():
        found = next(vars(base)[name] for base in bases if name in vars(base))
        if found is not own or name in vars(dl):
            return f"{cls.__name__}.{name}"
    return ""


def examined(dl: Any) -> Plan:
    "Return how the next batch of `dl` is made; raise `Unknown`, with all reasons, if that can't be done at once."
    replaced = STOCK.replaced()
    if replaced:
        raise Unknown(f"{replaced} was replaced")
    lists = split_of(dl.dataset)
    if not lists:
        raise Unknown(f"its dataset is a {type(dl.dataset).__name__}")
    if not dl.indexed or dl.bs is None:
        raise Unknown("it has no batches of indexed items")
    unknown: List[str] = []
    parts = [_part(tl, unknown) for tl in lists]
    if all(part.opening is None for part in parts):
        raise Unknown("no part of its items is an image from memory")
    stages = _stages(_transforms(dl.after_item), dl.after_item.split_idx, unknown)
    for part in parts:
        if part.opening is not None:
            _follow(part.opening, [*part.after, *stages], unknown)
    _check_before_batch(dl.before_batch, unknown)
    if unknown:
        raise Unknown(" and ".join(dict.fromkeys(unknown)))
    return Plan(parts, stages, len(parts) > 1 or type(dl.dataset).__name__ == "Datasets")


def _part(tl: Any, unknown: List[str]) -> Part:
    "Return how a part of an item is made; add to `unknown` what is not known of that."
    pipeline = tl.tfms
    fs: List[Any] = list(_transforms(pipeline))
    k = next((k for k, f in enumerate(fs) if type(f) is FromMemory), None)
    before = [f for f in fs[:k] if not does_nothing(f)]
    if k is None:
        return Part(tl, before, None, ("", False), ())
    how = fs[k].how()
    if how is None:
        raise Unknown(f"what opens images of {fs[k].kind.__name__} was replaced")
    return Part(tl, before, fs[k], how, _stages(fs[k + 1 :], pipeline.split_idx, unknown))


def _transforms(pipeline: Any) -> Sequence[Any]:
    if type(pipeline) is not Pipeline or "__call__" in vars(pipeline):
        raise Unknown(f"{getattr(pipeline, '__name__', type(pipeline).__name__)} is not a Pipeline")
    return pipeline.fs  # type: ignore[no-any-return]


def _stages(fs: Sequence[Any], split_idx: Any, unknown: List[str]) -> List[Stage]:
    "Return how each transform is called; add to `unknown` those for which that is not known."
    made = []
    for f in fs:
        try:
            made.append(_stage(f, split_idx))
        except Unknown as why:
            unknown.append(str(why))
    return made


def _stage(f: Any, split_idx: Any) -> Stage:
    "Return how a transform is called; raise `Unknown` if not only its functions for images decide what it does."
    cls = type(f)
    own = Transform.__call__, RandTransform.__call__
    if not isinstance(f, Transform) or cls.__call__ not in own or cls._call is not Transform._call:
        raise Unknown(_name(f))
    draws = cls.__call__ is RandTransform.__call__
    if cls._do_call is not Transform._do_call or not _REPLACED.isdisjoint(vars(f)):
        raise Unknown(_name(f))
    if draws and cls.before_call not in STOCK.draws:  # type: ignore[attr-defined]
        raise Unknown(_name(f))
    return Stage(f, draws, split_idx, f.split_idx is not None and split_idx != f.split_idx, {})


_REPLACED = frozenset(("__call__", "_call", "_do_call", "before_call"))


def _follow(opening: FromMemory, stages: Sequence[Stage], unknown: List[str]) -> None:
    "Follow an image through the stages; add to `unknown` what is not known. Raises `Unknown` for an unknown image."
    kind, mode, made = opening.kind, mode_of(opening.kind), False
    if mode not in _MODES or (issubclass(kind, PILMask) and mode != "L"):
        raise Unknown(f"{kind.__name__} opens images of mode {mode}")
    if not supported(mode):
        raise Unknown(f"images of mode {mode}")
    own = STOCK.overridden(kind)
    if own:
        raise Unknown(own)
    for stage in stages:
        found = stage.encoder(kind)
        if found is None or stage.skipped:
            continue
        if found in STOCK.tensors and not made:
            kind, made = kind._tensor_cls, True  # type: ignore[attr-defined]
        elif found not in STOCK.encodes or made:
            unknown.append(_name(stage.f))
    if not made and not unknown:
        unknown.append("its images are not turned into tensors")


_MODES = "RGB", "L", "RGBA"


def _check_before_batch(pipeline: Any, unknown: List[str]) -> None:
    for f in _transforms(pipeline):
        found = encoder(f, []) if type(f) is Transform else f
        function = found.func if isinstance(found, partial) else found
        if found is not None and function is not bb_pad:
            unknown.append(f"{_name(f)} in before_batch")


def _name(f: Any) -> str:
    name = getattr(f, "_name", type(f).__name__)
    return f"the transform {name}" if isinstance(f, Transform) else f"{name} as a transform"
