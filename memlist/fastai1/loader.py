"""The loaders of `databunch(batch_tfms=True)`: they make whole batches at once, with the same draws as stock fastai.

A batch begins as a list of indices. On a CPU, a worker or the main process makes it straight from the store's bytes;
for a GPU the bytes are gathered, and the GPU makes the images. If that is not possible, stock code makes the batch
image by image, and a message says why (see `supported`).
"""

from __future__ import annotations

import functools
import gc
from contextlib import contextmanager, nullcontext
from typing import Any, Iterator, List, Optional, Set, Tuple

import torch
from fastai.basic_data import DataBunch, DeviceDataLoader
from fastai.core import defaults, listify
from fastai.data_block import LabelLists
from fastai.torch_core import data_collate, to_device
from fastai.vision.data import _normalize_batch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, SubsetRandomSampler

from ..batch import cpu, gather, parts
from ..batch.ahead import Ahead
from ..batch.buffers import SHARED, Buffers
from ..batch.plan import Norm
from ..batch.sending import Batch, Indices, WorkerStart
from ..batch.staging import staging
from ..batch.threads import Threads
from ..cache.messages import warn_user
from ..store import brief, prepare_lookup
from .collate import Collate
from .early import EarlyBatches
from .matrices import MATRICES
from .pipelines import UNTOUCHED
from .supported import not_batched, of_list, pipelines, reason
from .transforms import Unknown

LOADERS = "train_dl", "valid_dl", "fix_dl", "single_dl", "test_dl"  # of a data bunch
_NORMALIZE = (("mean", torch.empty(0, 0)), ("std", torch.empty(0, 0)), ("do_x", True), ("do_y", False))
# Samplers that draw from the generators of the process only when an iteration begins.
_SAMPLERS = RandomSampler, SequentialSampler, SubsetRandomSampler
# Workers that gather batches for a GPU, and the batches of an epoch from which on they are worth their start. For the
# training of benchmarks/gpu.py on an H200 with 16 CPU cores, four were as fast as eight and faster than two; they took
# half a second to start, and saved 7 ms per batch against none.
GPU_WORKERS, WORTH_WORKERS = 4, 64


class BatchDeviceDataLoader(DeviceDataLoader):
    """Make whole batches at once; in everything else behave like fastai's `DeviceDataLoader`.

    The inner `DataLoader`, `dl`, is the stock one and yields stock items, so code may inspect, change or replace it as
    in fastai. Each iteration uses a copy of it whose items are indices.
    """

    #: Whether batches are made on the device; None: on every device except a CPU.
    on_device: Optional[bool] = None
    #: Reasons that have been shown in a warning; the loaders of one data bunch share them.
    warned: Optional[Set[str]] = None
    #: What made the batches of the last epoch in this process.
    last: Optional[Collate] = None
    #: Memory for batches that are made in this process: the next epoch reuses that of the last one.
    buffers: Optional[Buffers] = None

    @classmethod
    def of(cls, dl: DeviceDataLoader, warned: Set[str], buffers: Optional[Buffers] = None) -> BatchDeviceDataLoader:
        "Convert the loader `dl` to one that makes its batches at once and shares `warned` and `buffers` with others."
        made = cls(dl.dl, dl.device, dl.tfms, dl.collate_fn)
        made.warned, made.buffers = warned, Buffers() if buffers is None else buffers
        return made

    def like(self, dl: DeviceDataLoader) -> BatchDeviceDataLoader:
        "Convert the loader `dl` to one like this."
        made = type(self).of(dl, self.warned if self.warned is not None else set(), self.buffers)
        made.on_device = self.on_device
        return made

    def new(self, **kwargs: Any) -> BatchDeviceDataLoader:
        "Return a copy with other arguments, as fastai's `new` does."
        return self.like(super().new(**kwargs))

    def __iter__(self) -> Iterator[Any]:
        reason = self.reason()
        if reason:
            self.warn(reason)
            yield from super().__iter__()
            return
        norm, fused = self._norm()
        do_x, do_y = _both(fused)
        collate = Collate(self.dl.dataset, self.dl.collate_fn, self._packs(), norm if do_x else None)
        collate.norm_y = norm if do_y else None
        collate.ahead = getattr(self.dl, "prefetch_factor", None) or collate.ahead
        inner = object.__new__(
            DataLoader
        )  # not `copy`: it would call `__getstate__`, which fastai forwards to the list
        start = WorkerStart(self.dl.worker_init_fn)
        vars(inner).update(
            vars(self.dl), dataset=Indices(self.dl.dataset), collate_fn=collate, worker_init_fn=start, _iterator=None
        )
        if not self._packs():  # before workers are forked, else each would load or compile
            cpu.prepare(*_kernels(self.dl.dataset))
            if inner.num_workers:
                gather.prepare()
        else:
            parts.prepare()
        prepare_lookup()
        threads = Threads(torch.get_num_threads() if inner.num_workers == 0 else 1)
        if inner.num_workers == 0:
            collate.memory = self.buffers = self.buffers or Buffers()
            collate.threads = threads
            if self.last is not None:
                collate.go_on(self.last)
            self.last = collate
        else:
            collate.prepare()
        blocks = inner.num_workers * (collate.ahead + SHARED) if self._packs() else 0
        with staging().lent.during(blocks) if blocks else nullcontext():
            batches = self._on_device(inner, collate)
            try:
                for b, made in batches:
                    yield self._processed(b, made, fused)
            finally:
                threads.close()
                batches.close()

    def reason(self) -> str:
        "Return why stock code makes the batches, image by image; an empty string if it does not."
        if type(self.dl) is not DataLoader:
            return f"{type(self.dl).__name__} is not torch's own DataLoader"
        if self.dl.batch_sampler is None:
            return "it has no batches"
        if getattr(self.dl, "persistent_workers", False):
            return "its workers are persistent"
        return reason(self.dl.dataset, self.dl.collate_fn)

    def warn(self, reason: str) -> None:
        "Warn once that batches are made image by image for this reason."
        warned = self.warned if self.warned is not None else set()
        if reason not in warned:
            warned.add(reason)
            warn_user(not_batched(self.dl.dataset, reason))

    def _packs(self) -> bool:
        "Return whether batches are packed for the device to make."
        return self.on_device if self.on_device is not None else torch.device(self.device).type != "cpu"

    def _on_device(self, inner: Any, collate: Collate) -> Any:
        """Return an iterator, to be closed, over the batches of `inner`, and each of them on the device.

        For a device, the next batches are made while the training is at the one before: where workers gather them, by
        `Ahead`, else by `EarlyBatches`. With a sampler that may draw from the generators of this process, a batch is
        made when it is asked for.
        """
        sampler = getattr(inner.batch_sampler, "sampler", None)
        known = type(inner.batch_sampler) is BatchSampler and type(sampler) in _SAMPLERS
        device = torch.device(self.device)
        batches, indices = _batches(inner)
        if self._packs() and known and inner.num_workers:
            return Ahead(batches, self._moved, device)
        if self._packs() and known and indices is not None and getattr(sampler, "generator", None) is None:
            return iter(EarlyBatches(collate, indices, self._moved, device))
        return (self._moved(b) for b in batches)

    def _moved(self, b: Any) -> Tuple[Any, Any]:
        "Return a batch, and the pair of its inputs and targets on the device; None of one that stock code made."
        return b, b.on(self.device, to_device) if isinstance(b, Batch) else None

    def _norm(self) -> Tuple[Optional[Norm], Any]:
        "Return the first transform as a `Norm` and itself, if batches can be normalised as they are made; else Nones."
        first = next(iter(listify(self.tfms)), None)
        if not isinstance(first, functools.partial) or first.func is not _normalize_batch:
            return None, None
        given = dict(first.keywords)
        mean, std, _, _ = (given.pop(name, default) for name, default in _NORMALIZE)
        floats = mean.dtype == std.dtype == torch.float32  # other dtypes would change the batch's dtype
        if first.args or given or not any(_both(first)) or not floats or mean.dim() != 1 or mean.shape != std.shape:
            return None, None
        return Norm(mean.numpy(), (1 / std).numpy()), first

    def _processed(self, b: Any, made: Any, fused: Any) -> Any:
        "Apply the loader's transforms to a batch, `made` on the device, except for `fused` if it has been applied."
        if made is None:
            return self.proc_batch(b)
        tfms = listify(self.tfms)
        if b.normalised:
            if tfms and tfms[0] is fused:
                tfms, made = tfms[1:], (made[0], made[1])
            else:  # the transform was removed after this iteration began: undo it
                mean, std = (fused.keywords[name].to(made[0].device)[:, None, None] for name in ("mean", "std"))
                made = [one * std + mean if done else one for one, done in zip(made, _both(fused))]
        for f in tfms:
            made = f(made)
        return made


def _batches(inner: Any) -> Tuple[Iterator[Any], Optional[Iterator[Any]]]:
    """Return an iterator over the batches of a loader, and one over their indices if this process collates them.

    Without workers, this leaves out what torch does per batch: 30 µs.
    """
    with _garbage_kept():
        found: Any = iter(inner)  # draws what stock draws
    indices = getattr(found, "_sampler_iter", None)
    if inner.num_workers or indices is None:
        return found, None
    return found if getattr(found, "_pin_memory", True) else map(inner.collate_fn, indices), indices


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Keep workers that are forked inside from collecting the garbage of this process.

    Among it may be tensors in the memory of a GPU, or locked for it. A forked process that frees one is ended by CUDA.
    """
    if gc.get_freeze_count():  # somebody else sees to it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _both(normalise: Any) -> Tuple[bool, bool]:
    "Return whether a `_normalize_batch` with its arguments is for inputs, and whether it is for targets."
    given = normalise.keywords if normalise is not None else {"do_x": False}
    do_x, do_y = (given.get(name, default) for name, default in _NORMALIZE[2:])
    return bool(do_x), bool(do_y)


def batched(data: DataBunch) -> DataBunch:
    "Make all loaders of `data` make their batches at once; warn if they can't."
    warned: Set[str] = set()
    buffers = Buffers()
    for name in LOADERS:
        dl = getattr(data, name, None)
        if dl is not None:
            setattr(data, name, BatchDeviceDataLoader.of(dl, warned, buffers))
    why = data.train_dl.reason()
    on_cpu = not why and torch.device(data.device).type == "cpu"
    missing = cpu.prepare(*_kernels(data.train_ds)) if on_cpu else ""
    if why:
        data.train_dl.warn(why)
    elif missing:
        warn_user(
            f"batch_tfms{of_list(data.train_ds)}: on a CPU it needs numba to be faster than image by image, but numba "
            f"can't be used ({missing}). Please `pip install numba`, or leave batch_tfms out."
        )
    return data


def _kernels(ds: Any) -> List[str]:
    "Return the names of the kernels that the inputs of a dataset will need, if they are images of three channels."
    try:
        pipeline = pipelines(ds)[0] or UNTOUCHED
    except Unknown:
        return []
    if pipeline.mode != "bilinear" or pipeline.sampling == "zeros":
        return []  # another kernel, compiled with the first batch
    names = {step.name for step in pipeline.steps}
    if names & {"brightness", "contrast"}:
        return ["lit"]
    return ["mixed"] if names & set(MATRICES) else ["mixed", "copied"]


def release(data: DataBunch) -> None:
    "Free the memory that is kept for the next batches of `data`."
    for name in LOADERS:
        buffers = getattr(getattr(data, name, None), "buffers", None)
        if isinstance(buffers, Buffers):
            buffers.clear()


def default_workers(lists: LabelLists, device: Any = None, collate_fn: Any = data_collate, bs: int = 64) -> int:
    """Return the default number of workers.

    On a CPU, none: threads of the main process are as fast, and batches of a worker have to be sent. For a GPU,
    `GPU_WORKERS`: they gather batches while the GPU computes; but none if an epoch has fewer than `WORTH_WORKERS`
    batches, because fastai starts new workers in each. If stock code has to make the batches, fastai's default.
    """
    kind = torch.device(defaults.device if device is None else device).type
    if reason(lists.train, collate_fn):
        return defaults.cpus  # type: ignore[no-any-return]
    if kind == "cpu" or len(lists.train) < WORTH_WORKERS * bs:
        return 0
    return min(GPU_WORKERS, defaults.cpus)


def checked(batch_tfms: Any) -> bool:
    "Return `batch_tfms`, which is True or False; raise TypeError for anything else."
    if not isinstance(batch_tfms, bool):
        raise TypeError(
            f"batch_tfms={brief(batch_tfms)}: please use True or False; the transforms themselves go to "
            "`.transform(…)`."
        )
    return batch_tfms
