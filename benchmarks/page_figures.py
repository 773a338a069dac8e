"""Make the page figures.md from the raw samples and templates/figures.md: every number on it is computed here."""

from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
from measure import met, spread
from page import fill, machine, sections, template

Row = Dict[str, Any]
WARM, FIRST = "warm epoch, images/s over stock's", "first epoch, images/s over stock's"


class Verdict(NamedTuple):
    "A number that has a target."

    name: str
    number: float
    bound: Any

    @property
    def met(self) -> bool:
        "Tell whether the target was met."
        return met(self.number, self.bound)


def render(results: Dict[str, Any]) -> str:
    "Return the whole page."
    return fill(template("figures"), values_of(results))


def values_of(results: Dict[str, Any]) -> Dict[str, Any]:
    "Return everything that the template asks for, by name."
    rows, text = results["rows"], template("figures")
    kept = [all(verdict.met for verdict in found) for found in map(_verdicts, rows.values()) if found]
    values: Dict[str, Any] = {"summary": _summary(rows, text), "kept": sum(kept), "judged": len(kept), **_losses(rows)}
    surroundings = results.get("surroundings")
    if surroundings:
        values.update(machine(surroundings))
    if results.get("again"):
        values["again"] = ", ".join(f"{name} ({date})" for name, date in results["again"].items())
    for key, row in rows.items():
        missed = [verdict for verdict in _verdicts(row) if not verdict.met]
        values[key], values[f"{key}_notes"] = _body(row, missed), " ".join(row["notes"])
        values[f"{key}_missed"] = bool(missed)
    return values


# -- the beginning of the page --------------------------------------------------------------------------------


def _summary(rows: Dict[str, Row], text: str) -> str:
    "List every figure that has a target, with the range of what was measured."
    lines = ["| figure | target | measured | verdict |", "| --- | --- | --- | --- |"]
    for section in sections(text):
        key = next((key for key in rows if key in section.names), None)
        if key is None or not section.target:
            continue
        found = _verdicts(rows[key])
        missed = sum(not verdict.met for verdict in found)
        verdict = f"**missed** in {missed} of {len(found)}" if missed else "met"
        lines.append(f"| {section.title} | {section.target} | {_range(key, rows[key], found)} | {verdict} |")
    return "\n".join(lines)


def _range(key: str, row: Row, found: List[Verdict]) -> str:
    if key == "equal":
        count = sum(case["of"] for case in row["cases"])
        return f"{count - sum(case['value'] for case in row['cases'])} of {count} combinations equal"
    if key == "misses":
        return str(sum(verdict.number for verdict in found))
    if not found:
        return "not measured"
    numbers = [_number(number) for number in sorted(verdict.number for verdict in found)]
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} ({len(found)} cases)"


def _losses(rows: Dict[str, Row]) -> Dict[str, Any]:
    "Return the numbers in the section on where memlist is slower."
    values: Dict[str, Any] = {}
    tiny = ratio_of(rows, "small", "il[i]", "images/s over the dict's")
    if tiny:
        values["tiny_ratio"], values["tiny_lost"] = f"{tiny:.2f}", tiny < 1
        for name, samples in rows["small"]["cases"][0]["samples"].items():
            values[f"tiny_{name}"] = f"{1e6 * spread(samples)[0]:.0f}"
    for workers in (0, 2):
        later = ratio_of(rows, "first", f"default transforms, {workers} workers", WARM)
        filling = ratio_of(rows, "first", f"resize only, {workers} workers", FIRST)
        if later and filling:
            values[f"later_{workers}"], values[f"filling_{workers}"] = f"{later:.2f}", f"{filling:.2f}"
    return values


def ratio_of(rows: Dict[str, Row], key: str, name: str, what: str) -> Optional[float]:
    "Return a ratio of medians of one figure, by the names of its case and of the ratio; None where it is not there."
    for case in rows.get(key, {}).get("cases", ()):
        for wanted in case.get("ratios", ()):
            if case["name"] == name and wanted["what"] == what:
                return _ratio(case, wanted)[0]
    return None


# -- one figure -----------------------------------------------------------------------------------------------


def _ratio(case: Row, wanted: Dict[str, Any]) -> List[float]:
    "Return the ratio of medians, and the spread of the ratios within each round."
    above, below = (np.array(case["samples"][wanted[side]]) for side in ("above", "below"))
    return [float(np.median(above) / np.median(below)), *spread(above / below)]


def _verdicts(row: Row) -> List[Verdict]:
    "List every number of this row that has a target."
    found = []
    for case in row["cases"]:
        if case.get("bound"):
            found.append(Verdict(case["name"], case["value"], case["bound"]))
        for wanted in case.get("ratios", ()):
            if wanted["bound"]:
                found.append(Verdict(case["name"], _ratio(case, wanted)[0], wanted["bound"]))
    return found


def _body(row: Row, missed: List[Verdict]) -> str:
    "Return the tables of a figure, what missed its target, and what differs from stock."
    if not row["cases"]:
        return ""
    lines = _values(row["cases"]) if "value" in row["cases"][0] else _times_and_ratios(row["cases"])
    if missed:
        lines += ["", "Missed:", "", *(f"- {verdict.name}: {_number(verdict.number)}" for verdict in missed)]
    for case in row["cases"]:
        for different in case.get("different", ())[:5]:
            lines += ["", f"Different: {', '.join(different[:3])}"]
    return "\n".join(lines)


def _values(cases: List[Row]) -> List[str]:
    lines = ["| case | measured | target | verdict |", "| --- | --- | --- | --- |"]
    for case in cases:
        text = f"{_number(case['value'])} {case['unit']}"
        if len(case.get("samples", ())) > 1:
            text += f" ({min(case['samples']):.3g} to {max(case['samples']):.3g})"
        lines.append(f"| {case['name']} | {text} | {_verdict(case['value'], case['bound'])} |")
    return lines


def _times_and_ratios(cases: List[Row]) -> List[str]:
    names = list(cases[0]["samples"])
    lines = [f"| time per image | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for case in cases:
        times = [_times(case["samples"][name]) for name in names]
        lines.append(f"| {case['name']} | {' | '.join(times)} |")
    lines += ["", "| ratio | of medians | of pairs | target | verdict |", "| --- | --- | --- | --- | --- |"]
    for case in cases:
        for wanted in case["ratios"]:
            number, *pairs = _ratio(case, wanted)
            text = "{:.3f} [{:.3f} to {:.3f}]".format(*pairs)
            verdict = _verdict(number, wanted["bound"])
            lines.append(f"| {case['name']}: {wanted['what']} | **{number:.3f}** | {text} | {verdict} |")
    return lines


def _verdict(number: float, bound: Any) -> str:
    if not bound:
        return " | "
    sign = {"<=": "≤", ">=": "≥"}[bound[0]]
    return f"{sign} {bound[1]:g} | {'met' if met(number, bound) else '**missed**'}"


def _number(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.1f}" if abs(number) >= 10 else f"{number:.3f}"


def _times(samples: List[float]) -> str:
    unit, scale = ("ms", 1e3) if np.median(samples) > 1e-3 else ("µs", 1e6)
    median, low, high = (scale * value for value in spread(samples))
    return f"{median:.3g} {unit} [{low:.3g} to {high:.3g}]"
