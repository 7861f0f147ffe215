"""What a ranker reads as plain columns, for models without a network: the honest controls learn from the same."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from latefuse.tasks.rank_columns import CHUNK
from latefuse.tasks.rank_store import ITEM, PAST
from latefuse.training.features import Features

if TYPE_CHECKING:
    from latefuse.tasks.rank import Rows

Floats = NDArray[np.float32]
COMPONENTS, WORDS = 32, 64
"""Principal components of each source of vectors, and words of each attribute that have a column of their own."""


class Matrix:
    """Rows as columns for scikit-learn.

    Numbers as they are (nan where there is none). Of each attribute in words its WORDS commonest, 0 or 1. Of each
    source of vectors COMPONENTS principal components and whether it is absent; where an item's and its user's past are
    there, the products of their components and their cosine. What is fitted is fitted on the rows it is made with.
    """

    def __init__(self, known: Rows, features: Features) -> None:
        self.store = known.store
        self.store.warm(features, progress=False)
        self.reduce = {name: _reducer(vectors.numpy()) for name, vectors in self.store.known_vectors().items()}
        self.words = {
            name: self._commonest(name, known) for name in self.store.inputs.hashed if name not in ("user", "item")
        }

    def _commonest(self, name: str, known: Rows) -> list[int]:
        counts = Counter[int]()
        for start in range(0, len(known), CHUNK):
            counts.update(self.store.hashed(known.places[start : start + CHUNK])[name][0].tolist())
        return [value for value, _ in counts.most_common(WORDS)]

    def __call__(self, rows: Rows) -> Floats:
        """(n, d) float32."""
        parts = [self._part(rows.places[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
        return np.concatenate(parts)

    def _part(self, places: NDArray[Any]) -> Floats:
        shown = self.store.shown(places)
        made = [shown.numbers.numpy(), *(self._of_words(name, *shown.hashed[name]) for name in self.words)]
        reduced = {}
        for name, (vectors, place) in shown.vectors.items():
            absent = place.numpy() < 0
            own = self.reduce[name].transform(vectors.numpy()) if len(vectors) else np.zeros((1, self._size(name)))
            reduced[name] = np.where(absent[:, None], 0.0, own[np.maximum(place.numpy(), 0)])
            made += [reduced[name], absent[:, None]]
        for modality, item in ITEM.items():
            past = PAST[modality]
            if item in reduced and past in reduced:
                products = reduced[item] * reduced[past]
                norms = np.linalg.norm(reduced[item], axis=1) * np.linalg.norm(reduced[past], axis=1)
                made += [products, (products.sum(1) / np.maximum(norms, 1e-9))[:, None]]
        return (
            np.concatenate(made, axis=1, dtype=np.float32, casting="same_kind")
            if made
            else np.zeros((len(places), 0), np.float32)
        )

    def _size(self, name: str) -> int:
        return int(self.reduce[name][-1].n_components_)

    def _of_words(self, name: str, values: torch.Tensor, offsets: torch.Tensor) -> Floats:
        """(b, WORDS) whether each of the commonest words of an attribute is there."""
        sizes = torch.diff(torch.cat([offsets, torch.tensor([len(values)])]))
        owner = torch.repeat_interleave(torch.arange(len(offsets)), sizes).numpy()
        column = {word: at for at, word in enumerate(self.words[name])}
        at = np.array([column.get(word, -1) for word in values.tolist()], np.int64)
        out = np.zeros((len(offsets), len(column)), np.float32)
        out[owner[at >= 0], at[at >= 0]] = 1
        return out


def _reducer(vectors: NDArray[Any]) -> Pipeline:
    size = max(1, min(COMPONENTS, *vectors.shape))
    some = vectors if len(vectors) else np.zeros((1, vectors.shape[1]))
    return make_pipeline(StandardScaler(), PCA(size, svd_solver="covariance_eigh")).fit(some)
