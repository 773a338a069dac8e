"""`without`: lists, splits, label lists and data bunches go on without what could not be loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar, Dict, List

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from conftest import photo
from fastai.basic_train import Learner
from fastai.data_block import MixedItemList
from fastai.vision import ImageList, get_transforms, open_image, pil2tensor, simple_cnn
from fastai.vision.gan import GANItemList
from fastai.vision.image import Image

import memlist as m

BAD = "dog/02.jpg", "cat/05.jpg", "cat/07.jpg"


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def bad(photos: Path) -> List[Path]:
    "Break three photographs; return their paths."
    for name in BAD:
        (photos / name).write_bytes(b"no photograph")
    return [photos / name for name in BAD]


def lines_of(load: Any) -> str:
    "Return the three lines that the error of `load` ends with."
    with pytest.raises(m.ImageLoadError) as caught:
        load(progress=False)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 images could not be loaded:" and lines[-4] == "" and "To leave them out:" in lines[-5]
    return "\n".join(lines[-3:])


def run(lines: str, **names: Any) -> Dict[str, Any]:
    exec(lines, names)
    return names


def files(il: Any) -> List[str]:
    return sorted("/".join(Path(item).parts[-2:]) for item in il.items)


def good(photos: Path) -> List[str]:
    return sorted({f"{path.parent.name}/{path.name}" for path in photos.glob("*/*.jpg")} - {*BAD})


def lists(photos: Path, cls: Any = m.MemoryImageList) -> Any:
    return cls.from_folder(photos, presort=True).split_by_rand_pct(0.3, seed=2).label_from_folder()


def bunch(photos: Path, **kwargs: Any) -> Any:
    return lists(photos).transform(get_transforms(), size=16).databunch(bs=4, num_workers=0, **kwargs)


def test_the_printed_lines_mend_a_list(photos: Path, bad: Any) -> None:
    il = m.MemoryImageList.from_folder(photos)
    made = run(lines_of(il.load_data), il=il)["il"]
    assert made is il and il.loaded and len(il) == 21 and files(il) == good(photos)
    data = il.split_by_rand_pct(0.3, seed=2).label_from_folder().transform(size=16).databunch(bs=4, num_workers=0)
    assert sum(len(y) for _, y in [*data.fix_dl, *data.valid_dl]) == 21


def test_the_printed_lines_mend_label_lists_and_a_split(photos: Path, bad: Any) -> None:
    split = m.MemoryImageList.from_folder(photos).split_by_rand_pct(0.3, seed=2)
    for one in (split, lists(photos)):
        made = run(lines_of(one.load_data), lists=one)["lists"]
        assert made is one and one.loaded and files(one.train) + files(one.valid) != []
        assert sorted(files(one.train) + files(one.valid)) == good(photos)
    for ll in (one.train, one.valid):
        assert [str(y) for y in ll.y] == [Path(path).parent.name for path in ll.x.items] and ll.y.x is ll.x


@pytest.mark.parametrize("batch_tfms", [False, True])
def test_the_printed_lines_mend_a_data_bunch_and_its_learner(photos: Path, bad: Any, batch_tfms: bool) -> None:
    data = bunch(photos, batch_tfms=batch_tfms)
    learn = Learner(data, simple_cnn((3, 4, data.c)))
    with pytest.raises(OSError):
        learn.fit(1)
    run(lines_of(data.load_data), data=data)
    learn.fit(1)
    assert sum(len(y) for _, y in data.fix_dl) == len(data.train_ds) and data.loaded
    assert files(data.train_ds.x) + files(data.valid_ds.x) != [] and len(data.train_ds) + len(data.valid_ds) == 21


def test_what_is_left_equals_what_stock_makes_of_it(photos: Path, bad: Any) -> None:
    from conftest import assert_same_bunches

    ours = bunch(photos)
    run(lines_of(ours.load_data), data=ours)
    stock = lists(photos, ImageList)
    for ll in (stock.train, stock.valid):
        ll.filter_by_func(lambda x, y: "/".join(Path(x).parts[-2:]) in BAD)
    assert_same_bunches(ours, stock.transform(get_transforms(), size=16).databunch(bs=4, num_workers=0))


def test_a_warning_says_what_will_happen_and_the_same_lines(photos: Path, bad: Any) -> None:
    data = bunch(photos)
    with pytest.warns(UserWarning, match="Training will fail at these images. To leave them out:") as warned:
        data.load_data(progress=False, on_error="warn")
    text = next(str(one.message) for one in warned if "could not be loaded" in str(one.message))
    run("\n".join(text.splitlines()[-3:]), data=data)
    assert data.loaded and len(data.train_ds) + len(data.valid_ds) == 21


def test_a_bad_target_goes_with_its_input(photos: Path, bad: Any) -> None:
    def masks() -> Any:
        fine = [path for path in sorted(photos.glob("*/*.jpg")) if path not in bad]
        il = m.MemorySegmentationItemList(fine[:12], path=photos).split_by_idx([0, 5])
        target = dict(zip(fine[:12], [*bad, *fine[12:]]))
        return il.label_from_func(target.__getitem__, classes=["a", "b"])

    ll = masks()
    run(lines_of(ll.load_data), lists=ll)
    assert len(ll.train) + len(ll.valid) == 9 == len(ll.train.y) + len(ll.valid.y)
    assert not {*ll.train.y.items, *ll.valid.y.items} & {*bad}


def test_targets_of_noise_are_left_out(photos: Path, bad: Any) -> None:
    noise = GANItemList.from_folder(photos, noise_sz=4).split_none()
    ll = noise.label_from_func(lambda o: o, label_cls=m.MemoryImageLabelList)
    run(lines_of(ll.load_data), lists=ll)
    assert len(ll.train) == len(ll.train.x) == len(ll.train.y) == 21 and ll.loaded


def test_a_mixed_list_keeps_its_parts_together(photos: Path, bad: Any) -> None:
    fine = [path for path in sorted(photos.glob("*/*.jpg")) if path not in bad][:20]
    one = m.MemoryImageList([*bad[:1], *fine[:9]], path=photos)
    two = m.MemoryImageList([*fine[10:18], *bad[1:]], path=photos)
    ll = MixedItemList([one, two], path=photos).split_none().label_from_func(lambda o: 0)
    run(lines_of(ll.load_data), lists=ll)
    parts = ll.train.x.item_lists
    assert [[*part.items] for part in parts] == [fine[:7], fine[11:18]] and len(ll.train) == 7 and ll.loaded


def test_a_table_goes_with_its_rows(photos: Path, bad: Any) -> None:
    names = sorted(f"{path.parent.name}/{path.name}" for path in photos.glob("*/*.jpg"))
    table = pd.DataFrame({"name": names, "label": [f"of {name}" for name in names]})
    il = m.MemoryImageList.from_df(table, photos)
    run(lines_of(il.load_data), il=il)
    ll = il.split_none().label_from_df("label")
    assert [str(y) for y in ll.train.y] == [f"of {name}" for name in files(il)] and len(il) == 21


class Own(m.MemoryImageList):
    opened: ClassVar[List[Any]] = []

    def open(self, fn: Any) -> Any:
        self.opened.append(fn)
        return Image(pil2tensor(PIL.Image.open(fn).convert("L"), np.float32).div_(255))


def test_images_of_a_users_open_stay_kept(photos: Path, bad: Any) -> None:
    il = Own.from_folder(photos, presort=True)
    run(lines_of(il.load_data), il=il)
    Own.opened.clear()
    assert il.loaded and len(il) == 21 and [il[i] for i in range(21)] and not Own.opened
    assert len(il[2:5]) == 3 and il[2:5].loaded and il[2:5][0].data.equal(il[2].data) and not Own.opened


def test_a_users_get_that_opens_other_files(photos: Path, bad: Any) -> None:
    class Pairs(m.MemoryImageList):
        def get(self, i: int) -> Any:
            item = str(self.items[i])
            return self.open(photos / item), self.open(photos / item.replace("cat", "dog").replace("5", "4"))

        def open(self, fn: Any) -> Any:
            return open_image(fn)

    il = Pairs(np.array(["cat/01.jpg", "cat/05.jpg", "cat/15.jpg"]), path=photos)
    with pytest.raises(m.ImageLoadError):
        il.load_data(progress=False)
    with pytest.raises(m.ImageLoadError) as caught:
        il.load_data(progress=False)
    il.without(caught.value)
    assert "cat/05.jpg" not in il.items
    # An item is known by its own name, too, although `get` opens other files.
    il = Pairs(np.array(["cat/15.jpg", "dog/14.jpg"]), path=photos)
    il.load_data(progress=False)
    assert list(il.without("cat/15.jpg").items) == ["dog/14.jpg"]


def test_nothing_changes_where_nothing_is_bad(photos: Path) -> None:
    data = bunch(photos)
    items = data.train_ds.x.items
    elsewhere = m.ImageLoadError([("nowhere.png", "broken")])
    assert data.without([]) is data and data.without(elsewhere) is data and data.train_ds.x.items is items
    with pytest.raises(TypeError, match="holds no in-memory list"):
        lists(photos, ImageList).without([])


def test_a_path_that_is_misspelt_or_of_other_data(photos: Path, bad: Any) -> None:
    data = bunch(photos)
    for wrong in ("nn/a/typo.png", [bad[0], Path("nn/a/typo.png")]):
        with pytest.raises(ValueError, match=r"MemoryImageList over .*: it does not open 'nn/a/typo.png', which"):
            data.without(wrong)
    assert len(data.train_ds) + len(data.valid_ds) == 24
    error = m.ImageLoadError([("elsewhere.png", "broken"), *((path, "broken") for path in bad)])
    data.without(error)
    assert len(data.train_ds) + len(data.valid_ds) == 21


def test_a_list_is_not_emptied(photos: Path, bad: Any) -> None:
    ll = m.MemoryImageList.from_folder(photos, presort=True).split_by_files([path.name for path in bad])
    ll = ll.label_from_folder()
    with pytest.raises(ValueError, match=r"MemoryImageList over .*: none of its 3 items would be left. Please repair"):
        ll.without(bad)
    assert len(ll.valid) == 3 and len(ll.train) == 21


def test_sizes_follow_the_items(tmp_path: Path) -> None:
    for i in range(4):
        photo(i, 20 + i, 30).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"")
    il = m.MemoryImageList.from_folder(tmp_path, presort=True)
    assert il[2].size == (22, 30) and il.sizes[2] == (22, 30)
    il.without([tmp_path / "1.png"])
    assert not dict(il.sizes) and il[1].size == (22, 30) and il.sizes[1] == (22, 30)
