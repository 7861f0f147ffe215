"""BPR (Rendle et al. 2009) by a library: `implicit`, an optional extra (`pip install 'latefuse[controls]'`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import torch
from scipy.sparse import csr_matrix

from latefuse.evaluation.next_item import full, row_values
from latefuse.evaluation.retrieval import Scorer, dot
from latefuse.evaluation.sequences import NextItems, Sequences

NAME = "BPR"
MEANING = "factors of users and items, pairwise loss (implicit); rounds chosen on validation rows"
MISSING = "BPR is not measured: implicit is not installed; pip install 'latefuse[controls]'"


@dataclass(frozen=True)
class How:
    """rounds: passes over the training rows that are tried."""

    width: int = 64
    rate: float = 0.05
    decay: float = 0.01
    rounds: tuple[int, ...] = (25, 50, 100, 200)
    seed: int = 0


def missing() -> str:
    """Why it can't be measured here; "" where it can."""
    if find_spec("implicit") is None:
        return MISSING
    try:  # behind torch, which brings OpenMP's library where the system has none
        import_module("implicit.cpu.bpr")
    except ImportError as error:
        return f"BPR is not measured: implicit can't be loaded: {error}"
    return ""


def train(histories: Sequences, valid: NextItems, items: int, asked: NextItems, how: How | None = None) -> Scorer:
    """Fit on training histories; of every item for the users asked, whatever came last in their histories.

    Of `rounds` those are taken that have the highest validation NDCG@10 over the full catalogue. The same seed gives
    the same scores. Raises RuntimeError where the library is not installed: ask `missing` first.
    """
    if said := missing():
        raise RuntimeError(said)
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    how, best, found = how or How(), -1.0, None
    pairs = np.unique(histories.row_of * items + histories.indices)
    rows = csr_matrix((np.ones(len(pairs), np.float32), np.divmod(pairs, items)), (len(histories), items))
    for rounds in how.rounds:
        model = BayesianPersonalizedRanking(
            how.width, how.rate, how.decay, iterations=rounds, random_state=how.seed, num_threads=1
        )
        model.fit(rows, show_progress=False)
        users, table = torch.from_numpy(model.user_factors), torch.from_numpy(model.item_factors)
        worth = float(row_values(full(dot(users[valid.user], table), valid))["ndcg_at_10"].mean())
        if worth > best:
            best, found = worth, dot(users[asked.user], table)
    if found is None:
        raise ValueError("BPR: no number of rounds is given; set `rounds`")
    return found
