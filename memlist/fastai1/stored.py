"""Make the inputs or the targets of a batch at once where all of them lie in a store.

Without an object per image where all are copied from one window of their sources, and with one otherwise.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from fastai.vision.image import ImageSegment

from ..batch.gather import Window, gather, window_of
from ..batch.maker import Job, Maker
from ..batch.plan import Norm, Plan
from .draws import Pipeline
from .images import ImageTask, part_of
from .planner import aligned, plan_batch
from .reader import Hits


class Drawn(NamedTuple):
    "Hold what a pipeline has drawn for each image of a batch: see `Pipeline.draw` and `Pipeline.draw_for_size`."

    draws: Sequence[Sequence[Any]]
    sized: Sequence[Optional[List[Any]]]


class Plans:
    """Keep the plan of the last batch, if its pipeline treats all images alike: the next batch has the same.

    A plan depends on the pipeline, on the number and the shape of the images, and on how fastai samples.
    """

    def __init__(self) -> None:
        # Each is replaced as a whole, because other threads may use them.
        self._fixed: Tuple[Optional[Pipeline], bool] = (None, False)
        self._known: Tuple[Optional[Pipeline], Any, Optional[Plan], Optional[Window]] = (None, (), None, None)

    def fixed(self, pipeline: Pipeline) -> bool:
        "Return whether a pipeline treats all images of one shape alike, whatever random numbers it draws."
        known, found = self._fixed
        if known is not pipeline:
            found = not pipeline.size_dependent and all(
                not step.draws and step.p is not None and step.p >= 1 and step.name != "pad" for step in pipeline.steps
            )
            self._fixed = pipeline, found
        return found

    def of(
        self, pipeline: Pipeline, shape: Tuple[int, ...], mask: bool, draws: Sequence[Sequence[Any]]
    ) -> Tuple[Optional[Plan], Optional[Window]]:
        """Return the plan for images of `shape` (height, width, channels), and the window that they are copies of.

        Returns None for the window if they are no copies, and for both if the images differ.
        """
        if not self.fixed(pipeline):
            return None, None
        n, given = len(draws), (len(draws), shape, mask, aligned())
        of, known, plan, window = self._known
        if of is not pipeline or known != given:
            with np.errstate(all="ignore"):  # as in `make_images`
                drawn = pipeline.drawn(draws, [None] * n)
                plan = plan_batch(pipeline, drawn, [(shape[2], shape[0], shape[1])] * n, mask)
                window = window_of(plan)
            self._known = pipeline, given, plan, window
        return plan, window


class StoredSide:
    """Hold the inputs or the targets of a batch, all of which are hits, and what their pipeline has drawn for them.

    `items` has an `ImageTask` per image. They are made when they are first asked for.
    """

    whole = True

    def __init__(self, hits: Hits, pipeline: Pipeline, drawn: Drawn, plans: Plans, norm: Optional[Norm] = None) -> None:
        self.hits, self.pipeline, self.drawn, self.plans, self.norm = hits, pipeline, drawn, plans, norm
        self.mask = hits.cls is ImageSegment
        self.normalised = not self.mask and norm is not None and len(norm[0]) == hits.shape[2]
        self._items: Optional[List[ImageTask]] = None

    def __len__(self) -> int:
        return len(self.drawn.draws)

    @property
    def items(self) -> List[ImageTask]:
        "Return the task of making each image."
        if self._items is None:
            every = zip(self.hits.pixels(), self.drawn.draws, self.drawn.sized)
            self._items = [ImageTask(pixels, self.pipeline, draws, sized) for pixels, draws, sized in every]
        return self._items

    def part(self, maker: Maker) -> Any:
        "Return what is to be made, see `Maker.make_all`; the batch itself if it is copied from windows of its sources."
        norm, hits = self.norm if self.normalised else None, self.hits
        if self._items is None and not maker.on_device:
            plan, window = self.plans.of(self.pipeline, hits.shape, self.mask, self.drawn.draws)
            if window is not None:
                addresses = hits.records.addresses
                made = gather(addresses, hits.shape, window, hits.divisor, norm, self.mask, maker)
                if made is not None:
                    return made
            if plan is not None:
                return Job(plan, hits.pixels(), torch.int64 if self.mask else torch.float32, norm)
        return part_of(self.items, maker, norm)
