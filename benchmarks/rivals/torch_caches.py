"""Measure what uses torch's datasets and loaders: `ImageFolder`, stocaching, tensordict; and the limit, `memcpy`."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import numpy as np
import torch
from harness import BATCH, System, mask_of
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2


def fixed(work: Any) -> v2.Transform:
    "Return what is the same in every epoch: the middle square, at the size of the job, in bytes."
    if work.crops:
        return v2.ToImage()
    return v2.Compose([v2.ToImage(), v2.Resize(work.size, antialias=True), v2.CenterCrop(work.size)])


def drawn(work: Any) -> v2.Transform:
    "Return what is random for each image, and the conversion to floats."
    steps: List[Any] = []
    if work.crops:
        steps.append(v2.RandomResizedCrop(work.size, scale=work.scale, ratio=(0.75, 1.33), antialias=True))
    if work.flip:
        steps.append(v2.RandomHorizontalFlip())
    mean, std = (list(one) for one in work.stats)
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


class Opened(Dataset):  # type: ignore[type-arg]
    "Open images from disk in every epoch, with torchvision."

    def __init__(self, system: System) -> None:
        self.files, self.work = system.files, system.work
        self.fixed, self.drawn = fixed(self.work), drawn(self.work)

    def __len__(self) -> int:
        return len(self.files)

    def decoded(self, i: int) -> Tuple[Any, Any]:
        "Return the image in bytes, channels first, and its target."
        from torchvision import tv_tensors

        with Image.open(self.files[i]) as image:
            x = image.convert("RGB")
        if self.work.masks:
            with Image.open(mask_of(self.files[i])) as mask:
                return self.fixed(v2.ToImage()(x), tv_tensors.Mask(np.array(mask)[None]))  # type: ignore
        return self.fixed(x), i

    def made(self, x: Any, target: Any) -> Tuple[Any, Any]:
        "Apply the random transforms."
        if self.work.masks:
            x, target = self.drawn(x, target)
            return x, target.long()
        x = self.drawn(x)
        return (torch.randn(self.work.noise), x) if self.work.noise else (x, target)

    def __getitem__(self, i: int) -> Tuple[Any, Any]:
        return self.made(*self.decoded(i))


class TorchSystem(System):
    packages: Tuple[str, ...] = ("torch", "torchvision", "numpy", "pillow")

    def prepare(self) -> None:
        self.loader = self.load(self.dataset())

    def dataset(self) -> Any:
        return Opened(self)

    def load(self, dataset: Any, **given: Any) -> Any:
        return DataLoader(dataset, BATCH, shuffle=True, num_workers=self.job.workers, drop_last=True, **given)

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        return iter(self.loader)

    def release(self) -> None:
        del self.loader


class Folder(ImageFolder):
    "Return the number of an image instead of its class."

    def __getitem__(self, i: int) -> Tuple[Any, Any]:
        file = self.samples[i][0]
        return super().__getitem__(i)[0], int(Path(file).stem)


class Torchvision(TorchSystem):
    """Use `ImageFolder` as torchvision's reference scripts for training do.

    It has no masks and no noise: a dataset like the one in its tutorials does those jobs.
    """

    def dataset(self) -> Any:
        if self.work.masks or self.work.noise:
            return super().dataset()
        return Folder(self.job.folder, v2.Compose([fixed(self.work), drawn(self.work)]))


# -- stocaching -----------------------------------------------------------------------------------------------


class Cached(Opened):
    "Keep bytes after the fixed transforms in memory that workers share, filled as images are first opened."

    def __init__(self, system: System) -> None:
        super().__init__(system)
        from stocaching import SharedCache

        size, n = self.work.size, len(self.files)
        per_image = 3 * size * size
        limit = system.job.share * n * per_image / 2**30
        self.cache = SharedCache(limit, dataset_len=n, data_dims=(3, size, size), dtype=torch.uint8)
        self.masks = None
        if self.work.masks:
            self.masks = SharedCache(limit / 3, dataset_len=n, data_dims=(1, size, size), dtype=torch.uint8)

    def __getitem__(self, i: int) -> Tuple[Any, Any]:
        from torchvision import tv_tensors

        x = self.cache.get_slot(i)
        mask = self.masks.get_slot(i) if self.masks is not None and x is not None else None
        if x is None:
            x, target = self.decoded(i)
            self.cache.set_slot(i, x)
            if self.masks is not None:
                self.masks.set_slot(i, target)
        else:
            target = i if mask is None else tv_tensors.Mask(mask)  # type: ignore[call-arg]
        return self.made(tv_tensors.Image(x), target)  # type: ignore[call-arg]


class Stocaching(TorchSystem):
    packages = ("stocaching", *TorchSystem.packages)

    def dataset(self) -> Any:
        return Cached(self)


# -- tensordict -----------------------------------------------------------------------------------------------


class Collated:
    "Make a batch from the memory map at once: flips and floats on whole tensors."

    def __init__(self, work: Any) -> None:
        self.work = work
        self.mean, self.std = (255 * torch.tensor(one).view(1, 3, 1, 1) for one in work.stats)

    def __call__(self, found: Any) -> Tuple[Any, Any]:
        x, target = found["images"], found["targets"]
        if self.work.flip:
            flipped = torch.rand(len(x)) < 0.5
            x[flipped] = x[flipped].flip(-1)
            if self.work.masks:
                target[flipped] = target[flipped].flip(-1)
        x = x.float().sub_(self.mean).div_(self.std)
        if self.work.masks:
            target = target.long()
        return (torch.randn(len(x), self.work.noise), x) if self.work.noise else (x, target)


class Tensordict(TorchSystem):
    """Keep `MemoryMappedTensor`s in a file, filled once, as in its tutorial on memory-mapped datasets.

    The tutorial's loader asks for all indices of a batch at once, and `collate_fn` gets one `TensorDict`.
    """

    packages = ("tensordict", *TorchSystem.packages)

    def prepare(self) -> None:
        from tensordict import MemoryMappedTensor, TensorDict

        n, size = len(self.files), self.work.size
        folder = Path(self.job.scratch)
        images = MemoryMappedTensor.empty((n, 3, size, size), dtype=torch.uint8, filename=folder / "images")
        shape, dtype = ((n, 1, size, size), torch.uint8) if self.work.masks else ((n,), torch.int64)
        targets = MemoryMappedTensor.empty(shape, dtype=dtype, filename=folder / "targets")
        opened = Opened(self)
        self.data = TensorDict({"images": images, "targets": targets}, batch_size=[n])
        # Its tutorial fills by a loader with workers, a batch at a time.
        filling = DataLoader(Plain(opened), BATCH, num_workers=2)
        done = 0
        for x, target in filling:
            part = slice(done, done + len(x))
            images[part], targets[part] = x, target
            done += len(x)
        self.loader = self.load(self.data, collate_fn=Collated(self.work))

    def release(self) -> None:
        super().release()
        del self.data


class Plain(Dataset):  # type: ignore[type-arg]
    "Return bytes and targets of a dataset."

    def __init__(self, opened: Opened) -> None:
        self.opened = opened

    def __len__(self) -> int:
        return len(self.opened)

    def __getitem__(self, i: int) -> Any:
        x, target = self.opened.decoded(i)
        return x.as_subclass(Tensor), target.as_subclass(Tensor) if isinstance(target, Tensor) else target


# -- the limit ------------------------------------------------------------------------------------------------


class Limit(System):
    """Copy the floats of a batch, made in advance, into one block of memory by `memcpy`.

    Two threads copy. A system that keeps bytes reads a quarter of that, and may be faster.
    """

    packages = ("numpy", "torch")

    def prepare(self) -> None:
        size, n = self.work.size, len(self.files)
        self.distinct = distinct = min(n, 512)
        opened = Opened(self)
        step = drawn(self.work._replace(crops=False, flip=False))
        if self.work.crops:
            opened.fixed = fixed(self.work._replace(crops=False))
        one = [step(opened.decoded(i)[0]).numpy() for i in range(distinct)]
        self.source = np.empty((n, 3, size, size), np.float32)
        for i in range(n):
            self.source[i] = one[i % distinct]
        self.batch = torch.empty((BATCH, 3, size, size))
        self.masks = torch.zeros((BATCH, 1, size, size), dtype=torch.int64)
        self.threads = ThreadPoolExecutor(2)

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        order = random.sample(range(len(self.files)), len(self.files))
        into = self.batch.numpy()

        def copy(part: List[Tuple[int, int]]) -> None:
            for k, i in part:
                np.copyto(into[k], self.source[i])

        for at in range(0, len(order) - BATCH + 1, BATCH):
            places = list(enumerate(order[at : at + BATCH]))
            halves = places[: BATCH // 2], places[BATCH // 2 :]
            list(self.threads.map(copy, halves))
            if self.work.masks:
                yield self.batch, self.masks
            elif self.work.noise:
                yield torch.empty(BATCH, self.work.noise), self.batch
            else:
                yield self.batch, torch.tensor([i % self.distinct for _, i in places])

    def release(self) -> None:
        del self.source, self.batch
