"""A sequential control of SASRec's size (Kang and McAuley 2018): causal attention over a history, items alone.

It differs from the paper in the loss, cross-entropy over the whole catalogue in place of one sampled negative, which
serves it better (Klenitskiy and Vasilev 2023), and in normalising before each block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latefuse.evaluation.calibration import Ints
from latefuse.evaluation.epochs import Chosen, best_epoch
from latefuse.evaluation.next_item import full, row_values
from latefuse.evaluation.retrieval import Scorer, dot
from latefuse.evaluation.sequences import NextItems, Sequences

NAME = "SASRec"
MEANING = "causal attention over the history, items alone, trained on training histories; epoch by validation"
CELLS = 2**25
"""Logits held at a time in training, 128 MiB."""


@dataclass(frozen=True)
class How:
    """The paper's size. length: the newest items that are read. most, patience: epochs, see `best_epoch`."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    length: int = 50
    rate: float = 3e-3
    batch: int = 32
    most: int = 60
    patience: int = 6
    seed: int = 0


class SASRec(nn.Module):
    """Histories (b, t) -> states (b, t + 1, width) before the first item and behind each, held against `item`."""

    def __init__(self, items: int, how: How) -> None:
        super().__init__()
        self.items, self.length = items, how.length
        self.item = nn.Embedding(items + 1, how.width)
        self.place = nn.Embedding(how.length + 1, how.width)
        for table in (self.item, self.place):
            nn.init.normal_(table.weight, std=how.width**-0.5)
        layer = nn.TransformerEncoderLayer(
            how.width, how.heads, 4 * how.width, how.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, how.layers, nn.LayerNorm(how.width), enable_nested_tensor=False)
        self.drop = nn.Dropout(how.dropout)

    def forward(self, codes: Tensor) -> Tensor:
        """codes: (b, t), t up to `length`, oldest first; what stands behind a row's end (any code) it never sees."""
        begun = F.pad(codes, (1, 0), value=self.items)
        t = begun.shape[1]
        states = self.drop(self.item(begun) * self.item.embedding_dim**0.5 + self.place.weight[:t])
        causal = nn.Transformer.generate_square_subsequent_mask(t, device=codes.device)
        out: Tensor = self.blocks(states, mask=causal, is_causal=True)
        return out

    @torch.no_grad()
    def scorer(self, asked: NextItems) -> Scorer:
        """Of every item behind the newest `length` items of a history; an empty one is asked too."""
        self.eval()
        codes, length = _windows(asked.history.last(self.length)[:, ::-1])
        parts = [
            self(some)[torch.arange(len(some)), ends]
            for some, ends in zip(codes.split(256), length.split(256), strict=True)
        ]
        return dot(torch.cat(parts), self.item.weight[:-1].clone())


def train(histories: Sequences, valid: NextItems, items: int, how: How | None = None) -> tuple[SASRec, Chosen]:
    """Fit on training histories; the epoch is the one of the highest validation NDCG@10 over the full catalogue.

    Histories longer than `length` are cut into windows; every item of a window is asked for once an epoch. The same
    seed gives the same model. Raises ValueError for histories without any item, or no validation rows.
    """
    how = how or How()
    if not len(histories.indices) or not len(valid):
        raise ValueError(
            "SASRec: no training history has an item, or there are no validation rows; loosen data.options"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        model, (codes, lengths) = SASRec(items, how), _windows(_cut(histories, how.length))
        optimiser = torch.optim.AdamW(model.parameters(), how.rate, weight_decay=0.01)
        size = max(1, min(how.batch, CELLS // (how.length * items)))

        def epoch() -> None:
            for rows in torch.randperm(len(codes)).split(size):
                longest = int(lengths[rows].max())
                some = codes[rows, :longest]
                there = torch.arange(longest) < lengths[rows, None]
                logits = model(some[:, :-1])[there] @ model.item.weight[:-1].T
                optimiser.zero_grad()
                F.cross_entropy(logits, some[there]).backward()
                optimiser.step()

        def score() -> float:
            return float(row_values(full(model.scorer(valid), valid))["ndcg_at_10"].mean())

        chosen = best_epoch(model, epoch, score, how.most, how.patience)
    return model, chosen


def _cut(histories: Sequences, length: int) -> Ints:
    """(w, length) windows of all histories that have items, oldest first, -1 in front of short ones."""
    ends = [np.arange(end, start, -length) for start, end in zip(histories.indptr, histories.indptr[1:], strict=False)]
    starts = np.repeat(histories.indptr[:-1], list(map(len, ends)))
    places = np.concatenate(ends)[:, None] - np.arange(length, 0, -1)
    return np.where(places >= starts[:, None], histories.indices[np.maximum(places, 0)], -1)


def _windows(codes: Ints) -> tuple[Tensor, Tensor]:
    """Rows (n, t) with -1 in front -> the same with their items first, 0 behind them, and how many there are (n,)."""
    there = codes >= 0
    order = np.argsort(~there, axis=1, kind="stable")
    moved = np.take_along_axis(codes, order, axis=1)
    return torch.from_numpy(np.maximum(moved, 0)), torch.from_numpy(there.sum(axis=1))
