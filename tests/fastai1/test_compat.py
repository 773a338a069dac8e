"""The repairs of `memlist.compat`, tested through stock fastai: a test fails if a repair that it needs is missing."""

from __future__ import annotations

import csv
import pickle
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Callable, Iterator

import fresh
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai import basic_train, core, data_block
from fastai.basic_data import load_data
from fastai.basic_train import Learner, load_learner
from fastai.callbacks.hooks import hook_output
from fastai.data_block import CategoryList, FloatList, ItemList, LabelLists
from fastai.layers import AdaptiveConcatPool2d, Flatten
from fastai.vision import image, transform
from fastai.vision.data import (
    ImageDataBunch,
    ImageList,
    ObjectItemList,
    PointsItemList,
    SegmentationItemList,
    bb_pad_collate,
)
from fastai.vision.gan import GANItemList, GANLearner, basic_critic, basic_generator
from fastai.vision.image import FlowField, Image, ImageBBox, open_image
from fastai.vision.interpret import SegmentationInterpretation
from PIL import Image as PILImage
from torch import nn

from memlist import compat

ROOT = Path(compat.__file__).parents[2]
SIZE = 32
NAMES = [f"{i:02}.png" for i in range(10)]


def write_images(folder: Path, high: int = 256, mode: str = "RGB") -> None:
    folder.mkdir(parents=True)
    draw = np.random.RandomState(0)
    for name in NAMES:
        shape = (SIZE, SIZE, 3) if mode == "RGB" else (SIZE, SIZE)
        PILImage.fromarray(draw.randint(0, high, shape).astype(np.uint8)).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    "Make a folder of ten images."
    write_images(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def figures() -> Iterator[None]:
    "Draw in memory, and close all figures afterwards."
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def paths(folder: Path) -> list[Path]:
    return [folder / name for name in NAMES]


def a_or_b(path: Path) -> str:
    return "ab"[int(path.stem) % 2]


def bunch(folder: Path, tfms: Any = None) -> Any:
    "Return data of two classes, with six images for training and four for validation."
    labelled = ImageList(paths(folder), path=folder).split_by_idx([0, 1, 2, 3]).label_from_func(a_or_b)
    return labelled.transform(tfms, size=SIZE).databunch(bs=2, num_workers=0)


def model(outputs: int = 2) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
    return nn.Sequential(body, nn.Sequential(AdaptiveConcatPool2d(1), Flatten(), nn.Linear(8, outputs)))


def run(code: str) -> subprocess.CompletedProcess[str]:
    "Run `code` in a process in which nothing is repaired yet."
    return fresh.run(textwrap.dedent(code), cwd=ROOT)


# --- ragged_arrays ---------------------------------------------------------------------------------------


def test_multi_labels_from_a_delimited_column(folder: Path) -> None:
    tags = ["a b", "a", "b c", "c", "a b c"] * 2
    frame = pd.DataFrame({"name": NAMES, "tags": tags})
    labelled = ImageList.from_df(frame, folder).split_by_idx([0, 1]).label_from_df(label_delim=" ")
    data = labelled.databunch(bs=4, num_workers=0)
    assert data.classes == ["a", "b", "c"]
    targets = [[float(c in t.split()) for c in "abc"] for t in tags]
    assert [y.data.tolist() for y in data.train_ds.y] == targets[2:]
    assert data.one_batch()[1].shape == (4, 3)
    data.show_batch(2)


def test_multi_labels_from_lists(folder: Path) -> None:
    labels = {path: ["a", "b"][: 1 + i % 2] for i, path in enumerate(paths(folder))}
    labelled = ImageList(paths(folder), path=folder).split_by_idx([0, 1]).label_from_func(lambda p: labels[p])
    assert [y.obj for y in labelled.train.y] == [labels[p] for p in labelled.train.x.items]


def test_multi_labels_from_one_hot_columns(folder: Path) -> None:
    frame = pd.DataFrame({"name": NAMES, "a": [0, 1] * 5, "b": [1] * 10})
    labelled = ImageList.from_df(frame, folder).split_by_idx([0, 1]).label_from_df(cols=["a", "b"])
    assert [y.obj for y in labelled.train.y] == [["b"], ["a", "b"]] * 4


def ragged_iterators() -> list[Any]:
    rows = [["a", "b"], ["c"]]
    return [csv.reader(["a b", "c"], delimiter=" "), iter(rows), (row for row in rows), rows, tuple(rows)]


@pytest.mark.parametrize("kind", range(5))
def test_array_reads_an_iterator_once(kind: int) -> None:
    made = core.array(ragged_iterators()[kind])
    assert (made.dtype, made.shape, made.tolist()) == (np.dtype(object), (2,), [["a", "b"], ["c"]])


def test_array_equals_numpys_for_regular_input() -> None:
    for given in ([1, 2], [1.5, 2], ["a", "bc"], [[1, 2], [3, 4]], [True], [None], [Path("a")], np.arange(3)):
        made, expected = core.array(given), np.array(given)
        assert (made.dtype, made.tolist()) == (expected.dtype, expected.tolist())
    assert core.array([1, 2], dtype=np.float32).dtype == np.float32
    assert core.array(range(3)).tolist() == [0, 1, 2]
    with pytest.raises(ValueError):
        core.array([[1], [1, 2]], dtype=np.float32)
    with pytest.raises(ValueError):
        core.array(["a"], dtype=float)


def test_every_fastai_module_has_the_same_array() -> None:
    holders = [m for n, m in sys.modules.items() if n.split(".")[0] == "fastai" and hasattr(m, "array")]
    assert len(holders) > 20
    # fastai.imports has NumPy's own; all other modules have that of fastai.core.
    assert {m.__name__ for m in holders if m.array is not core.array} <= {
        "fastai.imports",
        "fastai.imports.core",
    }


# --- boxes: ragged_arrays, removed_numpy_aliases ---------------------------------------------------------


def boxed(folder: Path, counts: list[int], make: Callable[[Any], Any], tfms: Any = None) -> Any:
    boxes = {
        path: [make([[1.0 + j, 2.0, 9.0 + j, 12.0] for j in range(count)]), ["x", "y", "z"][:count]]
        for path, count in zip(paths(folder), counts)
    }
    listed = ObjectItemList(paths(folder), path=folder).split_by_idx([0, 1])
    labelled = listed.label_from_func(lambda path: boxes[path]).transform(tfms, tfm_y=True, size=SIZE)
    return labelled.databunch(bs=8, num_workers=0, collate_fn=bb_pad_collate)


@pytest.mark.parametrize("make", [list, torch.tensor])
@pytest.mark.parametrize("counts", [[1, 2, 3, 1, 2, 3, 1, 2, 3, 3], [1] * 10, [3] * 10])
def test_boxes_keep_their_coordinates_and_labels(folder: Path, counts: list[int], make: Callable[[Any], Any]) -> None:
    data = boxed(folder, counts, make)
    for item, count in zip(data.train_ds.y, counts[2:]):
        found, labels = item.data
        expected = [[1.0 + j, 2.0, 9.0 + j, 12.0] for j in range(count)]
        assert torch.allclose((found + 1) * SIZE / 2, torch.tensor(expected))
        assert [data.classes[i] for i in labels] == ["x", "y", "z"][:count]
    _, (found, labels) = data.one_batch()
    assert found.shape == (8, max(counts), 4)
    assert (labels > 0).sum() == sum(counts[2:])
    data.show_batch(2)


def test_boxes_may_be_in_an_array_of_objects() -> None:
    box = np.empty(1, dtype=object)
    box[0] = [1, 2, 9, 12]
    found, _ = ImageBBox.create(SIZE, SIZE, box, labels=[0], classes=["x"]).data
    assert torch.allclose((found + 1) * SIZE / 2, torch.tensor([[1.0, 2.0, 9.0, 12.0]]))


def test_boxes_work_with_the_default_transforms(folder: Path) -> None:
    data = boxed(folder, [1, 2, 3, 1, 2, 3, 1, 2, 3, 3], list, transform.get_transforms(p_affine=1.0))
    assert data.one_batch()[0].shape == (8, 3, SIZE, SIZE)


def test_one_hot_columns_can_be_decoded() -> None:
    decoded = data_block._decode(pd.DataFrame({"a": [0, 1], "b": [1, 1]}))
    assert decoded.tolist() == [["b"], ["a", "b"]]


def test_a_heat_map_of_a_segmentation_can_be_shown(folder: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "masks", high=2, mode="L")
    listed = SegmentationItemList(paths(folder), path=folder).split_by_idx([0, 1])
    labelled = listed.label_from_func(lambda p: tmp_path / "masks" / p.name, classes=["ground", "thing"])
    data = labelled.transform(transform.get_transforms(p_affine=1.0), tfm_y=True, size=SIZE)
    learn = Learner(data.databunch(bs=2, num_workers=0), nn.Conv2d(3, 2, 3, padding=1), silent=True)
    learn.fit(1)
    SegmentationInterpretation.from_learner(learn).show_xyz(0, ["ground"])


# --- object_points ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("tfms", [False, True])
def test_points_of_equal_shape_keep_their_coordinates(folder: Path, dtype: torch.dtype, tfms: bool) -> None:
    points = {path: torch.tensor([[3 + i, 4], [20, 16]], dtype=dtype) for i, path in enumerate(paths(folder))}
    listed = PointsItemList(paths(folder), path=folder).split_by_idx([0, 1])
    labelled = listed.label_from_func(lambda path: points[path])
    chosen = transform.get_transforms(p_affine=1.0) if tfms else None
    data = labelled.transform(chosen, tfm_y=True, size=SIZE, remove_out=False).databunch(bs=4, num_workers=0)
    assert data.c == 4
    if not tfms:
        for path, item in zip(data.train_ds.x.items, data.train_ds.y):
            assert item.data.dtype == torch.float32
            assert torch.allclose((item.data + 1) * SIZE / 2, points[path].float())
    assert data.one_batch()[1].shape == (4, 2, 2)
    data.show_batch(2)


def test_points_of_other_shapes_stay_tensors(folder: Path) -> None:
    points = {path: torch.ones(1 + i % 2, 2) for i, path in enumerate(paths(folder))}
    listed = PointsItemList(paths(folder), path=folder).split_by_idx([0, 1])
    labelled = listed.label_from_func(lambda path: points[path])
    assert [len(y.data) for y in labelled.train.y] == [1, 2] * 4


def test_scale_flow_can_be_reversed() -> None:
    given = torch.tensor([[3.0, 4.0], [20.0, 16.0]])
    scaled = image.scale_flow(FlowField((SIZE, SIZE), given))
    assert torch.allclose(image.scale_flow(scaled, to_unit=False).flow, given)


# --- removed_solve, double_matrices ----------------------------------------------------------------------

WARPS = {
    "symmetric_warp": lambda: transform.symmetric_warp(magnitude=(-0.2, 0.2)),
    "perspective_warp": lambda: transform.perspective_warp(magnitude=(-0.2, 0.2)),
    "tilt": lambda: transform.tilt(direction=(0, 3), magnitude=(-0.2, 0.2)),
    "skew": lambda: transform.skew(direction=(0, 7), magnitude=(-0.2, 0.2)),
    "rotate": lambda: transform.rotate(degrees=(-10.0, 10.0)),
}


@pytest.mark.parametrize("name", list(WARPS))
def test_warps_draw_random_numbers_only_when_chosen(folder: Path, name: str) -> None:
    original = open_image(folder / NAMES[0])
    tfm = WARPS[name]()
    random.seed(1)
    torch.manual_seed(1)
    warped = original.apply_tfms([tfm])
    after = random.getstate(), torch.get_rng_state()
    assert warped.px.dtype == torch.float32 and warped.shape == original.shape
    assert not torch.equal(warped.px, original.px)
    # Only choosing a warp draws random numbers; computing it draws none.
    random.seed(1)
    torch.manual_seed(1)
    tfm.resolve()
    assert random.getstate() == after[0] and torch.equal(torch.get_rng_state(), after[1])


def test_warps_are_solved_to_float32_accuracy() -> None:
    draw = np.random.RandomState(0)
    for _ in range(20):
        corners = np.array(transform._orig_pts) + draw.uniform(-0.2, 0.2, (4, 2))
        found = transform._find_coeffs(transform._orig_pts, corners.tolist()).double().numpy()
        rows = []
        for (x, y), (u, v) in zip(corners, transform._orig_pts):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        exact = np.linalg.solve(np.array(rows), np.array(transform._orig_pts, dtype=float).reshape(8))
        assert np.abs(found - exact).max() < 2e-6


def test_a_learner_trains_with_the_default_transforms(folder: Path) -> None:
    learn = Learner(bunch(folder, transform.get_transforms(p_affine=1.0)), model(), silent=True)
    learn.fit(1)
    assert learn.TTA()[0].shape == (4, 2)


def test_warps_work_without_any_solve_in_torch() -> None:
    done = run("""
        import torch
        for name in ("solve", "gesv"):
            if hasattr(torch, name):
                delattr(torch, name)
        import memlist.compat
        from fastai.vision import Image, transform
        assert not hasattr(torch, "solve") and not hasattr(torch, "gesv")
        Image(torch.rand(3, 8, 8)).apply_tfms([transform.symmetric_warp(magnitude=(-0.2, 0.2))])
        print("removed_solve" in memlist.compat.applied())
    """)
    assert done.stdout == "True\n", done.stderr


# --- refused_pickles -------------------------------------------------------------------------------------


def test_learner_loads_weights_and_optimizer(folder: Path) -> None:
    first, second = (Learner(bunch(folder), model(), silent=True) for _ in range(2))
    first.fit(1)
    first.save("model")
    second.load("model")
    for ours, theirs in zip(first.model.parameters(), second.model.parameters()):
        assert torch.equal(ours, theirs)
    assert len(second.opt.state_dict()["state"]) == len(first.opt.state_dict()["state"]) > 0
    with (folder / "models" / "model.pth").open("rb") as file:
        second.load(file)


def test_lr_find_restores_the_weights(folder: Path) -> None:
    learn = Learner(bunch(folder), model(), silent=True)
    learn.fit_one_cycle(1)  # it leaves NumPy numbers in the optimizer, and so in what lr_find saves and loads
    before = [p.detach().clone() for p in learn.model.parameters()]
    learn.lr_find(num_it=6)
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))
    learn.recorder.plot(skip_start=0, skip_end=1)


def test_load_learner_gives_the_same_predictions(folder: Path) -> None:
    learn = Learner(bunch(folder).normalize(), model(), silent=True)
    learn.export()
    loaded = load_learner(folder, num_workers=0)
    picture = open_image(folder / NAMES[0])
    assert torch.equal(learn.predict(picture)[2], loaded.predict(picture)[2])


def test_a_learner_can_train_after_purge(folder: Path) -> None:
    learn = Learner(bunch(folder), model(), silent=True)
    learn.fit(1)
    learn.purge(clear_opt=False)
    learn.fit(1)


def test_load_data_loads_the_same_pixels(folder: Path) -> None:
    data = bunch(folder)
    data.save()
    loaded = load_data(folder, bs=2, num_workers=0)
    assert torch.equal(loaded.train_ds[0][0].px, data.train_ds[0][0].px)


def test_load_empty_keeps_the_classes(folder: Path) -> None:
    bunch(folder).export("empty.pkl")
    assert LabelLists.load_empty(folder, "empty.pkl").valid.y.classes == ["a", "b"]


def test_a_gan_can_be_saved_and_loaded(folder: Path) -> None:
    listed = GANItemList.from_folder(folder, noise_sz=4).split_none().label_from_func(lambda path: path)
    data = listed.transform([[], []], size=SIZE, tfm_y=True).databunch(bs=4, num_workers=0)
    generator = basic_generator(SIZE, 3, noise_sz=4, n_features=4)
    learn = GANLearner.wgan(data, generator, basic_critic(SIZE, 3, n_features=4), show_img=False, silent=True)
    learn.fit(1)
    learn.save("gan")
    learn.load("gan")


def test_other_callers_are_still_refused(folder: Path) -> None:
    if "refused_pickles" not in compat.applied():
        pytest.skip("this torch.load refuses nothing")
    Learner(bunch(folder), model(), silent=True).export()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(folder / "export.pkl")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(folder / "export.pkl", map_location="cpu")
    # An explicit `weights_only=True` is obeyed in fastai's own modules, too.
    with pytest.raises(pickle.UnpicklingError):
        basic_train.torch.load(folder / "export.pkl", weights_only=True)


# --- guessed_delimiter -----------------------------------------------------------------------------------


def test_from_csv_reads_a_single_column(folder: Path) -> None:
    (folder / "names.csv").write_text("name\n" + "".join(f"{name}\n" for name in NAMES))
    listed = ImageList.from_csv(folder, "names.csv")
    assert [Path(item).name for item in listed.items] == NAMES
    assert list(listed.inner_df.columns) == ["name"]
    assert ItemList.from_csv(folder, "names.csv").items.tolist() == NAMES


def test_from_csv_reads_another_delimiter(folder: Path) -> None:
    (folder / "labels.csv").write_text("name;tags\n" + "".join(f"{name};a b\n" for name in NAMES))
    listed = ImageList.from_csv(folder, "labels.csv", delimiter=";")
    assert list(listed.inner_df.columns) == ["name", "tags"]
    data = ImageDataBunch.from_csv(folder, delimiter=";", label_delim=" ", bs=2, num_workers=0)
    assert data.classes == ["a", "b"]


def test_an_image_data_bunch_reads_labels_from_csv(folder: Path) -> None:
    (folder / "labels.csv").write_text("name,label\n" + "".join(f"{name},x {name[1]}\n" for name in NAMES))
    data = ImageDataBunch.from_csv(folder, valid_pct=0.2, bs=2, num_workers=0)
    assert set(data.classes) <= {f"x {i}" for i in range(10)}


# --- nonzero_of_scalars, and charts that need no repair -------------------------------------------------


def test_charts_of_a_classifier_are_drawn(folder: Path) -> None:
    learn = Learner(bunch(folder), model(), silent=True)
    learn.fit(1)
    interpretation = learn.interpret()
    interpretation.plot_top_losses(4, heatmap=True)
    interpretation.plot_confusion_matrix(normalize=True)
    interpretation.plot_multi_top_losses(2)
    learn.show_results(rows=2)


def test_hooks_and_float_labels_need_no_repair(folder: Path) -> None:
    listed = ImageList(paths(folder), path=folder).split_by_idx([0, 1])
    data = listed.label_from_func(lambda p: float(p.stem)).databunch(bs=2, num_workers=0)
    assert isinstance(data.train_ds.y, FloatList)
    learn = Learner(data, model(1), silent=True)
    with hook_output(learn.model[0]) as hook:
        learn.fit(1)
    assert hook.stored.shape[1] == 4
    assert isinstance(bunch(folder).train_ds.y, CategoryList)


# --- the module itself -----------------------------------------------------------------------------------


def test_applied_names_what_this_stack_needs() -> None:
    names = tuple(repair.__name__ for repair in compat.REPAIRS)
    assert set(compat.applied()) <= set(names)
    assert compat.applied() == tuple(name for name in names if name in compat.applied())
    assert all(repair.__doc__ for repair in compat.REPAIRS)
    if hasattr(torch, "func"):  # from 2.0 on
        assert "removed_solve" in compat.applied()
    if hasattr(np, "bitwise_count"):  # from 2.0 on
        assert {"ragged_arrays", "removed_numpy_aliases", "object_points"} <= set(compat.applied())


def test_import_star_gives_the_real_modules() -> None:
    names: dict[str, Any] = {}
    exec("from fastai.vision import *", names)
    assert names["torch"] is torch and names["np"] is np and names["pd"] is pd
    assert names["array"] is core.array
    assert names["Image"] is Image


def test_a_module_that_exports_the_name_is_lent_nothing() -> None:
    before = core.np
    with pytest.raises(ValueError, match=r"fastai\.core"):
        compat._lend(core, "np", object=object)
    assert core.np is before


def test_the_import_leaves_everything_else_alone() -> None:
    done = run("""
        import importlib, random
        import numpy as np, pandas as pd, torch
        import fastai.vision
        def everything():
            return [dict(vars(module)) for module in (torch, np, pd, torch.linalg, torch.serialization)]
        def draws():
            return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        before, drawn = everything(), draws()
        import memlist.compat as compat
        for old, new in zip(before, everything()):
            assert all(new[name] is old[name] for name in old)
            # An import of ours may be the first of a submodule.
            assert all(type(new[name]) is type(torch) for name in new.keys() - old.keys())
        assert drawn == draws()
        assert torch.load.__module__ == "torch.serialization"
        names, array = compat.applied(), fastai.core.array
        importlib.reload(compat)
        assert compat.applied() == names and fastai.core.array is array
        assert fastai.core.array([[1], [1, 2]]).tolist() == [[1], [1, 2]]
        print("good")
    """)
    assert done.stdout == "good\n", done.stderr


def test_without_pkg_resources_the_error_tells_what_to_do() -> None:
    done = run("""
        import sys
        sys.modules["pkg_resources"] = None
        try:
            import memlist.compat
        except ImportError as error:
            print(error)
    """)
    assert 'pip install "setuptools<80.9"' in done.stdout, done.stderr
