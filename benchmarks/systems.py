"""List the systems that are compared, and what is asked of them."""

from typing import Dict, Iterator, NamedTuple, Tuple


class Entry(NamedTuple):
    "One system: its name on the page, where its code and its environment are, and what it can do."

    name: str
    #: `.venv-NAME`, made of rivals/NAME.txt; "" is memlist's own.
    environment: str
    #: The module in rivals/ and the class in it.
    module: str
    cls: str
    ours: bool = False
    #: Whether it keeps anything in memory from one epoch to the next.
    keeps: bool = True
    #: Whether it loads or writes every image before the first epoch.
    preloads: bool = False
    workers: Tuple[int, ...] = (0, 1, 2)
    works: Tuple[str, ...] = ("common", "digits", "segmentation", "gan")


WORKS = ("common", "crops", "default", "digits", "segmentation", "gan")
SNIPPETS = ("common", "default", "digits", "segmentation")
FASTAI, TORCH, FFCV = ("", "fastai_lists"), ("rivals", "torch_caches"), ("ffcv", "ffcv_loader")
THREADS = (1, 2)
SYSTEMS: Dict[str, Entry] = {
    "limit": Entry("memcpy, the limit", *TORCH, "Limit", works=WORKS),
    "stock": Entry("fastai 1", *FASTAI, "Stock", keeps=False, works=WORKS),
    "snippet1": Entry("forum: dict in `open`", *FASTAI, "Snippet", works=SNIPPETS),
    "snippet2": Entry("forum: `load_data`", *FASTAI, "LoadSnippet", preloads=True, works=SNIPPETS),
    "memlist": Entry("memlist", *FASTAI, "Memlist", ours=True, works=WORKS),
    "batches": Entry("memlist, `batch_tfms`", *FASTAI, "Batches", ours=True, preloads=True, works=WORKS),
    "reduced": Entry(
        "memlist, `batch_tfms`, `max_size`",
        *FASTAI,
        "Reduced",
        ours=True,
        preloads=True,
        works=("common", "segmentation", "gan"),
    ),
    "torchvision": Entry(
        "torchvision `ImageFolder`",
        *TORCH,
        "Torchvision",
        keeps=False,
        works=("common", "crops", "digits", "segmentation", "gan"),
    ),
    "stocaching": Entry("stocaching", *TORCH, "Stocaching"),
    "tensordict": Entry("tensordict", *TORCH, "Tensordict", preloads=True),
    "monai": Entry("MONAI `CacheDataset`", "rivals", "monai_cache", "Monai", preloads=True),
    "ffcv": Entry(
        "FFCV, raw", *FFCV, "Raw", preloads=True, workers=THREADS, works=("common", "digits", "gan", "crops")
    ),
    "ffcv_reduced": Entry(
        "FFCV, raw, `max_resolution`", *FFCV, "RawReduced", preloads=True, workers=THREADS, works=("common", "gan")
    ),
    "ffcv_jpeg": Entry("FFCV, JPEG", *FFCV, "Jpeg", preloads=True, workers=THREADS, works=("common", "crops")),
    "tf": Entry("`tf.data`, `cache()`", "tf", "tf_data", "TfData", workers=THREADS),
}


class Scale(NamedTuple):
    "How many images each job has, and how many warm epochs."

    common: int
    default: int
    digits: int
    segmentation: int
    gan: int
    crops: int
    shares: int
    counts: Tuple[int, ...]
    warm: int


FULL = Scale(8000, 256, 4096, 384, 512, 1024, 512, (1000, 8000, 64000), 5)
QUICK = Scale(192, 64, 256, 64, 64, 64, 128, (100, 400), 1)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
OF_SHARES = ("memlist", "batches", "stocaching", "monai")
OF_COUNTS = ("stock", "memlist", "batches")


class Run(NamedTuple):
    "One process to start: a system on a job."

    table: str
    work: str
    system: str
    n: int
    workers: int
    #: The share of the images that it may keep.
    share: float
    #: Warm epochs.
    warm: int


def plan(scale: Scale) -> Iterator[Run]:
    "List every run, those of one job together."
    for work in ("crops", "common", "digits", "gan", "segmentation", "default"):
        for workers in (0, 1, 2):
            for key, entry in SYSTEMS.items():
                if work in entry.works and workers in entry.workers:
                    yield Run(work, work, key, getattr(scale, work), workers, 1.0, scale.warm)
    for share in SHARES:
        for key in OF_SHARES:
            yield Run("shares", "common", key, scale.shares, 2, share, 2)
    for n in scale.counts:
        for key in OF_COUNTS:
            for workers in (0, 2):
                yield Run("counts", "digits", key, n, workers, 1.0, 2)
