"""Every metric once: what it is called, which way is better, and how one answer gets its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latefuse.evaluation import generation
from latefuse.evaluation.classification import Score


@dataclass(frozen=True)
class Metric:
    """How a metric reads. `better` is +1 where more is better, -1 where less is, 0 where neither; `share`: per cent."""

    name: str
    label: str
    meaning: str
    better: int = 1
    share: bool = True


_ALL = (
    Metric(
        "dish_top1", "name, top-1", "the true name scores highest among the closed list of all names, by log-likelihood"
    ),
    Metric("dish_top5", "name, top-5", "the true name is among the five that score highest"),
    Metric("ingredient_f1", "ingredients F1", "harmonic mean of ingredient precision and recall, after normalisation"),
    Metric("ingredient_precision", "ingredients precision", "share of the named ingredients that are in the dish"),
    Metric("ingredient_recall", "ingredients recall", "share of the dish's ingredients that are named"),
    Metric("amount_accuracy", "amounts right", "amount and unit right, among ingredients correctly named"),
    Metric(
        "amount_error", "amount error", "relative error of the amount, among ingredients correctly named", -1, False
    ),
    Metric("step_order", "step order", "Kendall's tau between the steps told and the true order", 1, False),
    Metric("hallucination", "invented ingredients", "share of named ingredients of which nothing is in the truth", -1),
    Metric("amount_share", "ingredients with amounts", "share of the named ingredients that come with an amount"),
    Metric("step_amount_share", "steps with amounts", "share of the steps that say how much", 0),
    Metric(
        "step_amount_match",
        "amounts where they belong",
        "share of the steps correctly told that say how much exactly where the true step does",
    ),
    Metric("exact_match", "exact match", "the written answer is the true answer, letter case and spaces aside"),
    Metric("answer_top1", "answer ranked first", "the true answer scores highest among all answers of its topic"),
    Metric("bleu", "BLEU", "mean sentence BLEU-4 against the true text, sacrebleu with effective order"),
    Metric("rouge_l", "ROUGE-L", "mean ROUGE-L F1 against the true text"),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
RANKED = ("answer_top1", "dish_top1", "dish_top5")  # by likelihood in a closed list: the format written has no say
MAIN = ("ingredient_f1", "exact_match", "dish_top1", "rouge_l")  # a task's headline is the first of these that it has


def kind_of(truth: Mapping[str, Any]) -> str:
    """What a row's truth asks for: name, recipe, answer or caption."""
    return next((kind for kind in ("name", "recipe", "answer") if kind in truth), "caption")


def written_scores(answer: str, reference: str, truth: Mapping[str, Any]) -> dict[str, Score]:
    """The scores of a written answer by the kind of its truth; a name is ranked, not written, so it has none here."""
    kind = kind_of(truth)
    if kind == "recipe":
        return generation.recipe_scores(answer, reference, truth["recipe"])
    if kind == "answer":
        return generation.answer_scores(answer, str(truth["answer"]))
    if kind == "name":
        return {}
    return generation.text_scores(answer, str(truth.get("caption") or reference))


def main_metric(metrics: Mapping[str, Any] | list[str]) -> str:
    """The headline metric among those a task has."""
    return next((name for name in MAIN if name in metrics), next(iter(metrics)))
