"""A plain script shows no warning that memlist can repair, and hides none of a user's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from fastai.vision import ImageList, get_transforms

from memlist import compat

SCRIPT = """
    from memlist import *
    from fastai.vision import *
    if __name__ == "__main__":
        lists = MemoryImageList.from_folder({folder!r}).split_by_rand_pct(0.25, seed=1).label_from_folder()
        data = lists.transform(get_transforms(), size=16).databunch(bs=4, num_workers=2).normalize(imagenet_stats)
        data.load_data(progress=False)
        learn = Learner(data, simple_cnn((3, 4, data.c)), metrics=accuracy, path={path!r})
        learn.fit_one_cycle(1, callbacks=[DataWait(learn)])
        import warnings
        warnings.warn("a warning of the user's own")
"""


def shown_by(photos: Path, *options: str) -> List[str]:
    "Return the lines that the script writes to standard error."
    code = textwrap.dedent(SCRIPT).format(folder=str(photos), path=str(photos.parent))
    file = photos.parent / "script.py"
    file.write_text(code)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run([sys.executable, *options, str(file)], stdout=-1, stderr=-1, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_a_plain_script_shows_only_warnings_of_its_own(photos: Path) -> None:
    lines = [line for line in shown_by(photos) if "Warning" in line]
    assert len(lines) == 1 and "UserWarning: a warning of the user's own" in lines[0], lines


def test_with_all_warnings_on_none_comes_from_what_is_repaired(photos: Path) -> None:
    lines = shown_by(photos, "-W", "default")
    assert any("a warning of the user's own" in line for line in lines)
    assert not any(what in line for line in lines for what in ("pin_memory", "__array__", "pkg_resources is")), lines


def test_memory_is_pinned_where_it_is_asked_for(photos: Path) -> None:
    lists = ImageList.from_folder(photos).split_none().label_from_folder().transform(size=8)
    in_force = "pinned_without_accelerator" in compat.applied()
    assert in_force == (not torch.cuda.is_available() and torch.__version__[:3] != "1.8")
    assert lists.databunch(bs=4, num_workers=0).train_dl.dl.pin_memory is not in_force
    asked = lists.databunch(bs=4, num_workers=0, pin_memory=True)
    assert asked.train_dl.dl.pin_memory is True
    if in_force:
        with pytest.warns(UserWarning, match="pin_memory"):
            asked.one_batch()


def test_flips_are_as_they_were(photos: Path) -> None:
    lists = ImageList.from_folder(photos, presort=True).split_none().label_from_folder()
    data: Any = lists.transform(get_transforms(), size=16).databunch(bs=4, num_workers=0)
    flip = next(one for one in data.train_ds.tfms if one.tfm.__name__ == "flip_lr").tfm.func
    for dtype in (torch.float32, torch.uint8, torch.float64):
        px = (torch.rand(3, 4, 5) * 255).to(dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = flip(px)
        assert made.equal(px.flip(2)) and made.dtype == dtype
        assert np.array_equal(made.numpy(), np.ascontiguousarray(px.numpy()[..., ::-1]))
        made.zero_()
        assert px.abs().sum() > 0
