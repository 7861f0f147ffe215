"""Item embeddings: pairs in, one vector an item out (NoteLLM-2, arXiv 2405.16789).

Every row is a pair of items that belong together; the other items of the batch are what it is told apart from. An item
that stands in several rows of a batch is encoded once.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latefuse.config import Modality, Task, Train
from latefuse.config_vectors import Embed
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.models import embedder
from latefuse.models.adapter_files import AdapterCard
from latefuse.models.backbone import Backbone
from latefuse.models.heads import EmbedHead
from latefuse.models.light import too_long
from latefuse.prompts import MediaRef
from latefuse.prompts.items import Item, ItemSplicer
from latefuse.tasks.catalogue import catalogue, readable
from latefuse.tasks.item_vectors import head_of, warm_items
from latefuse.tasks.views import Chunk, Views, viewer, words_of
from latefuse.training.batching import shuffled_steps
from latefuse.training.contrast import cached, view_loss
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features

LEFT_OUT_LIMIT = 0.5


@dataclass(frozen=True)
class Pair:
    """Two items that belong together.

    content: what each of them shows, equal for items that show the same. log_q: how often each stands in the pairs.
    guest: both are encoded, and nothing is learned of them.
    """

    row: str
    a: Item
    b: Item
    content: tuple[int, int]
    log_q: tuple[float, float] = (0.0, 0.0)
    guest: bool = False

    @property
    def tokens(self) -> int:
        """Rows of the softmax: pairs are counted, not words."""
        return self.learned

    @property
    def learned(self) -> int:
        """Rows whose loss is learned: query and target."""
        return 2

    @property
    def media(self) -> tuple[MediaRef, ...]:
        """The media of both items."""
        return (*self.a.media, *self.b.media)

    @property
    def group(self) -> str:
        """The modalities of its media that are there."""
        return "+".join(sorted({ref.modality for ref in self.media if ref.path})) or "text"

    @property
    def identity(self) -> list[Any]:
        """What the weights at the end depend on."""
        return [self.row, *self.content]

    def as_guest(self) -> Pair:
        """The pair as items of which no row of the loss is made."""
        return replace(self, guest=True)


@dataclass(frozen=True)
class Selection:
    """The pairs of a split, and how many were left out, by reason. cut: items of which a part is not read."""

    examples: list[Pair]
    left_out: dict[str, int]
    cut: int = 0


@dataclass(frozen=True)
class Batch:
    """Distinct items in chunks, and the pairs as places in them; at places that no pair names stand guests.

    a, b: (B,) places in the chunks one after the other. content: (items,) equal for items that show the same. log_q:
    (items,) log of the share of all pair ends that an item is. labels: (2B,) of ones: the rows that count in the mean.
    """

    chunks: tuple[Chunk, ...]
    a: Tensor
    b: Tensor
    content: Tensor
    log_q: Tensor
    labels: Tensor
    rows: tuple[str, ...]


def attach(backbone: Backbone, tasks: Mapping[str, Task], seed: int, chosen: object = None) -> None:
    """Put a new adapter and head on the backbone. Raises TrainingError for more than one task.

    chosen: the rows that it will learn from, which have no say.
    """
    if len(tasks) > 1:
        raise TrainingError(f"tasks {', '.join(tasks)}: item embeddings are learned one task at a time")
    embedder.attach(backbone, next(iter(tasks.values())), seed)


def save(backbone: Backbone, folder: Path, card: AdapterCard) -> AdapterCard:
    """Write adapter and head with their card. Raises AdapterError."""
    assert backbone.head is not None
    return embedder.save(backbone, folder, card.model_copy(update={"embed": backbone.head.settings}))


def examples(dataset: Dataset, task: Task, split: str, backbone: Backbone) -> list[Pair]:
    """The pairs of a split, in stored order. See `select`."""
    return select(dataset, task, split, backbone).examples


def select(dataset: Dataset, task: Task, split: str, backbone: Backbone, needed: bool = True) -> Selection:
    """The pairs of a split whose items both have a field that the arm reads.

    Pairs with an item that has none are left out and counted, and so is one alone: it has nothing to be told from.
    Raises DataError without pairs (unless they are not `needed`), and when more than half of them are left out.
    """
    options = _options(task)
    items = {item.id: item for item in catalogue(dataset, task)}
    usable = {key for key, item in items.items() if readable(item, task.modality)}
    rows = dataset.table("pairs", split, options.scheme, columns=["a", "b"]).to_pylist()
    if not rows and needed:
        raise DataError(f"{dataset.path}: no pair in split {split!r} of scheme {options.scheme!r}")
    kept, left_out = [], Counter[str]()
    for row in rows:
        a, b = row["a"], row["b"]
        if a in usable and b in usable:
            kept.append(pair(items[a], items[b]))
        else:
            left_out["no-usable-field"] += 1
    if sum(left_out.values()) > LEFT_OUT_LIMIT * len(rows):
        raise DataError(
            f"{dataset.path}: {sum(left_out.values())} of {len(rows)} pairs of split {split!r} have an item with none "
            f"of {', '.join(task.modality)}: look at the task's modality, or at the items"
        )
    if len(kept) == 1:
        left_out["alone"] += len(kept)
        kept = []
    ends = Counter(item.id for one in kept for item in (one.a, one.b))
    share = {key: math.log(count / (2 * len(kept))) for key, count in ends.items()}
    weighed = [replace(one, log_q=(share[one.a.id], share[one.b.id])) for one in kept]
    return Selection(weighed, dict(left_out), cut_items(backbone, task, [items[key] for key in ends]))


def cut_items(backbone: Backbone, task: Task, items: Sequence[Item]) -> int:
    """Of how many items not everything is read.

    Words may be longer than the budget, or than the sentence encoder reads, and media more than the arm takes.
    """
    return sum(item.unread > 0 or long for item, long in zip(items, _too_long(backbone, task, items), strict=True))


def _too_long(backbone: Backbone, task: Task, items: Sequence[Item]) -> list[bool]:
    """Whether the words of each item are cut."""
    if "text" not in task.modality:
        return [False] * len(items)
    if backbone.family.kind == "light":
        return too_long(backbone, [words_of(item) for item in items])
    splicer = ItemSplicer.of(backbone, _options(task).prompt, _options(task).budget)
    prompts = (splicer.encode(item, task.modality, bare=True) for item in items)
    return [bool(prompt.cut or prompt.cut_characters) for prompt in prompts]


def pair(a: Item, b: Item) -> Pair:
    """Two items as a row."""
    return Pair(f"{a.id} {b.id}", a, b, (content_of(a), content_of(b)))


@lru_cache(maxsize=65_536)
def content_of(item: Item) -> int:
    """A number in 63 bits for what an item shows: items of equal words and media must not be told apart."""
    shown = "\0".join([item.title, item.text, *item.topics, *(ref.path for ref in item.media)])
    return int.from_bytes(hashlib.sha256(shown.encode()).digest()[:8], "big") >> 1


def warm(rows: Sequence[Pair], backbone: Backbone, features: Features, progress: bool) -> int:
    """Store what the frozen parts make of all items of the rows; returns how many media and texts were encoded."""
    return warm_items({item: None for row in rows for item in (row.a, row.b)}, backbone, features, progress)


def steps(rows: Sequence[Pair], train: Train, seed: int, parts: int) -> list[list[int]]:
    """Row numbers of every optimiser step: epoch by epoch, shuffled by seed. Raises TrainingError."""
    if train.batch_size // parts < 2:
        raise TrainingError(f"train.batch_size={train.batch_size}: each of {parts} part(s) needs two pairs or more")
    if train.batch_size > len(rows):
        raise TrainingError(f"train.batch_size={train.batch_size}, but there are {len(rows)} pairs to train on")
    return shuffled_steps(len(rows), train.max_steps, train.batch_size, seed)


def collate(rows: Sequence[Pair], backbone: Backbone, features: Features) -> Batch:
    """One batch: every distinct item once, in chunks; a training item may lose a modality (modality dropout).

    Items of guests stand behind them, as they are.
    """
    head = head_of(backbone)
    guests = [item for row in rows if row.guest for item in (row.a, row.b)]
    rows = [row for row in rows if not row.guest]
    places: dict[str, int] = {}
    shown: list[Item] = []
    content: list[int] = []
    log_q: list[float] = []
    for row in rows:
        for item, code, share in zip((row.a, row.b), row.content, row.log_q, strict=True):
            if item.id not in places:
                places[item.id] = len(shown)
                shown.append(item)
                content.append(code)
                log_q.append(share)
    if head.training:
        shown = _thinned(shown, head, random.Random("/".join(row.row for row in rows)))
    shown += guests
    size = head.settings.chunk or len(shown)
    show = viewer(backbone).prepare
    return Batch(
        chunks=tuple(show(shown[start : start + size], features) for start in range(0, len(shown), size)),
        a=torch.tensor([places[row.a.id] for row in rows]),
        b=torch.tensor([places[row.b.id] for row in rows]),
        content=torch.tensor(content),
        log_q=torch.tensor(log_q),
        labels=torch.ones(2 * len(rows), dtype=torch.long),
        rows=tuple(row.row for row in rows),
    )


def _thinned(items: Sequence[Item], head: EmbedHead, draw: random.Random) -> list[Item]:
    """The items, some without a modality; the first that has one keeps it, so that each batch touches what reads it."""
    found, there = list[Item](), set[Modality]()
    for item in items:
        left = _dropped(item, head, draw)
        found.append(left if set(_has(item, head)) <= there | set(_has(left, head)) else item)
        there |= set(_has(found[-1], head))
    return found


def _has(item: Item, head: EmbedHead) -> list[Modality]:
    return [modality for modality in head.inputs if readable(item, (modality,))]


def _dropped(item: Item, head: EmbedHead, draw: random.Random) -> Item:
    """The item, or now and then the item without one of the modalities that it has, never without all."""
    has = _has(item, head)
    if len(has) < 2 or draw.random() >= head.settings.modality_dropout:
        return item
    return without(item, draw.choice(has))


def without(item: Item, modality: Modality) -> Item:
    """The item with one modality absent."""
    if modality == "text":
        return replace(item, title="", text="", topics=())
    return replace(item, media=tuple(ref for ref in item.media if ref.modality != modality))


def loss(backbone: Backbone, batch: Batch) -> tuple[Tensor, int]:
    """This process's share of the loss times the rows of all processes, and its own rows.

    The loss is the weighted mean over the views, 9 to 1 (NoteLLM-2, section 4.4); see `view_loss` for the shares.
    """
    head, encode = head_of(backbone), viewer(backbone).encode
    objective = partial(_objective, head, batch)
    if len(batch.chunks) == 1:
        value = objective(encode(batch.chunks[0]))
    else:
        trained = [p for p in (*backbone.model.parameters(), *head.parameters()) if p.requires_grad]
        value = cached(encode, batch.chunks, objective, trained)
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return value * (len(batch.labels) * world), len(batch.labels)


def _objective(head: EmbedHead, batch: Batch, views: Views, alone: bool = False) -> Tensor:
    """The weighted mean over the views of this process's shares, a scalar; see `view_loss`."""
    device = next(iter(views.values())).device
    places = torch.cat([batch.a, batch.b]).to(device)
    content = batch.content.to(device)[places]
    sizes = (*head.settings.matryoshka, head.settings.dim)
    log_q = batch.log_q.to(device)[places] if head.settings.popularity else None
    weights = {view: float(getattr(head.settings.weights, view)) for view in head.views}
    weights = {view: weight for view, weight in weights.items() if weight}
    total = torch.zeros((), device=device)
    for view, weight in weights.items():
        there = torch.cat([chunk.there[view] for chunk in batch.chunks]).to(device)[places]
        total = total + weight * view_loss(views[view][places], content, there, head.scale.exp(), sizes, log_q, alone)
    return total / sum(weights.values())


def _joined(parts: Sequence[Views]) -> Views:
    return {view: torch.cat([part[view] for part in parts]) for view in parts[0]}


@torch.no_grad()
def nll(backbone: Backbone, rows: Sequence[Pair], *, features: Features, batch_size: int = 32) -> Tensor:
    """Twice the loss of the batch that a pair stands in, in nats, (n,): batches in stored order, the last one full."""
    total = torch.zeros(len(rows))
    size = min(batch_size, len(rows))
    for start in range(0, len(rows), size) if size > 1 else ():
        numbers = range(min(start, len(rows) - size), min(start, len(rows) - size) + size)
        batch = collate([rows[number] for number in numbers], backbone, features)
        views = _joined([viewer(backbone).encode(chunk) for chunk in batch.chunks])
        total[numbers.start : numbers.stop] = 2 * float(_objective(head_of(backbone), batch, views, alone=True))
    return total


def _options(task: Task) -> Embed:
    assert task.embed is not None
    return task.embed
