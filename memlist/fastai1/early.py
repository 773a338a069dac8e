"""Make the next batch for a device beside the training, where no workers make batches.

Stock draws a batch's random numbers when the batch is asked for. To make it earlier without changing what anybody
draws, a thread draws from copies of the generators. When the batch is asked for, the process's generators are looked
at: if nobody has drawn meanwhile, they are put where the copies are, and the batch is the one that stock would have
made. Otherwise, and if anything else that the batch depends on has changed, it is made anew.
"""

from __future__ import annotations

import random
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.torch_core import to_device, uniform_int
from torch import Tensor

from ..batch.packed import Packed
from ..batch.sending import Batch
from ..batch.streams import Made, OwnStream
from .at_once import AtOnce, Known
from .collate import Collate, agree, leave_drawn, positions, reader_of
from .draws import Pipeline, Uniform
from .lists import in_memory_lists
from .reader import Hits, Reader
from .stored import StoredSide
from .targets import collated
from .transforms import Unknown

# After so many batches in a row that had to be made anew, the rest of the epoch is made when it is asked for: the
# training draws from the same generators.
MOST_IN_VAIN = 3


class Generators:
    "Copy the generators that a pipeline draws from: Python's, and torch's of the CPU."

    def __init__(self) -> None:
        self.python, self.torch = random.Random(), torch.Generator()
        self.before: Tuple[Any, Optional[Tensor]] = (None, None)

    def calls(self, pipeline: Pipeline) -> Optional[Tuple[Callable[[], Any], ...]]:
        "Return the calls of `pipeline`, drawing from the copies; None if one draws in a way of its own."
        made: List[Callable[[], Any]] = []
        for call in pipeline.calls:
            if call is random.random:
                made.append(self.python.random)
            elif isinstance(call, Uniform):
                made.append(replace(call, generator=self.torch))
            elif isinstance(call, partial) and call.func is uniform_int and not call.keywords:
                made.append(partial(self.python.randint, *call.args))
            elif isinstance(call, partial) and call.func in (int, float):  # draws nothing
                made.append(call)
            else:
                return None
        return tuple(made)

    def copy(self) -> None:
        "Put the copies where the generators of this process are. Costs 30 µs."
        self.before = random.getstate(), torch.get_rng_state()
        self.python.setstate(self.before[0])
        self.torch.set_state(self.before[1])

    def unused(self) -> bool:
        "Return whether nobody has drawn from the generators of this process since they were copied."
        python, numbers = self.before
        return random.getstate() == python and bool(torch.equal(torch.get_rng_state(), numbers))  # type: ignore

    def advance(self) -> None:
        "Put the generators of this process where the copies are."
        random.setstate(self.python.getstate())
        torch.set_rng_state(self.torch.get_state())


class LookedUp(NamedTuple):
    """Hold what a batch is made of.

    - `readers`, `hits`: what read inputs and, if they are images, targets, and the images that were found
    - `labels`: the other targets, collated
    - `generations`: those of the stores, from before the images were looked up
    """

    readers: List[Reader]
    hits: List[Hits]
    labels: Optional[Tensor]
    generations: List[int]

    def same(self, other: LookedUp) -> bool:
        "Return whether the images lie where those of `other` lie."
        pairs = zip(self.hits, other.hits)
        kinds = len(self.hits) == len(other.hits) and (self.labels is None) == (other.labels is None)
        return (
            kinds
            and self.generations == other.generations
            and all(
                one.shape == it.shape and np.array_equal(one.records.addresses, it.records.addresses)
                for one, it in pairs
            )
        )


class Early(NamedTuple):
    """Hold a batch that was made early.

    - `made`: input and, if it is an image, target, on the device
    - `found`, `looked_up`: the pipelines, and what the batch was made of
    - `last`: what was drawn for the last image
    """

    made: Made
    normalised: bool
    found: Tuple[Optional[Pipeline], Optional[Pipeline]]
    looked_up: LookedUp
    last: Optional[Sequence[Any]]


class EarlyBatches:
    """Iterate over the batches of `indices` on a device, as pairs of a `Batch` and its tensors, each made early.

    `moved` makes a pair of what `collate` returns, for a batch that is not made early. While a batch is made, the
    thread needs Python's lock for about 4 ms per 256 images.
    """

    def __init__(
        self,
        collate: Collate,
        indices: Iterator[Sequence[int]],
        moved: Callable[[Any], Tuple[Any, Any]],
        device: torch.device,
    ) -> None:
        self._collate, self._indices, self._moved, self._device = collate, indices, moved, device
        self._stream, self._generators, self._at_once = OwnStream(device), Generators(), AtOnce()
        self._own: Tuple[Optional[Pipeline], Optional[Pipeline]] = (None, None)  # a pipeline, and one of the copies
        self._in_vain = 0

    def __iter__(self) -> Iterator[Tuple[Any, Any]]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="memlist-early")
        waiting: Optional[Future[Tuple[Optional[Sequence[int]], Optional[Early]]]] = None
        try:
            while True:
                indices, early = (next(self._indices, None), None) if waiting is None else waiting.result()
                if indices is None:
                    return
                pair = None if early is None else self._taken(indices, early)
                self._in_vain = 0 if pair is not None or waiting is None else self._in_vain + 1
                if pair is None:
                    pair = self._moved(self._collate(indices))
                waiting = None
                if self._in_vain < MOST_IN_VAIN and self._may_be_early():
                    self._generators.copy()
                    waiting = pool.submit(self._next)
                yield pair
        finally:
            pool.shutdown()
            self._stream.forget()

    def _may_be_early(self) -> bool:
        "Return whether nothing but known code makes a batch."
        try:
            pipeline = self._collate.pipelines()[0]
        except Unknown:
            return False
        known = pipeline is None or self._private(pipeline) is not None
        return known and self._collate.collates_plainly()

    def _private(self, pipeline: Optional[Pipeline]) -> Optional[Pipeline]:
        "Return a pipeline that draws from the copies of the generators; None if there is none."
        known, own = self._own
        if pipeline is not None and pipeline is not known:
            calls = None if pipeline.size_dependent else self._generators.calls(pipeline)
            own = None if calls is None else pipeline._replace(calls=calls)
            self._own = pipeline, own
        return None if pipeline is None else own

    def _next(self) -> Tuple[Optional[Sequence[int]], Optional[Early]]:
        "Return the next indices, and their batch if it can be made early."
        indices = next(self._indices, None)
        if indices is None:
            return None, None
        try:
            return indices, self._early(indices)
        except Exception:  # it will be raised when the batch is asked for
            return indices, None

    def _early(self, indices: Sequence[int]) -> Optional[Early]:
        ds, collate = self._collate.ds, self._collate
        found = collate.pipelines()
        looked_up = self._look_up(indices)
        if looked_up is None:
            return None
        for reader in looked_up.readers:
            reader.sizes = {}  # the list's own are set when the batch is asked for
        targets = looked_up.readers[1] if looked_up.labels is None else None
        norms = collate.norm, collate.norm_y
        own, known = self._private(found[0]), Known(looked_up.labels)
        if own is None and found[0] is not None:
            return None
        opened = self._at_once.open(ds, [looked_up.readers[0], targets], indices, (own, found[1]), norms, known)
        if opened is None or type(opened.x) is not StoredSide:
            return None
        sides = [one for one in (opened.x, opened.y) if type(one) is StoredSide]
        reused = any(step.reuses_last_draw for side in sides for step in side.pipeline.steps)
        if reused or len(sides) != len(looked_up.hits):
            return None
        agree(sides)
        maker = collate.maker()
        packed = maker.make_all([side.part(maker) for side in sides])
        if not all(isinstance(one, Packed) for one in packed):
            return None
        made = self._stream.make(lambda: [one.make(self._device) for one in packed])
        return Early(made, any(side.normalised for side in sides), found, looked_up, opened.last)

    def _look_up(self, indices: Sequence[int]) -> Optional[LookedUp]:
        "Look the images of a batch up; None unless all are hits, and other targets can be collated at once."
        ds, at = self._collate.ds, positions(indices)
        if at is None:
            return None
        tfm_y = hasattr(ds, "tfms_y") and ds.tfm_y
        labels = None if tfm_y else collated(ds.y, at)
        generations = _generations(ds)
        readers = [reader_of(il, True) for il in ([ds.x] if labels is not None else [ds.x, ds.y])]
        hits = []
        for reader in readers:
            if not isinstance(reader, Reader):
                return None
            reader.look(at)
            found = reader.all_hits()
            if found is None:
                return None
            hits.append(found)
        return LookedUp(readers, hits, labels, generations)  # type: ignore[arg-type]

    def _taken(self, indices: Sequence[int], early: Early) -> Optional[Tuple[Any, Any]]:
        "Return a batch that was made early, and do what drawing and reading it now would do; None if it is outdated."
        collate = self._collate
        if collate.ds.item is not None or not self._generators.unused():
            return None
        try:
            if collate.pipelines() is not early.found:
                return None
        except Unknown:
            return None
        now = self._look_up(indices)
        if now is None or not now.same(early.looked_up):
            return None
        for reader, hits in zip(now.readers, now.hits):
            reader.serve(hits, indices)
            reader.close()
        self._generators.advance()
        if early.last is not None:
            leave_drawn(early.found[0], early.last)
        pair = self._stream.take(early.made)
        if now.labels is not None:
            pair = [*pair, to_device(now.labels, self._device)]
        return Batch(None, None, early.normalised), pair


def _generations(ds: Any) -> List[int]:
    "Return the generations of the stores of a dataset: a purge adds one."
    return [il.store.generation for il in in_memory_lists(ds.x, ds.y)]
