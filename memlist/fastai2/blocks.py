"""`MemoryImageBlock` and `MemoryMaskBlock`: fastai's blocks, whose images are kept in memory."""

from __future__ import annotations

from typing import Any, Optional, Sequence

from fastai.data.block import TransformBlock
from fastai.vision.data import ImageBlock, MaskBlock
from fasttransform.transform import mk_transform

from ..store import MaxRam
from .loader import loader_class
from .memory import Memory
from .opening import FromMemory
from .stock import PILImage, TfmdDL, opened_by


def MemoryImageBlock(
    cls: Any = PILImage,
    max_ram: MaxRam = None,
    cache_file: Any = None,
    max_size: Optional[int] = None,
    batches: bool = True,
) -> TransformBlock:
    """Return fastai's `ImageBlock(cls)`, whose images are kept in memory; see `in_memory` for the keywords.

    All DataLoaders of one DataBlock share a store. Raises TypeError for a class that opens images by its own `create`,
    and what `ImageStore` raises for `max_ram` and `cache_file`.
    """
    return _kept(ImageBlock(cls), Memory(max_ram, cache_file, max_size, batches), cls)


def MemoryMaskBlock(
    codes: Optional[Sequence[Any]] = None,
    max_ram: MaxRam = None,
    cache_file: Any = None,
    max_size: Optional[int] = None,
    batches: bool = True,
) -> TransformBlock:
    "Return fastai's `MaskBlock(codes)`, whose masks are kept in memory; see `MemoryImageBlock`."
    return _kept(MaskBlock(codes), Memory(max_ram, cache_file, max_size, batches), None)


def _kept(block: TransformBlock, memory: Memory, cls: Any) -> TransformBlock:
    "Return `block`, after what opens images in it is replaced, and its class of loaders by one that makes batches."
    made = [mk_transform(f) for f in block.type_tfms]
    if not any(opened_by(f) is not None for f in made):
        raise TypeError(
            f"MemoryImageBlock({getattr(cls, '__name__', cls)!s}): it opens images by a `create` of its own, which "
            "memlist leaves alone. Please use fastai's ImageBlock for it, or a class that inherits `create`."
        )
    block.type_tfms[:] = [FromMemory(f, memory) if opened_by(f) is not None else f for f in made]
    block.dl_type = loader_class(block.dl_type or TfmdDL)
    return block
