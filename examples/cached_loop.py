"""Decorate a function with `memlist.cached`, and use it with plain PyTorch: one copy for all workers.

Nothing of memlist is seen but the decorator. The same training with `functools.lru_cache` shows why it is needed: each
worker has a cache of its own, which is gone when the epoch ends.
"""

import argparse
import functools
import multiprocessing

import numpy as np
import pictures
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import memlist

OPENED = multiprocessing.Value("q")  # how many files all processes have opened


def thumbnail(path):
    with OPENED.get_lock():
        OPENED.value += 1
    return np.asarray(Image.open(path).convert("RGB").resize((64, 64)))


class Photographs(Dataset):
    def __init__(self, folder, load):
        self.paths, self.load = sorted(folder.rglob("*.jpg")), load
        self.classes = sorted({path.parent.name for path in self.paths})

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        pixels = torch.from_numpy(self.load(self.paths[i]).copy()).permute(2, 0, 1)
        if torch.rand(1) < 0.5:
            pixels = pixels.flip(2)
        return pixels / 255, self.classes.index(self.paths[i].parent.name)


def train(dataset, epochs, num_workers):
    "Train, and return how many files each epoch has opened, and the loss of the last one."
    torch.manual_seed(pictures.SEED)
    layers = [nn.Conv2d(3, 16, 5, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(32 * 7 * 7, len(dataset.classes)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    opened = []
    for _ in range(epochs):
        before = OPENED.value
        for images, labels in DataLoader(dataset, 32, shuffle=True, num_workers=num_workers):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        opened.append(OPENED.value - before)
    return opened, loss.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer photographs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--num_workers", type=int, default=2)
    args = parser.parse_args()

    with pictures.folder_for("cached") as folder:
        pictures.photographs(folder, size=256, most=96 if args.quick else 400)
        load = memlist.cached(thumbnail)
        for name, function in (("lru_cache", functools.lru_cache(None)(thumbnail)), ("cached", load)):
            opened, loss = train(Photographs(folder, function), args.epochs, args.num_workers)
            print(f"{name:9} files opened per epoch: {opened}, last loss {loss:.6f}")
        print(load.cache_info())


if __name__ == "__main__":
    main()
