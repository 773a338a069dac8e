"""Get pixels from items of fastai 1, and make images from pixels and draws: many at once, or one."""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import torch
from fastai.vision.image import Image, ImageSegment
from torch import Tensor

from ..batch.cpu import on_cpu
from ..batch.maker import PLAIN_MAKER, Job, Maker
from ..batch.packed import Packed
from ..batch.pixels import Pixels
from ..batch.plan import Norm
from .draws import Drawn, Pipeline
from .pipelines import UNTOUCHED
from .planner import first_pass, plan_batch
from .selection import refuse_sizes


class ImageTask(NamedTuple):
    """Describe how to make one image: from its pixels, by a pipeline, with its draws.

    `draws` is the result of `Pipeline.draw`, `sized` that of `Pipeline.draw_for_size`.
    """

    pixels: Pixels
    pipeline: Pipeline = UNTOUCHED
    draws: Sequence[Any] = ()
    sized: Optional[List[Any]] = None

    @property
    def mask(self) -> bool:
        "Return whether the image is a mask."
        return self.pixels.cls is ImageSegment


def pixels_of(item: Any) -> Optional[Pixels]:
    "Return the pixels of an item, dense in memory; None if it is not a plain image."
    kind = type(item)
    if kind is Pixels:
        if item.array.dtype == np.float32 and not finite(item.array):
            return None
        dense = item.array.flags.c_contiguous
        return item if dense else item._replace(array=np.ascontiguousarray(item.array))  # type: ignore[no-any-return]
    if kind is not Image and kind is not ImageSegment:
        return None
    px, state = item._px, vars(item)
    pending = [state.get(name) for name in ("_logit_px", "_flow", "_affine_mat")]
    if type(px) is not Tensor or px.dtype != torch.float32 or px.dim() != 3 or px.device.type != "cpu":
        return None
    if px.requires_grad or not px.numel() or any(one is not None for one in pending) or not finite(px):
        return None
    return Pixels.of_tensor(px, kind)


def finite(px: Union[Tensor, np.ndarray]) -> bool:
    """Return whether no value is NaN or infinite.

    Such values reach their neighbours where pixels are mixed, even with a weight of zero, and stay alone where they
    are copied: which of the two stock does, it decides by other rules than the kernels.
    """
    with np.errstate(all="ignore"):
        if math.isfinite(float(px.sum())):  # the usual case, in one pass
            return True
        return bool(torch.isfinite(torch.as_tensor(px)).all())  # the sum may overflow


def as_item(item: Any) -> Any:
    "Return an item as in fastai: `Pixels` become an image."
    if type(item) is not Pixels:
        return item
    px = torch.from_numpy(item.array.astype(np.float32)).permute(2, 0, 1)
    return item.cls(px.div_(item.divisor))


def make_image(task: ImageTask) -> Image:
    "Make one image."
    px: Any = make_images([task], PLAIN_MAKER)[0]
    return ImageSegment(px.float()) if task.mask else Image(px)


def make_images(tasks: Sequence[ImageTask], maker: Maker, norm: Optional[Norm] = None) -> Union[Tensor, Packed]:
    """Make images with the same pipeline, class and number of channels: (B, channels, height, width), or packed.

    They are float32, or int64 for masks. If their final sizes differ, raises what stock fastai raises.
    """
    return maker.make_all([part_of(tasks, maker, norm)])[0]  # type: ignore[no-any-return]


def part_of(tasks: Sequence[ImageTask], maker: Maker, norm: Optional[Norm] = None) -> Union[Tensor, Job]:
    "Return what `Maker.make_all` makes of `tasks`; their images, if they had to be padded first."
    first, dtype = tasks[0], torch.int64 if tasks[0].mask else torch.float32
    with np.errstate(all="ignore"):  # stock has its numbers in torch, which never raises for their values
        drawn = first.pipeline.drawn([task.draws for task in tasks], [task.sized for task in tasks])
        if any(step.name == "pad" for step in first.pipeline.steps):
            return _make_padded(tasks, drawn, maker, norm, dtype)
        plan = plan_batch(first.pipeline, drawn, [task.pixels.shape for task in tasks], first.mask)
    return Job(plan, [task.pixels for task in tasks], dtype, norm)


def _make_padded(
    tasks: Sequence[ImageTask], drawn: Sequence[Drawn], maker: Maker, norm: Optional[Norm], dtype: torch.dtype
) -> Tensor:
    "Make the images one by one on the CPU, each in as many passes as its paddings need."
    out: Optional[Tensor] = None
    for b, task in enumerate(tasks):
        pixels, own = task.pixels, [one.of(slice(b, b + 1)) for one in drawn]
        first, left = first_pass(task.pipeline, own, pixels.shape)
        while first is not None:
            plan = plan_batch(*first, [pixels.shape], task.mask)
            px = torch.empty(1, pixels.shape[0], plan.height, plan.width)
            on_cpu(plan, [pixels], px, None, maker.threads)
            pixels = Pixels.of_tensor(px[0], pixels.cls)
            first, left = first_pass(*left, pixels.shape)
        plan = plan_batch(*left, [pixels.shape], task.mask)
        if out is None:
            out = maker.memory.empty((len(tasks), pixels.shape[0], plan.height, plan.width), dtype)
        if out.shape[2:] != (plan.height, plan.width):
            refuse_sizes(pixels.shape[0], [tuple(out.shape[2:]), (plan.height, plan.width)])
        on_cpu(plan, [pixels], out[b : b + 1], norm, maker.threads)
    assert out is not None
    return out
