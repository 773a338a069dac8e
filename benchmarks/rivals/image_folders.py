"""Measure torchvision's `ImageFolder`, and memlist's in its place: the same transforms, the same `DataLoader`."""

from typing import Any, Iterator, List, Tuple

import torch
from harness import BATCH, System
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from memlist import MemoryImageFolder, MemoryLoader


class Stock(System):
    "Open every file in every epoch."

    packages: Tuple[str, ...] = ("torch", "torchvision", "numpy", "pillow")
    folder: Any = ImageFolder
    loader_class: Any = DataLoader

    def prepare(self) -> None:
        work, mean, std = self.work, *(list(one) for one in self.work.stats)
        steps: List[Any] = [v2.Resize(work.size), v2.CenterCrop(work.size)]
        if work.crops:
            steps = [v2.RandomResizedCrop(work.size, scale=work.scale, ratio=(0.75, 1.33))]
        if work.flip:
            steps.append(v2.RandomHorizontalFlip())
        steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        self.data = self.folder(self.job.folder, v2.Compose(steps))
        # The number of an image instead of its class, by which its colours are checked.
        self.data.samples = [(str(file), int(file.stem)) for file in self.files]
        self.loader = self.loader_class(self.data, BATCH, shuffle=True, num_workers=self.job.workers, drop_last=True)

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        return iter(self.loader)

    def release(self) -> None:
        del self.loader, self.data


class OneThread(Stock):
    "Do so on one thread of torch: more of them take more of the processor's time than they save here."

    def prepare(self) -> None:
        torch.set_num_threads(1)
        super().prepare()


class Memory(Stock):
    "Keep the pictures in memory."

    packages = ("memlist", *Stock.packages)
    folder: Any = MemoryImageFolder

    def prepare(self) -> None:
        super().prepare()
        self.data.load_data(progress=False)

    def release(self) -> None:
        self.data.purge()
        super().release()


class Ahead(Memory):
    "Make one batch ahead, in a thread."

    loader_class = MemoryLoader


class Reduced(Ahead):
    "Keep the pictures with their shorter side at the size of the job."

    def folder(self, *given: Any) -> MemoryImageFolder:
        return MemoryImageFolder(*given, max_size=self.work.size)
