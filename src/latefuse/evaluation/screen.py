"""Exact nearest neighbours in two passes: small integers tell which pairs can't count, float32 decides on the rest.

A pool row x is turned by an orthonormal basis B (D, d), the leading directions of the pool, and rounded to x' with 127
levels; so is a query q. With x1 = B'x and what the basis leaves out, |x2|^2 = |x|^2 - |x1|^2, Cauchy and Schwarz give

    q.x <= q'.x' + |q'| |x1 - x'| + |q1 - q'| |x1| + |q2| |x2|

so a pair whose right side is below the k-th best score found so far is out (Weber, Schek and Blott 1998, the VA-file).
q'.x' is a product of 8-bit integers, which a processor does two to eight times as fast as one of floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from latefuse.evaluation import nearest
from latefuse.evaluation.nearest import QUERIES, ROWS, Best, Excluded, Places, pair_scores, scan

SEEDS = 4_096
LEVELS = 63  # of a pool component's size; 7 bits, so that two products fit the 16 bits in which AVX2 adds them
QUERY_LEVELS = 127
SPREAD = 4.5  # standard deviations that the levels cover
SLACK = 0.04  # of a product's bound, for the rounding: what the choice of the width reckons with
PAIR = 150_000  # products of one component each that cost as much as one pair's score
WIDTH_STEP = 64
TRIALS = 64
STEPS = 100  # of the bytes that products come in, below the margin
ROUNDING = 1e-6
EPSILON = 2.0**-22
GIVE_UP = 1 / 32  # of all pairs; past that, scoring them one by one costs more than all at once
TINY = 1e-30
WAITING = 1 << 20
PART = 1 << 14


class Screen:
    """A pool made ready for many searches, as an index is.

    pool: (N, D) float32 on the CPU, kept as it is; the codes take a quarter of its memory at most. width: d, by default
    what a trial with rows of the pool finds cheapest for `k` neighbours. Making one costs about as much as searching
    with 2 D queries. Raises ValueError for a row that is not finite.
    """

    def __init__(self, pool: Tensor, width: int | None = None, k: int = 10, seed: int = 0) -> None:
        nearest.check_finite(pool, "pool row")
        self.pool = pool
        self.basis = _basis(pool, width, k, seed)
        turned = pool[:: max(len(pool) // ROWS, 1)] @ self.basis
        self.step = max(float(turned.square().mean().sqrt()) * SPREAD / LEVELS, TINY)
        codes, sizes = torch.empty(len(pool), self.basis.shape[1], dtype=torch.uint8), torch.empty(3, len(pool))
        for start in range(0, len(pool), ROWS):
            here = slice(start, start + ROWS)
            turned = pool[here] @ self.basis
            code = (turned / self.step).round_().clamp_(-LEVELS, LEVELS)
            codes[here] = (code + LEVELS + 1).to(torch.uint8)
            error = (turned - code * self.step).norm(dim=1)
            sizes[:, here] = torch.stack([error, turned.norm(dim=1), _left_out(pool[here], turned)])
        # Rows of like uncertainty stand together: a block is judged by the worst of its rows.
        self.order = (sizes[0] + sizes[2] * sizes[2].mean()).argsort()
        self.codes = codes[self.order]
        self.worst = torch.stack([part.amax(1) for part in sizes[:, self.order].split(ROWS, dim=1)])

    def top_k(self, queries: Tensor, k: int, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `nearest.scan` on the same pool: the same rows, but for ties and scores closer than float32 resolves."""
        if k * 8 > len(self.pool) or not usable():
            return scan(queries, self.pool, k, excluded)
        hidden = Excluded(excluded, self.pool.device)
        blocks = torch.arange(len(queries)).split(QUERIES) if len(queries) else ()
        found = [self._search(queries[block], k, hidden.of(block)) for block in blocks]
        empty = Best(0, k, queries)
        scores, indices = zip((empty.scores, empty.indices), *found, strict=True)
        return torch.cat(scores), torch.cat(indices)

    def _search(self, queries: Tensor, k: int, excluded: Places) -> tuple[Tensor, Tensor]:
        best = Best(len(queries), k, queries, _first_floor(queries, self.pool, k, excluded))
        banned = excluded[0] * len(self.pool) + excluded[1]
        rounded, waiting, held, passed = _Rounded.of(queries, self.basis), [], 0, 0
        for block in range(len(self.worst)):
            place, query, bound, likely = self._passing(rounded, block, best)
            passed += len(place)
            if passed > GIVE_UP * len(queries) * len(self.pool):
                return scan(queries, self.pool, k, torch.stack(excluded))
            self._settle(queries, query[likely], place[likely], best, banned)
            unsure = ~likely
            waiting.append((query[unsure], place[unsure], bound[unsure]))
            held += len(waiting[-1][0])
            if held > WAITING or block + 1 == len(self.worst):
                query, place, bound = (torch.cat(parts) for parts in zip(*waiting, strict=True))
                self._settle_last(queries, query, place, bound, best, banned)
                waiting, held = [], 0
        return best.scores, best.indices

    def _passing(self, rounded: _Rounded, block: int, best: Best) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The pairs of a block that may count: place in the order, query, upper bound, and whether it looks likely."""
        error, size, rest = self.worst[block]
        margin = rounded.size * error + rounded.error * size + rounded.rest * rest
        most = (rounded.size + rounded.rest + rounded.error) * (size + rest)
        # What float32 may be off by itself: in the scores, and where the product and its offset cancel.
        margin += EPSILON * (self.pool.shape[1] * most + 4 * LEVELS * self.step * rounded.mass)
        floor = best.floor.maximum(-2 * most)
        step = float(margin.max()) / STEPS + TINY
        offset = margin - floor + step - (LEVELS + 1) * self.step * rounded.sums
        codes = self.codes[block * ROWS : (block + 1) * ROWS]
        level = _products(codes, self.step, rounded.packed, rounded.steps, offset, step)
        row, query = nearest.where(level)
        value = level[row, query].float()
        bound = (floor[query] + (value - 0.5) * step).masked_fill_(value == 255, torch.inf)
        return row + block * ROWS, query, bound, bound >= (floor + margin)[query]

    def _settle_last(
        self, queries: Tensor, query: Tensor, place: Tensor, bound: Tensor, best: Best, banned: Tensor
    ) -> None:
        """Those that waited, the most promising first: most fall below the floor before their turn."""
        still = bound >= best.floor[query]
        query, place, bound = query[still], place[still], bound[still]
        for part in bound.argsort(descending=True).split(PART):
            part = part[bound[part] >= best.floor[query[part]]]
            self._settle(queries, query[part], place[part], best, banned)

    def _settle(self, queries: Tensor, query: Tensor, place: Tensor, best: Best, banned: Tensor) -> None:
        """Score pairs in float32 and offer them."""
        index = self.order[place]
        if len(banned):
            allowed = ~torch.isin(query * len(self.pool) + index, banned)
            query, index = query[allowed], index[allowed]
        index, order = index.sort()
        query = query[order]
        best.offer(query, index, pair_scores(queries, self.pool, query, index))


@dataclass(frozen=True)
class _Rounded:
    """Queries, turned and rounded.

    size, error, rest: |q'|, |q1 - q'|, |q2|. sums, mass: of the components of q', and of their sizes. steps: of the
    codes, the whole numbers that q' consists of. All (Q,). packed: the codes.
    """

    size: Tensor
    error: Tensor
    rest: Tensor
    sums: Tensor
    mass: Tensor
    steps: Tensor
    packed: Tensor

    @classmethod
    def of(cls, queries: Tensor, basis: Tensor) -> _Rounded:
        turned = queries @ basis
        steps = (turned.abs().amax(1) / QUERY_LEVELS).clamp_min(TINY)
        codes = (turned / steps[:, None]).round_()
        near = codes * steps[:, None]
        packed = torch.ops.onednn.qlinear_prepack(codes.to(torch.int8), None)
        error, rest = (turned - near).norm(dim=1), _left_out(queries, turned)
        return cls(near.norm(dim=1), error, rest, near.sum(1), near.abs().sum(1), steps, packed)


def _left_out(vectors: Tensor, turned: Tensor) -> Tensor:
    """(n,) the length of what the basis leaves out, at least: a difference of squares is off by their rounding."""
    whole = vectors.square().sum(1)
    return ((whole - turned.square().sum(1)).clamp_min(0) + ROUNDING * whole).sqrt()


def _first_floor(queries: Tensor, pool: Tensor, k: int, excluded: Places) -> Tensor:
    """(Q,) a score that k rows of the pool exceed: a little less than the k-th best of every stride-th row."""
    stride = max(len(pool) // max(SEEDS, 4 * k), 1)
    sample, (query, index) = pool[::stride], excluded
    scores, here = queries @ sample.T, index % stride == 0
    nearest.hide(scores, (query[here], index[here] // stride), 0)
    rounding = EPSILON * pool.shape[1] * queries.norm(dim=1) * sample.norm(dim=1).max()
    return scores.topk(k).values[:, -1] - rounding - TINY


def _basis(pool: Tensor, width: int | None, k: int, seed: int) -> Tensor:
    """(D, d) orthonormal: the leading directions, turned at random among themselves so that no component stands out."""
    sample = pool[:: max(len(pool) // ROWS, 1)]
    directions = torch.linalg.eigh((sample.T @ sample).double()).eigenvectors.flip(1)
    if width is None:
        queries = sample[:: max(len(sample) // TRIALS, 1)]
        floor = scan(queries, pool, min(k + 1, len(pool)))[0][:, -1]
        width = _cheapest_width(queries @ directions.float(), sample @ directions.float(), floor)
    draw = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64)).Q
    return (directions[:, :width] @ turn).float()


def _cheapest_width(queries: Tensor, sample: Tensor, floor: Tensor) -> int:
    """The width at which the products and the pairs that they leave cost least. Rows are in the leading directions."""
    floor = (floor - SLACK * queries.norm(dim=1) * sample.norm(dim=1).max())[:, None]
    bound, costs = torch.zeros(len(queries), len(sample)), {}
    for start in range(0, sample.shape[1], WIDTH_STEP):
        stop = min(start + WIDTH_STEP, sample.shape[1])
        bound += queries[:, start:stop] @ sample[:, start:stop].T
        rest = queries[:, stop:].norm(dim=1, keepdim=True) * sample[:, stop:].norm(dim=1)
        costs[stop] = stop + PAIR * float((bound + rest >= floor).float().mean())
    return min(costs, key=lambda width: costs[width])


def _products(codes: Tensor, step: float, packed: Tensor, steps: Tensor, offset: Tensor, out_step: float) -> Tensor:
    """(n, Q) bytes: (codes @ packed.T * step * steps + offset) / out_step, rounded, 0 where below, 255 where above."""
    zeros = torch.zeros(len(steps), dtype=torch.int32)
    return torch.ops.onednn.qlinear_pointwise(
        codes, step, 0, packed, steps, zeros, offset, out_step, 0, torch.uint8, "none", [], ""
    )


@cache
def usable() -> bool:
    """Whether this machine multiplies small integers, and without overflow: tried once, at the extremes."""
    codes = torch.tensor([[LEVELS * 2 + 1], [1]], dtype=torch.uint8).expand(2, 64).contiguous()
    weights = torch.tensor([[QUERY_LEVELS], [-QUERY_LEVELS]], dtype=torch.int8).expand(2, 64).contiguous()
    true = codes.double() @ weights.double().T
    out_step = float(true.abs().max()) / 100
    try:
        packed = torch.ops.onednn.qlinear_prepack(weights, None)
        found = _products(codes, 1.0, packed, torch.ones(2), torch.full((2,), 101 * out_step), out_step)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(found.double(), (true / out_step + 101).round())
