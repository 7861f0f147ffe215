"""How rows are held out. Pure functions of ids, times and a seed: the same input always gives the same split.

A split is an int8 code: 0 train, 1 valid, 2 test, -1 not given, or none. Where the source gave one, it stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from latefuse.data.schema import SPLITS

Array = np.ndarray[Any, Any]

NONE, TRAIN, VALID, TEST = -1, 0, 1, 2
NAMES = np.array([*SPLITS, None], dtype=object)
"""The name of each code; that of NONE stands last."""


def uniform(keys: Iterable[str], seed: int | str) -> Array:
    """(n,) numbers in [0, 1) that hang on nothing but each key and the seed."""
    prefix = hashlib.sha256(f"{seed}:".encode())
    drawn = []
    for key in keys:
        digest = prefix.copy()
        digest.update(key.encode())
        drawn.append(int.from_bytes(digest.digest()[:8], "big"))
    return np.array(drawn, np.uint64) / 2.0**64


def cut(drawn: Array, valid: float, test: float) -> Array:
    """The split code of each number in [0, 1): test below `test`, then valid, then train."""
    return np.where(drawn < test, TEST, np.where(drawn < test + valid, VALID, TRAIN)).astype(np.int8)


def groups(n: int, edges: Array) -> Array:
    """(n,) for each unit the smallest unit that it is linked to, itself if it is alone. edges: (m, 2)."""
    if not len(edges):
        return np.arange(n)
    links = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(n, n))
    _, label = connected_components(links, directed=False)
    _, smallest = np.unique(label, return_index=True)
    return np.asarray(smallest[label])


def by_item(drawn: Array, given: Array, group: Array, valid: float, test: float) -> Array:
    """(units,) codes: a unit keeps what the source gave; else its group shares what one member was given, else one
    draw.

    drawn: (units,) `uniform` of the keys. group: (units,) from `groups`. Of several given splits in a group the most
    held-out one spreads, so that an ungiven duplicate of a test row never trains.
    """
    held = np.full(len(drawn), NONE, np.int8)
    np.maximum.at(held, group, given)
    shared = np.where(held[group] >= 0, held[group], cut(drawn, valid, test)[group])
    return np.where(given >= 0, given, shared).astype(np.int8)


def with_valid(given: Array, drawn: Array, group: Array, valid: float, test: float) -> Array:
    """(units,) given codes of an official split without a valid part, its valid part drawn out of the training groups.

    Whole groups move, so that nothing is torn apart. A split that has a valid part, or no train, stays as it is.
    """
    if (given == VALID).any() or not (given == TRAIN).any() or not valid:
        return given
    held = np.full(len(given), NONE, np.int8)
    np.maximum.at(held, group, given)
    moves = (given == TRAIN) & (held[group] == TRAIN) & (drawn[group] < valid / max(1 - test, valid))
    return np.where(moves, VALID, given).astype(np.int8)


def by_pair(a: Array, b: Array, names: Sequence[str], given: Array, seed: int, valid: float, test: float) -> Array:
    """(rows,) codes: a pair and its mirror image, however often they stand there, are in one split.

    a, b: (rows,) places in `names`, the item ids.
    """
    if not len(a):
        return given.copy()
    _, at, group = np.unique(pair_keys(a, b, len(names)), return_index=True, return_inverse=True)
    ends = (sorted((names[a[row]], names[b[row]])) for row in at)
    drawn = cut(uniform(map("\t".join, ends), seed), valid, test)
    held = np.full(len(at), NONE, np.int8)
    np.maximum.at(held, group, given)
    shared = np.where(held >= 0, held, drawn)[group]
    return np.where(given >= 0, given, shared).astype(np.int8)


def of_both(a: Array, b: Array, codes: Array) -> Array:
    """(rows,) the split of the pairs whose two ends are in one split, NONE for those that cross. codes: of each end."""
    return np.where(codes[a] == codes[b], codes[a], NONE).astype(np.int8)


def pair_keys(a: Array, b: Array, n: int) -> Array:
    """(rows,) one number for an unordered pair of places below n."""
    return np.asarray(np.minimum(a, b).astype(np.int64) * n + np.maximum(a, b))


def time_cuts(ts: Array, valid: float, test: float) -> tuple[int, int]:
    """(first second of valid, first second of test), so that about these shares of the times lie behind them.

    Rows of one second are never torn apart, so that all of train is strictly before all of valid, and that before test.
    """
    ordered = np.sort(ts)
    places = [round(len(ts) * share) for share in (1 - valid - test, 1 - test)]
    starts = [int(ordered[place]) if place < len(ts) else int(ordered[-1]) + 1 for place in places]
    return starts[0], starts[1]


def by_time(ts: Array, given: Array, cuts: tuple[int, int]) -> Array:
    """(rows,) codes by the global cut."""
    drawn = (ts >= cuts[0]).astype(np.int8) + (ts >= cuts[1])
    return np.where(given >= 0, given, drawn).astype(np.int8)


def leave_one_out(user: Array, ts: Array, given: Array) -> Array:
    """(rows,) codes: per user the last row is test, the one before it valid, the rest train.

    user: (rows,) int codes. Rows of one second keep their order. A user with fewer than three rows only trains.
    """
    order = np.lexsort((ts, user))
    ends = np.flatnonzero(np.append(user[order][1:] != user[order][:-1], True)) if len(user) else np.zeros(0, np.int64)
    sizes = np.diff(np.concatenate([[-1], ends]))
    long = ends[sizes >= 3]
    drawn = np.full(len(user), TRAIN, np.int8)
    drawn[order[long]] = TEST
    drawn[order[long - 1]] = VALID
    return np.where(given >= 0, given, drawn).astype(np.int8)


def not_before(codes: Array, user: Array, ts: Array, others: tuple[Array, Array, Array]) -> Array:
    """Codes of one table (reviews) moved on to what the same user's held-out rows in another (events) demand.

    others: (user, ts, codes) of the other table. A review at or after the user's test event is test, one at or after
    the valid event at least valid: else a review of a held-out event would train.
    """
    out = codes.copy()
    for code in (VALID, TEST):
        chosen = others[2] == code
        start = np.full(int(max(user.max(initial=-1), others[0].max(initial=-1))) + 1, np.iinfo(np.int64).max)
        np.minimum.at(start, others[0][chosen], others[1][chosen])
        out = np.where(ts >= start[user], np.maximum(out, code), out).astype(np.int8)
    return out


def first_codes(user: Array, item: Array, others: tuple[Array, Array, Array]) -> Array:
    """(rows,) the least held-out split in which the other table (events) has a row's user with its item; NONE: nowhere.

    others: (user, item, codes) of the other table.
    """
    width = int(max(item.max(initial=-1), others[1].max(initial=-1))) + 1
    pairs, place = np.unique(others[0].astype(np.int64) * width + others[1], return_inverse=True)
    if not len(pairs):
        return np.full(len(user), NONE, np.int8)
    least = np.full(len(pairs), TEST, np.int8)
    np.minimum.at(least, place, others[2])
    wanted = user.astype(np.int64) * width + item
    at = np.searchsorted(pairs, wanted).clip(max=len(pairs) - 1)
    return np.where(pairs[at] == wanted, least[at], NONE).astype(np.int8)


def numbers(drawn: Array) -> Array:
    """(items,) the rank of each item's draw: ids for models, a permutation whose order tells nothing."""
    rank = np.empty(len(drawn), np.int64)
    rank[np.argsort(drawn, kind="stable")] = np.arange(len(drawn))
    return rank
