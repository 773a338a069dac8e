"""Draw the plot of the README: train with fastai's list, with memlist's, and with transforms applied per batch.

`python examples/compare.py --out examples/waiting.svg` runs the three in turns on crops of photographs.
`python examples/compare.py FOLDER` takes your own pictures, in one subfolder per class.
"""

import argparse
from pathlib import Path
from tempfile import gettempdir

import matplotlib
import pictures
from fastai.basic_train import Learner
from fastai.metrics import accuracy
from fastai.vision import get_transforms, imagenet_stats, simple_cnn

import memlist
from memlist import MemoryImageList


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="pictures in one subfolder per class")
    parser.add_argument("--quick", action="store_true", help="fewer pictures, fewer epochs")
    parser.add_argument("--epochs", type=int, help="5, or 2 with --quick")
    parser.add_argument("--size", type=int, default=128, help="train at this size: 128")
    parser.add_argument("--num_workers", type=int, default=0, help="worker processes of the DataLoader: 0")
    parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "memlist-waiting.svg", help="where to draw it")
    args = parser.parse_args()
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "memlist"  # the same timings give the same file

    with pictures.folder_for("compare") as made:
        folder = args.folder or made
        if args.folder is None:
            pictures.photographs(folder, size=448, most=160 if args.quick else 800)

        def bunch(cls, **kwargs):
            lists = cls.from_folder(folder).split_by_rand_pct(0.2, seed=pictures.SEED).label_from_folder()
            data = lists.transform(get_transforms(), size=args.size)
            return data.databunch(bs=32, num_workers=args.num_workers, **kwargs).normalize(imagenet_stats)

        def learner(data):
            return Learner(data, simple_cnn((3, 16, 32, 64, data.c), bn=True), metrics=accuracy)

        found = memlist.compare(
            bunch,
            learner,
            epochs=args.epochs or (2 if args.quick else 5),
            also={"batch_tfms=True": lambda: bunch(MemoryImageList, batch_tfms=True)},
            show=False,
        )
    print(found)
    found.plot(return_fig=True).savefig(args.out, metadata={"Date": None} if args.out.suffix == ".svg" else {})
    print(f"drawn: {args.out}")


if __name__ == "__main__":
    main()
