"""The documentation: its code runs, its links lead somewhere, its plots show the committed figures."""

from __future__ import annotations

import html
import json
import re
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import matplotlib.pyplot as plt
import pytest
from test_readme import data as data  # the folders that the pages speak of, too

import memlist.compat
from memlist.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def text_of(page: Path) -> str:
    "The Markdown of a page, with what it includes."
    text = page.read_text(encoding="utf-8")
    return re.sub(
        r"^```\{include\} (\S+)\n(?::.*\n)*```$",
        lambda found: (page.parent / found[1]).read_text(encoding="utf-8"),
        text,
        flags=re.MULTILINE,
    )


def blocks_of(page: Path) -> List[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def prose_of(page: Path) -> str:
    "The text of a page without its code."
    return re.sub(r"^(`{3,}).*?^\1$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> Set[str]:
    "What its headings are called in links, as GitHub and MyST call them."
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        found.add(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda page: page.stem)
def test_every_code_block_runs(page: Path, data: None) -> None:
    space: Dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks_of(page):
            exec(compile(block, str(page), "exec"), space)
            if "databunch" in block and hasattr(space.get("data"), "one_batch"):
                x, _ = space["data"].one_batch()
                assert len(x)
    plt.close("all")


def test_every_page_is_reached_from_the_index() -> None:
    reached: Set[Path] = set()
    todo = [DOCS / "index.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
            for name in tree.split("\n"):
                if name.startswith("notebooks/"):  # where the build copies them
                    assert (ROOT / f"examples/{Path(name).name}.ipynb").exists(), name
                elif name and not name.startswith(":"):
                    todo.append(DOCS / f"{name}.md")
                    assert todo[-1].exists(), f"{page.name} names {name}"
    assert reached == set(PAGES)


def links_of(page: Path) -> Iterator[str]:
    yield from re.findall(r"\]\(([^)\s]+)\)", prose_of(page))
    yield from re.findall(r"^```\{image\} (\S+)$", text_of(page), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    included = re.search(r"^```\{include\} (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    folder = (page.parent / included[1]).parent if included else page.parent
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = folder / file if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_the_reference_is_complete() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in set(memlist.__all__) - {"compat"}:
        assert re.search(rf":: memlist\.{name}\b", text), name
    for repair in memlist.compat.REPAIRS:
        assert f":: memlist.compat.{repair.__name__}\n" in text
    for module, name in re.findall(r":: (memlist(?:\.[a-z]+)?)\.([A-Za-z]\w+(?:\.\w+)?)", text):
        found = __import__(module, fromlist=["_"])
        for part in name.split("."):
            found = getattr(found, part)


def test_the_reference_has_all_commands(capsys: Any) -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")

    def usage(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main([*arguments, "--help"])
        return str(capsys.readouterr().out)

    commands = re.search(r"\{([\w,]+)\}", usage())
    assert commands
    for command in commands[1].split(","):
        row = re.search(rf"^\| `{command} (.*)`", text, re.MULTILINE)
        assert row, command
        for option in re.findall(r"--\w+", usage(command)):
            assert option == "--help" or option in row[1]


def test_the_plots_show_the_committed_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plots

    raw = ROOT / "benchmarks/results"
    figures, beside = (json.loads((raw / f"{name}.json").read_text("utf-8")) for name in ("figures", "beside"))
    wanted = {**plots.plots(figures), **plots.beside(beside)}
    drawn = {path.stem: path for path in plots.main(tmp_path)}
    pages = "".join(text_of(page) for page in PAGES)
    assert set(drawn) == set(wanted)
    for name, plot in wanted.items():
        bars = [(group, bar) for panel in plot for group, bars in panel.groups.items() for bar in bars]
        ids = {plots.mark(name, group, bar) for group, bar in bars}
        assert len(ids) == len(bars)
        numbers = sorted(plots.number(bar.median) for _, bar in bars)
        for path in (drawn[name], ROOT / f"benchmarks/results/{name}.svg"):
            svg = path.read_text(encoding="utf-8")
            assert {found for found in re.findall(r'id="([^"]*)"', svg) if "=" in found} == ids, f"make {path} anew"
            texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
            assert all(texts.count(number) >= numbers.count(number) for number in numbers)
            assert not re.search(r"<dc:date>", svg)
        assert f"results/{name}.svg)" in pages
