"""List what the pages claim: a line per sentence, with the numbers that it states or the condition that it needs."""

# ruff: noqa: RUF001  (the pages write × for times)
from __future__ import annotations

from typing import List

from claims_found import Claim, claim
from claims_numbers import (
    at_least,
    at_most,
    both,
    decimals,
    decoded,
    fastai2,
    fastai2_cpu,
    fastai2_epoch,
    figure,
    first_batch,
    gigabytes,
    gpu_waited,
    least,
    most,
    number,
    on_page,
    quotient,
    scaled,
    significant,
    time,
    times,
    torchvision,
    torchvision_cpu,
    turns,
    whole,
)

PHOTOGRAPHS, DIGITS = "500x375 to 224", "digits, 28x28"
STOCKS, DICTS = "images/s over stock's", "images/s over the dict's"
SIZES = [f"{size} kB, {workers} workers" for size in (50, 100, 200) for workers in (0, 2)]
OVER_STOCK = [figure("warm", case, STOCKS) for case in SIZES]
OVER_DICT = [figure("warm", case, DICTS) for case in SIZES]
WARM = [figure("warm", f"100 kB, {workers} workers", STOCKS) for workers in (0, 2)]
# memlist without workers against stock without and with two.
AT_ONCE, AT_ONCE_DIGITS = (
    [figure("batch_epochs", job, f"images/s over stock's {side}") for side in ("without workers", "with 2 workers")]
    for job in (PHOTOGRAPHS, DIGITS)
)
FIRST = [
    figure("first", f"{job}, {workers} workers", "first epoch, images/s over stock's")
    for job in ("default transforms", "resize only")
    for workers in (0, 2)
]
FIRST_BATCH = [first_batch(job, "torchvision") for job in ("common", "crops", "segmentation", "gan")]
CROP, RESIZE = "RandomResizedCrop(224)", "Resize(460)"
CPU = [fastai2_cpu(CROP), fastai2_cpu("Resize(224)"), fastai2_cpu(RESIZE), torchvision_cpu]
ADDED = [
    number("pss", f"{method}, {way}")
    for method in ("fork", "spawn")
    for way in ("load_data()", "filled by the workers")
]
IN_CACHE, ON_DISK = "in the page cache", "dropped from memory first"
OPENED, STOCK_OPENED = "open, build the bunch, serve the first batch", "stock's bunch and first batch"
FROM_FILE = [
    figure("from_file", f"100 kB, {workers} workers", "images/s over anonymous memory's") for workers in (0, 2)
]
#: "About as fast": within a tenth.
AS_FAST = both(at_least(0.9, *FIRST), at_most(1.1, *FIRST))

# What both the README and the home page say.
BOTH = [
    claim(page, words, *numbers, holds=holds)
    for page in ("README.md", "docs/index.md")
    for words, numbers, holds in (
        ("at about a tenth of the CPU time", (), both(at_least(8.5, *CPU), at_most(13, *CPU))),
        ("at up to {} × the speed, or pixels", (times(most(*WARM)),), None),
        ("equal to about a thousandth at up to {} ×", (times(most(*AT_ONCE)),), None),
        ("| fastai 1, `MemoryImageList`, resize to 224 | {} × | {} × | – |", [times(one) for one in WARM], None),
        (
            "| fastai 1, `MemoryImageList`, default transforms, 224 | {} × | {} × | – |",
            [
                times(figure("first", f"default transforms, {workers} workers", "warm epoch, images/s over stock's"))
                for workers in (0, 2)
            ],
            None,
        ),
        (
            "| fastai 1, default transforms, 224, `batch_tfms=True` | {} × | {} × | – |",
            [
                times(one)
                for one in (AT_ONCE[0], figure("batch_epochs", PHOTOGRAPHS, "with 2 workers, over stock's with 2"))
            ],
            None,
        ),
        *(
            (
                f"| fastai 2, `{pipeline}` | {{}} × | {{}} × | 1/{{}} |",
                [decimals(one, 1) for one in (fastai2(pipeline, 0), fastai2(pipeline, 2), fastai2_cpu(pipeline))],
                None,
            )
            for pipeline in (CROP, RESIZE)
        ),
        (
            "| torchvision, training transforms, 224 | {} × | {} × | 1/{} |",
            [decimals(one, 1) for one in (torchvision(0), torchvision(2), torchvision_cpu)],
            None,
        ),
    )
]

FASTAI2 = [
    claim(
        "docs/fastai2.md",
        "an epoch of a ResNet-18 in mixed precision took {} s with memlist, and {} s with fastai alone",
        *(decimals(fastai2_epoch(side), 1) for side in ("memlist", "fastai")),
        holds=lambda raw: raw["fastai2"]["pinned"]["device"] == "NVIDIA H200",
    ),
]

README = [
    claim(
        "README.md",
        "The first epoch runs at {} to {} × stock's speed",
        decimals(least(*FIRST), 2),
        decimals(most(*FIRST), 2),
    ),
    claim(
        "README.md",
        "With photographs, the first batch of a new list takes {} to {} times as long as torchvision's",
        decimals(lambda raw: 1 / most(*FIRST_BATCH)(raw), 1),
        decimals(lambda raw: 1 / least(*FIRST_BATCH)(raw), 1),
        holds=at_most(1, *FIRST_BATCH),
    ),
    claim(
        "README.md",
        "With two workers, 28×28 digits reach {} × FFCV's speed; without workers, {} × tensordict's",
        decimals(turns("fast_digits", ("batches", 2), ("ffcv", 2)), 2),
        decimals(turns("fast_digits", ("batches", 0), ("tensordict", 0)), 2),
    ),
    claim(
        "README.md",
        "On an H200, a ResNet-18 with `batch_tfms=True` and workers still waits for {} to {} % of an epoch",
        whole(least(*(gpu_waited(f"batch_tfms, {workers} workers") for workers in (2, 4, 8)))),
        whole(most(*(gpu_waited(f"batch_tfms, {workers} workers") for workers in (2, 4, 8)))),
        holds=lambda raw: raw["gpu"]["device"] == "NVIDIA H200",
    ),
]

COSTS = [
    claim(
        "docs/costs.md",
        "memlist reaches {} to {} times the images per second of the dict, and {} to {} times those of stock",
        decimals(least(*OVER_DICT), 2),
        decimals(most(*OVER_DICT), 2),
        decimals(least(*OVER_STOCK), 1),
        decimals(most(*OVER_STOCK), 1),
    ),
    claim(
        "docs/costs.md",
        "come at {} times the images per second of stock without workers, and at {} times those of stock with two",
        *(times(one) for one in AT_ONCE),
    ),
    claim(
        "docs/costs.md",
        "On digits it is {} and {} times; the target was twenty times",
        *(times(one) for one in AT_ONCE_DIGITS),
    ),
    claim(
        "docs/costs.md",
        "The first epoch runs at {} to {} times the images per second of stock",
        decimals(least(*FIRST), 2),
        decimals(most(*FIRST), 2),
    ),
    claim(
        "docs/costs.md",
        "measured, that is at most {} % more than the pixels",
        decimals(scaled(lambda raw: most(*ADDED)(raw) - 1, 100), 1),
    ),
    claim(
        "docs/costs.md",
        "serves its first batch after {} s, and stock decodes it in {} s",
        significant(number("reopened", f"{IN_CACHE}: {OPENED}"), 2),
        significant(number("reopened", f"{IN_CACHE}: {STOCK_OPENED}"), 2),
    ),
    claim(
        "docs/costs.md",
        "If the pages have to come from the disk, that takes {} s",
        significant(number("reopened", f"{ON_DISK}: {OPENED}"), 2),
    ),
    claim(
        "docs/costs.md",
        "file reach {} to {} times the images per second of those from memory",
        decimals(least(*FROM_FILE), 2),
        decimals(most(*FROM_FILE), 2),
    ),
    claim(
        "docs/costs.md",
        "it takes {} µs in all and **a dict only {} µs**",
        significant(scaled(time("small", "il[i]", "memlist"), 1e6), 2),
        significant(scaled(time("small", "il[i]", "dict"), 1e6), 2),
        holds=at_most(1, figure("small", "il[i]", DICTS)),
    ),
]

OTHERS = [
    claim("docs/waiting.md", "fills the cache and is about as slow as stock", holds=AS_FAST),
    claim("docs/troubleshooting.md", "fills the cache, and is about as fast as stock", holds=AS_FAST),
    claim(
        "docs/snippets.md",
        "For tiny images in one process the dict is faster",
        holds=at_most(1, figure("small", "il[i]", DICTS)),
    ),
    claim(
        "docs/batches.md",
        "and two workers are slower than none",
        holds=at_least(
            1,
            *(
                quotient("batch_epochs", job, "batch_tfms, 2 workers", "batch_tfms, 0 workers")
                for job in (PHOTOGRAPHS, DIGITS)
            ),
        ),
    ),
    claim(
        "docs/pytorch.md",
        "`MemoryLoader` makes {} images/s where `DataLoader` makes {}",
        on_page("doors", "ahead_rate"),
        on_page("doors", "memlist_rate"),
    ),
    claim(
        "docs/pytorch.md",
        "a hit takes {} µs, of which copying the pixels takes {}",
        on_page("doors", "hit"),
        on_page("doors", "copy"),
    ),
]

#: Width, height and channels by arithmetic: a mask has one channel more.
DECODED = [
    claim(
        "docs/fit.md", '| MNIST, 28×28, `convert_mode="L"` | 70,000 | {} GB |', gigabytes(decoded(70_000, 28, 28, 1))
    ),
    claim("docs/fit.md", "| CIFAR-10, 32×32 | 60,000 | {} GB |", gigabytes(decoded(60_000, 32, 32))),
    claim("docs/fit.md", "| Oxford pets, about 500×375 | 7,390 | {} GB |", gigabytes(decoded(7_390, 500, 375))),
    claim("docs/fit.md", "| CamVid, 960×720 and masks | 701 | {} GB |", gigabytes(decoded(701, 960, 720, 4))),
    claim("docs/fit.md", "| 1,281,167 | {} GB |", gigabytes(decoded(1_281_167, 500, 375))),
    claim("docs/fit.md", "| 12-megapixel photographs | 1,000 | {} GB |", gigabytes(decoded(1_000, 4000, 3000))),
]

CLAIMS: List[Claim] = [*BOTH, *README, *FASTAI2, *COSTS, *OTHERS, *DECODED]
