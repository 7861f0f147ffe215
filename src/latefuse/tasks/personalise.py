"""What comes next, what suits, and why: one frozen language model behind 29 prompts (VIP5, arXiv 2305.14302).

A row is a user, an item and a template; it becomes tokens when a batch is made of it. An item is its id followed by
visual tokens, an answer is an item's id, yes or no, or an explanation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latefuse.config import Task, Train
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.models import personal, personal_files
from latefuse.models.adapter_files import AdapterCard
from latefuse.models.backbone import Backbone
from latefuse.models.beams import Found, free_beams, item_beams, search
from latefuse.models.item_trie import Allowed, allowed
from latefuse.models.personal_reading import Beams, encode, explain
from latefuse.models.prompted import Prompted
from latefuse.prompts.personal import family
from latefuse.prompts.personal import template as template_of
from latefuse.tasks import personal_rows
from latefuse.tasks.counted import Counted
from latefuse.tasks.personal_desk import Desk, open_desk, settings_of
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features

Array = NDArray[Any]
WINDOW = 16
"""Of so many batches of an epoch, rows with candidates and rows without go into batches of their own."""


@dataclass(frozen=True)
class Rows(Counted):
    """Rows as columns. desk: what they are made into prompts with. epochs: where each epoch begins, and the end."""

    desk: Desk
    columns: personal_rows.Rows
    epochs: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.columns)

    def take(self, numbers: Sequence[int] | Array) -> Self:
        """Some of the rows, in the order asked for."""
        return type(self)(self.desk, self.columns.take(np.asarray(numbers, np.int64)))

    @property
    def names(self) -> list[str]:
        """`A-3-17-204`: a row's template, and the codes of its user and of its item."""
        several = zip(self.columns.names(), self.columns.user, self.columns.item, strict=True)
        return [f"{template}-{user}-{item}" for template, user, item in several]

    @property
    def identities(self) -> str:
        """A digest of everything that is drawn for the rows."""
        made = hashlib.sha256()
        for field in fields(self.columns):
            made.update(np.ascontiguousarray(getattr(self.columns, field.name)).tobytes())
        return made.hexdigest()


@dataclass(frozen=True)
class Selection:
    """The rows of a split, and how many are left out, by reason."""

    examples: Rows
    left_out: dict[str, int]

    @property
    def cut(self) -> int:
        """Rows of whose history or answer not all is read. Raises RuntimeError before `warm`, which knows what items
        are called."""
        return self.examples.desk.cut(self.examples.columns)


@dataclass(frozen=True)
class Batch:
    """Prompts and answers as the model reads them, see `Prompted`; rows: their names, for messages."""

    ids: Tensor
    mask: Tensor
    words: Tensor
    visual: Tensor
    pictures: Tensor
    seen: Tensor
    labels: Tensor
    family: Tensor
    may: Tensor | None
    rows: tuple[str, ...]

    @property
    def prompted(self) -> Prompted:
        """Without the names."""
        return Prompted(**{field.name: getattr(self, field.name) for field in fields(Prompted)})


def attach(backbone: Backbone, tasks: Mapping[str, Task], seed: int, chosen: Mapping[str, Selection]) -> None:
    """Put a new network on the backbone. Raises TrainingError for more than one task, AdapterError and BackboneError
    where the backbone is none for it."""
    if len(tasks) > 1:
        raise TrainingError(f"tasks {', '.join(tasks)}: prompts of all families are one task")
    task = next(iter(tasks.values()))
    personal.build(backbone, settings_of(task), seed, task.adapter)


def save(backbone: Backbone, folder: Any, card: AdapterCard) -> AdapterCard:
    """Write the network with its card. Raises AdapterError."""
    return personal_files.save(backbone, folder, card)


def load(backbone: Backbone, folder: Any) -> AdapterCard:
    """Put a saved network on the backbone. Raises AdapterError."""
    return personal_files.load(backbone, folder)


def examples(dataset: Dataset, task: Task, split: str, backbone: Backbone) -> Rows:
    """The rows of a split. See `select`."""
    return select(dataset, task, split, backbone).examples


def select(dataset: Dataset, task: Task, split: str, backbone: Backbone, needed: bool = True) -> Selection:
    """The rows of a split: of training as many epochs as its steps read, each drawn anew; of another one all that the
    templates which are evaluated as seen ask.

    Raises DataError without rows (unless they are not `needed`), and as `open_desk` does.
    """
    desk = open_desk(dataset, task, backbone)
    if split == "train":
        return Selection(_epochs(desk, task.train.max_steps * task.train.batch_size), desk.source.left_out(split))
    found = [asked(desk, family(name).seen, split) for name in desk.source.families]
    rows = Rows(desk, personal_rows.joined([one.columns for one in found]))
    if not len(rows) and needed:
        raise DataError(f"{dataset.path}: no user and no review in split {split!r} of scheme 'loo'")
    return Selection(rows, desk.source.left_out(split))


def asked(desk: Desk, template: str, split: str) -> Rows:
    """What a template asks of a held-out split; the stored candidates where it shows some."""
    lists = desk.candidates(split) if "candidates" in template_of(template).slots else None
    return Rows(desk, desk.source.held_out(template, split, lists))


def _epochs(desk: Desk, least: int) -> Rows:
    parts: list[personal_rows.Rows] = []
    starts = [0]
    while starts[-1] < least:
        parts.append(desk.source.train(len(parts)))
        starts.append(starts[-1] + len(parts[-1]))
    return Rows(desk, personal_rows.joined(parts), tuple(starts))


def warm(rows: Rows, backbone: Backbone, features: Features, progress: bool) -> int:
    """Make the picture vectors of all items, and tell a new network how they are scaled; returns how many were
    encoded. Raises PromptError for rows that no prompt holds."""
    encoded = rows.desk.warm(features, progress)
    rows.desk.check(rows.columns)
    network = personal.network_of(backbone)
    known = rows.desk.known_vectors()
    if network.training and network.settings.k and len(known):
        network.learn_vectors(known)
    return encoded


def steps(rows: Rows, train: Train, seed: int, parts: int) -> list[list[int]]:
    """Row numbers of every optimiser step: epoch by epoch, shuffled by seed.

    Within a window prompts stand by length, those with candidates apart, so that little is padding.
    """
    size, order = train.batch_size, []
    for number, (start, stop) in enumerate(zip(rows.epochs[:-1], rows.epochs[1:], strict=True)):
        drawn = np.random.default_rng([seed, number]).permutation(np.arange(start, stop))
        windows = np.split(drawn, range(WINDOW * size, len(drawn), WINDOW * size))
        order += [some[_order(rows.take(some))] for some in windows]
    every = np.concatenate(order)[: train.max_steps * size].reshape(train.max_steps, size)
    blocks = np.split(np.arange(len(every)), range(WINDOW, len(every), WINDOW))
    mixed = np.concatenate([np.random.default_rng([seed, n, 1]).permutation(block) for n, block in enumerate(blocks)])
    return [[int(row) for row in every[step]] for step in mixed]


def collate(rows: Rows, backbone: Backbone, features: Features) -> Batch:
    """One batch."""
    prompted = rows.desk.compared(rows.columns)
    told = {field.name: getattr(prompted, field.name) for field in fields(Prompted)}
    return Batch(**told, rows=tuple(rows.names))


def loss(backbone: Backbone, batch: Batch) -> tuple[Tensor, int]:
    """Summed cross-entropy in nats of the answers' tokens, and how many there are."""
    return personal.loss(backbone, batch.prompted)


@torch.no_grad()
def nll(backbone: Backbone, rows: Rows, *, features: Features, batch_size: int = 32) -> Tensor:
    """Cross-entropy in nats of every row's whole answer, (n,)."""
    found = [personal.nll(backbone, part).cpu() for _, part in _parts(backbone, rows, features, batch_size)]
    return torch.cat(found)[_back(rows)]


def next_items(
    backbone: Backbone,
    rows: Rows,
    most: int,
    *,
    features: Features,
    batch_size: int = 32,
    only: Array | None = None,
) -> tuple[Array, Array]:
    """The items (n, most) that answer each row best, best first, and their log-probabilities in nats; -1 where none is
    left. rows: of one template. only: (n, count) item codes that each row may name, and no others.

    A row with candidates names one of these; any other one an item that its user has not had (VIP5, section 3.4, has
    its beams unconstrained and drops what is no item).
    """
    desk, items, scores = rows.desk, [], []
    desk.warm(features, progress=False)
    beams = max(most, desk.settings.beams)
    for some, part in _parts(backbone, rows, features, batch_size):
        columns = rows.columns.take(np.array(some))
        lists = desk.listed(columns) if (columns.candidates >= 0).all() else None
        if only is not None:
            lists = list(only[some])
        never = None if lists is not None else desk.had(columns)
        found = _search(backbone, part, allowed(desk.trie, len(some), never=never, only=lists), most, beams)
        items.append(found.items.cpu())
        scores.append(found.scores.cpu())
    back = _back(rows)
    return torch.cat(items)[back].numpy(), torch.cat(scores)[back].numpy()


def _search(backbone: Backbone, prompted: Prompted, may: Allowed, most: int, beams: int) -> Found:
    """Behind prompts of one family."""
    among_items = personal.network_of(backbone).settings.compare == "items"
    if backbone.seq2seq is None:
        return search(Beams(backbone, prompted), may, most, beams, among_items)
    return item_beams(backbone.seq2seq, _read(backbone, prompted), prompted.mask, may, most, beams, among_items)


def _read(backbone: Backbone, prompted: Prompted) -> Tensor:
    """States (B, L, d) of prompts of one family: all that the decoder writes goes through that family's bottlenecks."""
    states: Tensor = encode(backbone, prompted).last_hidden_state
    network = personal.network_of(backbone)
    if network.bottlenecks is not None and prompted.family is not None:
        network.bottlenecks.kind = prompted.family[:1]
    return states


def free_items(
    backbone: Backbone, rows: Rows, most: int, *, features: Features, batch_size: int = 32
) -> tuple[Array, dict[str, float]]:
    """What the library's own beam search writes behind each row, as a control: it may write anything, and what is no
    item is dropped, as VIP5 does it.

    Returns the items (n, most), -1 where none is left, and the shares of all that is written which are `valid` items,
    named for the first time (`distinct`), and of these new to the user (`new`). Raises ValueError on a causal language
    model.
    """
    if backbone.seq2seq is None:
        raise ValueError(f"backbone {backbone.name!r}: free beams are measured on an encoder-decoder only")
    desk, items, shares = rows.desk, [], []
    beams = max(most, desk.settings.beams)
    for some, part in _parts(backbone, rows, features, batch_size):
        states = _read(backbone, part)
        may = allowed(desk.trie, len(some), never=desk.had(rows.columns.take(np.array(some))))
        found = free_beams(backbone.seq2seq, states, part.mask, may, most, beams, desk.trie.find)
        items.append(found.items.cpu())
        shares.append(np.array([found.valid, found.distinct, found.allowed]) * len(some))
    told = dict(zip(("valid", "distinct", "new"), (np.sum(shares, axis=0) / len(rows)).tolist(), strict=True))
    return torch.cat(items)[_back(rows)].numpy(), told


def explanations(backbone: Backbone, rows: Rows, *, features: Features, batch_size: int = 32) -> list[str]:
    """What is written for each row, greedily."""
    most, said = rows.desk.settings.target_tokens, list[str]()
    for _, part in _parts(backbone, rows, features, batch_size):
        said += [
            backbone.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in explain(backbone, part, most)
        ]
    return [said[place] for place in _back(rows).tolist()]


def _order(rows: Rows) -> Array:
    """Rows by how long their prompts are, about: those with candidates, then by history."""
    return np.lexsort((rows.columns.begin - rows.columns.end, rows.columns.candidates < 0))


def _back(rows: Rows) -> Tensor:
    return torch.from_numpy(np.argsort(_order(rows)))


def _parts(backbone: Backbone, rows: Rows, features: Features, batch_size: int) -> Iterator[tuple[list[int], Prompted]]:
    """Batches of rows of about one length: their numbers and the prompts, in evaluation mode."""
    rows.desk.warm(features, progress=False)
    order, network = _order(rows), personal.network_of(backbone)
    was = network.training
    for part in (backbone.model, network):
        part.eval()
    for start in range(0, len(order), batch_size):
        some = order[start : start + batch_size]
        yield some.tolist(), rows.desk.prompted(rows.columns.take(some)).to(backbone.device)
    for part in (backbone.model, network):
        part.train(was)
