"""Late fusion of outputs: next-token log-probabilities of several adapters, mixed and renormalised."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def mix(log_probs: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
    """Log-linear mixture: `log p = sum_m w_m log p_m - logsumexp over the vocabulary`.

    log_probs: (M, ..., V), one distribution per member (a modality, or an adapter). weights: (M,), not negative.
    present: (M, ...) bool; an absent member's weight is spread over the others in proportion, so the sum of the
    weights (the sharpness of the mixture) is the same for every row, and what an absent member holds is never read.
    Returns (..., V), each row summing to 1. Raises ValueError on a negative weight, on a row without any member, and
    on a row whose members leave no token possible.
    """
    if weights.shape != log_probs.shape[:1]:
        raise ValueError(f"weights {tuple(weights.shape)}: expected one for each of {log_probs.shape[0]} members")
    if bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise ValueError(f"weights {weights.tolist()}: expected numbers >= 0, at least one of them > 0")
    share = _shares(weights.to(log_probs.dtype), log_probs.shape[:-1], present).unsqueeze(-1)
    # 0 * -inf is NaN: a member without weight must not be read at all.
    total = torch.where(share > 0, share * log_probs.masked_fill(share == 0, 0.0), 0.0).sum(dim=0)
    norm = torch.logsumexp(total, dim=-1, keepdim=True)
    if not bool(torch.isfinite(norm).all()):
        raise ValueError("a row of the mixture has no possible token: its members exclude each other or hold NaN")
    return total - norm


def _shares(weights: Tensor, shape: torch.Size, present: Tensor | None) -> Tensor:
    """The weight of every member in every row, (M, ...); absent members give theirs to the rest."""
    share = weights.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    if present is None:
        return share
    if present.shape != shape:
        raise ValueError(f"present {tuple(present.shape)}: expected {tuple(shape)}, one flag per member and row")
    share = share * present.to(weights.dtype)
    left = share.sum(dim=0, keepdim=True)
    if bool((left <= 0).any()):
        row = (left[0] <= 0).nonzero()[0].tolist()
        raise ValueError(f"row {row}: no member with a weight is present, so there is nothing to mix")
    return share * (weights.sum() / left)


@dataclass(frozen=True)
class Learned:
    """Weights of a mixture and what they bought, as mean negative log-likelihood per token in nats."""

    weights: Tensor
    before: float
    after: float
    alone: list[float]


def nll(log_probs: Tensor, targets: Tensor, weights: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean negative log-likelihood of targets (N,) under the mixture of log_probs (M, N, V), a scalar in nats."""
    return F.nll_loss(mix(log_probs, weights, present), targets)


def learn_weights(
    log_probs: Tensor, targets: Tensor, present: Tensor | None = None, steps: int = 200, lr: float = 0.1
) -> Learned:
    """Positive weights (softplus) that minimise the NLL of the mixture, by gradient descent (Adam).

    log_probs: (M, N, V) of N answer tokens. targets: (N,) token ids. present: (M, N) bool. The start, and `before`, is
    1/M each; the best point visited is returned, so `after` is never above `before`. `alone` is the NLL of each member
    on the rows where it is present (NaN where it never is). Deterministic.
    """
    members, tokens, _ = log_probs.shape
    if tokens == 0:
        raise ValueError("no tokens to learn the weights of the mixture from")
    log_probs = log_probs.detach().clamp(min=-1e4)  # a ruled-out token (-inf) would make the gradient NaN
    uniform = torch.full((members,), 1.0 / members, dtype=log_probs.dtype)
    raw = torch.log(torch.expm1(uniform)).requires_grad_(True)
    optimiser = torch.optim.Adam([raw], lr=lr)
    best, best_loss = uniform, float(nll(log_probs, targets, uniform, present))
    before = best_loss
    for _ in range(steps):
        optimiser.zero_grad()
        nll(log_probs, targets, F.softplus(raw), present).backward()
        optimiser.step()
        with torch.no_grad():
            weights = F.softplus(raw)
            loss = float(nll(log_probs, targets, weights, present))
        if loss < best_loss:
            best, best_loss = weights.clone(), loss
    return Learned(best, before, best_loss, _alone(log_probs, targets, present))


def _alone(log_probs: Tensor, targets: Tensor, present: Tensor | None) -> list[float]:
    losses = -log_probs.gather(-1, targets.expand(log_probs.shape[:2]).unsqueeze(-1)).squeeze(-1)
    seen = torch.ones_like(losses, dtype=torch.bool) if present is None else present
    return [float(loss[here].mean()) for loss, here in zip(losses, seen, strict=True)]
