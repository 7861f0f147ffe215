"""What is said of personalised prompts: for them, against them, where a floor wins, and left open."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_personal import METRICS, REDRAW, SAID, TRUE, N, arm, explained, found, summary

from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.personal_summary import summarise
from latefuse.evaluation.personal_verdict import explained as of_explanations
from latefuse.evaluation.personal_verdict import next_items, renumbered, unseen
from latefuse.evaluation.verdict import Sentence


def _one(said: list[Sentence], *parts: str) -> Sentence:
    (one,) = [one for one in said if all(part in one.text for part in parts)]
    return one


def test_what_is_shown_is_said() -> None:
    said = next_items(summary(), ["shuffled"])
    assert _one(said, "The picture is used").tone == "good"
    assert _one(said, "Text with picture beats text alone on all queries").tone == "good"
    assert _one(said, "Content, not memorised identity, on all queries").tone == "good"
    assert _one(said, "HR@10 both is above every floor", "nearest popularity").tone == "good"
    assert _one(said, "both is below the control SASRec").tone == "bad"
    assert _one(said, "Item numbers are not shown to tell anything").tone == "good"
    assert "chance is 0.5%" in _one(said, "Item numbers").text
    assert [one.first for one in said] == sorted((one.first for one in said), reverse=True)


def test_a_floor_that_wins_is_said_to() -> None:
    said = next_items(summary({"popularity": 0.4}), ["shuffled"])
    assert _one(said, "both is below the floor popularity").tone == "bad"


def test_numbers_that_tell_the_future_come_first() -> None:
    said = next_items(summary({"highest + 1": 0.2}))
    one = _one(said, "Item numbers tell the future, so nothing here counts")
    assert (one.tone, one.first) == ("bad", True)


def test_other_numbers_of_items_should_change_nothing() -> None:
    same = renumbered(summary({"other-numbers": 0.25}), ["other-numbers"])
    assert _one(same, "Which numbers items have is not shown to matter", "both minus other-numbers").tone == "good"
    worse = renumbered(summary({"other-numbers": 0.1}), ["other-numbers"])
    assert _one(worse, "Which numbers items have changes what is found", "+1", "more seeds").tone == "bad"
    assert renumbered(summary(), []) == []


def test_a_sample_that_turns_the_order_round() -> None:
    measured = {"popularity": [found(0.05, sample=0.9)], "both": [found(0.25, sample=0.4)]}
    turned = summarise("s", [arm(one) for one in measured], measured, METRICS, {}, REDRAW, pool=2_000)
    one = _one(next_items(turned), "Among sampled candidates both finds 39.3%")
    assert "it changes sides with popularity (+" in one.text
    assert one.tone == "bad"
    assert _one(next_items(summary()), "Among sampled candidates").tone == "open"


def test_explanations_beside_floors_and_controls() -> None:
    said = of_explanations(explained())
    assert _one(said, "both is nearer to the true explanations than the floor boilerplate: ROUGE-L").tone == "good"
    assert _one(said, "both is nearer to the true explanations than text-only").tone == "good"
    assert _one(said, "both names the feature in 100.0% of explanations, boilerplate in").tone == "good"
    assert _one(said, "are no boilerplate", "unique explanations").tone == "good"


def test_one_text_for_everybody_is_found_out() -> None:
    said = of_explanations(explained({"both": SAID["boilerplate"]}))
    dull = _one(said, "The explanations of both are boilerplate", "feature named", "unique explanations")
    assert (dull.tone, dull.first) == ("bad", True)
    assert _one(said, "both is not shown to differ from the floor boilerplate").tone == "open"
    assert _one(said, "text-only in 100.0%").tone == "bad"
    assert said[0] == dull


def test_a_floor_of_explanations_that_wins_comes_first() -> None:
    said = of_explanations(explained({"boilerplate": TRUE, "both": ["soft"] * N}))
    assert said[0].text.startswith(("The floor boilerplate wins over both", "The explanations of both"))
    assert _one(said, "The floor boilerplate wins over both: ROUGE-L").tone == "bad"


def test_prompts_not_seen_in_training() -> None:
    one = summary()
    assert unseen(one, "A-9", Estimate(0.05, 0.02, 0.08, N)).tone == "bad"
    assert "A-9, a prompt that training has not shown" in unseen(one, "A-9", Estimate(0.05, 0.02, 0.08, N)).text
    assert unseen(one, "A-9", Estimate(0.01, -0.02, 0.08, N)).tone == "open"
    assert unseen(one, "A-9", Estimate(0.01, np.nan, np.nan, 9)).tone == "open"


@pytest.mark.parametrize("few", [{"users": 5}, {"min_rows": 9_999}])
def test_without_intervals_nothing_is_decided(few: dict[str, int]) -> None:
    from latefuse.evaluation.intervals import Bootstrap
    from latefuse.evaluation.redraw import Redraw

    redraw = Redraw(np.arange(N) % few.get("users", 300), Bootstrap(draws=50, min_rows=few.get("min_rows", 50)))
    said = next_items(summary(redraw=redraw), ["shuffled"]) + renumbered(summary(redraw=redraw), ["shuffled"])
    assert all(one.tone == "open" for one in said)
