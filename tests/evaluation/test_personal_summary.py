"""Arms of made-up answers: means over seeds, differences with intervals, slices, knock-outs, names for the tracker."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_personal import METRICS, REDRAW, N, arm, explained, found, summary

from latefuse.evaluation.arms_summary import table_text
from latefuse.evaluation.intervals import Bootstrap, paired_bootstrap
from latefuse.evaluation.personal_summary import PersonalSummary, between, flat, lifts_over_text, summarise
from latefuse.evaluation.sums import mean


@pytest.fixture(scope="module")
def made() -> PersonalSummary:
    return summary()


def test_differences_are_those_of_the_plain_paired_bootstrap(made: PersonalSummary) -> None:
    a, b = (np.stack([found(share, seed)["hr_at_10"].columns[:, 0] for seed in (0, 1)]) for share in (0.25, 0.15))
    plain = paired_bootstrap(a, b, [str(row % 300) for row in range(N)], Bootstrap(draws=2_000))
    behind = made.lines["hr_at_10"]["text-only"].behind
    assert behind is not None
    assert behind.value == pytest.approx(plain.value)
    assert (behind.low, behind.high) == (pytest.approx(plain.low, abs=0.01), pytest.approx(plain.high, abs=0.01))
    assert made.lines["hr_at_10"]["both"].behind is None
    assert made.lines["hr_at_10"]["both"].mean.seeds == 2
    assert made.about == "1,200 questions of 300 users"


def test_slices_have_all_metrics_and_few_rows_no_interval(made: PersonalSummary) -> None:
    assert made.sizes == {"cold": N // 3, "no picture": 20}
    assert made.slices["cold"] == made.parts["cold"]["hr_at_10"]
    cold = found(0.25)["ndcg_at_5"].columns[::3, 0], found(0.25, 1)["ndcg_at_5"].columns[::3, 0]
    assert made.parts["cold"]["ndcg_at_5"]["both"].mean.value == pytest.approx(np.mean(cold))
    assert not made.slices["no picture"]["both"].mean.has_interval


def test_a_knock_out_costs_what_is_lost(made: PersonalSummary) -> None:
    (one,) = made.knock_outs
    assert (one.arm, one.condition) == ("both", "shuffled:image")
    assert one.worth.value == pytest.approx(one.full.value - one.left.value)
    assert one.worth.low > 0


def test_an_arm_may_lack_metrics_and_rows() -> None:
    values = np.where(np.arange(N) < 100, np.nan, 0.5)
    measured = {"both": [{"a": mean(values), "b": mean(values)}], "popularity": [{"a": mean(values / 2)}]}
    one = summarise("t", [arm("both"), arm("popularity")], measured, ["a", "b"], {}, REDRAW)
    assert one.lines["a"]["both"].mean.rows == N - 100
    assert one.lines["a"]["popularity"].behind.value == pytest.approx(0.25)
    assert np.isnan(one.lines["b"]["popularity"].mean.value)
    assert "eval/b/popularity" not in flat(one)
    with pytest.raises(ValueError, match="t: the main arm has no c"):
        summarise("t", [arm("both")], measured, ["c"], {}, REDRAW)


def test_names_for_the_tracker(made: PersonalSummary) -> None:
    metrics = flat(made)
    assert metrics["eval/contribution/image"] == pytest.approx(made.knock_outs[0].worth.value)
    assert metrics["eval/hr_at_10"] == made.lines["hr_at_10"]["both"].mean.value
    assert metrics["eval/hr_at_10/sampled-100/popularity"] > metrics["eval/hr_at_10/popularity"]
    assert metrics["eval/ndcg_at_5/cold"] == made.parts["cold"]["ndcg_at_5"]["both"].mean.value
    assert metrics["eval/hr_at_10/cold/SASRec/main-minus/high"] < 0
    assert not any(np.isnan(value) for value in metrics.values())
    assert set(flat(made, "A-9")) == {name.replace("eval/", "eval/A-9/", 1) for name in metrics}


def test_what_two_ways_of_asking_differ_by() -> None:
    a, b = ([found(share, seed)["hr_at_10"] for seed in (0, 1)] for share in (0.25, 0.24))
    same = between(a, a, REDRAW)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert between(a, b, REDRAW).value == pytest.approx(np.mean([x.value - y.value for x, y in zip(a, b, strict=True)]))


def test_lifts_are_told_by_slice() -> None:
    measured = {one: [found(share)] for one, share in (("text-only", 0.1), ("shuffled", 0.2), ("both", 0.3))}
    lifts = lifts_over_text(measured, "hr_at_10", ["shuffled", "away"], "text-only", {"cold": np.arange(300)}, REDRAW)
    assert list(lifts) == ["shuffled"]
    assert lifts["shuffled"]["all"].low > 0
    assert lifts["shuffled"]["cold"].rows == 300
    assert lifts_over_text(measured, "hr_at_10", ["shuffled"], "away", {}, REDRAW) == {}


def test_explanations_stand_in_the_same_table() -> None:
    text = table_text(explained(), 0.95)
    assert text.splitlines()[0].split("  ")[0] == "arm"
    for name in ("ROUGE-L", "BLEU-4", "feature named", "unique explanations", "oracle"):
        assert name in text
    assert explained().lines["bleu_4"]["both"].mean.has_interval
    assert "HR@10, sampled@100" in table_text(summary(), 0.95)
    assert METRICS[0] == "hr_at_10"
