"""Find claims in the text of pages, write their numbers, and report what looks measured and is no claim."""

# ruff: noqa: RUF001  (the pages write × for times)
from __future__ import annotations

import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Pattern, Sequence, Tuple

from claims_numbers import Raw, Text, Truth

#: How a page writes a number that a claim may replace.
NUMBER = r"\d(?:[\d,]*\d)?(?:\.\d+)?"
_COUNT = r"\d[\d,.]*|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen|twenty|thirty|forty|fifty|hundred"
_PART = r"third|quarter|fifth|sixth|seventh|eighth|ninth|tenth|twentieth|hundredth|thousandth"
_UNIT = (
    r"times|per cent|images? per second|images/s|(?:milli|micro|nano)?seconds?|minutes?|hours?|bytes|[kMG]B/s|"
    r"[kMGT]i?B|ms|µs|ns|s"
)
#: What looks measured: a number or a count with a unit, a part, a comparison in words.
MEASURED = re.compile(
    rf"\d[\d,.]*\s*(?:%|[×x](?!\s*\d)(?!\w))"
    rf"|\b(?:{_COUNT})[\s-]+(?:{_UNIT})\b"
    r"|\b1/\d[\d.]*\b"
    rf"|\b(?:tens|dozens|hundreds|thousands) of (?:{_UNIT})\b"
    rf"|\b(?:an?|one|two|three|four|nine) (?:{_PART})s?\b"
    r"|\b(?:twice|thrice|orders? of magnitude|many times|as fast as|as slow as)\b"
    r"|\b(?:\w+ )?(?:faster|slower|fastest|slowest)\b",
    re.IGNORECASE,
)
#: What no reader takes for a measurement: code, addresses, HTML, and in templates targets and names.
UNREAD = re.compile(
    r"^(`{3,})[^\n]*\n.*?^\1$|`[^`\n]+`|\]\([^)\s]*\)|<[^>\n]*>|^Target: [^\n]*$|\$\{?\w+\}?", re.MULTILINE | re.DOTALL
)


class Claim(NamedTuple):
    "A piece of a page that states something measured."

    #: The page, from the root of the repository.
    page: str
    #: The words, with `{}` for each number; any white space matches any other.
    words: str
    #: What each number is.
    numbers: Tuple[Text, ...] = ()
    #: A condition on the figures, without which the words are wrong.
    holds: Optional[Truth] = None


class Constant(NamedTuple):
    "Words that look measured, and are not, with the reason."

    #: The words, with `{}` for any number.
    words: str
    reason: str


def claim(page: str, words: str, *numbers: Text, holds: Optional[Truth] = None) -> Claim:
    "Return a claim; raise a ValueError if its numbers don't fit its words, or if nothing could contradict it."
    if words.count("{}") != len(numbers) or not (numbers or holds):
        raise ValueError(f"{page}: {words!r} has {words.count('{}')} gaps for {len(numbers)} numbers")
    return Claim(page, words, numbers, holds)


def pattern(words: str) -> Pattern[str]:
    "Return what finds `words` in a page, however its lines are broken."
    found = [re.sub(r"(?:\\?\s)+", lambda _: r"\s+", re.escape(part)) for part in words.split("{}")]
    return re.compile(f"({NUMBER})".join(found))


def line_of(text: str, place: int) -> int:
    "Return the number of the line in which a place lies."
    return text.count("\n", 0, place) + 1


class Reviewed(NamedTuple):
    "Pages whose numbers are those of the figures, and what was wrong, a line each."

    pages: Dict[str, str]
    #: Numbers that differed from the figures; `pages` has them right.
    mended: List[str]
    #: What nobody but an author can mend.
    wrong: List[str]
    #: Constants that no page has any more.
    unused: List[str]


def review(pages: Dict[str, str], claims: Sequence[Claim], constants: Sequence[Constant], raw: Raw) -> Reviewed:
    "Hold every claim against the raw figures, and look for numbers that are neither claims nor constants."
    done = Reviewed(dict(pages), [], [], [])
    for one in claims:
        if one.page not in pages:
            done.wrong.append(f"{one.page}: there is no such page, but a claim on it: {one.words!r}")
            continue
        done.pages[one.page] = _rewritten(done.pages[one.page], one, raw, done)
    used = set()
    for page, text in done.pages.items():
        covered = [found.span() for one in claims if one.page == page for found in pattern(one.words).finditer(text)]
        for constant in constants:
            spans = [found.span() for found in pattern(constant.words).finditer(text)]
            covered += spans
            used |= {constant.words for _ in spans}
        done.wrong.extend(
            f"{page}:{line}: {said!r} is neither a claim nor a constant" for line, said in _bare(text, covered)
        )
    done.unused.extend(f"no page has the constant {one.words!r}" for one in constants if one.words not in used)
    return done


def _rewritten(text: str, one: Claim, raw: Raw, done: Reviewed) -> str:
    "Return the text of a page with the numbers of a claim; note in `done` what was wrong."
    numbers = [write(raw) for write in one.numbers]
    found = list(pattern(one.words).finditer(text))
    if not found:
        done.wrong.append(f"{one.page}: the claim is not there: {one.words!r}")
    if one.holds is not None and not one.holds(raw):
        done.wrong.append(f"{one.page}: the figures contradict {one.words!r}")
    for match in reversed(found):
        for k in range(len(numbers), 0, -1):
            begin, end = match.span(k)
            if match[k] != numbers[k - 1]:
                place = f"{one.page}:{line_of(text, begin)}"
                done.mended.append(f"{place}: {match[k]} is {numbers[k - 1]} in the figures: {one.words!r}")
                text = text[:begin] + numbers[k - 1] + text[end:]
    return text


def _bare(text: str, covered: Sequence[Tuple[int, int]]) -> Iterator[Tuple[int, str]]:
    "List what looks measured and lies outside of all `covered` spans: its line, and the words."
    read = UNREAD.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for found in MEASURED.finditer(read):
        if not any(begin <= found.start() and found.end() <= end for begin, end in covered):
            yield line_of(text, found.start()), " ".join(found[0].split())
