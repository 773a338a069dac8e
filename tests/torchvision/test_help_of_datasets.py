"""What `help` shows of the public names."""

from __future__ import annotations

import inspect
import pydoc

import pytest

import memlist.torchvision
from memlist.torchvision import MemoryImageFolder, MemoryLoader, in_memory
from memlist.torchvision.joined import MemoryConcatDataset, MemorySubset
from memlist.torchvision.wrapping import MemoryDataset

PUBLIC = MemoryImageFolder, MemoryLoader, in_memory, MemoryDataset, MemorySubset, MemoryConcatDataset


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_help_speaks_of_images_and_of_what_users_can_call(thing: object) -> None:
    own = [
        value
        for cls in getattr(thing, "__mro__", [thing])
        if cls.__module__.startswith("memlist")
        for name, value in [("", cls), *(vars(cls).items() if isinstance(cls, type) else [])]
        if not name.startswith("_") and getattr(value, "__doc__", None)
    ]
    assert own
    for value in own:
        text = inspect.getdoc(value) or ""
        assert "picture" not in text.lower() and "Making" not in text, text
    if isinstance(thing, type):
        assert not hasattr(thing, "expect")


def test_help_of_the_folder_speaks_of_images() -> None:
    assert "picture" not in pydoc.getdoc(memlist.torchvision)
