"""fastai 2: train on scikit-image's photographs, with `ImageDataLoaders` and with `in_memory` over the same.

Needs `pip install 'memlist[fastai2,fast,examples]'`. Takes under a minute on two cores. The photographs are cut into
tiles; the classes are the photographs that the tiles come from.
"""

import argparse
import tempfile
import time
from pathlib import Path

import PIL.Image
import skimage.data
from fastai.vision.all import (
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    RandomResizedCrop,
    accuracy,
    aug_transforms,
    resnet18,
    set_seed,
)

from memlist import in_memory

PHOTOGRAPHS = "astronaut", "coffee", "chelsea", "rocket"


def make_tiles(folder: Path, n: int, side: int = 192) -> None:
    "Write `n` tiles per photograph into a folder per class."
    for name in PHOTOGRAPHS:
        image = PIL.Image.fromarray(getattr(skimage.data, name)())
        (folder / name).mkdir(parents=True)
        for k in range(n):
            left = k * 37 % (image.width - side)
            top = k * 53 % (image.height - side)
            image.crop((left, top, left + side, top + side)).save(folder / name / f"{k}.jpg", quality=95)


def train(dls: ImageDataLoaders, epochs: int) -> Learner:
    "Train a ResNet-18 from scratch."
    set_seed(0)
    model = resnet18(num_classes=len(PHOTOGRAPHS))
    learn = Learner(dls, model, CrossEntropyLossFlat(), metrics=accuracy)
    set_seed(1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs)
    return learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few tiles, one epoch")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        make_tiles(Path(folder), 8 if quick else 64)
        losses = []
        for name in ("ImageDataLoaders", "in_memory"):
            set_seed(0)
            dls = ImageDataLoaders.from_folder(
                folder,
                valid_pct=0.25,
                seed=1,
                item_tfms=RandomResizedCrop(64),
                batch_tfms=aug_transforms(),
                bs=16,
                num_workers=0,
            )
            if name == "in_memory":
                dls = in_memory(dls).load_data(progress=False)
            begun = time.perf_counter()
            learn = train(dls, 1 if quick else 2)
            losses.append([float(loss) for loss in learn.recorder.losses])
            print(f"{name}: loss {losses[-1][-1]:.4f}, {time.perf_counter() - begun:.1f} s")
    print(f"equal losses: {losses[0] == losses[1]}")


if __name__ == "__main__":
    main()
