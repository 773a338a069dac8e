"""Plans and pixels in, a batch out: on the CPU that has the pixels, or packed for a device."""

from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from .buffers import Memory, NewMemory
from .cpu import on_cpu
from .gathered import gather
from .pixels import Pixels
from .plan import Norm, Plan
from .sending import Packed
from .threads import ONE_THREAD, Threads


class Maker(NamedTuple):
    """Make batches, as the process that has the pixels can.

    - `memory`: what batches and gathered bytes are made in
    - `threads`: what shares the work
    - `on_device`: True to pack bytes for a device, which makes the images; False to make them here
    """

    memory: Memory
    threads: Threads
    on_device: bool

    def make(
        self, plan: Plan, pixels: Sequence[Pixels], dtype: torch.dtype, norm: Optional[Norm] = None
    ) -> Union[Tensor, Packed]:
        """Return the images of `plan` as (B, channels, height, width), or packed for a device.

        `dtype` is float32, or int64 for masks. `norm` is applied to images that are made here.
        """
        if self.on_device:
            return Packed(plan, gather(pixels, self.memory, self.threads), dtype)
        out = self.memory.empty((len(pixels), pixels[0].shape[0], plan.height, plan.width), dtype)
        on_cpu(plan, pixels, out, norm, self.threads)
        return out


#: What makes an image here and now.
PLAIN_MAKER = Maker(NewMemory(), ONE_THREAD, False)
