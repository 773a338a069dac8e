"""Enlarge small JPEGs to photographs: super-resolution, first with a loss over pixels, then as a GAN.

Inputs and targets are images. All lists are over one folder, so they share a store: each file is decoded once,
however many lists use it and at however many sizes.
"""

import argparse
from functools import partial

import pictures
import torch
from fastai.core import noop
from fastai.layers import MergeLayer, MSELossFlat, SequentialEx
from fastai.vision import Learner, get_transforms, imagenet_stats, unet_learner
from fastai.vision.gan import AdaptiveLoss, FixedGANSwitcher, GANDiscriminativeLR, GANLearner, gan_critic
from torch import nn

from memlist import MemoryImageImageList, MemoryImageList

SIZE = 32


def high_of(file):
    return file.parent.parent / "high" / f"{file.stem}.png"


def pairs(folder):
    # `include` instead of `folder / "low"`, because lists find their store by their path.
    lists = MemoryImageImageList.from_folder(folder, include=["low"]).split_by_rand_pct(0.1, seed=pictures.SEED)
    return lists.label_from_func(high_of)


def bunch(lists):
    return lists.databunch(bs=16, num_workers=0).normalize(imagenet_stats, do_y=True)


def generator_learner(data):
    """Build a U-Net that adds what the enlarged image lacks.

    It starts by adding nothing: trained from scratch, it has no time to learn to copy its input.
    """
    learn = unet_learner(data, pictures.small_encoder, cut=4, pretrained=False, loss_func=MSELossFlat())
    nn.init.zeros_([layer for layer in learn.model.modules() if isinstance(layer, nn.Conv2d)][-1].weight)
    return Learner(data, SequentialEx(learn.model, MergeLayer()), loss_func=MSELossFlat())


def critic_learner(folder):
    "Build a critic that tells photographs from enlarged JPEGs; the GAN starts with it."
    lists = MemoryImageList.from_folder(folder, include=["low", "high"]).split_by_rand_pct(0.1, seed=pictures.SEED)
    lists = lists.label_from_folder(classes=["low", "high"])
    print(f"The critic's list: {lists.cache_info().cached} of {lists.cache_info().total} images are in memory already.")
    data = lists.transform(get_transforms(), size=SIZE).databunch(bs=32, num_workers=0).normalize(imagenet_stats)
    return Learner(data, gan_critic(nf=16, n_blocks=2), loss_func=AdaptiveLoss(nn.BCEWithLogitsLoss()), wd=1e-3)


def error_of(function, data):
    "Return the mean squared error on the validation set, in units of the normalised pixels."
    with torch.no_grad():
        errors = [nn.functional.mse_loss(function(x), y, reduction="none").mean((1, 2, 3)) for x, y in data.valid_dl]
    return torch.cat(errors).mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer crops, fewer epochs")
    parser.add_argument("--epochs", type=int, help="4, or 1 with --quick")
    args = parser.parse_args()
    epochs = args.epochs or (1 if args.quick else 4)
    pictures.no_bars()
    torch.manual_seed(pictures.SEED)

    with pictures.folder_for("superres") as folder:
        pictures.crops(folder, SIZE, most=160 if args.quick else 600)
        lists = pairs(folder).load_data(progress=False)
        info = lists.cache_info()
        print(f"{len(lists.train)} pairs to train on, {len(lists.valid)} to validate: {info.cached} of", end=" ")
        print(f"{info.total} images loaded, {pictures.size_of(info.nbytes)}.")

        # The store keeps images at the size of their files; transforms resize them. Both images of a pair get one size
        # (the input is enlarged, and a random flip is the same for both); with `transform_y` each gets its own.
        x, y = bunch(pairs(folder).transform(size=SIZE // 2).transform_y(size=SIZE)).one_batch()
        print(f"transform_y: inputs {tuple(x.shape[-2:])}, targets {tuple(y.shape[-2:])}.")
        data = bunch(lists.transform(get_transforms(max_warp=0), size=SIZE, tfm_y=True))
        x, y = data.one_batch()
        print(f"tfm_y=True:  inputs {tuple(x.shape[-2:])}, targets {tuple(y.shape[-2:])}.")

        generator = generator_learner(data)
        generator.fit_one_cycle(epochs, 3e-3)
        print(f"Squared error: enlarged {error_of(noop, data):.4f},", end=" ")
        print(f"by the U-Net {error_of(generator.model.eval(), data):.4f} (epochs: {epochs}).")

        critic = critic_learner(folder)
        critic.fit(1, 1e-3)
        gan = GANLearner.from_learners(
            generator,
            critic,
            weights_gen=(1.0, 50.0),
            switcher=partial(FixedGANSwitcher, n_crit=1, n_gen=1),
            opt_func=partial(torch.optim.Adam, betas=(0.0, 0.99)),
            wd=1e-3,
            show_img=False,
        )
        gan.callback_fns.append(partial(GANDiscriminativeLR, mult_lr=5.0))
        gan.fit(1, 1e-4)
        print(f"GAN of {len(data.train_dl)} batches: critic's loss {gan.gan_trainer.closses[-1]:.3f},", end=" ")
        print(f"generator's {gan.gan_trainer.glosses[-1]:.3f}.")

        same = MemoryImageImageList.from_folder(folder, include=["high"]).split_none().label_from_func(noop)
        print(f"An autoencoder's {len(same.train)} inputs and {len(same.train.y)} targets are", end=" ")
        print(f"{same.cache_info().total} images in RAM: the same files.")
        info = data.cache_info()
        print(f"In all: {info.hits} reads from RAM, {info.misses} files decoded while training.")


if __name__ == "__main__":
    main()
