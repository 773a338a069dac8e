"""What is sent to a device: little of large pictures, and enough to make the same batch."""

from __future__ import annotations

import pickle
from typing import Any, List, Tuple

import numpy as np
import pytest
import torch
from batch_helpers import PADDINGS, our_images, stock_images
from conftest import noise, seed
from fastai.vision import (
    ResizeMethod,
    contrast,
    crop_pad,
    cutout,
    dihedral,
    get_transforms,
    jitter,
    perspective_warp,
    rgb_randomize,
    rotate,
    zoom,
)

from memlist.batch import render
from memlist.batch.buffers import NewMemory
from memlist.batch.maker import PLAIN_MAKER, Job, Maker
from memlist.batch.packed import Packed, pack
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Norm
from memlist.batch.regions import needed
from memlist.batch.threads import ONE_THREAD
from memlist.fastai1.images import ImageTask
from memlist.fastai1.pipelines import pipeline_of
from memlist.fastai1.planner import plan_batch

CPU = torch.device("cpu")
NORM = Norm(np.float32([0.4, 0.5, 0.6]), np.float32([2.0, 3.0, 4.0]))
# Of 64 pixels: copied, mixed, averaged down by the device, and too large to be sent.
SIZES = [(64, 64), (50, 90), (130, 110), (150, 170), (150, 170), (900, 700)]
TRANSFORMS = {
    "none": [],
    "default": get_transforms()[0],
    "turned": [rotate(degrees=(-180, 180)), dihedral(), contrast(scale=(0.5, 2.0))],
    "projected": [perspective_warp(magnitude=(-0.6, 0.6)), zoom(scale=(0.4, 3.0))],
    "holes": [cutout(n_holes=(1, 4), length=(8, 16), p=0.7), zoom(scale=(0.8, 2.0), p=0.5)],
    "noise": [jitter(magnitude=(-0.02, 0.02), p=0.5), rgb_randomize(channel=1, thresh=0.4, p=0.5)],
}


def planned(
    sizes: Any, tfms: Any, mask: bool = False, floats: bool = False, **arguments: Any
) -> Tuple[Any, List[Pixels]]:
    "Return the plan for pictures of these sizes, and their pixels."
    pipeline = pipeline_of(tfms, arguments)
    assert pipeline is not None
    arrays = [noise(h, w, 3, k)[..., : 1 if mask else 3] for k, (h, w) in enumerate(sizes)]
    pixels = [Pixels(np.ascontiguousarray(one), 1 if mask else 255) for one in arrays]
    if floats:
        pixels = [Pixels((one.array / np.float32(255)).astype(np.float32), 1) for one in pixels]
    tasks = []
    for one in pixels:
        drawn = pipeline.draw()
        tasks.append(ImageTask(one, pipeline, drawn, pipeline.draw_for_size(drawn, one.shape)))
    drawn = pipeline.drawn([task.draws for task in tasks], [task.sized for task in tasks])
    return plan_batch(pipeline, drawn, [one.shape for one in pixels], mask), pixels


def packed(plan: Any, pixels: List[Pixels], dtype: Any = torch.float32, norm: Any = None) -> Packed:
    return pack(plan, pixels, dtype, norm, NewMemory(), ONE_THREAD)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_device_makes_what_the_kernels_make(name: str, padding: str) -> None:
    "Bytes, floats and masks, of all sizes in one batch, with and without normalisation."
    seed(1)
    for floats, mask, norm in ((False, False, NORM), (True, False, None), (False, True, None)):
        if mask and name == "noise":
            continue
        arguments = {"padding_mode": padding, "size": 64, "resize_method": ResizeMethod.CROP}
        plan, pixels = planned(SIZES, [*TRANSFORMS[name], crop_pad()], mask, floats, **arguments)
        dtype = torch.int64 if mask else torch.float32
        made = PLAIN_MAKER.make_all([Job(plan, pixels, dtype, norm)])[0]
        sent = packed(plan, pixels, dtype, norm)
        there = pickle.loads(pickle.dumps(sent)).make(CPU)
        assert there.dtype == made.dtype and there.shape == made.shape
        away = (there.double() - made.double()).abs()
        assert float((away <= (0 if mask else 1e-3)).double().mean()) >= 0.999


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", ["default", "turned", "projected", "holes"])
def test_a_device_makes_what_stock_makes(name: str, padding: str) -> None:
    arrays = [noise(h, w, 3, k) for k, (h, w) in enumerate(SIZES)]
    found = []
    for k, make in enumerate((our_images, stock_images)):
        seed(2)
        device = {} if k else {"on_device": True}
        found.append(make(arrays, [*TRANSFORMS[name], crop_pad()], mask=False, size=64, padding_mode=padding, **device))
    away = (found[0] - found[1]).abs()
    assert float((away <= 1e-3).double().mean()) >= 0.999 and float(away.mean()) <= 1e-5


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("aligned", [True, False])
def test_an_image_depends_on_the_part_that_is_sent_alone(padding: str, aligned: bool) -> None:
    "All pixels outside of what `needed` names are changed; the batch stays the same."
    seed(3)
    for name in ("default", "turned", "projected"):
        plan, pixels = planned([(90, 120)] * 12, [*TRANSFORMS[name], crop_pad()], size=64, padding_mode=padding)
        plan = plan._replace(aligned=aligned, pooled=np.zeros_like(plan.pooled))
        others = []
        for one, part in zip(pixels, needed(plan, np.full(12, 90), np.full(12, 120)).tolist()):
            top, bottom, left, right = part
            array = 255 - one.array
            array[top:bottom, left:right] = one.array[top:bottom, left:right]
            others.append(one._replace(array=array))
        made, again = (PLAIN_MAKER.make_all([Job(plan, some, torch.float32)])[0] for some in (pixels, others))
        assert torch.equal(made, again)  # type: ignore[arg-type]
        assert any((a.array != b.array).any() for a, b in zip(pixels, others)) or name != "default"


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", sorted({*TRANSFORMS} - {"noise"}))
@pytest.mark.parametrize("side", [(60, 80), (130, 140), (300, 200), (1500, 2000)])
def test_a_batch_takes_at_most_four_times_its_size_on_its_way(side: Tuple[int, int], name: str, mask: bool) -> None:
    seed(4)
    for floats in (False, True):
        plan, pixels = planned([side] * 3, [*TRANSFORMS[name], crop_pad()], mask, floats, size=64)
        dtype = torch.int64 if mask else torch.float32
        sent = packed(plan, pixels, dtype)
        batch = sent.make(CPU)
        assert sent.data.numel() <= 4 * batch.numel() * batch.element_size()
        assert len(pickle.dumps(sent._replace(data=torch.empty(0)))) < 8192


def test_pictures_of_a_usual_size_are_left_to_the_device() -> None:
    "500x375 is mixed there, 640x480 averaged and mixed; 2000x1500 is made here."
    for side, where in (((375, 500), 0), ((480, 640), 2), ((1500, 2000), 3)):
        seed(5)
        plan, pixels = planned([side] * 2, [crop_pad()], size=224)
        counts = [0] * 4
        counts[where] = 2
        assert list(packed(plan, pixels).counts) == counts


def test_a_device_never_gets_a_choice_by_truth_values_or_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    "On the device, no operation runs that waits for a GPU: all that it needs was sent in one copy."
    dispatch: Any = pytest.importorskip("torch.utils._python_dispatch")

    waits = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "is_nonzero", "_to_copy"}
    seen: List[str] = []

    class Watch(dispatch.TorchDispatchMode):  # type: ignore[misc,name-defined]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = function.overloadpacket.__name__
            moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
            truths = name in ("index", "index_put_", "index_put") and any(
                isinstance(one, torch.Tensor) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
            )
            if truths or moved or (name in waits and name != "_to_copy"):
                seen.append(name)
            return function(*args, **(kwargs or {}))

    for name in sorted(TRANSFORMS):
        seed(6)
        plan, pixels = planned(SIZES, [*TRANSFORMS[name], crop_pad()], size=64, padding_mode="zeros")
        sent = packed(plan, pixels, norm=NORM)
        with Watch():
            sent.make(CPU)
        assert not seen, name


def test_pictures_of_one_size_are_averaged_down_together(monkeypatch: pytest.MonkeyPatch) -> None:
    "They are brought next to each other, so that a device starts as few computations as there are sizes."
    plan, pixels = planned([(150, 170), (160, 160)] * 3, [crop_pad()], size=64)
    wanted, seen, average = PLAIN_MAKER.make_all([Job(plan, pixels, torch.float32)])[0], [], render._average
    monkeypatch.setattr(render, "_average", lambda images, *size: seen.append(len(images)) or average(images, *size))
    there = packed(plan, pixels).make(CPU)
    assert seen == [3, 3]
    assert float((there - wanted).abs().max()) < 1e-4  # type: ignore[operator]


@pytest.mark.parametrize("floats", [False, True])
def test_narrow_pictures_with_padding_are_averaged_down(floats: bool) -> None:
    "A 200x50 picture fills a quarter of its image, so it is averaged down although it is smaller than the image."
    arguments = {"size": 64, "resize_method": ResizeMethod.PAD, "padding_mode": "zeros"}
    plan, pixels = planned([(200, 50), (50, 200)], [crop_pad()], floats=floats, **arguments)
    assert plan.pooled.all()
    sent, wanted = packed(plan, pixels), PLAIN_MAKER.make_all([Job(plan, pixels, torch.float32)])[0]
    assert list(sent.counts) == ([0, 0, 0, 2] if floats else [0, 0, 2, 0])
    assert float((sent.make(CPU) - wanted).abs().max()) < 1e-4  # type: ignore[operator]


def test_the_maker_packs_for_a_device() -> None:
    plan, pixels = planned(SIZES, [crop_pad()], size=64)
    made = Maker(NewMemory(), ONE_THREAD, True).make_all([Job(plan, pixels, torch.float32, NORM)])[0]
    assert isinstance(made, Packed)
    assert torch.equal(made.make(CPU), packed(plan, pixels, norm=NORM).make(CPU))
