"""Scores of one written answer against its truth: ingredients, amounts, order of steps, BLEU and ROUGE-L.

Every function returns per-row values, so that any mean can be bootstrapped. A value that a row can't have (the
amounts of an answer that named nothing right) is (nan, 0) and leaves the mean; an answer that says nothing has
precision and F1 of 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import isfinite, nan
from typing import Any

import numpy as np

from latefuse.evaluation.classification import Score, exact_match
from latefuse.evaluation.recipe_text import Ingredient, Recipe, normalise_name, normalise_unit, parse_recipe, to_base

UNDEFINED: Score = (nan, 0)
SAME_STEP = 0.5  # Jaccard of two steps' words, amounts left out, from which on they count as the same step
SAME_AMOUNT = 0.01  # relative difference up to which two amounts are the same: 3 tsp are 1 tbsp
WORST_ERROR = 10.0  # relative amount errors are capped here, so that one absurd number can't own the mean

_NOT_AMOUNTS = re.compile(r"\s*(?:°|º|degrees?\b|[cf]\b|min|hour|hr|sec|day|%|inch|cm\b|mm\b)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:[.,/]\d+)?|[¼-¾⅐-⅞]")
_AMOUNT_WORDS = re.compile(r"\b(?:a|half|one|two|three|four|five|six)\s+(\w+)", re.IGNORECASE)


def recipe_scores(answer: str, reference: str, truth: Mapping[str, Any]) -> dict[str, Score]:
    """All recipe metrics of one row.

    answer: what the model wrote. reference: the true answer's text (for BLEU and ROUGE-L).
    truth: {"ingredients": [{"amount", "unit", "name"}], "steps": [text]}.
    """
    said, true = parse_recipe(answer), true_recipe(truth)
    return {
        **ingredient_scores(said, true),
        **amount_scores(said, true),
        "step_amount_share": _share([has_amount(step) for step in said.steps]) if true.steps else UNDEFINED,
        "step_amount_match": step_amounts(said.steps, true.steps),
        "step_order": step_order(said.steps, true.steps),
        "hallucination": hallucination(said, true),
        **text_scores(answer, reference),
    }


def true_recipe(truth: Mapping[str, Any]) -> Recipe:
    """The stored truth in the same normal form as a parsed answer."""
    ingredients = tuple(
        Ingredient(
            None if entry.get("amount") is None else float(entry["amount"]),
            normalise_unit(str(entry.get("unit") or "")) or str(entry.get("unit") or ""),
            normalise_name(str(entry["name"])),
        )
        for entry in truth.get("ingredients", ())
    )
    return Recipe(ingredients, tuple(str(step) for step in truth.get("steps", ())))


def ingredient_scores(said: Recipe, true: Recipe) -> dict[str, Score]:
    """Precision, recall and F1 over the distinct ingredient names; undefined where the truth lists none."""
    names, wanted = {one.name for one in said.ingredients}, {one.name for one in true.ingredients}
    if not wanted:
        return dict.fromkeys(("ingredient_precision", "ingredient_recall", "ingredient_f1"), UNDEFINED)
    right = len(names & wanted)
    precision, recall = right / len(names) if names else 0.0, right / len(wanted)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {
        "ingredient_precision": (precision, max(len(names), 1)),
        "ingredient_recall": (recall, len(wanted)),
        "ingredient_f1": (f1, len(wanted)),
    }


def amount_scores(said: Recipe, true: Recipe) -> dict[str, Score]:
    """Share of ingredients with an amount; among those correctly named, share with the right one, and relative error.

    An amount that is missing or can't be compared (grams for cups) is wrong, with an error of 1.
    """
    mine, wanted = _totals(said.ingredients), _totals(true.ingredients)
    shared = [(mine[name], one) for name, one in wanted.items() if name in mine and one.amount]
    return {
        "amount_share": _share([one.amount is not None for one in said.ingredients]) if wanted else UNDEFINED,
        "amount_accuracy": _share([_same_amount(a, b) for a, b in shared]),
        "amount_error": (float(np.mean([_error(a, b) for a, b in shared])), len(shared)) if shared else UNDEFINED,
    }


def hallucination(said: Recipe, true: Recipe) -> Score:
    """Share of named ingredients of which no word is in the truth ('onion' for 'red onion' is merely wrong)."""
    names = {one.name for one in said.ingredients}
    if not names or not true.ingredients:
        return UNDEFINED
    known = {word for one in true.ingredients for word in one.name.split()}
    known |= {word for step in true.steps for word in normalise_name(step.replace(",", " ")).split()}
    return _share([not (set(name.split()) & known) for name in names])


def step_order(said: Sequence[str], true: Sequence[str]) -> Score:
    """Kendall's tau-b between the order of the steps told and the true one, over the steps that match (best matching).

    0 where fewer than two steps match: no order was shown. Undefined where the truth has fewer than two steps.
    """
    from scipy.stats import kendalltau

    if len(true) < 2:
        return UNDEFINED
    pairs = _same_steps(said, true)
    if len(pairs) < 2:
        return 0.0, len(true)
    return float(kendalltau(*zip(*pairs, strict=True)).statistic), len(true)


def step_amounts(said: Sequence[str], true: Sequence[str]) -> Score:
    """Share of the steps correctly told that say how much exactly where the true step does (best matching).

    An amount too many is as wrong as one too few, so that nothing scores higher than the truth, with 1. Undefined where
    no step matches.
    """
    return _share([has_amount(said[k]) == has_amount(true[j]) for k, j in _same_steps(said, true)])


def text_scores(answer: str, reference: str) -> dict[str, Score]:
    """Sentence BLEU-4 (sacrebleu, effective order, 0 to 1) and ROUGE-L F1."""
    from sacrebleu import sentence_bleu

    if not reference.strip():
        return {"bleu": UNDEFINED, "rouge_l": UNDEFINED}
    bleu = sentence_bleu(answer, [reference], lowercase=True).score / 100
    rouge = _rouge().score(reference, answer)["rougeL"].fmeasure
    return {"bleu": (float(bleu), 1), "rouge_l": (float(rouge), 1)}


def answer_scores(answer: str, reference: str) -> dict[str, Score]:
    """Exact match of a short answer."""
    return {"exact_match": exact_match(answer, reference)}


def has_amount(step: str) -> bool:
    """Whether a step says how much of something; minutes, degrees and sizes don't count."""
    for match in _NUMBER.finditer(step):
        if not _NOT_AMOUNTS.match(step, match.end()):
            return True
    return any(normalise_unit(match[1]) for match in _AMOUNT_WORDS.finditer(step))


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def _share(flags: Sequence[bool]) -> Score:
    return (sum(flags) / len(flags), len(flags)) if flags else UNDEFINED


def _totals(ingredients: Sequence[Ingredient]) -> dict[str, Ingredient]:
    """One entry a name; the amounts of a name that stands there several times in one kind of unit are added up."""
    totals: dict[str, Ingredient] = {}
    for one in ingredients:
        known = totals.get(one.name)
        if known is None or known.amount is None:
            totals[one.name] = one
        elif one.amount is not None and one.unit == known.unit:
            totals[one.name] = Ingredient(known.amount + one.amount, one.unit, one.name)
    return totals


def _comparable(a: Ingredient, b: Ingredient) -> tuple[float, float] | None:
    """Both amounts in one base unit; counted things compare only in the same unit, or where one names none."""
    if a.amount is None or b.amount is None:
        return None
    (mine, kind), (true, other) = to_base(a.amount, a.unit), to_base(b.amount, b.unit)
    if kind != other or (kind == "count" and a.unit != b.unit and a.unit and b.unit):
        return None
    return mine, true


def _error(a: Ingredient, b: Ingredient) -> float:
    pair = _comparable(a, b)
    if pair is None or not isfinite(pair[0]):
        return 1.0 if pair is None else WORST_ERROR
    return min(abs(pair[0] - pair[1]) / pair[1], WORST_ERROR)


def _same_amount(a: Ingredient, b: Ingredient) -> bool:
    pair = _comparable(a, b)
    return pair is not None and abs(pair[0] - pair[1]) <= SAME_AMOUNT * pair[1]


def _same_steps(said: Sequence[str], true: Sequence[str]) -> list[tuple[int, int]]:
    """(place told, true place) of the steps that match, each in at most one pair, in the order told."""
    from scipy.optimize import linear_sum_assignment

    if not said or not true:
        return []
    mine, wanted = [_step_words(step) for step in said], [_step_words(step) for step in true]
    alike = np.array([[_jaccard(a, b) for b in wanted] for a in mine])
    apart = np.abs(np.arange(len(mine))[:, None] - np.arange(len(wanted))[None, :])
    rows, columns = linear_sum_assignment(-(alike - 1e-6 * apart))  # among equal steps the nearest in place match
    kept = alike[rows, columns] >= SAME_STEP
    return list(zip(rows[kept].tolist(), columns[kept].tolist(), strict=True))


def _step_words(step: str) -> frozenset[str]:
    words = normalise_name(step.replace(",", " ")).split()
    return frozenset(word for word in words if not word[0].isdigit() and normalise_unit(word) is None)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 0.0
