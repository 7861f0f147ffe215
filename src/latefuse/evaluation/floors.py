"""What stands below every trained arm: popularity, co-occurrence, and cosines of vectors that nobody trained for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from torch import Tensor

from latefuse.evaluation.retrieval import Scorer, dot
from latefuse.models.compose import load_sentences
from latefuse.models.light import fill_sentences, sentence_mean
from latefuse.models.named import located


def by_rows(rows: Callable[[Tensor], Tensor], queries: int, pool: int) -> Scorer:
    """A scorer out of what gives whole rows: numbers of queries (b,) -> their scores of the pool (b, N).

    The rows asked for last are kept, since a block of queries is asked for column block by column block.
    """
    kept: list[Tensor] = []

    def whole(numbers: Tensor) -> Tensor:
        if not kept or not torch.equal(kept[0], numbers):
            kept[:] = [numbers, rows(numbers)]
        return kept[1]

    def pairs(query: Tensor, index: Tensor) -> Tensor:
        asked, row = query.unique(return_inverse=True)
        return whole(asked)[row, index]

    return Scorer(lambda numbers, columns: whole(numbers)[:, columns].clone(), pairs, queries, pool)


def popularity(counts: Tensor, queries: int) -> Scorer:
    """The same score for every query: how often an item stands in the training pairs. counts: (N,)."""
    return by_rows(lambda numbers: counts.float().expand(len(numbers), -1), queries, len(counts))


def cooccurrence(pairs: Tensor, n: int, query: Tensor) -> Scorer:
    """Partners in the training pairs by how often, then partners of partners by how many ways lead there.

    pairs: (m, 2) places below n. query: (Q,) places of the queries. A partner is always before a partner's partner.
    """
    both = torch.cat([pairs, pairs.flip(1)]).numpy()
    links = coo_array((torch.ones(len(both)).numpy(), (both[:, 0], both[:, 1])), shape=(n, n)).tocsr()

    def rows(numbers: Tensor) -> Tensor:
        direct = links[query[numbers].numpy()]
        two = torch.from_numpy((direct @ links).toarray()).float()
        one = torch.from_numpy(direct.toarray()).float()
        return one + torch.where(one > 0, 0, two / (1 + two.amax(dim=1, keepdim=True)))

    return by_rows(rows, len(query), n)


def cosine(vectors: Tensor, query: Tensor) -> Scorer:
    """Cosine of vectors (N, D); query: (Q,) places. A vector of zeros is found last."""
    unit, empty = F.normalize(vectors.float(), dim=-1), ~vectors.any(dim=1)
    plain = dot(unit[query], unit)

    def block(numbers: Tensor, columns: slice) -> Tensor:
        return plain.block(numbers, columns).masked_fill_(empty[columns], -2.0)

    def pairs(numbers: Tensor, index: Tensor) -> Tensor:
        return plain.pairs(numbers, index).masked_fill(empty[index], -2.0)

    return replace(plain, block=block, pairs=pairs)


@torch.no_grad()
def sentences(name: str, texts: Sequence[str]) -> Tensor:
    """(n, d) unit vectors of texts by a sentence encoder: a folder, or `pip:<package>`. See `load_sentences`.

    Raises BackboneError where it is not there, or does more than pool the mean of its tokens.
    """
    found = load_sentences(located(name))
    encoder: Any = found.module

    def encode(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return sentence_mean(states, attention_mask)

    out = torch.zeros(len(texts), encoder.config.hidden_size)
    return fill_sentences(out, encode, found.tokenizer, found.tokens, texts)
