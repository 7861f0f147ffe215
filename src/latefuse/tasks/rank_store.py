"""What a ranker reads of any row: hashed ids and attributes, numbers, frozen vectors of items and of the past."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latefuse.config import Modality, Task
from latefuse.config_rank import Inputs, Rank
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.readings.request import Of
from latefuse.models.backbone import Backbone
from latefuse.models.ranker import Shown
from latefuse.models.text_vectors import rarity, text_vector_width, text_vectors
from latefuse.sections import nearest
from latefuse.tasks.item_pictures import donors_among, picture_vectors, warm_pictures
from latefuse.tasks.rank_columns import BEFORE, Columns, columns
from latefuse.tasks.rank_readings import REVIEWS, of_pictures, of_reviews, places_of, reviewed
from latefuse.training.features import Features

Array = NDArray[Any]
HISTORY = 50
"""Of what a user liked, so many of the newest count."""
BLOCK = 2_048
SHUFFLE_SEED = 0
ITEM: dict[Modality, str] = {"text": "item words", "image": "item picture"}
PAST: dict[Modality, str] = {"text": "user words", "image": "user pictures"}


@dataclass(frozen=True)
class Frozen:
    """Frozen vectors (m, width), and of each item the place of its own in them, -1 for none."""

    matrix: Tensor
    place: Array


@dataclass
class Store:
    """One dataset as the rankers of one task see it. vectors: of items, reviews: of readings, whose places are those
    of rows; both are filled by `warm`."""

    dataset: Dataset
    task: Task
    backbone: Backbone
    columns: Columns
    vectors: dict[str, Frozen] = field(default_factory=dict)
    reviews: dict[str, Frozen] = field(default_factory=dict)

    @property
    def settings(self) -> Rank:
        """The ranker's own section."""
        assert self.task.rank is not None
        return self.task.rank

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        """The items in stored order, as their table has them."""
        wanted = ["id", "title", "text", "attributes", "images"]
        return [row for rows in self.dataset.batches("items", wanted) for row in rows]

    @cached_property
    def inputs(self) -> Inputs:
        """What the network of this arm is built for."""
        words, numbers = self._attributes
        kinds = (ITEM, PAST) if self.settings.history else (ITEM,)
        vectors = {kind[modality]: self._width(modality) for modality in self.task.modality for kind in kinds}
        return Inputs(
            numbers=(*(BEFORE if self.settings.numbers else ()), *numbers),
            hashed=(*(("user", "item") if self.settings.ids else ()), *words),
            vectors=vectors | {REVIEWS[of]: self._width("text") for of in self.reviewed},
        )

    @cached_property
    def reviewed(self) -> list[Of]:
        """Of whom reviews come in."""
        return reviewed(self.dataset, self.settings) if "text" in self.task.modality else []

    def _width(self, modality: Modality) -> int:
        """Of one vector."""
        in_words = modality == "text" or self.settings.picture == "words"
        return text_vector_width(self.backbone) if in_words else self.backbone.pooled_width(modality)

    @cached_property
    def _attributes(self) -> tuple[dict[str, tuple[Array, Array]], dict[str, Array]]:
        """Attributes in words: name -> (hashed values, where each item's begin). Those in numbers: name -> (items,)."""
        found = [json.loads(row["attributes"] or "{}") for row in self.items]
        words, numbers = {}, {}
        for name in self.settings.attributes:
            values = [one.get(name) for one in found]
            if all(value is None for value in values):
                known = {key for one in found for key in one}
                raise DataError(f"rank.attributes: no item has an attribute {name!r}{nearest(name, known)}")
            read = [_number(value) for value in values]
            present = [number for number, value in zip(read, values, strict=True) if value not in (None, "")]
            typed = any(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            if typed or None not in present:
                numbers[name] = self._numbers(name, values, read)
            else:
                lists = [value if isinstance(value, list) else [] if value is None else [value] for value in values]
                hashed = hashes([str(one) for some in lists for one in some], name, self.settings.bins)
                words[name] = hashed, np.concatenate([[0], np.cumsum([len(some) for some in lists])])
        return words, numbers

    def _numbers(self, name: str, values: Sequence[Any], read: Sequence[float | None]) -> Array:
        """(items,) float32, nan where an item has none. Raises DataError for what is no finite number."""
        for row, value, number in zip(self.items, values, read, strict=True):
            if value not in (None, "") and (number is None or not math.isfinite(number)):
                raise DataError(
                    f"{self.dataset.path}: item {row['id']!r} has {name} = {value!r} where others have a number: mend "
                    "the source, or leave the value out, which counts as absent"
                )
        return np.array([np.nan if number is None else number for number in read], np.float32)

    @cached_property
    def hashed_ids(self) -> dict[str, Array]:
        """Rows of the tables of users and of items, by code."""
        bins = self.settings.bins
        return {"user": hashes(self.columns.users, "user", bins), "item": hashes(self.columns.items, "item", bins)}

    def shuffled(self, modality: Modality, seed: int) -> Store:
        """The same, warm, where every item that has words or pictures has those of another one that has some.

        Reviews of an item go with its words; what a user wrote, and what a user liked before, stay that user's.
        """
        own = self.vectors[ITEM[modality]].place
        donors = donors_among(own >= 0, [SHUFFLE_SEED, seed])
        changed, item = self._with(modality, own[donors]), REVIEWS["item"]
        if modality == "text" and item in self.reviews:
            places = places_of(self.dataset, "item", self.columns, donors)
            changed.reviews[item] = Frozen(self.reviews[item].matrix, places)
        return changed

    def without(self, modality: Modality) -> Store:
        """The same, warm, where no row has anything of this modality."""
        changed = self._with(modality, np.full_like(self.vectors[ITEM[modality]].place, -1))
        if modality == "text":
            for name, frozen in self.reviews.items():
                changed.reviews[name] = Frozen(frozen.matrix, np.full(len(frozen.place), -1))
        return changed

    def _with(self, modality: Modality, place: Array) -> Store:
        frozen = self.vectors[ITEM[modality]]
        vectors = {**self.vectors, ITEM[modality]: Frozen(frozen.matrix, place)}
        return replace(self, vectors=vectors, reviews=dict(self.reviews))

    def warm(self, features: Features, progress: bool) -> int:
        """Make the vectors that the arm reads, each once; returns how many media were encoded anew."""
        if self.inputs.vectors.keys() <= {*self.vectors, *self.reviews, *PAST.values()}:
            return 0
        encode = Encoder(self.backbone, features, progress, self._known_words())
        given = {modality: np.arange(len(self.items)) for modality in self.task.modality}
        for modality in self.task.modality:
            if modality == "text":
                made = self._texts([_words(row) for row in self.items], encode)
            elif self.settings.picture == "words":
                made = Frozen(*of_pictures(self.dataset, [row["images"] for row in self.items], encode))
            else:
                images = [row["images"] for row in self.items]
                encode.encoded += warm_pictures(images, features, progress)
                made = Frozen(*picture_vectors(images, self.backbone, features))
            if modality in self.settings.shuffled:
                given[modality] = donors_among(made.place >= 0, [SHUFFLE_SEED, len(modality)])
            self.vectors[ITEM[modality]] = Frozen(made.matrix, made.place[given[modality]])
        for of in self.reviewed:
            places = places_of(self.dataset, of, self.columns, given["text"])
            self.reviews[REVIEWS[of]] = Frozen(of_reviews(self.dataset, of, self.settings, encode), places)
        return encode.encoded

    def _known_words(self) -> list[str]:
        """What is written of the items that training has a row of."""
        return [_words(self.items[number]) for number in np.flatnonzero(self.columns.trained("item"))]

    def _texts(self, texts: Sequence[str], encode: Encoder) -> Frozen:
        there = [number for number, text in enumerate(texts) if text]
        return Frozen(encode([texts[number] for number in there]), _places(there, len(texts)))

    def known_vectors(self) -> dict[str, Tensor]:
        """Source -> the vectors (m, width) of the items that training has a row of; after `warm`."""
        known, found = self.columns.trained("item"), dict[str, Tensor]()
        for modality in self.task.modality:
            frozen = self.vectors[ITEM[modality]]
            places = np.unique(frozen.place[known])
            own = frozen.matrix[torch.from_numpy(places[places >= 0])]
            found |= {name: own for name in (ITEM[modality], PAST[modality]) if name in self.inputs.vectors}
        for name, frozen in self.reviews.items():
            places = np.unique(frozen.place[self.columns.rows("train")])
            found[name] = frozen.matrix[torch.from_numpy(places[places >= 0])]
        return found

    def shown(self, rows: Array) -> Shown:
        """What the ranker reads of these rows. Raises KeyError before `warm`."""
        vectors = {name: self.vectors_of(name, rows) for name in self.inputs.vectors}
        return Shown(torch.from_numpy(self.numbers(rows)), self.hashed(rows), vectors)

    def hashed(self, rows: Array) -> dict[str, tuple[Tensor, Tensor]]:
        """Column -> bags of rows of its table, (values, offsets)."""
        codes, words = {"user": self.columns.user[rows], "item": self.columns.item[rows]}, self._attributes[0]
        ids = {name: self.hashed_ids[name][codes[name]] for name in codes if self.settings.ids}
        found = {name: (torch.from_numpy(values), torch.arange(len(rows))) for name, values in ids.items()}
        return found | {name: _bags(*bag, codes["item"]) for name, bag in words.items()}

    def numbers(self, rows: Array) -> Array:
        """(b, n) float32: what was known before, and the items' own numbers."""
        items, own = self.columns.item[rows], self._attributes[1]
        before = self.columns.before[rows] if self.settings.numbers else np.zeros((len(rows), 0), np.float32)
        return np.concatenate([before, *(own[name][items][:, None] for name in own)], axis=1, dtype=np.float32)

    def vectors_of(self, name: str, rows: Array) -> tuple[Tensor, Tensor]:
        """Distinct vectors (m, width) and the place of each row's in them, -1 for none."""
        for modality in self.task.modality:
            if name == PAST[modality]:
                return self._history(self.vectors[ITEM[modality]], rows)
        of_items = name in self.vectors
        frozen = self.vectors[name] if of_items else self.reviews[name]
        places, inverse = _distinct(np.asarray(frozen.place[self.columns.item[rows] if of_items else rows]))
        return frozen.matrix[torch.from_numpy(places)], inverse

    def _history(self, frozen: Frozen, rows: Array) -> tuple[Tensor, Tensor]:
        """The mean of what each row's user had liked before it, of the newest HISTORY."""
        users, past = self.columns.user[rows].astype(np.int64), self.columns.past[rows].astype(np.int64)
        pairs, inverse = np.unique(users << 32 | past, return_inverse=True)
        likes = pairs & 0xFFFF_FFFF
        stop = self.columns.liked_from[pairs >> 32] + likes
        items, owner = spans(stop - np.minimum(likes, HISTORY), stop, self.columns.liked_items)
        places = frozen.place[items]
        owner, places = owner[places >= 0], places[places >= 0]
        has, sizes = np.unique(owner, return_counts=True)
        starts = torch.from_numpy(np.cumsum(sizes) - sizes)
        bags = F.embedding_bag(torch.from_numpy(places.astype(np.int64)), frozen.matrix, starts, mode="mean")
        return bags, torch.from_numpy(_places(has, len(pairs))[inverse])


class Encoder:
    """Texts to vectors (n, dt), some at a time; `encoded` counts those that a store of features had not.

    known: texts that tell how rare each word is, where vectors are means of words.
    """

    def __init__(self, backbone: Backbone, features: Features, progress: bool, known: Sequence[str]) -> None:
        self.backbone, self.features, self.progress, self.encoded = backbone, features, progress, 0
        self.weights = rarity(backbone, known)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if self.backbone.family.kind == "light":
            self.encoded += self.features.warm_text(filter(None, texts), progress=self.progress)
        parts = (texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))
        made = [text_vectors(self.backbone, part, self.features, self.weights) for part in parts]
        return _joined(made, text_vector_width(self.backbone))


def open_store(dataset: Dataset, task: Task, backbone: Backbone) -> Store:
    """A dataset as a ranker reads it. Raises DataError as `columns` does."""
    return Store(dataset, task, backbone, columns(dataset, task))


def _number(value: Any) -> float | None:
    """A number, or a text that is one, as tables of text have them; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def hashes(values: Sequence[str], name: str, bins: int) -> Array:
    """(n,) rows 1 to bins - 1 of the table of a column; row 0 is kept for what is not known."""
    found = (hashlib.blake2b(f"{name}\0{value}".encode(), digest_size=8).digest() for value in values)
    return np.fromiter((int.from_bytes(one, "big") % (bins - 1) + 1 for one in found), np.int64, len(values))


def spans(start: Array, stop: Array, values: Array) -> tuple[Array, Array]:
    """The values of several spans one after the other, and of each the number of its span."""
    sizes = stop - start
    ends = np.cumsum(sizes)
    at = np.repeat(start - (ends - sizes), sizes) + np.arange(int(ends[-1]) if len(ends) else 0)
    return values[at], np.repeat(np.arange(len(sizes)), sizes)


def _bags(values: Array, starts: Array, items: Array) -> tuple[Tensor, Tensor]:
    begin, end = starts[items], starts[items + 1]
    found, _ = spans(begin, end, values)
    return torch.from_numpy(found), torch.from_numpy(np.cumsum(end - begin) - (end - begin))


def _distinct(places: Array) -> tuple[Array, Tensor]:
    """The places that occur, and where in them each one is, -1 for none."""
    found, inverse = np.unique(places, return_inverse=True)
    none = int(len(found) > 0 and found[0] < 0)
    return found[none:].astype(np.int64), torch.from_numpy(inverse - none)


def _places(there: Sequence[int] | Array, total: int) -> Array:
    out = np.full(total, -1, np.int64)
    out[there] = np.arange(len(there))
    return out


def _joined(parts: Sequence[Tensor], width: int) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, width)


def _words(row: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (row["title"].strip(), row["text"].strip())))
