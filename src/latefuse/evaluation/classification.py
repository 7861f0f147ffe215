"""Naming from a closed list, and answers that are right or wrong as a whole."""

from __future__ import annotations

import re

Score = tuple[float, int]  # a row's value and the count of things behind it; (nan, 0) where the row can't be measured


def naming_scores(rank: int) -> dict[str, Score]:
    """Top-1 and top-5 of one row from its rank."""
    return {"dish_top1": (float(rank < 1), 1), "dish_top5": (float(rank < 5), 1)}


def normalise_answer(text: str) -> str:
    """An answer that can be compared: lower case, single spaces, none before punctuation, no full stop at the end."""
    text = re.sub(r"\s+", " ", text).strip().lower()
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    return text.rstrip(".!").strip()


def exact_match(answer: str, reference: str) -> Score:
    """1 where answer and reference are the same after `normalise_answer`."""
    return float(normalise_answer(answer) == normalise_answer(reference)), 1
