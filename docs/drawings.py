"""Show pictures that have a light and a dark drawing, as the theme of the site is switched."""

from __future__ import annotations

import re

#: How a page names the two drawings for code hosts, which choose by the reader's system.
PICTURE = re.compile(
    r'<picture>\n<source media="\(prefers-color-scheme: dark\)" srcset="(\S+)">\n'
    r'<img alt="(.*)" src="(\S+)">\n</picture>'
)


def switched(text: str) -> str:
    "Return a page in which each drawing is an image of its own, with the class by which the theme shows or hides it."
    return PICTURE.sub(r"![\2](\3){.only-light} ![\2](\1){.only-dark}", text)
