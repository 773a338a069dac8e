"""Segment coins and print from their background, with pictures and masks in one store.

The masks hold one class per pixel and are cached at one byte per pixel.
"""

import argparse

import pictures
import torch
from fastai.vision import dihedral_affine, unet_learner

from memlist import MemorySegmentationItemList

CLASSES = ["background", "coin", "ink"]


def mask_of(file):
    return file.parent.parent / "masks" / file.name


def accuracy_of_pixels(prediction, mask):
    return (prediction.argmax(dim=1) == mask.squeeze(1)).float().mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer tiles, fewer epochs")
    parser.add_argument("--epochs", type=int, help="4, or 1 with --quick")
    args = parser.parse_args()
    epochs = args.epochs or (1 if args.quick else 4)
    pictures.no_bars()
    torch.manual_seed(pictures.SEED)

    with pictures.folder_for("segmentation") as folder:
        pictures.tiles(folder, size=64, most=120 if args.quick else 300)
        data = (
            MemorySegmentationItemList.from_folder(folder, exclude=["masks"])
            .split_by_folder()
            .label_from_func(mask_of, classes=CLASSES)
            .load_data(progress=False)  # train and valid, pictures and masks
            .transform(([dihedral_affine()], []), tfm_y=True)
            .databunch(bs=16, num_workers=0)
        )
        info, pixels = data.cache_info(), 64 * 64 * (len(data.train_ds) + len(data.valid_ds))
        print(f"{len(data.train_ds)} tiles to train on, {len(data.valid_ds)} to validate: {info.cached} of", end=" ")
        print(f"{info.total} images loaded, {pictures.size_of(info.nbytes)}.")
        print(f"That is {info.nbytes / pixels:.2f} bytes per pixel: 3 for a picture, 1 for its mask.")

        learn = unet_learner(data, pictures.small_encoder, cut=4, pretrained=False, metrics=accuracy_of_pixels)
        learn.fit_one_cycle(epochs, 3e-3)
        background = torch.cat([(data.valid_ds.y[i].data == 0).float().flatten() for i in range(len(data.valid_ds))])
        print(f"{background.mean():.3f} of the pixels are background.")
        for epoch, (loss, metrics) in enumerate(zip(learn.recorder.val_losses, learn.recorder.metrics)):
            print(f"epoch {epoch + 1}: loss {loss:.3f}, accuracy {float(metrics[0]):.3f}")


if __name__ == "__main__":
    main()
