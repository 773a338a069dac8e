"""Stores for the tests: of each kind, and over a named file with known records."""

from __future__ import annotations

import contextlib
import gc
import itertools
import lzma
import multiprocessing
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, List

import numpy as np
import pytest

from memlist.store import ImageStore, region
from memlist.store.system import PAGE

KINDS = ["memfd", "file", "named"]
Make = Callable[..., ImageStore]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(kind: str, tmp_path: Path) -> Make:
    "Return a function that makes a store of each kind in turn: two anonymous ones, and one over a new named file."
    count = itertools.count()

    def made(*args: Any, **kwargs: Any) -> ImageStore:
        if kind == "named":
            return ImageStore.open(tmp_path / f"{next(count)}.cache", *args, **kwargs)
        return ImageStore(*args, kind=kind, **kwargs)

    return made


def picture(i: int, size: int = 50) -> np.ndarray:
    return np.full((1 + i % 7, size, 3), i % 251, np.uint8)


def key(i: int) -> bytes:
    return b"%d" % i


def filled(path: Path, n: int = 60) -> ImageStore:
    images = ImageStore.open(path)
    for i in range(n):
        assert images.put(b"%d" % i, tile(i), tag=i)
    return images


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    "Make the segments of files so small that few records fill many of them."
    monkeypatch.setattr(region, "NAMED_SEGMENT", 8 * PAGE)
    monkeypatch.setattr(region, "FILE_SEGMENT", 8 * PAGE)


def right(images: ImageStore, n: int = 60) -> int:
    "Return how many records of `filled` are there; assert that these are right."
    found = 0
    for i in range(n):
        record = images.get(b"%d" % i)
        if record is not None:
            assert record.tag == i and record.array.shape == tile(i).shape and (record.array == i % 251).all()
            found += 1
    return found


def tile(i: int) -> np.ndarray:
    return np.full((20 + i % 7, 30, 3), i % 251, np.uint8)


def at_once(n: int, task: Callable[[int], Any]) -> None:
    "Run `task` in `n` forked processes that begin together."
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(n)

    def run(i: int) -> None:
        barrier.wait()
        task(i)

    processes = [context.Process(target=run, args=(i,)) for i in range(n)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    "Mount a file system on `folder`, as these options of `mount` say; skip the test where that is not allowed."
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount, or no such file system")
    try:
        yield folder
    finally:
        gc.collect()
        subprocess.run(["umount", "-l", str(folder)], check=True)


def small_disk(folder: Path, size: str) -> ContextManager[Path]:
    "Mount a file system of `size` on `folder`; skip the test where that is not allowed."
    return mounted(folder, "-t", "tmpfs", "-o", f"size={size}", "none")


def small_btrfs(folder: Path) -> ContextManager[Path]:
    """Mount a btrfs of 24 MB on `folder`; skip the test where that is not allowed.

    The image was made by `mkfs.btrfs --mixed --nodesize 4096` (btrfs-progs 6.2) in an empty file, and compressed.
    """
    image = folder.with_suffix(".img")
    with lzma.open(Path(__file__).parent / "store" / "btrfs.img.xz") as packed:
        image.write_bytes(packed.read())
    return mounted(folder, "-o", "loop", str(image))


def footprint() -> List[int]:
    "Return how many descriptors, threads and kB of memory this process has."
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [len(os.listdir("/proc/self/fd")), int(status["Threads"]), int(status["RssAnon"].split()[0])]
