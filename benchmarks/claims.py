"""Keep the numbers in the prose pages equal to the raw figures: `python benchmarks/claims.py` rewrites them.

A claim is a piece of a page's text, with `{}` where a number belongs. The pages are plain Markdown: a claim is found by
its words. Its numbers are computed from results/*.json, by the functions that make the cells of the benchmark pages. A
claim in words ("twice", "no slower") has a condition. If the figures contradict it, no program can mend the sentence,
and it is reported.

    python benchmarks/claims.py            # rewrite the numbers, and report what needs an author
    python benchmarks/claims.py --check    # change nothing, and report every difference
    python benchmarks/claims.py --list     # print all claims with their numbers, as a table

All words of a page that look measured have to be part of a claim, or of a constant. A constant is a number that nobody
measured, such as a default, and has a reason. To add one of either, add it to claims_made.py or claims_constants.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Dict, List

from claims_constants import CONSTANTS
from claims_found import Claim, review
from claims_made import CLAIMS
from claims_numbers import Raw
from page import TEMPLATES, table

ROOT = Path(__file__).resolve().parents[1]

#: Pages whose numbers are not claims of this module, with the reason.
ELSEWHERE = {
    "CONTRIBUTING.md": "says how long its commands take, which no figure measures",
    "CHANGELOG.md": "has what was measured when a change was made",
    "docs/reliability.md": "is made by `make test-faults`; tests/test_reliability.py compares it with its raw counts",
}


def pages() -> Dict[str, str]:
    "Return the text of the pages that people write, and of the templates of the benchmark pages, by their paths."
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *TEMPLATES.glob("*.md")]
    names = {file.relative_to(ROOT).as_posix(): file for file in sorted(files)}
    return {name: file.read_text("utf-8") for name, file in names.items() if name not in ELSEWHERE}


def listed(claims: List[Claim], raw: Raw) -> str:
    "Return the table of claims, with the numbers that the figures give them."
    lines = []
    for one in claims:
        words = one.words.replace("|", "\\|")
        for write in one.numbers:
            words = words.replace("{}", write(raw), 1)
        held = "" if one.holds is None else "holds" if one.holds(raw) else "**contradicted**"
        lines.append([one.page, words, held])
    return table(("page", "claim", "condition"), lines, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and report every difference")
    parser.add_argument("--list", action="store_true", help="print the table of claims")
    given = parser.parse_args()
    raw = Raw()
    if given.list:
        sys.stdout.write(listed(CLAIMS, raw) + "\n")
        return 0
    before = pages()
    done = review(before, CLAIMS, CONSTANTS, raw)
    if not given.check:
        for name, text in done.pages.items():
            if text != before[name]:
                (ROOT / name).write_text(text, "utf-8")
    for line in [*done.mended, *done.wrong, *done.unused]:
        sys.stdout.write(f"{line}\n")
    return int(bool(done.wrong or (given.check and done.mended)))


if __name__ == "__main__":
    sys.exit(main())
