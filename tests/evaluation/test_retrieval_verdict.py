"""What is said of item embeddings, over estimates made by hand: never more than an interval shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, Line, MeasuredArm
from latefuse.evaluation.intervals import Bootstrap, Estimate
from latefuse.evaluation.retrieval_verdict import (
    ALL,
    blind,
    blind_name,
    chance,
    findings,
    lifts_over_text,
    percent,
    points,
)
from latefuse.evaluation.scores import Scores
from latefuse.evaluation.verdict import Sentence

NAN = float("nan")
GAIN = Estimate(0.03, 0.01, 0.05, 200)
LOSS = Estimate(-0.03, -0.05, -0.01, 200)
FLAT = Estimate(0.005, -0.01, 0.02, 200)
FEW = Estimate(0.03, NAN, NAN, 12)
NOT_MEASURED = Estimate(NAN, NAN, NAN, 0)
MEAN = Estimate(0.2, 0.17, 0.23, 200)
BLIND = Estimate(0.013, 0.0, 0.03, 200)  # chance is 0.01
SEES = Estimate(0.08, 0.05, 0.11, 200)
GROUPS = {"main": "main", "popularity": "floor", "co-occurrence": "floor"}


def _summary(
    behind: dict[str, Estimate] | None = None,
    knocked: dict[tuple[str, str], tuple[Estimate, Estimate]] | None = None,
    cold: dict[str, Estimate] | None = None,
    pool: int = 1_000,
    metric: str = "recall_at_10",
    oracle: dict[str, float] | None = None,
) -> ArmsSummary:
    """behind: arm -> main minus it. knocked: (arm, condition) -> (what is left, worth). cold: behind on that slice."""
    names = ["main", *(behind or {})]
    arms = [MeasuredArm(name, name, "", GROUPS.get(name, "control")) for name in names]  # type: ignore[arg-type]
    lines = {name: Line(MEAN, (behind or {}).get(name)) for name in names}
    outs = [KnockOut(arm, condition, MEAN, *pair) for (arm, condition), pair in (knocked or {}).items()]
    slices = {"cold": {"main": Line(MEAN), **{name: Line(MEAN, found) for name, found in cold.items()}}} if cold else {}
    return ArmsSummary(
        "items",
        "main",
        arms,
        [metric],
        200,
        "200 queries",
        {metric: lines},
        outs,
        slices,
        {"cold": 60},
        oracle or {},
        pool,
    )


def _said(found: list[Sentence], start: str) -> Sentence:
    (sentence,) = [one for one in found if one.text.startswith(start)]
    return sentence


def test_a_picture_that_helps_by_its_content() -> None:
    shown = {("main", "shuffled:image"): (Estimate(0.17, 0.1, 0.2, 200), GAIN), ("main", "only:image"): (SEES, GAIN)}
    summary = _summary({"popularity": GAIN, "text-only": GAIN, "shuffled": GAIN}, shown)
    found = findings(summary, ["shuffled"])
    assert {one.tone for one in found} == {"good"}
    used = _said(found, "The picture is used")
    assert "main finds 17.0% instead of 20.0% (R@10); its own is worth +3.0 points [1.0, 5.0]" in used.text
    assert used.first
    assert _said(found, "Content, not memorised identity, on all queries").first
    assert "Text with picture beats text alone on all queries" in _said(found, "Text with").text
    assert (
        "by the picture alone main finds 8.0% [5.0, 11.0] (R@10), chance is 1.0%"
        in _said(found, "The picture is not").text
    )
    assert "above every floor; the nearest popularity (+3.0 points" in _said(found, "By R@10").text
    assert [one.first for one in found] == sorted((one.first for one in found), reverse=True)


def test_memorised_identity_is_called_by_its_name() -> None:
    summary = _summary({"text-only": GAIN, "shuffled": FLAT}, {("main", "shuffled:image"): (MEAN, GAIN)})
    found = findings(summary, ["shuffled"], lifts={"shuffled": {ALL: GAIN}})
    said = _said(found, "Memorised identity, not content, on all queries")
    assert said.tone == "bad"
    assert "shuffled still finds more than text-only (+3.0 points [1.0, 5.0])" in said.text
    assert "not shown to differ from zero (+0.5 points [-1.0, 2.0])" in said.text
    assert not any(one.text.startswith("Content") for one in found)


@pytest.mark.parametrize("lifts", [None, {}, {"shuffled": {}}, {"shuffled": {ALL: FLAT}}, {"shuffled": {ALL: FEW}}])
def test_memory_is_not_claimed_where_shuffled_media_are_not_shown_to_help(lifts: dict | None) -> None:
    said = _said(findings(_summary({"text-only": GAIN, "shuffled": FLAT}), ["shuffled"], lifts=lifts), "True media")
    assert said.tone == "open"
    assert ("nor is shuffled shown" in said.text) == (lifts == {"shuffled": {ALL: FLAT}})


def test_media_of_another_item_that_serve_better_are_told() -> None:
    said = _said(findings(_summary({"shuffled": LOSS}), ["shuffled"]), "Not content on all queries")
    assert said.tone == "bad"
    assert "another item's media serve better" in said.text


def test_cold_queries_have_a_say_of_their_own() -> None:
    summary = _summary({"text-only": GAIN, "shuffled": GAIN}, cold={"text-only": FLAT, "shuffled": FLAT})
    found = findings(summary, ["shuffled"], lifts={"shuffled": {ALL: GAIN, "cold": GAIN}})
    assert _said(found, "Content, not memorised identity, on all queries").tone == "good"
    cold = _said(found, "Not content on cold queries (n = 60)")
    assert (cold.tone, cold.first) == ("bad", False)
    assert _said(found, "Text with media beats text alone on all").tone == "good"
    assert _said(found, "Text with media is not shown to beat text alone on cold queries").tone == "open"


def test_without_shuffled_training_content_and_identity_are_not_told_apart() -> None:
    knocked = {("main", "shuffled:image"): (MEAN, GAIN)}
    asked = "No arm was trained on shuffled picture"
    assert _said(findings(_summary({}, knocked), ["not measured"]), asked).tone == "open"
    assert not [one for one in findings(_summary({"shuffled": GAIN}, knocked), ["shuffled"]) if asked in one.text]
    assert not [one for one in findings(_summary({"text-only": FLAT})) if asked in one.text]


@pytest.mark.parametrize(
    ("worth", "start", "tone"),
    [
        (FLAT, "The clip is not shown to be used", "bad"),
        (LOSS, "The clip misleads", "bad"),
        (FEW, "Is the clip used?", "open"),
        (NOT_MEASURED, "Is the clip used?", "open"),
    ],
)
def test_a_medium_whose_shuffling_is_not_shown_to_cost(worth: Estimate, start: str, tone: str) -> None:
    assert _said(findings(_summary({}, {("main", "shuffled:video"): (MEAN, worth)})), start).tone == tone


@pytest.mark.parametrize(
    ("alone", "worth", "start", "tone"),
    [
        (BLIND, FLAT, "The picture is neglected", "bad"),
        (BLIND, GAIN, "The picture counts beside the text only", "open"),
        (SEES, FLAT, "The picture is not neglected", "good"),
        (FEW, FLAT, "Is the picture neglected?", "open"),
    ],
)
def test_neglect_needs_recall_at_chance_and_shuffling_that_costs_nothing(
    alone: Estimate, worth: Estimate, start: str, tone: str
) -> None:
    knocked = {("main", "only:image"): (alone, GAIN), ("main", "shuffled:image"): (MEAN, worth)}
    assert _said(findings(_summary({}, knocked)), start).tone == tone


def test_arms_that_ignore_the_picture_are_named() -> None:
    arms = {"base": FLAT, "gate-only": FLAT, "micl-only": FLAT, "text-only": FLAT}
    knocked = {(arm, "only:image"): (SEES if arm == "micl-only" else BLIND, GAIN) for arm in arms}
    knocked["gate-only", "shuffled:image"] = (MEAN, GAIN)
    said = _said(findings(_summary(arms, knocked)), "Arms that ignore the picture")
    assert said.text.endswith("no more than chance (1.0%) is shown for base (1.3% [0.0, 3.0]).")


def test_chance_can_not_be_missed_in_a_pool_no_larger_than_k() -> None:
    said = _said(findings(_summary({}, {("main", "only:image"): (SEES, GAIN)}, pool=8)), "Is the picture neglected?")
    assert "this can't tell" in said.text
    assert not findings(_summary({}, {("main", "only:image"): (SEES, GAIN)}, metric="mrr"))


def test_a_floor_that_wins_is_told_and_the_others_as_far_as_shown() -> None:
    found = findings(_summary({"popularity": FLAT, "co-occurrence": LOSS, "two-tower": LOSS, "base": NOT_MEASURED}))
    below = [one for one in found if "is below" in one.text]
    assert [one.tone for one in below] == ["bad", "bad"]
    assert below[0].text == "By R@10 main is below the floor co-occurrence (-3.0 points [-5.0, -1.0])."
    assert "the control two-tower" in below[1].text
    assert "not shown to differ from the floor popularity" in next(one.text for one in found if one.tone == "open")
    assert not any("base" in one.text or "every floor" in one.text for one in found)


def test_too_few_queries_decide_nothing() -> None:
    knocked = {("main", f"{kind}:image"): (FEW, FEW) for kind in ("only", "shuffled")}
    arms = {"popularity": FEW, "text-only": FEW, "shuffled": FEW}
    found = findings(_summary(arms, knocked, cold=arms), ["shuffled"], lifts={"shuffled": {ALL: FEW}})
    assert {one.tone for one in found} == {"open"}
    assert "+3.0 points (n = 12); too few queries" in _said(found, "Is the picture used?").text
    assert len([one for one in found if "Content or memorised identity" in one.text]) == 2


def test_the_share_of_the_oracle_comes_with_its_interval() -> None:
    (said,) = findings(_summary(oracle={"recall_at_10": 0.5}))
    assert said.text == "main reaches 40% [34, 46] of what can be found at best (R@10 50.0%)."


def test_one_arm_alone_is_no_finding() -> None:
    assert findings(_summary()) == []


def test_lifts_are_paired_differences_by_slice() -> None:
    scores, rng = Scores(), np.random.default_rng(0)
    hits = {arm: rng.integers(0, 2, (2, 80)).astype(float) for arm in ("text-only", "shuffled")}
    for arm, values in hits.items():
        for seed, row in enumerate(values):
            for query, value in enumerate(row):
                key = (arm, seed, "full", "t", "", f"q{query:02}", f"q{query:02}", "", "")
                scores.add(key, {"recall_at_10": (value, 1)})
    table, how = scores.table(), Bootstrap(200)
    cold = [f"q{query:02}" for query in range(60)]
    found = lifts_over_text(
        table, "t", "recall_at_10", ["shuffled", "no"], "text-only", {"cold": cold, "void": []}, how
    )
    assert {arm: list(parts) for arm, parts in found.items()} == {"shuffled": [ALL, "cold"]}
    difference = hits["shuffled"] - hits["text-only"]
    assert found["shuffled"][ALL].value == pytest.approx(difference.mean())
    assert found["shuffled"]["cold"].value == pytest.approx(difference[:, :60].mean())
    assert found["shuffled"]["cold"].rows == 60
    assert found["shuffled"][ALL].low < difference.mean() < found["shuffled"][ALL].high
    assert lifts_over_text(table, "t", "recall_at_10", ["shuffled"], "no", {}, how) == {}


def test_where_popularity_counts_nothing_is_seen_unless_more_is_found_than_by_it() -> None:
    shown = {("main", "only:image"): (SEES, GAIN)}
    plain = _summary({"popularity": GAIN}, shown)
    assert (blind(plain, "recall_at_10"), blind_name(plain)) == (0.01, "chance")
    counted = replace(plain, prior=True)
    assert (blind(counted, "recall_at_10"), blind_name(counted)) == (0.2, "popularity")
    assert _said(findings(plain), "The picture is not neglected").tone == "good"
    assert "popularity is 20.0%" in _said(findings(counted), "The picture is neglected").text
    useless = Line(Estimate(0.0, 0.0, 0.0, 200), GAIN)  # of new items popularity knows nothing
    lines = {"recall_at_10": {**plain.lines["recall_at_10"], "popularity": useless}}
    new = replace(plain, prior=True, lines=lines)
    assert (blind(new, "recall_at_10"), blind_name(new)) == (0.01, "chance")


def test_chance_is_the_share_of_the_pool_that_is_looked_at() -> None:
    assert chance("recall_at_10", 1_000) == 0.01
    assert chance("recall_at_100", 10) == 1.0
    assert chance("ndcg_at_10", 1_000) is None
    assert chance("mrr", 1_000) is None


def test_numbers_as_they_are_read() -> None:
    assert [percent(value) for value in (0.241, 0.0, 0.00005, NAN)] == ["24.1%", "0.0%", "0.005%", "–"]
    assert points(Estimate(NAN, NAN, NAN, 0)) == "not measured"
