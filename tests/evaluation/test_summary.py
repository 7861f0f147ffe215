"""Summary, sentences, flat metrics and terminal table over made-up scores with known effects."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import numpy as np
import polars as pl
import pytest

from latefuse.evaluation import arms
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.scores import ScoreTable
from latefuse.evaluation.summary import Summary, flat_metrics, summarise
from latefuse.evaluation.verdict import verdicts

Maker = Callable[..., tuple[ScoreTable, list[arms.Arm]]]


def test_cells_are_plain_means_and_paired_differences(made_up: Summary, make_scores: Maker) -> None:
    frame = make_scores()[0].frame.filter(task="recipe", metric="ingredient_f1", condition="full")
    means = {arm: float(frame.filter(arm=arm)["value"].mean() or 0) for arm in ("zero-shot", "mixed", "separate+route")}
    cell = made_up.task("recipe").cells["ingredient_f1"]["separate+route"]
    assert cell.mean.value == pytest.approx(means["separate+route"])
    assert cell.against_zero is not None
    assert cell.against_mixed is not None
    assert cell.against_zero.value == pytest.approx(means["separate+route"] - means["zero-shot"])
    assert cell.against_mixed.value == pytest.approx(means["separate+route"] - means["mixed"])
    assert cell.mean.low < cell.mean.value < cell.mean.high


def test_a_control_is_not_compared_with_itself(made_up: Summary) -> None:
    cells = made_up.task("dish").cells["dish_top1"]
    assert cells["zero-shot"].against_zero is None
    assert cells["mixed"].against_mixed is None


def test_slices_hold_their_rows_only(made_up: Summary) -> None:
    cell = made_up.slices["dish"]["absent"]["separate+route"]
    assert cell.mean.rows == 8
    assert not cell.mean.has_interval


def test_off_modality_is_measured_against_zero_shot(made_up: Summary) -> None:
    assert made_up.off["dish"]["dish"]["dish_top1"].mean.value > 0.6
    hurt = made_up.off["dish"]["answers"]["exact_match"].against_zero
    assert hurt is not None
    assert abs(hurt.value) < 0.15


def test_off_modality_falls_back_to_ranks_where_the_headline_has_no_room(make_scores: Maker) -> None:
    scores, known = make_scores()
    blank = (pl.col("arm") == "zero-shot") & (pl.col("metric") == "exact_match")
    frame = scores.frame.with_columns(pl.when(blank).then(0.0).otherwise(pl.col("value")).alias("value"))
    found = summarise(ScoreTable(frame), known, Bootstrap(draws=300))
    assert (found.task("recipe").harm_metric, found.task("answers").harm_metric) == ("ingredient_f1", "answer_top1")
    assert list(found.off["dish"]["answers"]) == ["exact_match", "answer_top1"]
    assert list(found.off["dish"]["recipe"]) == ["ingredient_f1"]
    ranks = frame.filter(task="answers", metric="answer_top1", condition="full")
    means = {arm: float(ranks.filter(arm=arm)["value"].mean() or 0) for arm in ("zero-shot", "only-dish")}
    against = found.off["dish"]["answers"]["answer_top1"].against_zero
    assert against is not None
    assert against.value == pytest.approx(means["only-dish"] - means["zero-shot"])
    headline = found.off["dish"]["answers"]["exact_match"].mean.value
    assert flat_metrics(found)["eval/off_modality/dish-on-answers"] == headline  # against nothing right


def test_the_oracle_of_a_cell_is_that_on_its_own_rows(make_scores: Maker) -> None:
    scores, known = make_scores(seeds=2)
    routed, misses = pl.col("arm") == "separate+route", (pl.col("arm") == "oracle") & (pl.col("value") < 1)
    beyond = scores.frame.filter(misses, task="recipe", metric="ingredient_f1")["row"].to_list()
    few = [*beyond, *(f"recipe-{number}" for number in range(25))]
    frame = scores.frame.filter(~routed | (pl.col("task") != "recipe") | pl.col("row").is_in(few))
    unmeasured = routed & (pl.col("seed") == 1) & (pl.col("row") == "recipe-3")
    frame = frame.with_columns(pl.when(~unmeasured).then(pl.col("value")).alias("value"))
    summary = summarise(ScoreTable(frame), known, Bootstrap(draws=100))
    full = frame.filter(task="recipe", condition="full")
    for metric, arm in product(("ingredient_f1", "amount_error"), ("mixed", "separate+route")):
        lines = full.filter(metric=metric)
        pairs = lines.filter(arm=arm).drop_nulls("value").join(lines.filter(arm="oracle"), on="row", suffix="_best")
        best, mean = float(pairs["value_best"].mean() or 0), float(pairs["value"].mean() or 0)
        cell = summary.task("recipe").cells[metric][arm]
        assert cell.oracle == pytest.approx(best)
        assert cell.reached == (None if metric == "amount_error" else pytest.approx(mean / best))
    cell = summary.task("recipe").cells["ingredient_f1"]["separate+route"]
    assert cell.oracle != pytest.approx(summary.task("recipe").oracle["ingredient_f1"])
    told = next(s.text for s in verdicts(summary) if "On recipe separate reaches" in s.text)
    share, best = cell.reached or 0, cell.oracle or 0
    assert f"{100 * share:.0f}% of what this modality can show at best ({100 * best:.1f}%)" in told


def test_contributions_are_full_minus_what_is_left(made_up: Summary) -> None:
    found = {(c.task, c.arm, c.condition): c for c in made_up.contributions}
    one = found["recipe", "separate+route", "shuffled"]
    assert one.worth.value == pytest.approx(one.full.value - one.left.value)
    assert one.worth.excludes_zero
    assert ("recipe", "only-recipe", "shuffled") not in found
    assert ("fused", "separate+late-fused", "alone") in found


@pytest.mark.parametrize(("mixed", "said"), [(0.78, "does not beat"), (0.3, "beats"), (1.3, "is worse than")])
def test_the_verdict_says_what_the_interval_allows(make_scores: Maker, mixed: float, said: str) -> None:
    scores, known = make_scores(mixed=mixed)
    first = next(s for s in verdicts(summarise(scores, known, Bootstrap(draws=300))) if "on recipe" in s.text)
    assert first.first
    assert f"Separate {said} mixed on recipe" in first.text
    assert first.tone == {"does not beat": "open", "beats": "good", "is worse than": "bad"}[said]
    assert re.search(r"[+-]\d+\.\d points \[-?\d+\.\d, -?\d+\.\d\]", first.text)


def test_few_rows_decide_nothing(make_scores: Maker) -> None:
    scores, known = make_scores(rows=20)
    found = verdicts(summarise(scores, known, Bootstrap(draws=300)))
    assert "too few test rows" in found[0].text
    assert "n = 20" in found[0].text
    assert all(one.tone == "open" for one in found if one.first)


def test_media_that_do_not_matter_are_called_so(make_scores: Maker) -> None:
    scores, known = make_scores()
    full = scores.frame.filter(condition="full", arm="separate+route", task="dish")
    kept = scores.frame.filter(
        ~((pl.col("arm") == "separate+route") & (pl.col("task") == "dish") & (pl.col("condition") == "shuffled:image"))
    )
    frame = pl.concat([kept, full.with_columns(pl.lit("shuffled:image").alias("condition"))])
    told = " ".join(s.text for s in verdicts(summarise(ScoreTable(frame), known, Bootstrap(draws=300))))
    assert "the image is not shown to matter" in told


def test_flat_metrics(made_up: Summary) -> None:
    flat = flat_metrics(made_up)
    cell = made_up.task("recipe").cells["ingredient_f1"]
    assert flat["eval/ingredient_f1"] == cell["separate+route"].mean.value
    assert flat["eval/ingredient_f1/mixed"] == cell["mixed"].mean.value
    assert flat["eval/ingredient_f1/separate-route/low"] == cell["separate+route"].mean.low
    assert flat["eval/dish_top1/dish/absent"] == made_up.slices["dish"]["absent"]["separate+route"].mean.value
    assert flat["eval/contribution/video"] > 0.5
    assert all(np.isfinite(value) for value in flat.values())
    assert all(re.fullmatch(r"[\w\-./]+", name) for name in flat)


def test_arms_exist_only_where_something_was_trained() -> None:
    names = [arm.name for arm in arms.arms(["a"], ["a"], [], late=False, same_input=False)]
    assert names == ["zero-shot", "zero-shot+grammar", "separate+route"]
    names = [arm.name for arm in arms.arms(["a", "b"], [], [], late=True, same_input=True)]
    assert names == ["zero-shot", "zero-shot+grammar"]
