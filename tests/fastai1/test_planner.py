"""Draws and plans: any combination of fastai's transforms gives stock's images under the same seed."""

from __future__ import annotations

import warnings
from typing import Any, Dict, List, Tuple

import fastai.vision as fv
import numpy as np
import pytest
import torch
from batch_helpers import (
    PADDINGS,
    SCHEDULES,
    TRAIN,
    VALID,
    array_of,
    assert_near,
    compared,
    our_images,
    stock_images,
)
from batch_helpers import schedule as schedule
from conftest import seed
from fastai.vision import (
    ImageSegment,
    ResizeMethod,
    get_transforms,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memlist.fastai1 import pipelines, planner, transforms


def one_transform() -> Any:
    "Draw any transform of fastai's, with ordinary parameters."
    p = st.sampled_from([1.0, 0.5])
    span = st.sampled_from([(-0.2, 0.2), (0.0, 0.3)])
    return st.one_of(
        st.builds(lambda p: fv.flip_lr(p=p), p),
        st.builds(lambda p: fv.dihedral(p=p), p),
        st.builds(lambda p: fv.dihedral_affine(p=p), p),
        st.builds(lambda p: fv.flip_affine(p=p), p),
        st.builds(lambda d, p: fv.rotate(degrees=(-d, d), p=p), st.sampled_from([10, 45, 180]), p),
        st.builds(lambda p: fv.rand_zoom(scale=(0.8, 1.5), p=p), p),
        st.builds(lambda p: fv.zoom(scale=(1.0, 1.2), p=p), p),
        st.builds(lambda p: fv.squish(scale=(0.7, 1.4), row_pct=(0, 1), col_pct=(0, 1), p=p), p),
        st.builds(lambda s, p: fv.symmetric_warp(magnitude=s, p=p), span, p),
        st.builds(lambda s, i, p: fv.perspective_warp(magnitude=s, invert=i, p=p), span, st.booleans(), p),
        st.builds(lambda s, p: fv.tilt(direction=(0, 3), magnitude=s, p=p), span, p),
        st.builds(lambda s, p: fv.skew(direction=(0, 7), magnitude=s, p=p), span, p),
        st.builds(lambda p: fv.brightness(change=(0.1, 0.9), p=p), p),
        st.builds(lambda p: fv.contrast(scale=(0.5, 2.0), p=p), p),
        st.builds(lambda p: fv.jitter(magnitude=(-0.02, 0.02), p=p), p),
        st.builds(lambda p: fv.cutout(n_holes=(1, 3), length=(2, 9), p=p), p),
        st.builds(lambda p: fv.rgb_randomize(thresh=0.8, p=p), p),
        st.builds(lambda n, mode: fv.pad(padding=n, mode=mode), st.integers(1, 4), st.sampled_from(PADDINGS)),
        st.builds(lambda p: fv.rand_crop(p=p), st.just(1.0)),
        st.builds(lambda: fv.rand_resize_crop(16)[0]),
        st.builds(lambda: fv.brightness(change=0.7, is_random=False)),
        st.builds(lambda: fv.zoom(scale=1.3, row_pct=1, col_pct=0, is_random=False)),
    )


SIZES = st.tuples(st.integers(20, 90), st.integers(20, 90))


@st.composite
def cases(draw: Any) -> Tuple[List[Any], Dict[str, Any]]:
    tfms = draw(st.lists(one_transform(), max_size=5))
    n = draw(st.sampled_from([16, 24, 33]))
    size = draw(st.sampled_from([n, (n, n + 7)]))
    arguments: Dict[str, Any] = {"size": size}
    method = draw(st.sampled_from([None, ResizeMethod.CROP, ResizeMethod.PAD, ResizeMethod.SQUISH]))
    if method is not None:
        arguments["resize_method"] = method
    arguments["padding_mode"] = draw(st.sampled_from(PADDINGS))
    if draw(st.booleans()):
        arguments["mult"] = draw(st.sampled_from([4, 8]))
    if draw(st.integers(0, 7)) == 0:
        arguments["mode"] = "nearest"
    return tfms, arguments


SWEEP = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=150, **SWEEP)
@given(cases(), st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 1000))
def test_any_combination(schedule: str, case: Any, sizes: Any, start: int) -> None:
    compared(case, sizes, schedule, start)


@pytest.mark.full
@settings(max_examples=3000, **SWEEP)
@given(cases(), st.lists(SIZES, min_size=1, max_size=4), st.integers(0, 1000))
def test_any_combination_at_length(schedule: str, case: Any, sizes: Any, start: int) -> None:
    compared(case, sizes, schedule, start)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [(28, 28), (224, 299), (1, 7), (640, 333)])
def test_pixels_that_need_no_interpolation_equal_the_source(
    schedule: str, mirrored: bool, size: Tuple[int, int]
) -> None:
    "An image that already has the wanted size is sampled at its own pixels, within the error of the coordinates."
    array, flips = array_of(*size, 3), [fv.flip_lr(p=1.0)] if mirrored else []
    wanted = torch.from_numpy(array.copy()).permute(2, 0, 1).float().div(255)
    wanted = wanted.flip(-1) if mirrored else wanted
    side = min(size)
    for tfms, arguments, (top, left) in (
        (flips, {"size": size}, (0, 0)),  # through coordinates between -1 and 1
        # The shorter side has the wanted size, and the longer one is cropped.
        ([*flips, fv.crop_pad()], {"size": side}, ((size[0] - side + 1) // 2, (size[1] - side + 1) // 2)),
    ):
        made = our_images([array], tfms, False, schedule == "device", **arguments)[0]
        height, width = made.shape[1:]
        assert_near(made, wanted[:, top : top + height, left : left + width], 1e-4)
        seed(0)
        stock = stock_images([array], tfms, False, **arguments)[0]
        assert_near(made, stock, 1e-4)


def test_one_column_or_row_off_the_grid_is_interpolated() -> None:
    "Pixels are copied only if they lie exactly on the source's, not half or a tenth of a pixel beside them."
    arrays = [array_of(60, 80, 1)]
    for size in ((60, 79), (59, 80), (61, 80), (60, 82), (120, 80)):
        ours, stock = (
            make(arrays, *rest, size=size, resize_method=fv.ResizeMethod.SQUISH)
            for make, rest in ((our_images, ([], False, False)), (stock_images, ([], False)))
        )
        assert_near(ours, stock, 1e-4)


@pytest.mark.parametrize("size", [(375, 500), (1000, 700), (2, 300), (28, 28)])
def test_shrinking_averages_first_as_stock_does(schedule: str, size: Tuple[int, int]) -> None:
    "Images are averaged when stock averages them and by as much, as decided by the whole grid, not by the crop."
    for tfms in (TRAIN, VALID, [*fv.rand_resize_crop(64), fv.flip_lr(p=0.5)], [fv.zoom(scale=1.9), fv.rand_crop()]):
        compared((tfms, {"size": 64}), [size, (size[1], size[0])], schedule, 3)


def tie_distance(height: int, width: int, tfms: Any, **arguments: Any) -> torch.Tensor:
    "Return how far stock's last sampling coordinates in a mask are from a tie between two pixels."
    seen: List[torch.Tensor] = []
    sample = fv.image._grid_sample

    def spy(x: Any, coords: Any, **kwargs: Any) -> Any:
        n = torch.tensor([x.shape[2] - 1, x.shape[1] - 1]) / 2
        at = (coords.flow[0].double() + 1) * n
        seen.append(((at - at.floor()) - 0.5).abs().min(2)[0])
        return sample(x, coords, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fv.image, "_grid_sample", spy)
        ImageSegment(torch.zeros(1, height, width)).apply_tfms(tfms, **arguments)
    return seen[-1]


@pytest.mark.parametrize("padding", PADDINGS)
def test_masks_equal_stock_except_at_ties(schedule: str, padding: str) -> None:
    # No pixel transforms, which would move pixels away from the coordinates they were sampled at.
    tfms = [t for t in get_transforms(do_flip=False, max_rotate=40.0)[0] if t.__name__ != "crop_pad"]
    arguments = {"size": (60, 70), "padding_mode": padding}
    for k in range(6):
        mask = np.random.RandomState(k).randint(0, 5, (90 + k, 130, 1)).astype(np.uint8)
        seed(k)
        ours = our_images([mask], tfms, True, schedule == "device", **arguments)
        seed(k)
        stock = stock_images([mask], tfms, True, **arguments)
        seed(k)
        clear = tie_distance(90 + k, 130, tfms, **arguments) > 1e-3
        assert ours.dtype == stock.dtype == torch.int64
        assert clear.float().mean() > 0.99
        same = (ours == stock)[0, 0][clear]
        assert float(same.double().mean()) >= 0.999


def test_old_torch_does_not_align_corners(schedule: str, monkeypatch: Any) -> None:
    "fastai compares versions as strings: '1.13.1' is below '1.2.0', so corners are not aligned."

    class Old:
        __version__ = "1.13.1"

        def __getattr__(self, name: str) -> Any:
            return getattr(torch, name)

    monkeypatch.setattr(fv.image, "torch", Old())
    for padding in PADDINGS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compared(
                (get_transforms(max_rotate=40.0)[0], {"size": 24, "padding_mode": padding}), [(50, 40)], schedule, 1
            )


@pytest.mark.parametrize("padding", PADDINGS)
def test_nan_coordinates_read_no_memory_outside_the_image(
    schedule: str, padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Such parameters are left to stock; here they are let through, as a draw may come near them."
    monkeypatch.setattr(transforms.Parameter, "holds", lambda self, value: True)
    for tfms in (
        [fv.zoom(scale=1e-39, is_random=False)],
        [fv.rotate(degrees=float("nan"), is_random=False)],
        [fv.tilt(magnitude=-1.6, direction=0, is_random=False)],
    ):
        with np.errstate(all="ignore"):
            for mask in (False, True):
                array = array_of(40, 50, 1)[..., :1] if mask else array_of(40, 50, 1)
                made = our_images([array], tfms, mask, schedule == "device", size=17, padding_mode=padding)
                assert made.shape == (1, 1 if mask else 3, 17, 17)
                assert float(made.min()) >= 0 and float(made.max()) <= (255 if mask else 1)


def test_a_transform_listed_twice_equals_stock() -> None:
    turn, light = fv.rotate(degrees=(-30, 30), p=0.7), fv.brightness(change=(0.2, 0.8), p=0.5)
    for tfms in ([turn, fv.rand_zoom(scale=(1.0, 1.5)), turn], [light, light, fv.contrast(scale=(0.5, 2.0))]):
        for k in range(8):
            compared((tfms, {"size": 24}), [(40, 50), (60, 33)], SCHEDULES[0], k)


def exact_ratios() -> List[Tuple[int, int, float]]:
    "Return side, size and zoom for which the shrink of a square image, halved, is the zoom exactly."
    zooms = [1 + k / 20 for k in range(1, 41)]
    sizes = (*range(12, 180, 4), 192, 224, 256)
    found = [(round(2 * zoom * size), size, zoom) for size in sizes for zoom in zooms]
    return [one for one in found if abs(one[0] - 2 * one[2] * one[1]) < 1e-9]


def averaged(side: int, size: int, tfms: Any) -> Tuple[Any, Any]:
    "Return the sizes that stock and a plan average an image down to; None or zeros if they do not."
    seen: List[Any] = [None]
    interpolate = fv.image.F.interpolate

    def spy(x: Any, **kwargs: Any) -> Any:
        made = interpolate(x, **kwargs)
        seen.append(tuple(made.shape[2:]))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fv.image.F, "interpolate", spy)
        seed(0)
        fv.Image(torch.zeros(1, side, side)).apply_tfms(tfms, size=size)
    seed(0)
    pipeline = pipelines.pipeline_of(tfms, {"size": size})
    assert pipeline is not None
    plan = planner.plan_batch(pipeline, pipeline.drawn([pipeline.draw()], [None]), [(1, side, side)])
    ours = tuple(plan.pooled[0].tolist())
    return seen[-1], ours if ours != (0, 0) else None


def test_a_zoom_that_meets_the_shrink_exactly_averages_first_as_stock_does() -> None:
    "fastai decides in float32, by its own grid: which side an equal ratio falls on can't be seen from the ratio."
    ratios, first = exact_ratios()[:616], []
    assert len(ratios) == 616
    for k, (side, size, zoom) in enumerate(ratios):
        at = {"row_pct": (0.5, 1, 0)[k % 3], "col_pct": (0.5, 0, 0.3, 1)[k % 4], "is_random": False}
        stock, ours = averaged(side, size, [fv.zoom(scale=zoom, **at), fv.crop_pad(**at)])
        assert stock == ours, (side, size, zoom)
        first.append(stock is not None)
    assert any(first)


@pytest.mark.parametrize(
    "side, size, zoom", [(320, 128, 1.25), (336, 112, 1.5), (384, 128, 1.5), (672, 224, 1.5), (40, 16, 1.25)]
)
def test_images_of_an_exact_ratio_equal_stock(schedule: str, side: int, size: int, zoom: float) -> None:
    for tfms in ([fv.zoom(scale=zoom)], [fv.zoom(scale=(zoom, zoom)), fv.flip_affine(), fv.jitter(magnitude=0.0)]):
        compared((tfms, {"size": size}), [(side, side)] * 2, schedule, 3)


@pytest.mark.parametrize("size", [1, (1, 1)])
def test_a_grid_of_one_point_raises_what_stock_raises(schedule: str, size: Any) -> None:
    compared(([fv.rotate(degrees=10.0)], {"size": size}), [(40, 40)], schedule, 0)
