"""Make a batch from its indices, in the process that reads the pixels.

For each index in turn, input and target are opened and the random parameters of their transforms drawn, in the order of
stock fastai; then all images are made together. Images or datasets that do not allow this are left to stock code.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from fastai.core import ItemBase
from fastai.data_block import ItemList
from fastai.torch_core import data_collate
from fastai.vision.image import Image, ImagePoints, ImageSegment
from torch import Tensor
from torch.utils.data import get_worker_info

from ..batch.buffers import SHARED, Memory, NewMemory, SharedBuffers
from ..batch.maker import Maker
from ..batch.packed import Packed
from ..batch.pixels import Pixels
from ..batch.plan import Norm
from ..batch.sending import Batch
from ..batch.threads import ONE_THREAD, Threads
from ..cache.messages import warn_user
from .at_once import AtOnce, Known
from .draws import Pipeline
from .images import ImageTask, as_item, make_image, part_of, pixels_of
from .lists import in_memory_lists
from .mixin import InMemory
from .reader import Reader
from .stored import StoredSide
from .supported import alike, not_batched, parts_of_pipelines, pipelines, reason, reason_of_item
from .targets import collated, noise_rows
from .transforms import Unknown


class Collate:
    """Make batches from indices into a `LabelList`, in the process that calls it.

    - `norm`, `norm_y`: applied to inputs and to targets as they are made, if given; to both, if both are given
    - `ahead`: how many batches the loader lets a worker make ahead
    - `memory`, `threads`: used if the main process makes batches; a worker uses its own shared memory
    """

    def __init__(self, ds: Any, collate_fn: Any, on_device: bool, norm: Optional[Norm] = None) -> None:
        self.ds, self.collate_fn, self.on_device, self.norm = ds, collate_fn, on_device, norm
        self.norm_y: Optional[Norm] = None
        self.ahead = 2
        self._forget()

    def _forget(self) -> None:
        self.memory: Memory = NewMemory()
        self.threads: Threads = ONE_THREAD
        self._shared: Optional[SharedBuffers] = None
        # What the pipelines were made of, the pipelines, and whether they were compared with new ones in this epoch.
        self._memo: Tuple[List[Any], Any, bool] = ([], None, False)
        self._at_once = AtOnce()
        self._stock: Optional[str] = None  # in a worker, why stock code makes the batches

    def go_on(self, last: Collate) -> None:
        "Use the plans of `last` if it has made batches of the same dataset, for as long as its pipelines are the same."
        if last.ds is self.ds:
            self._memo, self._at_once = (*last._memo[:2], False), last._at_once

    def prepare(self) -> None:
        "Make what all workers need, before they are forked. Costs 2 µs per image in the first epoch."
        for il in in_memory_lists(self.ds.x, self.ds.y):
            il._reader().prepare()

    def __getstate__(self) -> Dict[str, Any]:
        return {name: getattr(self, name) for name in ("ds", "collate_fn", "on_device", "norm", "norm_y", "ahead")}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __call__(self, indices: Sequence[int]) -> Any:
        try:
            found = None if self.left_to_stock() else self.pipelines()
        except Unknown:
            found = None
        if found is None or self.ds.item is not None:
            return self.collate_fn([self.ds[i] for i in indices])
        stores = [il.store for il in in_memory_lists(self.ds.x, self.ds.y)]
        before = [store.generation for store in stores]
        sides = self._sides(indices, *found)
        agree(sides)
        maker = self.maker()
        made = maker.make_all([side.part(maker) for side in sides])
        if before != [store.generation for store in stores]:
            # A store was purged meanwhile, so some bytes may have been overwritten: read them into our own memory.
            sides = [one if isinstance(one, _Side) else _Side(one.items, one.norm) for one in sides]
            for side, il in zip(sides, (self.ds.x, self.ds.y)):
                side.read_again(il, indices)
            self._shared = None  # its blocks in use will never be sent, so never be freed
            maker = self.maker()
            made = maker.make_all([side.part(maker) for side in sides])
        return self._collated(sides, made)

    def left_to_stock(self) -> bool:
        "Return whether a `worker_init_fn` changed what the loader had looked at, so that stock code makes the batches."
        if self._stock is None:
            self._stock = "" if get_worker_info() is None else reason(self.ds, self.collate_fn)
            lists = in_memory_lists(self.ds.x, self.ds.y) if self._stock else []
            if lists and lists[0].notes().note(b"changed in a worker"):
                warn_user(not_batched(self.ds, f"in a worker {self._stock}"))
        return bool(self._stock)

    def maker(self) -> Maker:
        "Return what makes the batches of this process."
        if get_worker_info() is None:
            return Maker(self.memory, self.threads, self.on_device)
        if self._shared is None:
            self._shared = SharedBuffers(self.ahead + SHARED)
        self._shared.begin()
        return Maker(self._shared, ONE_THREAD, self.on_device)

    def _warn_of_odd(self, item: Any) -> None:
        "Warn once if the inputs, of which `item` is the first, are images that only stock code can make."
        known = isinstance(item, (ImageTask, ImagePoints)) or type(item).__module__.startswith("fastai.")
        odd = isinstance(item, ItemBase) and pixels_of(item) is None and (isinstance(item, Image) or not known)
        if (
            odd
            and not isinstance(item, ImagePoints)
            and isinstance(self.ds.x, InMemory)
            and self.ds.x.notes().note(b"odd images")
        ):
            warn_user(not_batched(self.ds, reason_of_item(item)))

    def pipelines(self) -> Tuple[Optional[Pipeline], Optional[Pipeline]]:
        "Return the pipelines of the dataset, rebuilt if anything that they depend on has changed."
        seen = parts_of_pipelines(self.ds)
        known, found, checked = self._memo
        same = seen is not None and len(seen) == len(known) and all(a is b for a, b in zip(seen, known))
        if not (same and checked):
            made = pipelines(self.ds)
            found = found if same and alike(made, found) else made
            self._memo = (seen or [], found, True)
        return found  # type: ignore[no-any-return]

    def _sides(
        self, indices: Sequence[int], x_pipeline: Optional[Pipeline], y_pipeline: Optional[Pipeline]
    ) -> List[Any]:
        "Open inputs and targets and draw for them, at once if all images are hits; return a side of each, see `_Side`."
        at, ds = positions(indices), self.ds
        plain = at is not None
        readers = [reader_of(il, plain) for il in (ds.x, ds.y)]
        ours, made, known = [one for one in readers if isinstance(one, Reader)], None, Known()
        if self.collates_plainly():
            tfm_y = hasattr(ds, "tfms_y") and ds.tfm_y
            known = Known(None if tfm_y or at is None else collated(ds.y, at), noise_rows(ds.x, len(indices)))
        if known.noise is not None and x_pipeline is not None:
            x_pipeline = self._at_once.resolving(x_pipeline, ds.tfms)
        given, norms = (x_pipeline, y_pipeline), (self.norm, self.norm_y)
        if at is not None:
            for one in ours:
                one.look(at)
            made = self._at_once.open(ds, readers, indices, given, norms, known)
        if made is not None:
            sides = [
                one if isinstance(one, StoredSide) else _Side(one, norm) for one, norm in zip((made.x, made.y), norms)
            ]
            if made.last is not None:
                leave_drawn(x_pipeline, made.last)
        else:
            for one in ours:
                one.in_turn(indices)
            x, y = self._opened(indices, readers, *given, known)
            sides = [_Side(x, self.norm), _Side(y, self.norm_y)]
            self._warn_of_odd(x[0] if len(x) else None)
        for one in ours:
            one.close()
        return sides

    def _opened(
        self,
        indices: Sequence[int],
        readers: Sequence[Callable[[int], Any]],
        x_pipeline: Optional[Pipeline],
        y_pipeline: Optional[Pipeline],
        known: Known,
    ) -> Tuple[Items, Items]:
        """Open and draw for each index in turn; return an `ImageTask` per image to make, else the item made by stock.

        Labels and noise come as the tensor that stock collates of them.
        """
        ds, (labels, noise) = self.ds, known
        read_x, read_y = readers
        reduces = getattr(ds.x, "max_size", None) is not None
        transformed, tfm_y = bool(ds.tfms or ds.tfmargs), bool(hasattr(ds, "tfms_y") and ds.tfm_y)
        # Targets repeat the draws of their inputs; or those of stock code, if it makes the inputs.
        y_pipelines = {own: y_pipeline and y_pipeline.for_targets(x_pipeline if own else None) for own in (True, False)}
        xs: List[Any] = []
        ys: List[Any] = []
        draws: Any = None
        for k, i in enumerate(indices):
            x = read_x(i) if noise is None else noise[1][k].normal_()
            y = read_y(i) if labels is None else None
            if reduces and isinstance(y, ImagePoints):
                y.flow.size = x.size
            pixels, draws = pixels_of(x), None
            if pixels is not None:
                if transformed and x_pipeline is not None:
                    draws = x_pipeline.draw()
                    x = ImageTask(pixels, x_pipeline, draws, x_pipeline.draw_for_size(draws, pixels.shape))
                else:
                    x = ImageTask(pixels)
            elif noise is not None:
                draws = x_pipeline.draw() if transformed and x_pipeline is not None else None
            else:
                x = as_item(x)
                x = x.apply_tfms(ds.tfms, **ds.tfmargs) if transformed else x
            pixels = pixels_of(y)
            if tfm_y:
                target = pixels and _target(pixels, y_pipelines[draws is not None], draws or [])
                if target is None:
                    if draws is not None:
                        leave_drawn(x_pipeline, draws)
                    target = as_item(y).apply_tfms(ds.tfms_y, **{**ds.tfmargs_y, "do_resolve": False})
                y = target
            else:
                y = as_item(y) if pixels is None else ImageTask(pixels)
            xs.append(x)
            ys.append(0 if y is None else y)
        if draws is not None:
            leave_drawn(x_pipeline, draws)
        return xs if noise is None else noise[0], ys if labels is None else labels

    def collates_plainly(self) -> bool:
        "Return whether fastai's `data_collate` collates a batch."
        return getattr(self.collate_fn, "func", self.collate_fn) is data_collate

    def _collated(self, sides: Sequence[Any], made: List[Any]) -> Any:
        "Have stock code collate the rest, and put the images into the result."
        if self.collates_plainly():
            x, y = (one if one is not None else data_collate(side.plain()) for side, one in zip(sides, made))
        else:
            rest = [[_ABSENT] * len(side) if one is not None else side.plain() for side, one in zip(sides, made)]
            pair = self.collate_fn(list(zip(*rest)))
            x, y = (one if one is not None else other for one, other in zip(made, pair))
        normalised = any(side.normalised for side in sides)
        lent = (sides[0].whole, sides[1].whole) if self._shared is not None else (False, False)
        if not normalised and not any(lent) and not any(isinstance(one, Packed) for one in (x, y)):
            return [x, y]
        # On its way to a device, stock makes a list of any pair.
        return Batch(x, y, normalised, lent)


#: Inputs or targets of a batch: an `ImageTask` or an item of stock's per index, or all of them, collated.
Items = Union[List[Any], Tensor]
# A placeholder for images that are already made, while stock code collates the other half of the pairs.
_ABSENT = ItemBase(torch.empty(0))


class _Side:
    """Hold the inputs or the targets of a batch.

    - `whole`: whether all of them are images of one kind, to make at once; else stock code collates them
    - `normalised`: whether `norm` is applied as they are made
    """

    def __init__(self, items: Items, norm: Optional[Norm] = None) -> None:
        self.items, self.norm = items, norm
        tasks = [] if isinstance(items, Tensor) else [one for one in items if isinstance(one, ImageTask)]
        kinds = {(id(task.pipeline), task.pixels.cls is ImageSegment, task.pixels.array.shape[2]) for task in tasks}
        self.whole = len(kinds) == 1 and len(tasks) == len(items)
        self.normalised = (
            self.whole and not tasks[0].mask and norm is not None and len(norm[0]) == tasks[0].pixels.array.shape[2]
        )

    def __len__(self) -> int:
        return len(self.items)

    def part(self, maker: Maker) -> Any:
        "Return what is to be made, see `Maker.make_all`: images, the batch that it is already, or None for stock."
        if isinstance(self.items, Tensor):
            return self.items
        return part_of(self.items, maker, self.norm if self.normalised else None) if self.whole else None

    def plain(self) -> List[Any]:
        "Return the items for stock code to collate."
        return [make_image(one) if isinstance(one, ImageTask) else one for one in self.items]

    def read_again(self, il: Any, indices: Sequence[int]) -> None:
        "Replace pixels that lie in a store with copies, which are read through the list."
        if isinstance(self.items, Tensor):
            return
        for k, (i, task) in enumerate(zip(indices, self.items)):
            if isinstance(task, ImageTask) and task.pixels.viewed:
                pixels = pixels_of(il[i])
                if pixels is not None:
                    sized = task.sized
                    if pixels.shape != task.pixels.shape:
                        sized = task.pipeline.draw_for_size(task.draws, pixels.shape)
                    self.items[k] = task._replace(pixels=pixels, sized=sized)


def agree(sides: Sequence[Any]) -> None:
    "Let inputs and targets be normalised as they are made only if both can be: fastai normalises both."
    if not all(side.normalised for side in sides if side.norm is not None):
        for side in sides:
            side.normalised = False


def positions(indices: Sequence[int]) -> Optional[np.ndarray]:
    "Return the indices as an array, (B,); None if they are not all of the type int."
    if set(map(type, indices)) == {int}:
        with suppress(OverflowError):  # stock finds the index that is out of range
            return np.array(indices, np.intp)
    return None


def reader_of(il: Any, plain: bool) -> Callable[[int], Any]:
    "Return a function from an index to an item of `il`; `plain`: all indices are ints, which need no check."
    if isinstance(il, InMemory):
        return il._reader()
    return il.get if plain and type(il).__getitem__ is ItemList.__getitem__ else il.__getitem__  # type: ignore


def leave_drawn(pipeline: Optional[Pipeline], draws: Sequence[Any]) -> None:
    "Set the state of the transforms as stock's drawing would have, for a target that reads it."
    for step in pipeline.steps if pipeline is not None else ():
        step.transform.resolved, step.transform.do_run = step.values(draws), step.runs(draws)


def _target(pixels: Pixels, pipeline: Optional[Pipeline], draws: List[Any]) -> Optional[ImageTask]:
    "Return the task of making a target whose input has `draws`; None if stock code has to make it."
    if pipeline is None:
        return None
    try:
        draws = draws + pipeline.last_draws()
    except Unknown:
        return None
    return ImageTask(pixels, pipeline, draws, pipeline.draw_for_size(draws, pixels.shape))
