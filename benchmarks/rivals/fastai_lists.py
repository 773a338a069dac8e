"""Measure fastai 1 lists: stock, the forum's two snippets, memlist."""

from pathlib import Path
from typing import Any, ClassVar, Dict, Iterator, List, Optional, Tuple

import torch
from fastai.data_block import FloatList
from fastai.vision import (
    Image,
    ImageList,
    SegmentationItemList,
    crop_pad,
    flip_lr,
    get_transforms,
    noop,
    open_image,
    rand_resize_crop,
)
from fastai.vision.gan import GANItemList
from harness import BATCH, Job, System, mask_of

from memlist import MemoryGANItemList, MemoryImageList, MemorySegmentationItemList

CLASSES = [str(k) for k in range(8)]


def place(file: Path) -> int:
    return int(file.stem)


class Stock(System):
    "fastai's own lists: every file is opened and decoded in every epoch."

    packages = ("fastai", "torch", "torchvision", "numpy", "pillow")
    lists: Tuple[type, type, type] = (ImageList, SegmentationItemList, GANItemList)
    batch_tfms = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        images, pairs, noise = self.lists
        given = self.keywords()
        if self.work.masks:
            labelled = pairs(self.files, path=job.folder, **given).split_none()  # type: ignore[call-arg]
            labelled = labelled.label_from_func(mask_of, classes=CLASSES)
        elif self.work.noise:
            labelled = noise(self.files, path=job.folder, noise_sz=self.work.noise, **given)  # type: ignore[call-arg]
            labelled = labelled.split_none().label_from_func(noop)
        else:
            labelled = images(self.files, path=job.folder, **given).split_none()  # type: ignore[call-arg]
            labelled = labelled.label_from_func(place, label_cls=FloatList)
        self.data = self.bunch(labelled.transform(self.transforms(), size=self.work.size, tfm_y=self.both()))

    def keywords(self) -> Dict[str, Any]:
        "Return the keywords of the list."
        return {}

    def both(self) -> bool:
        return self.work.masks or bool(self.work.noise)

    def transforms(self) -> Any:
        if self.work.default:
            return get_transforms()
        first = list(rand_resize_crop(self.work.size)) if self.work.crops else [crop_pad()]
        if self.job.work == "digits":
            return None
        return [*first, *([flip_lr(p=0.5)] if self.work.flip else [])], []

    def bunch(self, labelled: Any) -> Any:
        given: Dict[str, Any] = {"batch_tfms": True} if self.batch_tfms else {}
        cpu = torch.device("cpu")
        data = labelled.databunch(bs=BATCH, num_workers=self.job.workers, device=cpu, no_check=True, **given)
        stats = [torch.tensor(one) for one in self.work.stats]
        noise = bool(self.work.noise)
        return data.normalize(stats, do_x=not noise, do_y=noise)

    def epoch(self) -> Iterator[Tuple[Any, Any]]:
        return iter(self.data.train_dl)

    def release(self) -> None:
        del self.data


# -- the forum -----------------------------------------------------------------------------------------------


class DictList(SegmentationItemList):
    """Rebuild the first snippet: a dict of the class, filled in `open`, of fastai's float images.

    Its base is `SegmentationItemList`, so that it serves pairs too; without a label class that is an `ImageList`.
    """

    kept: ClassVar[Dict[str, Image]] = {}
    _label_cls = None

    def open(self, fn: Any) -> Image:
        found = self.kept.get(str(fn))
        if found is None:
            found = self.kept[str(fn)] = super().open(fn)
        return found


class DictPairs(DictList):
    _label_cls = SegmentationItemList._label_cls


class Snippet(Stock):
    "Use the first snippet. It has no class for labels, so masks and image targets are opened from disk."

    lists = (DictList, DictPairs, GANItemList)

    def release(self) -> None:
        super().release()
        DictList.kept.clear()


class LoadedList(ImageList):
    "Rebuild the second snippet: all images in a list, read by position. Its unreachable second branch is fixed."

    images: Optional[List[Image]] = None

    def load_data(self) -> None:
        if self.images is None:
            given = {"convert_mode": self.convert_mode, "after_open": self.after_open}
            self.images = [open_image(item, **given) for item in self.items]

    def purge(self) -> None:
        self.images = None

    def get(self, i: int) -> Image:
        found = super().get(i) if self.images is None else self.images[i]
        self.sizes[i] = found.size
        return found


class LoadedPairs(LoadedList, SegmentationItemList):
    pass


class LoadSnippet(Stock):
    lists = (LoadedList, LoadedPairs, GANItemList)

    def prepare(self) -> None:
        if not self.work.noise:
            self.data.train_ds.x.load_data()

    def release(self) -> None:
        if not self.work.noise:
            self.data.train_ds.x.purge()
        super().release()


# -- ours -----------------------------------------------------------------------------------------------------


class Memlist(Stock):
    "Use memlist by changing the class names only: the cache is filled as images are first opened."

    packages = ("memlist", *Stock.packages)
    lists = (MemoryImageList, MemorySegmentationItemList, MemoryGANItemList)
    #: Bytes of a record besides its pixels.
    HEADER = 96

    def keywords(self) -> Dict[str, Any]:
        if self.job.share == 1:
            return {}
        return {"max_ram": int(self.job.share * self.job.n * (500 * 375 * 3 + self.HEADER))}

    def release(self) -> None:
        self.data.purge()
        super().release()


class Loaded(Memlist):
    "Call `load_data()` before the first epoch."

    def prepare(self) -> None:
        self.data.load_data(progress=False)


class Batches(Loaded):
    "Make transforms a batch at a time as well."

    packages = ("numba", *Memlist.packages)
    batch_tfms = True


class Reduced(Batches):
    "Keep pictures reduced, the shorter side to the size that is trained on."

    def keywords(self) -> Dict[str, Any]:
        return {**super().keywords(), "max_size": self.work.size}
