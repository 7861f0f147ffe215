"""Redrawn users against rows that really are drawn again, and the coverage of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from latefuse.evaluation import rank_metrics
from latefuse.evaluation.intervals import Bootstrap, mean_interval
from latefuse.evaluation.redraw import Redraw

HOW = Bootstrap(draws=400, min_rows=20)
AUC = {"roc_auc": rank_metrics.roc_auc}


def _rows(rng: np.random.Generator, users: int, each: int, bias: float = 0.5) -> tuple[np.ndarray, ...]:
    """Rows of users who like more or less, which the scores know in part."""
    user = np.repeat(np.arange(users), each)
    taste = bias * rng.normal(size=users)[user]
    labels = rng.random(len(user)) < 1 / (1 + np.exp(-taste))
    return user, labels, labels + taste + rng.normal(size=len(user))


def _auc(redraw: Redraw, labels: np.ndarray, scores: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    rows = np.arange(len(labels)) if rows is None else rows
    return redraw.curves(rank_metrics.ordered(labels[rows], scores[rows]), rows, AUC)["roc_auc"]


def test_every_draw_is_the_metric_of_the_rows_that_are_drawn() -> None:
    user, labels, scores = _rows(np.random.default_rng(0), 30, 7)
    redraw = Redraw([f"u{one}" for one in user], HOW)
    found = _auc(redraw, labels, scores)
    assert found.shape == (401,)
    assert found[0] == pytest.approx(roc_auc_score(labels, scores))
    assert (redraw.times.sum(axis=1) == 30).all()
    for draw in (1, 2, 400):
        again = np.repeat(np.arange(210), redraw.times[draw][redraw.group])
        assert found[draw] == pytest.approx(roc_auc_score(labels[again], scores[again]))


def test_a_slice_sees_the_same_draws() -> None:
    user, labels, scores = _rows(np.random.default_rng(1), 30, 8)
    redraw, rows = Redraw(user, HOW), np.arange(0, 240, 3)
    found = _auc(redraw, labels, scores, rows)
    again = np.repeat(rows, redraw.times[5][redraw.group[rows]])
    assert found[5] == pytest.approx(roc_auc_score(labels[again], scores[again]))


def test_totals_and_means_of_users_are_those_of_the_draws() -> None:
    rng = np.random.default_rng(2)
    user, _, scores = _rows(rng, 25, 4)
    redraw, rows = Redraw(user, HOW), np.arange(0, 100, 2)
    found = redraw.totals(np.stack([scores[rows], np.ones(50)], axis=1), rows)
    weights = redraw.times[:, redraw.group[rows]].astype(float)
    assert found == pytest.approx(np.stack([weights @ scores[rows], weights.sum(axis=1)], axis=1))
    values = np.where(np.arange(25) % 5 == 0, np.nan, np.arange(25.0))
    means, known = redraw.means_of_users(values), ~np.isnan(values)
    drawn = redraw.times[3][known].astype(float)
    assert means[0] == pytest.approx(np.nanmean(values))
    assert means[3] == pytest.approx((drawn * values[known]).sum() / drawn.sum())


def test_a_mean_has_the_interval_of_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(3)
    user, values = np.repeat(np.arange(80), 3), rng.random((2, 240))
    redraw = Redraw(user, Bootstrap(draws=4_000))
    every = np.arange(240)
    columns = np.stack([redraw.totals(one[:, None], every)[:, 0] for one in values])
    count = redraw.totals(np.ones((240, 1)), every)[:, 0]
    found = redraw.estimate(columns / count, every)
    plain = mean_interval(values, [str(one) for one in user], Bootstrap(draws=4_000))
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.005), pytest.approx(plain.high, abs=0.005))
    assert (found.rows, found.seeds) == (240, 2)


def test_arms_that_are_alike_differ_by_little() -> None:
    user, labels, scores = _rows(np.random.default_rng(4), 60, 8)
    redraw, every = Redraw(user, HOW), np.arange(480)
    a, b = _auc(redraw, labels, scores)[None], _auc(redraw, labels, scores + 1e-9)[None]
    apart, alone = redraw.difference(a, b, every), redraw.estimate(a, every)
    assert apart.value == pytest.approx(0)
    assert apart.high - apart.low < 1e-6 < alone.high - alone.low
    three = np.concatenate([a, a + 0.1, a - 0.1])
    assert redraw.difference(three, b, every).seeds == 3
    assert redraw.difference(three, b, every).high > apart.high + 0.05


def test_few_rows_few_users_and_undefined_draws_have_no_interval() -> None:
    user, labels, scores = _rows(np.random.default_rng(5), 40, 2)
    redraw = Redraw(user, HOW)
    assert redraw.estimate(_auc(redraw, labels, scores)[None], np.arange(80)).has_interval
    assert not redraw.estimate(_auc(redraw, labels, scores)[None], np.arange(19)).has_interval
    few = Redraw(np.arange(80) // 10, HOW)
    assert not few.estimate(_auc(few, labels, scores)[None], np.arange(80)).has_interval
    rare = np.zeros(80, bool)
    rare[3] = True  # its user is not in one draw of three
    assert not redraw.estimate(_auc(redraw, rare, scores)[None], np.arange(80)).has_interval


def test_coverage() -> None:
    many = [roc_auc_score(*_rows(np.random.default_rng(1_000 + k), 2_000, 6, bias=1.5)[1:]) for k in range(10)]
    truth, trials, hits, narrow = np.mean(many), 150, 0, 0
    for trial in range(trials):
        user, labels, scores = _rows(np.random.default_rng(trial), 60, 6, bias=1.5)
        for groups in (user, np.arange(360)):
            redraw = Redraw(groups, Bootstrap(draws=300, min_rows=20, seed=trial))
            found = redraw.estimate(_auc(redraw, labels, scores)[None], np.arange(360))
            inside = found.low <= truth <= found.high
            hits, narrow = hits + (inside and groups is user), narrow + (inside and groups is not user)
    assert 0.88 <= hits / trials <= 0.99
    assert narrow < hits  # rows of one user are not independent
