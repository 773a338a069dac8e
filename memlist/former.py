"""Make the modules of memlist 0.1 importable by their former names, which old pickles use."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Dict, Tuple

#: Former modules, and the modules that define their names now.
MOVED: Dict[str, Tuple[str, ...]] = {
    "attach": ("fastai1.attach",),
    "backing": ("store.region", "store.lock", "store.descriptor", "store.trust"),
    "batches": ("fastai1.loader", "fastai1.collate", "fastai1.images", "fastai1.supported", "batch.sending"),
    "buffers": ("batch.buffers",),
    "cachefile": ("store.cachefile", "store.layout"),
    "comparing": ("fastai1.comparing",),
    "compat": ("fastai1.compat",),
    "decode": ("cache.decode", "fastai1.decoders", "fastai1.whole", "batch.pixels", "cache.randomness"),
    "draws": ("fastai1.draws", "fastai1.pipelines", "fastai1.transforms"),
    "family": ("fastai1.family",),
    "forks": ("cache.forks",),
    "geometry": ("fastai1.planner", "fastai1.matrices", "fastai1.selection", "batch.plan"),
    "kernels": ("batch.kernels", "batch.compiled"),
    "keys": ("cache.keys",),
    "limits": ("store.system", "store.budget"),
    "lists": ("fastai1.lists", "fastai1.mixin", "fastai1.owned", "fastai1.bunch", "fastai1.reader"),
    "loading": ("cache.info", "cache.jobs", "cache.filling", "fastai1.work", "cache.messages"),
    "plain": ("cache.plain",),
    "progress": ("cache.progress",),
    "render": ("batch.render", "batch.cpu", "batch.packed", "batch.pixels"),
    "waiting": ("fastai1.waiting", "timing.epochs", "timing.clocks"),
}


class Former(ModuleType):
    "A module that has moved. It looks up its names where they are defined now."

    def __init__(self, name: str, targets: Tuple[str, ...]) -> None:
        super().__init__(f"{__package__}.{name}", f"Moved to {' and '.join(targets)}.")
        self.__dict__["_targets"] = targets

    def __getattr__(self, name: str) -> Any:
        for target in () if name[:2] == "__" else self._targets:
            module = import_module(f"{__package__}.{target}")
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def install() -> None:
    "Make the former modules importable. The new ones are imported only when a name is looked up."
    for name, targets in MOVED.items():
        sys.modules.setdefault(f"{__package__}.{name}", Former(name, targets))
