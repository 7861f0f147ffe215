"""When readings are made, and which reviews each of them may know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from latefuse.data.splits import TEST, TRAIN, VALID

Array = np.ndarray[Any, Any]

ALWAYS = int(np.iinfo(np.int64).min)
"""The cut of what does not change with time: pictures."""


def cut_times(ts: Array, codes: Array, cuts: int) -> Array:
    """(c,) int64 seconds, ascending: between `cuts` parts of training time, and where valid and where test begin.

    ts, codes: (rows,) times and split codes, by time, of all behaviour. Parts have about as many training rows each;
    times that coincide are one cut, and a split without rows has none. The first part reads nothing: there is nothing
    before it. Held-out splits have no further cut in their midst, so that no review of the test is ever before one.
    """
    train = np.sort(ts[codes == TRAIN])
    inner = train[[len(train) * part // cuts for part in range(1, cuts)]] if len(train) else train
    starts = [ts[codes == code].min() for code in (VALID, TEST) if (codes == code).any()]
    return np.unique(np.concatenate([inner, np.array(starts, np.int64)])).astype(np.int64)


class Window(NamedTuple):
    """One reading to make. owner: whose it is. rows: the places of its reviews, oldest first. older: how many more
    there are before them."""

    owner: int
    cut: int
    rows: Array
    older: int


def windows(owner: Array, ts: Array, usable: Array, cuts: Array, newest: int) -> Iterator[Window]:
    """The readings of one kind of owner, cut by cut: of the `newest` usable reviews strictly before each cut.

    owner, ts: (rows,) int code and second of each review. usable: (rows,) bool: with words, and not of the test by the
    recipe's scheme. By time the strict cut keeps the test out by itself. By leave-one-out it does not: a held-out
    review lies before the cuts of others' rows. So those of the test are not usable at all; a valid one is known to
    rows that come strictly later, never to one at or before it. An owner whose reviews are the same as at the cut
    before has no new reading: the older one stands.
    """
    places = np.flatnonzero(usable)
    order = places[np.lexsort((places, ts[places], owner[places]))]
    owners = int(owner.max(initial=-1)) + 1
    starts = np.searchsorted(owner[order], np.arange(owners))
    before = np.zeros(owners, np.int64)
    for cut in cuts.tolist():
        known = np.bincount(owner[order][ts[order] < cut], minlength=owners)
        for one in np.flatnonzero(known > before).tolist():
            end, count = int(starts[one] + known[one]), min(int(known[one]), newest)
            yield Window(one, cut, order[end - count : end], int(known[one]) - count)
        before = known
