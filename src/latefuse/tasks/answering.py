"""What tasks that answer in words share: what learns, batches, the loss on answer tokens and nowhere else.

Logits are made at the positions that predict an answer and at no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latefuse.config import Task, Train
from latefuse.models import adapters
from latefuse.models.adapters import AdapterCard
from latefuse.models.backbone import Backbone, MediaBatch
from latefuse.models.closed_list import Prompts
from latefuse.prompts.splice import IGNORE
from latefuse.tasks.conversation import Example, current
from latefuse.training.batching import by_length, pad, plan
from latefuse.training.features import Features


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. input_ids, attention_mask, labels: (B, L). rows: the conversations' ids."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    media: MediaBatch | None
    rows: tuple[str, ...]


def attach(backbone: Backbone, tasks: Mapping[str, Task], seed: int, chosen: object = None) -> None:
    """Put a new adapter on the backbone: a task's own; of several the widest, on the union of what they are on.

    chosen: the rows that it will learn from, which have no say.
    """
    several = [task.adapter for task in tasks.values()]
    widest = max(several, key=lambda adapter: adapter.r)
    on = tuple(dict.fromkeys(role for adapter in several for role in adapter.on))
    whole = any(adapter.bridge_full for adapter in several)
    adapter = widest.model_copy(update={"on": on, "bridge_full": whole})
    adapters.attach(backbone, adapter, list(dict.fromkeys(m for task in tasks.values() for m in task.modality)), seed)


def save(backbone: Backbone, folder: Path, card: AdapterCard) -> AdapterCard:
    """Write the adapter in PEFT's own format with its card. Raises AdapterError."""
    return adapters.save(backbone.peft, folder, card)


def warm(rows: Sequence[Example], backbone: Backbone, features: Features, progress: bool) -> int:
    """Store what the frozen tower makes of all media of the rows; returns how many were encoded."""
    return features.warm((ref for row in rows for ref in row.media), progress=progress)


def steps(rows: Sequence[Example], train: Train, seed: int, parts: int) -> list[list[int]]:
    """Row numbers of every optimiser step: rows of one modality and of similar lengths together. See `plan`."""
    lengths, groups = [row.tokens for row in rows], [row.group for row in rows]
    return plan(lengths, groups, train.max_steps, train.batch_size, seed, parts, train.batch_tokens)


def collate(rows: Sequence[Example], backbone: Backbone, features: Features) -> Batch:
    """One batch, padded on the right."""
    rows = current(rows, backbone)
    return Batch(
        input_ids=pad([row.input_ids for row in rows], backbone.pad_id),
        attention_mask=pad([[1] * len(row.input_ids) for row in rows], 0),
        labels=pad([row.labels for row in rows], IGNORE),
        media=features.batch(list(chain.from_iterable(row.media for row in rows))),
        rows=tuple(row.row for row in rows),
    )


def loss(backbone: Backbone, batch: Batch) -> tuple[Tensor, int]:
    """Summed cross-entropy in nats over all answer tokens of the batch, and how many those are."""
    found, places = token_losses(backbone, batch)
    return found.sum(), len(places)


def token_losses(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy (n,) of every answer token of the batch and the row it stands in (n,)."""
    hidden = backbone.hidden(batch.input_ids, batch.attention_mask, batch.media)
    targets = batch.labels[:, 1:]
    places = targets != IGNORE
    logits = backbone.logits(hidden[:, :-1][places]).float()
    return F.cross_entropy(logits, targets[places], reduction="none"), places.nonzero()[:, 0]


@torch.no_grad()
def nll(backbone: Backbone, rows: Sequence[Example], *, features: Features, batch_size: int = 32) -> Tensor:
    """Negative log-likelihood in nats of each row's answers, (n,), summed over their tokens, end tokens included."""
    rows = current(rows, backbone)
    total = torch.zeros(len(rows))
    for numbers in batches(rows, batch_size):
        batch = on_device(collate([rows[number] for number in numbers], backbone, features), backbone)
        found, places = token_losses(backbone, batch)
        sums = torch.zeros(len(numbers), device=found.device).index_add_(0, places, found)
        total[numbers] = sums.cpu()
    return total


def prompt_batch(backbone: Backbone, rows: Sequence[Example], features: Features) -> Prompts:
    """Prompts padded on the left, on the backbone's device."""
    rows = current(rows, backbone)
    media = features.batch(list(chain.from_iterable(row.media for row in rows)))
    return Prompts(
        pad([row.prompt_ids for row in rows], backbone.pad_id, left=True).to(backbone.device),
        pad([[1] * len(row.prompt_ids) for row in rows], 0, left=True).to(backbone.device),
        media.to(backbone.device) if media else None,
    )


def batches(rows: Sequence[Example], batch_size: int) -> list[list[int]]:
    """Numbers of the rows that share a batch: of one group, and of similar lengths."""
    return by_length([len(row.input_ids) for row in rows], [row.group for row in rows], batch_size)


def on_device(batch: Batch, backbone: Backbone) -> Batch:
    """The batch where the backbone is."""
    device = backbone.device
    return replace(
        batch,
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        labels=batch.labels.to(device),
        media=batch.media.to(device) if batch.media else None,
    )
