"""The compiled functions one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def test_kernel_lighting_is_the_sigmoid_of_the_logit() -> None:
    pytest.importorskip("numba")
    from memlist.batch import kernels

    values = np.concatenate([[0, 1e-8, 1e-7, 1e-6, 1 - 1e-7, 1], np.linspace(0, 1, 20_000)]).astype(np.float32)
    for gain in (0.5, 0.8, 1.0, 1.25, 3.0):
        for bias in (-3.0, -0.2, 0.0, 0.4, 3.0):
            ours = values.copy()
            kernels._light(ours, len(ours), np.float32(gain), np.float32(bias))
            # fastai's 1 / v - 1 has few digits where v is near 1, and it is fastai's that we are after.
            odds = torch.from_numpy(values).clamp(1e-7, 1 - 1e-7).reciprocal().sub(1).double()
            wanted = torch.sigmoid(bias - gain * torch.log(odds)).numpy()
            assert np.abs(ours - wanted).max() < 5e-7


def test_nan_stays_nan() -> None:
    pytest.importorskip("numba")
    from memlist.batch import kernels

    values = np.array([0.3, np.nan, 0.7], np.float32)
    kernels._light(values, len(values), np.float32(1.2), np.float32(0.1))
    assert np.isnan(values).tolist() == [False, True, False]
