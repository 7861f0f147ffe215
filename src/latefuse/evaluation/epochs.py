"""How many epochs a control is trained: as many as validation rows like best, and not long after."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Chosen:
    """best: the epoch that was kept, 0 for before the first. curve: the validation score before training and after
    each epoch."""

    best: int
    curve: list[float]


def best_epoch(
    model: nn.Module, epoch: Callable[[], None], score: Callable[[], float], most: int, patience: int
) -> Chosen:
    """Train until `patience` epochs bring nothing better, or for `most`, and leave the model as it was at its best.

    epoch: trains once over the rows. score: what the model is worth on validation rows, higher is better; of equals the
    first is kept. Raises ValueError for a score that is not a number.
    """
    curve: list[float] = []
    kept, best = copy.deepcopy(model.state_dict()), 0
    for number in range(most + 1):
        if number:
            model.train()
            epoch()
        model.eval()
        curve.append(score())
        if curve[-1] != curve[-1]:
            raise ValueError(f"epoch {number}: the validation score is no number; train with a lower rate")
        if curve[-1] > curve[best]:
            kept, best = copy.deepcopy(model.state_dict()), number
        if number - best >= patience:
            break
    model.load_state_dict(kept)
    return Chosen(best, curve)
