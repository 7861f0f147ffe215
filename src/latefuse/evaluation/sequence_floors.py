"""What stands below every next-item arm, without a network: popularity, neighbours of items, transitions, and probes.

All learn from training histories alone and give scores block by block, so that no users-by-items matrix is ever held.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from latefuse.evaluation import floors
from latefuse.evaluation.calibration import Floats, Ints
from latefuse.evaluation.retrieval import Scorer
from latefuse.evaluation.sequences import NextItems, Sequences

POPULARITY, KNN, MARKOV, HIGHEST, PREVIOUS = "popularity", "item-kNN", "Markov", "highest + 1", "previous + 1"
MEANINGS = {
    POPULARITY: "how often an item stands in training histories; nothing of the user",
    KNN: "cosine, over the users of the training histories, to the user's last ten items, the newest weighing most",
    MARKOV: "how often an item came within five steps after the user's last five items in training histories",
    HIGHEST: "probe: the item numbers that come behind the highest of the history; above chance is a leak",
    PREVIOUS: "probe: the item numbers that come behind that of the item before; above chance is a leak",
}
PROBES = (HIGHEST, PREVIOUS)


def popularity(train: Sequences, asked: NextItems, items: int) -> Scorer:
    """How often an item stands in training histories, the same for every question."""
    return floors.popularity(torch.from_numpy(train.counts(items)), len(asked))


def item_knn(train: Sequences, asked: NextItems, items: int, last: int = 10, decay: float = 0.8) -> Scorer:
    """Cosine of items as sets of their users (Sarwar et al. 2001), summed over the last items of the history.

    The newest item weighs 1, each before it `decay` times the one behind it.
    """
    pairs = np.unique(train.row_of * items + train.indices)
    users = csr_array((np.ones(len(pairs)), np.divmod(pairs, items)), shape=(len(train), items))
    length = np.sqrt(users.sum(axis=0))
    unit = users @ csr_array((1 / np.maximum(length, 1), (range(items), range(items))), shape=(items, items))
    near = unit.T @ unit
    itself = csr_array((near.diagonal(), (range(items), range(items))), shape=(items, items))
    return _over(asked, near - itself, np.asarray(decay ** np.arange(last), np.float64))


def markov(train: Sequences, asked: NextItems, items: int, window: int = 5) -> Scorer:
    """Counts of transitions over up to `window` steps in training histories, one of d steps counting 1 / d, from the
    last `window` items, one of age a counting 1 / a."""
    row_of, steps = train.row_of, csr_array((items, items))
    for distance in range(1, window + 1):
        same = row_of[distance:] == row_of[:-distance]
        pair = train.indices[:-distance][same], train.indices[distance:][same]
        steps = steps + csr_array((np.full(len(pair[0]), 1 / distance), pair), shape=(items, items))
    return _over(asked, steps, np.asarray(1 / np.arange(1, window + 1), np.float64))


def next_number(number: Ints, asked: NextItems, highest: bool = True) -> Scorer:
    """Item numbers in rising order behind the highest of the history, or behind that of its last item.

    number: (items,) of each item as a model sees it, a permutation. Behind the highest number there is comes 0. Where
    numbers tell nothing this finds what chance does; numbers given in the order of first appearance over histories that
    hold the test items, as P5's are, let it find far more. Raises ValueError where they are no permutation.
    """
    items = len(number)
    if not np.array_equal(np.sort(number), np.arange(items)):
        raise ValueError(f"item numbers are no permutation of 0..{items - 1}")
    start = np.full(len(asked), -1)
    if highest:
        np.maximum.at(start, asked.history.row_of, number[asked.history.indices])
    else:
        newest = asked.history.last(1)[:, 0]
        start = np.where(newest >= 0, number[newest], -1)
    of_items, before = torch.tensor(number), torch.from_numpy(start)

    def rows(numbers: Tensor) -> Tensor:
        # Item counts stay below 2^24, where floats are exact.
        return -((of_items[None] - before[numbers, None] - 1) % items).float()

    return floors.by_rows(rows, len(asked), items)


def _over(asked: NextItems, links: csr_array, weights: Floats) -> Scorer:
    """The weighted sum of what links the newest items of a history to all. links: (N, N). weights: newest first."""
    newest, items = asked.history.last(len(weights)), links.shape[0]

    def rows(numbers: Tensor) -> Tensor:
        codes = newest[numbers.numpy()]
        row, age = np.nonzero(codes >= 0)
        picked = csr_array((weights[age], (row, codes[row, age])), shape=(len(codes), items))
        return torch.from_numpy((picked @ links).toarray())

    return floors.by_rows(rows, len(asked), items)
