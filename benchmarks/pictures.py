"""Make the pictures for the benchmarks from those that scikit-learn and scikit-image ship: no downloads."""

import io
import multiprocessing
import os
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import PIL.Image
import skimage
import sklearn.datasets

SEED = 20
SIZE = 500, 375
# The bytes that a file of each set should have, and the noise (standard deviation, of 255) that goes with it.
SETS: Dict[int, float] = {50: 2.0, 100: 5.0, 200: 10.0}
SHIPPED = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)


def sources() -> List[PIL.Image.Image]:
    "Return the colour photographs in the two packages."
    images = [PIL.Image.fromarray(array) for array in sklearn.datasets.load_sample_images().images]
    folder = Path(skimage.__file__).parent / "data"
    return images + [PIL.Image.open(folder / name).convert("RGB") for name in SHIPPED]


def crops(n: int, noise: float, seed: int = SEED) -> List[PIL.Image.Image]:
    "Return `n` crops of 500 × 375 at random places, scales and reflections, with `noise`; `seed` decides them."
    random, found = np.random.RandomState(seed), sources()
    width, height = SIZE
    made = []
    for i in range(n):
        image = found[i % len(found)]
        least = max(width / image.width, height / image.height)
        scale = random.uniform(least, max(1.3 * least, 1.0))
        size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        left, top = random.randint(size[0] - width + 1), random.randint(size[1] - height + 1)
        image = image.resize(size, PIL.Image.BILINEAR).crop((left, top, left + width, top + height))
        if random.rand() < 0.5:
            image = image.transpose(PIL.Image.FLIP_LEFT_RIGHT)
        grain = random.standard_normal((height, width, 1)) * noise
        made.append(PIL.Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)))
    return made


def photographs(folder: Path, n: int, kilobytes: int) -> Tuple[List[Path], str]:
    """Write `n` JPEG files of about `kilobytes` each on average; return them and a line that describes them.

    One quality serves the whole set, searched on a sample: the files vary as photographs do.
    """
    folder.mkdir(parents=True)
    images = crops(n, SETS[kilobytes])
    quality = _quality(images[: max(30, n // 8)], kilobytes)
    files = [folder / f"{i:05}.jpg" for i in range(n)]
    for file, image in zip(files, images):
        file.write_bytes(_jpeg(image, quality))
    return files, _described(files, quality)


def _described(files: List[Path], quality: int) -> str:
    sizes = np.array([os.path.getsize(file) for file in files]) / 1000
    spread = f"{np.percentile(sizes, 10):.0f} to {np.percentile(sizes, 90):.0f}"
    return f"{len(files):,} files, {sizes.mean():.0f} kB on average ({spread} kB), quality {quality}"


def _quality(sample: List[PIL.Image.Image], kilobytes: int) -> int:
    "Return the quality at which these are closest to so many kilobytes on average."

    def mean(quality: int) -> float:
        return float(np.mean([len(_jpeg(image, quality)) for image in sample]))

    low, high = 10, 100
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if mean(middle) < 1000 * kilobytes else (low, middle)
    return min((low, high), key=lambda q: abs(mean(q) - 1000 * kilobytes))


# Pictures that one process makes at a time.
CHUNK = 250


def collection(folder: Path, n: int, kilobytes: int) -> str:
    """Write `n` distinct JPEGs of about `kilobytes` into `images/a` and `images/b`, a mask of each into `masks`.

    The result does not depend on the number of processes. Masks are PNGs of eight classes: the brightness of the
    picture at a coarse scale. Returns a line that describes them.
    """
    for name in ("images/a", "images/b", "masks"):
        (folder / name).mkdir(parents=True)
    quality = _quality(crops(60, SETS[kilobytes]), kilobytes)
    with multiprocessing.Pool() as pool:
        parts = [(folder, at, min(CHUNK, n - at), SETS[kilobytes], quality) for at in range(0, n, CHUNK)]
        pool.starmap(_part, parts, chunksize=1)
    return described(folder, kilobytes)


def described(folder: Path, kilobytes: int) -> str:
    "Return a line that describes the photographs of `collection`."
    return _described([*folder.glob("images/*/*.jpg")], _quality(crops(60, SETS[kilobytes]), kilobytes))


def _part(folder: Path, at: int, n: int, noise: float, quality: int) -> None:
    for i, image in enumerate(crops(n, noise, SEED + at), at):
        (folder / "images" / "ab"[i % 2] / f"{i:05}.jpg").write_bytes(_jpeg(image, quality))
        coarse = image.convert("L").resize((20, 15), PIL.Image.BILINEAR).resize(SIZE, PIL.Image.BILINEAR)
        coarse.point(lambda value: value >> 5).save(folder / "masks" / f"{i:05}.png")


def small(folder: Path, n: int) -> str:
    """Write `n` PNGs of 28 × 28 into `images/a` and `images/b`: scikit-learn's digits.

    Links to a few thousand files: what is measured is the number of images, which are all opened, kept and counted.
    """
    for name in ("images/a", "images/b", "made"):
        (folder / name).mkdir(parents=True)
    made = digits(folder / "made" / "digits", min(n, 1797))
    for i in range(n):
        (folder / "images" / "ab"[i % 2] / f"{i:05}.png").symlink_to(made[i % len(made)])
    return f"{n:,} files of 28x28, {np.mean([os.path.getsize(file) for file in made]):.0f} bytes on average"


def _jpeg(image: PIL.Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return data.getvalue()


def digits(folder: Path, n: int) -> List[Path]:
    "Write `n` PNG files of 28 × 28, scikit-learn's handwritten digits."
    folder.mkdir(parents=True)
    arrays = sklearn.datasets.load_digits().images
    files = [folder / f"{i:05}.png" for i in range(n)]
    for i, file in enumerate(files):
        array = np.clip(arrays[i % len(arrays)] * 16, 0, 255).astype(np.uint8)
        PIL.Image.fromarray(array).resize((28, 28), PIL.Image.BILINEAR).convert("RGB").save(file)
    return files


def reduced(folder: Path, n: int, size: Tuple[int, int]) -> List[Path]:
    "Write `n` PNG files of `size`, width and height: photographs made small."
    if not folder.exists():
        folder.mkdir(parents=True)
        for i, image in enumerate(crops(n, 0.0)):
            image.resize(size, PIL.Image.BILINEAR).save(folder / f"{i:05}.png")
    return [folder / f"{i:05}.png" for i in range(n)]


def formats(folder: Path) -> Dict[str, List[Path]]:
    "Write two small files, of different content and size, in each format that is compared with stock."
    folder.mkdir(parents=True)
    found: Dict[str, List[Path]] = {}
    small = [sources()[2].resize((41, 30)), sources()[0].resize((33, 36))]
    for i, image in enumerate(small):
        grey = image.convert("L")
        alpha = image.convert("RGBA")
        alpha.putalpha(grey)
        palette = image.quantize(32)
        deep = PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 257 + 3)
        for name, end, picture, options in (
            ("JPEG", "jpg", image, {"quality": 90}),
            ("PNG", "png", alpha, {}),
            ("grey", "png", grey, {}),
            ("palette with alpha", "png", palette, {"transparency": 3}),
            ("CMYK", "jpg", image.convert("CMYK"), {}),
            ("16 bits", "png", deep, {}),
            ("1 bit", "png", grey.convert("1"), {}),
            ("GIF", "gif", palette, {"save_all": True, "append_images": [palette.rotate(90)]}),
        ):
            file = folder / f"{name.replace(' ', '_')}_{i}.{end}"
            picture.save(file, **options)
            found.setdefault(name, []).append(file)
    return found
