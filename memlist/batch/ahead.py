"""Make the next batches on a GPU while the training goes on: in a thread and a stream of their own."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Callable, Deque, Iterator, Optional, Tuple

import torch

# Batches that lie on the device, made, until the training takes them.
READY = 2


class Ahead:
    """Iterate over `make(b)` for each `b` of `batches`, made up to `READY` batches ahead of the one that is taken.

    A thread calls `make`, in a stream of its own, so the device makes a batch beside the training, and the training's
    thread starts nothing but its own work. What is taken is ready for the current stream of whoever takes it. An error
    is raised where the batch that it belongs to would have come. Needs as much more memory on the device as `READY`
    batches have, and what making one takes.

    Whatever draws random numbers in `batches` or `make` draws them earlier than without it.
    """

    def __init__(self, batches: Iterator[Any], make: Callable[[Any], Any], device: torch.device) -> None:
        self._batches, self._make, self._device = batches, make, device
        self._cuda = device.type == "cuda"
        self._ready: Deque[Tuple[Any, Any, Optional[BaseException]]] = deque()  # batch, event, error
        self._changed, self._ended = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="memlist-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> Any:
        with self._changed:
            while not self._ready:
                self._changed.wait()
            made, event, error = self._ready[0]
            if error is None:  # the end and an error stay
                self._ready.popleft()
            self._changed.notify_all()
        if error is not None:
            raise error
        if event is not None:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(event)
            for tensor in _tensors(made):  # its memory must not be used again before this stream is done with it
                tensor.record_stream(stream)
        return made

    def close(self) -> None:
        "End the thread, once the batch that it works on is done."
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def _run(self) -> None:
        try:
            if self._cuda:
                stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                with torch.cuda.device(self._device), torch.cuda.stream(stream):
                    self._make_all()
            else:
                self._make_all()
            error: BaseException = StopIteration()
        except BaseException as raised:
            error = raised
        self._put(None, None, error)

    def _make_all(self) -> None:
        "Make one batch after the other, until there are no more or nobody wants them."
        for b in self._batches:
            made, event = self._make(b), None
            if self._cuda:
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(torch.cuda.current_stream(self._device))
            if not self._put(made, event, None):
                return

    def _put(self, made: Any, event: Any, error: Optional[BaseException]) -> bool:
        "Add a batch once there is room; return False if nobody wants it any more."
        with self._changed:
            while len(self._ready) >= READY and not self._ended:
                self._changed.wait()
            if not self._ended:
                self._ready.append((made, event, error))
                self._changed.notify_all()
            return not self._ended


def _tensors(made: Any) -> Iterator[torch.Tensor]:
    "Yield the tensors of a batch that lie on a device."
    if isinstance(made, torch.Tensor):
        if made.is_cuda:
            yield made
    elif isinstance(made, dict):
        for one in made.values():
            yield from _tensors(one)
    elif isinstance(made, (list, tuple)):
        for one in made:
            yield from _tensors(one)
