"""Fill the Markdown templates of templates/ with figures.

A template is the page as it is read, with `$name` where a figure belongs. Left out are:

- a section, from its heading `## ...` to the next, if any name in it is missing, as after `--only`;
- the text between `<!-- if name -->` and `<!-- end -->`, if that name is missing, false or empty.
"""

import re
from pathlib import Path
from string import Template
from typing import Any, Dict, List, NamedTuple, Sequence, Set

TEMPLATES = Path(__file__).resolve().parent / "templates"
CONDITION = re.compile(r"<!-- if (\w+) -->\n(.*?)<!-- end -->\n?", re.DOTALL)
NAME = re.compile(r"\$\{?(\w+)")
#: A plot in a template, and how the page shows it: the dark drawing where the reader's pages are dark.
PLOT = re.compile(r"!\[([^\]]*)\]\((results/[\w-]+)\.svg\)")
PICTURE = r"""<picture>
<source media="(prefers-color-scheme: dark)" srcset="\2-dark.svg">
<img alt="\1" src="\2.svg">
</picture>"""


class Section(NamedTuple):
    "One section of a template."

    title: str
    #: The line `Target: ...`, without that word and the full stop; empty if there is none.
    target: str
    #: The names of its figures.
    names: Set[str]


def template(name: str) -> str:
    "Return the text of templates/NAME.md."
    return (TEMPLATES / f"{name}.md").read_text("utf-8")


def sections(text: str) -> List[Section]:
    "List the sections of a template, in order."
    found = []
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        target = re.search(r"^Target: (.*)\.$", part, re.MULTILINE)
        found.append(Section(part.splitlines()[0], target[1] if target else "", set(NAME.findall(part))))
    return found


def titles(name: str) -> Dict[str, str]:
    "Map each figure of a template to the title of its section."
    return {key: section.title for section in sections(template(name)) for key in section.names}


def fill(text: str, values: Dict[str, Any]) -> str:
    "Return the page: `text` with `values` in it, without what has no values."
    text = CONDITION.sub(lambda found: found[2] if values.get(found[1]) else "", text)
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    kept = "".join(part for part in parts if set(NAME.findall(part)) <= set(values))
    filled = Template(kept).substitute(values)
    return re.sub(r"\n{3,}", "\n\n", PLOT.sub(PICTURE, filled)).strip() + "\n"


def number(value: float) -> str:
    "Write a rate."
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    "Write a time."
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def table(head: Sequence[str], lines: Sequence[Sequence[str]], words: int = 1) -> str:
    "Return a Markdown table; its first `words` columns are text, the others numbers."
    made = ["| " + " | ".join(head) + " |", "|" + " --- |" * words + " ---: |" * (len(head) - words)]
    return "\n".join(made + ["| " + " | ".join(line) + " |" for line in lines])


def machine(surroundings: Dict[str, Any]) -> Dict[str, Any]:
    "Return the values of a page's section on the machine."
    versions = ", ".join(f"{name} {version}" for name, version in surroundings["versions"].items())
    revision = (surroundings["revision"] or "unknown")[:10]
    load = f"{surroundings['load_at_start']:.2f}"
    return {**surroundings, "versions": versions, "revision": revision, "load_at_start": load}
