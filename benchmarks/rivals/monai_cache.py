"""Measure MONAI's `CacheDataset`, set up as in its guide to fast training."""

from typing import Any, Iterator, List, Tuple

import monai.transforms as mt
import numpy as np
import torch
from harness import BATCH, System, mask_of
from monai.data import CacheDataset, DataLoader, ThreadDataLoader, set_track_meta

SIDE = 375


class Monai(System):
    """Keep floats after all that is the same in every epoch; draw the flip on each read.

    As in the guide: no metadata, no copy of what is kept and, where there are no workers, `ThreadDataLoader`,
    which makes batches on a thread ahead of the caller.
    """

    packages: Tuple[str, ...] = ("monai", "torch", "numpy", "pillow")
    cropped = True

    def prepare(self) -> None:
        set_track_meta(False)
        work, keys = self.work, ["image"] + ["mask"] * self.work.masks
        mean, std = (255 * np.array(one) for one in work.stats)
        steps: List[Any] = [
            mt.LoadImaged(keys, reader="PILReader", reverse_indexing=False, image_only=True),
            mt.EnsureChannelFirstd(["image"], channel_dim=-1),
        ]
        modes = ["bilinear"]
        if work.masks:
            steps.append(mt.EnsureChannelFirstd(["mask"], channel_dim="no_channel"))
            modes.append("nearest")
        if self.job.work != "digits":
            steps += [mt.CenterSpatialCropd(keys, SIDE), mt.Resized(keys, (work.size, work.size), mode=modes)]
        steps.append(mt.NormalizeIntensityd(["image"], subtrahend=mean, divisor=std, channel_wise=True))
        if work.masks:
            steps.append(mt.CastToTyped(["mask"], dtype=torch.int64))
        if work.flip:
            steps.append(mt.RandFlipd(keys, prob=0.5, spatial_axis=1))
        items = [{"image": str(file), "place": i} for i, file in enumerate(self.files)]
        if work.masks:
            for file, item in zip(self.files, items):
                item["mask"] = str(mask_of(file))
        self.data = CacheDataset(
            items, mt.Compose(steps), cache_rate=self.job.share, num_workers=2, copy_cache=False, progress=False
        )
        loader = ThreadDataLoader if self.job.workers == 0 else DataLoader
        self.loader = loader(self.data, batch_size=BATCH, shuffle=True, num_workers=self.job.workers, drop_last=True)

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        for batch in self.loader:
            if self.work.noise:
                yield torch.randn(BATCH, self.work.noise), batch["image"]
            else:
                yield batch["image"], batch["mask" if self.work.masks else "place"]

    def release(self) -> None:
        del self.data, self.loader
