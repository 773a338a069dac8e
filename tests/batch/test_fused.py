"""The kernel that makes images on a GPU, run by Triton's interpreter, makes what the formulas in torch make."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import pytest
import torch
from conftest import noise, seed
from fastai.vision import crop_pad
from test_packed import CPU, NORM, SIZES, TRANSFORMS, packed, planned
from test_render import images, plan_of

from memlist.batch import fused, render
from memlist.batch import packed as packing
from memlist.batch.fused import Fused
from memlist.batch.packed import Packed
from memlist.batch.pixels import Pixels
from memlist.batch.plan import Extras

WAYS = [(mode, padding) for mode in ("bilinear", "nearest") for padding in ("reflection", "border", "zeros")]


@pytest.fixture(scope="module")
def interpreted() -> Any:
    "Return the kernels as Triton's interpreter runs them: a module of its own, since Triton decides when it is loaded."
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        path = Path(fused.__file__).with_name("fused_triton.py")
        spec = importlib.util.spec_from_file_location("memlist.batch.fused_interpreted", path)
        assert spec is not None and spec.loader is not None
        code = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(code)
    kernels = Fused(code, exact=False)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(packing, "fused_on", lambda device: kernels)
        packed(plan_of(1, 19), images()[2:3]).make(CPU)
    if "only 0-dimensional arrays" in kernels.failed:
        pytest.skip("the interpreter of this Triton does not work with this NumPy")
    return code


def by(sent: Packed, kernels: Optional[Fused]) -> torch.Tensor:
    "Return the batch made by `kernels`, or by torch."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "fused_on", lambda device: kernels)
        made = sent.make(CPU)
    assert kernels is None or not kernels.failed
    return made


def check(sent: Packed, interpreted: Any) -> torch.Tensor:
    "Compare a batch by the kernel with one by torch, and return it; NaN is where NaN is."
    wanted, made = by(sent, None), by(sent, Fused(interpreted, exact=False))
    assert made.dtype == wanted.dtype and made.shape == wanted.shape
    assert torch.equal(made.isnan(), wanted.isnan())
    away = (made.double() - wanted.double()).nan_to_num_(0).abs()
    assert float(away.max()) <= (2e-6 if made.dtype == torch.float32 else 0)
    return made


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("mode, padding", WAYS)
def test_the_kernel_makes_what_torch_makes(mode: str, padding: str, aligned: bool, interpreted: Any) -> None:
    "Turned and projected images, every second one lit; 19 x 19 pixels are no multiple of anything."
    for floats, channels in ((False, 3), (True, 1)):
        plan = plan_of(5, 19, mode=mode, padding=padding, aligned=aligned)
        made = check(packed(plan, images(channels, floats), norm=NORM if channels == 3 else None), interpreted)
        assert float(made.std()) > 0.05


@pytest.mark.parametrize("padding", ["reflection", "border", "zeros"])
def test_masks_are_equal(padding: str, interpreted: Any) -> None:
    unlit = {"lit": np.zeros(5, bool), "gain": np.ones(5), "bias": np.zeros(5)}
    pixels = [one._replace(divisor=1) for one in images(1)]
    for aligned in (True, False):
        plan = plan_of(5, 19, mode="nearest", padding=padding, aligned=aligned, **unlit)
        assert len(check(packed(plan, pixels, torch.int64), interpreted).unique()) > 100


def test_ties_are_rounded_to_the_even_pixel(interpreted: Any) -> None:
    "Coordinates are 0, 0.5, 1, 1.5 ... of the source."
    line = np.arange(20, dtype=np.float32)[None] / 2
    nothing = {"sampled": np.zeros(1, bool), "lit": np.zeros(1, bool), "matrix": np.eye(3)[None]}
    plan = plan_of(1, 20, mode="nearest", columns=line, rows=line, **nothing)
    made = check(packed(plan, [Pixels(np.arange(300, dtype=np.uint8).reshape(10, 10, 3), 1)]), interpreted)
    assert (made[0, 0, 0, :6] / 3).tolist() == [0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize("channels", [2, 4, 5, 9])
def test_any_number_of_channels(channels: int, interpreted: Any) -> None:
    check(packed(plan_of(5, 17), images(channels)), interpreted)


@pytest.mark.parametrize("n, size", [(1, 1), (1, 23), (2, 32)])
def test_small_batches_and_sizes(n: int, size: int, interpreted: Any) -> None:
    "A block has 512 pixels, so 23 x 23 are two, and 32 x 32 are exactly two."
    pixels = [Pixels(noise(2 * size + 1, 2 * size, 3, k), 255) for k in range(n)]
    check(packed(plan_of(n, size), pixels, norm=NORM), interpreted)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's
def test_coordinates_that_are_no_numbers(interpreted: Any) -> None:
    "A divisor of zero makes infinity and NaN, and a picture may have NaN, too."
    plan = plan_of(3, 18, lit=np.zeros(3, bool))
    plan.matrix[0, 2] = 0
    plan.matrix[1, 0], plan.matrix[1, 2] = 0, (1, 0, plan.columns[0, 4])
    pixels = images(3, floats=True)[:3]
    pixels[2].array[5:9, 5:9] = np.nan
    for mode, padding in WAYS:
        made = check(packed(plan._replace(mode=mode, padding=padding, aligned=mode == "nearest"), pixels), interpreted)
        assert made[2].isnan().any()


def test_nan_stays_nan_when_it_is_lit(interpreted: Any) -> None:
    pixels = images(3, floats=True)[:1]
    pixels[0].array[::3] = np.nan
    made = check(packed(plan_of(1, 18), pixels), interpreted)
    assert 0 < int(made.isnan().sum()) < made.numel()


def test_black_and_white_are_lit(interpreted: Any) -> None:
    "The logits of 0 and 1 are infinite, so these values are clamped first."
    pixels = [Pixels(np.full((9, 9, 3), value, np.uint8), 255) for value in (0, 255)]
    for gain, bias in ((0.5, 0.0), (3.0, -2.0)):
        lit = {"lit": np.ones(2, bool), "gain": np.full(2, gain), "bias": np.full(2, bias)}
        made = check(packed(plan_of(2, 9, **lit), pixels), interpreted)
        assert made[0].max() < 4e-4 and made[1].min() > 1 - 4e-4 and (gain > 1 or made[0].min() > 1e-4)


def test_holes_blank_rows_and_images_that_are_made_before(interpreted: Any) -> None:
    "The order in which images are sent is not theirs here: one has a plane of its own, and is made before."
    half, plane = np.arange(17) < 8, torch.full((17, 17), 0.25)
    extras = {
        0: Extras(planes=[(1, plane)]),
        2: Extras(holes=[(half, half)]),
        3: Extras(holes=[(half, ~half), (~half, half)]),
    }
    blank = np.tile(np.arange(17) == 16, (5, 1))
    sent = packed(plan_of(5, 17, extras=extras, blank=(blank, np.zeros_like(blank))), images())
    assert not sent.in_order and sent.counts[3]
    made = check(sent, interpreted)
    assert not made[:, :, 16].any() and not made[2, :, :8, :8].any() and made[2, :, 8:16].all()


def test_parts_of_pictures(interpreted: Any) -> None:
    "Send the middle of a picture that is larger than its image."
    pixels = [Pixels(noise(90, 110, 3, k), 255) for k in range(4)]
    matrix = np.tile(np.diag([0.2, 0.15, 1.0]), (4, 1, 1))
    matrix[:, :2, 2] = np.linspace(-0.6, 0.6, 8).reshape(4, 2)
    for aligned in (True, False):
        sent = packed(plan_of(4, 20, matrix=matrix, aligned=aligned), pixels)
        assert sent.counts[0] == 4 and sent.data.numel() < 2 * 90 * 110 * 3
        check(sent, interpreted)


def test_pictures_are_averaged_down_by_a_kernel_of_their_own(interpreted: Any) -> None:
    "The averages are torch's to the bit, and so the batch is as near as without them."
    pooled = np.array([[17, 24], [0, 0], [4, 6], [1, 13], [31, 2]])
    for channels in (1, 3):
        sent = packed(plan_of(5, 33, pooled=pooled), images(channels))
        assert sent.counts == (1, 0, 4, 0)
        check(sent, interpreted)
        found = sent._on(CPU)
        kernels = Fused(interpreted, exact=False)
        made = kernels._average(found, found["bytes"], sent.averages, 0, 0)
        assert torch.equal(made, render._averaged(found["bytes"], sent.averages))  # type: ignore[arg-type]


def test_pictures_are_averaged_down_in_parts(interpreted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    "The averages may take more memory than the batch, so not all are there at the same time."
    pooled = np.array([[17, 24], [0, 0], [4, 6], [1, 13], [31, 2]])
    sent, wanted = packed(plan_of(5, 33, pooled=pooled), images(), norm=NORM), []
    for least, starts in ((fused.LEAST, 2), (0, 8)):
        monkeypatch.setattr(fused, "LEAST", least)
        code = Recorder()
        by(sent, Unchecked(code))
        assert len(code.started) == 1 + starts
        wanted.append(check(sent, interpreted))
    assert torch.equal(*wanted)


@pytest.mark.parametrize("name", ["turned", "projected", "holes"])
def test_batches_of_fastais_transforms(name: str, interpreted: Any) -> None:
    seed(7)
    plan, pixels = planned(SIZES[1:4], [*TRANSFORMS[name], crop_pad()], size=40)
    check(packed(plan, pixels, norm=NORM), interpreted)


class Recorder:
    "Stand for the kernels: count how often each is started."

    def __init__(self, error: Optional[Exception] = None) -> None:
        self.error, self.started = error, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        def start(*given: Any, **options: Any) -> None:
            self.started.append(name)
            if self.error is not None:
                raise self.error

        return Launcher(start)


class Launcher:
    def __init__(self, start: Any) -> None:
        self.start = start

    def __getitem__(self, grid: Tuple[int, ...]) -> Any:
        return self.start


class Unchecked(Fused):
    "Kernels that make nothing, as from the second batch of a kind on, which is not compared with torch's."

    def knows(self, kind: Any) -> bool:
        return True


def test_a_kernel_that_fails_leaves_the_work_to_torch() -> None:
    "A warning says so, once; no kernel is started any more."
    sent = packed(plan_of(5, 17), images())
    code = Recorder(RuntimeError("Failed to find\nC compiler."))
    kernels = Fused(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "fused_on", lambda device: kernels)
        with pytest.warns(UserWarning, match=r"so torch makes them \(RuntimeError: C compiler\.\)"):
            made = sent.make(CPU)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = sent.make(CPU)
    wanted = by(sent, None)
    assert torch.equal(made, wanted) and torch.equal(again, wanted)
    assert code.started == ["made"] and kernels.failed


@pytest.mark.parametrize("sizes", [[(25, 45)] * 3, [(25, 45), (75, 85), (80, 75), (75, 85)]])
def test_a_kernel_that_makes_something_else_is_found_at_its_first_batch(sizes: Any, interpreted: Any) -> None:
    "In their order and not; later batches are not compared again where the first ones were right."
    plan, pixels = planned(sizes, [crop_pad()], size=32)
    sent = packed(plan, pixels, norm=NORM)
    wanted = by(sent, None)
    kernels, made = Fused(interpreted, exact=False), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "fused_on", lambda device: kernels)
        patch.setattr(packing, "render", lambda *given: made.append(render.render(*given)))
        for _ in range(3):
            sent.make(CPU)
    assert len(made) == sum(n > 0 for n in sent.counts[:3]) and not kernels.failed
    kernels = Fused(interpreted, exact=False)

    def wrong(*given: Any) -> bool:
        sampled = Fused._sample(kernels, *given)
        given[-2][given[2]] += 0.01
        return sampled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "fused_on", lambda device: kernels)
        patch.setattr(kernels, "_sample", wrong)
        with pytest.warns(UserWarning, match="Triton's kernel can't make batches here"):
            found = sent.make(CPU)
    assert kernels.failed and torch.equal(found, wanted)


def test_plans_of_an_unknown_kind_and_very_long_pictures_are_left_to_torch() -> None:
    code = Recorder()
    sent = packed(plan_of(5, 17), images())
    found, out = sent._on(CPU), torch.empty(sent.size)
    for table, into in (
        (sent.table._replace(mode="bicubic"), out),
        (sent.table._replace(padding="circular"), out),
        (sent.table, out.half()),
    ):
        assert not Fused(code).make(table, found, slice(0, 5), found["bytes"], into, None)
    long = (0, 1 << 17, 3, 1 << 16, 2)
    assert not Fused(code).make(sent.table, found, slice(0, 1), found["bytes"], out, None, [long])
    assert not code.started


def test_a_cpu_and_a_machine_without_triton_have_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fused.fused_on(CPU) is None
    monkeypatch.setitem(sys.modules, "triton", None)  # its import fails
    monkeypatch.delitem(sys.modules, "memlist.batch.fused_triton", raising=False)
    monkeypatch.delattr("memlist.batch.fused_triton", raising=False)
    assert fused._fused.__wrapped__() is None


def test_as_few_computations_are_started_for_many_images_as_for_one() -> None:
    "Start one kernel for each way that pictures are sent, and one more that averages; all else is views."
    dispatch: Any = pytest.importorskip("torch.utils._python_dispatch")

    class Count(dispatch.TorchDispatchMode):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.seen: List[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    for sizes, started in (
        ([(50, 90)], ["made"]),
        ([(50, 90)] * 9, ["made"]),
        ([(50, 90), (150, 170), (160, 150), (150, 170)], ["made", "averaged", "made"]),
    ):
        plan, pixels = planned(sizes, [crop_pad()], size=64)
        sent, code = packed(plan, pixels, norm=NORM), Recorder()
        with Count() as count:
            by(sent, Unchecked(code))
        assert code.started == started
        others = [one for one in count.seen if one not in ("view", "slice", "detach")]
        assert others == ["empty"] * len(set(started))


class NoDevice:
    "Stand for the driver of an H100, as far as the compiler asks for it."

    def get_current_target(self) -> Any:
        return sys.modules["triton.backends.compiler"].GPUTarget("cuda", 90, 32)  # type: ignore[attr-defined]

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiler:
    "Compile the kernels for the arguments that they are called with, and start nothing."

    def __init__(self, code: Any) -> None:
        self.code = code

    def __getattr__(self, name: str) -> Any:
        return Compiled(getattr(self.code, name))


class Compiled:
    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: Tuple[int, ...]) -> Any:
        return lambda *given, **options: self.kernel.run(*given, grid=grid, warmup=True, **options)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tuple[Fused, Path]]:
    "Give the kernels, which are compiled for an H100 without one, and the folder with what has been compiled."
    runtime: Any = pytest.importorskip("triton.runtime")
    pytest.importorskip("triton.backends.nvidia")
    from memlist.batch import fused_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    before = runtime.driver._active
    runtime.driver.set_active(NoDevice())
    for kernel in (fused_triton.made, fused_triton.averaged):
        kernel.device_caches.clear()
    try:
        yield Unchecked(Compiler(fused_triton)), tmp_path
    finally:
        runtime.driver.set_active(before)
        for kernel in (fused_triton.made, fused_triton.averaged):
            kernel.device_caches.clear()


def test_the_kernels_can_be_compiled_for_a_gpu(compiler: Tuple[Fused, Path]) -> None:
    "Floats and bytes, masks, and averages: five variants, whatever the numbers of images, rows and columns."
    kernels, folder = compiler
    pooled = np.array([[20, 25], [0, 0], [5, 5], [0, 0], [0, 0]])
    found: Dict[int, int] = {}
    for n, size in ((5, 64), (1, 1), (2, 16), (4, 17)):
        by(packed(plan_of(n, size), images()[:n], norm=NORM), kernels)
        found[n] = len(list(folder.rglob("made.cubin")))
    assert found == {5: 1, 1: 1, 2: 1, 4: 1}
    by(packed(plan_of(5, 32, pooled=pooled), images(), norm=NORM), kernels)
    masks = plan_of(5, 32, mode="nearest", padding="zeros", aligned=False, lit=np.zeros(5, bool))
    by(packed(masks, images(1), torch.int64), kernels)
    assert len(list(folder.rglob("made.cubin"))) == 3 and len(list(folder.rglob("averaged.cubin"))) == 1
