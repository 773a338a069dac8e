"""Train a small network on photographs with torchvision's `ImageFolder`, then with `MemoryImageFolder`.

Both trainings use the same seed, so they see the same batches, and their losses are equal to the last bit. The second
one opens no file: all pictures of a batch are cut, resized and normalised at once, from memory.
"""

import argparse
import time

import pictures
import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from memlist import MemoryImageFolder, MemoryLoader


def network(classes):
    layers = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def train(loader, epochs, classes):
    "Train, and return the mean loss of each epoch and the seconds that all of them took and that the loader took."
    torch.manual_seed(pictures.SEED)
    model = network(classes)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses, waiting, begun = [], 0.0, time.perf_counter()
    for _ in range(epochs):
        total, asked = 0.0, time.perf_counter()
        for images, labels in loader:
            waiting += time.perf_counter() - asked
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
            asked = time.perf_counter()
        losses.append(total / len(loader))
    return losses, time.perf_counter() - begun, waiting


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer photographs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="train at this size: 128")
    args = parser.parse_args()
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(args.size, scale=(0.5, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    with pictures.folder_for("torchvision") as folder:
        pictures.photographs(folder, size=400, most=128 if args.quick else 400)
        stock = ImageFolder(folder, transform)
        memory = MemoryImageFolder(folder, transform).load_data(progress=False)
        info = memory.cache_info()
        print(f"{info.cached} of {info.total} photographs in memory, {pictures.size_of(info.nbytes)}.")

        found = {}
        for name, loader in (
            ("ImageFolder", DataLoader(stock, 32, shuffle=True)),
            ("MemoryImageFolder", DataLoader(memory, 32, shuffle=True)),
            ("with MemoryLoader", MemoryLoader(memory, 32, shuffle=True)),
        ):
            found[name] = train(loader, args.epochs, len(stock.classes))
            losses, seconds, waiting = found[name]
            print(f"{name:18} {seconds:5.1f} s, of which {waiting:4.1f} s waiting; last loss {losses[-1]:.6f}")
        same = len({tuple(losses) for losses, _, _ in found.values()}) == 1
        print(f"Losses: {'identical to the last bit' if same else 'they differ'}.")
        print(f"Files opened while training from memory: {memory.cache_info().misses}.")


if __name__ == "__main__":
    main()
