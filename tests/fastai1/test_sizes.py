"""`Sizes` is the dict that fastai's lists have, whatever is done with it."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from memlist.fastai1.sizes import Sizes

READS: List[Callable[[Any], Any]] = [
    dict,
    len,
    sorted,
    lambda one: {**one},
    lambda one: sorted(one.items()),
    lambda one: sorted(one.keys()),
    lambda one: sorted(one.values()),
    lambda one: dict(one.copy()),
    lambda one: dict(copy.copy(one)),
    lambda one: dict(copy.deepcopy(one)),
    lambda one: dict(pickle.loads(pickle.dumps(one))),
    lambda one: one == {},
    lambda one: one != {3: (1, 2)},
    lambda one: sorted(eval(repr(one)).items()),
    lambda one: {"a": 1, **one} == {**one, "a": 1},
    lambda one: [3 in one, "3" in one, 3.0 in one, -1 in one, None in one],
    lambda one: [one.get(k) for k in (-1, 0, 3, 3.0, True, "3", None, 10**9)],
    lambda one: one.get(99, "none"),
    lambda one: one.pop(3, None),
    lambda one: one.setdefault(5, (9, 9)),
    lambda one: one.pop(next(iter(sorted(one))), None) if one else None,
    lambda one: one.update({2: (7, 7), 4: (8, 8)}),
    lambda one: one.__setitem__(1, (6, 6)),
    lambda one: one.clear(),
]


@pytest.mark.parametrize("k", range(60))
def test_it_is_a_dict_after_any_sequence_of_notes_reads_and_writes(k: int) -> None:
    chance, ours = random.Random(k), Sizes({0: (1, 1)})
    plain: Dict[int, Tuple[int, int]] = {0: (1, 1)}
    for _ in range(40):
        if chance.random() < 0.5:
            indices = [chance.randrange(-2 if chance.random() < 0.1 else 0, 12) for _ in range(chance.randrange(4))]
            size = chance.choice([(1, 2), (3, 4), (5, 6)])
            ours.note(np.array(indices, np.intp), size)
            plain.update(dict.fromkeys(indices, size))
        else:
            read = chance.choice(READS)
            assert read(ours) == read(plain)
    assert ours == plain and plain == ours and type(copy.deepcopy(ours)) is Sizes


@pytest.mark.parametrize("missing", [-1, 7, "a", None])
def test_an_index_that_is_missing_is_a_key_error(missing: Any) -> None:
    ours = Sizes()
    ours.note(np.arange(3), (1, 2))
    assert ours[2] == ours[np.int64(2)] == (1, 2)
    with pytest.raises(KeyError):
        ours[missing]
    with pytest.raises(KeyError):
        del ours[missing]
