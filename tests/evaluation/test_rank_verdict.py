"""What is said of a ranker: for it, against it, and left open where an interval does not tell."""

from __future__ import annotations

import fake_rank
import numpy as np
import pytest
from made_up_ranks import HOW, NOISE, PICTURE, SCORES, WORDS, N, summary

from latefuse.config import Task
from latefuse.evaluation.judge_verdict import Calibrated
from latefuse.evaluation.rank_verdict import Roles, Sure, findings, roles, strictest
from latefuse.evaluation.verdict import Sentence

PART = Roles(less=("text-only",), shuffled={"shuffled": "picture"}, otherwise=("twin",))
SURE = Sure(Calibrated(0.02, 0.015, 0.01, 0.021, N), 0.09, 0.31, 0.3)


def _said(scores: dict[str, list[np.ndarray]] | None = None, sure: Sure = SURE, **more: int) -> list[Sentence]:
    return findings(summary(SCORES | (scores or {}), **more), PART, {"both": sure}, HOW)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def said() -> list[Sentence]:
    return _said()


def _one(said: list[Sentence], begin: str) -> Sentence:
    (found,) = [one for one in said if one.text.startswith(begin)]
    return found


def test_what_is_shown_is_said(said: list[Sentence]) -> None:
    assert said[0].text.startswith("both has ")
    assert said[0].tone == "good"
    for where in ("on all rows", "on cold items (n = 400)"):
        one = _one(said, f"both beats text-only {where}: false-positive rate at recall 90% ")
        assert (one.tone, one.first) == ("good", True)
        assert "ROC-AUC" in one.text
        assert _one(said, f"The picture's content counts, not an identity learned by heart, {where}").tone == "good"
    assert _one(said, "both is not shown to differ from twin on all rows").tone == "open"
    assert _one(said, "both beats popularity on all rows").tone == "good"
    assert _one(said, "Asked with another item's picture, both falls from").tone == "good"
    assert [one.first for one in said] == sorted((one.first for one in said), reverse=True)


def test_a_control_that_is_better_is_said_to_be() -> None:
    said = _said({"logistic": [WORDS + 2 * PICTURE - 1]})
    one = _one(said, "both is behind logistic on all rows")
    assert (one.tone, one.first) == ("bad", True)


def test_shuffled_media_that_serve_as_well_are_told() -> None:
    twin = [WORDS + 2 * PICTURE + 0.5 * one - 1 for one in NOISE[1::-1]]
    assert _one(_said({"shuffled": twin}), "That the picture's content counts is not shown on all rows").tone == "open"
    best = [WORDS + 2 * PICTURE - 1] * 2
    assert _one(_said({"shuffled": best}), "Another item's picture serves better than its own on all").tone == "bad"


def test_without_intervals_nothing_is_decided() -> None:
    for said in (_said(min_rows=5_000), _said(users=5)):
        assert all(one.tone == "open" for one in said if not one.text.startswith(("Its calibrated", "It expects")))
        assert "too few rows for an interval" in said[0].text


def test_scores_by_lot_are_not_shown_to_rank() -> None:
    said = _said({"both": [NOISE[3], NOISE[3]]})
    assert said[0].tone == "bad"
    assert "not shown" in said[0].text


def test_the_threshold_that_breaks_its_promise() -> None:
    said = _said({"both": [one + 3 for one in SCORES["both"]]})
    assert _one(said, "The threshold that keeps a false-positive rate of 5.0%").tone == "bad"
    assert _one(_said(), "With a gain of 1 for a liked recommendation").tone == "good"
    never = _said({"both": [one - 50 for one in SCORES["both"]]})
    assert "nothing is recommended" in _one(never, "With a gain of 1").text


def test_how_sure_it_is() -> None:
    assert _one(_said(), "Its calibrated probabilities are off by 2.0%").tone == "good"
    far = Sure(Calibrated(0.06, 0.015, 0.01, 0.021, N), None, 0.4, 0.3)
    said = _said(sure=far)
    assert _one(said, "Its calibrated").tone == "open"
    assert "as it says them" not in _one(said, "Its calibrated").text
    assert _one(said, "It expects 40.0% of the test rows to be liked, and 30.0% are").tone == "open"


def test_roles_are_read_off_the_settings() -> None:
    more = {"averaged": Task.model_validate({**fake_rank.MAIN, "rank": {"text": "averaged"}})}
    found = roles(fake_rank.arms() | more)
    assert found == Roles(("ids-only", "text-only"), {"shuffled": "picture"}, ("focal", "averaged"))
    assert strictest(HOW) == "false_positive_rate_at_recall_0.9"
