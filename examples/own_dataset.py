"""Keep the pictures of a dataset of your own in memory: `in_memory(dataset)`.

The dataset opens its files by its attribute `loader`; that is all that it takes. Here each item is a dict of two crops
of one photograph, as contrastive learning needs them, so nothing of the items is known to memlist: they are made by the
dataset's own code, from memory.
"""

import argparse

import pictures
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms

from memlist.torchvision import in_memory


def load(path):
    return Image.open(path).convert("RGB")


class Pairs(Dataset):
    "Two random crops per photograph."

    def __init__(self, folder, size):
        self.paths, self.loader = sorted(folder.rglob("*.jpg")), load
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.3, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.4, 0.4, 0.4),
                transforms.ToTensor(),
            ]
        )

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        image = self.loader(self.paths[i])
        return {"one": self.transform(image), "other": self.transform(image)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer photographs")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--num_workers", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(pictures.SEED)

    with pictures.folder_for("own") as folder:
        pictures.photographs(folder, size=256, most=96 if args.quick else 320)
        dataset = in_memory(Pairs(folder, size=64))
        n_train = 3 * len(dataset) // 4
        train, _ = random_split(dataset, [n_train, len(dataset) - n_train])
        layers = [nn.Conv2d(3, 32, 5, 4), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.LazyLinear(32))
        model(torch.zeros(1, 3, 64, 64))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for epoch in range(args.epochs):
            total, before = 0.0, dataset.cache_info()
            loader = DataLoader(train, 24, shuffle=True, num_workers=args.num_workers, drop_last=True)
            for batch in loader:
                one, other = (nn.functional.normalize(model(batch[name])) for name in ("one", "other"))
                loss = nn.functional.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            info = dataset.cache_info()
            opened, read = info.misses - before.misses, info.hits - before.hits
            print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}, {opened} files opened, {read} from memory")


if __name__ == "__main__":
    main()
