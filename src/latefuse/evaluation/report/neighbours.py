"""The page of neighbours as data: a query item, and what is nearest by text only, by picture only, and fused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from latefuse.evaluation.embeddings import Sources
from latefuse.evaluation.report import pictures
from latefuse.evaluation.retrieval import dot, ranks, top_k
from latefuse.fusion.rows import evenly
from latefuse.prompts.items import Item

CONDITIONS = {"only:text": "text only", "only:image": "picture only", "full": "fused"}


@dataclass(frozen=True)
class Shown:
    """An item on the page. picture: a data URI or None. true: whether it is the query's partner."""

    id: str
    title: str
    text: str = ""
    picture: str | None = None
    score: float | None = None
    true: bool = False


@dataclass(frozen=True)
class NeighbourCard:
    """A query and, by condition (a value of CONDITIONS), its nearest items, best first.

    ranks: condition -> rank of the true partner, counted from 1.
    """

    query: Shown
    partner: Shown
    found: dict[str, Sequence[Shown]] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)


def cards(sources: Sources, vectors: Mapping[str, Tensor], nearest: int = 5) -> list[NeighbourCard]:
    """Some test queries, evenly spread, with their nearest items under every condition that has vectors.

    vectors: condition -> (N, D) of the pool.
    """
    pool = sources.pool
    numbers = evenly(len(pool.query), sources.evaluation.retrieval.neighbours)
    if not vectors or not numbers:
        return []
    places = pool.query[numbers]
    partners = [int(pool.target[pool.query_of == number][0]) for number in numbers]
    made = [NeighbourCard(_shown(sources, int(q)), _shown(sources, p)) for q, p in zip(places, partners, strict=True)]
    closed = (~pool.allowed).nonzero()[:, 0]
    shut = torch.cartesian_prod(torch.arange(len(numbers)), closed).T
    mine = [pool.excluded[1][pool.excluded[0] == number] for number in numbers]
    known = torch.cat([torch.stack([torch.full_like(one, row), one]) for row, one in enumerate(mine)], dim=1)
    hidden = torch.cat([shut, known], dim=1).unique(dim=1)
    for condition, name in CONDITIONS.items():
        if condition not in vectors:
            continue
        rows = vectors[condition]
        scores, found = top_k(rows[places], rows, min(nearest, pool.size), hidden)
        score, one = dot(rows[places], rows), torch.arange(len(numbers))
        position = ranks(score, torch.tensor(partners), one, known, pool.allowed).tolist()
        for number, card in enumerate(made):
            pairs = zip(found[number].tolist(), scores[number].tolist(), strict=True)
            card.found[name] = [_shown(sources, at, value, at == partners[number]) for at, value in pairs if at >= 0]
            card.ranks[name] = position[number] + 1
    return made


def _shown(sources: Sources, place: int, score: float | None = None, true: bool = False) -> Shown:
    item: Item = sources.pool.items[place]
    picture = next((ref.path for ref in item.media if ref.modality == "image" and ref.path), None)
    thumbnail = pictures.image(sources.dataset.media(picture)) if picture else None
    return Shown(item.id, item.title or item.id, item.text, thumbnail, score, true)
