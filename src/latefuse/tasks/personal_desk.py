"""What the rows of one dataset and arm share: what items are called, their pictures, the catalogue as a trie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latefuse.config import Task
from latefuse.config_personal import Personalise
from latefuse.data.dataset import Dataset
from latefuse.models import item_trie
from latefuse.models.backbone import Backbone
from latefuse.models.item_trie import ItemTrie
from latefuse.models.prompted import Prompted, collate
from latefuse.models.text_vectors import rarity, text_vectors
from latefuse.prompts import PromptError
from latefuse.prompts.personal import FAMILIES, Limits, PersonalSplicer, ids, names, template
from latefuse.tasks import personal_rows
from latefuse.tasks.item_pictures import donors_among, picture_vectors, warm_pictures
from latefuse.tasks.personal_rows import PersonalRows, Rows
from latefuse.training.features import Features

Array = NDArray[Any]
MARKERS = ("<extra_id_0>", "<image>")
"""Tokens that may hold the place of a visual slot: T5's, and that of models which know pictures."""
SHUFFLE_SEED = 0
"""Who has whose pictures in the control; one draw for training and inference."""


@dataclass
class Desk:
    """Rows become prompts here, once `warm` has made the picture vectors.

    source: what rows are drawn from. items: id, number, title, text and images of every item, in table order.
    pictures: (items, dv) the mean of an item's own pictures; pictured: (items,) bool, whether it has some. vectors,
    seen: what prompts show, in a control those of other items. told: how many prompts were made, how many of them show
    not all of their history (`cut`), and how many have words that a limit has shortened (`shortened`).
    """

    dataset: Dataset
    task: Task
    backbone: Backbone
    source: PersonalRows
    items: list[dict[str, Any]]
    pictures: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    pictured: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    vectors: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    seen: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    told: Counter[str] = field(default_factory=Counter)
    _splicer: PersonalSplicer | None = None
    _trie: ItemTrie | None = None
    _lists: dict[str, Array] = field(default_factory=dict)

    @property
    def settings(self) -> Personalise:
        """The task's section."""
        return settings_of(self.task)

    def candidates(self, split: str) -> Array:
        """(m, count) item codes: what the direct rows of a held-out split choose from, the same for every arm."""
        if split not in self._lists:
            self._lists[split] = self.source.candidates(split)
        return self._lists[split]

    def warm(self, features: Features, progress: bool) -> int:
        """Make picture vectors and ids, once; returns how many pictures were encoded anew."""
        if self._splicer is not None:
            return 0
        images, settings = [row["images"] for row in self.items], self.settings
        encoded = warm_pictures(images, features, progress)
        matrix, place = picture_vectors(images, self.backbone, features)
        shown = place[donors_among(place >= 0, [SHUFFLE_SEED])] if settings.shuffled else place
        self.pictures, self.pictured = _spread(matrix, place), torch.from_numpy(place >= 0)
        self.vectors, self.seen = _spread(matrix, shown), torch.from_numpy(shown >= 0)
        called = self._called(features)
        known = personal_rows.directory(self.dataset, self.source.found, called, self.source.seed)
        limits = Limits(settings.max_tokens, settings.target_tokens, settings.word_tokens, settings.history)
        tokenizer = self.backbone.tokenizer
        has = (one for one in MARKERS if tokenizer.convert_tokens_to_ids(one) not in (None, tokenizer.unk_token_id))
        self._splicer = PersonalSplicer(
            tokenizer, known, marker=next(has, MARKERS[0]), visual=settings.k, limits=limits,
            named="text" in self.task.modality, end=self.backbone.seq2seq is not None,
        )  # fmt: skip
        return encoded

    def _called(self, features: Features) -> list[str]:
        """The words of every item's id: of its own content, whatever a control shows in its place."""
        settings, names = self.settings, [row["id"] for row in self.items]
        if settings.ids == "permuted":
            if settings.ids_seed is None:
                return ids.numbers(row["number"] for row in self.items)
            return ids.permuted(names, settings.ids_seed)
        words = [f"{row['title']} {row['text']}".strip() for row in self.items]
        written = text_vectors(self.backbone, words, features, rarity(self.backbone, [words[n] for n in self._trained]))
        parts = [F.normalize(part - part.mean(0), dim=-1) for part in (self.pictures, written)]
        has = self.pictured.numpy() | np.array([bool(one) for one in words])
        return ids.semantic(torch.cat(parts, dim=1).numpy(), has, names, settings.ids_seed or 0)

    @property
    def _trained(self) -> Array:
        """Codes of the items that stand in a training event."""
        found = self.source.found
        return np.unique(found.item[found.split == 0])

    def known_vectors(self) -> Tensor:
        """(m, dv) the picture vectors of the items that training has an event of and that have a picture."""
        trained = torch.from_numpy(self._trained.astype(np.int64))
        return self.vectors[trained[self.seen[trained]]]

    @property
    def splicer(self) -> PersonalSplicer:
        """Rows to tokens. Raises RuntimeError before `warm`."""
        if self._splicer is None:
            raise RuntimeError("a desk makes prompts once it is warm")
        return self._splicer

    @property
    def trie(self) -> ItemTrie:
        """The answers that name an item."""
        if self._trie is None:
            self._trie = item_trie.build(self.splicer.answers()).to(self.backbone.device)
        return self._trie

    def prompted(self, rows: Rows) -> Prompted:
        """All rows as one batch."""
        names = rows.names()
        made = [self.splicer.encode(name, self.source.fields(rows, at)) for at, name in enumerate(names)]
        self.told.update(
            prompts=len(made),
            cut=sum(bool(one.cut) for one in made),
            shortened=sum(bool(one.shortened) for one in made),
        )
        return collate(made, self.backbone.pad_id, self.settings.k, self.vectors, self.seen)

    def cut(self, rows: Rows) -> int:
        """How many of the rows do not show all of their history, or lack the end of their answer."""
        return sum(not self.splicer.whole(name, self.source.fields(rows, at)) for at, name in enumerate(rows.names()))

    def compared(self, rows: Rows) -> Prompted:
        """All rows as one batch to learn from: what may stand in the answer that names an item is told if so set."""
        prompted = self.prompted(rows)
        if self.settings.compare == "vocabulary":
            return prompted
        assert prompted.labels is not None
        asked = [template(name).answer == "{number}" for name in rows.names()]
        named = torch.tensor(asked).nonzero()[:, 0]
        may = self.trie.alternatives(prompted.labels[named].to(self.trie.token.device)).cpu()
        may[:, 0] = named[may[:, 0]]
        return replace(prompted, may=may)

    def check(self, rows: Rows) -> None:
        """Make what is longest, so that nothing which does not fit is told hours later: the number of an item, and of
        each template with candidates the question whose candidates take the most tokens. Raises PromptError."""
        length = np.array([len(answer) for answer in self.splicer.answers()])
        code, most = int(length.argmax()), self.settings.target_tokens
        if length[code] > most:
            told = (
                f"item {self.items[code]['id']!r}: its number takes {length[code]} tokens with the end, an answer has"
            )
            raise PromptError(f"{told} {most}; raise personalise.target_tokens")
        for one in np.unique(rows.template[rows.candidates >= 0]):
            at = np.flatnonzero((rows.template == one) & (rows.candidates >= 0))
            longest = at[length[rows.lists[rows.candidates[at]]].sum(1).argmax()]
            self.splicer.encode(names()[one], self.source.fields(rows, longest))

    def had(self, rows: Rows) -> list[Array]:
        """Item codes of the history of each row."""
        item = self.source.found.item
        return [item[begin:end].astype(np.int64) for begin, end in zip(rows.begin, rows.end, strict=True)]

    def listed(self, rows: Rows) -> list[Array]:
        """Item codes of the candidates of each row."""
        return [rows.lists[place].astype(np.int64) for place in rows.candidates]


def _spread(matrix: Tensor, place: Array) -> Tensor:
    """(items, dv): each item's vector, zero where it has none."""
    out = torch.zeros(len(place), matrix.shape[1])
    there = torch.from_numpy(place >= 0)
    out[there] = matrix[torch.from_numpy(place[place >= 0])]
    return out


OF_THE_NETWORK = {
    "adapter", "reduction", "places", "per_family", "norms", "whole_words", "categories", "by_length", "beams"
}  # fmt: skip
"""Settings that say nothing of what is read."""
_DESKS: dict[str, Desk] = {}


def open_desk(dataset: Dataset, task: Task, backbone: Backbone) -> Desk:
    """The desk of a dataset for a task: the newest one is kept, since train and valid rows share it.

    Raises DataError where there are no events, and as `personal_rows.open_rows` does.
    """
    settings = settings_of(task)
    key = f"{task.modality}{settings.model_dump_json(exclude=OF_THE_NETWORK)}"
    newest = _DESKS.get(key)
    if newest is None or newest.dataset is not dataset or newest.backbone is not backbone:
        source = personal_rows.open_rows(
            dataset, settings.rows_seed, settings.per_user, settings.candidates, _present(dataset, settings.families)
        )
        items = dataset.table("items", columns=["id", "number", "title", "text", "images"]).to_pylist()
        _DESKS.clear()
        newest = _DESKS[key] = Desk(dataset, task, backbone, source, items)
    return newest


def _present(dataset: Dataset, families: Sequence[Any]) -> tuple[Any, ...]:
    """The families that the dataset has rows for, those of events first."""
    known = (name for name in FAMILIES if name in families)
    return tuple(name for name in known if name != "explanation" or "reviews" in dataset.tables)


def settings_of(task: Task) -> Personalise:
    """The section of a task of kind personalise."""
    assert task.personalise is not None
    return task.personalise
