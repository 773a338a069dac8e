"""Make a batch from a plan and pixels: on the CPU, or packed for a device."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from .buffers import Memory, NewMemory
from .cpu import on_cpu
from .packed import Packed, pack
from .pixels import Pixels
from .plan import Norm, Plan
from .threads import ONE_THREAD, Threads


class Maker(NamedTuple):
    """Make batches with the resources of this process.

    - `memory`: allocates batches, packed or made
    - `threads`: the threads that share the work
    - `on_device`: True to pack bytes for a device, which makes the batch; False to make it on the CPU
    """

    memory: Memory
    threads: Threads
    on_device: bool

    def make(
        self, plan: Plan, pixels: Sequence[Pixels], dtype: torch.dtype, norm: Optional[Norm] = None
    ) -> Union[Tensor, Packed]:
        """Return the images of `plan` as (B, channels, height, width), or packed for a device.

        `dtype` is float32, or int64 for masks. `norm` is applied last, if given.
        """
        if self.on_device:
            return pack(plan, pixels, dtype, norm, self.memory, self.threads)
        out = self.memory.empty((len(pixels), pixels[0].shape[0], plan.height, plan.width), dtype)
        on_cpu(plan, pixels, out, norm, self.threads)
        return out


#: Makes images on the CPU, in new memory and in the calling thread.
PLAIN_MAKER = Maker(NewMemory(), ONE_THREAD, False)
