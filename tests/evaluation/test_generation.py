"""Recipe metrics on worked examples."""

from __future__ import annotations

from math import isnan

import pytest

from latefuse.evaluation.generation import has_amount, recipe_scores, step_amounts, step_order, text_scores

TRUTH = {
    "ingredients": [
        {"amount": 2, "unit": "cups", "name": "rice"},
        {"amount": 1, "unit": "tbsp", "name": "butter"},
        {"amount": 3, "unit": "cloves", "name": "garlic"},
        {"amount": None, "unit": "", "name": "red onion"},
    ],
    "steps": ["add 2 cups rice", "add 1 tbsp butter", "add 3 cloves garlic", "bake"],
}
REFERENCE = (
    "ingredients : 2 cups rice ; 1 tbsp butter ; 3 cloves garlic ; red onion "
    "steps : add 2 cups rice ; add 1 tbsp butter ; add 3 cloves garlic ; bake"
)


def _values(answer: str) -> dict[str, float]:
    return {metric: value for metric, (value, _) in recipe_scores(answer, REFERENCE, TRUTH).items()}


def test_the_truth_scores_full_marks() -> None:
    values = _values(REFERENCE)
    full = (
        "ingredient_precision",
        "ingredient_recall",
        "ingredient_f1",
        "amount_accuracy",
        "step_order",
        "bleu",
        "rouge_l",
    )
    assert [values[m] for m in full] == pytest.approx([1.0] * 7)
    assert (values["hallucination"], values["amount_error"]) == (0, 0)
    assert (values["amount_share"], values["step_amount_share"], values["step_amount_match"]) == (0.75, 0.75, 1)


def test_a_worked_example() -> None:
    said = "Ingredients:\n- 4 cups Rice\n- 3 tsp butter\n- 1 onion\n- 2 g saffron\n"
    values = _values(f"{said}Steps:\n1. add butter\n2. add rice\n3. bake")
    assert values["ingredient_precision"] == pytest.approx(2 / 4)
    assert values["ingredient_recall"] == pytest.approx(2 / 4)
    assert values["amount_accuracy"] == pytest.approx(1 / 2)  # 3 tsp are 1 tbsp; the rice is doubled
    assert values["amount_error"] == pytest.approx(0.5, abs=1e-3)
    assert values["hallucination"] == pytest.approx(1 / 4)  # saffron; the onion is merely not red
    assert values["step_order"] == pytest.approx(1 / 3)  # butter, rice, bake: one of three pairs is swapped
    assert values["step_amount_share"] == 0
    assert values["step_amount_match"] == pytest.approx(1 / 3)  # of butter, rice and bake only bake needs none


def test_an_answer_that_says_nothing() -> None:
    scores = recipe_scores("", REFERENCE, TRUTH)
    assert [
        scores[m][0]
        for m in ("ingredient_precision", "ingredient_recall", "ingredient_f1", "step_order", "bleu", "rouge_l")
    ] == [0] * 6
    for metric in ("amount_accuracy", "amount_error", "hallucination", "amount_share", "step_amount_match"):
        assert isnan(scores[metric][0])
        assert scores[metric][1] == 0


def test_other_units_of_another_kind_are_wrong() -> None:
    values = _values("ingredients : 200 g rice ; butter ; 3 slices garlic steps : bake")
    assert values["amount_accuracy"] == 0
    assert values["amount_error"] == 1


def test_an_absurd_amount_is_capped() -> None:
    assert _values("ingredients : 99999999 cups rice steps : bake")["amount_error"] == 10
    assert _values(f"ingredients : {'9' * 400} cups rice steps : bake")["amount_error"] == 10


def test_the_same_ingredient_twice_is_added_up() -> None:
    assert _values("ingredients : 1 cup rice ; 1 cup rice steps : bake")["amount_accuracy"] == 1


@pytest.mark.parametrize(
    ("said", "tau"),
    [
        (["add rice", "add butter", "add garlic", "bake"], 1.0),
        (["bake", "add garlic", "add butter", "add rice"], -1.0),
        (["add rice", "dance", "add butter"], 1.0),
        (["dance", "sing"], 0.0),
        ([], 0.0),
    ],
)
def test_step_order(said: list[str], tau: float) -> None:
    assert step_order(said, TRUTH["steps"])[0] == pytest.approx(tau)


@pytest.mark.parametrize(
    ("said", "share", "steps"),
    [
        (TRUTH["steps"], 1.0, 4),
        (["add 2 cups rice", "add 1 tbsp butter", "add 3 cloves garlic", "bake 2 cups"], 3 / 4, 4),  # one too many
        (["add rice", "add 1 tbsp butter", "bake"], 2 / 3, 3),  # one too few
        (["bake", "add 9 cups rice"], 1.0, 2),  # whether there is an amount, not which
        (["add 2 cups rice", "dance for 1 cup"], 1.0, 1),
    ],
)
def test_amounts_stand_where_the_truth_has_them(said: list[str], share: float, steps: int) -> None:
    assert step_amounts(said, TRUTH["steps"]) == (pytest.approx(share), steps)


def test_equal_steps_match_in_place() -> None:
    true = ["add rice", "stir", "add rice", "stir", "bake"]
    assert step_order(true, true)[0] == pytest.approx(1)


def test_no_order_in_a_single_step() -> None:
    assert step_order(["bake"], ["bake"])[1] == 0


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("add 2 cups rice", True),
        ("add ½ onion", True),
        ("a pinch of salt", True),
        ("bake 20 minutes at 180 °C", False),
        ("bake at 350F", False),
        ("stir", False),
    ],
)
def test_amounts_in_steps(step: str, told: bool) -> None:
    assert has_amount(step) is told


def test_bleu_and_rouge_against_known_values() -> None:
    scores = text_scores("the cat sat on the mat", "the cat is on the mat")
    assert scores["rouge_l"][0] == pytest.approx(5 / 6)
    # n-gram precisions 5/6, 3/5, 1/4 and 1/6 (the last smoothed by 'exp': 1/(2*3))
    assert scores["bleu"][0] == pytest.approx((5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25, rel=1e-6)


def test_no_reference_no_value() -> None:
    assert text_scores("anything", " ")["bleu"][1] == 0
