"""Make batches from plans and pixels: on the CPU, or packed for a device."""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import torch
from torch import Tensor

from .buffers import Memory, NewMemory
from .cpu import by_kernels_alone, on_cpu
from .packed import Packed, pack
from .pixels import Pixels
from .plan import Norm, Plan
from .threads import ONE_THREAD, Threads


class Job(NamedTuple):
    """Describe a batch of images to make.

    - `plan`, `pixels`: what to make of which images
    - `dtype`: float32, or int64 for masks
    - `norm`: applied last, if given
    """

    plan: Plan
    pixels: Sequence[Pixels]
    dtype: torch.dtype
    norm: Optional[Norm] = None


class Maker(NamedTuple):
    """Make batches with the resources of this process.

    - `memory`: allocates batches, packed or made
    - `threads`: the threads that share the work
    - `on_device`: True to pack bytes for a device, which makes the batch; False to make it on the CPU
    """

    memory: Memory
    threads: Threads
    on_device: bool

    def make_all(self, parts: Sequence[Any]) -> List[Any]:
        """Return `parts` with the images of each `Job` among them, as (B, channels, height, width), or packed.

        On the CPU, jobs for equally many images, such as inputs and targets, are one piece of work for the threads:
        each thread makes its images of all jobs, and none waits in between.
        """
        made = iter(self._made([one for one in parts if isinstance(one, Job)]))
        return [next(made) if isinstance(one, Job) else one for one in parts]

    def _made(self, jobs: Sequence[Job]) -> List[Union[Tensor, Packed]]:
        if self.on_device:
            return [pack(*job, self.memory, self.threads) for job in jobs]
        outs = [
            self.memory.empty((len(job.pixels), job.pixels[0].shape[0], job.plan.height, job.plan.width), job.dtype)
            for job in jobs
        ]
        n = len(outs[0]) if outs else 0
        together = len(jobs) > 1 and all(len(out) == n for out in outs)
        if not together or not all(by_kernels_alone(job.plan, job.norm) for job in jobs):
            for job, out in zip(jobs, outs):
                on_cpu(job.plan, job.pixels, out, job.norm, self.threads)
            return [*outs]

        def some(which: np.ndarray) -> None:
            chosen = slice(which[0], which[-1] + 1)
            for job, out in zip(jobs, outs):
                plan = job.plan if len(which) == n else job.plan.of(chosen)
                on_cpu(plan, job.pixels[chosen], out[chosen], job.norm, ONE_THREAD)

        self.threads.map(some, np.arange(n), sum(out.numel() for out in outs))
        return [*outs]


#: Makes images on the CPU, in new memory and in the calling thread.
PLAIN_MAKER = Maker(NewMemory(), ONE_THREAD, False)
