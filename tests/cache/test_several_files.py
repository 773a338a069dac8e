"""`cached` with arguments that name several files: each is found from any folder, and a change of each is seen."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import PIL.Image
import pytest
from cached_functions import Pair, send_cached_values, values, values_cached

from memlist.__main__ import main
from memlist.cache import keys
from memlist.cache.decorator import cached
from memlist.store import ImageStore, Source


def write(path: Any, value: int, when: int = 0) -> None:
    "Write a picture of one value, and set its time if one is given. Files of all values have the same size."
    PIL.Image.fromarray(np.full((4, 4), value, np.uint8)).save(os.fsdecode(path))
    if when:
        os.utime(path, ns=(when, when))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "Make two folders with files of the same names, size and time; go into the first."
    for k, name in enumerate("AB"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "x.png", 5 - k, 1000)
        write(tmp_path / name / "y.png", 7 - k, 1000)
    monkeypatch.chdir(tmp_path / "A")
    return tmp_path


# How an item may name two files; each is given what turns a plain name into another name of the same file.
FORMS = {
    "a tuple": lambda name: (name("x.png"), name("y.png")),
    "a list": lambda name: [name("x.png"), name("y.png")],
    "nested": lambda name: (3, [(name("x.png"), None), [name("y.png")]]),
    "a named tuple": lambda name: Pair(name("x.png"), name("y.png")),
    "a dict": lambda name: {"image": name("x.png"), "mask": name("y.png")},
    "its keys": lambda name: {name("x.png"): 1, name("y.png"): 2},
    "a str and a Path": lambda name: (name("x.png"), Path(name("y.png"))),
    "paths": lambda name: (Path(name("x.png")), Path(name("y.png"))),
    "bytes": lambda name: (os.fsencode(name("x.png")), os.fsencode(name("y.png"))),
    "strings of NumPy": lambda name: (np.str_(name("x.png")), np.str_(name("y.png"))),
    "an array": lambda name: np.array([name("x.png"), name("y.png")]),
    "an array of objects": lambda name: np.array([name("x.png"), Path(name("y.png"))], object),
    "an array of bytes": lambda name: np.array([name("x.png"), name("y.png")], "S"),
    "with a label": lambda name: (name("x.png"), "cat", name("y.png")),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
FORMS_OF_ONE: Any = {"bytes": os.fsencode, "str": str, "Path": Path, "NumPy": np.str_}


@each_form
def test_a_relative_name_is_that_of_another_file_in_another_folder(form: Callable[..., Any], folders: Path) -> None:
    function = cached(values)
    item = form(str)
    wanted = values(item).tolist()
    assert sorted({*wanted} - {0}) == [5, 7]
    assert function(item).tolist() == wanted
    os.chdir(folders / "B")
    assert function(item).tolist() == values(item).tolist() != wanted
    os.chdir(folders / "A")
    assert function(item).tolist() == wanted and function.cache_info().cached == 2
    function(form(os.path.abspath))  # the same files
    assert function.cache_info().cached == 2 and function.cache_info([item, form(os.path.abspath)]).total == 1


@pytest.mark.parametrize("kind", FORMS_OF_ONE.values(), ids=FORMS_OF_ONE)
def test_a_relative_name_alone(kind: Any, folders: Path) -> None:
    function = cached(values)
    assert function(kind("x.png")).tolist() == [5]
    os.chdir(folders / "B")
    assert function(kind("x.png")).tolist() == [4]
    assert function(kind(os.path.abspath("x.png"))).tolist() == [4] and function.cache_info().cached == 2


@each_form
@pytest.mark.parametrize("changed", ["x.png", "y.png"])
def test_a_change_of_each_file_is_seen_by_load_data(changed: str, form: Callable[..., Any], folders: Path) -> None:
    function = cached(values)
    item = form(str)
    before = function(item).tolist()
    write(changed, 99, 1000)
    os.utime(changed, ns=(1001, 1001))  # one nanosecond, and no byte more
    assert function(item).tolist() == before  # it has been looked at, as a single file has
    assert function.load_data([item], progress=False)(item).tolist() == values(item).tolist() != before
    assert function.cache_info().cached == 1  # the old one is no more
    reads = function.cache_info()
    function.load_data([item], progress=False)
    assert function(item).tolist() == values(item).tolist() and function.cache_info().misses == reads.misses


def test_files_that_have_changed_places_are_seen(folders: Path) -> None:
    write("y.png", 7, 2000)
    function = cached(values)
    assert function(("x.png", "y.png")).tolist() == [5, 7]
    write("x.png", 8, 2000)
    write("y.png", 9, 1000)
    function.load_data([("x.png", "y.png")], progress=False)
    assert function(("x.png", "y.png")).tolist() == [8, 9]


@each_form
def test_a_file_that_did_not_exist_yet(form: Callable[..., Any], folders: Path) -> None:
    (folders / "A" / "y.png").unlink()
    function = cached(values)
    item = form(str)
    before = function(item).tolist()
    write("y.png", 7)
    function.load_data([item], progress=False)
    assert function(item).tolist() == values(item).tolist() != before


@pytest.mark.parametrize("kind", FORMS_OF_ONE.values(), ids=FORMS_OF_ONE)
def test_a_single_file_that_did_not_exist_yet(kind: Any, folders: Path) -> None:
    function = cached(values)
    assert function(kind("new.png")).tolist() == [0]
    write("new.png", 3)
    function.load_data([kind("new.png")], progress=False)
    assert function(kind("new.png")).tolist() == [3]


def test_a_label_that_becomes_a_file(folders: Path) -> None:
    function = cached(values)
    assert function(("x.png", "cat")).tolist() == [5, 0]
    write("cat.png", 9)
    os.rename("cat.png", "cat")
    function.load_data([("x.png", "cat")], progress=False)
    assert function(("x.png", "cat")).tolist() == [5, 9]


def test_a_file_that_is_gone_is_an_error_of_load_data(folders: Path) -> None:
    function = cached(lambda names: np.asarray(PIL.Image.open(names[1])))
    item = ("x.png", "y.png")
    function(item)
    (folders / "A" / "y.png").unlink()
    with pytest.raises(Exception, match="No such file"):
        function.load_data([item], progress=False)


def test_names_that_no_file_can_have_are_keys_as_before(folders: Path) -> None:
    function = cached(lambda item: np.array([len(repr(item))]))
    for item in [("a\0b", 1), ("", 2), (b"\0" * 9, 3), ("long " * 9999, 4), ("\ud800", 5), (b"\xff\xfe", 6), ((), 7)]:
        assert function(item) == len(repr(item)) == function(item)
        function.load_data([item], progress=False)
    assert function.cache_info().cached == 7 and function.cache_info().misses == 7


def test_str_and_path_in_a_tuple_are_different_keys() -> None:
    function = cached(lambda pair: np.array([isinstance(pair[0], str)]))
    assert function(("/a",))[0] and not function((Path("/a"),))[0] and function.cache_info().cached == 2


def test_pandas(folders: Path) -> None:
    pandas = pytest.importorskip("pandas")
    function = cached(lambda row: values(row.to_numpy().ravel()))
    rows = [pandas.Series(["x.png", "y.png"]), pandas.DataFrame({"image": ["x.png"], "mask": ["y.png"]})]
    for row in rows:
        assert function(row).tolist() == [5, 7]
    write("y.png", 99)
    function.load_data(rows, progress=False)
    for row in rows:
        assert function(row).tolist() == [5, 99]
    os.chdir(folders / "B")
    for row in rows:
        assert function(row).tolist() == [4, 6]


# -- a file of images -------------------------------------------------------------------------------------------------


SCRIPT = """
import sys
sys.path[:0], sys.modules["fastai"] = {paths!r}, None
from pathlib import Path
import numpy as np
from memlist.cache.decorator import cached
from cached_functions import Pair, values as read

@cached(cache_file={file!r}, version="1")
def values(item):
    print("ran")
    return read(item)

print(values({item}).tolist())
"""


def session(item: str, file: Path) -> List[str]:
    "Return what a new process prints that reads one item: a line for each run of the function, and the values."
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = SCRIPT.format(paths=paths, file=str(file), item=item)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind, absolute", [("str", False), ("Path", True)])
def test_later_sessions_see_a_change(
    kind: str, absolute: bool, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folders / "file.cache"
    names = [os.path.abspath(name) if absolute else name for name in ("x.png", "y.png", "new.png")]
    item = f"Pair({names[0]!r}, [*map({kind}, {names[1:]!r})])"
    assert session(item, file)[-1] == "[5, 7, 0]"
    assert session(item, file) == ["[5, 7, 0]"]
    assert main(["check", str(file)]) == 0
    for name, value, wanted in (("y.png", 99, "[5, 99, 0]"), ("new.png", 3, "[5, 99, 3]")):
        write(name, value)
        capsys.readouterr()
        assert main(["check", str(file)]) == 1
        said = capsys.readouterr().out
        assert f"{folders}/A/x.png, {folders}/A/y.png" in said and "its source has changed" in said
        assert session(item, file)[0] == "ran"
        assert session(item, file) == [wanted]
        assert main(["check", str(file)]) == 0
    capsys.readouterr()
    assert main(["info", str(file)]) == 0 and "  1 record, " in capsys.readouterr().out
    os.chdir(folders / "B")
    assert session(item, file)[-1] == ("[5, 99, 3]" if absolute else "[4, 6, 0]")


def test_check_finds_and_drops_what_lacks_a_file(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    function = cached(cache_file=folders / "file.cache", version="1")(values)
    function(("x.png", "cat", Path("y.png")))
    store = function.stores()[1]
    assert store.sources() == [str(folders / "A" / name) for name in ("x.png", "y.png")]  # and no label
    (folders / "A" / "y.png").unlink()
    assert [found.what for found in store.check()] == ["its source is gone"]
    assert store.check(fix=True) and not store.check() and not len(store)


def test_a_function_decorated_again_over_the_same_file_looks_again(folders: Path) -> None:
    def decorated() -> Any:
        return cached(cache_file=folders / "file.cache", version="1")(values)

    first = decorated()
    assert first(("x.png", "y.png")).tolist() == [5, 7] and first(("x.png", "new.png")).tolist() == [5, 0]
    assert first("new.png").tolist() == [0]
    write("y.png", 99)
    write("new.png", 3)
    again = decorated()
    assert again(("x.png", "y.png")).tolist() == [5, 99] and again(("x.png", "new.png")).tolist() == [5, 3]
    assert again("new.png").tolist() == [3]


def test_more_names_than_a_record_of_a_file_can_hold(folders: Path) -> None:
    item = tuple(f"{k:0200}" for k in range(400))
    assert cached(values)(item).shape == (400,)
    function = cached(cache_file=folders / "file.cache", version="1")(values)
    with pytest.warns(UserWarning, match="a result is not kept, because its item names too many files"):
        assert function(item).shape == (400,)


def test_the_name_of_a_source_is_that_of_the_file_that_was_read(tmp_path: Path) -> None:
    "A `..` after a link leads elsewhere than its text says."
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    write(tmp_path / "a" / "x.png", 1)
    found = Source.of(f"{tmp_path}/link/../x.png")
    assert found is not None and found.path == os.fsencode(tmp_path.resolve() / "a" / "x.png")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_what_a_tuple_names(method: str, folders: Path) -> None:
    wanted = values_cached(("x.png", "y.png")).tolist()
    before = values_cached.cache_info().misses
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=send_cached_values, args=(("x.png", "y.png"), theirs))
    child.start()
    assert ours.recv() == wanted == [5, 7]
    child.join()
    assert values_cached.cache_info().misses == before


def test_records_of_tuples_from_before_are_not_served(tmp_path: Path) -> None:
    "They were kept without a source, so whether they are of the present files is unknown."
    item = (str(tmp_path / "x.png"), 3)
    store = ImageStore()
    store.put(keys.value_key(item), np.zeros(1, np.uint8))
    assert keys.item_key(item) not in store and keys.item_key((1, 2.5)) == keys.value_key((1, 2.5))
