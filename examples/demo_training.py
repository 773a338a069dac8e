"""Train one classifier with fastai's list, with memlist's, and with `batch_tfms=True`; their epochs take turns."""

import random
import sys
import time
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import NamedTuple

import demo_folder
import pictures
import torch
from demo_verdict import in_words, judge
from PIL import Image

import memlist
from memlist import ImageLoadError, MemoryImageList

# After memlist, which repairs fastai 1 on a current stack.
from fastai.basic_train import Learner  # isort: skip
from fastai.callback import Callback  # isort: skip
from fastai.vision import ImageList, get_transforms, imagenet_stats, simple_cnn  # isort: skip

# The demo takes this many pictures of a folder, or fewer if they are large: epochs take seconds and the pixels fit.
MOST_PICTURES, MOST_PIXELS, ENOUGH = 2000, 1_000_000_000, 32
NAMES = (ImageList.__name__, MemoryImageList.__name__, "batch_tfms=True")


class Outcome(NamedTuple):
    "Hold what the demo found: the data in memory, whether the losses agree, and whether the times are reliable."

    data: object
    same: bool
    reliable: bool


class Sample(NamedTuple):
    "The pictures that all contenders train on, and the names of their classes."

    folder: object
    files: frozenset
    classes: list


def take_sample(folder, files):
    "Choose pictures by turns from each class, at random, until there are enough pictures or pixels."
    by_class = defaultdict(list)
    for file in sorted(files):
        by_class[file.parent.name].append(file)
    for of_class in by_class.values():
        random.Random(pictures.SEED).shuffle(of_class)
    chosen, pixels = [], 0
    for file in (file for row in zip_longest(*by_class.values()) for file in row if file is not None):
        if len(chosen) == MOST_PICTURES or (pixels > MOST_PIXELS and len(chosen) >= ENOUGH):
            break
        chosen.append(file)
        pixels += pixels_of(file)
    return sample_of(folder, chosen)


def sample_of(folder, files):
    "Return the sample of these files."
    return Sample(folder, frozenset(files), sorted({file.parent.name for file in files}))


def pixels_of(file):
    "Return the number of pixels according to the file's header; 0 if Pillow does not know it."
    try:
        with Image.open(file) as image:
            return image.size[0] * image.size[1]
    except Exception:  # whatever a damaged header raises: `load_data` reports this file
        return 0


def labelled(list_class, sample):
    "Build the lists as most notebooks do; only the class of the list differs between the contenders."
    images = list_class.from_folder(sample.folder).filter_by_func(sample.files.__contains__)
    return images.split_by_rand_pct(0.2, seed=pictures.SEED).label_from_folder(classes=sample.classes)


def bunch(lists, args, **kwargs):
    tfms, bs = get_transforms(do_flip=args.folder is not None), min(32, len(lists.train))  # a mirrored 2 is not a 2
    data = lists.transform(tfms, size=args.size).databunch(bs=bs, num_workers=args.num_workers, **kwargs)
    return data.normalize(imagenet_stats)


def load(sample):
    "Load the sample into memory; return the lists, the sample without pictures that can't be opened, and the seconds."
    begun = time.perf_counter()
    while True:
        lists = labelled(MemoryImageList, sample)
        try:
            lists.load_data(progress=sys.stdout.isatty())
        except ImageLoadError as error:
            print_left_out(error.errors)
            bad = {str(item) for item, _ in error.errors}
            good = [file for file in sample.files if str(file) not in bad]
            demo_folder.check_classes(f"Without these, {sample.folder}", good)
            sample = sample_of(sample.folder, good)
        else:
            return lists, sample, time.perf_counter() - begun


def print_left_out(errors):
    "Name the files that can't be opened."
    print(
        f"{len(errors)} of the files can't be opened. They are left out here; before you train, repair or delete them:"
    )
    for item, reason in errors[:5]:
        print("  " + "".join(c if c.isprintable() else "?" for c in f"{item}: {reason}"))
    if len(errors) > 5:
        print(f"  and {len(errors) - 5} more")


class Losses(Callback):
    "Record the loss of every batch, and of every validation, to the last bit."

    def __init__(self):
        self.train, self.valid = [], []

    def on_backward_begin(self, last_loss, **kwargs):
        self.train.append(last_loss.item())

    def on_epoch_end(self, last_metrics, **kwargs):
        self.valid.append(float(last_metrics[0]))


def milliseconds(function, i):
    begun = time.perf_counter()
    function(i)
    return 1000 * (time.perf_counter() - begun)


def image_costs(*bunches):
    "Return the median milliseconds to open an image, and to open and transform it, over a sample of each data bunch."
    functions = [f for data in bunches for f in (data.train_ds.x.get, data.train_ds.__getitem__)]
    some = range(min(100, len(bunches[0].train_ds)))
    costs = [[milliseconds(function, i) for function in functions] for i in some]
    medians = [median(column) for column in zip(*costs)]
    return medians[::2], medians[1::2]


def row(name, *cells):
    print(f"{name:<34}" + "".join(f"{cell:>18}" for cell in cells))


def contest(folder, files, args):
    "Train with all contenders, print the results, and return the `Outcome`."
    # fastai lets cuDNN choose algorithms by timing them, and then no two runs are the same.
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    sample = take_sample(folder, files)
    if len(sample.files) < len(files):
        print(f"{len(files)} pictures; the demo takes {len(sample.files)} of them, from all classes.")
    lists, sample, load_seconds = load(sample)
    learners, callbacks = [], []

    def make(cls):
        return bunch(lists if cls is MemoryImageList else labelled(cls, sample), args)

    def learner(data):
        callbacks.append(Losses())
        network = simple_cnn((3, 16, 32, 64, data.c), bn=True)
        learners.append(Learner(data, network, callbacks=callbacks[-1:]))
        return learners[-1]

    by_batch = {NAMES[2]: lambda: bunch(labelled(MemoryImageList, sample), args, batch_tfms=True)}
    print(f"{len(lists.train)} images to train on, {len(lists.valid)} to validate, ", end="")
    print(f"{len(sample.classes)} classes; {args.epochs} epochs each, in turns; num_workers={args.num_workers}\n")
    found = memlist.compare(make, learner, args.epochs, also=by_batch, seed=pictures.SEED, show=False)
    print_table(found.runs, learners, callbacks, load_seconds)
    print_memory(learners)
    same = print_losses(*callbacks)
    return Outcome(learners[1].data, same, print_verdicts(found.runs))


def print_table(runs, learners, losses, load_seconds):
    row("", *NAMES)
    row("load_data()", "-", f"{load_seconds:.2f} s", "-")
    for i, epochs in enumerate(zip(*(run.epochs for run in runs))):
        row(f"epoch {i + 1}", *(f"{epoch.seconds:.2f} s" for epoch in epochs))
    row("median of the warm epochs", *(f"{run.seconds:.2f} s" for run in runs))
    row("  of that: waiting for images", *(f"{run.wait:.2f} s" for run in runs))
    row("  of that: the model", *(f"{median(epoch.compute for epoch in run.later):.2f} s" for run in runs))
    opening, both = image_costs(*(learn.data for learn in learners[:2]))
    row("to open an image", *(f"{ms:.2f} ms" for ms in opening))
    row("to transform it", *(f"{max(0, all - ms):.2f} ms" for ms, all in zip(opening, both)))
    # Not the accuracy: after so few epochs it jumps by tenths, even if batches differ in the last bit only.
    n = len(learners[0].data.train_dl)
    row("mean training loss, last epoch", *(f"{sum(one.train[-n:]) / n:.4f}" for one in losses))


def print_memory(learners):
    "Say how much memory the images take, and how often files were opened."
    stock, memory = (learn.data for learn in learners[:2])
    info, size_of = memory.cache_info(), pictures.size_of
    on_disk = sum(Path(item).stat().st_size for ds in (stock.train_ds, stock.valid_ds) for item in ds.x.items)
    print(
        f"\nRAM: {info.cached} of {info.total} images take {size_of(info.nbytes)}, one byte per pixel and channel;",
        end=" ",
    )
    print(f"float32 would be {size_of(4 * info.nbytes)}, the files are {size_of(on_disk)}.")
    print(f"They were read from RAM {info.hits} times, and decoded while training {info.misses} times.")


def print_losses(stock, memory, by_batch):
    "Compare the losses, which have to be equal, and return whether they are."
    pairs = [*zip(stock.train, memory.train), *zip(stock.valid, memory.valid)]
    if (stock.train, stock.valid) == (memory.train, memory.valid):
        print(f"Losses: identical to the last bit, training ({len(stock.train)} batches) and validation.", end=" ")
        print(f"With batch_tfms=True the first one differs by {abs(stock.train[0] - by_batch.train[0]):.0e}.")
        return True
    i = next((i for i, pair in enumerate(pairs) if pair[0] != pair[1]), len(pairs))
    print(f"Losses: DIFFERENT from training batch {i + 1} of {len(stock.train)} on.")
    print("If this was on a GPU, please try CUDA_VISIBLE_DEVICES='' to see whether the model itself varies.")
    return False


def print_verdicts(runs):
    "Say which contender was faster; return whether the machine was quiet enough for reliable numbers."
    seconds = [[epoch.seconds for epoch in run.epochs[1:]] for run in runs]  # torch sets things up in the first one
    print()
    if not seconds[0]:
        print("Speed: one epoch per contender shows nothing about it.")
        return False
    verdicts = [judge(seconds[0], ours) for ours in seconds[1:]]
    for name, verdict in zip(NAMES[1:], verdicts):
        print(in_words(name, NAMES[0], verdict, len(seconds[0])))
    return all(verdict.reliable for verdict in verdicts)
