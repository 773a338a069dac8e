"""Names of files on a terminal: whatever is in them, they are shown on one line and give it no commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import List

import numpy as np
import pytest

from memlist.__main__ import main
from memlist.store import ImageStore, Source, shown
from memlist.store.layout import BLOCK_BYTES, digest_of

EVIL = (
    b"\xff\x1b[2J\r\n\x07\xe2\x80\xae\xc2\x9b31m\\x.jpg"  # no UTF-8, terminal commands, lines, text from right to left
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/data/übung 1.jpg", "/data/übung 1.jpg"),
        ("日本語", "日本語"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x00\x7f\x9b", r"\x1b[31mred\x00\x7f\x9b"),
        (os.fsdecode(b"\xff\x80"), r"\xff\x80"),
        ("\ud800 \u202e \u2028", r"\ud800 \u202e \u2028"),
        (Path("a\x1b"), r"a\x1b"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text: object, expected: str) -> None:
    assert shown(text) == expected
    shown(text).encode()


def plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def lines_of(text: str) -> List[str]:
    assert plain(text), repr(text)
    return text.splitlines()


def test_the_command_prints_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = os.fsencode(tmp_path) + b"/\xfe\x1b[1m"
    os.mkdir(folder)
    source = folder + b"/" + EVIL
    Path(os.fsdecode(source)).write_bytes(b"one")
    path = os.fsdecode(folder + b"/cache\x1b]0;mine\x07")
    images = ImageStore.open(path, maker=b"\x1b[5mDecoder")
    assert images.put(b"a", np.zeros(9, "u1"), source=Source.of(source))
    del images
    assert main(["check", path]) == 0
    assert main(["info", path]) == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines[0] == "1 image in 1 record, nothing is wrong"
    assert lines[1].startswith(shown(path)) and "cache\\x1b]0;mine\\x07" in lines[1]
    assert lines[3] == f"  made from images under {shown(os.fsdecode(folder))}" and len(lines) == 6
    Path(os.fsdecode(source)).write_bytes(b"another")
    assert main(["check", path]) == 1
    lines = lines_of(capsys.readouterr().out)
    assert lines[0] == f"{shown(os.fsdecode(source))}: its source has changed" and len(lines) == 2
    assert r"\xff\x1b[2J\r\n\x07\u202e\x9b31m\x.jpg" in lines[0]
    assert main(["purge", path]) == 0
    assert main(["info", path + "2"]) == 2
    assert main(["plan", os.fsdecode(folder)]) == 1
    assert main(["plan", os.fsdecode(folder) + "2"]) == 2
    printed = capsys.readouterr()
    lines_of(printed.out)
    lines_of(printed.err)


def test_the_command_counts_images_and_names_each_file_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources, path = [tmp_path / name for name in ("a.png", "b.png")], str(tmp_path / "cache")
    images = ImageStore.open(path)
    for source in sources:
        source.write_bytes(b"one")
        for k in range(2):  # as torchvision's images, whose pixels are one record, and the rest another
            assert images.put(b"%d " % k + os.fsencode(source), np.zeros(99, "u1"), source=Source.of(source))
    assert main(["check", path]) == 0 and main(["info", path]) == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines[0] == "2 images in 4 records, nothing is wrong"
    assert lines[2].startswith("  2 images in 4 records, ")
    sources[1].write_bytes(b"another")
    assert main(["check", path]) == 1
    changed, found = f"{shown(sources[1])}: its source has changed", "1 problem; `check --fix` drops what is wrong"
    assert lines_of(capsys.readouterr().out) == [changed, f"2 images in 4 records, {found}"]
    assert images.put(b"no file", np.zeros(99, "u1"))  # of how many images it has records is not known then
    assert main(["check", path]) == 1
    assert lines_of(capsys.readouterr().out) == [changed, f"5 records, {found}"]
    for key in (b"no file", b"0 " + os.fsencode(sources[1])):
        offset = images._index.find(digest_of(key))[0]  # type: ignore[index]
        segment, at = images._region.locate(offset)
        images._region.maps[segment][at + BLOCK_BYTES] ^= 1
    pixels = "its pixels are not those that were written"
    assert main(["check", path]) == 1
    lines = lines_of(capsys.readouterr().out)
    assert sorted(lines[:2]) == sorted([f"{shown(sources[1])}: {pixels}, its source has changed", f"{path}: {pixels}"])
    assert lines[2:] == ["5 records, 2 problems; `check --fix` drops what is wrong"]
    images._region.maps[segment][at] ^= 1
    assert main(["check", path]) == 1
    assert f" bytes of the cache file, from byte {offset:,} on, are damaged" in capsys.readouterr().out


def test_a_terminal_that_knows_few_letters(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode("übung\x1b".encode() + b"\xff")
    ImageStore.open(path)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    for command in ("info", "check", "purge"):
        done = subprocess.run(
            [sys.executable, "-m", "memlist", command, str(path)], capture_output=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert command == "check" or rb"\x1b\xff" in done.stdout
        assert done.stdout.decode("ascii").replace("\n", "").isprintable()


def test_sources_without_a_folder_in_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = ImageStore.open(tmp_path / "cache")
    for i, name in enumerate((b"/a/1.jpg", b"relative/2.jpg")):
        images.put(b"%d" % i, np.zeros(9, "u1"), source=Source(1, 1, name))
    assert main(["info", str(tmp_path / "cache")]) == 0
    assert "made from images under several folders" in capsys.readouterr().out
