"""`FromMemory`: the transform that opens an image, from memory."""

from __future__ import annotations

from multiprocessing.context import get_spawning_popen
from operator import itemgetter
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from fasttransform import Transform

from .memory import LookedUp, Memory
from .sketch import Sketch
from .stock import STOCK, PILBase, PILMask, create_of, mode_of, opened_by

#: The types of items that name a file: what fastai's `create` opens as such.
FILE = str, Path


class FromMemory(Transform):  # type: ignore[misc]
    """Open images of a class `kind` as the transform `stock` does, but those of files from `memory`.

    - `stock`: fastai's own `Transform(PILImage.create)`, or that of a class whose `create` is fastai's own
    - `memory`: None while it is not known where images are to be kept; then it does as `stock`

    Its pickle is `stock`, so that an exported learner loads where memlist is not installed; only a process that is
    being spawned gets the memory, too.
    """

    def __init__(self, stock: Transform, memory: Memory) -> None:
        self.__dict__.update(vars(stock))
        kind = opened_by(stock)
        assert kind is not None
        self.stock, self.memory, self.kind = stock, memory, kind

    def how(self) -> Optional[Tuple[str, bool]]:
        """Return the mode in which files are opened, and whether their values are labels.

        It is None if the code that opens them is not fastai's own any more. Then they are not kept.
        """
        kind = self.kind
        if not STOCK.opens():
            return None
        if create_of(kind) is not vars(PILBase)["create"].__func__:
            return None
        mode = mode_of(kind)
        return None if mode is None else (mode, issubclass(kind, PILMask))

    def sketch(self, item: Any, how: Tuple[str, bool], looked_up: Optional[LookedUp] = None) -> Any:
        """Return a sketch of the image of a file; None of another item. Raises whatever opening it raises.

        `looked_up`: see `Memory.pixels`.
        """
        if not isinstance(item, FILE):
            return None
        memory, kind = self.memory, self.kind
        return Sketch(kind, how[0], memory.pixels(item, *how, looked_up), lambda: kind(memory.image(item, *how)))

    def _do_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        plain = name == "encodes" and len(args) == 1 and not kwargs and isinstance(args[0], FILE)
        how = self.how() if plain else None
        if how is None:
            return super()._do_call(name, *args, **kwargs)
        return self.kind(self.memory.image(args[0], *how))

    def setup(self, items: Any = None, train_setup: bool = False) -> Any:
        "Prepare for a dataset that is being made: its files are looked at anew."
        self.memory.look_anew()
        return super().setup(items, train_setup)

    def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:
        if get_spawning_popen() is None:
            return itemgetter(0), ((self.stock,),)
        return FromMemory, (self.stock, self.memory)

    def __deepcopy__(self, memo: Dict[int, Any]) -> FromMemory:
        return self
