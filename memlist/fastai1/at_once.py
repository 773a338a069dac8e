"""Open a batch at once whose inputs all lie in the store, and perhaps its targets, too."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fastai.core import listify
from fastai.vision.image import ImagePoints
from torch import Tensor

from ..batch.plan import Norm
from .draws import Pipeline
from .images import ImageTask, as_item, pixels_of
from .pipelines import UNTOUCHED, resolving
from .reader import Reader
from .stored import Drawn, Plans, StoredSide
from .transforms import Unknown

Pipelines = Tuple[Optional[Pipeline], Optional[Pipeline]]  # of inputs and targets


class Opened(NamedTuple):
    """Hold a batch that was opened at once.

    - `x`: the inputs: a `StoredSide`, or noise
    - `y`: the targets: a `StoredSide`, a tensor, or an `ImageTask` or an item per index
    - `last`: what was drawn for the last input; None if nothing is drawn
    """

    x: Any
    y: Any
    last: Optional[Sequence[Any]]


class Known(NamedTuple):
    """Hold what needs no items.

    - `labels`: the targets, collated; see `targets.collated`
    - `noise`: memory for the inputs; see `targets.noise_rows`
    """

    labels: Optional[Tensor] = None
    noise: Optional[Tuple[Tensor, List[Tensor]]] = None


class AtOnce:
    "Open batches of one dataset, and keep what is the same for all of them: plans, and the pipeline of targets."

    def __init__(self) -> None:
        self._plans = Plans(), Plans()
        self._resolved: Tuple[Optional[Pipeline], List[Any], Optional[Pipeline]] = (None, [], None)
        self._known: Tuple[Pipelines, Optional[Pipeline]] = ((None, None), None)

    def open(
        self,
        ds: Any,
        readers: Sequence[Any],
        indices: Sequence[int],
        pipelines: Pipelines,
        norms: Tuple[Optional[Norm], Optional[Norm]],
        known: Known,
    ) -> Optional[Opened]:
        """Return the items at `indices` and their draws, drawn in stock's order; None if they are to be opened in turn.

        `readers`, of inputs and targets, have looked `indices` up. Costs nothing per image but its draws, and its
        target if that is no hit.
        """
        read_x, read_y = readers
        ys: Any = None
        x_pipeline = pipelines[0] if ds.tfms or ds.tfmargs else None
        if known.noise is not None:
            return self._noise(ds, read_y, indices, (x_pipeline, pipelines[1]), norms[1], known.noise)
        hits = read_x.all_hits() if isinstance(read_x, Reader) else None
        if hits is None:
            return None
        tfm_y, n = bool(hasattr(ds, "tfms_y") and ds.tfm_y), len(indices)
        if known.labels is not None:
            read_x.serve(hits, indices)
            ys, drawn = known.labels, drawn_at_once(x_pipeline, n, hits.shape, self._plans[0])
        elif not isinstance(read_y, Reader):
            if tfm_y or type(ds.y).__module__.split(".")[0] != "fastai" or "get" in vars(ds.y):
                return None  # between two items a user's code may do anything
            read_x.serve(hits, indices)
            ys, drawn = self._in_turn(ds, read_y, indices, x_pipeline, hits.shape)
        else:
            targets = read_y.all_hits()
            repeated = self._of_targets((x_pipeline, pipelines[1])) if tfm_y else (UNTOUCHED, [])
            if targets is None or repeated is None:
                return None
            read_x.serve(hits, indices)
            read_y.serve(targets, indices)
            y_pipeline, last = repeated
            drawn = y_drawn = drawn_at_once(x_pipeline, n, hits.shape, self._plans[0])
            if not tfm_y:
                y_drawn = drawn_at_once(None, n, hits.shape, self._plans[1])
            elif last:
                y_drawn = Drawn([[*one, *last] for one in drawn.draws], drawn.sized)
            ys = StoredSide(targets, y_pipeline, y_drawn, self._plans[1], norms[1])
        x = StoredSide(hits, x_pipeline or UNTOUCHED, drawn, self._plans[0], norms[0])
        return Opened(x, ys, None if x_pipeline is None else drawn.draws[-1])

    def _noise(
        self,
        ds: Any,
        read_y: Any,
        indices: Sequence[int],
        pipelines: Pipelines,
        norm: Optional[Norm],
        noise: Tuple[Tensor, List[Tensor]],
    ) -> Optional[Opened]:
        "Return noise, which resolves transforms, and targets that repeat their draws; None if not all are hits."
        tfm_y = hasattr(ds, "tfms_y") and ds.tfm_y
        targets = read_y.all_hits() if isinstance(read_y, Reader) else None
        repeated = self._of_targets(pipelines) if tfm_y else (UNTOUCHED, [])
        if targets is None or repeated is None:
            return None
        read_y.serve(targets, indices)
        y_pipeline, last = repeated
        draws: List[Any] = []
        for row in noise[1]:  # transforms may draw from torch, too
            row.normal_()
            draws.append(() if pipelines[0] is None else pipelines[0].draw())
        n = len(draws)
        drawn = Drawn([[*one, *last] for one in draws] if tfm_y else [()] * n, [None] * n)
        y = StoredSide(targets, y_pipeline, drawn, self._plans[1], norm)
        return Opened(noise[0], y, None if pipelines[0] is None else draws[-1])

    def resolving(self, pipeline: Pipeline, tfms: Any) -> Pipeline:
        "Return `pipelines.resolving(pipeline, tfms)`, the same object for the same arguments."
        of, given, found = self._resolved
        listed = listify(tfms)
        if of is not pipeline or len(given) != len(listed) or not all(a is b for a, b in zip(given, listed)):
            found = resolving(pipeline, tfms)
            self._resolved = pipeline, listed, found
        return found  # type: ignore[return-value]

    def _in_turn(
        self, ds: Any, read_y: Any, indices: Sequence[int], pipeline: Optional[Pipeline], shape: Tuple[int, ...]
    ) -> Tuple[List[Any], Drawn]:
        "Read a target and draw for its input, index by index; targets are not transformed."
        ys: List[Any] = []
        draws: List[Any] = []
        sized: List[Any] = []
        size = torch.Size(shape[:2]) if getattr(ds.x, "max_size", None) is not None else None
        for i in indices:
            ys.append(untransformed(read_y(i)))
            if size is not None and isinstance(ys[-1], ImagePoints):
                ys[-1].flow.size = size
            draws.append(() if pipeline is None else pipeline.draw())
            sized.append(None if pipeline is None else pipeline.draw_for_size(draws[-1], (shape[2], *shape[:2])))
        return ys, Drawn(draws, sized)

    def _of_targets(self, pipelines: Pipelines) -> Optional[Tuple[Pipeline, List[Any]]]:
        """Return the pipeline of targets that repeat the draws of their inputs, and what they add to these draws.

        That is the state of transforms which the inputs do not have: the same for the whole batch. Returns None if such
        a transform was never drawn, or if targets are drawn for.
        """
        x_pipeline, y_pipeline = pipelines
        known, found = self._known
        if x_pipeline is None or y_pipeline is None:
            return None
        if found is None or known[0] is not x_pipeline or known[1] is not y_pipeline:
            found = y_pipeline.for_targets(x_pipeline)
            self._known = pipelines, found
        try:
            return None if found.size_dependent else (found, found.last_draws())
        except Unknown:
            return None


def untransformed(item: Any) -> Any:
    "Return the task of making a target that is an image; else the target for stock code to collate."
    pixels = pixels_of(item)
    if pixels is not None:
        return ImageTask(pixels)
    return 0 if item is None else as_item(item)


def drawn_at_once(pipeline: Optional[Pipeline], n: int, shape: Tuple[int, ...], plans: Plans) -> Drawn:
    "Draw for n images of `shape` (height, width, channels); without a pipeline, draw nothing."
    if pipeline is None:
        return Drawn([()] * n, [None] * n)
    if plans.fixed(pipeline):  # what is drawn does not matter, but it has to be drawn
        pipeline.skip(n - 1)
        return Drawn([pipeline.draw()] * n, [None] * n)
    if not pipeline.size_dependent:
        return Drawn(pipeline.draw_all(n), [None] * n)
    draws, sized = [], []
    for _ in range(n):
        draws.append(pipeline.draw())
        sized.append(pipeline.draw_for_size(draws[-1], (shape[2], *shape[:2])))
    return Drawn(draws, sized)
