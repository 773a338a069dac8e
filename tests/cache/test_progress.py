"""Progress of `load_data` and `CacheInfo`, as shown in a terminal, in a log and in a notebook."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, List, Tuple

import nbformat
import numpy as np
import pytest
from conftest import many, photo
from nbclient import NotebookClient

import memlist as m
from memlist.cache import filling, progress

# Without fastai, which takes seconds to import; the list's `load_data` calls this one.
LOAD = """
import sys
sys.modules["fastai"] = None
from pathlib import Path
from memlist import ImageStore
from memlist.cache import ImageCache, PillowDecoder, Work, load_data
images = ImageCache(ImageStore(), PillowDecoder("RGB"))
{before}
load_data([Work("pictures", images, sorted(Path({folder!r}).iterdir()))], n_workers={n})
{after}
"""


def load(folder: Path, n: int, before: str = "", after: str = "") -> str:
    "Return a program that loads the pictures of a folder with `n` workers."
    return LOAD.format(folder=str(folder), n=n, before=before, after=after)


def environment() -> Any:
    return {**os.environ, "PYTHONWARNINGS": "ignore", "TERM": "xterm", "COLUMNS": "100"}


class Ticking:
    "A clock that advances one second per call."

    now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


# -- a log --------------------------------------------------------------------------------------------------------


def test_a_log_gets_plain_lines(tmp_path: Path) -> None:
    many(tmp_path / "many", 40)
    code = load(tmp_path / "many", 2)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stdout.endswith("\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]|█", done.stdout), done.stdout
    assert "40 images, about 1.2 MB decoded" in lines[0]
    assert re.fullmatch(r"load_data: 40 images, 1\.2\d? MB, [\d,]+ images/s, [\d.]+ s in all", lines[1]), lines[1]
    assert len(lines) == 2  # loading ended before the first line was due


def test_a_log_gets_a_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "time", Ticking())
    shown = progress.progress(100, "load_data")
    assert type(shown) is progress.Lines
    for done in range(100):
        shown.update(done, "0.10 GB")
    shown.close(100, "0.20 GB")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100 // progress.LINE_SECONDS + 1
    assert lines[0] == "load_data: 4 of 100 images, 0.10 GB, about 2 min left"
    assert lines[-1] == "load_data: 100 images, 0.20 GB, 2 min in all"


def test_no_time_is_estimated_before_the_first_image(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "time", Ticking())
    shown = progress.progress(10, "load_data")
    for _ in range(6):
        shown.update(0)
    shown.close(3)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["load_data: 0 of 10 images", "load_data: stopped at 3 of 10 images, 7 s in all"]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_interrupted_load_says_how_many_images_it_loaded(
    tmp_path: Path, n_workers: int, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    il = m.MemoryImageList.from_folder(many(tmp_path / "many", 40))
    stock = filling.Fill._do_all

    def interrupted(self: Any, jobs: Any) -> None:
        if self.done == filling.SAMPLE:  # perhaps before another thread has begun
            raise KeyboardInterrupt
        stock(self, jobs)

    monkeypatch.setattr(filling.Fill, "_do_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        il.load_data(n_workers=n_workers)
    assert re.search(r"load_data: stopped at [89] of 40 images, ", capsys.readouterr().out)


def test_the_last_line_counts_images_that_did_not_fit_or_failed(tmp_path: Path, capsys: Any) -> None:
    folder = many(tmp_path / "many", 40)
    (folder / "bad.png").write_bytes(b"")
    with pytest.warns(UserWarning):
        m.MemoryImageList.from_folder(folder, max_ram="600kB").load_data(on_error="warn")
    last = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(r"load_data: 41 images, [\d.]+ kB, [\d,]+ images/s, (\d+) did not fit, 1 failed, .*", last)
    assert found and 20 <= int(found[1]) <= 25, last


def test_the_last_line_counts_images_that_cannot_be_kept(tmp_path: Path, capsys: Any) -> None:
    class Drawn(m.MemoryImageList):
        def open(self, fn: Any) -> Any:
            np.random.rand()
            return super().open(fn)

    with pytest.warns(UserWarning, match=r"Drawn over .*many: .* draws random numbers. Please leave"):
        Drawn.from_folder(many(tmp_path / "many", 40)).load_data()
    assert ", 40 can't be kept, " in capsys.readouterr().out.splitlines()[-1]


class Closed:
    "An ASCII stream that fails on every write."

    encoding = "ascii"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_images_are_loaded_when_output_fails(
    tmp_path: Path, error: Exception, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    il = m.MemoryImageList.from_folder(many(tmp_path / "many", 20))
    monkeypatch.setattr(progress, "_in_terminal", lambda: terminal)
    monkeypatch.setattr(sys, "stdout", Closed(error))
    il.load_data()
    assert il.loaded


def test_ctrl_c_is_raised_when_output_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    il = m.MemoryImageList.from_folder(many(tmp_path / "many", 20))

    def interrupted(self: Any, job: Any, wait: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(filling.Fill, "_do", interrupted)
    monkeypatch.setattr(sys, "stdout", Closed(BrokenPipeError()))
    with pytest.raises(KeyboardInterrupt):
        il.load_data()


def test_progress_false_prints_nothing(tmp_path: Path, capsys: Any) -> None:
    m.MemoryImageList.from_folder(many(tmp_path / "many", 12)).load_data(progress=False)
    assert capsys.readouterr().out == ""


def test_images_are_loaded_without_standard_output(tmp_path: Path) -> None:
    many(tmp_path / "many", 12)
    code = load(tmp_path / "many", 0, before="sys.stdout = None")
    assert subprocess.run([sys.executable, "-c", code], env=environment()).returncode == 0


# -- a terminal ---------------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_that_ends_its_line(tmp_path: Path) -> None:
    many(tmp_path / "many", 40)
    code = load(tmp_path / "many", 2, after="print('next')")
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", code], stdout=theirs, env=environment()) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            text += piece
        os.close(ours)
    shown = text.decode()
    assert process.returncode == 0
    assert "█" in shown and "100.00% [40/40" in shown and "images/s" in shown and " MB" in shown
    assert shown.replace("\r\n", "\n").endswith("\nnext\n")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for term, kind in (("xterm", progress.Bar), ("dumb", progress.Lines)):
        monkeypatch.setenv("TERM", term)
        assert type(progress.progress(3, "load_data")) is kind


# -- a notebook ---------------------------------------------------------------------------------------------------


class Text(HTMLParser):
    "Collect the visible text and the bars of HTML; fail if tags do not match."

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: List[str] = []
        self.text: List[str] = []
        self.bars: List[Tuple[float, float]] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        if tag == "progress":
            given = dict(attrs)
            self.bars.append((float(given["value"]), float(given["max"])))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_notebook_gets_a_bar_and_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for i in range(24):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        photo(i).save(folder / "ab"[i % 2] / f"{i}.png")
    cells = [
        "import warnings; warnings.simplefilter('ignore')\nfrom fastai.vision import *\nfrom memlist import *",
        f"il = MemoryImageList.from_folder({str(folder)!r}, presort=True)\nil.load_data();",
        "il.cache_info()",
        "print(il.cache_info())",
        "import memlist\n"
        "def make(cls): return (cls.from_folder(il.path).split_by_rand_pct(0.25, seed=1).label_from_folder()\n"
        "                       .transform(size=16).databunch(bs=3, num_workers=0))\n"
        "memlist.compare(make, lambda data: Learner(data, simple_cnn((3, 4, data.c)), metrics=accuracy), epochs=2)",
        "data = make(MemoryImageList)\nlearn = Learner(data, simple_cnn((3, 4, data.c)))\n"
        "learn.fit(2, callbacks=[DataWait(learn)])\nlearn.data_wait.plot()",
        "learn.data_wait",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    loaded, table, printed, compared, waited, said = (cell.outputs for cell in book.cells[1:])
    bars = [Text(out.data["text/html"]) for out in loaded if "data" in out and "<progress" in out.data["text/html"]]
    assert bars[-1].bars == [(24.0, 24.0)] and "images/s" in "".join(bars[-1].text)
    assert not any("\r" in out.text or "█" in out.text for out in loaded if out.output_type == "stream")
    html = Text(table[0].data["text/html"])
    assert html.text == [
        "images", "24 of 24 cached (100 %)",
        "store", re.sub(r".*store: ([^\n]*).*", r"\1", printed[0].text, flags=re.DOTALL),
        "reads", "none so far",
    ]  # fmt: skip
    assert html.bars[0] == (1.0, 1.0)
    assert table[0].data["text/plain"].startswith("images: 24 of 24 cached (100 %)\nstore: ")
    pictures = [out for out in compared if "image/png" in out.get("data", {})]
    tables = [out.data["text/html"] for out in compared if out.output_type == "execute_result"]
    assert len(pictures) == 1 and len(tables) == 1
    assert Text(tables[0]).text[:2] == ["ImageList", "MemoryImageList"]
    assert "train_loss" not in str(compared)  # tables of single epochs are not shown
    assert "data_wait" in str(waited) and [out for out in waited if "image/png" in out.get("data", {})]
    assert said[0].data["text/plain"].splitlines()[0].split() == ["epoch", "seconds", "waiting", "data_wait"]


# -- CacheInfo ----------------------------------------------------------------------------------------------------


def test_cache_info_is_formatted() -> None:
    info = m.CacheInfo(2999, 3000, 123_456_789, 8_000_000_000, 12_345, 3_000)
    assert str(info).splitlines() == [
        "images: 2,999 of 3,000 cached (99 %)",  # never 100 while one is missing
        "store: 123 MB of at most 8 GB",
        "reads: 12,345 hits (80 %), 3,000 misses",
    ]
    assert repr(info).startswith("CacheInfo(cached=2999, total=3000, nbytes=123456789")
    cached, total, *_ = info
    assert (cached, total) == (2999, 3000) == info[:2]
    assert [value for value, _ in Text(info._repr_html_()).bars] == pytest.approx(
        [2999 / 3000, 0.0154, 0.8045], abs=1e-3
    )
    empty = m.CacheInfo(0, 0, 0, 0, 0, 0)
    assert str(empty) == "images: none to open\nstore: 0 B of at most 0 B\nreads: none so far"
    Text(empty._repr_html_())


def test_whole_percentages_are_exact() -> None:
    for hundredths in range(101):
        info = m.CacheInfo(hundredths, 100, 0, 0, hundredths, 100 - hundredths)
        assert f"({hundredths} %)" in str(info).splitlines()[0] and f"({hundredths} %)" in str(info).splitlines()[2]


def test_ipython_prints_cache_infos_in_lists_by_repr() -> None:
    from IPython.lib.pretty import pretty

    info = m.CacheInfo(1, 1, 1, 1, 1, 1)
    assert pretty(info) == str(info) and pretty([info, 1]) == f"[{info!r}, 1]"
