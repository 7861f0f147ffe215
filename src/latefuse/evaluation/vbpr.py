"""VBPR (He and McAuley 2016): factors of users and items, a part of them made of the item's frozen picture vector.

It is here because no library that installs has it right: in cornac 3.0.1 the visual bias, a column, is added to a row
of scores, so that its loss runs over all pairs of a batch's rows (a batch of 100 has 10,000 terms).
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

NAME = "VBPR"
MEANING = "factors of users and items, and of users for the frozen picture vector; pairwise loss; epoch by validation"


@dataclass(frozen=True)
class How:
    """width: factors of an item, `visual` of them learned from its picture. most, patience: see `best_epoch`."""

    width: int = 64
    visual: int = 32
    rate: float = 5e-3
    decay: float = 1e-2
    batch: int = 1_024
    most: int = 60
    patience: int = 6
    seed: int = 0


class VisualFactors(nn.Module):
    """score(u, i) = b_i + p_u q_i + v_u (E f_i) + w f_i: factors, a part of them out of the picture, and biases.

    pictures: (N, d) frozen vectors; seen: (N,) whether an item has one. Where it has none, one learned vector stands.
    """

    def __init__(self, users: int, pictures: Tensor, seen: Tensor, how: How) -> None:
        super().__init__()
        items, width = pictures.shape
        known = pictures[seen].float()
        spread = known.std() if len(known) > 1 else torch.ones(())
        scaled = torch.where(seen[:, None], (pictures - known.mean(0)) / spread.clamp_min(1e-6), 0.0)
        self.pictures, self.seen = scaled.float(), seen
        self.user, self.item = nn.Embedding(users, how.width), nn.Embedding(items, how.width - how.visual)
        self.bias = nn.Embedding(items, 1)
        self.visual, self.absent = nn.Linear(width, how.visual + 1, bias=False), nn.Parameter(torch.zeros(width))
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.1)
        nn.init.zeros_(self.bias.weight)
        nn.init.normal_(self.visual.weight, std=0.1 / width**0.5)

    def table(self, items: Tensor) -> Tensor:
        """(..., width + 1) of item codes (...): what a user's factors with a one behind them are multiplied with."""
        vector = torch.where(self.seen[items][..., None], self.pictures[items], self.absent)
        looks = self.visual(vector)
        return torch.cat([self.item(items), looks[..., :-1], looks[..., -1:] + self.bias(items)], dim=-1)

    def users(self, users: Tensor) -> Tensor:
        """(..., width + 1) of user rows (...)."""
        return F.pad(self.user(users), (0, 1), value=1.0)

    @torch.no_grad()
    def scorer(self, asked: NextItems) -> Scorer:
        """Of every item for the users asked."""
        items = torch.arange(len(self.pictures))
        return dot(self.users(torch.from_numpy(asked.user)), self.table(items))


def pairwise(user: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """-log sigmoid(score of the chosen minus that of the other), the mean over rows; all (b, w). In nats."""
    return -F.logsigmoid((user * (chosen - other)).sum(-1)).mean()


def train(
    histories: Sequences, valid: NextItems, pictures: Tensor, seen: Tensor, how: How | None = None
) -> tuple[VisualFactors, Chosen]:
    """Fit on training histories; the epoch is the one of the highest validation NDCG@10 over the full catalogue.

    pictures: (N, d), seen: (N,) bool. With no item seen this is BPR with factors of `width` minus `visual`. Others are
    drawn evenly, those that the user has are left out. The same seed gives the same model.
    """
    how = how or How()
    if not len(histories.indices) or not len(valid):
        raise ValueError("VBPR: no training history has an item, or there are no validation rows; loosen data.options")
    items = len(pictures)
    had = np.unique(histories.row_of * items + histories.indices)
    pairs = torch.from_numpy(np.stack(np.divmod(had, items)))
    rng = np.random.default_rng(how.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        model = VisualFactors(len(histories), pictures, seen, how)
        optimiser = torch.optim.AdamW(model.parameters(), how.rate, weight_decay=how.decay)

        def epoch() -> None:
            for rows in torch.randperm(pairs.shape[1]).split(how.batch):
                user, chosen = pairs[:, rows]
                other = torch.from_numpy(_others(user.numpy(), had, items, rng))
                optimiser.zero_grad()
                pairwise(model.users(user), model.table(chosen), model.table(other)).backward()
                optimiser.step()

        def score() -> float:
            return float(row_values(full(model.scorer(valid), valid))["ndcg_at_10"].mean())

        chosen = best_epoch(model, epoch, score, how.most, how.patience)
    return model, chosen


def _others(user: Ints, had: Ints, items: int, rng: np.random.Generator) -> Ints:
    """(b,) items that the users do not have: of eight drawn for each the first; had: user * items + item, rising."""
    drawn = rng.integers(0, items, (len(user), 8))
    keys = user[:, None] * items + drawn
    free = had[np.minimum(np.searchsorted(had, keys), len(had) - 1)] != keys
    return np.asarray(drawn[np.arange(len(user)), free.argmax(axis=1)])
