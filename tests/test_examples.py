"""Every example runs to its end and prints the figures that it demonstrates."""

import os
import re
from pathlib import Path

import fresh
import PIL.Image
import pytest
from torchvision_helpers import v2

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, *arguments):
    "Run an example from outside the repository, as a user might; return the finished process."
    return fresh.script(EXAMPLES / name, *arguments, cwd=Path(os.sep))


def output(name, *arguments):
    "Return what an example printed; fail if it exits with an error or prints a progress bar."
    done = run(name, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\r" not in done.stdout
    return done.stdout


def test_gan(tmp_path):
    text = output("gan.py", "--quick", "--out", tmp_path / "sheet.png")
    assert "320 files opened for 320 images: each was decoded once" in text
    assert "the noise opened no file: its list has 0 images to cache" in text
    assert "GANItemList with MemoryImageLabelList: 0 more files opened" in text
    with PIL.Image.open(tmp_path / "sheet.png") as sheet:
        assert len(set(sheet.convert("L").tobytes())) > 10


def test_segmentation():
    text = output("segmentation.py", "--quick")
    assert "240 of 240 images loaded" in text
    assert "That is 4.00 bytes per pixel: 3 for a picture, 1 for its mask." in text
    assert re.search(r"epoch 1: loss \d+\.\d+, accuracy 0\.\d+", text)


def test_superres():
    text = output("superres.py", "--quick")
    assert "320 of 320 images loaded" in text
    assert "transform_y: inputs (16, 16), targets (32, 32)." in text
    assert "tfm_y=True:  inputs (32, 32), targets (32, 32)." in text
    assert "The critic's list: 320 of 320 images are in memory already." in text
    assert re.search(r"GAN of 9 batches: critic's loss \d", text)
    assert "An autoencoder's 160 inputs and 160 targets are 160 images in RAM" in text
    assert ", 0 files decoded while training." in text


def test_compare(tmp_path):
    text = output("compare.py", "--quick", "--size", 32, "--out", tmp_path / "waiting.svg")
    assert re.search(r"ImageList +MemoryImageList +batch_tfms=True", text)
    assert "times as fast" in text and "of that: waiting" in text
    first, second, third = re.search(r"loss of the last epoch +(\S+) +(\S+) +(\S+)", text).groups()
    assert first == second and abs(float(first) - float(third)) < 0.1
    drawn = (tmp_path / "waiting.svg").read_text()
    assert "<svg" in drawn and "<dc:date>" not in drawn


@pytest.mark.skipif(v2 is None, reason="torchvision has no transforms.v2")
def test_torchvision_folder():
    text = output("torchvision_folder.py", "--quick")
    assert "128 of 128 photographs in memory" in text
    assert "Losses: identical to the last bit." in text
    assert "Files opened while training from memory: 0." in text


def test_own_dataset():
    text = output("own_dataset.py", "--quick")
    assert "72 files opened, 0 from memory" in text
    assert text.count("0 files opened, 72 from memory") == 2


def test_cached_loop():
    text = output("cached_loop.py", "--quick")
    assert "lru_cache files opened per epoch: [96, 96, 96]" in text
    assert re.search(r"cached    files opened per epoch: \[1?\d\d, 0, 0\]", text)
    first, second = re.findall(r"last loss (\S+)", text)
    assert first == second
