"""What stands below every trained arm: popularity, co-occurrence, and cosines of vectors that nobody trained for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from latefuse.evaluation.retrieval import Scorer, dot
from latefuse.models.light import sentence_mean
from latefuse.models.named import located
from latefuse.models.tensors import FROM_FOLDER
from latefuse.progress import bar, no_library_bars


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


class SentenceEncoder:
    """A sentence encoder of BERT's kind from a folder: the mean over tokens, of unit length (arXiv 1908.10084)."""

    def __init__(self, folder: Path, max_tokens: int = 256) -> None:
        with no_library_bars():
            model, _ = AutoModel.from_pretrained(folder, dtype=torch.float32, **FROM_FOLDER)
        self.model: Any = model.eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.max_tokens = max_tokens

    @classmethod
    def from_name(cls, name: str) -> SentenceEncoder:
        """A folder, or `pip:<package>`. Raises BackboneError where it is not there."""
        return cls(located(name))

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """(n, d) vectors of unit length; of a text longer than max_tokens tokens the beginning counts."""
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]), reverse=True)
        out = torch.zeros(len(texts), self.model.config.hidden_size)
        for start in bar(range(0, len(order), batch_size), desc="sentences", unit="batch", leave=False):
            numbers = order[start : start + batch_size]
            given = self.tokenizer(
                [texts[number] for number in numbers],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            states = self.model(**given).last_hidden_state
            out[numbers] = sentence_mean(states, given["attention_mask"])
        return out
