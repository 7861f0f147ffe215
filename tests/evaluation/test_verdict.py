"""What the off-modality check may say, over cells made by hand."""

from __future__ import annotations

import pytest

from latefuse.evaluation.arms import Arm
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.summary import Cell, Summary, TaskSummary
from latefuse.evaluation.verdict import Sentence, verdicts

NAN = float("nan")
NOTHING = Estimate(0.0, 0.0, 0.0, 80)
HARDLY = Estimate(0.01, 0.0, 0.03, 80)
ROOM = Estimate(0.5, 0.4, 0.6, 80)
LEVEL = Cell(Estimate(0.5, 0.4, 0.6, 80), Estimate(0.02, -0.05, 0.09, 80))
LOWER = Cell(Estimate(0.45, 0.35, 0.55, 80), Estimate(-0.05, -0.12, 0.02, 80))
HURT = Cell(Estimate(0.1, 0.0, 0.2, 80), Estimate(-0.4, -0.5, -0.3, 80))
STILL = Cell(NOTHING, NOTHING)


def _off(control: dict[str, Estimate], found: dict[str, Cell]) -> list[Sentence]:
    """The sentences on adapter 'b' on the rows of task 'a', where zero-shot has `control` and the adapter `found`."""
    cells = {metric: {"zero-shot": Cell(estimate)} for metric, estimate in control.items()}
    tasks = [TaskSummary("a", 80, next(iter(control)), cells), TaskSummary("b", 80, "dish_top1", {"dish_top1": {}})]
    zero = Arm("zero-shot", "zero-shot", "", "control", {"a": "zero-shot"})
    return [one for one in verdicts(Summary([zero], tasks, off={"b": {"a": found}})) if "Off modality" in one.text]


@pytest.mark.parametrize("control", [NOTHING, HARDLY, Estimate(0.0, NAN, NAN, 20)])
def test_where_zero_shot_has_nothing_to_lose_the_check_can_not_tell(control: Estimate) -> None:
    (said,) = _off({"exact_match": control}, {"exact_match": STILL})
    assert said.tone == "open"
    assert "on a, so there is nothing to lose and the check can't tell" in said.text
    assert "hurt a" not in said.text


@pytest.mark.parametrize(
    ("cell", "tone", "text"),
    [
        (HURT, "bad", "an adapter hurts another task, most b on a (answer ranked first), -40.0 points [-50.0, -30.0]"),
        (LEVEL, "good", "no adapter of another task is shown to hurt a; the lowest is b on a (answer ranked first)"),
        (LOWER, "open", "no adapter of another task is shown to hurt a; the lowest is b on a (answer ranked first)"),
    ],
)
def test_a_ranked_metric_tells_where_the_headline_can_not(cell: Cell, tone: str, text: str) -> None:
    control = {"exact_match": NOTHING, "answer_top1": ROOM}
    (said,) = _off(control, {"exact_match": STILL, "answer_top1": cell})
    assert said.tone == tone
    assert text in said.text


def test_the_headline_tells_where_it_can() -> None:
    (said,) = _off({"exact_match": ROOM, "answer_top1": ROOM}, {"exact_match": HURT, "answer_top1": LEVEL})
    assert said.tone == "bad"
    assert "b on a (exact match)" in said.text


def test_few_rows_leave_it_open() -> None:
    few = Cell(Estimate(0.5, NAN, NAN, 20), Estimate(0.1, NAN, NAN, 20))
    (said,) = _off({"exact_match": Estimate(0.4, NAN, NAN, 20)}, {"exact_match": few})
    assert said.tone == "open"
    assert "+10.0 points (n = 20)" in said.text


@pytest.mark.parametrize(
    ("mixed", "wide", "tone", "text"),
    [
        (
            (0.3, 0.2, 0.4),
            (0.0, -0.1, 0.1),
            "good",
            "Against mixed, wide (equal parameters) +0.0 points [-10.0, 10.0], not",
        ),
        (
            (0.3, 0.2, 0.4),
            (-0.2, -0.3, -0.1),
            "bad",
            "Separate beats mixed on a (name, top-1): difference +30.0 points",
        ),
        ((0.3, 0.2, 0.4), (0.2, 0.1, 0.3), "good", "+20.0 points [10.0, 30.0], better."),
        ((0.0, -0.1, 0.1), (0.2, 0.1, 0.3), "open", "Separate does not beat mixed on a"),
        ((-0.3, -0.4, -0.2), (0.2, 0.1, 0.3), "bad", "Separate is worse than mixed on a"),
    ],
)
def test_equal_parameters_can_turn_the_finding(
    mixed: tuple[float, ...], wide: tuple[float, ...], tone: str, text: str
) -> None:
    cell = Cell(ROOM, None, Estimate(*mixed, 80), Estimate(*wide, 80))
    route = Arm("separate+route", "separate + route", "", "route", {"a": "only-a"})
    said = verdicts(Summary([route], [TaskSummary("a", 80, "dish_top1", {"dish_top1": {"separate+route": cell}})]))[0]
    assert said.tone == tone
    assert text in said.text
    assert said.first
