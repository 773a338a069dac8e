"""DataLoaders with images in memory: verbs, workers, changes in place, what is not known, and bad input."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Opens, photo, seed
from fastai.vision import augment
from fastai.vision import core as vision_core
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    DataLoaders,
    FlipItem,
    ImageBlock,
    ImageDataLoaders,
    Learner,
    MaskBlock,
    PartialDL,
    PILImage,
    RandomResizedCrop,
    Resize,
    TfmdDL,
    Transform,
    WeightedDL,
    aug_transforms,
)
from fastai2_pipelines import epoch, label, mask, pictures, same

from memlist import CacheInfo, ImageLoadError, in_memory
from memlist.fastai2 import DataWait, MemoryImageBlock, MemoryMaskBlock
from memlist.fastai2.loader import BatchLoader

Make = Callable[..., DataLoaders]


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    return pictures(tmp_path / "images", 10)


@pytest.fixture
def make(tmp_path: Path, files: List[Path]) -> Make:
    "Return a function that makes DataLoaders, always with the same split and seeds."

    def made(*tfms: Any, workers: int = 0, **given: Any) -> DataLoaders:
        seed(5)
        chosen = list(tfms) or [RandomResizedCrop(24), FlipItem()]
        return ImageDataLoaders.from_path_func(
            tmp_path, files, label, seed=1, bs=3, item_tfms=chosen, num_workers=workers, device="cpu", **given
        )

    return made


@pytest.fixture
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_verbs(make: Make, opens: Opens, no_warnings: None) -> None:
    dls = in_memory(make())
    assert not dls.loaded and isinstance(dls.train, BatchLoader)
    before = random.getstate()
    assert dls.load_data(progress=False) is dls
    assert random.getstate() == before
    assert dls.loaded and dls.cache_info()[:2] == (10, 10)
    opens.take()
    epoch(dls)
    assert not opens.take()
    info: CacheInfo = dls.cache_info()
    assert (info.hits, info.misses) == (8, 0)  # of 8 to train on, 2 are dropped; 2 to validate
    assert dls.purge() > 0 and dls.cache_info()[0] == 0
    stock = make()
    epoch(stock)
    same(epoch(dls), epoch(stock))
    assert in_memory(dls) is dls and type(dls.train) is type(in_memory(dls).train)


def test_all_loaders_over_one_path_share_a_store(make: Make, opens: Opens) -> None:
    first = in_memory(make()).load_data(progress=False)
    opens.take()
    second = in_memory(make(Resize(10)))
    opens.take()
    epoch(second)
    assert not opens.take() and first.cache_info()[2:4] == second.cache_info()[2:4]


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_batches_with_workers(make: Make, workers: int, no_warnings: None) -> None:
    tfms = aug_transforms(size=16)
    stock = make(Resize(40), workers=workers, batch_tfms=tfms)
    ours = in_memory(make(Resize(40), workers=workers, batch_tfms=tfms))
    for start in (0, 1):
        same(epoch(ours, start), epoch(stock, start))
    assert ours.cache_info().hits > 0  # what one worker has decoded is there for all


PROGRAM = """
import multiprocessing, random, sys, torch
from fastai.vision.all import *
from memlist import in_memory
def label(path): return "even" if int(path.stem) % 2 == 0 else "odd"
def batches(wrap):
    random.seed(3); torch.manual_seed(3)
    files = get_image_files(sys.argv[1]).sorted()
    dls = wrap(ImageDataLoaders.from_path_func(".", files, label, seed=1, bs=3, item_tfms=RandomResizedCrop(20),
        num_workers=2, device="cpu"))
    return list(dls.train), dls  # one epoch: each worker imports fastai anew
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    (stock, _), (ours, dls) = batches(noop), batches(lambda dls: in_memory(dls).load_data(progress=False))
    assert len(ours) == len(stock) > 0
    assert all(torch.equal(a, b) and type(a) is type(b) for s, o in zip(stock, ours) for a, b in zip(s, o))
    assert dls.cache_info().hits > 0 == dls.cache_info().misses
    print("equal")
"""


def run(program: str, *arguments: Any, cwd: Path) -> str:
    "Run a program, which must succeed; return what it prints."
    (cwd / "program.py").write_text(textwrap.dedent(program))
    command = [sys.executable, "-W", "ignore", "program.py", *map(str, arguments)]
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, timeout=240, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_spawned_workers(files: List[Path], tmp_path: Path) -> None:
    assert run(PROGRAM, files[0].parent, cwd=tmp_path) == "equal\n"


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))


ABSENT = """
import sys, importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "memlist": raise ImportError("memlist is not installed here")
sys.meta_path.insert(0, Absent())
import torch
from fastai.vision.all import *
import fastai2_getters
learn = load_learner(sys.argv[1])
learn.remove_cbs(ProgressCallback)
torch.save(learn.predict(Path(sys.argv[2]))[2], "prediction.pt")
assert type(learn.dls.train) is TfmdDL, type(learn.dls.train)
"""


@pytest.mark.parametrize("block", [False, True])
def test_an_exported_learner_loads_without_memlist(
    make: Make, files: List[Path], tmp_path: Path, block: bool, monkeypatch: Any
) -> None:
    (tmp_path / "fastai2_getters.py").write_text("def label(path): return 'even' if int(path.stem) % 2 == 0 else 'odd'")
    monkeypatch.syspath_prepend(str(tmp_path))
    import fastai2_getters

    images = (MemoryImageBlock if block else ImageBlock)()
    source = DataBlock((images, CategoryBlock), get_y=fastai2_getters.label, item_tfms=Resize(12))
    dls = source.dataloaders(files, bs=2, num_workers=0, device="cpu", path=tmp_path)
    learn = Learner(dls if block else in_memory(dls), net(), loss_func=torch.nn.CrossEntropyLoss(), cbs=DataWait())
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        expected = learn.predict(files[3])[2]
    learn.export("learner.pkl")
    run(ABSENT, tmp_path / "learner.pkl", files[3], cwd=tmp_path)
    assert torch.equal(torch.load(tmp_path / "prediction.pt"), expected)


def test_blocks(files: List[Path], opens: Opens, no_warnings: None) -> None:
    def of(image: Any, masks: Any) -> DataLoaders:
        seed(2)
        return DataBlock((image, masks), get_y=mask, item_tfms=[Resize(20), FlipItem()]).dataloaders(
            files, bs=2, num_workers=0, device="cpu"
        )

    stock, ours = of(ImageBlock, MaskBlock), of(MemoryImageBlock, MemoryMaskBlock)
    for start in (0, 1):
        same(epoch(ours, start), epoch(stock, start))
    ours.load_data(progress=False)
    assert ours.loaded and ours.cache_info().total == 20
    opens.take()
    epoch(ours)
    assert not opens.take()


def test_learners_do_all_they_do(make: Make, files: List[Path], no_warnings: None) -> None:
    results = []
    for wrap in (lambda dls: dls, in_memory):
        dls = wrap(make(Resize(30), batch_tfms=aug_transforms(size=16)))
        seed(1)
        learn = Learner(dls, net(), loss_func=torch.nn.CrossEntropyLoss())
        with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seed(2)
            learn.fit(2)
            learn.show_results()
            learn.dls.show_batch()
            found = [learn.validate(), learn.get_preds(), learn.tta(n=2), learn.predict(files[0])[2]]
            found += [learn.get_preds(dl=learn.dls.test_dl(files[:5]))[0], learn.predict(str(files[1]))[2]]
            found += [learn.predict(np.asarray(photo(3)))[2]]
        results.append([found, random.getstate(), torch.get_rng_state()])
    same(results[1], results[0])


def test_a_file_that_changes_between_two_predictions(make: Make, files: List[Path], tmp_path: Path) -> None:
    learn = Learner(in_memory(make(Resize(12))), net(), loss_func=torch.nn.CrossEntropyLoss())
    stock = Learner(make(Resize(12)), learn.model, loss_func=torch.nn.CrossEntropyLoss())
    upload = tmp_path / "upload.png"
    with learn.no_bar(), stock.no_bar():
        for i in (4, 9):
            photo(i, 40, 30).save(upload)
            same(learn.predict(upload)[2], stock.predict(upload)[2])


# -- changes in place -----------------------------------------------------------------------------------------------


def smaller(dls: Any) -> None:
    dls.train.after_item.random_resized_crop.size = (11, 13)


def another(dls: Any) -> None:
    dls.train.after_item.add(Resize(9))


def fewer(dls: Any) -> None:
    dls.train.after_item.fs.pop(0)


def own_draws(dls: Any) -> None:
    def before_call(b: Any, split_idx: Any) -> None:
        dls.train.after_item.flip_item.do = b[0].getpixel((0, 0))[0] > 128  # only an image has pixels

    dls.train.after_item.flip_item.before_call = before_call


def device(dls: Any) -> None:
    dls.device = torch.device("cpu")


def always(dls: Any) -> None:
    dls.train.after_item.flip_item.p = 1.0


@pytest.mark.parametrize("change", [smaller, another, fewer, own_draws, device, always])
def test_changes_between_two_batches(make: Make, change: Callable[[Any], None]) -> None:
    made = []
    for wrap in (in_memory, lambda dls: dls):
        dls = wrap(make())
        seed(3)
        batches = iter(dls.train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [next(batches)]
            change(dls)
            try:
                found += [*batches, *dls.train, *dls.valid]
            except Exception as error:
                found.append(str(error))
        made.append([found, random.getstate()])
    same(*made)


def test_a_purge_in_the_middle_of_an_epoch(make: Make, no_warnings: None) -> None:
    ours, stock = in_memory(make()).load_data(progress=False), make()
    seed(1)
    batches, found = iter(ours.train), []
    for batch in batches:
        found.append(batch)
        ours.purge()
    seed(1)
    same(found, list(stock.train))


def test_a_purge_while_a_batch_is_made(make: Make, monkeypatch: Any) -> None:
    from memlist.fastai2 import collate

    ours, stock = in_memory(make()).load_data(progress=False), make()
    real = collate.render

    def purging(*given: Any, **named: Any) -> None:
        ours.purge()
        real(*given, **named)

    monkeypatch.setattr(collate, "render", purging)
    same(epoch(ours), epoch(stock))


# -- what is not known ----------------------------------------------------------------------------------------------


class Darker(Transform):
    "A transform of one's own."

    order = 2

    def encodes(self, x: PILImage) -> Any:
        return PILImage(x.point(lambda v: v // 2))


class Bigger(Resize):
    "A known transform, of which a method is one's own."

    def before_call(self, b: Any, split_idx: Any) -> None:
        self.pcts = (0.0, random.random())


@pytest.mark.parametrize(("tfms", "named"), [([Resize(20), Darker()], "Darker"), ([Bigger(20)], "Bigger")])
def test_transforms_of_ones_own_get_images_from_memory(make: Make, tfms: List[Any], named: str, opens: Opens) -> None:
    ours, stock = in_memory(make(*tfms)).load_data(progress=False), make(*tfms)
    opens.take()
    with pytest.warns(UserWarning, match=f"item by item.*{named}") as said:
        found = [epoch(ours, start) for start in (0, 1)]
    assert len(said) == 1 and said[0].filename.endswith("fastai2_pipelines.py")
    assert not opens.take()
    same(found, [epoch(stock, start) for start in (0, 1)])


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (PIL.Image.Image, "_do_crop_pad"),
        (PIL.Image.Image, "flip_lr"),
        (PIL.Image.Image, "resize"),
        (augment.RandTransform, "__call__"),
        (vision_core, "image2tensor"),
        (vision_core, "load_image"),
        (TfmdDL, "create_item"),
        (TfmdDL, "do_batch"),
    ],
)
def test_replaced_functions_of_fastai(make: Make, monkeypatch: Any, owner: Any, name: str) -> None:
    ours, stock, real, called = in_memory(make()), make(), getattr(owner, name), []
    same(epoch(ours), epoch(stock))

    def replaced(*given: Any, **named: Any) -> Any:
        called.append(name)
        return real(*given, **named)

    monkeypatch.setattr(owner, name, replaced)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = epoch(ours, 1)
        n = len(called)
        same(mine, epoch(stock, 1))
    assert n == len(called) / 2 > 0


def test_an_encoder_that_is_added_later(make: Make) -> None:
    class PILOwn(PILImage):
        pass

    ours, stock = in_memory(make(Resize(20), img_cls=PILOwn)), make(Resize(20), img_cls=PILOwn)
    same(epoch(ours), epoch(stock))

    @Resize
    def encodes(self: Any, x: PILOwn) -> Any:
        return x.resize((7, 7))

    with pytest.warns(UserWarning, match="Resize"):
        same(epoch(ours, 1), epoch(stock, 1))


def test_images_that_people_make_are_left_alone(make: Make, no_warnings: None) -> None:
    class PILTurned(PILImage):
        @classmethod
        def create(cls, fn: Any, **kwargs: Any) -> Any:
            return cls(PIL.Image.open(fn).convert("RGB").rotate(90))

    dls = make(Resize(20), img_cls=PILTurned)
    kind = type(dls.train)
    with pytest.warns(UserWarning, match="nothing is kept in memory"):
        assert in_memory(dls) is dls
    assert type(dls.train) is kind
    same(epoch(dls), epoch(make(Resize(20), img_cls=PILTurned)))
    with pytest.raises(TypeError, match="no images in memory"):
        dls.load_data()
    with pytest.raises(TypeError, match="create"):
        MemoryImageBlock(PILTurned)


def test_arrays_are_made_by_fastai(no_warnings: None) -> None:
    arrays = [np.asarray(photo(i, 30 + i, 40)) for i in range(8)]

    def of(wrap: Any) -> Any:
        seed(1)
        source = DataBlock((ImageBlock, CategoryBlock), get_y=lambda x: len(x) % 2, item_tfms=Resize(20))
        return epoch(wrap(source.dataloaders(arrays, bs=2, num_workers=0, device="cpu")))

    same(of(in_memory), of(lambda dls: dls))


@pytest.mark.parametrize("kind", ["weighted", "partial", "own"])
def test_other_classes_of_loaders(files: List[Path], kind: str) -> None:
    class Own(TfmdDL):
        def create_item(self, s: Any) -> Any:
            x, y = super().create_item(s)
            return x, y * 0

    def of(wrap: Any) -> Any:
        seed(1)
        source = DataBlock((ImageBlock, CategoryBlock), get_y=label, item_tfms=RandomResizedCrop(20))
        sets, common = source.datasets(files), {"bs": 2, "num_workers": 0, "device": "cpu"}
        common["after_item"] = source.item_tfms
        if kind == "weighted":
            dls = sets.weighted_dataloaders(np.arange(1, 9), **common)
        elif kind == "partial":
            dls = sets.partial_dataloaders(4, **common)
        else:
            dls = sets.dataloaders(dl_type=Own, **common)
        return wrap(dls)

    ours, stock = of(in_memory), of(lambda dls: dls)
    assert isinstance(ours.train, {"weighted": WeightedDL, "partial": PartialDL, "own": Own}[kind])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mine = epoch(ours)
    assert any("create_item" in str(one.message) for one in said) == (kind == "own")
    same(mine, epoch(stock))


# -- budgets and files ----------------------------------------------------------------------------------------------


def test_a_budget(make: Make) -> None:
    with pytest.warns(UserWarning, match="there is no room for all") as said:
        ours = in_memory(make(), max_ram=20_000)
        stock = make()
        same([epoch(ours, start) for start in (0, 1)], [epoch(stock, start) for start in (0, 1)])
    assert len(said) == 1 and 0 < ours.cache_info().cached < 10


def test_a_cache_file(make: Make, tmp_path: Path, opens: Opens) -> None:
    file = tmp_path / "pets.cache"
    in_memory(make(), cache_file=file).load_data(progress=False)
    opens.take()
    again = in_memory(make(), cache_file=file)
    opens.take()
    same(epoch(again), epoch(make()))
    assert again.cache_info().misses == 0


def test_reduced_images(make: Make) -> None:
    with pytest.warns(UserWarning, match="max_size=16 images are kept"):
        dls = in_memory(make(Resize(10)), max_size=16).load_data(progress=False)
    assert dls.train.one_batch()[0].shape[-2:] == (10, 10)
    assert min(dls.train_ds[0][0].size) == 16


def test_files_that_are_no_images(make: Make, files: List[Path]) -> None:
    stock, ours = make(), in_memory(make())
    files[4].write_bytes(b"no image")
    with pytest.raises(ImageLoadError, match=files[4].name):
        ours.load_data(progress=False)
    same(epoch(ours), epoch(stock))
    files[4].unlink()
    same(epoch(ours, 1), epoch(stock, 1))


def test_load_data_lists_a_file_that_is_gone(make: Make, files: List[Path]) -> None:
    older, ours = in_memory(make()).load_data(progress=False), in_memory(make())
    files[4].unlink()
    epoch(older.load_data(progress=False))  # it has looked at the file, and goes on
    with pytest.raises(ImageLoadError, match=rf"1 image could .*\n.*{files[4].name}: FileNotFoundError"):
        ours.load_data(progress=False)
    assert not ours.loaded
    raised = []
    for dataset in (ours.train_ds, ours.valid_ds):
        for i in range(len(dataset)):
            try:
                dataset[i]
            except FileNotFoundError:
                raised.append(i)
    assert len(raised) == 1
    with pytest.raises(ImageLoadError) as caught:
        ours.load_data(progress=False)
    assert ours.without(caught.value).loaded


def test_the_rest_of_an_image_is_kept(make: Make, files: List[Path]) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    photo(2).save(files[0], format="JPEG" if files[0].suffix == ".jpg" else "PNG", exif=exif, dpi=(72, 72))
    stock, ours = make(), in_memory(make()).load_data(progress=False)
    for one, other in zip((stock.train_ds, stock.valid_ds), (ours.train_ds, ours.valid_ds)):
        for i in range(len(one)):
            same(other[i][0], one[i][0])


def test_copies_share_the_store(make: Make, opens: Opens) -> None:
    dls = in_memory(make()).load_data(progress=False)
    other = copy.deepcopy(dls)
    opens.take()
    same(epoch(other), epoch(dls))
    assert not opens.take() and isinstance(other.train, BatchLoader)


def test_a_loader_in_two_threads(make: Make) -> None:
    import threading

    dls = in_memory(make(Resize(20))).load_data(progress=False)
    expected, found = list(dls.valid), [[], []]  # type: ignore[var-annotated]
    threads = [threading.Thread(target=lambda k=k: found[k].extend(dls.valid)) for k in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    same(found[0], expected)
    same(found[1], expected)


# -- bad input ------------------------------------------------------------------------------------------------------


def test_what_is_no_data_loaders(make: Make) -> None:
    dls = make()
    learn = Learner(dls, net(), loss_func=torch.nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match=r"this is a Learner: .*in_memory\(learn.dls\)"):
        in_memory(learn)
    with pytest.raises(TypeError, match="this is a list: please give one DataLoaders"):
        in_memory([dls, dls])
    with pytest.raises(TypeError, match="this is a TfmdDL: please put it into a DataLoaders"):
        in_memory(dls.train)
    with pytest.raises(TypeError, match="MemoryImageBlock"):
        dls.load_data()
    with pytest.raises(ValueError, match="max_size=0"):
        in_memory(dls, max_size=0)
    with pytest.raises(TypeError, match="batches=3"):
        in_memory(dls, batches=3)
    with pytest.raises(ValueError, match="max_ram"):
        in_memory(dls, max_ram="much")
    assert type(dls.train) is TfmdDL


def test_the_column_of_data_wait(make: Make, capsys: Any) -> None:
    learn = Learner(in_memory(make()), net(), loss_func=torch.nn.CrossEntropyLoss())
    with learn.no_bar():
        learn.fit(2, cbs=DataWait())
    assert list(learn.recorder.metric_names) == ["epoch", "train_loss", "valid_loss", "data_wait", "time"]
    shares = [values[-1] for values in learn.recorder.values]
    assert shares == [round(one.data_wait, 1) for one in learn.data_wait.epochs] and len(shares) == 2
    assert sum(step.train for step in learn.data_wait.epochs[0].steps) == len(learn.dls.train)
    with learn.no_bar(), learn.no_logging():
        assert len(learn.validate()) == 1
    assert learn.data_wait.warm is not None and learn.data_wait.plot(return_fig=True) is not None
