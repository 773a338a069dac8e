"""Make folders of the pictures that scikit-learn and scikit-image ship, and keep the output of the examples plain.

Nothing is downloaded, and the same call makes the same files. Scripts import this module first, before torch.
"""

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

# Idle OpenMP threads spin unless told to sleep, which makes small models ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# fastai 1 causes these on a current stack, and readers of an example can do nothing about them.
warnings.filterwarnings("ignore", message="pkg_resources")
warnings.filterwarnings("ignore", message=".*pin_memory")
warnings.filterwarnings("ignore", message=".*weight_norm")
warnings.filterwarnings("ignore", message=".*scale_factor changed in 1.6")
warnings.filterwarnings("ignore", message=".*torch.jit.script")  # and fastai 2 this one

SEED = 42


@contextmanager
def folder_for(name):
    "Make a temporary folder, and delete it afterwards."
    with TemporaryDirectory(prefix=f"memlist-{name}-") as folder:
        yield Path(folder)


def digits(folder, size, most=None):
    "Write scikit-learn's handwritten digits, 8 x 8 pixels each, as PNG files of `size`: `folder/3/0042.png`."
    from sklearn.datasets import load_digits

    data = load_digits()
    for i, (pixels, label) in enumerate(zip(data.images[:most], data.target)):
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8))
        save(image.resize((size, size), Image.BICUBIC), folder / str(label) / f"{i:04d}.png")


def crops(folder, size, most, factor=2):
    """Write `most` random crops of eight photographs: `folder/high/0042.png`, and copies that are `factor` times
    smaller, as JPEGs of low quality, in `folder/low`.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    photographs = [*load_sample_images().images, data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    photographs += [data.immunohistochemistry(), data.hubble_deep_field()]
    random = np.random.RandomState(SEED)
    for i in range(most):
        high = Image.fromarray(cut(random, photographs[i % len(photographs)], size)[0])
        save(high, folder / "high" / f"{i:04d}.png")
        low = high.resize((size // factor, size // factor), Image.BILINEAR)
        save(low, folder / "low" / f"{i:04d}.jpg", quality=25)


def photographs(folder, size, most, quality=90):
    """Write `most` square crops of eight photographs, at random scales, as JPEGs: `folder/coffee/coffee_0042.jpg`.

    The folder and the name give the photograph that a crop was cut from: the class that a classifier learns.
    """
    from skimage import data
    from sklearn.datasets import load_sample_images

    sources = {"pagoda": load_sample_images().images[0], "flower": load_sample_images().images[1]}
    sources.update(astronaut=data.astronaut(), coffee=data.coffee(), cat=data.chelsea(), rocket=data.rocket())
    sources.update(tissue=data.immunohistochemistry(), galaxies=data.hubble_deep_field())
    random = np.random.RandomState(SEED)
    for i in range(most):
        name = list(sources)[i % len(sources)]
        side = int(random.uniform(0.6, 1.0) * min(sources[name].shape[:2]))
        crop = Image.fromarray(cut(random, sources[name], side)[0]).resize((size, size), Image.BICUBIC)
        save(crop, folder / name / f"{name}_{i:04d}.jpg", quality=quality)


def tiles(folder, size, most):
    """Write `most` random tiles of a photograph of coins and one of a printed page, with their masks.

    The masks are made by thresholds: 1 where a coin is, 2 where ink is. Tiles for validation come from another part of
    the pictures: `folder/train/page_0042.png`, its mask `folder/masks/page_0042.png`.
    """
    from skimage import data, filters, morphology

    coins, page = data.coins(), data.page()
    is_coin = morphology.closing(coins > filters.threshold_otsu(coins), np.ones((3, 3)))
    is_ink = page < filters.threshold_local(page, 35, offset=12)
    sources = [("coins", coins, is_coin * np.uint8(1)), ("page", page, is_ink * np.uint8(2))]
    random = np.random.RandomState(SEED)
    for i in range(most):
        name, picture, mask = sources[i % 2]
        part = "valid" if i % 10 >= 8 else "train"
        border = picture.shape[1] * 2 // 3
        columns = slice(border, None) if part == "valid" else slice(border)
        tile, classes = cut(random, picture[:, columns], size, mask[:, columns])
        save(Image.fromarray(tile), folder / part / f"{name}_{i:04d}.png")
        save(Image.fromarray(classes), folder / "masks" / f"{name}_{i:04d}.png")


def cut(random, picture, size, *others):
    "Cut the same random square out of `picture` and of each of `others`."
    top, left = (random.randint(side - size + 1) for side in picture.shape[:2])
    return [np.ascontiguousarray(one[top : top + size, left : left + size]) for one in (picture, *others)]


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


class NoBar:
    "Stand in for a progress bar of fastprogress and draw nothing."

    def __init__(self, steps, *args, **kwargs):
        self.steps = steps

    def __iter__(self):
        return iter(self.steps)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


def no_bars():
    "Let fastai train without progress bars and tables, which clutter a log: it looks both names up in `basic_train`."
    from fastai import basic_train

    basic_train.master_bar = basic_train.progress_bar = NoBar


def small_encoder(pretrained=False):
    "Build the down half of a U-Net that a CPU can train in a minute; on a GPU, use `models.resnet34` instead."
    from fastai.layers import conv_layer
    from torch import nn

    first = nn.Sequential(conv_layer(3, 8), conv_layer(8, 8))
    deeper = [nn.Sequential(conv_layer(n, 2 * n, stride=2), conv_layer(2 * n, 2 * n)) for n in (8, 16, 32)]
    return nn.Sequential(first, *deeper)


def small_arch(pretrained=False):
    "Build a network for `cnn_learner` that a CPU can train in a minute; on a GPU, use `models.resnet34` instead."
    from torch import nn

    return nn.Sequential(*small_encoder(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1000))


def size_of(nbytes):
    return f"{nbytes / 1e6:.1f} MB"
