"""Make pictures in every format that people feed to fastai, and compare lists bit for bit."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List

import numpy as np
import PIL.Image
import pytest
from fresh import WITHOUT_FASTAI

if TYPE_CHECKING:
    import torch

# With the folder `without_fastai` on PYTHONPATH, the tests need no torch either: with torch, a fork takes five times as
# long.
if sys.modules.get("fastai", sys) is not None:
    import matplotlib
    import torch

    matplotlib.use("Agg")
    torch.set_num_threads(1)
with contextlib.suppress(ValueError):  # background jobs of a shell ignore Ctrl-C, and so do their children
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _fastai() -> int:
    "Return which fastai is installed: 1 or 2; 0 if none is. An environment can't have both."
    try:
        return int(version("fastai").split(".")[0])
    except PackageNotFoundError:
        return 0


FASTAI = _fastai()
collect_ignore_glob = [f"fastai{other}/test_*.py" for other in (1, 2) if other != FASTAI]


#: Folders of tests that need no fastai in the processes that they start. `import memlist` imports fastai 1 where it is
#: installed, which takes five seconds of CPU time per process.
LIGHT = {"store", "torchvision"}


@pytest.fixture(autouse=True)
def light_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    "Let Python processes that a test of LIGHT starts find no fastai."
    if request.path.parent.name in LIGHT:
        before = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([WITHOUT_FASTAI, *([before] if before else [])]))


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(i: int, height: int = 30, width: int = 40) -> PIL.Image.Image:
    "Return a smooth colour picture, different for each `i`."
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (3 + i % 5) + i) + np.cos(y / (4 + c) + i * c) for c in range(3)]
    return PIL.Image.fromarray(np.clip(64 * (np.stack(waves, 2) + 2), 0, 255).astype(np.uint8))


def make_formats(folder: Path) -> List[Path]:
    "Write one file per kind of image that decoders treat differently; return the paths."
    folder.mkdir(parents=True, exist_ok=True)
    picture = photo(1)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    alpha = picture.convert("RGBA")
    alpha.putalpha(PIL.Image.fromarray(noise(30, 40, 1, 5)))
    palette = picture.quantize(32)
    palette.info["transparency"] = 3
    frames = [photo(i).quantize(64) for i in range(3)]
    picture.save(folder / "a.jpg", quality=90)
    photo(2).save(folder / "rotated.jpg", exif=exif, comment=b"by hand", dpi=(72, 72))
    picture.save(folder / "b.png")
    picture.convert("L").save(folder / "grey.png")
    picture.convert("L").save(folder / "grey.jpg")
    alpha.save(folder / "alpha.png")
    picture.convert("LA").save(folder / "grey_alpha.png")
    palette.save(folder / "palette.png", transparency=3)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    PIL.Image.fromarray(noise(30, 40, 1, 2).astype(np.uint16) * 257).save(folder / "deep.png")
    PIL.Image.fromarray(noise(30, 40, 1, 3)).convert("1").save(folder / "bits.png")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=40, loop=0)
    picture.save(folder / "c.bmp")
    picture.save(folder / "d.tif", resolution=72.5)
    return sorted(folder.iterdir())


def many(folder: Path, n: int, side: int = 100) -> Path:
    "Write `n` square pictures of noise, which decode fast."
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        PIL.Image.fromarray(noise(side, side, 3, i)).save(folder / f"{i:03}.png", compress_level=0)
    return folder


def in_child(task: Callable[[], Any]) -> int:
    "Run `task` in a forked process; return its wait status: 0 if `task` returned."
    pid = os.fork()
    if not pid:
        status = 1
        try:
            task()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


@pytest.fixture
def formats(tmp_path: Path) -> Path:
    "Make a folder of all formats, a new one per test: lists over one path would share a store."
    make_formats(tmp_path / "formats")
    return tmp_path / "formats"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    "Make 24 photographs in two classes, of several sizes."
    for i in range(24):
        folder = tmp_path / "photos" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        photo(i, 30 + i % 3, 40).save(folder / f"{i:02}.jpg")
    return tmp_path / "photos"


def seed(n: int = 0) -> None:
    random.seed(n)
    np.random.seed(n)
    torch.manual_seed(n)


# The start of a program that runs as if memlist were not installed, and in which fastai can load its own files.
WITHOUT_MEMLIST = """
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "memlist": raise ImportError("memlist is not installed here")
sys.meta_path.insert(0, Absent())
import functools, torch
torch.load = functools.partial(torch.load, weights_only=False) if torch.__version__[0] == "2" else torch.load
from fastai.vision import *
"""


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def layout(px: torch.Tensor) -> List[int]:
    "Return the strides of axes with more than one element; those of other axes are arbitrary."
    return [stride for stride, size in zip(px.stride(), px.shape) if size > 1 and px.numel()]


def assert_same_item(ours: Any, stock: Any) -> None:
    "Check that class, dtype, shape, memory layout, bits and repr are the same."
    assert type(ours) is type(stock)
    assert repr(ours) == repr(stock)
    assert_same_data(ours.data, stock.data)
    if hasattr(stock, "_px"):
        assert set(vars(ours)) == set(vars(stock))
        assert layout(ours.px) == layout(stock.px)
        assert_same_data(ours.px, stock.px)


def assert_same_data(ours: Any, stock: Any) -> None:
    if isinstance(stock, (tuple, list)):
        assert len(ours) == len(stock)
        for one, other in zip(ours, stock):
            assert_same_data(one, other)
    elif isinstance(stock, torch.Tensor):
        assert ours.dtype == stock.dtype and ours.shape == stock.shape
        assert bits(ours) == bits(stock)
    else:
        assert np.array_equal(ours, stock)


def epoch(data: Any, start: int = 0) -> List[Any]:
    "Return all batches of train and valid, under a seed."
    seed(start)
    return [*data.train_dl, *data.valid_dl]


def assert_same_bunches(ours: Any, stock: Any, epochs: int = 2) -> None:
    for i in range(epochs):
        mine, theirs = epoch(ours, i), epoch(stock, i)
        assert len(mine) == len(theirs) > 0
        assert_same_data(mine, theirs)


IMAGES = (".jpg", ".png", ".gif", ".bmp", ".tif")
_counting: List[Opens] = []


def _audit(event: str, args: Any) -> None:
    if event == "open" and _counting and args[1] in ("r", "rb") and str(args[0]).endswith(IMAGES):
        _counting[0].names.append(args[0])


sys.addaudithook(_audit)  # an audit hook can't be removed


class Opens:
    "Count how often each picture is opened. Nothing is patched: that would change the keys of the pixels."

    def __init__(self) -> None:
        self.names: List[str] = []

    def take(self) -> Dict[str, int]:
        counts = {name: self.names.count(name) for name in self.names}
        self.names.clear()
        return counts


@pytest.fixture
def opens() -> Iterator[Opens]:
    made = Opens()
    _counting[:] = [made]
    yield made
    _counting.clear()
