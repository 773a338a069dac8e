"""Train one classifier twice, from files and from RAM: compare the losses, which are identical, and the times.

`python examples/demo.py` takes scikit-learn's handwritten digits, written out as PNG files.
`python examples/demo.py FOLDER` takes your own pictures, in one subfolder per class.
"""

import argparse
import random
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import pictures
import torch
from fastai.basic_train import Learner
from fastai.callback import Callback
from fastai.metrics import accuracy
from fastai.vision import ImageList, get_image_files, get_transforms, imagenet_stats, simple_cnn

from memlist import DataWait, ImageLoadError, MemoryImageList


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="pictures in one subfolder per class")
    parser.add_argument("--quick", action="store_true", help="fewer digits, fewer epochs")
    parser.add_argument("--epochs", type=int, help="5, or 3 with --quick")
    parser.add_argument("--size", type=int, help="train at this size: 128, for the digits 64")
    # Without workers the parts of an epoch follow one another, so their seconds add up. With workers images are made
    # while the model computes, and the time of an epoch depends on how many CPUs they share.
    parser.add_argument("--num_workers", type=int, default=0, help="worker processes of the DataLoader: 0")
    args = parser.parse_args()
    args.epochs = args.epochs or (3 if args.quick else 5)
    args.size = args.size or (128 if args.folder else 64)
    return args


@contextmanager
def the_folder(args):
    if args.folder is None:
        with pictures.folder_for("digits") as folder:
            pictures.digits(folder, size=128, most=500 if args.quick else None)
            yield folder
        return
    if not args.folder.is_dir():
        sys.exit(f"{args.folder} is not a folder.")
    files = get_image_files(args.folder, recurse=True)
    classes = sorted({file.parent.name for file in files})
    if len(files) < 10:
        sys.exit(f"{args.folder} has {len(files)} images: at least 10 are needed, in one subfolder per class.")
    if len(classes) < 2:
        sys.exit(f"All images of {args.folder} are in one folder, {classes[0]}: a classifier needs two classes.")
    yield args.folder


def labelled(list_class, folder):
    "Build the lists as most notebooks do; only the class of the list differs between the two runs."
    return list_class.from_folder(folder).split_by_rand_pct(0.2, seed=pictures.SEED).label_from_folder()


def bunch(lists, args, **kwargs):
    tfms, bs = get_transforms(do_flip=args.folder is not None), min(32, len(lists.train))  # a mirrored 2 is not a 2
    data = lists.transform(tfms, size=args.size).databunch(bs=bs, num_workers=args.num_workers, **kwargs)
    return data.normalize(imagenet_stats)


class Losses(Callback):
    "Record the loss of every batch, to the last bit."

    def __init__(self):
        self.losses = []

    def on_backward_begin(self, last_loss, **kwargs):
        self.losses.append(last_loss.item())


def train(data, epochs):
    random.seed(pictures.SEED)
    np.random.seed(pictures.SEED)
    torch.manual_seed(pictures.SEED)
    learn, run = Learner(data, simple_cnn((3, 16, 32, 64, data.c), bn=True), metrics=accuracy), Losses()
    learn.fit_one_cycle(epochs, 1e-2, callbacks=[run, DataWait(learn)])
    run.valid_losses = [float(loss) for loss in learn.recorder.val_losses]
    run.accuracy = float(learn.recorder.metrics[-1][0])
    run.seconds = [epoch.seconds for epoch in learn.data_wait.epochs]
    run.waits = [epoch.wait for epoch in learn.data_wait.epochs]
    return run


def warm(values):
    "Return the median of all epochs but the first, in which torch sets things up."
    return median(values[1:] or values)


def milliseconds(function, i):
    begun = time.perf_counter()
    function(i)
    return 1000 * (time.perf_counter() - begun)


def image_costs(*bunches):
    "Return the median milliseconds to open an image, and to open and transform it, over a sample of each data bunch."
    functions = [f for data in bunches for f in (data.train_ds.x.get, data.train_ds.__getitem__)]
    sample = range(min(200, len(bunches[0].train_ds)))
    costs = [[milliseconds(function, i) for function in functions] for i in sample]
    medians = [median(column) for column in zip(*costs)]
    return medians[::2], medians[1::2]


def row(name, *cells):
    print(f"{name:<34}" + "".join(f"{cell:>18}" for cell in cells))


def compare(folder, args):
    "Train with both lists, print the results, and return whether the losses are the same."
    lists = labelled(MemoryImageList, folder)
    begun = time.perf_counter()
    try:
        lists.load_data(progress=sys.stdout.isatty())
    except ImageLoadError as error:
        sys.exit(f"Please repair or remove the files that are not images:\n{error}")
    load_seconds = time.perf_counter() - begun
    stock, memory = bunch(labelled(ImageList, folder), args), bunch(lists, args)
    n_train, n_valid = len(stock.train_ds), len(stock.valid_ds)
    print(f"{n_train} images to train on, {n_valid} to validate, {stock.c} classes; num_workers={args.num_workers}\n")
    a, b = train(stock, args.epochs), train(memory, args.epochs)
    info = memory.cache_info()
    c = train(bunch(labelled(MemoryImageList, folder), args, batch_tfms=True), args.epochs)

    row("", "ImageList", "MemoryImageList", "batch_tfms=True")
    row("load_data()", "-", f"{load_seconds:.2f} s", "-")
    for i, seconds in enumerate(zip(a.seconds, b.seconds, c.seconds)):
        row(f"epoch {i + 1}", *(f"{s:.2f} s" for s in seconds))
    row("median of the warm epochs", *(f"{warm(run.seconds):.2f} s" for run in (a, b, c)))
    row("  of that: waiting for images", *(f"{warm(run.waits):.2f} s" for run in (a, b, c)))
    model = (warm([s - w for s, w in zip(run.seconds, run.waits)]) for run in (a, b, c))
    row("  of that: the model", *(f"{s:.2f} s" for s in model))
    opening, both = image_costs(stock, memory)
    row("to open an image", *(f"{ms:.2f} ms" for ms in opening))
    row("to transform it", *(f"{max(0, all - ms):.2f} ms" for ms, all in zip(opening, both)))
    row("accuracy", *(f"{run.accuracy:.4f}" for run in (a, b, c)))

    on_disk = sum(Path(item).stat().st_size for ds in (stock.train_ds, stock.valid_ds) for item in ds.x.items)
    nbytes, size_of = info.nbytes, pictures.size_of
    print(f"\nAn epoch from RAM is {warm(a.seconds) / warm(b.seconds):.2f} times as fast as one from files,", end=" ")
    print(f"opening an image {opening[0] / opening[1]:.1f} times.")
    print("What is left is the model and the transforms, which no cache makes faster: batch_tfms=True does them")
    times, first = warm(a.waits) / max(warm(c.waits), 1e-9), abs(a.losses[0] - c.losses[0])
    print(
        f"a batch at a time, and its model waits {times:.1f} times less than stock's. Its first loss differs",
        end=" ",
    )
    print(f"by {first:.0e}; after that they differ as any two trainings do whose last bits differ.")
    print(f"RAM: {info.cached} of {info.total} images take {size_of(nbytes)}, one byte per pixel and channel;", end=" ")
    print(f"float32 would be {size_of(4 * nbytes)}, the files are {size_of(on_disk)}.")
    print(f"They were read from RAM {info.hits} times, and decoded while training {info.misses} times.")

    same = a.losses == b.losses and a.valid_losses == b.valid_losses
    if same:
        print(f"Losses: identical to the last bit, training ({len(a.losses)} batches) and validation.")
    else:
        i = next((i for i, pair in enumerate(zip(a.losses, b.losses)) if pair[0] != pair[1]), len(a.losses))
        print(f"Losses: DIFFERENT from training batch {i + 1} of {len(a.losses)} on.")
        print("If this was on a GPU, please try CUDA_VISIBLE_DEVICES='' to see whether the model itself varies.")
    print(f"purge() gave {pictures.size_of(memory.purge())} back.")
    return same


def main():
    args = arguments()
    pictures.no_bars()
    # fastai lets cuDNN choose algorithms by timing them, and then no two runs are the same.
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    with the_folder(args) as folder:
        return 0 if compare(folder, args) else 1


if __name__ == "__main__":
    sys.exit(main())
