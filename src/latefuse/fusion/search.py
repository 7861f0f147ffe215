"""Weights of a merge chosen on validation: every candidate tried is kept with what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isnan

from latefuse.config_fusion import MergeMethod


@dataclass(frozen=True)
class Candidate:
    """One set of weights. nll: mean negative log-likelihood per answer token of each task, in nats."""

    weights: tuple[float, ...]
    nll: dict[str, float]

    @property
    def loss(self) -> float:
        """The mean over the tasks, each task counting once however long its answers are."""
        return sum(self.nll.values()) / len(self.nll)


def search(
    evaluate: Callable[[tuple[float, ...]], Mapping[str, float]],
    members: int,
    grid: Sequence[float],
    limit: int,
    start: tuple[float, ...] | None = None,
) -> tuple[Candidate, list[Candidate]]:
    """Coordinate descent over `grid` for each of the `members` weights; at most `limit` sets are evaluated.

    It begins at `start`, or without one at the best of the equal weights, then changes one weight at a time until no
    single change helps. Returns the best candidate and all that were tried, in that order. Deterministic.
    """
    tried: dict[tuple[float, ...], Candidate] = {}

    def attempt(weights: tuple[float, ...]) -> None:
        if weights not in tried and len(tried) < limit and any(weights):
            tried[weights] = Candidate(weights, dict(evaluate(weights)))

    def best() -> Candidate:
        return min(tried.values(), key=lambda candidate: inf if isnan(candidate.loss) else candidate.loss)

    for weights in [start] if start else [(value,) * members for value in grid]:
        attempt(weights)
    if not tried:
        raise ValueError(f"fusion.grid {list(grid)}: expected at least one weight other than 0")
    settled = False
    while not settled and len(tried) < limit:
        before = best()
        for place in range(members):
            centre = best().weights
            for value in grid:
                attempt((*centre[:place], value, *centre[place + 1 :]))
        settled = best() == before
    return best(), list(tried.values())


def choose(
    evaluate: Callable[[MergeMethod, tuple[float, ...]], Mapping[str, float]],
    methods: Sequence[MergeMethod],
    members: int,
    grid: Sequence[float],
    limit: int,
) -> dict[MergeMethod, tuple[Candidate, list[Candidate]]]:
    """`search` for every method: the later ones begin where the first one ended and may try half as many."""
    found: dict[MergeMethod, tuple[Candidate, list[Candidate]]] = {}
    start: tuple[float, ...] | None = None
    for method in methods:
        most = max(1, limit // 2) if start else limit
        found[method] = search(partial(evaluate, method), members, grid, most, start)
        start = start or found[method][0].weights
    return found
