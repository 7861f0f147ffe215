"""Which items of a user follow one another within a window: many users at once, as arrays.

The work grows with the distinct answers, not with the square of a user's events: of two events on A, what comes after
the later one is left to it, since it is nearer. So a user with n events on m items costs at most n * m comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from latefuse.data.errors import DataError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Histories:
    """Events of some users in order of user and time; a `place` is an item of a user, numbered by user and item.

    place, axis, first, second: (events,); axis is a time on which two users are more than the window apart. item,
    begin, size: (places,) the item, the first place of its user, and how many places that user has.
    """

    window: int

    place: Array
    axis: Array
    first: Array
    second: Array
    item: Array
    begin: Array
    size: Array


@dataclass(frozen=True)
class Spans:
    """What follows each event on A: `event` (n,) of the histories is followed by seconds[start:stop]."""

    event: Array
    start: Array
    stop: Array
    seconds: Array


def histories(
    user: Array, item: Array, ts: Array, first: Array, second: Array, window: int, max_items: int
) -> Histories:
    """Number the places and lay all users on one axis of time.

    All (events,), sorted by user and ts; first, second: bool, whether the event may be the one on A, on B. Of a user
    with more than max_items items the latest count (of equal last events those of the lower items). Raises DataError
    where window times events passes 64 bits.
    """
    place, owner, known = _places(user, item)
    begin = np.searchsorted(owner, owner)
    size = np.searchsorted(owner, owner, "right") - begin
    if size.max(initial=0) > max_items:
        last = np.full(len(owner), np.iinfo(np.int64).min)
        np.maximum.at(last, place, ts)
        order = np.lexsort((~last, owner))
        rank = np.empty(len(owner), np.int64)
        rank[order] = np.arange(len(owner)) - begin
        kept = (rank < max_items)[place]
        return histories(user[kept], item[kept], ts[kept], first[kept], second[kept], window, max_items)
    window = min(window, int(ts.max()) - int(ts.min())) if len(ts) else 0
    return Histories(window, place, _axis(user, ts, window), first, second, known, begin, size)


def _places(user: Array, item: Array) -> tuple[Array, Array, Array]:
    """(events,) the place of each event; (places,) its user; (places,) its item."""
    span = int(item.max(initial=0)) + 1
    keys = user.astype(np.int64) * span + item
    known = distinct(keys)
    return np.searchsorted(known, keys), known // span, known % span


def _axis(user: Array, ts: Array, window: int) -> Array:
    """Times in which a gap longer than the window, or to the next user, is just longer than the window."""
    if len(ts) * (window + 1) >= 2**62:
        raise DataError(
            f"data.pairs.window_s: {window:,} s for {len(ts):,} events do not fit 64 bits; are ts and window_s seconds?"
        )
    # Differences of unsigned numbers are right even where those of signed ones would overflow.
    gap = np.diff(ts.view(np.uint64), prepend=ts[:1].view(np.uint64))
    gap[1:][user[1:] != user[:-1]] = window + 1
    return np.cumsum(np.minimum(gap, window + 1).astype(np.int64))


def spans(events: Histories) -> Spans:
    """For each event on A those on B from its second to the window's end, but before the user's next one on A."""
    event, seconds = np.flatnonzero(events.first), np.flatnonzero(events.second)
    times = events.axis[seconds]
    start = np.searchsorted(times, events.axis[event])
    stop = np.searchsorted(times, events.axis[event] + events.window, "right")
    order = np.argsort(events.place[event], kind="stable")
    again = np.diff(events.place[event][order]) == 0
    earlier, later = order[:-1][again], order[1:][again]
    stop[earlier] = np.minimum(stop[earlier], start[later])
    return Spans(event, start, stop, seconds)


def distinct_pairs(events: Histories, found: Spans, step: int) -> Iterator[tuple[Array, Array, Array]]:
    """(a, b, size) of every (user, A, B) once: items, and how many items that user has; about `step` rows at a time."""
    sizes = found.stop - found.start
    before = np.concatenate([[0], np.cumsum(sizes)])
    cuts = np.searchsorted(before, np.arange(step, before[-1], step))
    bounds = np.unique(np.concatenate([[0], cuts, [len(sizes)]]))
    most = int(events.size.max(initial=1))
    open_keys = np.zeros(0, np.int64)
    for low, high in pairwise(bounds.tolist()):
        row = np.repeat(np.arange(low, high), sizes[low:high])
        follower = found.start[row] + np.arange(len(row)) + before[low] - before[row]
        one, other = events.place[found.event[row]], events.place[found.seconds[follower]]
        keys = (one * most + other - events.begin[other])[one != other]
        keys = distinct(np.concatenate([open_keys, keys]))
        # A user whose events go on in the next round may give the same pair again.
        edge = events.begin[events.place[found.event[high]]] * most if high < len(sizes) else np.iinfo(np.int64).max
        done = int(np.searchsorted(keys, edge))
        open_keys = keys[done:]
        place, slot = np.divmod(keys[:done], most)
        yield events.item[place], events.item[events.begin[place] + slot], events.size[place]


def distinct(keys: Array) -> Array:
    """Sorted, each once. Faster than np.unique, which hashes where nothing but the values is asked for."""
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
