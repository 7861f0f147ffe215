"""Mined pairs equal those of plain dictionaries in any number of parts; where there is none, it says what to loosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latefuse.config_vectors import Mining
from latefuse.data import mining
from latefuse.data.errors import DataError

Event = tuple[int, int, int, str, float]
Pairs = list[tuple[int, int, float]]
KINDS = ("view", "click", "buy")


def frames(events: list[Event], size: int = 1 << 20) -> Iterator[pl.DataFrame]:
    schema = {"user": pl.Int32, "item": pl.Int32, "ts": pl.Int64, "kind": pl.String, "value": pl.Float64}
    for start in range(0, len(events), size):
        yield pl.DataFrame(events[start : start + size], schema=schema, orient="row")


def mined(events: list[Event], folder: Path, **options: Any) -> mining.Mined:
    return mining.mine(frames(events), len(events), Mining(**options), folder)


def plain(events: list[Event], options: Mining) -> Pairs:
    """Every event against every other of its user, exact sums, no tricks."""
    first, second = set(options.first or KINDS), set(options.second or KINDS)
    histories: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        wanted = options.min_value is None or event[4] >= options.min_value
        if wanted and event[3] in first | second:
            histories[event[0]].append(event)
    scores: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    for history in histories.values():
        last: dict[int, int] = {}
        for _, item, ts, _, _ in history:
            last[item] = max(ts, last.get(item, ts))
        kept = set(sorted(last, key=lambda item: (-last[item], item))[: options.max_items])
        found = {
            (one[1], other[1])
            for one in history
            for other in history
            if one[1] in kept and other[1] in kept and one[1] != other[1]
            if one[3] in first and other[3] in second and 0 <= other[2] - one[2] <= options.window_s
        }
        for pair in found:
            scores[pair] += Fraction(1, len(kept))
    rounded = {pair: round(float(score), 9) for pair, score in scores.items()}
    inside = [(a, b, score) for (a, b), score in rounded.items() if options.lower <= score <= options.upper]
    best: Pairs = []
    for a in sorted({a for a, _, _ in inside}):
        ranked = sorted((row for row in inside if row[0] == a), key=lambda row: (-row[2], row[1]))
        best += ranked[: options.top]
    return best


def rows_of(found: mining.Mined) -> Pairs:
    return found.pairs.rows()


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 6), st.integers(-3, 12), st.sampled_from(KINDS), st.sampled_from((0.0, 1.0))
    ),
    min_size=1,
    max_size=50,
)
KIND_CHOICES = st.sampled_from(((), ("view",), ("click", "buy"), KINDS))
OPTIONS = st.fixed_dictionaries(
    {
        "window_s": st.sampled_from((0, 1, 3, 7, 10**9)),
        "first": KIND_CHOICES,
        "second": KIND_CHOICES,
        "min_value": st.sampled_from((None, 0.0, 0.5)),
        "lower": st.sampled_from((0.0, 0.01, 0.4)),
        "upper": st.sampled_from((0.6, 1.0, 30.0)),
        "top": st.integers(1, 4),
        "max_items": st.integers(2, 7),
    }
)
WITNESSES: list[Event] = [(9, 8, 0, kind, 1.0) for kind in KINDS]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS, OPTIONS, st.sampled_from((2, 9, 1 << 21)))
def test_pairs_are_those_of_the_plain_way_in_any_number_of_parts(
    tmp_path: Path, events: list[Event], options: dict[str, Any], part: int
) -> None:
    events = [*events, *WITNESSES]
    wanted = plain(events, Mining(**options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "PART", part)
        if not wanted:
            with pytest.raises(DataError, match="mining gave no pair"):
                mined(events, tmp_path, **options)
            return
        assert rows_of(mined(events, tmp_path, **options)) == wanted
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", [500, 1 << 21])
def test_a_larger_world_with_a_user_of_many_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    draw = np.random.default_rng(0)
    users = np.concatenate([draw.integers(0, 60, 2000), np.full(600, 60)])
    items = np.minimum(draw.geometric(0.05, len(users)), 79)
    events = [
        (int(user), int(item), int(draw.integers(0, 5_000)), KINDS[int(draw.integers(0, 2))], 1.0)
        for user, item in zip(users, items, strict=True)
    ]
    options = {"window_s": 300, "first": ["view"], "second": ["click"], "top": 5, "max_items": 25, "lower": 0.05}
    wanted = plain(events, Mining(**options))
    assert len(wanted) > 100
    monkeypatch.setattr(mining, "PART", part)
    whole = mined(events, tmp_path, **options)
    assert rows_of(whole) == wanted
    assert (whole.users, whole.bounded) == (61, sum(1 for _ in plain(events, Mining(**{**options, "top": 999}))))
    assert whole.events < len(events)
    sliced = mining.mine(frames(events, 7), len(events), Mining(**options), tmp_path)
    assert rows_of(sliced) == wanted


def test_an_item_has_its_best_partners_of_every_split(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    events: list[Event] = [
        (int(draw.integers(0, 40)), int(draw.integers(0, 30)), int(draw.integers(0, 900)), "view", 1.0)
        for _ in range(1500)
    ]
    split = np.arange(30) % 3
    every = plain(events, Mining(window_s=60, top=999))
    wanted = []
    for a in range(30):
        of_a = [row for row in every if row[0] == a]
        kept = [row for code in range(3) for row in [row for row in of_a if split[row[1]] == code][:2]]
        wanted += sorted(kept, key=lambda row: (-row[2], row[1]))
    found = mining.mine(frames(events), len(events), Mining(window_s=60, top=2), tmp_path, split)
    assert rows_of(found) == wanted
    assert len({(split[a], split[b]) for a, b, _ in wanted}) == 9


def test_the_worked_example(tmp_path: Path) -> None:
    events = [(0, 1, 0, "view", 1.0), (0, 2, 5, "view", 1.0), (0, 3, 99, "view", 1.0)]
    events += [(1, 1, 0, "view", 1.0), (1, 2, 0, "view", 1.0)]
    found = mined(events, tmp_path, window_s=10)
    assert rows_of(found) == [(1, 2, round(1 / 3 + 1 / 2, 9)), (2, 1, 0.5)]
    assert (found.events, found.users, found.candidates, found.bounded) == (5, 2, 2, 2)
    assert rows_of(mined(events, tmp_path, window_s=0)) == [(1, 2, 0.5), (2, 1, 0.5)]


def test_equal_sums_of_other_terms_tie_and_the_lower_item_wins(tmp_path: Path) -> None:
    """A with 9 by users of 3 and 6 items, A with 4 by a user of 2: both 1/2."""
    events: list[Event] = [(0, 0, 0, "view", 1.0), (0, 4, 0, "view", 1.0)]
    for user, size in ((1, 3), (2, 6)):
        events += [(user, 0, 0, "view", 1.0), (user, 9, 0, "view", 1.0)]
        events += [(user, 20 + user * 10 + k, 10**6 * (k + 1), "view", 1.0) for k in range(size - 2)]
    found = mined(events, tmp_path, window_s=5)
    assert [row for row in rows_of(found) if row[0] == 0] == [(0, 4, 0.5), (0, 9, 0.5)]
    assert [row for row in rows_of(mined(events, tmp_path, window_s=5, top=1)) if row[0] == 0] == [(0, 4, 0.5)]


@pytest.mark.parametrize("times", [(-(2**63), 2**63 - 1), (2**62, 2**62 + 3)])
def test_extreme_times_do_not_overflow(tmp_path: Path, times: tuple[int, int]) -> None:
    events = [(0, 1, times[0], "view", 1.0), (0, 2, times[1], "view", 1.0), (0, 3, times[1], "view", 1.0)]
    near = times[1] - times[0] <= 5
    wanted = [(1, 2), (1, 3), (2, 3), (3, 2)] if near else [(2, 3), (3, 2)]
    assert [row[:2] for row in rows_of(mined(events, tmp_path, window_s=5))] == wanted
    if not near:
        with pytest.raises(DataError, match=r"data\.pairs\.window_s.* seconds\?"):
            mined(events, tmp_path, window_s=2**62)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"first": ["veiw"]}, r"data\.pairs\.first: no event is of kind 'veiw'.*'view'"),
        ({"second": ["view", "order"]}, r"data\.pairs\.second: no event is of kind 'order'"),
        ({"min_value": 2.0}, r"data\.pairs\.min_value=2\.0 or more; lower it"),
        ({"window_s": 1}, r"no user of 2 has events on two items within data\.pairs\.window_s=1"),
        ({"lower": 0.7}, r"2 candidates have scores from 0\.5 to 0\.5, none within data\.pairs\.lower=0\.7"),
        ({"lower": 0, "upper": 0.2}, r"data\.pairs\.upper=0\.2; move these bounds"),
    ],
)
def test_without_a_pair_the_option_to_loosen_is_named(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    events = [(0, 1, 0, "view", 1.0), (0, 2, 9, "view", 1.0), (1, 3, 0, "view", 1.0), (1, 4, 9, "view", 1.0)]
    with pytest.raises(DataError, match=told):
        mined(events, tmp_path, **options)
    assert not list(tmp_path.iterdir())
