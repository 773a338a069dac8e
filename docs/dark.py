"""Make the dark drawings of "How it works" from the light ones: `python docs/dark.py`; `--check` only compares.

The light drawings are written by hand. A dark one differs in its colours only. `make docs` runs this.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List

HERE = Path(__file__).resolve().parent
DRAWINGS = ("store.svg", "floors.svg")

#: What each colour of a light drawing becomes in the dark one.
COLOURS: Dict[str, str] = {
    "#ffffff": "#131416",  # the page; dark pages of the site have this colour
    "#fff": "#131416",
    "#1f2933": "#eceff2",  # text
    "#52606d": "#b3bdc7",  # less important text, frames, arrows
    "#cbd2d9": "#48525c",  # the hatching of free space
    "#9aa5b1": "#6b7682",  # its border
    "#f5f7fa": "#23282d",  # the package
    "#e3f0f9": "#0f2c40",  # blue areas, and their borders
    "#0072b2": "#4aa3df",
    "#d9f0e7": "#10342a",  # green areas
    "#00805d": "#2bb58c",
    "#eef8f4": "#16231f",  # the cone between a record and its enlargement
    "#fdf0d5": "#3a2b0c",  # yellow areas
    "#b07200": "#e0a63c",
    "#f5e1ee": "#3b1f30",  # purple areas
    "#a8557f": "#d98bb3",
}


def dark(text: str) -> str:
    "Return the dark form of a drawing. Raises KeyError for a colour that has none."
    return re.sub(r"#[0-9a-f]{3}(?:[0-9a-f]{3})?\b", lambda found: COLOURS[found[0]], text)


def main(arguments: List[str]) -> int:
    "Write the dark drawings, or return 1 if one is not what it would be."
    parser = argparse.ArgumentParser(description="Make the dark drawings from the light ones.")
    parser.add_argument("--check", action="store_true", help="only compare, and name drawings that differ")
    options = parser.parse_args(arguments)
    differ = []
    for name in DRAWINGS:
        light = HERE / name
        path = light.with_name(f"{light.stem}-dark.svg")
        text = dark(light.read_text("utf-8"))
        if not path.exists() or path.read_text("utf-8") != text:
            differ.append(path.name)
            if not options.check:
                path.write_text(text, "utf-8")
    if options.check and differ:
        print(f"{', '.join(differ)}: not made from the light drawing. Run `python docs/dark.py`.", file=sys.stderr)
    return int(options.check and bool(differ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
