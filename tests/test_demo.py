"""The demo trains in turns, compares exactly, never gives a false verdict, and says what is wrong with a folder."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import fresh
import numpy as np
import PIL.Image
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
sys.path.append(str(EXAMPLES))

import demo_folder  # noqa: E402
from demo_verdict import CHANCE, chance_of, in_words, judge  # noqa: E402


def start(*arguments: object, **options: Any) -> subprocess.Popen:
    "Start the demo from outside the repository, as a user might."
    command = [sys.executable, str(EXAMPLES / "demo.py"), *map(str, arguments)]
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    env.update(options.pop("env", {}))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": os.sep}
    return subprocess.Popen(command, env=env, **{**pipes, **options})


def output(*arguments: object, **options: Any) -> str:
    "Return what the demo printed; fail if it exits with an error, warns, or prints a progress bar."
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert "\r" not in out and err == ""
    return out


def quickly(*arguments: object, env: Optional[Dict[str, str]] = None, cwd: Path = Path(os.sep)) -> str:
    "Return the same as `output`, of a process that has imported fastai's libraries already."
    done = fresh.script(EXAMPLES / "demo.py", *arguments, cwd=cwd, env={**os.environ, **(env or {})})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\r" not in done.stdout and done.stderr == ""
    return done.stdout


def refusal(*arguments: object, **options: Any) -> str:
    "Return what the demo printed on standard error when it refused; fail if that is a traceback."
    process = start(*arguments, **options)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in err
    return err


def fill(folder: Path, n: int, classes: List[str]) -> Path:
    "Write `n` pictures of different sizes and modes."
    noise = np.random.RandomState(0)
    for i in range(n):
        name, shape = classes[i % len(classes)], (40 + i, 60, 3)[: 2 + i % 3 // 2]
        pixels = noise.randint(100, size=shape) + (100 if name == classes[0] else 0)
        (folder / name).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


# -- the whole ----------------------------------------------------------------------------------------------------


def test_demo(tmp_path: Path) -> None:
    text = output("--quick", env={"TMPDIR": str(tmp_path)})
    assert "Losses: identical to the last bit, training (36 batches) and validation." in text
    assert "RAM: 500 of 500 images take 24.6 MB" in text
    assert "decoded while training 0 times" in text
    assert "purge() gave 24.6 MB back." in text
    assert "2 warm epochs per contender can't show whether it is faster" in text
    assert re.search(r"^For reliable times, .*demo\.py --epochs 15$", text, re.M)
    for named in re.findall(r"\S+\.py", text):
        assert Path(os.sep, named).exists(), named
    assert not list(tmp_path.glob("memlist-*"))


def test_the_three_lines_at_the_end_run_as_they_stand(tmp_path: Path) -> None:
    folder = fill(tmp_path / """my "old" pictures, it's mine""", 40, ["bright", "dark"])
    text = quickly(folder, "--quick", "--epochs", 1, "--size", 32, "--num_workers", 2)
    assert "32 images to train on, 8 to validate, 2 classes; 1 epochs each, in turns; num_workers=2" in text
    assert "Losses: identical to the last bit" in text
    assert "decoded while training 0 times" in text
    assert "one epoch per contender shows nothing" in text
    code = "\n".join([*text.splitlines()[-3:], "x, y = data.one_batch()", "print(*x.shape, len(data.train_ds))"])
    assert "MemoryImageList" in code
    done = fresh.run(code)
    assert done.stdout == "32 3 32 32 32\n", done.stderr


def test_the_home_folder_and_names_that_begin_with_a_dash(tmp_path: Path) -> None:
    fill(tmp_path / "-pictures", 12, ["a", "b"])
    for name, options in (("~/-pictures", {"env": {"HOME": str(tmp_path)}}), ("-pictures", {"cwd": tmp_path})):
        text = quickly("--epochs", 1, "--size", 16, "--", name, **options)
        assert "10 images to train on, 2 to validate" in text


def test_pictures_that_cannot_be_opened_are_named_and_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path, 30, ["a", "b"])
    broken = [folder / "a" / f"{i}.png" for i in (0, 2, 4, 6, 8, 10)]
    for file in broken:
        file.write_bytes(file.read_bytes()[:60])
    text = quickly(folder, "--epochs", 1, "--size", 16)
    assert "6 of the files can't be opened" in text and "and 1 more" in text
    assert sum(str(file) in text for file in broken) == 5
    assert "20 images to train on, 4 to validate" in text or "19 images to train on, 5 to validate" in text
    assert "Losses: identical to the last bit" in text


def test_too_few_pictures_that_can_be_opened(tmp_path: Path) -> None:
    folder = fill(tmp_path, 12, ["a", "b"])
    for i in (0, 1, 2):
        (folder / "ab"[i % 2] / f"{i}.png").write_text("no picture")
    assert f"Without these, {folder} has 9 pictures: at least 10 are needed" in refusal(folder, "--size", 16)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("Training a small network", marks=pytest.mark.full),
        pytest.param("images to train on", marks=pytest.mark.full),
        "compare: ",
    ],
)
def test_ctrl_c_stops_without_a_traceback_and_leaves_nothing(tmp_path: Path, line: str) -> None:
    process = start(env={"TMPDIR": str(tmp_path)})
    assert process.stdout is not None
    assert any(line in said for said in process.stdout)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err.strip() == "Stopped. No file is left behind."
    assert not list(tmp_path.glob("memlist-*"))


@pytest.mark.parametrize("option", [("--epochs", 0), ("--size", -3), ("--num_workers", -1)])
def test_impossible_options_are_refused(option: Any) -> None:
    process = start(*option)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and "must be at least" in err


# -- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "classes", "message"),
    [
        (0, [], "has 0 pictures: at least 10 are needed, in one subfolder per class"),
        (1, ["a"], "has 1 picture: at least 10"),
        (9, ["a", "b"], "has 9 pictures: at least 10"),
        (10, ["all"], "All pictures are in {folder}/all: a classifier needs two classes"),
    ],
)
def test_a_folder_without_enough_pictures(tmp_path: Path, n: int, classes: List[str], message: str) -> None:
    fill(tmp_path, n, classes)
    assert message.format(folder=tmp_path) in refusal(tmp_path, "--quick")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    assert "does not exist: please check the name." in refusal(tmp_path / "nowhere")
    assert "is a file: please name the folder" in refusal(tmp_path / "file")


def without_root() -> None:
    "Take root's right to read everything, which a child then lacks; other users never had it."
    import ctypes

    drop_from_bounding_set, may_override, may_search = 24, 1, 2
    for right in (may_override, may_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, right, 0, 0, 0)


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mine", 24, ["a", "b", "c"])
    (folder / "c").chmod(0)
    try:
        text = output(folder, "--epochs", 1, "--size", 16, preexec_fn=without_root)
        assert re.search(rf"^Left out: .*{folder}/c.*can't be read: Permission denied\.$", text, re.M)
        assert "13 images to train on, 3 to validate, 2 classes" in text
        folder.chmod(0)
        assert f"{folder} can't be read: Permission denied." in refusal(folder, preexec_fn=without_root)
    finally:
        folder.chmod(0o755)
        (folder / "c").chmod(0o755)


def test_the_pictures_are_those_of_the_list(tmp_path: Path) -> None:
    from fastai.vision import ImageList

    folder = fill(tmp_path, 12, ["a", "b", "deep/c", ".hidden"])
    for name in ("a/.x.png", "a/notes.txt", "a/UPPER.JPG", "b/drawing.svg", "b/png"):
        (folder / name).write_text("")
    files = demo_folder.find_pictures(folder).files
    assert files == list(ImageList.from_folder(folder).items)
    assert folder / "b/png" in files  # as fastai has it


def test_a_large_folder_is_sampled_from_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import demo_training

    folder = fill(tmp_path, 90, ["a", "b", "c"])
    files = demo_folder.find_pictures(folder).files
    assert demo_training.take_sample(folder, files).files == set(files)
    monkeypatch.setattr(demo_training, "MOST_PICTURES", 45)
    few = demo_training.take_sample(folder, files)
    assert [sum(file.parent.name == name for file in few.files) for name in few.classes] == [15, 15, 15]
    assert few == demo_training.take_sample(folder, files[::-1])
    monkeypatch.setattr(demo_training, "MOST_PIXELS", 100)
    assert len(demo_training.take_sample(folder, files).files) == demo_training.ENOUGH


# -- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 3), (4, 4), (5, 5), (3, 6)])
def test_chances_are_those_of_all_orders(n: int, m: int) -> None:
    orders = list(itertools.combinations(range(n + m), n))
    wrong = [sum(i < j for i in order for j in set(range(n + m)) - set(order)) for order in orders]
    for most in range(n * m + 1):
        expected = sum(one <= most for one in wrong) / len(orders)
        assert chance_of(most, n, m) == pytest.approx(expected)


def test_equal_contenders_get_a_verdict_in_one_per_cent_of_all_orders_at_most() -> None:
    orders = list(itertools.combinations(range(10), 5))
    kinds = [judge([1 + i for i in o], [1 + i for i in set(range(10)) - set(o)]).kind for o in orders]
    assert 0 < kinds.count("faster") + kinds.count("slower") <= CHANCE * len(orders)
    noise = random.Random(0)
    made = [[[noise.lognormvariate(0, 0.4) for _ in range(9)] for _ in range(2)] for _ in range(1000)]
    assert sum(judge(*pair).kind in ("faster", "slower") for pair in made) <= 2 * CHANCE * len(made)


@pytest.mark.parametrize(
    ("theirs", "ours", "text"),
    [
        ([2.0, 2.1, 2.0, 2.2, 2.0], [1.0, 1.1, 1.0, 1.0, 1.05],
         "Ours is 2.00 times as fast as Theirs (1.90 to 2.20 times in the 5 turns)."),
        ([1.0] * 5, [2.0] * 5,
         "Ours is slower than Theirs: 0.50 times as fast (0.50 to 0.50 times in the 5 turns)."),
        ([2.0, 2.0, 2.0, 2.0, 5.0], [1.0, 1.0, 1.0, 1.0, 1.8],
         "Ours is 2.00 times as fast as Theirs (2.00 to 2.78 times in the 5 turns). "
         "The number is rough: the epochs of one contender differ by up to 150 %."),
        ([1.0, 1.02, 1.0, 1.05, 1.0], [1.0, 1.0, 1.01, 1.0, 1.0], "Ours is as fast as Theirs, within 5 %."),
        ([1.0] * 5, [1.0] * 5, "Ours is as fast as Theirs, within 1 %."),
        ([2.0, 3.0, 2.0, 2.0, 2.0], [1.0, 1.0, 2.5, 1.0, 1.0],
         "Ours: this machine is too noisy to tell whether it is faster than Theirs: "
         "the epochs of one contender differ by up to 150 %."),
        ([9.0] * 4, [1.0] * 4, "Ours: 4 warm epochs per contender can't show whether it is faster than Theirs."),
        ([9.0], [1.0], "Ours: 1 warm epoch per contender can't show whether it is faster than Theirs."),
    ],
)  # fmt: skip
def test_verdicts(theirs: List[float], ours: List[float], text: str) -> None:
    verdict = judge(theirs, ours)
    assert in_words("Ours", "Theirs", verdict, len(ours)) == text
    assert verdict.reliable == (not re.search("rough|noisy|can't", text))


def test_more_epochs_outvote_a_hiccup() -> None:
    theirs, ours = [2.0] * 14, [1.0] * 13 + [9.0]
    assert judge(theirs[-5:], ours[-5:]).kind == "noisy"
    assert judge(theirs, ours).kind == "faster"
