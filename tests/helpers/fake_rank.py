"""A ranker without any network, behind the names of `tasks.rank`: its scores are made up of what rows are about.

A row's like hangs on its user, its item's words and its item's picture; an arm that reads a medium knows its part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latefuse.config import Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.models.adapter_files import CARD, AdapterCard

USERS, EACH = 40, 30
COUNTS = {"train": 2_000, "valid": 600, "test": USERS * EACH}


class Store:
    def warm(self, features: Any, progress: bool) -> int:
        return 0


STORE = Store()


@dataclass(frozen=True)
class Rows:
    """parts: (n, 3) what user, words and picture say of a like; places: of the rows in their split."""

    split: str
    places: np.ndarray
    store: Store = STORE

    @cached_property
    def _drawn(self) -> Mapping[str, np.ndarray]:
        rng, count = np.random.default_rng(sorted(COUNTS).index(self.split)), COUNTS[self.split]
        parts, users = rng.normal(size=(count, 3)), rng.integers(0, USERS, count)
        labels = rng.random(count) < 1 / (1 + np.exp(1 - parts @ [0.5, 1.0, 2.0]))
        drawn = {"parts": parts, "users": users, "labels": labels, "items": rng.integers(0, 90, count)}
        drawn |= {"cold_item": rng.random(count) < 0.3, "cold_user": rng.random(count) < 0.4}
        drawn |= {"picture": rng.random(count) < 0.2, "likes": rng.integers(0, 50, count) + 30.0 * labels}
        return {name: column[self.places] for name, column in drawn.items()}

    def __getattr__(self, name: str) -> Any:
        if name in ("parts", "users", "labels", "items", "cold_item", "cold_user", "likes"):
            return self._drawn[name]
        raise AttributeError(name)

    @property
    def names(self) -> list[str]:
        return [f"events-{place}" for place in self.places]

    @property
    def absent(self) -> dict[str, np.ndarray]:
        return {"item words": np.zeros(len(self), bool), "item picture": self._drawn["picture"]}

    def __len__(self) -> int:
        return len(self.places)

    def take(self, numbers: Any) -> Rows:
        return Rows(self.split, self.places[np.asarray(numbers)], self.store)


@dataclass(frozen=True)
class Swapped(Rows):
    """The same rows with the pictures of others."""

    @property
    def parts(self) -> np.ndarray:
        return np.column_stack([self._drawn["parts"][:, :2], np.roll(self._drawn["parts"][:, 2], 7)])


@dataclass(frozen=True)
class Selection:
    examples: Rows
    left_out: dict[str, int]
    cut: int = 0


def select(dataset: Any, task: Any, split: str, backbone: Any, needed: bool = True) -> Selection:
    """All rows, but where a label is asked for that is another one."""
    rows = Rows(split, np.arange(COUNTS[split]))
    if task.rank.label.at_least is not None:
        rows = rows.take(np.flatnonzero(~rows.labels))
    return Selection(rows, {"odd": 3} if split == "test" else {})


def load(backbone: Any, folder: Path) -> None:
    """What the arm reads, and under which seed."""
    card = json.loads((folder / CARD).read_text())
    backbone.reads = {"arm": card["arm"], "modality": card["modality"], "seed": card["seed"]}


def predict(backbone: Any, rows: Rows, *, features: Any, batch_size: int) -> torch.Tensor:
    """Log-odds that are twice too sure."""
    reads = backbone.reads
    mask = [
        0.5,
        1.0 * ("text" in reads["modality"]),
        2.0 * ("image" in reads["modality"] and reads["arm"] != "shuffled"),
    ]
    noise = np.random.default_rng(reads["seed"]).normal(size=len(rows))
    scores = 2 * (rows.parts @ mask - 1 + 0.3 * noise)
    return torch.from_numpy(np.full(len(rows), np.nan) if reads["arm"] == "broken" else scores)


def matrix(known: Rows, features: Any) -> Callable[[Rows], np.ndarray]:
    """The parts of a like, as noisy as the network sees them."""

    def columns(rows: Rows) -> np.ndarray:
        noise = np.random.default_rng(5).normal(size=(len(rows), 3))
        return (rows.parts + 0.3 * noise).astype(np.float32)

    return columns


def conditions(task: Any, rows: Rows, seed: int) -> dict[str, Rows]:
    """The one condition."""
    return {"shuffled:image": Swapped(rows.split, rows.places)}


MAIN: dict[str, Any] = {"kind": "rank", "modality": ["image", "text"]}
CHANGES: dict[str, dict[str, Any]] = {
    "both": {},
    "ids-only": {"modality": []},
    "text-only": {"modality": ["text"]},
    "shuffled": {"rank": {"shuffled": ["image"]}},
    "focal": {"rank": {"imbalance": {"loss": "focal"}}},
}


def arms() -> dict[str, Task]:
    """The main arm first."""
    return {name: Task.model_validate({**MAIN, **changes}) for name, changes in CHANGES.items()}


def adapter(folder: Path, arm: str, seed: int, dataset: Dataset) -> Path:
    """The output of a finetune step, as far as the evaluation reads it."""
    task = arms()[arm] if arm in CHANGES else Task.model_validate(MAIN)
    card = AdapterCard(
        task=arm, kind="rank", modality=task.modality, arm=arm, seed=seed, backbone_digest="", config_digest="",
        data_fingerprint=dataset.fingerprint,
    )  # fmt: skip
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / CARD).write_text(card.model_dump_json())
    told = {"name": arm, "trainable": 1_000, "trainable_share": 0.01, "wall_s": 2.0, "train_s": 1.0}
    (folder / "result.json").write_text(json.dumps(told))
    return folder


def dataset(folder: Path) -> Dataset:
    """A dataset by its manifest; its rows are made up here."""
    return write_dataset(folder, {"items": [{"id": "a", "title": "A"}]}, source="made up")
