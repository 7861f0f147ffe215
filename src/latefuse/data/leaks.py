"""Can a test row be known before the test? Each check returns a finding; `prepare` fails on one that did not pass.

Pure functions of integer columns: a unit (an item, or a row that belongs to none) has one split code, 0 train, 1 valid,
2 test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latefuse.data.near import Near
from latefuse.data.splits import NAMES, TEST, TRAIN, VALID, pair_keys

Array = np.ndarray[Any, Any]
Namer = Callable[[int], str]

EXAMPLES = 5
ORDER_Z = 5.0
NEXT_P = 1e-6


@dataclass(frozen=True)
class Finding:
    """One check. found: how many of the `checked` things leak; elsewhere: how many more cross valid and another
    split.
    """

    passed: bool
    checked: int
    found: int
    detail: str
    elsewhere: int = 0
    examples: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {**asdict(self), "examples": list(self.examples)}


def shared(content: Array, unit: Array, codes: Array, name_content: Namer, name_unit: Namer, what: str) -> Finding:
    """The same content (a medium, or the item of a row) used by units in train and in test.

    content, unit: (uses,) ints. codes: (units,) splits. Rows of one unit may share what they like.
    """
    masks = np.zeros(int(content.max(initial=-1)) + 1, np.uint8)
    np.bitwise_or.at(masks, content, (1 << codes[unit]).astype(np.uint8))
    leaking, elsewhere = _crossing(masks)
    examples = []
    for one in np.flatnonzero(leaking)[:EXAMPLES]:
        uses = unit[content == one]
        ends = [f"{name_unit(int(uses[codes[uses] == code][0]))} ({NAMES[code]})" for code in (TRAIN, TEST)]
        examples.append(f"{name_content(int(one))}: {' and '.join(ends)}")
    found = int(leaking.sum())
    detail = f"{found} {what} stand in train and in test"
    return Finding(found == 0, len(masks), found, detail, int(elsewhere.sum()), tuple(examples))


def near_texts(near: Near, unit: Array, codes: Array, name_unit: Namer, jaccard: float) -> Finding:
    """Texts in train and test that are the same or nearly so. unit: (texts,)."""
    masks = np.zeros(len(unit), np.uint8)
    np.bitwise_or.at(masks, near.first, (1 << codes[unit]).astype(np.uint8))
    same, same_elsewhere = _crossing(masks)
    left, right = masks[near.pairs[:, 0]], masks[near.pairs[:, 1]]
    alike = ((left & 1 << TRAIN > 0) & (right & 1 << TEST > 0)) | ((left & 1 << TEST > 0) & (right & 1 << TRAIN > 0))
    alike_elsewhere = ~alike & ((left | right) & ((left | right) - 1) > 0)
    firsts = [(int(one), int(one)) for one in np.flatnonzero(same)] + [(int(a), int(b)) for a, b in near.pairs[alike]]
    examples = [_text_example(near, unit, codes, name_unit, a, b) for a, b in firsts[:EXAMPLES]]
    found = int(same.sum() + alike.sum())
    detail = f"{same.sum()} texts stand in train and in test, {alike.sum()} pairs have a Jaccard of {jaccard} or more"
    if near.crowded:
        detail += f"; {near.crowded} shingles were so common that only texts of similar length were compared there"
    elsewhere = int(same_elsewhere.sum() + alike_elsewhere.sum())
    return Finding(found == 0, len(unit), found, detail, elsewhere, tuple(examples))


def _text_example(near: Near, unit: Array, codes: Array, name_unit: Namer, a: int, b: int) -> str:
    texts = np.flatnonzero((near.first == a) | (near.first == b))
    ends = [int(unit[texts][codes[unit[texts]] == code][0]) for code in (TRAIN, TEST)]
    return f"{name_unit(ends[0])} (train) and {name_unit(ends[1])} (test)"


def _crossing(masks: Array) -> tuple[Array, Array]:
    """(in train and in test, in two splits but not these two)."""
    both = (masks & (1 << TRAIN) > 0) & (masks & (1 << TEST) > 0)
    return both, ~both & (masks & (masks - 1) > 0)


def time_order(ts: Array, codes: Array) -> Finding:
    """Every train row is before every valid row, and that before every test row (global time cut)."""
    found = 0
    for early, late in ((TRAIN, VALID), (TRAIN, TEST), (VALID, TEST)):
        if (codes == late).any():
            found += int(((codes == early) & (ts >= ts[codes == late].min())).sum())
    return Finding(found == 0, len(ts), found, f"{found} rows are not before the first row of a later split")


def user_order(user: Array, ts: Array, codes: Array) -> Finding:
    """Per user no row is later than one of a more held-out split (leave-one-out)."""
    found = 0
    users = int(user.max(initial=-1)) + 1
    for early, late in ((TRAIN, VALID), (TRAIN, TEST), (VALID, TEST)):
        first = np.full(users, np.iinfo(np.int64).max)
        np.minimum.at(first, user[codes == late], ts[codes == late])
        found += int(((codes == early) & (ts > first[user])).sum())
    return Finding(found == 0, len(ts), found, f"{found} rows are after a row of the same user that is held out")


def held_pairs(user: Array, item: Array, codes: Array, events: tuple[Array, Array, Array]) -> Finding:
    """No review is about what its user has among events in more held-out splits only: it would tell the target.

    user, item, codes: (reviews,). events: user, item and codes of the events.
    """
    width = int(max(item.max(initial=-1), events[1].max(initial=-1))) + 1
    pair, had, found = user.astype(np.int64) * width + item, events[0].astype(np.int64) * width + events[1], 0
    for code in (TRAIN, VALID):
        told = pair[codes == code]
        found += int((np.isin(told, had[events[2] > code]) & ~np.isin(told, had[events[2] <= code])).sum())
    return Finding(found == 0, len(user), found, f"{found} reviews are about a row of events that is more held out")


def pair_disjoint(a: Array, b: Array, codes: Array, names: int) -> Finding:
    """No pair, in either direction, is in train and in test. a, b: (rows,) places of the items."""
    _, group = np.unique(pair_keys(a, b, names), return_inverse=True)
    masks = np.zeros(int(group.max(initial=-1)) + 1, np.uint8)
    np.bitwise_or.at(masks, group, (1 << codes).astype(np.uint8))
    leaking, elsewhere = _crossing(masks)
    found = int(leaking.sum())
    return Finding(found == 0, len(masks), found, f"{found} pairs stand in train and in test", int(elsewhere.sum()))


def number_order(number: Array, item: Array, ts: Array) -> Finding:
    """Do the ids that a model sees rise with the time at which an item first appears? Spearman's rho against a
    permutation.

    number: (items,) distinct ids. item, ts: (events,). Under a random permutation rho * sqrt(n - 1) is standard normal.
    """
    seen, at = np.unique(item[np.argsort(ts, kind="stable")], return_index=True)
    n = len(seen)
    if n < 3:
        return Finding(True, n, 0, "too few items to tell")
    ranks = [np.argsort(np.argsort(values)).astype(np.float64) for values in (number[seen], at)]
    rho = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    z = rho * math.sqrt(n - 1)
    detail = f"rank correlation of id and first appearance {rho:+.3f}, {abs(z):.1f} standard deviations from chance"
    return Finding(abs(z) < ORDER_Z, n, int(abs(z) >= ORDER_Z), detail)


def next_number(number: Array, user: Array, item: Array, ts: Array) -> Finding:
    """Does "previous id + 1", or "highest id so far + 1", name a user's next item more often than chance?

    Chance is at most 1 / (items - rows of the user so far) for each distinct transition between two items; a Poisson
    tail below 1e-6 fails. Both rules are counted over all transitions and, apart, over those into each user's last row,
    where leave-one-out tests.
    """
    from scipy.stats import poisson

    order = np.lexsort((ts, user))
    user, item = user[order], item[order]
    ids = number[item]
    follows = np.flatnonzero(user[1:] == user[:-1]) + 1
    last = np.append(user[1:] != user[:-1], True) if len(user) else np.zeros(0, bool)
    best = _running_max(ids, user)
    behind = np.arange(len(user)) - np.searchsorted(user, user)
    worst, told = 1.0, []
    for rule, guess in (("previous id + 1", ids), ("highest id + 1", best)):
        for where, rows in (("anywhere", follows), ("into the last row", follows[last[follows]])):
            pairs, at = np.unique(np.stack([guess[rows - 1], ids[rows]], axis=1), axis=0, return_index=True)
            moves = pairs[:, 0] != pairs[:, 1]
            pairs, at = pairs[moves], at[moves]
            hits = int((pairs[:, 0] + 1 == pairs[:, 1]).sum())
            chance = float((1 / np.maximum(len(number) - behind[rows[at]], 1)).sum())
            worst = min(worst, float(poisson.sf(hits - 1, chance)) if hits else 1.0)
            told.append(f"{rule} {where}: {hits} of {len(pairs)} (chance {chance:.1f})")
    return Finding(worst >= NEXT_P, len(follows), int(worst < NEXT_P), "; ".join(told))


def prompt_order(begin: Array, end: Array, place: Array, codes: Array) -> Finding:
    """No prompt shows its own target, anything later, or a row that is as held out as its target (or more).

    begin, end: (prompts,) what each shows of the events, which lie by user and in order of time. place: (prompts,) of
    its target among them. codes: (events,) splits.
    """
    leaking = end > place
    for code in (TRAIN, VALID, TEST):
        held = np.concatenate([[0], np.cumsum(codes >= max(code, VALID))])
        leaking |= (codes[place] == code) & (held[end] > held[begin])
    found = int(leaking.sum())
    return Finding(found == 0, len(place), found, f"{found} prompts show their target, something later or held out")


def _running_max(values: Array, user: Array) -> Array:
    """The highest value so far within each user; users stand together."""
    if not len(values):
        return values
    span = int(values.max()) + 1
    place = np.cumsum(np.append(False, user[1:] != user[:-1]))
    return np.asarray(np.maximum.accumulate(values + place * span) - place * span)
