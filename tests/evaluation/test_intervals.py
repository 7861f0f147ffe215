"""Intervals against a plain loop, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.evaluation.intervals import Bootstrap, mean_interval, paired_bootstrap

HOW = Bootstrap(draws=4_000, min_rows=20)


def _names(n: int) -> list[str]:
    return [f"i{k}" for k in range(n)]


def _loop(a: np.ndarray, b: np.ndarray, groups: list[str], draws: int) -> np.ndarray:
    """The same bootstrap, one draw at a time, with other random numbers."""
    rng, found = np.random.default_rng(99), []
    items = sorted(set(groups))
    where = {item: [k for k, g in enumerate(groups) if g == item] for item in items}
    for _ in range(draws):
        rows = [k for item in rng.choice(items, len(items)) for k in where[item]]
        seeds = rng.integers(0, len(a), len(a))
        found.append(np.nanmean(a[np.ix_(seeds, rows)]) - np.nanmean(b[np.ix_(seeds, rows)]))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("seeds", [1, 3])
def test_agrees_with_a_plain_loop(seeds: int) -> None:
    rng = np.random.default_rng(0)
    base = rng.random((seeds, 60))
    a, b = base + 0.1 * rng.standard_normal((seeds, 60)) + 0.05, base.copy()
    a[:, 7] = np.nan
    groups = [f"i{k // 2}" for k in range(60)]
    found = paired_bootstrap(a, b, groups, HOW)
    low, high = _loop(a, b, groups, 2_000)
    assert found.value == pytest.approx(np.nanmean(a) - np.nanmean(b))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.006), pytest.approx(high, abs=0.006))


def test_pairing_removes_what_both_arms_share() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random((1, 200))
    paired = paired_bootstrap(hard + 0.02, hard, _names(200), HOW)
    alone = mean_interval(hard, _names(200), HOW)
    assert paired.value == pytest.approx(0.02)
    assert paired.high - paired.low < 1e-9 < alone.high - alone.low
    assert paired.excludes_zero


def test_rows_of_one_item_are_one_draw() -> None:
    rng = np.random.default_rng(2)
    single = rng.random((1, 50))
    tripled = np.repeat(single, 3, axis=1)
    groups = [f"i{k}" for k in range(50)]
    narrow = mean_interval(tripled, _names(150), HOW)
    honest = mean_interval(tripled, [g for g in groups for _ in range(3)], HOW)
    reference = mean_interval(single, groups, HOW)
    assert honest.high - honest.low == pytest.approx(reference.high - reference.low, rel=0.15)
    assert narrow.high - narrow.low < 0.75 * (honest.high - honest.low)


def test_seeds_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    rows = rng.random((1, 100))
    lucky = np.concatenate([rows - 0.3, rows, rows + 0.3])
    apart = mean_interval(lucky, _names(100), HOW)
    alike = mean_interval(np.repeat(rows, 3, axis=0), _names(100), HOW)
    assert apart.seeds == 3
    assert apart.high - apart.low > 2 * (alike.high - alike.low)


def test_an_arm_without_seeds_is_paired_with_every_seed() -> None:
    rng = np.random.default_rng(4)
    trained, zero = rng.random((3, 80)), rng.random((1, 80))
    found = paired_bootstrap(trained, zero, _names(80), HOW)
    assert found.value == pytest.approx(trained.mean() - zero.mean())
    assert found.has_interval


def test_few_rows_have_no_interval() -> None:
    values = np.ones((1, 19))
    found = mean_interval(values, _names(19), HOW)
    assert (found.value, found.rows, found.has_interval, found.excludes_zero) == (1.0, 19, False, False)
    assert not paired_bootstrap(values, values * 0, _names(19), HOW).has_interval


def test_unmeasured_rows_count_towards_no_interval() -> None:
    values = np.full((1, 40), np.nan)
    values[0, :10] = 1
    assert mean_interval(values, _names(40), HOW).rows == 10
    assert not mean_interval(values, _names(40), HOW).has_interval


@pytest.mark.parametrize(("seeds_a", "rows_a"), [(2, 30), (3, 29)])
def test_arms_that_do_not_pair_are_refused(seeds_a: int, rows_a: int) -> None:
    with pytest.raises(ValueError, match="paired arms need the same"):
        paired_bootstrap(np.ones((seeds_a, rows_a)), np.ones((3, 30)), _names(30), HOW)


def test_coverage() -> None:
    rng, hits = np.random.default_rng(5), 0
    for trial in range(200):
        values = (rng.random((1, 80)) < 0.7).astype(float)
        found = mean_interval(values, _names(80), Bootstrap(draws=500, min_rows=20, seed=trial))
        hits += found.low <= 0.7 <= found.high
    assert 0.88 <= hits / 200 <= 0.99
