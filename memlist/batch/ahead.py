"""Make the next batches on a GPU while the training goes on: in a thread and a stream of their own."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable, Deque, Iterator, Optional, Tuple

import torch

from .streams import Made, OwnStream

# Batches that lie on the device, made, until the training takes them.
READY = 2


class Ahead:
    """Iterate over `make(b)` for each `b` of `batches`, made up to `READY` batches ahead of the one that is taken.

    A thread calls `make`, in a stream of its own: see `OwnStream`. So the device makes a batch beside the training, and
    the training's thread starts nothing but its own work.

    An error is raised where the batch that it belongs to would have come. Needs as much more memory on the device as
    `READY` batches have, and what making one takes.

    Whatever draws random numbers in `batches` or `make` draws them earlier than without it.
    """

    def __init__(self, batches: Iterator[Any], make: Callable[[Any], Any], device: torch.device) -> None:
        self._batches, self._make = batches, make
        self._stream = OwnStream(device)
        self._ready: Deque[Tuple[Optional[Made], Optional[BaseException]]] = deque()
        self._changed, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="memlist-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> Any:
        with self._changed:
            while not self._ready:
                self._changed.wait()
            made, error = self._ready[0]
            if error is None:  # the end and an error stay
                self._ready.popleft()
                self._changed.notify_all()
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame
        assert made is not None
        return self._stream.take(made)

    def close(self) -> None:
        "End the thread, once the batch that it works on is done."
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()
        self._stream.forget()

    def _run(self) -> None:
        try:
            for b in self._batches:
                if not self._put(self._stream.make(self._make, b), None):
                    break
            error: BaseException = StopIteration()
        except BaseException as raised:
            error = raised
        self._put(None, error)

    def _put(self, made: Optional[Made], error: Optional[BaseException]) -> bool:
        "Add a batch once there is room; return False if nobody wants it any more."
        with self._changed:
            while len(self._ready) >= READY and not self._ended:
                self._changed.wait()
            if not self._ended:
                self._ready.append((made, error))
                self._changed.notify_all()
            return not self._ended
