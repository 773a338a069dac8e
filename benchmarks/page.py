"""The page benchmarks/figures.md, made from the raw samples: every number on it is computed here."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from measure import met, spread


class Row(NamedTuple):
    "What the page says about one row besides its numbers."

    key: str
    title: str
    target: str
    how: str


ROWS = (
    Row(
        "equal",
        "1. The same pixels",
        "all equal",
        "Every twin (list, image targets, image to image, segmentation with masks, boxes, points, GAN) "
        "over JPEG, PNG with alpha, grey, palette with alpha, CMYK, 16-bit, 1-bit and animated GIF files, "
        "modes L, RGB and RGBA, with and without transforms. Two epochs, one that fills and one of hits, "
        "against one epoch of the stock class under the same seed: type, `repr`, dtype, shape, strides "
        "and bits of inputs and targets, and `sizes`. The tests do this at greater length; here it shows "
        "that what is timed below returns what it should.",
    ),
    Row(
        "misses",
        "2. A second epoch that misses",
        "none",
        "Workers are new processes in every epoch. What one of them opened in the first must be a hit for "
        "the others and for all that follow; after `load_data()` there is nothing to miss at all.",
    ),
    Row(
        "hit",
        "3. A hit on a 500x375 RGB image, against its conversion alone",
        "≤ 1.3 times",
        "The bare contender is `torch.from_numpy(u8).float().div_(255)`, the least that any store of "
        "bytes must do. Both sides go over as many distinct images, so neither has them in the CPU's "
        "caches. The float image is 2.25 MB: kept in a batch of 64, as a loader does, every one is new "
        "memory whose pages the system must fault in, on both sides; discarded at once, the allocator "
        "hands out the same warm block again, which is the harder case for memlist because less time "
        "hides its own. 'label list' is `ll[i]` with its label, as a loader calls it.",
    ),
    Row(
        "warm",
        "4. Warm epochs, resize to 224 only",
        "≥ 1 times the images/s of the dict",
        "The dict is the ceiling of what a cache of items can do inside fastai 1: byte tensors in stock's "
        "memory layout, decoded in the parent before the workers are forked, converted on each read in "
        "`open`. No key to compute, no budget, no purge, no spawn. memlist can pass it in one place only: "
        "`apply_tfms` begins with a clone of 2.25 MB, which it saves for an image that has no other "
        "owner. The gain over stock is bounded by what is left after decoding: conversion, crop and "
        "resize, collation, starting the workers. It grows with the bytes of a JPEG, since they cost "
        "decoding and nothing else.",
    ),
    Row(
        "load",
        "5. `load_data()` against a thread pool of the same size",
        "≥ 0.9 times the images/s",
        "The pool is `concurrent.futures.ThreadPoolExecutor(2)` over "
        "`np.asarray(PIL.Image.open(f).convert('RGB'))`, all arrays kept: the fastest simple way to have "
        "a dataset in one process. `load_data()` writes into memory that every process maps, fresh from "
        "the system after a purge each time.",
    ),
    Row(
        "first",
        "6. The first epoch, filling lazily, against stock",
        "≥ 0.95 times with default transforms, ≥ 0.9 times resize only",
        "Before every first epoch the store is purged, so each image is decoded and copied into it. The "
        "warm epoch of the same bunch follows: with the default transforms (`get_transforms()`, size 224) "
        "the rotation, zoom and warp of a whole image are most of the work, and no cache of decoded "
        "images can take them away.",
    ),
    Row(
        "pss",
        "7. Memory that the cached dataset adds, over the main process and 4 workers",
        "≤ 1.05 times its bytes",
        "The proportional set size (PSS, from `/proc/PID/smaps_rollup`) of main process and workers, "
        "summed: a page that five processes map counts a fifth in each. For `load_data()` the same live "
        "workers are measured before and after it, having read every image both times, and the "
        "difference is taken. Where workers fill lazily there is no 'before', so the same reads by the "
        "stock list, in processes of their own, are subtracted. Two things that are no part of the "
        "dataset are kept out on both sides: Python's collector copies what forked processes share "
        "(objects are frozen before the fork), and glibc keeps freed blocks of megabytes for later (its "
        "thresholds, which otherwise grow with the largest block freed, are fixed at 128 kB). One run "
        "with the allocator as it comes shows what it keeps: that is memory which a `malloc_trim` would "
        "return. The pages of libraries are shared with any other Python on the machine and move when "
        "one starts or ends: lines without a target leave all file pages out.",
    ),
    Row(
        "index",
        "8. Index, bytes an image",
        "≤ 128",
        "A header of 80 bytes, its alignment to 16, and the table of offsets, which doubles when it is "
        "four fifths full; the header page and the first table, 8 kB together, are part of the sum and "
        "are all that 10 records show. The worst point of the growth is looked for at every single record "
        "from 1,000 on.",
    ),
    Row(
        "purge",
        "9. Memory after `purge()` against before the load, workers alive",
        "within 1 % of the dataset",
        "The processes of figure 7: main process and 4 workers that have the whole store mapped and stay "
        "alive. Right after the purge, and again when the workers have read an epoch from disk since.",
    ),
    Row(
        "reopened",
        "10. A warm `cache_file` of 2 GB, opened again: seconds to the first batch",
        "≤ 1 s",
        "A new process, after its imports, opens the file, builds the data bunch (no workers, resize to 224) "
        "and draws a batch of 64, whose records are looked at: checksum, size and time of the source. The "
        "file is in the page cache, as it is after the session that filled it; then the same with its pages "
        "dropped from memory first, where it is the disk that is measured. Stock builds its bunch "
        "and decodes its first batch for comparison, after ours in the same process.",
    ),
    Row(
        "from_file",
        "11. Warm epochs from a `cache_file`, resize to 224 only",
        "≥ 0.95 times the images/s of anonymous memory",
        "The same list over a file and over a memfd, in turn. The file's hits ask whether the record "
        "has been looked at in this session, by a system call of a microsecond.",
    ),
    Row(
        "ranks",
        "12. Two ranks over one `cache_file`",
        "summed PSS ≤ 1.05 times one rank's, decodes ≤ 1.01 times the images",
        "The first process reads every image, and so fills the file; the second, beside it, reads every "
        "image too. PSS of the mapping of the file, from `/proc/PID/smaps`. "
        "`examples/distributed.py` does the same under `torchrun`, and the tests run it.",
    ),
    Row(
        "batch_epochs",
        "13. `batch_tfms=True`: warm epochs with the default transforms",
        "≥ 4 times the images/s of stock on photographs, ≥ 20 times on digits",
        "`get_transforms()` and `normalize`, in batches of 64, on two cores: stock, the cache alone, and the batches "
        "made at once with 0, 1 and 2 workers. The target is judged against stock with as many workers as ours has by "
        "default on a CPU (none: two threads of the main process make the batch; stock's torch has both cores, too), "
        "and against the better of stock's, with as many workers as cores. That workers are slower here is no riddle: "
        "a batch of 39 MB made in another process has to be mapped, page by page, in both.",
    ),
    Row(
        "ffcv",
        "14. The common job, random resized crop to 224 and flip, against FFCV",
        "≥ 1 times FFCV's images/s",
        "FFCV 1.0.2 as its own guide sets it up for a dataset that fits in memory: raw records in a file, `os_cache`, "
        "its own transforms, compiled; 1 and 2 workers against 1 and 2 threads of ours (no workers). Crops of half to "
        "all of the area at a ratio of 0.75 to 1.33 on both sides. 'Floats' are normalised batches of float32; 'bytes' "
        "is where FFCV stops without a GPU's help; a CPU model could not take them. What is unlike: FFCV resizes by "
        "averaging areas and can't be told otherwise, which costs more than fastai's bilinear sampling; it works up to "
        "three batches ahead on a thread of its own; its batches are views of a ring that is overwritten, ours are the "
        "caller's to keep. The last ratio is ours with the heavier job, flip, rotation, zoom, warp and lighting "
        "(figure 15, reported).",
    ),
    Row(
        "gather",
        "16. Gathering bytes into one batch, against `memcpy`",
        "≥ 0.7 times the bytes/s",
        "What a worker, or the main process, does for a GPU: keys, look-ups in the shared index and one copy an image, "
        "against bare copies of as many bytes out of arrays that are at hand, on as many threads: into memory that is "
        "new each time, as `torch.empty` gives it, and into one block that is used again and again, which is what the "
        "loader does. Without a GPU the memory is plain, not pinned.",
    ),
    Row(
        "above",
        "17. Memory above the batch while it is made",
        "≤ 3 times the batch",
        "For the way of a GPU (run on the CPU here): all that torch has allocated at once besides the batch, and "
        "the gathered bytes. For the CPU: the growth of the process's peak.",
    ),
    Row(
        "curves",
        "18. One training",
        "",
        "Digits, a small network, one seed, `fit_one_cycle`: stock `ImageList`, `MemoryImageList` with "
        "`batch_tfms=True`, and, for measure, stock with noise of a millionth added to its pixels; the smoothed loss "
        "at every batch. The first losses are equal to the last bits; after some dozens of steps two trainings part on "
        "any difference, and go on side by side.",
    ),
    Row(
        "own",
        "19. A hit of an `open` of your own, against a hit of the stock list",
        "≤ 1.3 times",
        "The class has an `open` of its own, which names a dict of arrays of 65 MB in its module, and does what "
        "fastai's `open` does. Both sides read the same photographs in turn.",
    ),
    Row(
        "records",
        "Without a target: what a hit costs as records grow",
        "",
        "A look into the index, and a whole hit, on 28x28 images at random places. It is a hash table: "
        "growth is due to the CPU's caches.",
    ),
    Row(
        "small",
        "Without a target: images of 28x28",
        "",
        "Here conversion takes next to nothing, and what is left is Python: a key, a digest, a look into "
        "shared memory, counting. The dict does without all four.",
    ),
)


def render(results: Dict[str, Any]) -> str:
    "The whole page."
    rows, parts = results["rows"], [HEAD]
    if results.get("surroundings", {}).get("quick"):
        parts.append("**A quick run: small sizes, few rounds. No figure here means anything.**")
    parts += [_summary(rows), _machine(results), FAIR, _loses(rows)]
    parts += [_section(row, rows[row.key]) for row in ROWS if row.key in rows]
    return "\n\n".join(parts) + "\n"


HEAD = """# Figures

What memlist promises, each with its target; how it does beside others is on another page.

Made by `python benchmarks/figures.py`, one command and one run, out of
[results/figures.json](results/figures.json), which holds every raw sample; nothing on this page is typed by hand.
Times are medians with the 10th and 90th percentile in brackets. Ratios are ratios of medians, followed by the median of
the ratios within each round with its 10th and 90th percentile; the verdict goes by the ratio of medians."""

FAIR = """## Why the comparison is fair

- Contenders take turns inside one process, round by round, in an order that turns with the round; one
  round runs first and is thrown away, and garbage is collected before every run. What else the machine
  does meets all alike.
- Both sides have the same files, items, order and random draws (one seed a round), batch size (64),
  workers and torch threads: two in the calling process where there are no workers, one in each worker,
  as torch sets it.
- Stock is fastai 1 as it is installed, with the repairs that memlist makes on import for both sides;
  they touch no decoding. Pillow is the same for both. Its JPEG library is named above: a faster one
  helps stock more.
- Files are in the page cache of the operating system. Stock never waits for a disk here, which is the
  best case it can have; a slow or remote disk would only widen the gap.
- There is no model and no GPU: an epoch is one pass over `data.train_dl`, workers started anew as fastai
  does. In real training a model takes the same time on both sides, and the gain is that of the loader
  where the loader is the slower one, and none where it is not.
- The photographs are crops of 500x375 at random places and scales of ten that scikit-learn and
  scikit-image ship, with noise, saved at one quality a set, searched so that files are 50, 100 or 200 kB
  on average. No download, fixed seed."""


def _loses(rows: Dict[str, Any]) -> str:
    lines = [
        "## Where memlist loses first",
        "",
        "- **Memory.** A decoded image takes its width x height x 3 bytes, 562 kB at 500x375, whatever "
        "the JPEG had. What does not fit is opened from disk every time: nothing is evicted, and the gain "
        "shrinks with the share that fits.",
    ]
    small = _ratio_of(rows, "small", "il[i]", "images/s over the dict's")
    if small:
        micro = {name: 1e6 * spread(s)[0] for name, s in rows["small"]["cases"][0]["samples"].items()}
        lines.append(
            f"- **Tiny images in one process.** At 28x28 a hit takes {micro['memlist']:.0f} µs, a plain "
            f"dict {micro['dict']:.0f} µs, decoding a PNG {micro['stock']:.0f} µs: {small:.2f} times the "
            "dict's images/s. A dataset that small and no workers: keep a list of tensors."
        )
    gains = [_ratio_of(rows, "first", f"default transforms, {w} workers", WARM) for w in (0, 2)]
    if all(gains):
        lines.append(
            f"- **Transforms, image by image.** With the default transforms at 224 a warm epoch is {gains[0]:.2f} "
            f"times (no workers) and {gains[1]:.2f} times (2 workers) stock's images/s on 100 kB photographs: the "
            "transforms remain. `batch_tfms=True` (figure 13) is the answer to that; a transform of a user's own turns "
            "it off."
        )
    firsts = [_ratio_of(rows, "first", f"resize only, {w} workers", FIRST) for w in (0, 2)]
    if all(firsts):
        lines.append(
            f"- **A single pass.** The first epoch runs at {firsts[0]:.2f} (no workers) and "
            f"{firsts[1]:.2f} (2 workers) times stock's images/s, resize only: whoever reads each image "
            "once gains nothing."
        )
    lines.append("- **A GPU that is the bottleneck.** Where it waits for no loader, there is nothing to gain.")
    return "\n".join(lines)


WARM, FIRST = "warm epoch, images/s over stock's", "first epoch, images/s over stock's"


def _ratio_of(rows: Dict[str, Any], key: str, name: str, what: str) -> Optional[float]:
    for case in rows.get(key, {}).get("cases", ()):
        for wanted in case.get("ratios", ()):
            if case["name"] == name and wanted["what"] == what:
                return _ratio(case, wanted)[0]
    return None


def _ratio(case: Dict[str, Any], wanted: Dict[str, Any]) -> List[float]:
    "Ratio of medians, and spread of the pairwise ratios."
    above, below = (np.array(case["samples"][wanted[side]]) for side in ("above", "below"))
    return [float(np.median(above) / np.median(below)), *spread(above / below)]


def _verdicts(row: Dict[str, Any]) -> List[Tuple[float, Any, str]]:
    "`(number, bound, name)` of all in this row that has a target."
    found = []
    for case in row["cases"]:
        if case.get("bound"):
            found.append((case["value"], case["bound"], f"{case['name']}|{case['unit']}"))
        for wanted in case.get("ratios", ()):
            if wanted["bound"]:
                found.append((_ratio(case, wanted)[0], wanted["bound"], case["name"]))
    return found


def _summary(rows: Dict[str, Any]) -> str:
    lines = ["| figure | target | measured | verdict |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        if row.key not in rows or not row.target:
            continue
        found = _verdicts(rows[row.key])
        missed = [one for one in found if not met(one[0], one[1])]
        if row.key == "equal":
            cases = rows["equal"]["cases"]
            count = sum(case["of"] for case in cases)
            text = f"{count - sum(case['value'] for case in cases)} of {count} combinations equal"
        elif row.key == "misses":
            text = f"{sum(one[0] for one in found)}"
        else:
            numbers = [_number(one[0]) for one in sorted(found, key=lambda one: one[0])]
            text = numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
            text += f" ({len(found)} cases)" if len(found) > 1 else ""
        verdict = f"**missed** in {len(missed)} of {len(found)}" if missed else "met"
        lines.append(f"| {row.title} | {row.target} | {text} | {verdict} |")
    return "\n".join(lines)


def _machine(results: Dict[str, Any]) -> str:
    at = results.get("surroundings")
    if not at:
        return ""
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    lines = [
        "## The machine",
        "",
        f"{at['cpu']}, {at['cpus']} CPUs, {at['memory_GiB']} GiB of memory, {at['system']}, {at['libc']}; "
        f"huge pages for shared memory: {at['shmem_huge_pages']}. Python {at['python']}, {versions}; "
        f"{at['jpeg']}. {at['date']}, revision {(at['revision'] or 'unknown')[:10]}, {at['minutes']} "
        f"minutes, load average {at['load_at_start']:.2f} at the start.",
    ]
    again = results.get("again")
    if again:
        lines += ["", "Taken again later: " + ", ".join(f"{name} ({date})" for name, date in again.items()) + "."]
    return "\n".join(lines)


def _section(row: Row, found: Dict[str, Any]) -> str:
    lines = [f"## {row.title}", ""]
    if row.target:
        lines += [f"Target: {row.target}.", ""]
    lines += [row.how, ""]
    if not found["cases"]:
        return "\n".join([*lines, *found["notes"]])
    if "value" in found["cases"][0]:
        lines += ["| case | measured | target | verdict |", "| --- | --- | --- | --- |"]
        for case in found["cases"]:
            text = f"{_number(case['value'])} {case['unit']}"
            if len(case.get("samples", ())) > 1:
                text += f" ({min(case['samples']):.3g} to {max(case['samples']):.3g})"
            lines.append(f"| {case['name']} | {text} | {_verdict(case['value'], case['bound'])} |")
    else:
        names = list(found["cases"][0]["samples"])
        lines += [f"| time an image | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
        for case in found["cases"]:
            times = [_times(case["samples"][name]) for name in names]
            lines.append(f"| {case['name']} | {' | '.join(times)} |")
        lines += ["", "| ratio | of medians | of pairs | target | verdict |", "| --- | --- | --- | --- | --- |"]
        for case in found["cases"]:
            for wanted in case["ratios"]:
                number, *pairs = _ratio(case, wanted)
                text = "{:.3f} [{:.3f} to {:.3f}]".format(*pairs)
                verdict = _verdict(number, wanted["bound"])
                lines.append(f"| {case['name']}: {wanted['what']} | **{number:.3f}** | {text} | {verdict} |")
    odd = [f"- {one[2].split('|')[0]}: {_number(one[0])}" for one in _verdicts(found) if not met(one[0], one[1])]
    if odd:
        lines += ["", "Missed:", "", *odd]
        if row.key in MISSES:
            lines += ["", MISSES[row.key]]
    for case in found["cases"]:
        for different in case.get("different", ())[:5]:
            lines += ["", f"Different: {', '.join(different[:3])}"]
    if found["notes"]:
        lines += ["", " ".join(found["notes"])]
    return "\n".join(lines)


# What explains a miss, shown only where there is one.
MISSES: Dict[str, str] = {
    "batch_epochs": "Digits are Python's own time: a key and a look-up (7 µs), some sixteen draws one by one, since "
    "stock's order is to be kept (3 µs), the label (1 µs) and what is done once a batch; the pixels of an image of "
    "28x28 take 7 µs of the whole. Stock with two workers has two Pythons, and a batch is made in one process here.",
    "gather": "Keys and look-ups are Python, some 8 µs an image, and one thread's whatever the copies have; two "
    "threads copy faster and leave that share larger.",
    "hit": "A hit's own part is a fixed time of Python (see the 28x28 images below), whatever the size of an image. It "
    "weighs most where the conversion is shortest: two threads, and a result that is discarded at once. No loader does "
    "the latter.",
    "index": "Small stores pay for the header page and for the edges of outgrown tables, which share a "
    "page with records "
    "and can't be given back: a constant of some kilobytes, divided by few records.",
}


def _verdict(number: float, bound: Any) -> str:
    if not bound:
        return " | "
    sign = {"<=": "≤", ">=": "≥"}[bound[0]]
    return f"{sign} {bound[1]:g} | {'met' if met(number, bound) else '**missed**'}"


def _number(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}" if abs(number) >= 10 else f"{number:.3f}"


def _times(samples: List[float]) -> str:
    unit, scale = ("ms", 1e3) if np.median(samples) > 1e-3 else ("µs", 1e6)
    return "{:.3g} {} [{:.3g} to {:.3g}]".format(
        *[scale * v for v in spread(samples)][:1], unit, *[scale * v for v in spread(samples)[1:]]
    )
