"""The loader of `databunch(batch_tfms=True)`: whole batches from the stores, drawn as stock fastai draws, made at once.

A batch begins as a list of indices. For each in turn its input and target are opened and their transforms' random
parameters drawn, in stock's order; then all images are made together. On a CPU that happens right there, in the worker
or the main process, straight from the store's bytes; for a GPU the bytes are gathered and made there. What can't be
done so goes stock's way, an image or a dataset at a time, and a message says which and why.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from fastai.basic_data import DataBunch, DeviceDataLoader
from fastai.core import ItemBase, defaults, listify
from fastai.data_block import ItemList, LabelList, LabelLists, MixedItemList
from fastai.torch_core import data_collate, to_device
from fastai.vision import image as fastai_image
from fastai.vision.data import _normalize_batch, bb_pad_collate
from fastai.vision.image import Image, ImagePoints, ImageSegment, RandTransform, ResizeMethod, Transform
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ..batch import render
from ..batch.buffers import Buffers, SharedBuffers, leased
from ..batch.pixels import Pixels as Bytes
from ..batch.render import Pixels, Source
from ..cache.messages import warn_user
from . import draws, geometry
from .draws import Drawn, Pipeline, Unknown
from .lists import lists_of, parts
from .messages import named
from .mixin import InMemory
from .reader import Reader

LOADERS = "train_dl", "valid_dl", "fix_dl", "single_dl", "test_dl"  # of a data bunch
COLLATES = (data_collate, bb_pad_collate)
_NORMALIZE = (("mean", torch.empty(0, 0)), ("std", torch.empty(0, 0)), ("do_x", True), ("do_y", False))
_UNTOUCHED = Pipeline(
    steps=(),
    size=None,
    method=1,
    mult=None,
    padding="reflection",
    sampling="reflection",
    mode="bilinear",
    fit=False,
    late=False,
    calls=(),
)
Norm = Tuple[np.ndarray, np.ndarray]
# What fastai does to an image, as it was at import: who exchanges a part of it wants another image.
_KNOWN = [
    (owner, name, getattr(owner, name, None))
    for owner, names in (
        (Image, ("apply_tfms", "clone", "refresh", "lighting", "affine", "coord", "pixel", "resize", "px", "flow")),
        (ImageSegment, ("apply_tfms", "clone", "refresh", "lighting", "data")),
        (RandTransform, ("resolve", "__call__")),
        (Transform, ("__call__", "calc")),
        (fastai_image, ("_affine_grid", "_affine_mult", "_resolve_tfms", "_get_resize_target", "rand_bool", "logit_")),
    )
    for name in names
]
_GETITEM = f"{__package__}.attach"


class Job(NamedTuple):
    """One image to make: where its pixels are, whether it is a mask, its transforms and what was drawn for them."""

    source: Any  # a `Source` or `Bytes`
    mask: bool
    way: Pipeline = _UNTOUCHED
    row: Sequence[Any] = ()
    late: Optional[List[Any]] = None


class Packed(NamedTuple):
    "Images that are to be made on a device: what to do, and the bytes."

    plan: geometry.Plan
    pixels: Pixels
    mask: bool

    def make(self, device: torch.device) -> Tensor:
        pixels = self.pixels._replace(data=self.pixels.data.to(device, non_blocking=True))
        dtype = torch.int64 if self.mask else torch.float32
        size = (len(self.plan.rows), pixels.channels, self.plan.height, self.plan.width)
        return render.render(self.plan, pixels, torch.empty(size, dtype=dtype, device=device))

    def pin_memory(self) -> Packed:
        data = self.pixels.data
        return self if data.is_pinned() else self._replace(pixels=self.pixels._replace(data=data.pin_memory()))


class Batch:
    """A batch on its way from the process that gathered it.

    `x` and `y` are tensors, what stock's collating makes of other targets, or `Packed`; `form`, list or tuple, is what
    the pair would be in stock. `normalised` tells whether the first of the loader's transforms has been applied, `lent`
    which of the two is a worker's `SharedBuffers`'.
    """

    def __init__(
        self, x: Any, y: Any, form: type, normalised: bool = False, lent: Tuple[bool, bool] = (False, False)
    ) -> None:
        self.x, self.y, self.form, self.normalised, self.lent = x, y, form, normalised, lent

    def _lease(self) -> None:
        "In the process that it was sent to: have its memory go back when it is no longer needed."
        lent, self.lent = self.lent, (False, False)
        self.x, self.y = (_leased(one) if its else one for one, its in zip((self.x, self.y), lent))

    def pin_memory(self) -> Batch:
        from torch.utils.data._utils.pin_memory import pin_memory

        self._lease()
        # Not handed to torch as it is: `pin_memory` would take a named tuple apart.
        x, y = (
            one.pin_memory() if isinstance(one, Packed) else pin_memory(one)  # type: ignore[no-untyped-call]
            for one in (self.x, self.y)
        )
        return Batch(x, y, self.form, self.normalised)

    def on(self, device: torch.device) -> Any:
        "The pair, on `device`."
        self._lease()
        x, y = (one.make(device) if isinstance(one, Packed) else to_device(one, device) for one in (self.x, self.y))
        return self.form((x, y))


def _leased(one: Any) -> Any:
    if isinstance(one, Packed):
        return one._replace(pixels=one.pixels._replace(data=leased(one.pixels.data)))
    return leased(one)


class Indices(torch.utils.data.Dataset):  # type: ignore[type-arg]
    "What an inner loader goes over: item `i` of it is `i`; for all else it is the dataset."

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: Any) -> Any:
        return i

    def __getattr__(self, name: str) -> Any:
        if name[:2] == "__" or name == "dataset":  # which a pickled one lacks at first
            raise AttributeError(name)
        return getattr(self.dataset, name)


class _Stub(ItemBase):
    "Stands for an image where stock collates what goes with it."

    def __init__(self) -> None:
        super().__init__(torch.empty(0))


class Collate:
    """From indices into a `LabelList` to a batch, in the process that calls it.

    `norm`: mean and one over standard deviation, by channel, to be applied to inputs as they are made; or None.
    """

    def __init__(self, ds: Any, collate_fn: Any, on_device: bool, norm: Optional[Norm] = None) -> None:
        self.ds, self.collate_fn, self.on_device, self.norm = ds, collate_fn, on_device, norm
        # Of a process that makes its batches itself: helpers, and memory to use again.
        self.threads: Optional[ThreadPoolExecutor] = None
        self.buffers: Optional[Buffers] = None
        self.shared: Optional[SharedBuffers] = None  # of a worker
        self._memo: Any = ([], None)

    def __getstate__(self) -> Dict[str, Any]:
        return {**vars(self), "threads": None, "buffers": None, "shared": None, "_memo": ([], None)}

    def __call__(self, indices: Sequence[int]) -> Any:
        try:
            ways = self._ways()
        except Unknown:
            ways = None
        if ways is None or self.ds.item is not None:
            return self.collate_fn([self.ds[i] for i in indices])
        stores = [il.store for il in parts(self.ds.x, self.ds.y)]
        before = [store.generation for store in stores]
        x, y = self._opened(indices, *ways)
        sides = [_Side(x, self.norm), _Side(y)]
        self._say_odd(x[0] if x else None)
        made = [side.make(self) for side in sides]
        if before != [store.generation for store in stores]:
            # Somebody purged, and some bytes may have been others already: once more, from memory of our own.
            for side, il in zip(sides, (self.ds.x, self.ds.y)):
                side.read_again(il, indices)
            self.shared = None  # what has been made so far will not be sent
            made = [side.make(self) for side in sides]
        return self._collated(sides, made)

    def _say_odd(self, item: Any) -> None:
        "Say once that the inputs are images that stock has to make: by the first of them."
        known = isinstance(item, (Job, ImagePoints)) or type(item).__module__.startswith("fastai.")
        odd = isinstance(item, ItemBase) and _source(item) is None and (isinstance(item, Image) or not known)
        if (
            odd
            and not isinstance(item, ImagePoints)
            and isinstance(self.ds.x, InMemory)
            and self.ds.x.notes().note(b"odd images")
        ):
            warn_user(not_batched(self.ds, _what_is_odd(item)))

    def _ways(self) -> Tuple[Optional[Pipeline], Optional[Pipeline]]:
        "The pipelines of the dataset, made anew when anything that they are made of is not what it was."
        seen = _made_of(self.ds)
        known, ways = self._memo
        if seen is None or len(seen) != len(known) or not all(a is b for a, b in zip(seen, known)):
            ways = pipelines(self.ds)
            self._memo = (seen or [], ways)
        return ways

    def _opened(
        self, indices: Sequence[int], x_way: Optional[Pipeline], y_way: Optional[Pipeline]
    ) -> Tuple[List[Any], List[Any]]:
        "Items and targets, in turn: a `Job` where an image is to be made, else what stock makes of it."
        ds = self.ds
        plain = all(type(i) is int for i in indices)
        readers = [_reader(il, plain) for il in (ds.x, ds.y)]
        read_x, read_y = readers
        reduces = getattr(ds.x, "max_size", None) is not None
        transformed, tfm_y = bool(ds.tfms or ds.tfmargs), bool(hasattr(ds, "tfms_y") and ds.tfm_y)
        # Targets follow what their inputs drew; or what stock has drawn, where stock does the inputs.
        y_ways = {own: y_way and y_way.for_targets(x_way if own else None) for own in (True, False)}
        xs: List[Any] = []
        ys: List[Any] = []
        row: Any = None
        for i in indices:
            x, y = read_x(i), read_y(i)
            if reduces and isinstance(y, ImagePoints):
                y.flow.size = x.size
            source, row = _source(x), None
            if source is not None:
                if transformed and x_way is not None:
                    row = x_way.draw()
                    x = Job(*source, x_way, row, x_way.draw_late(row, source[0].shape))
                else:
                    x = Job(*source)
            elif transformed:
                x = x.apply_tfms(ds.tfms, **ds.tfmargs)
            source = _source(y)
            if tfm_y:
                target = None if source is None else _target(source, y_ways[row is not None], row or [])
                if target is None:
                    if row is not None:
                        _resolve(x_way, row)
                    target = _plain(y).apply_tfms(ds.tfms_y, **{**ds.tfmargs_y, "do_resolve": False})
                y = target
            elif source is not None:
                y = Job(*source)
            xs.append(x)
            ys.append(0 if y is None else y)
        for one in readers:
            if isinstance(one, Reader):
                one.close()
        if row is not None:
            _resolve(x_way, row)
        return xs, ys

    def _collated(self, sides: Sequence[_Side], made: List[Any]) -> Any:
        "What stock's collating makes of the rest, with the images put in."
        stubs = [[_Stub()] * len(side.items) if one is not None else side.plain() for side, one in zip(sides, made)]
        plain = getattr(self.collate_fn, "func", self.collate_fn)
        if plain is data_collate:
            x, y = (one if one is not None else data_collate(items) for one, items in zip(made, stubs))
            form: type = list
        else:
            x, y = pair = self.collate_fn(list(zip(*stubs)))
            form = type(pair)
            x, y = (one if one is not None else other for one, other in zip(made, (x, y)))
        normalised = any(side.normalised for side in sides)
        lent = (made[0] is not None, made[1] is not None) if self.shared is not None else (False, False)
        if not normalised and not any(lent) and not any(isinstance(one, Packed) for one in (x, y)):
            return form((x, y))
        return Batch(x, y, form, normalised, lent)

    def empty(self, shape: Tuple[int, ...], dtype: Any) -> Tensor:
        "Memory for a batch: in a worker, memory that the main process will see, so that it need not be copied."
        if get_worker_info() is None or self.ds is None:
            return torch.empty(shape, dtype=dtype) if self.buffers is None else self.buffers.empty(shape, dtype)
        if self.shared is None:
            self.shared = SharedBuffers()
        return self.shared.empty(shape, dtype)

    def map(self, function: Callable[[Any], None], which: np.ndarray, work: int) -> None:
        "`function` of parts of `which`, on as many threads as torch would use, where there is `work` enough."
        n = min(torch.get_num_threads(), len(which)) if self.threads is not None and work > _WORTH_THREADS else 1
        if n <= 1:
            function(which)
            return
        assert self.threads is not None
        first, *others = np.array_split(which, n)
        waiting = [self.threads.submit(function, part) for part in others]
        try:
            function(first)
        finally:  # also where Ctrl-C strikes: they write into memory that would be somebody else's next
            wait(waiting)
        for one in waiting:
            one.result()


# Values to make below which a second thread costs more than it saves.
_WORTH_THREADS = 1 << 19


class _Side:
    "The inputs or the targets of a batch."

    def __init__(self, items: List[Any], norm: Optional[Norm] = None) -> None:
        self.items, self.norm = items, norm
        jobs = [one for one in items if isinstance(one, Job)]
        # A list of a user's own may give images of several kinds, and other things: stock decides what that makes.
        alike = len({(id(job.way), job.mask, job.source.array.shape[2]) for job in jobs}) == 1
        self.whole = alike and len(jobs) == len(items)
        fits = self.whole and not jobs[0].mask and norm is not None and len(norm[0]) == jobs[0].source.array.shape[2]
        self.normalised = fits

    def make(self, collate: Collate) -> Any:
        "The batch of images; None where stock has to collate."
        return self._batch(self.items, collate, self.norm if self.normalised else None) if self.whole else None

    def plain(self) -> List[Any]:
        "The items for stock to collate."
        return [self._item(one) if isinstance(one, Job) else one for one in self.items]

    def _item(self, job: Job) -> Image:
        px = self._batch([job], Collate(None, None, False), None)[0]
        return ImageSegment(px.float()) if job.mask else Image(px)

    def _batch(self, jobs: List[Job], collate: Collate, norm: Optional[Norm]) -> Any:
        mask, channels = jobs[0].mask, jobs[0].source.array.shape[2]
        dtype = torch.int64 if mask else torch.float32
        drawn = jobs[0].way.drawn([job.row for job in jobs], [job.late for job in jobs])
        if any(step.name == "pad" for step in jobs[0].way.steps):
            return self._padded(jobs, drawn, collate, norm, dtype)
        plan = geometry.plan(jobs[0].way, drawn, [job.source.shape for job in jobs], mask)
        if collate.on_device:
            return Packed(plan, gathered([job.source for job in jobs], collate), mask)
        out = collate.empty((len(jobs), channels, plan.height, plan.width), dtype)
        render.on_cpu(plan, [job.source for job in jobs], out, norm, collate.map)
        return out

    def _padded(
        self, jobs: List[Job], drawn: Sequence[Drawn], collate: Collate, norm: Optional[Norm], dtype: Any
    ) -> Tensor:
        "Image by image, each in as many passes as its paddings ask for; always on the CPU."
        out: Optional[Tensor] = None
        for b, job in enumerate(jobs):
            source, shape = job.source, job.source.shape
            first, left = geometry.first_pass(job.way, [one.of(slice(b, b + 1)) for one in drawn], shape)
            while first is not None:
                plan = geometry.plan(*first, [shape], job.mask)
                px = torch.empty(1, shape[0], plan.height, plan.width)
                render.on_cpu(plan, [source], px, None, collate.map)
                source, shape = Source.of(px[0], 1), (shape[0], plan.height, plan.width)
                first, left = geometry.first_pass(*left, shape)
            plan = geometry.plan(*left, [shape], job.mask)
            if out is None:
                out = collate.empty((len(jobs), shape[0], plan.height, plan.width), dtype)
            if out.shape[2:] != (plan.height, plan.width):
                geometry.refuse_sizes(shape[0], [tuple(out.shape[2:]), (plan.height, plan.width)])
            render.on_cpu(plan, [source], out[b : b + 1], norm, collate.map)
        assert out is not None
        return out

    def read_again(self, il: Any, indices: Sequence[int]) -> None:
        "Take the images from the list itself, in memory of their own."
        for k, (i, job) in enumerate(zip(indices, self.items)):
            if isinstance(job, Job) and isinstance(job.source, Bytes) and job.source.viewed:
                found = _source(il[i])
                if found is not None:
                    again, late = found[0], job.late
                    if again.shape != job.source.shape:
                        late = job.way.draw_late(job.row, again.shape)
                    self.items[k] = job._replace(source=again, late=late)


def _reader(il: Any, plain: bool) -> Callable[[int], Any]:
    "What gives the items of `il`; `plain`: for indices that are ints, which need no looking at."
    if isinstance(il, InMemory):
        return il._reader()
    return il.get if plain and type(il).__getitem__ is ItemList.__getitem__ else il.__getitem__  # type: ignore


_FIXED = (int, float, str, bool, tuple, type(None), ResizeMethod)


def _made_of(ds: Any) -> Optional[List[Any]]:
    "All that `pipelines(ds)` is made of, to be compared by identity; None where a part may change inside."
    tfms = [*listify(ds.tfms), *listify(getattr(ds, "tfms_y", None))]
    if any(type(one) is not RandTransform for one in tfms):
        return None
    arguments = [*(ds.tfmargs or {}).items(), *(getattr(ds, "tfmargs_y", None) or {}).items()]
    values = [value for _, value in arguments]
    seen = [bool(ds.tfms), ds.tfm_y, *(name for name, _ in arguments)]
    for one in tfms:
        values += one.kwargs.values()
        seen += (one, one.tfm, one.p, one.is_random, *one.kwargs)
    return seen + values if all(isinstance(value, _FIXED) for value in values) else None


def _source(item: Any) -> Optional[Tuple[Any, bool]]:
    "The pixels of an image, and whether it is a mask; None for what is no image, or not a plain one."
    kind = type(item)
    if kind is Bytes:
        if not item.array.flags.c_contiguous:
            item = item._replace(array=np.ascontiguousarray(item.array))
        return item, item.cls is ImageSegment
    if kind is not Image and kind is not ImageSegment:
        return None
    px, state = item._px, vars(item)
    pending = [state.get(name) for name in ("_logit_px", "_flow", "_affine_mat")]
    if type(px) is not Tensor or px.dtype != torch.float32 or px.dim() != 3 or px.device.type != "cpu":
        return None
    if px.requires_grad or not px.numel() or any(one is not None for one in pending):
        return None
    return Source.of(px, 1), kind is ImageSegment


def _plain(item: Any) -> Any:
    "An image of fastai's, where that is what is needed after all."
    if type(item) is not Bytes:
        return item
    px = torch.from_numpy(item.array.astype(np.float32)).permute(2, 0, 1)
    return item.cls(px.div_(item.divisor))


def _resolve(way: Optional[Pipeline], row: Sequence[Any]) -> None:
    "Leave the transforms as drawing for an image would have left them, for a target that asks them."
    for step in way.steps if way is not None else ():
        step.transform.resolved, step.transform.do_run = step.values(row), step.runs(row)


def _target(source: Tuple[Any, bool], way: Optional[Pipeline], row: List[Any]) -> Optional[Job]:
    "The job of making a target, whose input has drawn `row`; None where stock has to do it."
    if way is None:
        return None
    try:
        row = row + way.standing()
    except Unknown:
        return None
    return Job(*source, way, row, way.draw_late(row, source[0].shape))


def gathered(sources: Sequence[Source], collate: Collate) -> Pixels:
    "The pixels of `sources`, one after the other in one tensor: pinned, where a process has a GPU to copy to."
    arrays, divisor = [source.array for source in sources], sources[0].divisor
    if len({(array.dtype, source.divisor) for array, source in zip(arrays, sources)}) > 1:
        arrays = [array.astype(np.float32) / np.float32(source.divisor) for array, source in zip(arrays, sources)]
        divisor = 1
    sizes = np.array([array.size for array in arrays])
    start = np.cumsum(sizes) - sizes
    dtype = torch.uint8 if arrays[0].dtype == np.uint8 else torch.float32
    total = int(sizes.sum())
    if get_worker_info() is None and torch.cuda.is_available():
        data = torch.empty(total, dtype=dtype, pin_memory=True)
    else:
        data = collate.empty((total,), dtype)
    flat = data.numpy()

    def copy_some(which: np.ndarray) -> None:
        for b in which.tolist():
            np.copyto(flat[start[b] : start[b] + sizes[b]], arrays[b].reshape(-1))

    collate.map(copy_some, np.arange(len(arrays)), total)
    height, width = (np.array([array.shape[k] for array in arrays]) for k in (0, 1))
    return Pixels(data, start, height, width, arrays[0].shape[2], float(divisor))


def pipelines(ds: LabelList) -> Tuple[Optional[Pipeline], Optional[Pipeline]]:
    """What `ds` does to its inputs, None for nothing, and to its targets, None for what stock has to do to each.

    Looked at for every batch, since fastai exchanges `tfms` between batches. Raises Unknown.
    """
    changed = next((name for owner, name, known in _KNOWN if getattr(owner, name, None) is not known), None)
    if changed is None and LabelList.__getitem__.__module__ != _GETITEM:
        changed = "LabelList.__getitem__"
    if changed is not None:
        raise Unknown(f"somebody has replaced {changed}")
    arguments = dict(ds.tfmargs or {})
    if not arguments.pop("do_resolve", True):
        raise Unknown("do_resolve=False is asked for")
    x = draws.compiled(ds.tfms, arguments) if ds.tfms or ds.tfmargs else None
    y = None
    if getattr(ds, "tfm_y", False) and hasattr(ds, "tfms_y"):
        arguments = {name: value for name, value in (ds.tfmargs_y or {}).items() if name != "do_resolve"}
        with suppress(Unknown):
            y = draws.compiled(ds.tfms_y, arguments) or _UNTOUCHED
    return x, y


class BatchDeviceDataLoader(DeviceDataLoader):
    """A `DeviceDataLoader` that makes its batches at once.

    The `DataLoader` inside, `dl`, is stock's, and so is what it yields: whoever looks at it, changes it or replaces it
    finds what fastai would have there. An iteration goes over a copy of it whose items are indices.
    """

    #: Whether batches are made on the device; on a CPU they are made by whoever gathers them.
    on_device: Optional[bool] = None
    said: Optional[Set[str]] = None
    #: Memory for batches made in this process: the next epoch finds that of the last one.
    buffers: Optional[Buffers] = None

    @classmethod
    def of(cls, dl: DeviceDataLoader, said: Set[str], buffers: Optional[Buffers] = None) -> BatchDeviceDataLoader:
        "The loader `dl`, making its batches at once; `said` of it and its like so far, who share `buffers`."
        made = cls(dl.dl, dl.device, dl.tfms, dl.collate_fn)
        made.said, made.buffers = said, Buffers() if buffers is None else buffers
        return made

    def like(self, dl: DeviceDataLoader) -> BatchDeviceDataLoader:
        "The loader `dl`, as this one."
        made = type(self).of(dl, self.said if self.said is not None else set(), self.buffers)
        made.on_device = self.on_device
        return made

    def new(self, **kwargs: Any) -> BatchDeviceDataLoader:
        "As fastai's."
        return self.like(super().new(**kwargs))

    def __iter__(self) -> Iterator[Any]:
        reason = self.reason()
        if reason:
            self._say(reason)
            yield from super().__iter__()
            return
        norm, fused = self._norm()
        collate = Collate(self.dl.dataset, self.dl.collate_fn, self._makes_there(), norm)
        inner = object.__new__(DataLoader)  # not `copy`, which asks it for `__getstate__`: fastai's asks the list
        vars(inner).update(vars(self.dl), dataset=Indices(self.dl.dataset), collate_fn=collate, _iterator=None)
        render.prepare()  # before workers are forked, which would each compile
        n = torch.get_num_threads()
        if inner.num_workers == 0:
            collate.buffers = self.buffers = self.buffers or Buffers()
            collate.threads = ThreadPoolExecutor(n - 1) if n > 1 else None
        try:
            for b in inner:
                yield self._processed(b, fused)
        finally:
            if collate.threads is not None:
                collate.threads.shutdown()

    def reason(self) -> str:
        "Why batches are made stock's way, image by image; empty where they are not."
        if type(self.dl) is not DataLoader:
            return f"{type(self.dl).__name__} is not torch's own DataLoader"
        if self.dl.batch_sampler is None:
            return "it has no batches"
        if getattr(self.dl, "persistent_workers", False):
            return "its workers are persistent"
        return reason(self.dl.dataset, self.dl.collate_fn)

    def _say(self, reason: str) -> None:
        said = self.said if self.said is not None else set()
        if reason not in said:
            said.add(reason)
            warn_user(not_batched(self.dl.dataset, reason))

    def _makes_there(self) -> bool:
        return self.on_device if self.on_device is not None else torch.device(self.device).type != "cpu"

    def _norm(self) -> Tuple[Optional[Norm], Any]:
        "The first transform, where it normalises inputs alone: what is asked for as a batch is made, and itself."
        first = self.tfms[0] if self.tfms else None
        if self._makes_there() or not isinstance(first, functools.partial) or first.func is not _normalize_batch:
            return None, None
        given = dict(first.keywords)
        mean, std, do_x, do_y = (given.pop(name, default) for name, default in _NORMALIZE)
        floats = mean.dtype == std.dtype == torch.float32  # others would make doubles of a batch
        if first.args or given or do_y or not do_x or not floats or mean.dim() != 1 or mean.shape != std.shape:
            return None, None
        return (mean.numpy(), (1 / std).numpy()), first

    def _processed(self, b: Any, fused: Any) -> Any:
        if not isinstance(b, Batch):
            return self.proc_batch(b)
        made = b.on(self.device)
        tfms = listify(self.tfms)
        if b.normalised:
            if tfms and tfms[0] is fused:
                tfms, made = tfms[1:], (made[0], made[1])
            else:  # taken away since this iteration began
                mean, std = (fused.keywords[name].to(made[0].device)[:, None, None] for name in ("mean", "std"))
                made = b.form((made[0] * std + mean, made[1]))
        for f in tfms:
            made = f(made)
        return made


def reason(ds: Any, collate_fn: Any) -> str:
    "Why the batches of `ds` can't be made at once; empty where they can."
    if getattr(collate_fn, "func", collate_fn) not in COLLATES:
        return f"the collate_fn {draws.describe(collate_fn)} is your own and wants items"
    if not isinstance(ds, LabelList) or type(ds).__getitem__ is not LabelList.__getitem__:
        return f"{type(ds).__name__} is not fastai's own LabelList"
    if isinstance(ds.x, MixedItemList):
        return f"the inputs are a {type(ds.x).__name__}, which has transforms for each of its lists"
    try:
        pipelines(ds)
    except Unknown as unknown:
        return str(unknown)
    return ""


def release(data: DataBunch) -> None:
    "Give back the memory that waits for the next batches of `data`."
    for name in LOADERS:
        buffers = getattr(getattr(data, name, None), "buffers", None)
        if isinstance(buffers, Buffers):
            buffers.clear()


def batched(data: DataBunch) -> DataBunch:
    "Let all loaders of `data` make their batches at once, and say what will not be so."
    said: Set[str] = set()
    buffers = Buffers()
    for name in LOADERS:
        dl = getattr(data, name, None)
        if dl is not None:
            setattr(data, name, BatchDeviceDataLoader.of(dl, said, buffers))
    render.prepare()
    why = data.train_dl.reason()
    missing = render.without_kernels()
    if why:
        data.train_dl._say(why)
    elif missing and torch.device(data.device).type == "cpu":
        warn_user(
            f"batch_tfms{_of(data.train_ds)}: on a CPU it takes numba to be faster than image by image, and there is "
            f"none ({missing}). Please `pip install 'memlist[fast]'`, or leave batch_tfms out."
        )
    return data


def _of(ds: Any) -> str:
    "Whose transforms a warning speaks of: the list that is in memory, inputs before targets, or else the inputs."
    found = [*lists_of(ds), getattr(ds, "x", None)]
    return f" of {named(found[0])}" if hasattr(found[0], "path") else ""


def not_batched(ds: Any, reason: str) -> str:
    "The warning that batches of `ds` are made image by image."
    return (
        f"batch_tfms{_of(ds)}: transforms run as stock fastai's do, image by image, since {reason}. "
        "What is your own may work on whole batches, by data.add_tfm; else leave batch_tfms out."
    )


def _what_is_odd(item: Any) -> str:
    "Why stock has to make the batch of images such as `item`."
    kind, px = type(item), vars(item).get("_px")
    if kind is not Image and kind is not ImageSegment:
        return f"its {'images' if isinstance(item, Image) else 'items'} are of your class {kind.__name__}"
    if isinstance(px, Tensor) and px.dtype != torch.float32:
        return f"its pixels are {px.dtype}, and not torch.float32"
    if isinstance(px, Tensor) and px.dim() != 3:
        return f"its pixels have {px.dim()} dimensions, and not three"
    return f"its {kind.__name__}s carry more than pixels"


# Workers that gather batches for a GPU. Two were the fastest on an H100 beside 16 cores: benchmarks/results/gpu.json.
GPU_WORKERS = 2


def default_workers(lists: LabelLists, device: Any = None, collate_fn: Any = data_collate) -> int:
    """Return how many workers make batches if the caller does not say.

    On a CPU none: threads of the main process are as fast, and what a worker makes has to be sent. For a GPU
    `GPU_WORKERS`: they gather batches while it computes, and more of them only take longer to start. As many as fastai
    takes if stock has to make the batches.
    """
    there = torch.device(defaults.device if device is None else device).type
    if reason(lists.train, collate_fn):
        return defaults.cpus  # type: ignore[no-any-return]
    return 0 if there == "cpu" else min(GPU_WORKERS, defaults.cpus)


def checked(batch_tfms: Any) -> bool:
    "`batch_tfms`, which is True or False."
    if not isinstance(batch_tfms, bool):
        raise TypeError(
            f"batch_tfms={batch_tfms!r}: please use True or False; the transforms themselves go to `.transform(…)`."
        )
    return batch_tfms
