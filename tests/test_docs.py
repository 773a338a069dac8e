"""The documentation: its code runs, its links have targets, and its reference is complete."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import matplotlib.pyplot as plt
import memlist.compat
import pytest
from test_readme import data as data  # the pages use the same folders
from torchvision_helpers import v2

from memlist.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# The pages whose code needs fastai 2; tests/fastai2/test_page.py runs it.
OF_FASTAI2 = ("fastai2",)


def text_of(page: Path) -> str:
    "Return the Markdown of a page, with included files."
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
    "Return the text of a page without its code."
    return re.sub(r"^(`{3,}).*?^\1$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors_of(page: Path) -> Set[str]:
    "Return the anchors of a page's headings, as GitHub and MyST name them."
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE):
        found.add(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks_of(page) and page.stem not in OF_FASTAI2], ids=lambda page: page.stem
)
def test_every_code_block_runs(page: Path, data: None) -> None:
    if v2 is None and page.stem == "pytorch":
        pytest.skip("torchvision has no transforms.v2")
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
    yield from re.findall(r'\b(?:src|srcset)="(\S+)"', prose_of(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_have_targets(page: Path) -> None:
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pictures_with_two_drawings_follow_the_switch_of_the_theme(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    from drawings import switched

    text = text_of(page)
    shown = switched(text)
    assert "<picture>" not in shown
    assert shown.count("{.only-light}") == shown.count("{.only-dark}") == text.count("<picture>")


def test_dark_drawings_are_made_from_the_light_ones() -> None:
    subprocess.run([sys.executable, str(DOCS / "dark.py"), "--check"], check=True, timeout=60)


def test_the_reference_is_complete() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in set(memlist.__all__) - {"compat"}:
        assert re.search(rf":: memlist\.{name}\b", text), name
    for repair in memlist.compat.REPAIRS:
        assert f":: memlist.compat.{repair.__name__}\n" in text
    for module, name in re.findall(r"auto\w+:: (memlist(?:\.[a-z]+)?)\.([A-Za-z]\w+(?:\.\w+)?)", text):
        found = __import__(module, fromlist=["_"])
        for part in name.split("."):
            found = getattr(found, part)


def test_the_reference_lists_all_commands(capsys: Any) -> None:
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
