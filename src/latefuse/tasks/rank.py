"""Will this user like this item? MMREC's mechanism (arXiv 2408.04211): what was written and shown, in one space with
ids and numbers, ranked by a DLRM.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latefuse.config import Task, Train
from latefuse.config_rank import Rank
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.models import ranker
from latefuse.models.adapter_files import AdapterCard
from latefuse.models.backbone import Backbone
from latefuse.models.ranker import Ranker, Shown
from latefuse.tasks.counted import Counted
from latefuse.tasks.rank_columns import CHUNK
from latefuse.tasks.rank_matrix import Matrix
from latefuse.tasks.rank_store import HISTORY, Store, open_store
from latefuse.training.batching import shuffled_steps
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features

Array = NDArray[Any]
DRAWN_BY = 1_906_00091
BATCH = 4_096


@dataclass(frozen=True)
class Rows(Counted):
    """Rows as columns. places: (n,) rows of the store's columns, in stored order."""

    store: Store
    places: Array

    def __len__(self) -> int:
        return len(self.places)

    def take(self, numbers: Sequence[int] | Array) -> Self:
        """Some of the rows, in the order asked for."""
        return type(self)(self.store, self.places[np.asarray(numbers, np.int64)])

    @property
    def names(self) -> list[str]:
        """`events-123`: a row's table and its place there."""
        return [f"{self.store.columns.table}-{number}" for number in self.store.columns.number[self.places]]

    @property
    def identities(self) -> str:
        """A digest of which rows these are."""
        columns = self.store.columns
        numbers = np.ascontiguousarray(columns.number[self.places], np.int64)
        return hashlib.sha256(columns.table.encode() + numbers.tobytes()).hexdigest()

    @property
    def labels(self) -> Array:
        """(n,) bool: liked."""
        return np.asarray(self.store.columns.liked[self.places])

    @property
    def users(self) -> Array:
        """(n,) codes of users over the whole dataset."""
        return np.asarray(self.store.columns.user[self.places], np.int64)

    @property
    def items(self) -> Array:
        """(n,) codes of items over the whole dataset."""
        return np.asarray(self.store.columns.item[self.places], np.int64)

    @property
    def ts(self) -> Array:
        """(n,) seconds."""
        return np.asarray(self.store.columns.ts[self.places])

    @property
    def likes(self) -> Array:
        """(n,) likes of the item before each row."""
        return np.asarray(self.store.columns.likes[self.places])

    @cached_property
    def cold_user(self) -> Array:
        """(n,) bool: users of whom training has no row."""
        return ~self.store.columns.trained("user")[self.users]

    @cached_property
    def cold_item(self) -> Array:
        """(n,) bool: items of which training has no row."""
        return ~self.store.columns.trained("item")[self.items]

    @property
    def absent(self) -> dict[str, Array]:
        """Source of vectors -> (n,) bool: rows that have none there. After `warm` only."""
        return {name: self._absent(name) for name in self.store.inputs.vectors}

    def _absent(self, name: str) -> Array:
        parts = [self.places[start : start + CHUNK] for start in range(0, len(self), CHUNK)]
        return np.concatenate([self.store.vectors_of(name, part)[1].numpy() < 0 for part in parts])


@dataclass(frozen=True)
class Selection:
    """The rows of a split, and how many are left out, by reason. cut: users of whom not all likes are read."""

    examples: Rows
    left_out: dict[str, int]
    cut: int = 0


@dataclass(frozen=True)
class Batch:
    """What the ranker reads of B rows, and what it learns. labels: (B,) 0 or 1. names: of rows, for messages."""

    numbers: Tensor
    hashed: Mapping[str, tuple[Tensor, Tensor]]
    vectors: Mapping[str, tuple[Tensor, Tensor]]
    labels: Tensor
    rows: tuple[str, ...]


def attach(backbone: Backbone, tasks: Mapping[str, Task], seed: int, chosen: Mapping[str, Selection]) -> None:
    """Put a new ranker on the backbone that knows how numbers are scaled and which values training has.

    Raises TrainingError for more than one task.
    """
    if len(tasks) > 1:
        raise TrainingError(f"tasks {', '.join(tasks)}: a ranker learns one task at a time")
    task, rows = next(iter(tasks.values())), next(iter(chosen.values())).examples
    store, settings = rows.store, rank_of(task)
    made = ranker.build(backbone, settings, store.inputs, seed)
    made.learn_numbers(*_moments(rows))
    for start in range(0, len(rows), CHUNK):
        for name, (values, _) in store.hashed(rows.places[start : start + CHUNK]).items():
            made.learn_values(name, values)
    positive = float(rows.labels.mean())
    made.positive.fill_(positive)
    made.shift.fill_(ranker.shift_of(settings.imbalance, positive))


def _moments(rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n,) of the numbers, in float64 chunk by chunk, of those that are there."""
    count = total = square = torch.zeros(len(rows.store.inputs.numbers), dtype=torch.float64)
    for start in range(0, len(rows), CHUNK):
        found = torch.from_numpy(rows.store.numbers(rows.places[start : start + CHUNK])).double()
        count = count + (~found.isnan()).sum(0)
        total, square = total + found.nansum(0), square + (found**2).nansum(0)
    mean = total / count
    return mean.float(), (square / count - mean**2).clamp(min=0).sqrt().float()


def save(backbone: Backbone, folder: Any, card: AdapterCard) -> AdapterCard:
    """Write the ranker with its card. Raises AdapterError."""
    folder.mkdir(parents=True, exist_ok=True)
    return ranker.save(backbone, folder, card)


def load(backbone: Backbone, folder: Any) -> AdapterCard:
    """Put a saved ranker on the backbone. Raises AdapterError."""
    return ranker.load(backbone, folder)


def examples(dataset: Dataset, task: Task, split: str, backbone: Backbone) -> Rows:
    """The rows of a split, in stored order. See `select`."""
    return select(dataset, task, split, backbone).examples


def select(dataset: Dataset, task: Task, split: str, backbone: Backbone, needed: bool = True) -> Selection:
    """The rows of a split; of training, where negatives are down-sampled, the share of them that is kept.

    Which negatives are kept hangs on their place in the table alone. Raises DataError without rows (unless they are
    not `needed`), and as `columns` does.
    """
    store = _opened(dataset, task, backbone)
    places = store.columns.rows(split)
    if not len(places) and needed:
        raise DataError(
            f"{dataset.path}: no row of {task.table} in split {split!r} of scheme {store.settings.scheme!r}"
        )
    kept = rank_of(task).imbalance.keep_negatives
    left_out = {}
    if split == "train" and kept < 1:
        drawn = np.random.default_rng(DRAWN_BY).random(len(store.columns.liked))[places] < kept
        chosen = places[store.columns.liked[places] | drawn]
        left_out = {"negative-not-drawn": len(places) - len(chosen)}
        places = chosen
    past = np.diff(store.columns.liked_from)
    return Selection(Rows(store, places), left_out, int((past > HISTORY).sum()) if store.settings.history else 0)


OF_THE_NETWORK = {"imbalance", "components", "dim", "bottom", "top", "sparse", "dropout", "absence"}
"""Settings that say nothing of what is read."""
_STORES: dict[str, Store] = {}


def _opened(dataset: Dataset, task: Task, backbone: Backbone) -> Store:
    """The store of a dataset for a task: the newest one is kept, since train and valid rows share it."""
    key = f"{task.table}{task.where}{task.modality}{rank_of(task).model_dump_json(exclude=OF_THE_NETWORK)}"
    newest = _STORES.get(key)
    if newest is None or newest.dataset is not dataset or newest.backbone is not backbone:
        _STORES.clear()
        newest = _STORES[key] = open_store(dataset, task, backbone)
    return newest


def matrix(known: Rows, features: Features) -> Matrix:
    """What the ranker reads as plain columns, fitted on known rows; call it with rows."""
    return Matrix(known, features)


def conditions(task: Task, rows: Rows, seed: int) -> dict[str, Rows]:
    """The same rows with the media of other items, and without them: `shuffled:image`, `absent:image`; after `warm`."""
    found = {}
    for modality in task.modality:
        found[f"shuffled:{modality}"] = Rows(rows.store.shuffled(modality, seed), rows.places)
        found[f"absent:{modality}"] = Rows(rows.store.without(modality), rows.places)
    return found


def warm(rows: Rows, backbone: Backbone, features: Features, progress: bool) -> int:
    """Make the vectors of all items, and tell a new ranker how they are scaled; returns how many were encoded."""
    store = rows.store
    encoded = store.warm(features, progress)
    made = ranker_of(backbone)
    if made.training:
        for name, vectors in store.known_vectors().items():
            made.learn_vectors(name, vectors)
    return encoded


def steps(rows: Rows, train: Train, seed: int, parts: int) -> list[list[int]]:
    """Row numbers of every optimiser step: epoch by epoch, shuffled by seed. Raises TrainingError."""
    if train.batch_size > len(rows):
        raise TrainingError(f"train.batch_size={train.batch_size}, but there are {len(rows)} rows to train on")
    return shuffled_steps(len(rows), train.max_steps, train.batch_size, seed)


def collate(rows: Rows, backbone: Backbone, features: Features) -> Batch:
    """One batch, by columns."""
    rows.store.warm(features, progress=False)
    shown = rows.store.shown(rows.places)
    labels = torch.from_numpy(rows.labels.astype(np.int64))
    return Batch(shown.numbers, shown.hashed, shown.vectors, labels, tuple(rows.names))


def loss(backbone: Backbone, batch: Batch) -> tuple[Tensor, int]:
    """Summed loss in nats of the rows, by `rank.imbalance`, and how many there are."""
    made = ranker_of(backbone)
    shown = Shown(batch.numbers, batch.hashed, batch.vectors)
    how = made.settings.imbalance
    return ranker.like_loss(made(shown), batch.labels.bool(), how, float(made.positive)), len(batch.labels)


@torch.no_grad()
def nll(backbone: Backbone, rows: Rows, *, features: Features, batch_size: int = BATCH) -> Tensor:
    """Cross-entropy in nats of every row, (n,), by the log-odds that are served."""
    logits = predict(backbone, rows, features=features, batch_size=batch_size)
    return F.binary_cross_entropy_with_logits(logits, torch.from_numpy(rows.labels).float(), reduction="none")


@torch.no_grad()
def predict(backbone: Backbone, rows: Rows, *, features: Features, batch_size: int = BATCH) -> Tensor:
    """Log-odds (n,) in nats that each row is liked, corrected for what training left out or weighed."""
    made = ranker_of(backbone)
    was, out = made.training, torch.empty(len(rows))
    made.eval()
    rows.store.warm(features, progress=False)
    for start in range(0, len(rows), batch_size):
        shown = rows.store.shown(rows.places[start : start + batch_size])
        out[start : start + batch_size] = made(_moved(shown, backbone.device)).float().cpu()
    made.train(was)
    return out


def _moved(shown: Shown, device: torch.device) -> Shown:
    pairs = [
        {name: (a.to(device), b.to(device)) for name, (a, b) in part.items()} for part in (shown.hashed, shown.vectors)
    ]
    return Shown(shown.numbers.to(device), *pairs)


def rank_of(task: Task) -> Rank:
    """The section of a task of kind rank."""
    assert task.rank is not None
    return task.rank


def ranker_of(backbone: Backbone) -> Ranker:
    """The ranker on a backbone. Raises TrainingError without one."""
    if not isinstance(backbone.head, Ranker):
        raise TrainingError("no ranker on this backbone: rank.attach makes one, rank.load reads one")
    return backbone.head
