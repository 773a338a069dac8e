"""`without`: leave out of lists, in place, the items whose images could not be loaded."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, List, Set, Tuple

import numpy as np
from fastai.core import index_row
from fastai.data_block import LabelList

from ..cache.leaving import BadItems
from .messages import named
from .owned import Owned
from .work import ListWork


def leave_out(sets: Iterable[Any], errors: Any) -> None:
    """Leave out of lists and label lists all items of which an image is among `errors`.

    An item of a label list goes with its label. Lists are changed in place, as by fastai's `filter_by_func`, so that
    loaders and learners that have them go on without these items. Raises ValueError, and changes nothing, if a list
    would be left without items, since fastai can't train or validate on it, or if no list has an item that was given
    by hand.
    """
    bad = BadItems(errors)
    todo: List[Tuple[List[Any], np.ndarray]] = []
    names: List[str] = []
    for one in sets:
        lists = [one.x, one.y] if isinstance(one, LabelList) else [one]
        rows: Set[int] = set().union(*(_bad_rows(il, bad) for il in lists))
        n = len(lists[0].items)
        names.append(named(lists[0]))
        if rows and len(rows) == n:
            raise ValueError(
                f"{named(lists[0])}: none of its {n} items would be left. Please repair or replace the files, or split "
                "the items in another way."
            )
        if rows:
            todo.append((lists, np.array([row for row in range(n) if row not in rows], np.intp)))
    bad.check(" and ".join(dict.fromkeys(names)))
    for lists, keep in todo:
        for il in {id(il): il for il in lists}.values():
            _keep(il, keep)


def _bad_rows(il: Any, bad: BadItems) -> Set[int]:
    "Return the indices of the items for which a list, or one inside it, opens a bad image."
    works = [ListWork(one) for one in _with_inner(il) if isinstance(one, Owned)]
    rows = {job.number for work in works for job in work.jobs() if job.item in bad}
    for work in works:
        if work.il.known_by_running():  # its jobs are what a user's `get` has opened, not the items
            rows.update(row for row, item in enumerate(work.items) if item in bad)
    return rows


def _with_inner(il: Any) -> Iterator[Any]:
    "Yield a list, and the lists inside a `MixedItemList`."
    yield il
    for inner in getattr(il, "item_lists", ()):
        yield from _with_inner(inner)


def _keep(il: Any, keep: np.ndarray) -> None:
    "Keep the items at the indices `keep`, and what a list and those inside it know of each."
    for one in _with_inner(il):
        if isinstance(one, Owned):
            one.keep_positions(keep)
        own = vars(one)  # set without `__setattr__`: the images of a user's own `open` stay kept
        rows = own.get("inner_df")
        if rows is not None and len(rows) == len(own["items"]):
            own["inner_df"] = index_row(rows, keep)
        own["items"] = _taken(own["items"], keep)
        if isinstance(own.get("sizes"), dict):
            own["sizes"] = type(own["sizes"])()


def _taken(items: Any, keep: np.ndarray) -> Any:
    "Return the `items` at the indices `keep`, in a container of the same kind."
    if isinstance(items, np.ndarray):
        return items[keep]
    kept: List[Any] = [items[i] for i in keep.tolist()]
    return kept
