"""FFCV, as its tuning guide has it for a dataset that fits in memory; see ../ffcv_rival.py for how it works inside."""

from pathlib import Path
from typing import Any, Iterator, List, Tuple

import ffcv.writer
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
from harness import BATCH, System
from PIL import Image


class Pictures:
    "What the writer goes over."

    def __init__(self, files: List[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Tuple[Image.Image, int]:
        with Image.open(self.files[i]) as image:
            return image.convert("RGB"), int(i)


class Raw(System):
    """Pixels in a file, `os_cache=True`, random order, transforms of its own only, which it compiles.

    `ToTorchImage` keeps channels last in memory: the batch is a view, where a contiguous one would be copied once more.
    """

    packages = ("ffcv", "numba", "torch", "numpy", "pillow")
    mode = "raw"
    reduced = False

    def prepare(self) -> None:
        work = self.work
        beton = str(Path(self.job.scratch) / "photographs.beton")
        given = {"max_resolution": round(work.size * 500 / 375)} if self.reduced else {}
        fields = {"image": RGBImageField(write_mode=self.mode, **given), "place": IntField()}
        ffcv.writer.DatasetWriter(beton, fields, num_workers=2).from_indexed_dataset(
            Pictures(self.files), shuffle_indices=False
        )
        size = work.size, work.size
        if work.crops:
            decoder: Any = RandomResizedCropRGBImageDecoder(size, scale=(0.5, 1.0), ratio=(0.75, 1.33))
        else:
            decoder = CenterCropRGBImageDecoder(size, ratio=1)
        operations: List[Any] = [decoder, *([RandomHorizontalFlip()] if work.flip else [])]
        mean, std = (255 * np.array(one) for one in work.stats)
        operations += [NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage()]
        self.loader = Loader(
            beton,
            batch_size=BATCH,
            num_workers=self.job.workers,
            os_cache=True,
            order=OrderOption.RANDOM,
            seed=20,
            drop_last=True,
            pipelines={"image": operations, "place": [IntDecoder(), ToTensor(), Squeeze()]},
        )

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        for x, place in self.loader:
            if self.work.noise:
                import torch

                yield torch.randn(BATCH, self.work.noise), x
            else:
                yield x, place

    def release(self) -> None:
        del self.loader


class Jpeg(Raw):
    "JPEGs in a file, written anew at its default quality of 90 and decoded by libjpeg-turbo in every epoch."

    mode = "jpg"


class RawReduced(Raw):
    "Pixels in a file, of pictures reduced by its `max_resolution`, so that the shorter side is what is trained on."

    reduced = True
