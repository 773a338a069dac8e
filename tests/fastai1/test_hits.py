"""A hit: how bytes become floats, and what fastai's methods have to do with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastai.vision import ImageList

import memlist as m
from memlist.fastai1.decoders import TWO_PASSES, floats


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("side", [28, 208, 210, 400])
@pytest.mark.parametrize("writeable", [True, False])
def test_bytes_become_the_same_floats_as_in_stock(side: int, writeable: bool, threads: int) -> None:
    "On both sides of the size from which on torch converts."
    array = (np.arange(side * side * 3) % 256).astype(np.uint8).reshape(side, side, 3)
    array.flags.writeable = writeable
    assert 208 * 208 * 3 < TWO_PASSES < 210 * 210 * 3
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for planes in (array.transpose(2, 0, 1), array):
            for divide in (True, False):
                want = torch.from_numpy(planes.astype(np.float32))
                want = want.div_(255) if divide else want
                made = floats(planes, divide)
                assert torch.equal(made, want) and made.stride() == want.stride() and made.dtype == want.dtype
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("cls", [ImageList, ImageList.__mro__[1]])
def test_a_label_list_calls_a_get_of_fastai_that_was_replaced(
    photos: Path, cls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ll = m.MemoryImageList.from_folder(photos).split_none().label_from_folder().train
    want = ll[1][0].px
    assert not torch.equal(ll[0][0].px, want)
    stock = cls.get
    monkeypatch.setattr(cls, "get", lambda self, i: stock(self, 1))
    assert torch.equal(ll.x[0].px, want)
    assert torch.equal(ll[0][0].px, want)
