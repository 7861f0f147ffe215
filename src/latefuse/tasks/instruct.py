"""Instruction tuning: media and turns of text in, the loss on the answers only.

Every row is a conversation; every assistant turn, with its end token, is learned. Logits are made at the positions that
predict an answer and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latefuse.config import Task, Train
from latefuse.data.dataset import Dataset
from latefuse.models import adapters
from latefuse.models.adapters import AdapterCard
from latefuse.models.backbone import Backbone, MediaBatch
from latefuse.models.closed_list import Prompts, Trie, build_trie, node_hidden
from latefuse.progress import bar
from latefuse.prompts import Splicer
from latefuse.prompts.splice import IGNORE
from latefuse.tasks.conversation import Example, current, rewrite, select
from latefuse.training.batching import by_length, pad, plan
from latefuse.training.features import Features

__all__ = [
    "Batch", "Example", "attach", "collate", "decode", "examples", "loss", "next_token_logprobs", "nll",
    "node_logprobs", "predict", "progress_bar", "prompt_batch", "rewrite", "save", "score", "select", "steps",
    "trie", "warm",
]  # fmt: skip

NODE_SLICE = 256


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. input_ids, attention_mask, labels: (B, L). rows: the conversations' ids."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    media: MediaBatch | None
    rows: tuple[str, ...]


def examples(dataset: Dataset, task: Task, split: str, backbone: Backbone) -> list[Example]:
    """The rows of a split as examples, in stored order. See `select`."""
    return select(dataset, task, split, backbone).examples


def attach(backbone: Backbone, tasks: Mapping[str, Task], seed: int) -> None:
    """Put a new adapter on the backbone: a task's own; of several the widest, on the union of what they are on."""
    several = [task.adapter for task in tasks.values()]
    widest = max(several, key=lambda adapter: adapter.r)
    on = tuple(dict.fromkeys(role for adapter in several for role in adapter.on))
    whole = any(adapter.bridge_full for adapter in several)
    adapter = widest.model_copy(update={"on": on, "bridge_full": whole})
    adapters.attach(backbone, adapter, list(dict.fromkeys(task.single for task in tasks.values())), seed)


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
        input_ids=pad([row.input_ids for row in rows], _padding(backbone)),
        attention_mask=pad([[1] * len(row.input_ids) for row in rows], 0),
        labels=pad([row.labels for row in rows], IGNORE),
        media=features.batch(list(chain.from_iterable(row.media for row in rows))),
        rows=tuple(row.row for row in rows),
    )


def loss(backbone: Backbone, batch: Batch) -> tuple[Tensor, int]:
    """Summed cross-entropy in nats over all answer tokens of the batch, and how many those are."""
    token_losses, places = _token_losses(backbone, batch)
    return token_losses.sum(), len(places)


def _token_losses(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
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
    for numbers in _batches(rows, batch_size):
        batch = _on_device(collate([rows[number] for number in numbers], backbone, features), backbone)
        token_losses, places = _token_losses(backbone, batch)
        sums = torch.zeros(len(numbers), device=token_losses.device).index_add_(0, places, token_losses)
        total[numbers] = sums.cpu()
    return total


@torch.no_grad()
def next_token_logprobs(
    backbone: Backbone, rows: Sequence[Example], *, features: Features, batch_size: int = 16
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each row its number, log-probabilities (T, V) along its last answer, and that answer's tokens (T,).

    What late fusion learns its weights from. Rows come in the order of their numbers within batches, not overall.
    """
    rows = current(rows, backbone)
    for numbers in _batches(rows, batch_size):
        batch = _on_device(collate([rows[number] for number in numbers], backbone, features), backbone)
        hidden = backbone.hidden(batch.input_ids, batch.attention_mask, batch.media)
        for place, number in enumerate(numbers):
            start = len(rows[number].prompt_ids)
            targets = batch.labels[place, start:]
            targets = targets[targets != IGNORE]
            states = hidden[place, start - 1 : start - 1 + len(targets)]
            yield number, torch.log_softmax(backbone.logits(states).float(), dim=-1).cpu(), targets.cpu()


@torch.no_grad()
def predict(
    backbone: Backbone,
    rows: Sequence[Example],
    max_new_tokens: int = 96,
    *,
    features: Features,
    batch_size: int = 64,
    allowed: Callable[[Example, list[int]], list[int]] | None = None,
    progress: bool = False,
) -> list[str]:
    """Greedy answers, one a row, without the end token.

    allowed: the token ids that may follow what was generated so far for a row; an empty list ends the answer.
    """
    rows = current(rows, backbone)
    end_id = Splicer.of(backbone).end_id
    texts = [""] * len(rows)
    with progress_bar(len(rows), "generate", progress) as bar:
        for numbers in _batches(rows, batch_size):
            part = [rows[number] for number in numbers]
            prompts = prompt_batch(backbone, part, features)
            hook = _allowed_hook(part, allowed, end_id) if allowed else None
            written = backbone.generate(
                prompts.input_ids,
                prompts.attention_mask,
                prompts.media,
                max_new_tokens=max_new_tokens,
                eos_token_id=end_id,
                prefix_allowed_tokens_fn=hook,
            )
            for number, ids in zip(numbers, written.tolist(), strict=True):
                texts[number] = decode(backbone, ids, end_id)
            bar.update(len(numbers))
    return texts


def _allowed_hook(
    rows: Sequence[Example], allowed: Callable[[Example, list[int]], list[int]], end_id: int
) -> Callable[[int, Tensor], list[int]]:
    """What transformers asks for at each step; a prompt's ids may or may not stand before the generated ones."""
    before: dict[int, int] = {}

    def hook(row: int, ids: Tensor) -> list[int]:
        start = before.setdefault(row, len(ids))
        return allowed(rows[row], ids[start:].tolist()) or [end_id]

    return hook


def decode(backbone: Backbone, ids: Sequence[int], end_id: int) -> str:
    """The text of generated ids up to the end token."""
    ids = list(ids)
    ids = ids[: ids.index(end_id)] if end_id in ids else ids
    return str(backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def trie(names: Sequence[str], backbone: Backbone) -> Trie:
    """The closed list as a trie of tokens, each name as an answer with its end token."""
    splicer = Splicer.of(backbone)
    return build_trie([splicer.answer_ids(name) for name in names])


@torch.no_grad()
def score(
    backbone: Backbone,
    rows: Sequence[Example],
    names: Sequence[str],
    *,
    features: Features,
    batch_size: int = 16,
    progress: bool = False,
) -> Tensor:
    """Log-likelihood of every name, end token included, as the last answer of every row: (n, names), exact."""
    rows = current(rows, backbone)
    tree = trie(names, backbone)
    parents, tokens = tree.edges
    total = torch.empty(len(rows), len(names))
    with progress_bar(len(rows), "score", progress) as bar:
        for numbers in _batches(rows, batch_size):
            prompts = prompt_batch(backbone, [rows[number] for number in numbers], features)
            edges = torch.empty(len(numbers), len(tokens))
            for where, hidden in node_hidden(backbone, prompts, tree):
                for start in range(where.start, where.stop, NODE_SLICE):
                    stop = min(start + NODE_SLICE, where.stop)
                    states = hidden[:, start - where.start : stop - where.start]
                    log_probs = torch.log_softmax(backbone.logits(states).float(), dim=-1).cpu()
                    mine = ((parents >= start) & (parents < stop)).nonzero()[:, 0]
                    edges[:, mine] = log_probs[:, parents[mine] - start, tokens[mine]]
            total[numbers] = tree.along(edges)
            bar.update(len(numbers))
    return total


@torch.no_grad()
def node_logprobs(
    backbone: Backbone, rows: Sequence[Example], tree: Trie, *, features: Features, batch_size: int = 8
) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of a few rows, in order, and the log-probabilities (b, inner nodes, V) at every inner node of the trie.

    `tree.sum` turns them, or a mixture of those of several adapters, into log-likelihoods (b, names). The batches
    follow the order of the rows, so that several adapters' iterators run in step.
    """
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        states = [hidden for _, hidden in node_hidden(backbone, prompt_batch(backbone, part, features), tree)]
        log_probs = torch.log_softmax(backbone.logits(torch.cat(states, dim=1)).float(), dim=-1)
        yield list(range(start, start + len(part))), log_probs.cpu()


def prompt_batch(backbone: Backbone, rows: Sequence[Example], features: Features) -> Prompts:
    """Prompts padded on the left, on the backbone's device."""
    rows = current(rows, backbone)
    media = features.batch(list(chain.from_iterable(row.media for row in rows)))
    return Prompts(
        pad([row.prompt_ids for row in rows], _padding(backbone), left=True).to(backbone.device),
        pad([[1] * len(row.prompt_ids) for row in rows], 0, left=True).to(backbone.device),
        media.to(backbone.device) if media else None,
    )


def _batches(rows: Sequence[Example], batch_size: int) -> list[list[int]]:
    return by_length([len(row.input_ids) for row in rows], [row.group for row in rows], batch_size)


def _padding(backbone: Backbone) -> int:
    padding = backbone.tokenizer.pad_token_id
    return int(padding if padding is not None else backbone.tokenizer.eos_token_id)


def _on_device(batch: Batch, backbone: Backbone) -> Batch:
    device = backbone.device
    return replace(
        batch,
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        labels=batch.labels.to(device),
        media=batch.media.to(device) if batch.media else None,
    )


def progress_bar(total: int, what: str, progress: bool) -> Any:
    """A bar over rows; silent unless asked for."""
    return bar(total=total, desc=what, unit="row", wanted=progress, leave=False)
