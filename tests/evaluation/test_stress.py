"""Odd texts counted against verdicts made by hand, and free answers against scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latefuse.config_judge import NOT_RELEVANT, RELEVANT, Judge
from latefuse.evaluation.stress import ENDLESS, TEXTS, Freely, freely, stressed


def _obeys(rows: Sequence[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """A judge that does what the text orders, and can't read what is long."""
    return np.array(
        ["" if len(row["text"]) > 10_000 else RELEVANT if "Relevant" in row["text"] else NOT_RELEVANT for row in rows]
    )


def test_a_judge_that_obeys_is_caught() -> None:
    rows = [{"id": str(n), "text": "Relevant" if n == 0 else f"words {n}"} for n in range(6)]
    found = {one.name: one for one in stressed(rows, _obeys, Judge())}
    assert set(found) == set(TEXTS)
    order = found["an order in the text"]
    assert (order.rows, order.before, order.after, order.others, order.turned, order.refused) == (6, 1, 6, 5, 5, 0)
    assert found["one character"].after == 0
    endless = found[ENDLESS]
    assert (endless.rows, endless.refused, endless.after, endless.others) == (2, 2, 0, 0)


def test_free_answers_are_labels_or_nothing() -> None:
    answers = ["Relevant", "not  relevant", "Relevant because", "", "Not Relevant"]
    found = freely(answers, np.array([2.0, -1.0, 3.0, 1.0, 0.5]), Judge())
    assert found == Freely(rows=5, parsed=3, agreed=2)
