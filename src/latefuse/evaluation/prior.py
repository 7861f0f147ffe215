"""A popularity prior beside a scorer: how often an item was chosen before, whatever is asked for.

A contrastive loss over partners drawn by their popularity learns how much more likely a partner is than by popularity
alone; to rank by how likely it is, the logarithm of that popularity is added (Menon et al. 2021, arXiv 2007.07314).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latefuse.evaluation.pool import Questions
from latefuse.evaluation.retrieval import Scorer, ranks, retrieval_scores

Ask = Callable[[Tensor], Scorer]
"""Places (Q,) of queries -> how well the items of the pool fit them."""


def with_prior(score: Scorer, prior: Tensor) -> Scorer:
    """The scores plus what each item of the pool has by itself. prior: (N,)."""
    if not bool(prior.any()):
        return score

    def block(numbers: Tensor, columns: slice) -> Tensor:
        return score.block(numbers, columns) + prior[columns]

    def pairs(numbers: Tensor, index: Tensor) -> Tensor:
        return score.pairs(numbers, index) + prior[index]

    rounding = 4 * torch.finfo(prior.dtype).eps * float(prior.abs().max())
    return replace(score, block=block, pairs=pairs, tie=score.tie + rounding)


def log_counts(train: Tensor, n: int) -> Tensor:
    """(n,) log(1 + how many training pairs an item stands in). train: (m, 2) places."""
    return torch.bincount(train.flatten(), minlength=n).float().log1p()


def best_weight(ask: Ask, valid: Questions, counts: Tensor, weights: Sequence[float], k: int) -> float:
    """The weight of `counts` (N,) with the highest Recall@k of the valid questions; of equals the first."""
    score = ask(valid.query)

    def found(weight: float) -> float:
        places = ranks(with_prior(score, weight * counts), valid.target, valid.query_of, valid.excluded, valid.allowed)
        values = retrieval_scores(places, valid.query_of, len(valid.query), [k])
        return float(values[f"recall_at_{k}"].mean())

    return max(weights, key=found)
