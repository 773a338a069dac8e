"""The page benchmarks/README.md: memlist beside everything else, made from results/beside.json."""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from beside import SHARES, SYSTEMS

Row = Dict[str, Any]
BEFOREHAND = ("snippet2", "batches", "reduced", "tensordict", "monai", "ffcv", "ffcv_reduced", "ffcv_jpeg")
DECODED = {"photographs": 500 * 375 * 3, "digits": 28 * 28 * 3}


class Work(NamedTuple):
    "What the page says of one job."

    key: str
    title: str
    how: str


WORKS = (
    Work(
        "common",
        "Photographs to 224, flipped: what everybody can do",
        "JPEGs of 500x375: the middle square at 224x224, mirrored with a probability of a half, normalised, float32, "
        "in batches of 64. All that comes before the mirror is the same in every epoch, so whoever can keeps what "
        "comes after it.",
    ),
    Work(
        "crops",
        "FFCV's home ground: a random crop and a flip",
        "A random part of half to all of the area at a ratio of 0.75 to 1.33, resized to 224x224; nothing but the "
        "decoded picture can be kept. MONAI, stocaching, tensordict and `tf.data` would keep those, too, and resize in "
        "every epoch by what their framework has for that; they are not set up so here.",
    ),
    Work(
        "default",
        "fastai's default transforms",
        "`get_transforms()`: flip, rotation, zoom, lighting and a symmetric warp, which nobody but fastai has. Only "
        "what is a fastai list can do this job.",
    ),
    Work(
        "digits", "Digits of 28x28", "PNGs, normalised, no transforms: what a system costs where images cost nothing."
    ),
    Work(
        "segmentation",
        "Segmentation pairs",
        "The photographs and a mask of eight classes each, both cropped, resized and flipped alike; masks int64. "
        "The forum's snippets have no class for masks, which are opened in every epoch. FFCV has no field for masks "
        "that it would resize without mixing classes.",
    ),
    Work(
        "gan",
        "Image targets of a GAN",
        "100 numbers of noise an image as the input, the photograph at 64x64 as the target. The forum's snippets "
        "can't: images are labels here, which they have no class for.",
    ),
)
WHY = {
    "digits": "at this size there is nothing to save but Python: fastai's protocol, an object an item, a key and a "
    "look into the index an image, cost memlist more than copying 2 kB does. FFCV, tensordict and `tf.data` run no "
    "Python an image, MONAI little. A batch of 64 takes memlist some 2 ms, which few trainings would wait for; it is "
    "ours to mend all the same, by reading the index a batch at a time.",
    "gan": "64x64 is small, too: the same Python an image, of two lists here, noise and targets. Without `max_size` "
    "whole photographs are averaged down in every epoch, as fastai does it.",
}


def render(results: Dict[str, Any]) -> str:
    "The whole page."
    rows = [row for row in results["rows"] if "failed" not in row]
    parts = [HEAD]
    if results.get("quick"):
        parts.append("**A quick run: few images, one warm epoch. No figure here means anything.**")
    parts += [_loses(rows), _first(rows), _machine(results), _systems(results), FEATURES, UNFAIR]
    parts += [text for work in WORKS for text in _work(work, results["rows"])]
    parts += [_shares(rows), _counts(rows), _absent(results), AGAIN]
    return "\n\n".join(part for part in parts if part) + "\n"


HEAD = """# Beside everything else

What keeps a training fed: fastai 1 as it is, the forum's two snippets, more workers, stocaching, MONAI's
`CacheDataset`, FFCV, tensordict's memory maps, `tf.data`'s `cache()`, torchvision's `ImageFolder`, and memlist, on the
same jobs, on the same machine, in one run. `make bench` makes this page out of
[results/beside.json](results/beside.json), which holds every raw figure; no number on it is typed by hand.
The figures of memlist's own promises, each with its target, are on [a page of their own](figures.md).

- **warm**: images a second, the median of epochs 2 to 6; where five take more than 75 seconds, of as many as were begun
  until then, two at least.
- **cold**: images a second from a list of files to the end of the first epoch, all that has to be done before it
  (loading, writing a file) counted.
- **first batch**: from the list of files to the first batch of all, and, *warm*, from the beginning of a later epoch.
- **preload**: images a second of loading or writing all of them beforehand, on both cores.
- **peak**: proportional memory (PSS) of the process and its workers, at the most; and its ratio to the decoded bytes
  of the images. **after release**: what is left above an idle process once the memory was given back as the system's
  documentation says; what the C library keeps for later counts, since no other process can have it.
- **of the limit**: the limit is a `memcpy` of the same floats, made beforehand, into one block of memory."""

FEATURES = """## What each of them does

| | memlist | stocaching | MONAI | FFCV | tensordict | `tf.data` |
| --- | --- | --- | --- | --- | --- | --- |
| fastai 1 code stays as it is | yes | no | no | no | no | no |
| pixels are those of `ImageList` | to the bit; with `batch_tfms` to 1e-3 | no | no | no | no | no |
| what one worker opens, others have | yes, also spawned | yes | loaded before | written before | written before | yes |
| a byte a channel | yes | by hand | no: what transforms make | yes, or JPEG | by hand | by hand |
| images of many sizes | yes | one size | yes | yes | one size | yes |
| random crops of what is kept | yes | by hand | yes | its own | by hand | by hand |
| a part, where memory is small | by itself, `max_ram` | a limit | `cache_rate` | page cache | page cache | no |
| a changed source is noticed | yes | no | no | written anew | written anew | no |
| memory given back | `purge()`: in all processes | with the object | same | same | same | same |
| warm after a restart | `cache_file` | no | its `PersistentDataset` | yes | yes | `cache(file)` |
| masks, image targets | yes | by hand | yes | by hand | yes | yes |"""

UNFAIR = """## What is unfair to whom

- **To memlist without `batch_tfms`, and to fastai**: fastai resizes floats with `grid_sample`, image by image, on every
  read, and memlist gives the same pixels to the bit. The others resize once, by libraries made for it, and keep the
  small result: on the common job they do less in a warm epoch, and keep less. `max_size` is memlist's way to that.
- **To those who keep resized pictures**: another size, or a crop at random, and they load everything again, or can't.
  memlist without `max_size` has whole pictures for any size; the row of random crops shows what that is for.
- **To FFCV**: it is made for many cores and a GPU that normalises bytes; here it has two threads and normalises itself.
  Its compilation by numba is in its cold figures in every process, some ten seconds that a longer training doesn't feel
  (memlist's kernels are kept on the disk and were compiled before). Its file and tensordict's survive the process, like
  memlist's `cache_file`: their cold figures are those of the first time only. It works on threads, so `workers` are
  threads there, as with `tf.data`; both have no setting for none.
- **To `tf.data`**: it makes batches with channels last, as its own models want them.
- **To MONAI**: it is made for volumes that take seconds to load. Where there are no workers it has a thread of its own.
- **To the snippets**: nobody promised anything. They are re-created here, with the line of the second that could not be
  reached mended. With workers the first fills a dict in processes that end with the epoch. What they leave after
  release is kept by the C library, whose `malloc_trim` would give it back.
- **To stock, `ImageFolder` and whoever reads files**: the files are in the page cache of the operating system; on a
  slow disk they would fall behind further.
- **To everybody with worker processes**: two cores. A batch of 39 MB goes through shared memory, and workers start anew
  in every epoch, as fastai starts them; torch's `persistent_workers` would save some 50 ms an epoch.
- **To memlist again**: nothing computes on these batches. In a training on two cores, whoever works ahead on a thread
  takes time from the model; in this table it looks free."""

AGAIN = """## Again

`make bench` builds the environments (`.venv-rivals`, `.venv-tf`, `.venv-ffcv`, the versions pinned in
`benchmarks/rivals/*.txt`) and takes all figures. `python benchmarks/beside.py --only digits --system memlist` takes
some of them again, and `--render` makes the page anew. A system is a class of some thirty lines in
`benchmarks/rivals/`: corrections by those who know one better are welcome."""


# -- numbers --------------------------------------------------------------------------------------------------


def warm(row: Row) -> float:
    "Images a second of the later epochs."
    return float(np.median([epoch["images"] / epoch["seconds"] for epoch in row["warm"]]))


def cold(row: Row) -> float:
    "Images a second of the first, and of all that comes before."
    return float(row["cold"]["images"] / (row["made"] + row["prepared"] + row["cold"]["seconds"]))


def first(row: Row) -> float:
    "Seconds from the list of files to the first batch."
    return float(row["made"] + row["prepared"] + row["cold"]["first"])


def first_warm(row: Row) -> float:
    return float(np.median([epoch["first"] for epoch in row["warm"]]))


def preload(row: Row) -> Optional[float]:
    "Images a second of what comes before the first epoch, for those that load or write all beforehand; else None."
    return row["n"] / row["prepared"] if row["system"] in BEFOREHAND and row["prepared"] > 0.05 else None


def decoded(row: Row) -> int:
    "The bytes of all of its images."
    kind = "digits" if row["table"] in ("digits", "counts") else "photographs"
    masks = 500 * 375 if row["table"] == "segmentation" else 0
    return int(row["n"] * (DECODED[kind] + masks))


def of(rows: Sequence[Row], table: str, **wanted: Any) -> List[Row]:
    return [row for row in rows if row["table"] == table and all(row[k] == v for k, v in wanted.items())]


def best(rows: Sequence[Row]) -> Optional[Row]:
    "The one that is fastest when warm."
    return max(rows, key=warm) if rows else None


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def named(row: Row) -> str:
    workers = ("no workers", "1 worker", "2 workers")
    threads = ("", "1 thread", "2 threads")
    names = threads if 0 not in SYSTEMS[row["system"]].workers else workers
    return f"{SYSTEMS[row['system']].name}, {names[row['workers']]}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    "The first `words` columns are words, the others numbers."
    made = ["| " + " | ".join(head) + " |", "|" + " --- |" * words + " ---: |" * (len(head) - words)]
    return "\n".join(made + ["| " + " | ".join(line) + " |" for line in lines])


# -- who is first ---------------------------------------------------------------------------------------------


def rivals(rows: Sequence[Row]) -> List[Row]:
    return [row for row in rows if not SYSTEMS[row["system"]].ours and row["system"] != "limit"]


def ours(rows: Sequence[Row]) -> List[Row]:
    return [row for row in rows if SYSTEMS[row["system"]].ours]


def _contests(rows: Sequence[Row]) -> Iterator[Tuple[Work, str, Row, Row, float]]:
    "By job and question: our best, the best of the others, and how many times better ours is."
    for work in WORKS:
        found = of(rows, work.key)
        questions = [
            ("warm", warm, found, False),
            *(
                (f"warm, {('no workers', '1 worker', '2 workers')[w]}", warm, of(found, work.key, workers=w), False)
                for w in (0, 1, 2)
            ),
            ("cold", cold, found, False),
            ("preload", lambda row: preload(row) or 0.0, found, False),
            ("first batch", first, found, True),
            ("first batch, warm", first_warm, found, True),
            ("peak memory", lambda row: float(row["peak"]), [row for row in found if row["system"] != "stock"], True),
        ]
        for name, measured, some, least in questions:
            own, others = ours(some), rivals(some)
            if name == "peak memory":  # who keeps nothing needs none
                others = [row for row in others if SYSTEMS[row["system"]].keeps != "nothing"]
            if name == "preload":
                own, others = [r for r in own if preload(r)], [r for r in others if preload(r)]
            if not own or not others:
                continue
            choose = min if least else max
            a, b = choose(own, key=measured), choose(others, key=measured)
            yield work, name, a, b, measured(b) / measured(a) if least else measured(a) / measured(b)


def _loses(rows: Sequence[Row]) -> str:
    lines = []
    for work, name, a, b, ratio in _contests(rows):
        if ratio < 1:
            lines.append([work.title, name, named(a), named(b), f"{ratio:.2f}"])
    head = ("job", "figure", "memlist's best", "better", "times as good")
    lost = {line[0] for line in lines}
    told = [work for work in WORKS if work.key in WHY and work.title in lost]
    reasons = "\n".join(f"- **{work.title}**: {WHY[work.key]}" for work in told)
    said = table(head, lines, 4) if lines else "Nowhere on these jobs."
    return f"""## Where memlist loses first

Every figure in which the best of the others is ahead of memlist's best; \"times as good\" is memlist's over theirs (for
times and memory theirs over memlist's).

{said}

{reasons}
- **With two workers** FFCV is level on the common job: its workers are threads, while memlist's are processes that
  start anew in every epoch and send 39 MB a batch. Without workers, the default on a CPU, memlist is ahead.
- **First batches and cold epochs**: whoever loads nothing beforehand has its first batch at once; so has memlist
  without `load_data()`, and where it takes longer than torchvision it is fastai's transforms, an image at a time.
- **Memory**: FFCV's and tensordict's files are mapped, and what is not looked at needs no memory. Who keeps pictures of
  224x224 keeps a quarter of the bytes of 500x375.
- **The swap alone.** `MemoryImageList` without `batch_tfms` gives stock's pixels to the bit, and so stock's transforms,
  image by image: it is faster than fastai, and slower than whoever kept the resized picture."""


def _first(rows: Sequence[Row]) -> str:
    lines = []
    for work in WORKS:
        found = of(rows, work.key)
        a, b, limit = best(ours(found)), best(rivals(found)), best(of(found, work.key, system="limit"))
        stock = best(of(found, work.key, system="stock"))
        if a is None or b is None or stock is None:
            continue
        share = f"{warm(a) / warm(limit):.0%}" if limit else ""
        lines.append(
            [
                work.title,
                f"{named(a)}: **{number(warm(a))}**",
                f"{named(b)}: {number(warm(b))}",
                f"**{warm(a) / warm(b):.2f}**",
                f"{warm(a) / warm(stock):.1f}",
                share,
            ]
        )
    head = (
        "job",
        "memlist's best, images/s",
        "best of the others",
        "times theirs",
        "times stock's best",
        "of the limit",
    )
    return f"""## Warm epochs, the best setting of each

{table(head, lines, 3)}

![Images a second of warm epochs: every system at its best number of workers](results/beside.svg)"""


def _machine(results: Dict[str, Any]) -> str:
    s = results.get("surroundings")
    if not s:
        return ""
    times = sorted(row["at"] for row in results["rows"])
    probes = [row["probe"] for row in results["rows"]]
    low, middle, high = (1000 * float(np.percentile(probes, q)) for q in (10, 50, 90))
    versions = ", ".join(f"{name} {version}" for name, version in s["versions"].items())
    sets = " ".join(f"{what}." for what in results["sets"].values())
    return f"""## The machine

{s["cpu"]}, {s["cpus"]} CPUs, {s["memory_GiB"]} GiB of memory, {s["system"]}, {s["libc"]}, no GPU. Python
{s["python"]}, {versions}; {s["jpeg"]} in Pillow.
Taken from {times[0]} to {times[-1]}, revision {(s["revision"] or "unknown")[:10]}.

Systems can't take turns epoch by epoch: they need different environments, and two of them most of the memory. They run
one after the other, each in a new process. Before each the machine is asked how quick it is just then, by ten JPEGs
decoded and ten blocks copied: {middle:.0f} ms, 10th to 90th percentile {low:.0f} to {high:.0f} ms. Differences
below that spread ({high / low:.2f} times) say nothing.

The photographs are crops at random places and scales of ten that scikit-learn and scikit-image ship, with noise, no two
alike: {sets} That is what ImageNet's photographs of this size have. Smaller jobs take the first of them. The digits
are scikit-learn's.

After every run the last batch is looked at: its shape and type, and the colours of each image against its file."""


def _systems(results: Dict[str, Any]) -> str:
    lines = []
    for key, entry in SYSTEMS.items():
        if key not in results["versions"]:
            continue
        versions = dict(results["versions"][key])
        shown = ", ".join(f"{name} {version}" for name, version in versions.items() if name not in ("pillow", "python"))
        lines.append([entry.name, entry.keeps, HOW[key], shown])
    head = ("system", "keeps of a photograph", "set up", "versions")
    return "## The systems\n\n" + table(head, lines, 4)


HOW = {
    "limit": "floats made beforehand, copied by two threads into one block",
    "stock": "`ImageList` and its kin",
    "snippet1": "a dict of the class, by `str` of the path, filled in `open`",
    "snippet2": "`load_data()` into a list, read by position in `get`",
    "memlist": "the class names exchanged, nothing else; filled as images are first opened",
    "batches": "`load_data()`, `databunch(batch_tfms=True)`",
    "reduced": "and `max_size=224`",
    "torchvision": "`ImageFolder`, transforms v2, as its reference scripts have them; pairs and noise by a dataset of "
    "one's own",
    "stocaching": "`SharedCache` after resize and crop, filled as images are first opened, as its README has it",
    "tensordict": "`MemoryMappedTensor`s filled by two workers, batches by one index, flip and floats in `collate_fn`, "
    "as its tutorial has it",
    "monai": "`CacheDataset` loaded by two threads, `copy_cache=False`, no metadata; `ThreadDataLoader` without "
    "workers, as its fast training guide has it",
    "ffcv": "`os_cache`, random order, transforms of its own, normalised in the loader",
    "ffcv_reduced": "and written with `max_resolution=299`",
    "ffcv_jpeg": "written with `write_mode='jpg'` at its quality of 90",
    "tf": "map, `cache()`, shuffle, batch, vectorised map, prefetch: the order of its performance guide",
}


# -- jobs -----------------------------------------------------------------------------------------------------


def _work(work: Work, every: Sequence[Row]) -> List[str]:
    found = of(every, work.key)
    if not found:
        return []
    n = found[0]["n"]
    limit = best([row for row in of(found, work.key, system="limit") if "failed" not in row])
    lines, more = [], []
    for key, entry in SYSTEMS.items():
        of_system = of(found, work.key, system=key)
        good = [row for row in of_system if "failed" not in row and not row["wrong"]]
        if not of_system:
            continue
        name = f"**{entry.name}**" if entry.ours else entry.name
        cells = [name]
        for w in (0, 1, 2):
            at = of(good, work.key, workers=w)
            cells.append(number(warm(at[0])) if at else _why_not(of(of_system, work.key, workers=w)))
        top = best(good)
        if top is None:
            lines.append([*cells, "", "", "", ""])
            continue
        cells.append(f"{warm(top) / warm(limit):.0%}" if limit and key != "limit" else "")
        for w in (0, 1, 2):
            at = of(good, work.key, workers=w)
            cells.append(number(cold(at[0])) if at and key != "limit" else "-")
        lines.append(cells)
        if key == "limit":
            continue
        loads = [preload(row) for row in good if preload(row)]
        peak = max(good, key=lambda row: row["peak"])
        more.append(
            [
                name,
                seconds(min(first(row) for row in good)),
                " / ".join(
                    seconds(first_warm(at[0])) if (at := of(good, work.key, workers=w)) else "-" for w in (0, 2)
                ),
                number(max(one for one in loads if one)) if loads else "-",
                f"{peak['peak'] / 1e6:,.0f} MB",
                f"{peak['peak'] / decoded(peak):.2f}",
                f"{max(row['released'] - row['bare'] for row in good) / 1e6:,.0f} MB",
            ]
        )
    head = ("images/s", "warm: no workers", "1", "2", "of the limit", "cold: no workers", "1", "2")
    besides = (
        "",
        "first batch",
        "warm: no workers / 2",
        "preload, images/s",
        "peak",
        "of the decoded bytes",
        "after release",
    )
    text = f"## {work.title}\n\n{work.how} {n:,} images."
    return [text, table(head, lines), table(besides, more)]


def _why_not(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    if rows[0].get("wrong"):
        return f"wrong: {rows[0]['wrong']}"
    return "out of memory" if "out of memory" in rows[0].get("failed", "") else "failed"


def _shares(rows: Sequence[Row]) -> str:
    found = of(rows, "shares")
    if not found:
        return ""
    lines = []
    for key in dict.fromkeys(row["system"] for row in found):
        cells = [f"**{SYSTEMS[key].name}**" if SYSTEMS[key].ours else SYSTEMS[key].name]
        for share in SHARES:
            at = of(found, "shares", system=key, share=share)
            cells.append(number(warm(at[0])) if at else "-")
        lines.append(cells)
    head = ("images/s, warm, 2 workers", *(f"{share:.0%}" for share in SHARES))
    return f"""## By the share that is kept

The common job with {found[0]["n"]:,} images, of which a budget lets only a part be kept: `max_ram`, MONAI's
`cache_rate`, stocaching's size limit. FFCV, tensordict and `tf.data` keep all or nothing (their files may be larger
than memory; the page cache then holds a part).

{table(head, lines)}

![Images a second of warm epochs by the share of the images that is kept](results/shares.svg)"""


def _counts(rows: Sequence[Row]) -> str:
    found = of(rows, "counts")
    if not found:
        return ""
    counts = sorted({row["n"] for row in found})
    lines = []
    for key in dict.fromkeys(row["system"] for row in found):
        for name, workers, measured in (
            ("first batch of a warm epoch, no workers", 0, lambda row: seconds(first_warm(row))),
            ("the same with 2 workers: they start", 2, lambda row: seconds(first_warm(row))),
            ("an image, no workers", 0, lambda row: f"{1e6 / warm(row):.1f} µs"),
            ("list of files to first batch, no workers", 0, lambda row: seconds(first(row))),
        ):
            at = [of(found, "counts", system=key, workers=workers, n=n) for n in counts]
            entry = SYSTEMS[key]
            lines.append(
                [f"**{entry.name}**" if entry.ours else entry.name, name, *(measured(a[0]) if a else "-" for a in at)]
            )
    head = ("", "", *(f"{n:,}" for n in counts))
    return f"""## By the number of images

Digits of 28x28, kept: the first batch of a warm epoch, with and without workers to be started, and the cost of an image
must not grow with the number of images. The list of files has to be labelled once, by everybody; those who load
beforehand have loaded all before the first batch.

{table(head, lines, 2)}

![Microseconds an image of warm epochs by the number of images](results/counts.svg)"""


def _absent(results: Dict[str, Any]) -> str:
    lines = [
        f"- **{', '.join(entry.name for entry in SYSTEMS.values() if entry.environment == name)}**: {why}"
        for name, why in results.get("absent", {}).items()
    ]
    lines.append(
        "- **A faster disk**: the files are in the page cache here, and no disk is faster than that: stock's rows and "
        "`ImageFolder`'s are what the best of disks would buy."
    )
    lines.append("- **NVIDIA DALI**: decodes on a GPU, of which there is none here.")
    return "## Not here, and why\n\n" + "\n".join(lines)
