"""Say which of two contenders was faster, or that the machine was too noisy to tell."""

from statistics import median
from typing import NamedTuple

# How likely a verdict may be if both contenders are in truth equally fast.
CHANCE = 0.01
# Two contenders are as fast as each other if no turn shows a larger difference. A larger spread is mentioned.
SMALL, LARGE = 0.10, 0.25


class Verdict(NamedTuple):
    """Hold what samples show: who was faster, if that can be told, and how reliable the numbers are.

    - `kind`: "faster", "slower", "same", "noisy", or "few", if there are too few samples for any verdict
    - `times`: how many times as fast ours was, by the medians
    - `low`, `high`: the same for the turn in which it was lowest and highest
    - `spread`: how much longer the slowest sample of one contender took than its fastest; the larger of both
    """

    kind: str
    times: float
    low: float
    high: float
    spread: float

    @property
    def reliable(self):
        "Return whether there is a verdict, and its number is precise enough to be shown."
        return self.kind not in ("few", "noisy") and self.spread <= LARGE


def judge(theirs, ours):
    "Compare the seconds of two contenders that took turns."
    turns = [one / other for one, other in zip(theirs, ours)]
    spread = max(max(samples) / min(samples) - 1 for samples in (theirs, ours))
    found = Verdict("noisy", median(theirs) / median(ours), min(turns), max(turns), spread)
    if 2 * chance_of(0, len(theirs), len(ours)) > CHANCE:
        return found._replace(kind="few")
    # A pair that is equal counts against either verdict.
    not_faster = sum(one <= other for one in theirs for other in ours)
    not_slower = sum(one >= other for one in theirs for other in ours)
    if 2 * chance_of(not_faster, len(theirs), len(ours)) <= CHANCE:
        return found._replace(kind="faster")
    if 2 * chance_of(not_slower, len(theirs), len(ours)) <= CHANCE:
        return found._replace(kind="slower")
    return found._replace(kind="same") if max(turns) - 1 <= SMALL and 1 - min(turns) <= SMALL else found


def chance_of(most, n, m):
    """Return the chance that at most `most` of `n * m` pairs are the wrong way round if there is no difference.

    This is the exact distribution of the Mann-Whitney rank test, which assumes nothing about the noise.
    """
    ways = {(i, j): {0: 1} for i in range(n + 1) for j in range(m + 1) if not i * j}
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            # The slowest of all samples is one of the first contender, or one of the second.
            ways[i, j] = dict(ways[i, j - 1])
            for wrong, count in ways[i - 1, j].items():
                ways[i, j][wrong + j] = ways[i, j].get(wrong + j, 0) + count
    return sum(count for wrong, count in ways[n, m].items() if wrong <= most) / sum(ways[n, m].values())


def in_words(name, other, verdict, n):
    "Return the verdict on `n` turns as sentences."
    turns = f"{verdict.low:.2f} to {verdict.high:.2f} times in the {n} turns"
    spread = f"the epochs of one contender differ by up to {100 * verdict.spread:.0f} %"
    if verdict.kind == "few":
        return f"{name}: {n} warm epoch{'s' * (n != 1)} per contender can't show whether it is faster than {other}."
    if verdict.kind == "noisy":
        return f"{name}: this machine is too noisy to tell whether it is faster than {other}: {spread}."
    if verdict.kind == "same":
        most = 100 * max(verdict.high - 1, 1 - verdict.low)
        return f"{name} is as fast as {other}, within {max(1, most):.0f} %."
    text = f"{name} is {verdict.times:.2f} times as fast as {other} ({turns})."
    if verdict.kind == "slower":
        text = f"{name} is slower than {other}: {verdict.times:.2f} times as fast ({turns})."
    return f"{text} The number is rough: {spread}." if not verdict.reliable else text
