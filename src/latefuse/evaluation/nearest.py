"""The k best pool rows of every query by inner product, exactly, by blocks: memory does not grow with either side."""

from __future__ import annotations

import torch
from torch import Tensor

CELLS = 1 << 20
"""Scores held at a time, 4 MiB in float32: a block stays in the cache, and the filter reads it there."""
QUERIES = 256
ROWS = 8_192
PAIRS = 512


class Best:
    """The k best pool rows of each query among those offered so far.

    scores: (Q, k), falling. indices: (Q, k). Where fewer than k were offered, the score is -inf and the index -1.
    least: (Q,) scores that are known to be exceeded k times.
    """

    def __init__(self, queries: int, k: int, like: Tensor, least: Tensor | None = None) -> None:
        self.scores = like.new_full((queries, k), -torch.inf)
        self.indices = torch.full((queries, k), -1, device=like.device)
        self.floor = self.scores[:, -1] if least is None else least
        """(Q,) what a pair has to exceed to count."""

    def offer(self, query: Tensor, index: Tensor, score: Tensor) -> None:
        """Take in pairs, three (P,) tensors; no pair may be offered twice."""
        better = score > self.floor[query]
        query, index, score = query[better], index[better], score[better]
        if not len(query):
            return
        query, order = query.sort(stable=True)
        rows, k = self.scores.shape
        count = query.bincount(minlength=rows)
        slot = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query]
        width = int(count.max())
        scores, indices = self.scores.new_full((rows, width), -torch.inf), self.indices.new_full((rows, width), -1)
        scores[query, slot], indices[query, slot] = score[order], index[order]
        self.scores, place = torch.cat([self.scores, scores], 1).topk(k)
        self.indices = torch.cat([self.indices, indices], 1).gather(1, place)
        self.floor = self.floor.maximum(self.scores[:, -1])


Places = tuple[Tensor, Tensor]
"""Cells of a block of scores: places among its queries, and pool indices."""


class Excluded:
    """Pairs that do not count: (2, E), a query and a pool index each; None for none."""

    def __init__(self, pairs: Tensor | None, device: torch.device) -> None:
        pairs = torch.empty(2, 0, dtype=torch.int64) if pairs is None else pairs
        pairs = pairs.to(device=device, dtype=torch.int64)
        self.query, order = pairs[0].sort()
        self.index = pairs[1][order]

    def of(self, rows: Tensor) -> Places:
        """Those of some queries. rows: (b,) rising positions of queries."""
        inside = slice(*torch.searchsorted(self.query, torch.stack([rows[0], rows[-1] + 1])).tolist())
        query, index = self.query[inside], self.index[inside]
        place = torch.searchsorted(rows, query)
        known = rows[place] == query
        return place[known], index[known]


def hide(scores: Tensor, excluded: Places, first: int) -> None:
    """Set to -inf what does not count in scores (b, n) of the pool rows from `first`."""
    place, index = excluded
    here = (index >= first) & (index < first + scores.shape[1])
    scores[place[here], index[here] - first] = -torch.inf


def scan(queries: Tensor, pool: Tensor, k: int, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Every product. queries: (Q, D). pool: (N, D). Returns scores and indices, both (Q, k), as in Best."""
    hidden = Excluded(excluded, pool.device)
    room, found = queries.new_empty(CELLS), [Best(0, k, queries)]
    for positions in torch.arange(len(queries), device=pool.device).split(QUERIES) if len(queries) else ():
        rows, out = queries[positions], hidden.of(positions)
        best, width = Best(len(rows), k, rows), CELLS // len(rows)
        for first in range(0, len(pool), width):
            part = pool[first : first + width]
            scores = torch.mm(rows, part.T, out=room[: len(rows) * len(part)].view(len(rows), len(part)))
            hide(scores, out, first)
            query, column = where(scores > best.floor[:, None]) if first else _best_of_block(scores, k)
            best.offer(query, first + column, scores[query, column])
        found.append(best)
    return torch.cat([best.scores for best in found]), torch.cat([best.indices for best in found])


def _best_of_block(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    column = scores.topk(min(k, scores.shape[1]), sorted=False).indices
    query = torch.arange(len(scores), device=scores.device)[:, None].expand_as(column)
    return query.flatten(), column.flatten()


def where(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of what is true, or not zero, in a matrix of bytes that is mostly zero: read eight at a time."""
    width, flat = mask.shape[1], mask.flatten()
    if len(flat) % 8:
        flat = torch.nn.functional.pad(flat, (0, 8 - len(flat) % 8))
    words = flat.view(torch.int64).nonzero().squeeze(1)
    word, byte = flat.view(-1, 8)[words].nonzero().unbind(1)
    place = words[word] * 8 + byte
    row = place // width
    return row, place - row * width


def pair_scores(queries: Tensor, pool: Tensor, query: Tensor, index: Tensor) -> Tensor:
    """(P,) inner products of single pairs, gathered a few at a time into the same small buffers."""
    out = queries.new_empty(len(query))
    left, right = (queries.new_empty(min(PAIRS, len(query)), queries.shape[1]) for _ in range(2))
    for start in range(0, len(query), PAIRS):
        here = slice(start, min(start + PAIRS, len(query)))
        a, b = left[: here.stop - start], right[: here.stop - start]
        torch.index_select(queries, 0, query[here], out=a)
        torch.index_select(pool, 0, index[here], out=b)
        torch.sum(a.mul_(b), 1, out=out[here])
    return out


def check_finite(vectors: Tensor, name: str) -> None:
    """Raise ValueError with the first row that has a component which is not finite. name: of a row."""
    for start, part in enumerate(vectors.split(ROWS)):
        # A sum is finite where all its terms are, and costs a fraction of looking at each.
        finite = part.sum(1).isfinite()
        if not bool(finite.all()):
            raise ValueError(f"{name} {start * ROWS + int((~finite).nonzero()[0])} is not finite")
