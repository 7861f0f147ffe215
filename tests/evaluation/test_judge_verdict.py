"""Sentences about a judge, from estimates made by hand."""

from __future__ import annotations

from latefuse.evaluation.arms_summary import ArmsSummary, Line, MeasuredArm
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.judge_verdict import Calibrated, findings
from latefuse.evaluation.stress import Freely, Stressed

NAN = float("nan")
GAIN, SAME, LOSS = Estimate(0.3, 0.2, 0.4, 200), Estimate(0.0, -0.1, 0.1, 200), Estimate(-0.2, -0.3, -0.1, 200)


def _summary(
    main: Estimate, behind: dict[str, Estimate], values: dict[str, float], both: Estimate | None
) -> ArmsSummary:
    groups = {"majority": "floor", "linear map": "floor", "text-only": "control", "no-rule": "control"}
    arms = [MeasuredArm(name, name, "", groups[name]) for name in behind]  # type: ignore[arg-type]
    lines = {name: Line(Estimate(values.get(name, 0.5), 0.4, 0.6, 200), ahead) for name, ahead in behind.items()}
    every = {"balanced_accuracy": {**lines, "judge": Line(main)}}
    if both is not None:
        every |= {name: {**lines, "judge": Line(both)} for name in ("same_pair", "same_pair_both")}
    about = "200 judgements"
    return ArmsSummary(
        "judge", "judge", [*arms, MeasuredArm("judge", "judge", "", "main")], list(every), 200, about, every
    )


def _told(found: list[object]) -> str:
    return "\n".join(f"{one.tone} {one.text}" for one in found)  # type: ignore[attr-defined]


def test_a_judge_that_judges() -> None:
    behind = {"majority": GAIN, "linear map": GAIN, "text-only": GAIN, "no-rule": SAME}
    summary = _summary(Estimate(0.9, 0.87, 0.93, 200), behind, {}, Estimate(0.8, 0.7, 0.9, 100))
    error = {"judge": Calibrated(0.02, 0.015, 0.01, 0.03, 200)}
    told = _told(
        findings(summary, ["text-only"], error, Freely(100, 90, 85), [Stressed("one letter", 10, 0, 4, 5, 6, 1)])
    )  # type: ignore[arg-type]
    assert "good judge reaches 90.0% [87.0, 93.0] balanced accuracy, chance is 50%." in told
    assert "good judge is above majority (+30.0 points [20.0, 40.0]), linear map" in told
    assert "open judge is not shown to differ from no-rule" in told
    assert "text-only (+" not in told
    assert "right by both in 80.0% [70.0, 90.0] of pairs" in told
    assert "good Looking at one side alone is not enough: text-only reaches 50.0% [40.0, 60.0]." in told
    assert "good Its probabilities are off by 2.0% on 200 rows" in told
    assert "in 85.0% of 100 rows and something that is no label in 10.0%" in told
    assert "bad With one letter, 1 of the 6 verdicts that were not relevant turn relevant." in told


def test_a_judge_at_chance_and_data_that_tell() -> None:
    behind = {"majority": SAME, "linear map": LOSS, "text-only": LOSS}
    summary = _summary(Estimate(0.52, 0.48, 0.56, 200), behind, {"text-only": 0.7}, None)
    told = _told(findings(summary, ["text-only"], {"judge": Calibrated(0.2, 0.02, 0.01, 0.03, 200)}, None, []))  # type: ignore[arg-type]
    assert "bad judge reaches 52.0% [48.0, 56.0] balanced accuracy, chance is 50%: that it judges is not shown." in told
    assert "bad judge is below linear map" in told
    assert "bad The data tell the label in part without looking at both sides: text-only reaches 70.0%" in told
    assert "open Its probabilities are off by 20.0%" in told
    few = _summary(Estimate(0.9, NAN, NAN, 9), {}, {}, None)
    assert "too few rows for an interval" in _told(findings(few, [], {}, None, []))  # type: ignore[arg-type]
