"""Make batches at once: items with sketches instead of images, then the pixels of all images together."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.data.load import SkipItemException, fa_collate
from torch import Tensor
from torch.utils.data import get_worker_info

from ..batch.buffers import Memory as Allocator
from ..batch.buffers import SharedBuffers
from ..batch.threads import ONE_THREAD, Threads
from ..resampling import render
from .memory import LookedUp, Memory
from .sketch import Sketch
from .stock import L, PILMask, takes_from_list
from .supported import Part, Plan, Stage, Unknown, examined, loads_as_stock


class Batches:
    """Make the batches of one iteration of a loader, in the process that calls it.

    Each batch is made at once if its pipelines are known at that time, else item by item by fastai's own code, as after
    a change in place.
    """

    def __init__(self, dl: Any, memory: Memory) -> None:
        self.dl, self.memory = dl, memory
        # What stock takes from the loader once per iteration; everything else it looks up for each item or batch.
        self.bs, self.drop_last, self.do_item, self.do_batch = dl.bs, dl.drop_last, dl.do_item, dl.do_batch
        here = get_worker_info() is None
        self.threads = Threads(torch.get_num_threads()) if here else ONE_THREAD
        self.buffers: Allocator = memory.buffers if here else SharedBuffers(0)

    def of(self, samples: Any) -> Iterator[Any]:
        "Yield the batches of an iterator over indices, as `DataLoader.create_batches` does."
        bs, samples = self.bs, iter(samples)
        try:
            while True:
                plan = self._plan()
                known: Iterator[Row] = iter(())
                if plan is not None and takes_from_list(self.dl, samples):
                    known = looked_up(plan, list(itertools.islice(samples, bs)))
                items = list(itertools.islice(self._items(known, samples, plan), bs))
                if items and (len(items) == bs or not self.drop_last):
                    yield self.do_batch(items) if plan is None else self._batch(items)
                if len(items) < bs:
                    return
        finally:
            if self.threads is not ONE_THREAD:
                self.threads.close()

    def _plan(self) -> Optional[Plan]:
        "Return how the next batch is made at once; None if it can't be, after a warning that says why."
        try:
            own = loads_as_stock(self.dl)
            if own:
                raise Unknown(own)
            return examined(self.dl)
        except Unknown as why:
            warn_of(self.dl, self.memory, str(why))
            return None

    def _items(self, known: Iterator[Row], samples: Iterator[Any], plan: Optional[Plan]) -> Iterator[Any]:
        "Yield items, those that are `known` first: by fastai's own code, or with sketches as `plan` says."
        for s, found in itertools.chain(known, ((s, ()) for s in samples)):
            if plan is None:
                item = self.do_item(s)
            else:
                try:
                    item = _drawn(_item(plan, s or 0, found), plan)
                except SkipItemException:
                    continue
            if item is not None:
                yield item

    def _batch(self, items: List[Any]) -> Any:
        "Return the batch of items, whose sketches have been drawn for."
        dl = self.dl
        padded = dl.before_batch(items)
        tuples = type(padded[0]) is tuple
        rows = padded if tuples else [(item,) for item in padded]
        columns = list(zip(*rows))
        alike = all(len(row) == len(columns) and (not tuples or type(row) is tuple) for row in rows)
        if not alike or not any(type(one) is Sketch for one in rows[0]) or not all(map(_fits, columns)):
            return self.do_batch([_made(item) for item in items])
        try:
            made = [self._rendered(one) if type(one[0]) is Sketch else fa_collate(one) for one in columns]
        except Exception:  # fastai's own code raises it again, unless the store was purged
            return self.do_batch([_made(item) for item in items])
        return dl.retain(tuple(made) if tuples else made[0], items)

    def _rendered(self, sketches: Sequence[Any]) -> Tensor:
        "Return the tensor of the images of a batch; raise `Purged` if the store was purged meanwhile."
        first, n = sketches[0], len(sketches)
        width, height = first.size
        channels = first.pixels.array.shape[2:]
        out = self.buffers.empty((n, *(channels or (1,)), height, width), torch.uint8)
        pictures, steps = [one.pixels.array for one in sketches], [one.steps for one in sketches]
        render(pictures, steps, np.transpose(out.numpy(), (0, 2, 3, 1)), threads=self.threads)
        read = Counter(one.pixels[1:] for one in sketches if one.pixels.store is not None)
        if any(store.generation != generation for store, generation in read):
            raise Purged
        for (store, _), n in read.items():
            store.count(True, n)
        made = out[:, 0] if issubclass(first.kind, PILMask) else out
        tensors: Any = first.kind
        return made.as_subclass(tensors._tensor_cls)


class Purged(Exception):
    "Raised if the store was purged while its bytes were read."


def warn_of(dl: Any, memory: Memory, why: str) -> None:
    "Warn, once, that batches are made item by item for a reason."
    name = getattr(type(dl), "stock", type(dl)).__name__
    memory.say(
        f"items {name} {why}",
        f"the batches of this {name} are made item by item, with images from memory, because of what memlist does not "
        f"know: {why}. They are the same as fastai's. `batches=False` turns this message off.",
    )


#: An index, and what was looked up for each part of its item; nothing if nothing was looked up.
Row = Tuple[Any, Sequence[Optional[LookedUp]]]


def looked_up(plan: Plan, indices: List[Any]) -> Iterator[Row]:
    "Yield indices with what they have in memory; only what the user's code would not have to be run for is looked up."
    found = [
        [None] * len(indices)
        if part.opening is None or part.before
        else part.opening.memory.look_up(part.tl, indices, *part.how)
        for part in plan.parts
    ]
    return zip(indices, zip(*found))


def _item(plan: Plan, s: Any, found: Sequence[Optional[LookedUp]]) -> Any:
    "Return an item as the dataset does, but with sketches instead of images from memory."
    made = tuple([_read(part, s, one) for part, one in itertools.zip_longest(plan.parts, found)])
    return made if plan.tuples else made[0]


def _read(part: Part, s: Any, found: Optional[LookedUp]) -> Any:
    tl = part.tl
    split_idx, items = tl.tfms.split_idx, tl.items
    plain = type(items) in (list, L) and isinstance(s, (int, np.integer))  # else all of a list would be copied
    made = items[int(s)] if plain else L(items, use_list=None)[s]
    for f in part.before:
        made = f(made, split_idx=split_idx)
    if part.opening is None:
        return made
    sketch = part.opening.sketch(made, part.how, found)
    if sketch is None:
        made = part.opening(made, split_idx=split_idx)
    else:
        made = sketch
    for stage in part.after:
        made = _staged(stage, made)
    return made


def _drawn(item: Any, plan: Plan) -> Any:
    "Return an item after the transforms of its loader."
    for stage in plan.stages:
        item = _staged(stage, item)
    return item


def _staged(stage: Stage, item: Any) -> Any:
    "Return what `RandTransform.__call__` returns, or that of `Transform`: it draws once, then encodes each part."
    f = stage.f
    if stage.draws:
        f.before_call(item, split_idx=stage.split_idx)
        if not f.do:
            return item
    if stage.skipped:
        return item
    if type(item) is tuple:
        return tuple([_encoded(stage, one) for one in item])
    return _encoded(stage, item)


def _encoded(stage: Stage, one: Any) -> Any:
    "Return one part of an item after a transform."
    if type(one) is not Sketch:
        alone = type(one) is not tuple and stage.encoder(type(one), one) is None
        return one if alone else stage.f._do_call("encodes", one)
    function = stage.encoder(one.kind if one.to_tensor is None else one.kind._tensor_cls)
    if function is None:
        return one
    return one.encoded(function, stage.f)


def _fits(column: Tuple[Any, ...]) -> bool:
    "Return whether a part of all items can be collated: none is a sketch, or all are, of tensors of one shape."
    sketches = [one for one in column if type(one) is Sketch]
    if not sketches:
        return True
    first = sketches[0]
    return len(sketches) == len(column) and all(
        one.to_tensor is not None
        and one.kind is first.kind
        and one.size == first.size
        and one.pixels.array.shape[2:] == first.pixels.array.shape[2:]
        for one in sketches
    )


def _made(item: Any) -> Any:
    "Return an item with the images themselves instead of sketches."
    if type(item) is tuple:
        return tuple([_made(one) for one in item])
    return item.made() if type(item) is Sketch else item
