"""Sums redrawn against the metric computed again on redrawn rows."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.evaluation.intervals import Bootstrap, mean_interval
from latefuse.evaluation.redraw import Redraw
from latefuse.evaluation.sums import mean, means, redrawn, share, stacked

RNG = np.random.default_rng(0)
USERS = np.repeat(np.arange(40), 3)
EVERY = np.arange(120)
REDRAW = Redraw(USERS, Bootstrap(draws=2_000, min_rows=20))


def test_a_mean_leaves_out_what_is_not_known() -> None:
    values = np.where(np.arange(120) % 4 == 0, np.nan, RNG.random(120))
    found = mean(values)
    assert found.value == pytest.approx(np.nanmean(values))
    assert found.known.sum() == 90
    drawn = stacked([found], REDRAW, EVERY)[0]
    for draw in (1, 7):
        again = np.repeat(EVERY, REDRAW.times[draw][REDRAW.group])
        assert drawn[draw] == pytest.approx(np.nanmean(values[again]))
    assert np.isnan(mean(np.full(3, np.nan)).value)


def test_a_share_is_a_quotient_of_sums() -> None:
    part, whole = RNG.random((2, 120))
    found = share(part, whole)
    rows = EVERY[::2]
    again = np.repeat(rows, REDRAW.times[3][REDRAW.group[rows]])
    assert stacked([found], REDRAW, rows)[0][3] == pytest.approx(part[again].sum() / whole[again].sum())


def test_the_interval_is_that_of_the_plain_bootstrap() -> None:
    values = (RNG.random((2, 120)) < 0.3).astype(float)
    found = REDRAW.estimate(stacked([means({"hr": one})["hr"] for one in values], REDRAW, EVERY), EVERY)
    plain = mean_interval(values, [str(user) for user in USERS], Bootstrap(draws=2_000, min_rows=20))
    assert found.value == pytest.approx(plain.value)
    assert (found.low, found.high) == (pytest.approx(plain.low, abs=0.01), pytest.approx(plain.high, abs=0.01))
    assert (found.rows, found.seeds) == (120, 2)


def test_many_metrics_in_one_product_are_each_their_own() -> None:
    metrics = {"a": mean(RNG.random(120)), "b": share(RNG.random(120), RNG.random(120)), "c": mean(RNG.random(120))}
    for name, drawn in redrawn(metrics, REDRAW, EVERY[::3]).items():
        assert drawn == pytest.approx(stacked([metrics[name]], REDRAW, EVERY[::3])[0])
    assert redrawn({}, REDRAW, EVERY) == {}
