"""Train one classifier from files and from RAM: compare the losses, which are identical, and the times.

`python examples/demo.py` takes scikit-learn's handwritten digits, written out as PNG files.
`python examples/demo.py FOLDER` takes your own pictures, in one subfolder per class.
"""

import argparse
import os
import shlex
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from demo_folder import Unusable, find_pictures

HERE = Path(__file__).resolve().parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="pictures in one subfolder per class")
    parser.add_argument("--quick", action="store_true", help="fewer digits, fewer epochs")
    parser.add_argument("--epochs", type=int, help="6, or 3 with --quick")
    parser.add_argument("--size", type=int, help="train at this size: 128, for the digits 64")
    # Without workers the parts of an epoch follow one another, so their seconds add up. With workers images are made
    # while the model computes, and the time of an epoch depends on how many CPUs they share.
    parser.add_argument("--num_workers", type=int, default=0, help="worker processes of the DataLoader: 0")
    args = parser.parse_args()
    args.epochs = (3 if args.quick else 6) if args.epochs is None else args.epochs
    args.size = (128 if args.folder else 64) if args.size is None else args.size
    if args.epochs < 1 or args.size < 1 or args.num_workers < 0:
        parser.error("--epochs and --size must be at least 1, --num_workers at least 0")
    return args


@contextmanager
def folder_of(args):
    "Return the user's folder and its pictures, or a temporary one with the digits."
    if args.folder is not None:
        folder = Path(os.path.abspath(args.folder.expanduser()))
        found = find_pictures(folder)
        for error in found.refused:
            print(f"Left out: {os.fsencode(error.filename)!r}, which can't be read: {error.strerror}.")
        yield folder, found.files
        return
    import pictures

    with pictures.folder_for("digits") as folder:
        pictures.digits(folder, size=128, most=500 if args.quick else None)
        yield folder, find_pictures(folder).files


def print_next_steps(args, folder, outcome):
    "End with what a newcomer types next: three lines that run as they stand, once they name a folder of one's own."
    python, own = near(sys.executable), repr(str(folder) if args.folder else "my pictures")
    if not outcome.reliable:
        again = [python, near(__file__), "--epochs", str(max(15, 2 * args.epochs)), *folder_argument(args)]
        print(f"\nFor reliable times, close other programs and type: {shlex.join(again)}")
    torchvision, fastai2 = near(HERE / "torchvision_folder.py"), near(HERE / "fastai2_classes.py")
    print(f"\nThe other doors: {python} {torchvision} for torchvision; {fastai2} where fastai 2 is installed.")
    n_train = len(outcome.data.train_ds)
    bs = f"bs={n_train}" if n_train < 64 else ""  # fastai's 64 would leave no batch to train on
    data = f"MemoryImageList.from_folder({own}).split_by_rand_pct().label_from_folder()"
    print(f"\nYour turn, in {python}: three lines, in which only the name of the class is new (it was ImageList).\n")
    print("from memlist import *")
    print("from fastai.vision import *")
    print(f"data = {data}.transform(get_transforms(), size={args.size}).databunch({bs}).normalize(imagenet_stats)")


def folder_argument(args):
    return ["--", str(args.folder)] if args.folder else []


def near(path):
    "Return `path` from the working directory, if it lies below that."
    path = os.path.abspath(path)
    inside = os.path.relpath(path)
    return path if inside.startswith(os.pardir) else inside


@contextmanager
def interrupts_after():
    "Hold Ctrl-C back until the block ends: libraries turn it into other errors while they are imported."
    held = []
    before = signal.signal(signal.SIGINT, lambda *_: held.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def main():
    args = arguments()
    with folder_of(args) as (folder, files):
        print("Training a small network with ImageList, with MemoryImageList and with batch_tfms=True …", flush=True)
        with interrupts_after():
            import demo_training  # torch and fastai take seconds to import, and a wrong folder is reported at once

        outcome = demo_training.contest(folder, files, args)
        print(f"purge() gave {demo_training.pictures.size_of(outcome.data.purge())} back.")
        print_next_steps(args, folder, outcome)
    return 0 if outcome.same else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unusable as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped. No file is left behind.", file=sys.stderr)
        sys.exit(130)
