"""`PillowDecoder` closes the files that it opens, whatever is in them."""

from __future__ import annotations

import gc
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import photo

from memlist.cache import PillowDecoder


@pytest.mark.parametrize("kind", ["cut off", "several pictures", "whole"])
@pytest.mark.parametrize("most", [None, 16])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_files_are_closed(mode: str, whole: bool, most: Any, kind: str, tmp_path: Path) -> None:
    file = tmp_path / ("a.tif" if kind == "several pictures" else "a.png")
    photo(1).convert("L").save(
        file, **({"save_all": True, "append_images": [photo(2)]} if file.suffix == ".tif" else {})
    )
    with PIL.Image.open(file) as image:
        wanted = np.asarray(image.convert(mode))
    if kind == "cut off":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    made = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with suppress(OSError):
            made += PillowDecoder(mode, most, whole=whole).pieces(file).pieces
        gc.collect()
    assert bool(made) == (kind != "cut off") and [one for one in said if one.category is ResourceWarning] == []
    if made and most is None:
        assert np.array_equal(made[0].array, wanted)
