"""Is the item that was chosen next found: hit rate and NDCG, over the full catalogue and, beside it, over a sample.

A sample of candidates does not rank systems as the full catalogue does (Krichene and Rendle 2020), so its metrics carry
their protocol in their names: `hr_at_10/sampled-100` is over the target and 99 others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from latefuse.evaluation.calibration import Floats, Ints
from latefuse.evaluation.nearest import QUERIES
from latefuse.evaluation.retrieval import Scorer, lower_third, ranks, retrieval_scores
from latefuse.evaluation.retrieval_verdict import COLD
from latefuse.evaluation.sequences import NextItems

KS = (1, 5, 10)
UNLISTED = 2**31
"""Place of a target that a list does not hold: behind every k."""
NO_PICTURE, SHORT, LONG = "no picture", "short history", "longer history"


def listed(ranked: ArrayLike, target: ArrayLike, scores: ArrayLike | None = None) -> Ints:
    """(n,) how many entries of a ranked list stand before the target, 0 where it is first; UNLISTED where it is not.

    ranked: (n, K) item codes, best first, -1 for an entry that is no item; it takes its place all the same. target:
    (n,) codes. scores: (n, K) falling, where known: entries as good as the target then stand before it. Raises
    ValueError for a row that lists an item twice, or whose scores rise.
    """
    lists, wanted = np.asarray(ranked, np.int64), np.asarray(target, np.int64)
    if lists.ndim != 2 or len(lists) != len(wanted):
        raise ValueError(f"lists of shape {lists.shape} do not fit {len(wanted)} targets; expected (n, K)")
    if not lists.shape[1]:
        return np.full(len(wanted), UNLISTED)
    ordered = np.sort(lists, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, place = np.argwhere(twice)[0]
        raise ValueError(f"row {row}: item {ordered[row, place]} is listed twice")
    hit = lists == wanted[:, None]
    place = hit.argmax(axis=1)
    if scores is not None:
        values = np.asarray(scores, np.float64)
        if values.shape != lists.shape:
            raise ValueError(f"scores of shape {values.shape} do not fit lists of shape {lists.shape}")
        if len(rising := np.flatnonzero(~(values[:, 1:] <= values[:, :-1]).all(axis=1))):
            raise ValueError(f"row {rising[0]}: its scores rise, or are no numbers; lists are given best first")
        place = (values >= np.take_along_axis(values, place[:, None], axis=1)).sum(axis=1) - 1
    return np.where(hit.any(axis=1), place, UNLISTED)


def full(score: Scorer, asked: NextItems) -> Ints:
    """(n,) places of the targets in the whole catalogue; items of the history do not compete, a tie counts against us.

    score: question by item, as the floors give it. Raises ValueError as `retrieval.ranks` does.
    """
    target = torch.tensor(asked.target)
    return ranks(score, target, torch.arange(len(asked)), asked.unasked()).numpy()


def among(score: Scorer, candidates: Ints, target: Ints) -> Ints:
    """(n,) places of the targets among stored candidates (n, c); a tie counts against us.

    Raises ValueError for a row whose target is not among them once, or scores that are not finite.
    """
    own = _once(candidates, target)
    found = [np.zeros(0, np.int64)]
    for start in range(0, len(candidates), QUERIES):
        some = candidates[start : start + QUERIES]
        query = torch.arange(start, start + len(some)).repeat_interleave(some.shape[1])
        values = score.pairs(query, torch.tensor(some.ravel())).double().numpy().reshape(some.shape)
        if not np.isfinite(values).all():
            raise ValueError(f"question {start + int(np.argwhere(~np.isfinite(values))[0][0])}: a score is not finite")
        mine = np.take_along_axis(values, own[start : start + QUERIES, None], axis=1)
        found.append((values >= mine - score.tie).sum(axis=1) - 1)
    return np.concatenate(found)


def sampled(count: int) -> str:
    """What stands behind the names of metrics over so many candidates."""
    return f"/sampled-{count}"


def names(ks: Sequence[int] = KS, protocol: str = "") -> list[str]:
    """The metrics of `row_values`, the headline, the hit rate at the highest k, first."""
    rest = sorted(ks)[:-1]
    return [f"{kind}_at_{k}{protocol}" for k in (max(ks), *rest) for kind in ("hr", "ndcg")]


def row_values(places: Ints, ks: Sequence[int] = KS, protocol: str = "") -> dict[str, Floats]:
    """Metric -> (n,) values whose mean it is. places: (n,) how many items stand before each target.

    hr_at_<k>: 1 where fewer than k do. ndcg_at_<k>: 1 / log2(place + 2) there, else 0; its best order is 1 (Jarvelin
    and Kekalainen 2002). protocol: behind the names, see `sampled`.
    """
    found = retrieval_scores(places, np.arange(len(places)), len(places), ks)
    kinds = {"hr": "recall", "ndcg": "ndcg"}
    return {f"{name}_at_{k}{protocol}": found[f"{kind}_at_{k}"] for k in ks for name, kind in kinds.items()}


def slices(asked: NextItems, trained: Ints, pictured: NDArray[np.bool_]) -> dict[str, Ints]:
    """Name -> places of questions: whose target stands in no training event, has no picture, whose history is short.

    trained: (items,) how often each stands in training. pictured: (items,) whether it has a picture. Short is at most
    the lower tercile. None that is empty, none that is all.
    """
    short = lower_third(asked.history.lengths)[0]
    masks = {COLD: trained[asked.target] == 0, NO_PICTURE: ~pictured[asked.target], SHORT: short, LONG: ~short}
    return {name: np.flatnonzero(mask) for name, mask in masks.items() if mask.any() and not mask.all()}


def _once(candidates: Ints, target: Ints) -> Ints:
    """(n,) where each target stands among its candidates."""
    if candidates.ndim != 2 or len(candidates) != len(target):
        raise ValueError(f"candidates of shape {candidates.shape} do not fit {len(target)} targets; expected (n, c)")
    hit = candidates == target[:, None]
    if len(bad := np.flatnonzero(hit.sum(axis=1) != 1)):
        raise ValueError(f"row {bad[0]}: its target {target[bad[0]]} is not among its candidates once")
    return hit.argmax(axis=1)
