"""Retrieval over a full pool, exactly: ranks, Recall@k, NDCG@k, MRR, nearest neighbours; memory by blocks.

The rank of a relevant item is a count of the scores that reach its own, several times cheaper than sorting the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latefuse.evaluation.nearest import CELLS, QUERIES, Excluded, check_finite, hide, pair_scores, scan
from latefuse.evaluation.screen import Screen, usable

TIE = 1e-6
SCREENED_POOL = 50_000
SCREENED_WIDTH = 256

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scorer:
    """How well the items of a pool fit queries, asked for block by block.

    block: positions of queries (b,) and a slice of the pool -> a new tensor (b, n) of scores. pairs: positions of
    queries (P,) and pool indices (P,) -> (P,). queries, pool: how many there are. tie: scores that are closer than this
    are equal, which is what rounding makes of equal vectors in different places of a matrix product.
    """

    block: Callable[[Tensor, slice], Tensor]
    pairs: Callable[[Tensor, Tensor], Tensor]
    queries: int
    pool: int
    tie: float = 0.0


def dot(queries: Tensor, pool: Tensor) -> Scorer:
    """Inner products of vectors, (Q, D) against (N, D). Raises ValueError as `top_k` does."""
    _check(queries, pool)
    longest = float(queries.norm(dim=1).max() * pool.norm(dim=1).max()) if len(queries) else 0.0
    return Scorer(
        block=lambda rows, columns: queries[rows] @ pool[columns].T,
        pairs=lambda query, index: pair_scores(queries, pool, query, index),
        queries=len(queries),
        pool=len(pool),
        tie=TIE * longest,
    )


def top_k(queries: Tensor, pool: Tensor | Screen, k: int, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k pool rows of largest inner product with each query, exactly.

    queries: (Q, D). pool: (N, D), or a Screen of it where it is searched again and again; for very many queries one is
    made on the way. excluded: (2, E), a query and a pool index each that may not be found (`own_rows` for a query that
    is itself in the pool). Returns scores, falling, and indices, both (Q, min(k, N)); where a query has fewer rows
    left, the score is -inf and the index -1. Equal scores come in no particular order.
    Raises ValueError for k < 1, an empty pool, vectors of different widths or not finite, an exclusion out of range.
    """
    rows = pool.pool if isinstance(pool, Screen) else pool
    _check(queries, rows, trusted=isinstance(pool, Screen))
    if k < 1:
        raise ValueError(f"k={k}: ask for one neighbour at least")
    _check_pairs(excluded, len(queries), len(rows))
    k = min(k, len(rows))
    if isinstance(pool, Tensor) and _screening_pays(queries, pool):
        pool = Screen(pool)
    return pool.top_k(queries, k, excluded) if isinstance(pool, Screen) else scan(queries, rows, k, excluded)


def own_rows(index: Sequence[int] | Tensor) -> Tensor:
    """`excluded` of queries that stand in the pool themselves. index: (Q,) where, -1 for one that does not."""
    index = torch.as_tensor(index, dtype=torch.int64)
    inside = (index >= 0).nonzero().squeeze(1)
    return torch.stack([inside, index[inside]])


def ranks(
    score: Scorer,
    targets: Tensor,
    query_of: Tensor,
    excluded: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """How many pool items stand before each relevant one: 0 where it is first.

    targets, query_of: (P,) pool index of each relevant item, and the query that it belongs to. excluded: (2, E), a
    query and a pool index each that do not compete. allowed: (N,) bool, who competes at all. A tie counts against us;
    other relevant items of the same query compete, the item itself does not. Returns (P,) int64, in the order given.
    Raises ValueError for an empty pool, a target that may not compete, or one whose score is not finite.
    """
    if not score.pool:
        raise ValueError("the pool is empty: there is nothing to rank")
    _check_pairs(torch.stack([query_of, targets]), score.queries, score.pool, "target")
    _check_pairs(excluded, score.queries, score.pool)
    if allowed is not None and not bool(allowed[targets].all()):
        raise ValueError(f"target {int(targets[~allowed[targets]][0])} is not allowed in the pool")
    if excluded is not None and bool(
        torch.isin(targets + query_of * score.pool, excluded[1] + excluded[0] * score.pool).any()
    ):
        raise ValueError("a target is excluded for its own query")
    hidden = Excluded(excluded, targets.device)
    query, order = query_of.sort(stable=True)
    before = torch.empty_like(targets)
    for start in range(0, score.queries, QUERIES):
        here = slice(*torch.searchsorted(query, query.new_tensor([start, start + QUERIES])).tolist())
        if here.stop > here.start:
            before[order[here]] = _before(score, query[here], targets[order[here]], hidden, allowed)
    return before


def _before(score: Scorer, query: Tensor, target: Tensor, hidden: Excluded, allowed: Tensor | None) -> Tensor:
    """(p,) how many items stand before each target. query: (p,) rising, with few distinct ones."""
    own = score.pairs(query, target)
    if not bool(own.isfinite().all()):
        raise ValueError(f"the score of target {int(target[~own.isfinite()][0])} is not finite")
    rows, row = query.unique_consecutive(return_inverse=True)
    limit, out = (own - score.tie)[:, None], hidden.of(rows)
    behind, width = torch.zeros_like(target), CELLS // len(rows)
    for start in range(0, score.pool, width):
        columns = slice(start, min(start + width, score.pool))
        scores = score.block(rows, columns)
        hide(scores, out, start)
        if allowed is not None:
            scores[:, ~allowed[columns]] = -torch.inf
        for some in torch.arange(len(query), device=row.device).split(QUERIES):
            theirs = scores if len(rows) == len(query) else scores[row[some]]
            # Less, rather than at least: so a score that is no number stands before. Floats count exactly to 2^24.
            behind[some] += torch.lt(theirs, limit[some], out=torch.empty_like(theirs)).sum(1).long()
    return score.pool - 1 - behind


def retrieval_scores(
    ranks: Tensor | Ints, query_of: Tensor | Ints, queries: int, ks: Sequence[int]
) -> dict[str, Floats]:
    """Recall@k, NDCG@k and MRR of every query from the ranks of its relevant items.

    ranks, query_of: (P,) as given to and got from `ranks`. recall_at_<k>: the share of the relevant items with a rank
    below k. ndcg_at_<k>: their discounted gains, 1 / log2(rank + 2), over those of the best order (Jarvelin and
    Kekalainen 2002). mrr: 1 / (1 + the best rank). Each (queries,), nan for a query without relevant items.
    """
    rank, of = np.asarray(ranks), np.asarray(query_of)
    relevant = np.bincount(of, minlength=queries).astype(np.float64)
    with np.errstate(invalid="ignore"):
        found = {f"recall_at_{k}": np.bincount(of, rank < k, queries) / relevant for k in ks}
        gains = 1 / np.log2(rank + 2.0)
        most = int(relevant.max(initial=0))
        ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(most) + 2.0))])
        for k in ks:
            best = ideal[np.minimum(relevant, k).astype(np.int64)]
            found[f"ndcg_at_{k}"] = np.bincount(of, gains * (rank < k), queries) / best
    first = np.full(queries, np.inf)
    np.minimum.at(first, of, rank)
    found["mrr"] = np.where(relevant > 0, 1 / (1 + first), np.nan)
    return found


def one_pair_each(a: Sequence[Any], b: Sequence[Any], weight: Sequence[float], seed: int = 0) -> Ints:
    """The pairs to keep, (K,) rising positions, so that no item stands in two of them (NoteLLM-2, section 4.1).

    a, b: (P,) the items of each pair. The heaviest pairs come first, those of one weight in an order drawn by `seed`; a
    pair of an item with itself is never kept.
    """
    items, number = np.unique(np.concatenate([np.asarray(a), np.asarray(b)]), return_inverse=True)
    draw = np.random.default_rng(seed).permutation(len(a))
    order = draw[np.argsort(-np.asarray(weight, dtype=np.float64)[draw], kind="stable")]
    left, right = number[: len(a)][order].tolist(), number[len(a) :][order].tolist()
    taken, kept = bytearray(len(items)), []
    for place, one, other in zip(order.tolist(), left, right, strict=True):
        if one != other and not taken[one] and not taken[other]:
            taken[one] = taken[other] = 1
            kept.append(place)
    return np.sort(np.asarray(kept, dtype=np.int64))


def lower_third(lengths: Sequence[int] | Ints) -> tuple[NDArray[np.bool_], int]:
    """The short ones: (n,) whether a length is at most the lower tercile, and that length. No lengths, no short ones.

    The tercile is one of the lengths, so where many are equal the short ones may be more than a third.
    """
    lengths = np.asarray(lengths)
    if not len(lengths):
        return np.zeros(0, dtype=bool), 0
    threshold = int(np.quantile(lengths, 1 / 3, method="lower"))
    return lengths <= threshold, threshold


def _screening_pays(queries: Tensor, pool: Tensor) -> bool:
    """Whether so many queries are asked that making a Screen costs less than it saves."""
    many = len(queries) >= 4 * pool.shape[1] and len(pool) >= SCREENED_POOL and pool.shape[1] >= SCREENED_WIDTH
    return many and pool.device.type == "cpu" and pool.dtype == torch.float32 and usable()


def _check(queries: Tensor, pool: Tensor, trusted: bool = False) -> None:
    """trusted: the pool was looked through before."""
    if not len(pool):
        raise ValueError("the pool is empty: there is nothing to search")
    if queries.ndim != 2 or pool.ndim != 2 or queries.shape[1] != pool.shape[1]:
        raise ValueError(f"queries of shape {tuple(queries.shape)} do not fit a pool of shape {tuple(pool.shape)}")
    check_finite(queries, "query")
    if not trusted:
        check_finite(pool, "pool row")


def _check_pairs(pairs: Tensor | None, queries: int, pool: int, name: str = "exclusion") -> None:
    if pairs is None or not pairs.numel():
        return
    if bool((pairs < 0).any()) or int(pairs[0].max()) >= queries or int(pairs[1].max()) >= pool:
        raise ValueError(f"{name} out of range: {queries} queries, {pool} pool rows")
