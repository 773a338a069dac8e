"""List the systems that are compared, what is asked of each alone, and what they do in turns."""

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
    workers: Tuple[int, ...] = (0, 2)
    works: Tuple[str, ...] = ("common", "digits", "segmentation", "gan")


#: What a number of workers is called: of processes, and of a system that has threads instead.
WORKERS = ("no workers", "1 worker", "2 workers")
THREADS_OF = ("", "1 thread", "2 threads")
WORKS = ("common", "crops", "default", "digits", "segmentation", "gan")
SNIPPETS = ("common", "default", "digits", "segmentation")
FASTAI, TORCH, FFCV = ("", "fastai_lists"), ("rivals", "torch_caches"), ("ffcv", "ffcv_loader")
THREADS, ALL = (1, 2), (0, 1, 2)
#: Images per batch.
BATCH = 64
SYSTEMS: Dict[str, Entry] = {
    "limit": Entry("memcpy, the limit", *TORCH, "Limit", workers=(0,), works=WORKS),
    "stock": Entry("fastai 1", *FASTAI, "Stock", keeps=False, workers=ALL, works=WORKS),
    "snippet1": Entry("forum: dict in `open`", *FASTAI, "Snippet", works=SNIPPETS),
    "snippet2": Entry("forum: `load_data`", *FASTAI, "LoadSnippet", preloads=True, works=SNIPPETS),
    "memlist": Entry("memlist", *FASTAI, "Memlist", ours=True, workers=ALL, works=WORKS),
    "batches": Entry("memlist, `batch_tfms`", *FASTAI, "Batches", ours=True, preloads=True, workers=ALL, works=WORKS),
    "reduced": Entry(
        "memlist, `batch_tfms`, `max_size`",
        *FASTAI,
        "Reduced",
        ours=True,
        preloads=True,
        workers=ALL,
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

#: What `MemoryImageFolder` is compared with, of doors.py.
FOLDERS = "", "image_folders"
DOORS: Dict[str, Entry] = {
    "limit": SYSTEMS["limit"],
    "stock": Entry("torchvision `ImageFolder`", *FOLDERS, "Stock", keeps=False),
    "single": Entry("torchvision `ImageFolder`, one torch thread", *FOLDERS, "OneThread", keeps=False),
    "tensors": SYSTEMS["torchvision"]._replace(name="torchvision `ImageFolder`, transforms of tensors"),
    "memlist": Entry("memlist `MemoryImageFolder`", *FOLDERS, "Memory", ours=True),
    "ahead": Entry("memlist `MemoryImageFolder`, `MemoryLoader`", *FOLDERS, "Ahead", ours=True),
    "reduced": Entry("memlist `MemoryImageFolder`, `max_size`, `MemoryLoader`", *FOLDERS, "Reduced", ours=True),
    **{key: SYSTEMS[key] for key in ("tensordict", "monai", "stocaching", "ffcv", "ffcv_reduced", "tf")},
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
    #: Photographs of the common job where its memory is measured.
    memory: int
    warm: int
    #: In turns: photographs, digits, and rounds where an epoch takes seconds, and where it takes less.
    photographs: int
    small: int
    slow: int
    quick: int
    #: Rounds of first batches.
    first: int


FULL = Scale(1280, 1280, 8192, 640, 1280, 1280, 512, (1000, 16000), 8000, 5, 2560, 16384, 3, 12, 3)
QUICK = Scale(192, 64, 256, 64, 64, 64, 128, (100, 400), 192, 1, 128, 256, 1, 2, 1)
SHARES = (0.0, 0.5, 1.0)
OF_SHARES = ("memlist", "batches", "stocaching", "monai")
OF_COUNTS = ("stock", "memlist", "batches")
OF_MEMORY = ("memlist", "batches")


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
        for workers in ALL:
            for key, entry in SYSTEMS.items():
                if work in entry.works and workers in entry.workers:
                    yield Run(work, work, key, getattr(scale, work), workers, 1.0, scale.warm)
    for workers in (0, 2):
        for key in OF_MEMORY:
            yield Run("memory", "common", key, scale.memory, workers, 1.0, 1)
    for share in SHARES:
        for key in OF_SHARES:
            yield Run("shares", "common", key, scale.shares, 2, share, 2)
    for n in scale.counts:
        for key in OF_COUNTS:
            for workers in (0, 2):
                yield Run("counts", "digits", key, n, workers, 1.0, 2)


# -- in turns -------------------------------------------------------------------------------------------------

#: A system and its number of workers.
Contender = Tuple[str, int]


class Turns(NamedTuple):
    "A comparison in turns: every contender prepares in a process of its own, then one epoch of each per round."

    #: A key of the results.
    name: str
    work: str
    n: int
    contenders: Tuple[Contender, ...]
    rounds: int
    #: Not epochs, but first batches of new processes.
    first: bool = False


#: By job: what memlist's settings and the others are compared with in turns, at the settings that are their best.
IN_TURNS: Dict[str, Tuple[Contender, ...]] = {
    "digits": (("limit", 0), ("batches", 0), ("batches", 2), ("tensordict", 0), ("ffcv", 1), ("ffcv", 2)),
    "gan": (("limit", 0), ("reduced", 0), ("reduced", 2), ("tensordict", 0), ("ffcv_reduced", 2)),
    "segmentation": (("limit", 0), ("batches", 0), ("reduced", 0), ("tensordict", 0)),
    "common": (("limit", 0), ("reduced", 0), ("reduced", 2), ("ffcv_reduced", 2)),
    "crops": (("limit", 0), ("batches", 0), ("ffcv", 2)),
    "default": (("limit", 0), ("batches", 0), ("batches", 2)),
}
FIRST = ("common", "crops", "digits", "segmentation", "gan")


def in_turns(scale: Scale) -> Iterator[Turns]:
    "List every comparison in turns: the fast settings, the swap alone against stock, first batches."
    size = {work: scale.small if work == "digits" else scale.photographs for work in WORKS}
    for work, contenders in IN_TURNS.items():
        yield Turns(f"fast_{work}", work, size[work], contenders, scale.quick)
    for work in WORKS:
        for workers in (0, 2):
            swap = ("stock", workers), ("memlist", workers)
            yield Turns(f"swap_{work}_{workers}", work, size[work], swap, scale.slow)
    for work in FIRST:
        yield Turns(
            f"first_{work}",
            work,
            getattr(scale, work),
            (("memlist", 0), ("stock", 0), ("torchvision", 0)),
            scale.first,
            True,
        )
