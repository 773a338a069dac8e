"""The messages of datasets. Each is shown once per store, in one process."""

from __future__ import annotations

import os
from typing import Any

from torch.utils.data import DataLoader

from ..cache.messages import reduced, warn_user
from ..store import ImageStore, format_size, shown
from .known import KINDS


def _say(store: ImageStore, note: str, text: str) -> None:
    if store.note(f"said {note}".encode()):
        warn_user(text)


def say_unknown(store: ImageStore, name: str, reason: str) -> None:
    "Say that transforms run one by one, because of what memlist does not know."
    text = (
        f"{name}: {reason}, so each image is transformed by itself, as torchvision does it. The images come from "
        "memory all the same. If the transforms take most of the time, use workers: they share the images. A batch is "
        f"made at once of torchvision's {', '.join(KINDS)} alone, if crops, sizes and flips come before the conversion "
        "to tensors, and the dataset has torchvision's own __getitem__."
    )
    _say(store, f"unknown {reason}", text)


def say_never(store: ImageStore, name: str, path: Any, reason: str) -> None:
    "Say that an image is not kept."
    _say(store, f"never {reason}", f"{name}: {shown(path)} is not kept in memory, because {shown(reason)}.")


def full(store: ImageStore, name: str) -> str:
    "Return the message that the budget is used up, once; nothing if that is what the budget says."
    if store.rule == 0 or not store.note(b"said full"):
        return ""
    info = store.info()
    return (
        f"{name}: the store holds {format_size(info.nbytes)} and may take {format_size(info.max_ram)}. What does not "
        "fit is opened from disk every time. A larger max_ram, less memory in other processes, max_size or smaller "
        "images on disk would help."
    )


def say_full(store: ImageStore, name: str) -> None:
    "Say that the budget is used up."
    text = full(store, name)
    if text:
        warn_user(text)


def say_reduced(store: ImageStore, name: str, max_size: int) -> None:
    "Say that pixels differ from those of torchvision's dataset, because of `max_size`."
    _say(store, f"max_size {max_size}", reduced(name, max_size, "torchvision's own dataset"))


def refused(data: Any) -> str:
    "Return what `in_memory` says of what it can't take: what it is, and what to pass instead."
    if isinstance(data, type):
        return (
            f"in_memory: this is the class {shown(data.__name__)}: please pass a dataset, not the class: "
            "in_memory(ImageFolder(folder, transform))"
        )
    name = shown(type(data).__name__)
    if isinstance(data, DataLoader):
        return (
            f"in_memory({name}): a loader has no images of its own. Please pass the dataset, before the loader is "
            f"made: {name}(in_memory(dataset), batch_size=…)"
        )
    if isinstance(data, (str, os.PathLike)):
        path = shown(repr(os.fspath(data)))
        return (
            f"in_memory({path}): its type is {name}, and it should be a dataset. Please pass one that opens the files "
            f"of this folder: in_memory(ImageFolder({path}, transform))"
        )
    text = (
        "it has no attribute `loader` that opens its files, so memlist can't tell what to keep. Please let it open "
        "them by a function, and decorate that with `memlist.cached`."
    )
    if type(data).__module__ != "builtins":
        return f"in_memory({name}): {text}"
    return (
        f"in_memory: a dataset is expected, such as ImageFolder(folder, transform), and this is of type {name}. Please "
        f"pass one dataset at a time. If this is one, {text}"
    )
