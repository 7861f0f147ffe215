"""What an item is called in a prompt: the words of its id, one text per item code.

Numbers are a random permutation, so that neither their order nor their digits tell anything. Semantic ids say what an
item is like: similar items share the beginning of theirs. Whichever it is, a prompt and an answer only see the words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from latefuse.data import splits

Array = np.ndarray[Any, Any]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def numbers(number: Iterable[int]) -> list[str]:
    """Bare numbers, as the dataset stores them (`items.number`)."""
    return [str(int(one)) for one in number]


def permuted(items: Sequence[str], seed: int) -> list[str]:
    """Bare numbers of another permutation, by the items' own ids and a seed: nothing else about them changes."""
    return numbers(splits.numbers(splits.uniform(items, f"number:{seed}")))


def semantic(
    vectors: Array, seen: Array, items: Sequence[str], seed: int, levels: int = 3, branches: int | None = None
) -> list[str]:
    """Ids such as `a4 b0 c17 d2`, a word a level: hierarchical k-means of what items are like, then who of those alike.

    vectors: (n, d) of the content, unit or not. seen: (n,) bool; an item without a vector stands in one branch with all
    others of its kind. items: their ids, from which with the seed the last code is drawn: among items that share all
    other codes it tells one from another, and nothing else. branches: of each level; by default as many as leave about
    one item to a leaf. The same input gives the same ids.
    """
    n = len(vectors)
    width = branches or max(2, int(np.ceil(max(int(seen.sum()), 1) ** (1 / levels))))
    codes = np.zeros((n, levels + 1), np.int64)
    codes[~seen, :levels] = width
    # The sums of several threads differ in their last digits, and so could the nearest centre.
    with threadpool_limits(limits=1):
        _part(np.flatnonzero(seen), np.asarray(vectors, np.float32), codes, 0, levels, width, seed)
    _, leaf = np.unique(codes[:, :levels], axis=0, return_inverse=True)
    order = np.lexsort((splits.uniform(items, f"semantic:{seed}"), leaf.reshape(-1)))
    sorted_leaf = leaf.reshape(-1)[order]
    codes[order, levels] = np.arange(n) - np.searchsorted(sorted_leaf, sorted_leaf)
    return [" ".join(f"{LETTERS[level]}{code}" for level, code in enumerate(row)) for row in codes.tolist()]


def _part(rows: Array, vectors: Array, codes: Array, level: int, levels: int, width: int, seed: int) -> None:
    """Write the codes of some rows from a level on: clusters, and clusters of these. rows: (m,) places in vectors."""
    if level == levels or len(rows) < 2:
        return
    distinct = len(np.unique(vectors[rows], axis=0))
    if distinct < 2:
        return
    fitted = KMeans(min(width, distinct), n_init=2, random_state=seed).fit(vectors[rows])
    codes[rows, level] = fitted.labels_
    for cluster in range(fitted.n_clusters):
        _part(rows[fitted.labels_ == cluster], vectors, codes, level + 1, levels, width, seed)
