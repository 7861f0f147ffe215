"""Rulings: what validation rows allow is applied, what they do not allow is told and stops nothing."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.config_judge import ABSTAIN, NOT_RELEVANT, RELEVANT, Abstain, Policy, Verdicts
from latefuse.evaluation.rulings import rule

DRAW = np.random.default_rng(0)
LABELS = np.arange(400) % 2 == 0
SCORES = DRAW.normal(size=400) + 2 * LABELS


def test_verdicts_follow_the_threshold_of_the_validation_rows() -> None:
    found = rule(SCORES, LABELS, Verdicts(), "claims")
    assert found.told == ()
    assert found.threshold is not None
    said = found.verdicts(SCORES)
    assert ((found.probability(SCORES) >= found.threshold.value) == (said == RELEVANT)).all()
    assert set(said) == {RELEVANT, NOT_RELEVANT}
    assert np.mean((said == RELEVANT) == LABELS) > 0.8


def test_doubtful_rows_go_to_people() -> None:
    found = rule(SCORES, LABELS, Verdicts(abstain=Abstain(accuracy=0.95)), "claims")
    assert found.band is not None
    said = found.verdicts(SCORES)
    kept = said != ABSTAIN
    assert found.band.share == pytest.approx(np.mean(~kept))
    assert 0 < found.band.share < 0.6
    assert np.mean((said[kept] == RELEVANT) == LABELS[kept]) >= 0.95


def test_a_judge_at_chance_is_told_and_knows_only_the_share() -> None:
    found = rule(-SCORES, LABELS, Verdicts(), "claims")
    assert "claims: scores do not rise with the labels" in found.told[0]
    assert found.probability([0.0, 3.0]).tolist() == [0.5, 0.5]
    mostly = rule(np.zeros(40), [True] * 30 + [False] * 10, Verdicts(), "claims")
    assert set(mostly.verdicts(np.arange(5))) == {RELEVANT}


def test_a_promise_out_of_reach_is_told() -> None:
    noisy = DRAW.normal(size=400) + 0.5 * LABELS
    noisy[np.flatnonzero(~LABELS)[:3]] = 9.0
    found = rule(noisy, LABELS, Verdicts(policy=Policy(kind="precision", value=1.0)), "claims")
    assert found.calibration is not None
    assert found.threshold is None
    assert "precision" in found.told[0]
    said = found.verdicts([-9.0, 9.0])
    assert said.tolist() == [NOT_RELEVANT, RELEVANT]


def test_a_task_without_validation_rows_is_told() -> None:
    found = rule([], [], Verdicts(), "claims")
    assert found.told == ("claims: no rows, so that nothing can be chosen",)
    assert found.probability([1.0, 2.0]).tolist() == [0.5, 0.5]
