"""Naming from a closed list, and answers that are right or wrong as a whole."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

Score = tuple[float, int]  # a row's value and the count of things behind it; (nan, 0) where the row can't be measured


def ranks(scores: NDArray[np.floating], truth: NDArray[np.integer]) -> NDArray[np.int64]:
    """How many names of the closed list score at least as high as the true one; 0 is best, ties count against us.

    scores: (n, names) log-likelihoods. truth: (n,) column of the true name. Raises ValueError on a score that is not
    a number.
    """
    if np.isnan(scores).any():
        row = int(np.argwhere(np.isnan(scores))[0][0])
        raise ValueError(f"row {row} of the name scores is not a number; check the adapter's weights for NaN")
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    return np.asarray((scores >= own).sum(axis=1) - 1, dtype=np.int64)


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
