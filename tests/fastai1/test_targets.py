"""Labels, numbers and noise that are collated at once equal what stock collates, or are left to stock."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import pytest
import torch
from batch_helpers import assert_same_epochs, bunches, generators
from conftest import assert_same_data, seed
from fastai import data_block
from fastai.core import Category, FloatItem, MultiCategory
from fastai.data_block import CategoryList, CategoryListBase, EmptyLabelList, FloatList, ItemList, MultiCategoryList
from fastai.torch_core import data_collate
from fastai.vision import ImageList, bb_pad_collate, get_transforms, jitter, noop
from fastai.vision import gan as vision_gan
from fastai.vision.gan import GANItemList, NoisyItem
from torch.utils.data._utils import collate as torch_collate

import memlist as m
from memlist.fastai1 import collate, patches, targets
from memlist.fastai1.collate import positions
from memlist.fastai1.targets import collated, noise_rows

N = 40
LETTERS = "abcdefg"


def labelled(cls: type, label: Callable[[int], Any], **kwargs: Any) -> Any:
    "Return the labels of N items, processed as fastai does."
    return ItemList(list(range(N))).split_none().label_from_func(label, label_cls=cls, **kwargs).train.y


def one(i: int) -> str:
    return LETTERS[i % 5]


def several(i: int) -> List[str]:
    return list(LETTERS[i % 5 : i % 5 + i % 3])


def lists() -> Dict[str, Any]:
    unknown = labelled(CategoryList, one, classes=list(LETTERS[1:5]))  # items are objects where one has no class
    assert unknown.items.dtype == object
    return {
        "one label": labelled(CategoryList, one),
        "one label, a class unknown": unknown,
        "one label, a tuple of classes": labelled(CategoryList, one, classes=tuple(LETTERS)),
        "one label, an array of classes": labelled(CategoryList, one, classes=np.array(list(LETTERS))),
        "labels": labelled(MultiCategoryList, several),
        "labels, equally many": labelled(MultiCategoryList, lambda i: [one(i), "g"]),
        "labels, one each": labelled(MultiCategoryList, lambda i: [one(i)]),
        "numbers": labelled(FloatList, lambda i: i / 7),
        "numbers, several": labelled(FloatList, lambda i: [i / 7, -i, 1e30]),
    }


def stocks(il: Any, indices: Sequence[int]) -> Any:
    return data_collate([0 if item is None else item for item in (il[i] for i in indices)])


def assert_at_once(il: Any, indices: Sequence[int]) -> None:
    ours, stock = collated(il, np.array(indices)), stocks(il, indices)
    assert ours is not None
    assert_same_data(ours, stock)
    assert ours.stride() == stock.stride() and ours.storage_offset() == 0
    ours.fill_(1)  # it has memory of its own
    assert_same_data(stocks(il, indices), stock)


@pytest.mark.parametrize("kind", list(lists()))
def test_labels_and_numbers_equal_stock(kind: str) -> None:
    il = lists()[kind]
    for indices in (list(range(len(il))), [3], [7, 7, 1], [-1, 5]):
        assert_at_once(il, indices)
    assert_at_once(il[list(range(0, 20, 3))], [2, 0])


def test_changes_show_in_the_next_batch() -> None:
    il, indices = labelled(CategoryList, one), [0, 1, 2]
    il.items[1] = 4
    assert_at_once(il, indices)
    il.items = il.items[::-1].copy()
    assert_at_once(il, indices)
    il.classes = [*il.classes, "more"]
    assert_at_once(il, indices)
    il = labelled(MultiCategoryList, several)
    il.items[1].append(0)
    assert_at_once(il, indices)
    il.classes.append("more")
    assert_at_once(il, indices)
    il = labelled(FloatList, lambda i: i / 7)
    il.items[2] = -5
    assert_at_once(il, indices)


def other_class(**own: Any) -> Callable[[Any], None]:
    def change(il: Any) -> None:
        il.__class__ = type("Own", (type(il),), own)

    return change


def setting(name: str, value: Any) -> Callable[[Any], None]:
    return lambda il: setattr(il, name, value(il))


CHANGES: Dict[str, Tuple[str, Callable[[Any], None]]] = {
    "its own get": ("one label", other_class(get=lambda self, i: 3)),
    "its own __getitem__": ("one label", other_class(__getitem__=lambda self, i: 3)),
    "its own __getattribute__": (
        "one label",
        other_class(__getattribute__=lambda self, name: object.__getattribute__(self, name)),
    ),
    "classes of its class": ("one label", other_class(classes=property(lambda self: ["z"] * 9))),
    "a get set on the list": ("one label", setting("get", lambda il: lambda i: 3)),
    "items as a list": ("one label", setting("items", lambda il: il.items.tolist())),
    "items of int32": ("one label", setting("items", lambda il: il.items.astype(np.int32))),
    "items that are text": ("one label", setting("items", lambda il: il.items.astype(str).astype(object))),
    "an item without a class": (
        "one label",
        setting("items", lambda il: np.array([None, *il.items[1:].tolist()], object)),
    ),
    "classes by name": ("one label", setting("classes", lambda il: dict(enumerate(il.classes)))),
    "one-hot": ("labels", setting("one_hot", lambda il: True)),
    "its own number of classes": ("labels", other_class(c=property(lambda self: 12))),
    "labels that are tuples": (
        "labels",
        lambda il: [il.items.__setitem__(i, tuple(item)) for i, item in enumerate(il.items)] and None,
    ),
    "the log": ("numbers", setting("log", lambda il: True)),
    "items of float64": ("numbers", setting("items", lambda il: il.items.astype(np.float64))),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_is_not_plainly_fastais_is_left_to_stock(name: str) -> None:
    kind, change = CHANGES[name]
    il = lists()[kind]
    assert collated(il, np.array([0, 1])) is not None
    change(il)
    assert collated(il, np.array([0, 1])) is None


def test_what_stock_raises_for_is_left_to_stock() -> None:
    il = labelled(CategoryList, one)
    assert collated(il, np.array([0, N])) is None
    il.classes = il.classes[:2]
    assert collated(il, np.array([0, 1])) is not None
    assert collated(il, np.array([0, 4])) is None
    il = labelled(MultiCategoryList, several)
    il.items[0] = [99]
    assert collated(il, np.array([0])) is None


def test_only_ints_are_positions_and_what_is_out_of_range_is_left_to_stock() -> None:
    assert positions([torch.tensor(1), 2]) is None  # type: ignore[list-item]
    assert positions([np.int64(1)]) is None  # type: ignore[list-item]
    assert positions([True]) is None
    assert positions([1, 1 << 70]) is None
    found = positions([2, -1])
    assert found is not None and found.tolist() == [2, -1]


def test_other_lists_are_left_to_stock() -> None:
    assert collated(labelled(EmptyLabelList, lambda i: 0.0), np.array([0])) is None
    assert collated(ItemList(list(range(N))), np.array([0])) is None


def test_a_reconstruct_of_a_users_own_does_not_matter() -> None:
    il = labelled(CategoryList, one)
    other_class(reconstruct=lambda self, t: "mine")(il)
    assert_at_once(il, [0, 1])


def test_a_function_registered_with_torch_is_called(monkeypatch: Any) -> None:
    known = getattr(torch_collate, "default_collate_fn_map", None)
    if known is None:
        pytest.skip("nothing can be registered with torch before version 2")
    il, gan = labelled(CategoryList, one), GANItemList(list(range(N)))
    monkeypatch.setitem(known, np.int64, lambda batch, *, collate_fn_map=None: "mine")
    assert collated(il, np.array([0, 1])) is None and noise_rows(gan, 2) is None
    monkeypatch.undo()
    assert collated(il, np.array([0, 1])) is not None and noise_rows(gan, 2) is not None


# -- noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 16, 17, 100, 128])
@pytest.mark.parametrize("cls", [GANItemList, m.MemoryGANItemList])
def test_rows_of_noise_equal_stock(cls: Any, size: int) -> None:
    il = cls(list(range(N)), noise_sz=size)
    seed(3)
    stock, after = stocks(il, range(5)), generators()
    seed(3)
    found = noise_rows(il, 5)
    assert found is not None
    for row in found[1]:
        row.normal_()
    assert_same_data(found[0], stock)
    assert found[0].stride() == stock.stride() and generators() == after


class OwnNoise(m.MemoryGANItemList):
    def get(self, i: Any) -> Any:
        return 3


@pytest.mark.parametrize(
    "change",
    [other_class(get=lambda self, i: 3), setting("get", lambda il: noop), setting("noise_sz", lambda il: 3.0)],
    ids=["its own get", "a get set on the list", "a size that is no int"],
)
@pytest.mark.parametrize("cls", [GANItemList, m.MemoryGANItemList])
def test_other_noise_is_left_to_stock(cls: Any, change: Callable[[Any], None]) -> None:
    il = cls(list(range(N)), noise_sz=3)
    assert noise_rows(il, 2) is not None
    change(il)
    assert noise_rows(il, 2) is None


def test_lists_without_noise_have_no_rows() -> None:
    for il in (OwnNoise(list(range(N))), ImageList(list(range(N))), labelled(CategoryList, one)):
        assert noise_rows(il, 2) is None


# -- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["one label", "labels", "numbers"])
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_with_labels_equal_stock(photos: Any, label: str, workers: int, monkeypatch: Any) -> None:
    cls, function = {
        "one label": (CategoryList, lambda path: path.parent.name),
        "labels": (MultiCategoryList, lambda path: list(LETTERS[: 1 + int(path.stem) % 3])),
        "numbers": (FloatList, lambda path: int(path.stem) / 7),
    }[label]
    made: List[Any] = []
    if workers == 0:
        monkeypatch.setattr(collate, "collated", lambda *given: made.append(collated(*given)) or made[-1])

    def lists(images: Any) -> Callable[[], Any]:
        def build() -> Any:
            split = images.from_folder(photos).split_by_rand_pct(0.3, seed=1)
            return split.label_from_func(function, label_cls=cls).transform(get_transforms(), size=24)

        return build

    ours, stock = bunches(lists(m.MemoryImageList), lists(ImageList), num_workers=workers)
    assert_same_epochs(ours, stock)
    assert workers or (made and all(one is not None for one in made))


def test_a_loader_with_its_own_collate_function_gets_items(photos: Any) -> None:
    seen: List[Any] = []

    def own(samples: Any) -> Any:
        seen.append(type(samples[0][1]))
        return data_collate(samples)

    data = m.MemoryImageList.from_folder(photos).split_none().label_from_folder().transform(get_transforms(), size=24)
    with pytest.warns(UserWarning, match="collate_fn"):
        list(data.databunch(bs=4, num_workers=0, batch_tfms=True, collate_fn=own).train_dl)
    assert set(seen) == {Category}


@pytest.mark.parametrize("change", ["targets are transformed", "boxes are collated"])
def test_what_stock_raises_for_labels_is_raised(photos: Any, change: str) -> None:
    raised: List[Any] = []
    for cls in (m.MemoryImageList, ImageList):
        lists = cls.from_folder(photos).split_none().label_from_folder().transform(get_transforms(), size=24)
        given = {"batch_tfms": True} if cls is m.MemoryImageList else {}
        collate_fn = bb_pad_collate if change == "boxes are collated" else data_collate
        data = lists.databunch(bs=4, num_workers=0, collate_fn=collate_fn, no_check=True, **given)
        data.train_ds.tfm_y = change == "targets are transformed"
        with pytest.raises(Exception) as caught:
            list(data.train_dl)
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]


REPLACED = [
    (CategoryList, "get"),
    (MultiCategoryList, "get"),
    (FloatList, "get"),
    (ItemList, "get"),
    (CategoryListBase, "c"),
    (Category, "__init__"),
    (MultiCategory, "__init__"),
    (FloatItem, "__init__"),
    (data_block, "one_hot"),
    (data_block, "Category"),
    (data_block, "FloatItem"),
    (GANItemList, "get"),
    (NoisyItem, "__init__"),
    (NoisyItem, "apply_tfms"),
    (vision_gan, "NoisyItem"),
    (vision_gan, "listify"),
]


@pytest.mark.parametrize("holder, name", REPLACED, ids=[f"{one.__name__}.{name}" for one, name in REPLACED])
def test_what_they_take_the_place_of_is_watched(holder: Any, name: str, monkeypatch: Any) -> None:
    assert patches.replaced() == ""
    monkeypatch.setattr(holder, name, lambda *given, **named: None)
    assert patches.replaced() == f"{holder.__name__}.{name}"


def gan(cls: Any, folder: Any, tfms: Any, size: Any = 24, **kwargs: Any) -> Callable[[], Any]:
    def make() -> Any:
        return (
            cls.from_folder(folder, noise_sz=20)
            .split_by_rand_pct(0.3, seed=1)
            .label_from_func(noop, **kwargs)
            .transform(tfms, size=size, tfm_y=True)
        )

    return make


@pytest.mark.parametrize("tfms", ["default", "torch draws, too", "listed twice", "none"])
@pytest.mark.parametrize("workers", [0, 1])
def test_noise_keeps_the_order_of_draws(photos: Any, tfms: str, workers: int, monkeypatch: Any) -> None:
    "Noise resolves transforms in the order of their list, and targets draw from torch between two rows of noise."
    made: List[Any] = []
    flip, *others = get_transforms(max_rotate=30.0)[0]
    chosen = {
        "default": [flip, *others],
        "torch draws, too": [jitter(magnitude=0.02, p=0.5), *others[::-1], flip],
        "listed twice": [flip, others[0], flip],
        "none": [],
    }[tfms]
    if workers == 0:
        monkeypatch.setattr(collate, "noise_rows", lambda *given: made.append(noise_rows(*given)) or made[-1])
    ours, stock = bunches(
        gan(m.MemoryGANItemList, photos, (chosen, chosen)),
        gan(GANItemList, photos, (chosen, chosen)),
        normalise=False,
        num_workers=workers,
    )
    found = []
    for data in (ours, stock):
        data.normalize([torch.tensor([0.5] * 3)] * 2, do_x=False, do_y=True)
        seed(4)
        found.append(([*data.train_dl, *data.valid_dl], generators()))
    assert all(made) and (workers or len(made) == len(found[0][0]))
    for mine, theirs in zip(*(one[0] for one in found)):
        assert_same_data(mine[0], theirs[0])
        assert mine[1].shape == theirs[1].shape and float((mine[1] - theirs[1]).abs().mean()) < 1e-4
    assert found[0][1] == found[1][1]
    assert len(found[0][0]) == len(found[1][0]) > 1


def test_the_front_end_for_torchvision_changes_nothing() -> None:
    "It registers a function with torch's collate function."
    import memlist.torchvision  # noqa: F401

    assert targets._torch_collates()
