"""Make the items of a batch: draw for each picture in turn, as stock does, then make all pictures at once."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ..batch.threads import ONE_THREAD, Threads
from ..resampling import render, supported
from . import messages
from .collating import BatchMemory, MadeBatch, to_default_collate
from .kept import Kept, Paths, Picture
from .pipeline import Pipeline, Unknown, Values, bits
from .standin import StandIn, Untold


class DrawnPicture(NamedTuple):
    "A picture that is still to be made: where its bytes lie, and it as a stand-in, with its steps and its size."

    path: Any
    picture: Picture
    standin: StandIn

    def same(self, other: DrawnPicture) -> bool:
        "Return whether both are the same picture after the same steps."
        steps = self.standin.steps == other.standin.steps
        return steps and self.path == other.path and self.picture.mode == other.picture.mode


class Drawing(NamedTuple):
    """A batch whose random numbers are drawn.

    - `samples`: for each item a `DrawnPicture`, or what stock's transform has returned
    - `targets`: for each item its target
    - `generation`: of the store, before the pictures were looked up
    """

    pipeline: Pipeline
    samples: List[Any]
    targets: List[Any]
    generation: int


class Making:
    "Make the batches of one dataset in this process; see `items`."

    def __init__(self) -> None:
        self.memory = BatchMemory()
        self._expected = Expected()
        self._pid, self._threads = os.getpid(), (0, ONE_THREAD)  # type: int, Tuple[int, Threads]
        # A forked process has the objects of the threads of its parent, but not the threads. It keeps the objects: to
        # end them it would have to wait for locks that nobody will release.
        self._inherited: List[Any] = []

    def __reduce__(self) -> Tuple[Any, ...]:
        return Making, ()

    def items(self, dataset: Any, kept: Kept, indices: Sequence[Any], frame: Optional[FrameType]) -> List[Any]:
        """Return the items of `dataset` at `indices`, equal to `[dataset[i] for i in indices]`: samples and targets.

        `frame`: that of the caller. If it is torch, which will collate the items itself, pictures are `Row`s.
        """
        try:
            pipeline = Pipeline(dataset.transform)
        except Unknown as why:
            if not why.quiet:
                messages.say_unknown(kept.store, kept.name, str(why))
            return [dataset[i] for i in indices]
        drawing = draw(dataset, kept, pipeline, indices)
        assert drawing is not None
        return self.made(drawing, kept, frame)

    def made(self, drawing: Drawing, kept: Kept, frame: Optional[FrameType]) -> List[Any]:
        "Return the items of a batch whose random numbers are drawn."
        drawn = [one for one in drawing.samples if isinstance(one, DrawnPicture)]
        found: Dict[int, Any] = {}
        for group in _groups(drawn):
            values = drawing.pipeline.values(group[0].picture.mode)
            whole = len(group) == len(drawing.samples)
            if whole and to_default_collate(frame, values.probe):
                batch = self._batch(drawing, group, values, kept)
                return list(zip(batch.rows(), drawing.targets))
            like = _like(drawing.pipeline, group[0].standin)
            made = self._alike(len(group), like)
            self.render(drawing, group, values, made, kept, self.threads())
            found.update((id(one), _item(row, like, values)) for one, row in zip(group, made))
        samples = [found[id(one)] if isinstance(one, DrawnPicture) else one for one in drawing.samples]
        return list(zip(samples, drawing.targets))

    def expect(self, dataset: Any, kept: Kept, indices: Sequence[Any]) -> None:
        """Begin to make the batch of `indices` in a thread, since torch will probably ask for it next.

        What it will draw is drawn now, and the random generator is set back. When torch asks, everything is drawn
        again, in its turn, and the batch is used only if that comes to the same. So it does not matter what else draws,
        or changes a transform, in between. No code of a user's runs early.
        """
        self._expected.drop()
        if not self._expected.worthwhile():
            return
        state = torch.get_rng_state()
        with suppress(Exception):  # it will be raised when torch asks
            pipeline = Pipeline(dataset.transform)
            drawing = draw(dataset, kept, pipeline, indices, early=True)
            groups = _groups(drawing.samples) if drawing is not None else []
            if drawing is not None and len(groups) == 1:
                values = pipeline.values(groups[0][0].picture.mode)
                batch = self.memory.batch(_shape(groups[0], values), values.dtype)
                self._expected.begin(self, drawing, groups[0], values, batch, kept)
        torch.set_rng_state(state)

    def clear(self) -> None:
        "Forget the expected batch, and give free memory back to the system."
        self._expected.drop()
        self.memory.clear()

    def _batch(self, drawing: Drawing, group: List[DrawnPicture], values: Values, kept: Kept) -> MadeBatch:
        "Return the batch of all pictures: the expected one, if it is the same."
        batch = self._expected.taken(drawing, group, values)
        if batch is None:
            batch = self.memory.batch(_shape(group, values), values.dtype)
            self.render(drawing, group, values, batch.tensor, kept, self.threads())
        return batch

    def render(
        self, drawing: Drawing, group: List[DrawnPicture], values: Values, made: Tensor, kept: Kept, threads: Threads
    ) -> None:
        "Write pictures of one size into `made`, (n, channels, height, width)."
        out = bits(made).numpy().transpose(0, 2, 3, 1)
        steps = [one.standin.steps for one in group]
        render([one.picture.array for one in group], steps, out, values.table, threads)
        if not kept.valid(drawing.generation):
            # The store was purged meanwhile, so some bytes may have been overwritten: read the files again.
            again = [_own_bytes(kept, one.path, one.picture, drawing.generation) for one in group]
            render(again, steps, out, values.table, threads)

    def _alike(self, n: int, like: Tensor) -> Tensor:
        "Return an uninitialised tensor for `n` pictures, whose rows have the strides of `like` if these are dense."
        order = sorted(range(3), key=like.stride, reverse=True)
        made = self.memory.scratch((n, *(like.shape[axis] for axis in order)), like.dtype)
        return made.permute(0, *(1 + order.index(axis) for axis in range(3)))

    def threads(self) -> Threads:
        "Return as many threads as torch uses here; in a worker that is one."
        n = torch.get_num_threads()
        if self._pid != os.getpid():
            self._inherited.append(self._threads)
            self._pid, self._threads = os.getpid(), (0, ONE_THREAD)
        known, threads = self._threads
        if known != n:
            threads.close()
            self._threads = n, Threads(n)
        return self._threads[1]


class Expected:
    """The batch that is being made in a thread before torch asks for it, and what was drawn for it.

    Where it turns out wrong `MISSES` times in a row, because the training draws from torch's generator, too, nothing is
    expected for the next `PAUSE` batches.
    """

    MISSES, PAUSE = 2, 64

    def __init__(self) -> None:
        self._missed = 0
        self._inherited: List[Any] = []  # as in `Making`
        self._pid, self._pool = 0, None  # type: int, Optional[ThreadPoolExecutor]
        self._given: Optional[Tuple[Drawing, List[DrawnPicture], Values, MadeBatch, Future[None]]] = None

    def begin(
        self, making: Making, drawing: Drawing, group: List[DrawnPicture], values: Values, batch: MadeBatch, kept: Kept
    ) -> None:
        "Begin to make a batch, with the threads of the caller: another thread may not see torch's number of them."
        if self._pool is None or self._pid != os.getpid():
            self._inherited.append(self._pool)
            self._pid, self._pool = os.getpid(), ThreadPoolExecutor(1, "memlist-ahead")
        work = self._pool.submit(making.render, drawing, group, values, batch.tensor, kept, making.threads())
        self._given = drawing, group, values, batch, work

    def taken(self, drawing: Drawing, group: List[DrawnPicture], values: Values) -> Optional[MadeBatch]:
        "Return the batch if it was made of the same pictures in the same way, else None."
        given, self._given = self._given, None
        if given is None or self._pid != os.getpid():
            return None
        was, pictures, then, batch, work = given
        same = was.generation == drawing.generation and values.same(then) and len(pictures) == len(group)
        if not same or not all(one.same(other) for one, other in zip(pictures, group)):
            work.cancel()
            self._missed += 1
            return None
        self._missed = 0
        with suppress(Exception):  # it is raised again where the batch is made
            work.result()
            return batch
        return None

    def worthwhile(self) -> bool:
        "Return whether the next batch is to be expected."
        if self._missed >= self.MISSES:
            self._missed += 1
            if self._missed > self.MISSES + self.PAUSE:
                self._missed = 0
        return self._missed < self.MISSES

    def drop(self) -> None:
        "Forget the batch."
        if self._given is not None:
            self._given[-1].cancel()
        self._given = None


def draw(
    dataset: Any, kept: Kept, pipeline: Pipeline, indices: Sequence[Any], early: bool = False
) -> Optional[Drawing]:
    """Draw for the items of a batch: for each in turn its transforms, and then its target's, as stock does.

    With `early`, only what needs no file and no code of a user's: there are no targets, and the result is None if a
    picture is not there.
    """
    generation, hits = kept.store.generation, 0
    records = kept.look(Paths(dataset.samples), indices)
    stored: List[Optional[np.ndarray]] = [None] * len(indices) if records is None else records.arrays()
    samples: List[Any] = []
    targets: List[Any] = []
    if early and (pipeline.on_tensors or any(array is None for array in stored)):
        return None
    for i, array in zip(indices, stored):
        path, target = dataset.samples[i]
        hits += array is not None
        picture = Picture(array, "RGB") if array is not None else kept.picture(path)
        if pipeline.on_tensors and isinstance(picture, Picture) and supported(picture.mode):
            samples.append(pipeline.from_bytes(_own_bytes(kept, path, picture, generation)))
        else:
            samples.append(_drawn(dataset, kept, pipeline, path, picture))
        if early:
            continue
        targets.append(target if dataset.target_transform is None else dataset.target_transform(target))
    if hits and not early:
        kept.store.count(True, hits)
    return Drawing(pipeline, samples, targets, generation)


def _drawn(dataset: Any, kept: Kept, pipeline: Pipeline, path: Any, picture: Any) -> Any:
    "Draw for a picture; return it as `DrawnPicture`, or the result of stock's transform if it can't be."
    if not isinstance(picture, Picture):
        return dataset.transform(picture)
    state = torch.get_rng_state()
    height, width = picture.array.shape[:2]
    try:
        pipeline.values(picture.mode)  # raises for a mode of which no values can be told
        return DrawnPicture(path, picture, pipeline.draw(picture.mode, (width, height)))
    except (Untold, Unknown):
        torch.set_rng_state(state)
    return dataset.transform(kept(path))  # not above: if it raises, that is all there is to say


def _own_bytes(kept: Kept, path: Any, picture: Picture, generation: int) -> np.ndarray:
    "Return the bytes of a picture in memory of their own; it was read when the store had this generation."
    while True:
        array = picture.array.copy()
        if kept.valid(generation):
            return array
        generation = kept.store.generation
        picture = kept.picture(path)


def _groups(drawn: Sequence[DrawnPicture]) -> List[List[DrawnPicture]]:
    "Return the pictures of one mode and size together."
    groups: Dict[Any, List[DrawnPicture]] = {}
    for one in drawn:
        groups.setdefault((one.picture.mode, one.standin.size), []).append(one)
    return list(groups.values())


def _shape(group: Sequence[DrawnPicture], values: Values) -> Tuple[int, ...]:
    width, height = group[0].standin.size
    return len(group), values.channels, height, width


def _like(pipeline: Pipeline, standin: StandIn) -> Tensor:
    "Return a tensor such as stock makes of a picture of this mode and size, for its strides."
    return pipeline.finished(PIL.Image.new(standin.mode, standin.size))


def _item(row: Tensor, like: Tensor, values: Values) -> Tensor:
    "Return a row as stock would make it: of the same type and strides, in memory of its own."
    made = torch.empty_strided(like.shape, like.stride(), dtype=values.dtype)
    made.copy_(row)
    return made if values.cls is Tensor else made.as_subclass(values.cls)
