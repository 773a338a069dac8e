"""Train in two processes on one copy of the images: DistributedDataParallel over a shared `cache_file`.

    torchrun --nproc_per_node=2 examples/distributed.py FOLDER CACHE_FILE [--epochs 2]

Every rank names the same file, which holds the decoded images once, for all ranks and workers, and for the next run.
With several machines, each needs its own file on a local disk. torch.distributed does the rest.
On GPUs, fastai's own `learn.to_distributed(local_rank)` does what `distribute` does here.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Dict

import torch
import torch.distributed as dist
from fastai.basic_train import Callback, Learner
from fastai.utils.mod_display import progress_disabled_ctx
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

from memlist import MemoryImageList


class NewOrderEveryEpoch(Callback):
    "Shuffle again in every epoch: without this, a DistributedSampler repeats the first order."

    def __init__(self, sampler: DistributedSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, epoch: int, **kwargs: Any) -> None:
        self.sampler.set_epoch(epoch)


def distribute(data: Any) -> Any:
    "Give this rank its share of each epoch; return the callback that `fit` needs for it."
    sampler = DistributedSampler(data.train_ds)
    data.train_dl = data.train_dl.new(shuffle=False, sampler=sampler)
    return NewOrderEveryEpoch(sampler)


def memory(path: str) -> Dict[str, int]:
    "Return how many bytes of the cache file this process has mapped (Rss), and its share of them (Pss); Linux only."
    found, inside = {"Rss": 0, "Pss": 0}, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split(" ", 1)[0].endswith(":"):
            inside = line.endswith(path)
        elif inside and line.split(":")[0] in found:
            found[line.split(":")[0]] += int(line.split()[1]) * 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="images, in one subfolder per class")
    parser.add_argument("cache_file")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--load", action="store_true", help="call load_data() in every rank first: they share the work")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same weights in every rank

    data = (
        MemoryImageList.from_folder(options.folder, presort=True, cache_file=options.cache_file)
        .split_by_rand_pct(0.1, seed=1)
        .label_from_folder()
        .transform(size=32)
        .databunch(bs=16, num_workers=options.workers, device=torch.device("cpu"), no_check=True)
    )
    if options.load:
        data.load_data(progress=False)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 15 * 15, data.c)
    )
    learner = Learner(data, DistributedDataParallel(model), path="/tmp", silent=True)
    with progress_disabled_ctx(learner):
        learner.fit(options.epochs, callbacks=[distribute(data)])
    dist.barrier()
    info = data.cache_info()  # hits and misses are those of all ranks
    for ds in (data.train_ds, data.valid_ds):
        for i in range(len(ds)):
            _ = ds.x[i]  # now every rank has read every image, so all of them are shared
    dist.barrier()
    used = memory(os.path.realpath(options.cache_file))
    loss = float(learner.recorder.losses[-1])
    mine = {"rank": dist.get_rank(), "loss": loss, "images": info.total, "nbytes": info.nbytes, "misses": info.misses}
    dist.barrier()
    print("\n" + json.dumps({**mine, **used}), flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
