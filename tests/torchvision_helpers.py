"""Folders of pictures, random pipelines of torchvision's transforms, and a comparison of datasets to the bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Sequence

import numpy as np
import PIL.Image
import torch
from torch.utils.data import DataLoader
from torchvision import transforms as v1

try:
    from torchvision.transforms import v2
except ImportError:  # before torchvision 0.15
    v2 = None

STATS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_folder(root: Path, n: int = 12, seed: int = 0, modes: Sequence[str] = ("RGB",), most: int = 60) -> Path:
    "Write `n` pictures of random sizes in three classes, as PNG; return the folder."
    rng = np.random.default_rng(seed)
    for i in range(n):
        mode = modes[i % len(modes)]
        height, width = rng.integers(8, most, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels[: height // 2] = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None]
        folder = root / f"class{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).convert(mode).save(folder / f"{i}.png")
    return root


def states() -> List[Any]:
    "Return the states of the three global random generators."
    return [random.getstate(), *map(repr, np.random.get_state()[1:3]), torch.get_rng_state().tolist()]


def epoch(dataset: Any, seed: int = 0, batch_size: int = 5, workers: int = 0, **kwargs: Any) -> Any:
    "Return the batches of an epoch and the random states after it; or the error that it raised."
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    batches = []
    try:
        loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, **kwargs)
        batches = [_kept(batch) for batch in loader]
    except Exception as error:
        # A worker's error has the worker's traceback in it.
        return batches, type(error), str(error).splitlines()[-1], states()
    return batches, None, "", states()


def _kept(batch: Any) -> Any:
    "Return a batch with what stock's has: values, types, strides, and whether it is contiguous."
    if isinstance(batch, torch.Tensor):
        told = type(batch), batch.dtype, tuple(batch.shape), batch.stride(), batch.requires_grad, str(batch.device)
        return told, batch.clone(memory_format=torch.preserve_format)
    if isinstance(batch, PIL.Image.Image):
        return type(batch), batch.mode, batch.size, repr(sorted(batch.info.items())), batch.tobytes()
    if isinstance(batch, (list, tuple)):
        return type(batch), [_kept(one) for one in batch]
    if isinstance(batch, dict):
        return {key: _kept(one) for key, one in batch.items()}
    return type(batch), batch


def same(one: Any, other: Any) -> bool:
    "Return whether two results of `epoch` are equal to the bit: -0.0 and NaN count."
    if isinstance(one, torch.Tensor):
        if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bytes_of(one) == bytes_of(other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def bytes_of(tensor: torch.Tensor) -> bytes:
    tensor = tensor.as_subclass(torch.Tensor)
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy().tobytes()


# -- random pipelines ---------------------------------------------------------------------------------------------


class Case(NamedTuple):
    "A random pipeline, and the loader, batch size and seed that it is tried with."

    transform: Any
    loader: Callable[[Any], Any]
    batch_size: int
    seed: int


def grey(path: Any) -> PIL.Image.Image:
    "Load in grey."
    return PIL.Image.open(path).convert("L")


def coloured(path: Any) -> PIL.Image.Image:
    "Load as torchvision does, by a function of a user's own."
    return PIL.Image.open(path).convert("RGB")


def transparent(path: Any) -> PIL.Image.Image:
    "Load with an alpha channel."
    return PIL.Image.open(path).convert("RGBA")


LOADERS = {"L": grey, "RGB": coloured, "RGBA": transparent}


def random_case(seed: int, loaders: bool = True) -> Case:
    "Return a random case. Most are what people write, some are odd."
    rng = random.Random(seed)
    mode = rng.choice(["RGB", "RGB", "RGB", "L", "RGBA"]) if loaders else "RGB"
    stock = mode == "RGB" and (not loaders or rng.random() < 0.7)
    module = v1 if v2 is None or rng.random() < 0.4 else v2
    steps = _geometry(rng, module, mode)
    if rng.random() < 0.15:
        steps.insert(rng.randrange(len(steps) + 1), module.Compose(_geometry(rng, module, mode)))
    ending = _ending(rng, module, {"L": 1, "RGB": 3, "RGBA": 4}[mode])
    if rng.random() < 0.1:  # windows and sizes of tensors
        steps = [ending[0], *steps, *ending[1:]]
    else:
        steps += ending
    if v2 is not None and rng.random() < 0.1:  # both generations together
        steps[0] = _geometry(rng, v1, mode)[0]
    transform = (v1 if rng.random() < 0.5 or v2 is None else module).Compose(steps)
    return Case(transform, None if stock else LOADERS[mode], rng.choice([1, 3, 4, 5, 12]), rng.randrange(1 << 30))


def _interpolation(rng: random.Random) -> Any:
    names = ["BILINEAR"] * 4 + ["BICUBIC", "NEAREST", "LANCZOS", "BOX", "HAMMING"]
    return getattr(v1.InterpolationMode, rng.choice(names))


def _size(rng: random.Random) -> Any:
    return rng.choice([rng.randint(4, 50), (rng.randint(4, 50), rng.randint(4, 50))])


def _geometry(rng: random.Random, module: Any, mode: str) -> List[Any]:
    "Return some geometric transforms whose pictures mostly end with one size."
    made: List[Any] = []
    fills = [0, 7, 255] + ([(1, 2, 3)] if mode == "RGB" else [])
    padding_mode = rng.choice(["constant", "constant", "edge", "reflect", "symmetric"])
    crop = {
        "padding": rng.choice([None, 4, (1, 2), (1, 2, 3, 4)]),
        "pad_if_needed": rng.random() < 0.7,
        "fill": rng.choice(fills),
        "padding_mode": padding_mode,
    }
    if padding_mode in ("reflect", "symmetric"):  # Pillow's pictures are too small for larger ones
        made.append(module.Resize(60))
    kind = rng.randrange(6)
    if kind == 0:
        made.append(module.RandomResizedCrop(_size(rng), interpolation=_interpolation(rng)))
    elif kind == 1:
        made += [module.Resize(rng.randint(4, 60), interpolation=_interpolation(rng)), module.CenterCrop(_size(rng))]
    elif kind == 2:
        made.append(module.RandomCrop(_size(rng), **crop))
    elif kind == 3:
        size = (rng.randint(4, 50), rng.randint(4, 50))
        made.append(module.Resize(size, interpolation=_interpolation(rng)))
    elif kind == 4:
        made += [module.Resize(rng.randint(4, 30), max_size=rng.randint(31, 60)), module.RandomCrop(_size(rng), **crop)]
    else:
        made += [module.CenterCrop(_size(rng)), module.Resize(_size(rng)), module.CenterCrop(rng.randint(4, 40))]
    for flip in (module.RandomHorizontalFlip, module.RandomVerticalFlip):
        if rng.random() < 0.5:
            made.insert(rng.randrange(len(made) + 1), flip(rng.choice([0.5, 0.3, 0.0, 1.0])))
    return made


def _ending(rng: random.Random, module: Any, channels: int) -> List[Any]:
    "Return transforms from a picture to a tensor and its values."
    means = [rng.uniform(0, 1) for _ in range(channels)]
    normalize = module.Normalize(means, [rng.uniform(0.1, 1) for _ in range(channels)], inplace=rng.random() < 0.5)
    if module is v1:
        made: List[Any] = rng.choice([[v1.ToTensor()], [v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)]])
        return rng.choice([made, [*made, normalize], [*made, normalize], [v1.PILToTensor()]])
    dtype = rng.choice([torch.float32] * 4 + [torch.float16, torch.float64, torch.bfloat16])
    scaled = v2.ToDtype(dtype, scale=rng.random() < 0.8)
    made = rng.choice([[v2.ToImage()], [v2.ToImage()], [v2.PILToTensor()], [v2.ToImage(), v2.ToPureTensor()]])
    plain = [v2.ToDtype(rng.choice([torch.uint8, torch.int32, torch.int64]), scale=rng.random() < 0.5)]
    return [*made, *rng.choice([[scaled], [scaled, normalize], [scaled, normalize], plain, []])]
