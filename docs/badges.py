"""Draw the badges of the README from files of the repository: `python docs/badges.py`; `--check` only compares.

Badges from a service would need the network, and could not be read offline. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import re
import sys
from html import escape
from pathlib import Path
from typing import Dict, List, Tuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: Both halves of a badge: the color of the right one, in hexadecimal.
LABEL, VALUE = "#555555", "#0072b2"

#: Width of a character and margin of a text, in pixels, for sans-serif letters of 11 pixels.
CHARACTER, MARGIN = 6.6, 6


def _found(pattern: str, file: str) -> str:
    "Return the first group of `pattern` in a file of the repository."
    found = re.search(pattern, (ROOT / file).read_text("utf-8"))
    if found is None:
        raise SystemExit(f"{file} has nothing like {pattern!r}, which a badge shows.")
    return found[1]


def _versions(files: List[str], package: str) -> str:
    "Return the oldest and the newest release of a package, as minor versions, that the constraints of tests name."
    found = [_found(rf"(?m)^{package}==(\d+\.\d+)", file) for file in files]
    return " to ".join(dict.fromkeys(found))


def badges() -> Dict[str, Tuple[str, str]]:
    "Return label and value of each badge, by the name of its file."
    pythons = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text("utf-8"))
    return {
        "version": ("memlist", _found(r"(?m)^version: (.*)", "CITATION.cff")),
        "python": ("Python", f"{pythons[0]} to {pythons[-1]}"),
        "torch": ("torch", _versions(["constraints-legacy.txt", "constraints.txt"], "torch")),
        "license": ("license", _found(r'license = \{text = "(.*?)"\}', "pyproject.toml")),
        "types": (
            "types",
            "mypy, " + ("strict" if _found(r"\nstrict = (\w+)", "pyproject.toml") == "true" else "basic"),
        ),
    }


def draw(label: str, value: str) -> str:
    "Return a badge as SVG."
    left, right = (round(len(text) * CHARACTER) + 2 * MARGIN for text in (label, value))
    label, value = escape(label), escape(value)
    size = f'width="{left + right}" height="20"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<clipPath id="round"><rect {size} rx="3"/></clipPath>
<g clip-path="url(#round)"><rect width="{left}" height="20" fill="{LABEL}"/>
<rect x="{left}" width="{right}" height="20" fill="{VALUE}"/></g>
<g fill="#ffffff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left / 2}" y="14" textLength="{left - 2 * MARGIN}">{label}</text>
<text x="{left + right / 2}" y="14" textLength="{right - 2 * MARGIN}">{value}</text></g>
</svg>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a committed badge is not what would be drawn")
    check = parser.parse_args().check
    stale = []
    for name, texts in badges().items():
        file, drawn = HERE / "badges" / f"{name}.svg", draw(*texts)
        if not file.exists() or file.read_text("utf-8") != drawn:
            stale.append(file.name)
            if not check:
                file.write_text(drawn, "utf-8")
    if check and stale:
        sys.exit(f"These badges are out of date; `python docs/badges.py` draws them: {', '.join(stale)}")


if __name__ == "__main__":
    main()
