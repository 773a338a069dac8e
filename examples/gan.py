"""Train a Wasserstein GAN on handwritten digits: the inputs are noise, the images are the targets.

The first run uses `MemoryGANItemList`, the second one fastai's own `GANItemList` with in-memory labels. Both lists are
over the same folder, so they share a store: the second run decodes nothing.
"""

import argparse
from functools import partial
from tempfile import gettempdir

import pictures
import torch
from fastai.core import noop
from fastai.vision.gan import GANItemList, GANLearner, basic_critic, basic_generator
from torchvision.utils import save_image

from memlist import MemoryGANItemList, MemoryImageLabelList

SIZE, NOISE = 16, 32


def bunch(lists):
    # Targets in [-1, 1], as the generator's tanh makes them. Only they are images: do_x=False.
    data = lists.transform([[], []], tfm_y=True).databunch(bs=32, num_workers=0)
    return data.normalize(([0.5], [0.5]), do_x=False, do_y=True)


def train(data, epochs):
    torch.manual_seed(pictures.SEED)
    generator = basic_generator(SIZE, n_channels=1, noise_sz=NOISE, n_features=32, n_extra_layers=1)
    critic = basic_critic(SIZE, n_channels=1, n_features=32, n_extra_layers=1)
    # A Wasserstein critic trains best with Adam without momentum, at a constant rate.
    opt_func = partial(torch.optim.Adam, betas=(0.0, 0.99))
    learn = GANLearner.wgan(data, generator, critic, opt_func=opt_func, wd=0.0, show_img=False)
    learn.fit(epochs, 1e-3)
    return learn


def sheet(learn, path, rows=8):
    "Write a square of generated images."
    with torch.no_grad():
        fakes = learn.model.generator(torch.randn(rows**2, NOISE, 1, 1, device=learn.data.device))
    save_image(fakes * 0.5 + 0.5, path, nrow=rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images, fewer epochs")
    parser.add_argument("--epochs", type=int, help="25, or 2 with --quick")
    parser.add_argument("--out", default=f"{gettempdir()}/memlist-gan.png", help="where to write generated images")
    args = parser.parse_args()
    epochs = args.epochs or (2 if args.quick else 25)
    pictures.no_bars()

    with pictures.folder_for("gan") as folder:
        pictures.digits(folder, SIZE, most=320 if args.quick else None)

        # `convert_mode` goes to the labels, which are the images: one byte per pixel instead of three.
        noise = MemoryGANItemList.from_folder(folder, noise_sz=NOISE)
        data = bunch(noise.split_none().label_from_func(noop, convert_mode="L"))
        learn = train(data, epochs)
        info = data.cache_info()
        print(f"MemoryGANItemList: {epochs} epochs of {len(data.train_ds)} images;", end=" ")
        print(f"critic's loss {learn.gan_trainer.closses[-1]:.3f}, generator's {learn.gan_trainer.glosses[-1]:.3f}")
        print(f"  {info.misses} files opened for {info.cached} images: each was decoded once,", end=" ")
        print(f"then read from RAM {info.hits} times; {pictures.size_of(info.nbytes)}")
        print(f"  the noise opened no file: its list has {data.train_ds.x.cache_info().total} images to cache")
        sheet(learn, args.out)
        print(f"  generated images: {args.out}")

        # fastai's own list works just as well with in-memory labels; `load_data` finds and loads them.
        noise = GANItemList.from_folder(folder, noise_sz=NOISE)
        lists = noise.split_none().label_from_func(noop, label_cls=MemoryImageLabelList, convert_mode="L")
        data = bunch(lists.load_data(progress=False))
        train(data, 1)
        more = data.cache_info().misses - info.misses
        print(f"GANItemList with MemoryImageLabelList: {more} more files opened for one epoch;")
        print("  lists over one folder share one store")


if __name__ == "__main__":
    main()
