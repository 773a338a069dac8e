"""The pages state what the raw figures show, and a page that does not is noticed."""

# ruff: noqa: RUF001  (the pages write × for times)
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def raw(tmp_path: Path) -> Any:
    "Return results in which memlist is twice as fast as stock, and once with two workers."
    from claims_numbers import Raw

    cases = [
        {"name": name, "samples": {"stock": [2.0, 2.0, 9.0], "memlist": [ours] * 3}, "ratios": [RATIO]}
        for name, ours in (("none", 1.0), ("two", 2.0))
    ]
    (tmp_path / "figures.json").write_text(json.dumps({"rows": {"warm": {"cases": cases}}}))
    return Raw(tmp_path)


RATIO = {"what": "over stock's", "above": "stock", "below": "memlist", "bound": None}


def warm(case: str) -> Any:
    from claims_numbers import figure

    return figure("warm", case, "over stock's")


# -- the pages ------------------------------------------------------------------------------------------------


def test_pages_state_what_the_figures_show() -> None:
    import claims

    done = claims.review(claims.pages(), claims.CLAIMS, claims.CONSTANTS, claims.Raw())
    assert not done.mended, "python benchmarks/claims.py"
    assert not done.wrong


def numbered() -> Iterator[Any]:
    "List the claims that have numbers, each with the places of these in its page."
    import claims
    from claims_found import pattern

    pages = claims.pages()
    for one in claims.CLAIMS:
        if one.numbers:
            found = pattern(one.words).search(pages[one.page])
            assert found is not None, one
            yield pages, one, [found.span(k + 1) for k in range(len(one.numbers))]


def test_a_wrong_number_of_any_claim_is_noticed_and_mended() -> None:
    import claims

    raw, seen = claims.Raw(), 0
    for pages, one, spans in numbered():
        text = pages[one.page]
        for begin, end in spans:
            wrong = {one.page: f"{text[:begin]}7.77{text[end:]}"}
            done = claims.review(wrong, [one], (), raw)
            assert len(done.mended) == 1 and "7.77 is " in done.mended[0] and done.pages[one.page] == text
            seen += 1
    assert seen >= 30


def test_the_readme_and_the_home_page_have_claims() -> None:
    import claims

    for page in ("README.md", "docs/index.md"):
        assert sum(len(one.numbers) for one in claims.CLAIMS if one.page == page) >= 10
        assert page in claims.pages() and page not in claims.ELSEWHERE


def test_pages_that_are_left_out_exist() -> None:
    import claims

    assert all((ROOT / page).exists() and reason for page, reason in claims.ELSEWHERE.items())


def test_the_command_checks_and_lists() -> None:
    command = [sys.executable, str(BENCHMARKS / "claims.py")]
    done = subprocess.run([*command, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    done = subprocess.run([*command, "--list"], capture_output=True, text=True, check=True)
    assert "| page | claim | condition |" in done.stdout and "{}" not in done.stdout
    assert "**contradicted**" not in done.stdout


# -- the rules ------------------------------------------------------------------------------------------------


def test_numbers_are_written_into_the_sentence_wherever_its_lines_break(raw: Any) -> None:
    from claims_found import claim, review
    from claims_numbers import times

    one = claim("a.md", "delivers {} × the images, and {} × with two", times(warm("none")), times(warm("two")))
    pages = {"a.md": "It delivers 1,234.5 ×\nthe images,\n  and 1.0 × with two.\n", "b.md": "Nothing.\n"}
    done = review(pages, [one], (), raw)
    assert done.pages == {**pages, "a.md": "It delivers 2.0 ×\nthe images,\n  and 1.0 × with two.\n"}
    assert done.mended == ["a.md:1: 1,234.5 is 2.0 in the figures: 'delivers {} × the images, and {} × with two'"]
    assert not done.wrong and not review(done.pages, [one], (), raw).mended


def test_a_claim_follows_the_figures(raw: Any) -> None:
    from claims_found import claim, review
    from claims_numbers import times

    one = claim("a.md", "{} × the images", times(warm("none")))
    for case in raw["figures"]["rows"]["warm"]["cases"]:
        case["samples"]["stock"] = [17.2] * 3
    assert review({"a.md": "2.0 × the images"}, [one], (), raw).pages == {"a.md": "17 × the images"}


def test_a_sentence_that_is_gone_is_reported(raw: Any) -> None:
    from claims_found import claim, review
    from claims_numbers import times

    one = claim("a.md", "{} × the images", times(warm("none")))
    assert review({"a.md": "Fast."}, [one], (), raw).wrong == ["a.md: the claim is not there: '{} × the images'"]
    assert "there is no such page" in review({}, [one], (), raw).wrong[0]


def test_words_that_the_figures_contradict_are_reported(raw: Any) -> None:
    from claims_found import claim, review
    from claims_numbers import at_least, at_most, both

    page = {"a.md": "It is as fast as stock."}

    def wrong(holds: Any) -> Any:
        return review(page, [claim("a.md", "as fast as stock", holds=holds)], (), raw).wrong

    assert wrong(at_least(1, warm("none"), warm("two"))) == []
    assert wrong(both(at_least(1, warm("none")), at_most(1.5, warm("none")))) == [
        "a.md: the figures contradict 'as fast as stock'"
    ]


@pytest.mark.parametrize(
    "words",
    [
        "2.0 ×",
        "3x",
        "16 times",
        "ten times",
        "1,234 images/s",
        "24 %",
        "5 µs",
        "0.3 ms",
        "five seconds",
        "twice",
        "1/10.4",
        "a tenth",
        "four fifths",
        "tens of microseconds",
        "is slower",
        "the fastest",
        "as fast as",
        "an order of magnitude",
    ],
)
def test_what_looks_measured_has_to_be_a_claim_or_a_constant(raw: Any, words: str) -> None:
    from claims_found import Constant, review

    pages = {"a.md": f"Here it is\n{words} of the\nwhole.\n"}
    (wrong,) = review(pages, (), (), raw).wrong
    assert wrong.startswith("a.md:") and wrong.endswith("is neither a claim nor a constant")
    found = re.search(r"'(.*)'", wrong)
    assert found and found[1] in words + " is"
    assert review(pages, (), [Constant(f"{words} of the whole", "a reason")], raw)[2:] == ([], [])


def test_a_constant_covers_no_other_sentence(raw: Any) -> None:
    from claims_found import Constant, review

    done = review({"a.md": "80 % of memory, 70 % of time"}, (), [Constant("{} % of memory", "a default")], raw)
    assert done.wrong == ["a.md:1: '70 %' is neither a claim nor a constant"]
    assert review({"a.md": ""}, (), [Constant("{} % of memory", "a default")], raw).unused


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nsleep 5 seconds\n```",
        "`5 seconds`",
        "[here](5%20s.md)",
        "500×375 to 224",
        "2 workers",
        "Target: ≤ 2 times.",
        "version 2.14",
        "$share % of it",
        "# 28x28 images",
    ],
)
def test_code_addresses_sizes_and_targets_do_not_look_measured(raw: Any, text: str) -> None:
    from claims_found import review

    assert review({"a.md": f"Before.\n\n{text}\n\nAfter.\n"}, (), (), raw).wrong == []


def test_a_claim_needs_as_many_numbers_as_gaps_and_something_that_could_contradict_it() -> None:
    from claims_found import claim
    from claims_numbers import times

    with pytest.raises(ValueError, match="1 gaps for 0 numbers"):
        claim("a.md", "{} ×")
    with pytest.raises(ValueError, match="0 gaps for 1 numbers"):
        claim("a.md", "fast", times(warm("none")))
    with pytest.raises(ValueError, match="0 gaps for 0 numbers"):
        claim("a.md", "fast")


def test_a_number_that_was_not_measured_is_an_error(raw: Any) -> None:
    from claims_numbers import figure

    with pytest.raises(KeyError, match=r"figures\.json has no .* of .*three.* in .*warm"):
        warm("three")(raw)
    with pytest.raises(KeyError):
        figure("cold", "none", "over stock's")(raw)


@pytest.mark.parametrize(
    "value, text", [(0.0549, "0.05"), (0.184, "0.2"), (4.157, "4.2"), (36.0, "36"), (720.66, "720"), (5.25, "5.2")]
)
def test_gigabytes_have_two_digits(raw: Any, value: float, text: str) -> None:
    from claims_numbers import gigabytes

    assert gigabytes(lambda raw: 1e9 * value)(raw) == text
