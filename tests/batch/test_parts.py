"""Parts of pictures, copied into one block: by compiled code, and by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import noise

from memlist.batch import parts
from memlist.batch.threads import ONE_THREAD, Threads

SIZES = [(40, 50, 3), (40, 50, 1), (1, 7, 3), (33, 1, 3), (20, 20, 4)]


@pytest.mark.parametrize("way", ["compiled", "numpy", "not contiguous"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_parts_lie_where_they_should_and_nothing_else_is_written(
    way: str, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "numpy":
        monkeypatch.setattr(parts, "_kernel", lambda: None)
    else:
        pytest.importorskip("numba")
    arrays = [noise(h, w, 4, k).astype(dtype)[..., :c] for k, (h, w, c) in enumerate(SIZES)]
    if way != "not contiguous":
        arrays = [np.ascontiguousarray(one) for one in arrays]
    assert way != "not contiguous" or any(not one.flags.c_contiguous for one in arrays)
    region = np.array([(0, 40, 0, 50), (3, 21, 5, 49), (0, 1, 6, 7), (32, 33, 0, 1), (4, 4, 2, 9)])
    wanted = [one[a:b, c:d].tobytes() for one, (a, b, c, d) in zip(arrays, region.tolist())]
    begin = np.cumsum([64] + [64 + (-len(one) % 64) + len(one) for one in wanted])[:-1]
    out = np.full(int(begin[-1]) + 200, 7, np.uint8)
    expected = out.copy()
    for at, one in zip(begin.tolist(), wanted):
        expected[at : at + len(one)] = np.frombuffer(one, np.uint8)
    parts.copy_parts(arrays, region, begin, out, ONE_THREAD)
    assert (out == expected).all()


def test_threads_copy_all_parts() -> None:
    arrays = [noise(200, 300, 3, k) for k in range(9)]
    region, n = np.array([(10, 190, 20, 280)] * 9), 180 * 260 * 3
    out, threads = np.zeros(9 * n, np.uint8), Threads(3)
    parts.copy_parts(arrays, region, np.arange(9) * n, out, threads)
    threads.close()
    assert all((out[k * n : (k + 1) * n] == one[10:190, 20:280].ravel()).all() for k, one in enumerate(arrays))
