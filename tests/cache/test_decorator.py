"""`cached`: equal results, one run per path and machine, and a clear answer to what can't be cached."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any, Callable, Iterator, List

import cached_functions
import numpy as np
import PIL.Image
import pytest
import unrelated
from cached_functions import CALLS, Pictures, calls, load, sums
from conftest import photo

from memlist import ImageLoadError
from memlist.cache.decorator import Cached, cached
from memlist.cache.randomness import LOOKS
from memlist.store import CacheFileError


@pytest.fixture(scope="module", autouse=True)
def file_of_calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    "Name the file once: the server that forks processes has the variables of the time when it was started."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CALLS, str(tmp_path_factory.mktemp("calls") / "calls"))
        yield


@pytest.fixture
def paths(tmp_path: Path) -> List[str]:
    "Make nine pictures, and count calls from now on."
    Path(os.environ[CALLS]).write_text("")
    load.purge()
    made = [str(tmp_path / f"{k}.png") for k in range(9)]
    for k, name in enumerate(made):
        photo(k, 20 + k, 30).save(name)
    return made


def counted(function: Callable[[Any], Any], **given: Any) -> Any:
    "Return a cached function that notes its calls."

    def noted(path: Any) -> Any:
        cached_functions.note_call(path)
        return function(path)

    return cached(**given)(noted)


def ran(path: Any) -> int:
    "Return how often a function ran for `path`; the first few are run twice more, to see whether it is random."
    return calls().count(str(path))


def opened(path: Any) -> np.ndarray:
    return np.asarray(PIL.Image.open(path).convert("RGB"))


# -- results --------------------------------------------------------------------------------------------------------


def results(path: Any) -> Any:
    torch = pytest.importorskip("torch")
    px = opened(path)
    image = PIL.Image.open(path)
    return {
        "array": px,
        "transposed": px.transpose(2, 0, 1),
        "floats": (px / np.float32(255)).astype(np.float32),
        "tensor": torch.from_numpy(px.copy()).permute(2, 0, 1),
        "double": torch.from_numpy(px / 7.0),
        "image": image.convert("RGB"),
        "grey": image.convert("L"),
        "palette": image.convert("P"),
        "one bit": image.convert("1"),
        "float image": image.convert("F"),
        "pair": (image.convert("RGB"), 3),
        "dict": {"x": px[:2], "y": [np.float32(2.5), "cat", None], "z": torch.zeros(1, 3)},
        "scalar array": np.array(3.5),
    }


def same(one: Any, other: Any) -> bool:
    "Return whether two results are equal in type, dtype, strides and bits."
    if type(one) is not type(other):
        return False
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return (one.dtype, one.shape, one.strides, one.tobytes()) == (
            other.dtype,
            other.shape,
            other.strides,
            other.tobytes(),
        )
    if isinstance(one, PIL.Image.Image):
        palettes = [image.getpalette() for image in (one, other)]
        return (one.mode, one.size, one.tobytes(), one.info) == (
            other.mode,
            other.size,
            other.tobytes(),
            other.info,
        ) and palettes[0] == palettes[1]
    if type(one).__name__ == "Tensor":
        return one.stride() == other.stride() and same(one.contiguous().numpy(), other.contiguous().numpy())
    return bool(one == other)


KINDS = ["array", "transposed", "floats", "tensor", "double", "image", "grey", "palette", "one bit", "float image"]
KINDS += ["pair", "dict", "scalar array"]


@pytest.mark.filterwarnings("ignore:.*a PIL image of mode P with this info can't be made again")  # with Pillow 8
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_equal_and_no_alias_that_can_be_written(kind: str, copied: bool, paths: List[str]) -> None:
    function = counted(lambda path: results(path)[kind], copy=copied)
    wanted = results(paths[0])[kind]
    first = function(paths[0])
    n = ran(paths[0])
    for _ in range(2):
        found = function(paths[0])
        assert same(found, wanted)
        for array in arrays_in(found):
            if array.flags.writeable and array.size:
                array[...] = 77  # a copy: the next read must not see it
            assert copied or type(found) is not np.ndarray or not array.flags.writeable
    kept = kind != "palette" or int(PIL.__version__.split(".")[0]) >= 9  # Pillow 8 can't make such an image again
    assert (ran(paths[0]) == n) == kept and same(function(paths[0]), wanted)
    assert copied or all(not array.flags.writeable for array in arrays_in(first) if type(first) is np.ndarray)


def arrays_in(made: Any) -> List[np.ndarray]:
    if isinstance(made, np.ndarray):
        return [made]
    if isinstance(made, dict):
        return [array for one in made.values() for array in arrays_in(one)]
    if isinstance(made, (tuple, list)):
        return [array for one in made for array in arrays_in(one)]
    return [made.numpy()] if type(made).__name__ == "Tensor" else []


@pytest.mark.parametrize(
    "made, reason",
    [
        (lambda path: None, "it returned None"),
        (lambda path: PIL.Image.open(path), "reads from an open file"),
        (lambda path: "text", "it returns a str and not an image"),
        (lambda path: {1, 2}, "it returns a set"),
        (lambda path: np.zeros((1,) * 5), "has 5 dimensions"),
        (lambda path: np.zeros(2, "datetime64[s]"), "its values are datetime64"),
        (lambda path: pytest.importorskip("torch").zeros(0, 3), "it returns an empty tensor"),
        (lambda path: {(1, 2): np.zeros(2)}, "the keys of its dict"),
        (lambda path: np.random.rand(3), "it draws random numbers"),
        (lambda path: np.array(random.random()), "it draws random numbers"),
    ],
)
def test_what_cannot_be_kept_is_made_each_time_and_said_once(made: Any, reason: str, paths: List[str]) -> None:
    function = counted(made)
    with pytest.warns(UserWarning, match=f"cached .*counted.*noted: a result is not kept, because .*{reason}"):
        for _ in range(LOOKS + 1):  # it is run twice more for each of the first
            function(paths[0])
    n = ran(paths[0])
    for _ in range(2):
        function(paths[0])
    assert ran(paths[0]) == n + 2 and function.cache_info().cached == 0


def test_random_results_stay_random() -> None:
    function = cached(lambda path: np.random.rand(4))
    with pytest.warns(UserWarning, match="random"):
        made = [function("a").tobytes() for _ in range(5)]
    assert len(set(made)) == 5


# -- one run per path -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_share_one_copy(method: str, by_name: bool, paths: List[str]) -> None:
    "Filled here or there, found by import or sent by pickle."
    wanted = [int(opened(path).sum()) for path in paths]
    for path in paths[:5]:
        load(path)
    before = len(calls())
    context = multiprocessing.get_context(method)
    for turn in range(2):
        ours, theirs = context.Pipe()
        given = paths if by_name else [*paths, load][:9]
        target: Any = sums if by_name else Sums(load)
        child = context.Process(target=target, args=(given, theirs))
        child.start()
        made, found = ours.recv()
        child.join()
        assert made == wanted and found.cached == len(paths)
        if turn == 0:
            assert {*calls()[before:]} == {*paths[5:]}
            before = len(calls())
    assert len(calls()) == before
    for path in paths:
        load(path)
    assert len(calls()) == before


class Sums:
    "Do as `sums`, with a function that is sent."

    def __init__(self, function: Cached) -> None:
        self.function = function

    def __call__(self, paths: List[str], connection: Any) -> None:
        connection.send(([int(self.function(path).sum()) for path in paths], self.function.cache_info(paths)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_loader_with_workers_runs_it_in_its_first_epoch_only(method: str, paths: List[str]) -> None:
    torch = pytest.importorskip("torch")
    data: Any = Pictures(paths, by_name=method == "spawn")
    loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=2, collate_fn=first)
    loader.multiprocessing_context = method  # fastai 1 knows no such argument
    epochs = 3 if method == "fork" else 2  # each spawned worker imports torch
    seen = [sum(int(one.sum()) for one in loader) for _ in range(epochs)]
    assert len(set(seen)) == 1
    assert {*calls()} == {*paths} and max(map(calls().count, paths)) <= 3
    assert load.cache_info().hits >= (epochs - 1) * len(paths)


def test_a_process_that_needs_no_function_does_not_import_memlist_nor_do_its_children_get_a_wrong_store(
    paths: List[str],
) -> None:
    load(paths[0])
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=unrelated.report, args=(theirs, paths[0]))
    child.start()
    imported, (total, cached_there) = ours.recv()
    child.join()
    assert not imported and total == int(opened(paths[0]).sum())
    assert cached_there == 1 and load.cache_info().cached == 1  # a store of its own


def first(batch: List[Any]) -> Any:
    return batch[0]


def test_a_changed_file_is_read_again_by_a_function_that_is_decorated_again(paths: List[str]) -> None:
    first = counted(opened)
    before = first(paths[0])
    photo(50, 20, 30).save(paths[0])
    os.utime(paths[0], (1, 1))
    assert same(first(paths[0]), before)  # it has been looked at
    second = counted(opened)
    assert same(second(paths[0]), opened(paths[0])) and not same(second(paths[0]), before)


def test_a_function_that_is_decorated_again_frees_the_memory_of_the_old_one(paths: List[str]) -> None:
    function = counted(opened)
    function(paths[0])
    store = weakref.ref(function.stores()[0])
    function = counted(opened)
    gc.collect()
    assert store() is None and function.cache_info().cached == 0


def test_load_data_info_and_purge(paths: List[str]) -> None:
    function = counted(opened)
    bad = Path(paths[0]).with_name("bad.png")
    bad.write_bytes(b"no picture")
    with pytest.raises(ImageLoadError) as caught:
        function.load_data([*paths, str(bad), "/no/such/file.png"], progress=False)
    assert [item for item, _ in caught.value.errors] == [str(bad), "/no/such/file.png"]
    found = function.cache_info([*paths, str(bad)])
    assert (found.cached, found.total) == (9, 10) and function.cache_info().cached == 9
    n = len(calls())
    assert function.load_data(paths, progress=False) is function and len(calls()) == n
    assert all(same(function(path), opened(path)) for path in paths) and len(calls()) == n
    assert function.purge() > 0 and function.cache_info().cached == 0
    function.load_data(paths, n_workers=2, progress=False)
    assert function.cache_info(paths).cached == 9


@pytest.mark.parametrize("n_workers", [None, 2])
def test_load_data_lists_files_gone_bad_and_makes_changed_ones_again(paths: List[str], n_workers: Any) -> None:
    function = counted(opened).load_data(paths, progress=False)
    photo(50).save(paths[1])
    os.utime(paths[1], ns=(1, 1))
    Path(paths[2]).write_bytes(b"no picture")
    os.remove(paths[3])
    assert all(function(path) is not None for path in paths)
    for _ in range(2):
        with pytest.raises(ImageLoadError, match=f"1 image could .*\n  {paths[2]}: UnidentifiedImageError"):
            function.load_data(paths, n_workers, progress=False)
        assert function.cache_info(paths).cached == len(paths) - 1
    n = len(calls())
    assert same(function(paths[1]), opened(paths[1])) and len(calls()) == n  # made again, and known to be
    assert function(paths[3]) is not None  # it was looked at while it was there
    with pytest.raises(PIL.UnidentifiedImageError):
        function(paths[2])


@pytest.mark.parametrize("error", [FileNotFoundError, PIL.UnidentifiedImageError])
def test_what_the_function_raises_is_raised(error: type, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    function = cached(opened)
    name = "bad.png" if error is PIL.UnidentifiedImageError else "none.png"
    for _ in range(2):
        with pytest.raises(error):
            function(tmp_path / name)


def test_what_does_not_fit_is_made_each_time(paths: List[str]) -> None:
    function = counted(opened, max_ram="4KB")
    with pytest.warns(UserWarning, match=r"its budget is used up \(max_ram: 4 kB\)"):
        made = [function(path) for path in paths]
    assert all(map(same, made, map(opened, paths))) and function.cache_info().cached < len(paths)


def test_strings_and_paths_are_different_keys_as_they_are_different_arguments(tmp_path: Path) -> None:
    function = cached(lambda path: np.array([isinstance(path, str)]))
    assert function("/a")[0] and not function(Path("/a"))[0] and function("/a")[0]


def test_other_small_keys(tmp_path: Path) -> None:
    function = cached(lambda key: np.array([hash(key) % 1000]))
    for key in (3, (1, "a"), 2.5, None):
        assert same(function(key), function(key))
    assert function.cache_info().cached == 4
    with pytest.warns(UserWarning, match="is not supported in a key"):
        function(object())


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    for given in ({}, {"cache_file": tmp_path / "file.cache", "version": "1"}):
        made = recursive(**given)
        assert made(6).tolist() == [13] and made.cache_info().cached == 7


def recursive(**given: Any) -> Any:
    global fibonacci

    @cached(**given)
    def fibonacci(n: int) -> np.ndarray:
        return np.array([1 if n < 2 else int((fibonacci(n - 1) + fibonacci(n - 2))[0])])

    return fibonacci


# -- a file -----------------------------------------------------------------------------------------------------------


SCRIPT = """
import sys
sys.path[:0], sys.modules["fastai"] = {folders!r}, None
import numpy as np, PIL.Image
from cached_functions import note_call
from memlist.cache.decorator import cached

@cached(cache_file={file!r}, version={version!r})
def opened(path):
    note_call(path)
    return np.asarray(PIL.Image.open(path).convert("RGB"))

print(sum(int(opened(path).sum()) for path in {paths!r}))
"""


def session(paths: List[str], file: Path, version: str = "1") -> int:
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = SCRIPT.format(folders=folders, file=str(file), version=version, paths=paths)
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_a_file_lasts_and_a_new_version_does_not_read_what_an_old_one_wrote(paths: List[str], tmp_path: Path) -> None:
    wanted, file = sum(int(opened(path).sum()) for path in paths), tmp_path / "pictures.cache"
    assert session(paths, file) == wanted
    n = len(calls())
    assert session(paths, file) == wanted and len(calls()) == n
    assert session(paths, file, version="2") == wanted and {*calls()[n:]} == {*paths}
    photo(50, 20, 30).save(paths[0])
    os.utime(paths[0], (1, 1))
    n = len(calls())
    assert session(paths, file) != wanted and {*calls()[n:]} == {paths[0]}


def test_two_functions_that_differ_in_what_is_bound_to_them_share_a_file(paths: List[str], tmp_path: Path) -> None:
    def sized(size: int, **more: Any) -> Any:
        @cached(cache_file=tmp_path / "file.cache", version="1")
        def opened(path: str, factor: int = more.get("factor", 1)) -> np.ndarray:
            return np.asarray(PIL.Image.open(path).convert("RGB").resize((size, size))) * np.uint8(factor)

        return opened

    shapes = [sized(size)(paths[0]).shape for size in (8, 9, 8)]
    assert shapes == [(8, 8, 3), (9, 9, 3), (8, 8, 3)]
    assert not same(sized(8, factor=2)(paths[0]), sized(8)(paths[0]))
    with pytest.raises(
        TypeError, match=r"uses a variable of the function around it, 'value', .*: a builtins.object is"
    ):
        bound_to(object(), tmp_path / "file.cache")


def bound_to(value: Any, file: Path) -> Any:
    @cached(cache_file=file, version="1")
    def opened(path: str) -> Any:
        return value

    return opened


# -- bad input --------------------------------------------------------------------------------------------------------


async def coroutine(path: str) -> None: ...


async def asynchronous(path: str) -> Any:
    yield path


def generator(path: str) -> Any:
    yield path


class Loader:
    def load(self, path: str) -> Any: ...

    @staticmethod
    @cached
    def static(path: str) -> np.ndarray:
        return np.array([len(path)])

    plain = cached(lambda path: np.array([len(path)]))


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda: 1, "has to take one argument"),
        (lambda path, size: 1, r"\(path, size\) has to take one argument"),
        (lambda *, path: 1, "has to take one argument"),
        (Loader.load, r"Loader.load\(self, path\) has to take one argument"),
        (Loader().load, "is a method"),
        (coroutine, "is a coroutine"),
        (asynchronous, "is an asynchronous generator"),
        (generator, "is a generator"),
        (load, "is cached already"),
        (staticmethod(opened), "put @staticmethod above @cached"),
        (3, "please give a function of one argument"),
    ],
)
def test_what_is_no_function_of_one_argument(function: Any, reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        cached(function)


def test_a_static_method_and_an_attribute_of_a_class() -> None:
    assert Loader.static("abc")[0] == 3 and Loader().static("abc")[0] == 3
    assert Loader().plain("abcd")[0] == 4


def test_a_file_needs_a_version_and_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="needs a version"):
        cached(cache_file=tmp_path / "file.cache")
    (tmp_path / "other").write_bytes(b"something else " * 1000)
    with pytest.raises(CacheFileError):
        cached(cache_file=tmp_path / "other", version="1")(opened)
    with pytest.raises(TypeError, match="needs a function made by def"):
        cached(cache_file=tmp_path / "file.cache", version="1")(len)


def test_pickles_name_the_function_and_local_ones_cannot_be_pickled(paths: List[str]) -> None:
    load(paths[0])
    data = pickle.dumps(load)
    assert pickle.loads(data) is load and len(data) < 1000
    assert copy.deepcopy(load) is load and copy.copy(load) is load
    with pytest.raises(pickle.PicklingError, match="not what its module has under this name"):
        pickle.dumps(counted(opened))
    assert load.__wrapped__(paths[0]).shape == load(paths[0]).shape and load.__name__ == "load"


def test_neither_torch_nor_fastai_is_imported(paths: List[str]) -> None:
    code = f"""
import sys
for name in ("torch", "fastai"): sys.modules[name] = None
import numpy as np, PIL.Image
from memlist.cache.decorator import cached
load = cached(lambda path: PIL.Image.open(path).convert("RGB"))
assert load({paths[0]!r}).tobytes() == load({paths[0]!r}).tobytes() and load.cache_info().hits == 1
"""
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})


# -- how it is called -------------------------------------------------------------------------------------------------


def test_the_argument_may_be_given_by_its_own_name(paths: List[str]) -> None:
    function = counted(opened)
    first = function(path=paths[0])
    n = ran(paths[0])
    assert same(function(paths[0]), first) and same(function(path=paths[0]), first) and ran(paths[0]) == n
    named = cached(lambda item, size=3: np.array([item, size]))
    assert named(item=4).tolist() == named(4).tolist() == [4, 3]
    assert cached(lambda self: np.array([self]))(self=5).tolist() == [5]


@pytest.mark.parametrize(
    "given, named, told",
    [
        ((), {}, r"\(path\) takes one argument, and was given none"),
        (("a", 8), {}, r"\(path\) takes one argument, and was given 2 without a name"),
        (("a",), {"size": 8}, "given 1 without a name and size=…. .*let the function take a tuple"),
        (("a",), {"path": "b"}, "given 1 without a name and path=…"),
        ((), {"item": "b"}, "given item=…"),
        ((), {"path": "b", "size": 3}, "given path=… and size=…"),
    ],
)
def test_anything_but_one_argument_is_a_clear_error(given: Any, named: Any, told: str) -> None:
    def load(path: str, size: int = 8) -> np.ndarray:
        raise AssertionError

    with pytest.raises(TypeError, match=f"^cached .*load{told}" if told[0] == "\\" else told):
        cached(load)(*given, **named)


@pytest.mark.parametrize("verb", ["load_data", "cache_info"])
def test_one_path_is_no_list_of_paths(verb: str, paths: List[str]) -> None:
    function = cached(opened)
    for one in (paths[0], Path(paths[0]), paths[0].encode()):
        with pytest.raises(TypeError, match=rf"{verb} takes a list of paths, and this is one path: {verb}\(\[path\]\)"):
            getattr(function, verb)(one)
    with pytest.raises(TypeError, match=f"cached opened: {verb} takes a list of paths, and this is a int"):
        getattr(function, verb)(3)
    function.load_data((path for path in paths), progress=False)
    assert function.cache_info(np.array(paths)).total == function.cache_info(iter(paths)).total == 9
