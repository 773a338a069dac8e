"""Measure a store of two million tiny records: `python benchmarks/scale.py`, some minutes.

Prints how long the index holds the mutex when it doubles, how long the first put after a killed writer takes, and what
a `get` costs with a thousand and with all records. `python benchmarks/scale.py 100000` does the same with fewer.
"""

import os
import signal
import sys
import time

import numpy as np

from memlist.store import ImageStore

TINY = np.zeros(16, np.uint8)
GETS = 20_000


def fill(images: ImageStore, start: int, stop: int) -> None:
    for i in range(start, stop):
        assert images.put(b"%d" % i, TINY)


def doubling(images: ImageStore) -> float:
    "Return for how many seconds the mutex is held while the index is replaced by one of twice the size."
    plan = images.parts.index.plan(2 * len(images))
    begun = time.perf_counter()
    assert plan is not None and images.parts.locked(lambda: images.parts.index.grow(plan))
    return time.perf_counter() - begun


def first_put(images: ImageStore) -> float:
    "Return how many seconds the first put takes after a writer was killed while it replaced a record."
    pid = os.fork()
    if not pid:
        log = images.parts.log
        log.drop = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
        images.put(b"7", TINY, replace=True)
    os.waitpid(pid, 0)
    assert images.parts.header.busy
    n, begun = len(images), time.perf_counter()
    assert images.put(b"after", TINY)
    seconds = time.perf_counter() - begun
    assert len(images) in (n, n + 1)
    return seconds


def get(images: ImageStore) -> float:
    "Return the seconds per `get`, over records far apart."
    keys = [b"%d" % i for i in np.random.default_rng(0).integers(0, len(images) - 1, GETS)]
    rounds = []
    for _ in range(5):
        begun = time.perf_counter()
        for key in keys:
            images.get(key)
        rounds.append((time.perf_counter() - begun) / GETS)
    return min(rounds)


def main(n: int) -> None:
    images = ImageStore()
    fill(images, 0, 1000)
    print(f"get, 1,000 records: {get(images) * 1e6:.2f} µs")
    begun = time.perf_counter()
    fill(images, 1000, n)
    print(f"put: {(time.perf_counter() - begun) / (n - 1000) * 1e6:.1f} µs")
    print(f"get, {n:,} records: {get(images) * 1e6:.2f} µs")
    print(f"first put after a killed writer: {first_put(images) * 1e3:.2f} ms")
    print(f"the index doubles: {doubling(images) * 1e3:.0f} ms under the mutex")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
