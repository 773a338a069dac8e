"""Train a small network on photographs with fastai 2's DataLoaders, then with the same DataLoaders from memory.

Both trainings use the same seed, so they see the same batches, and their losses are equal to the last bit. The second
one opens no file: all pictures of a batch are cropped and resized at once, from memory.
"""

import argparse
import time

import pictures
from fastai.vision.all import (
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    RandomResizedCrop,
    aug_transforms,
    get_image_files,
    nn,
    set_seed,
)

from memlist import DataWait, in_memory


def loaders(folder, size):
    "Return DataLoaders as the course makes them: presized by a random crop, then augmented a batch at a time."
    set_seed(pictures.SEED)
    return ImageDataLoaders.from_name_func(
        folder,
        get_image_files(folder).sorted(),
        lambda name: name.rpartition("_")[0],
        valid_pct=0.2,
        seed=pictures.SEED,
        item_tfms=RandomResizedCrop(size * 3 // 2, min_scale=0.5),
        batch_tfms=aug_transforms(size=size),
        bs=32,
        num_workers=0,
    )


def train(dls, epochs):
    "Train; return the losses of each epoch, the seconds that it took, and how much of that it waited for batches."
    set_seed(pictures.SEED)
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, dls.c))
    learn, wait = Learner(dls, model, CrossEntropyLossFlat()), DataWait()
    with learn.no_bar(), learn.no_logging():
        begun = time.perf_counter()
        learn.fit(epochs, 3e-3, cbs=wait)
        seconds = time.perf_counter() - begun
    losses = [list(row)[:2] for row in learn.recorder.values]
    return losses, seconds, sum(epoch.wait for epoch in wait.epochs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer photographs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=96, help="train at this size: 96")
    args = parser.parse_args()
    with pictures.folder_for("fastai2") as folder:
        pictures.photographs(folder, size=256, most=128 if args.quick else 768)
        stock, seconds, waited = train(loaders(folder, args.size), args.epochs)
        print(f"From files:  {seconds:5.1f} s, of which {waited:5.1f} s waiting for batches.")
        dls = in_memory(loaders(folder, args.size)).load_data(progress=False)
        print(f"{dls.cache_info().cached} of {dls.cache_info().total} photographs in memory.")
        before = dls.cache_info().misses
        ours, seconds, waited = train(dls, args.epochs)
        print(f"From memory: {seconds:5.1f} s, of which {waited:5.1f} s waiting for batches.")
        print(f"Files decoded while training from memory: {dls.cache_info().misses - before}.")
        print("Losses: identical to the last bit." if ours == stock else f"Losses differ: {stock} and {ours}")
        print(f"purge() gave {dls.purge():,} bytes back.")


if __name__ == "__main__":
    main()
