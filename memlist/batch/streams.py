"""Make batches on a GPU in a stream of their own, and hand out copies of them."""

from __future__ import annotations

import threading
from typing import Any, Callable, List, NamedTuple, Tuple

import torch


class Made(NamedTuple):
    "Hold a batch, and the event after which it is there; None if the device is no GPU."

    batch: Any
    event: Any


class OwnStream:
    """Make batches in a stream of this object, beside what the rest of the process does on the device.

    What is handed out is a copy, in the stream of whoever takes it: a tensor that another stream made must not be freed
    before both are done with it, and torch's own way to see to that, `record_stream`, ends a worker that is forked
    while such a tensor exists and frees it. The copy takes 0.1 ms per 100 MB on a GPU of 2023.

    One thread makes batches, another may take them. On a CPU there are no streams, and what is taken is no copy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._copied: List[Tuple[Any, Any]] = []  # batch, and the event after which its copy is there
        self._changing = threading.Lock()

    def make(self, function: Callable[..., Any], *given: Any) -> Made:
        "Return the batch that `function(*given)` makes. Memory of batches that were taken is used again."
        if self._stream is None:
            return Made(function(*given), None)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self.forget()
            return Made(function(*given), self._stream.record_event())

    def take(self, made: Made) -> Any:
        "Return a copy of a batch, made by the current stream."
        if made.event is None:
            return made.batch
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(made.event)
        copied = _copied(made.batch)
        done = stream.record_event()
        with self._changing:
            self._copied.append((made.batch, done))
        return copied

    def forget(self) -> None:
        "Free the batches that were taken; this stream uses their memory again, once the copies are there."
        with self._changing:
            copied, self._copied = self._copied, []
        for _, done in copied:
            self._stream.wait_event(done)


def _copied(made: Any) -> Any:
    "Return a batch with copies of the tensors that lie on a device."
    if isinstance(made, torch.Tensor):
        return made.clone() if made.is_cuda else made
    if type(made) is dict:
        return {key: _copied(one) for key, one in made.items()}
    if type(made) in (list, tuple):
        return type(made)(map(_copied, made))
    return made
