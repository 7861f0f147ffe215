"""Instruction tuning: media and turns of text in, the loss on the answers only.

Every row is a conversation; every assistant turn, with its end token, is learned. Logits are made at the positions that
predict an answer and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.models.backbone import Backbone
from latefuse.models.closed_list import Trie, build_trie, node_hidden
from latefuse.progress import bar
from latefuse.prompts import Splicer
from latefuse.prompts.splice import IGNORE
from latefuse.tasks.answering import (
    Batch,
    attach,
    batches,
    collate,
    loss,
    nll,
    on_device,
    prompt_batch,
    save,
    steps,
    warm,
)
from latefuse.tasks.conversation import Example, current, rewrite, select
from latefuse.training.features import Features

__all__ = [
    "Batch", "Example", "attach", "collate", "decode", "examples", "loss", "next_token_logprobs", "nll",
    "node_logprobs", "predict", "progress_bar", "prompt_batch", "rewrite", "save", "score", "select", "steps",
    "trie", "warm",
]  # fmt: skip

NODE_SLICE = 256


def examples(dataset: Dataset, task: Task, split: str, backbone: Backbone) -> list[Example]:
    """The rows of a split as examples, in stored order. See `select`."""
    return select(dataset, task, split, backbone).examples


@torch.no_grad()
def next_token_logprobs(
    backbone: Backbone, rows: Sequence[Example], *, features: Features, batch_size: int = 16
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each row its number, log-probabilities (T, V) along its last answer, and that answer's tokens (T,).

    What late fusion learns its weights from. Rows come in the order of their numbers within batches, not overall.
    """
    rows = current(rows, backbone)
    for numbers in batches(rows, batch_size):
        batch = on_device(collate([rows[number] for number in numbers], backbone, features), backbone)
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
        for numbers in batches(rows, batch_size):
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
        for numbers in batches(rows, batch_size):
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


def progress_bar(total: int, what: str, progress: bool) -> Any:
    """A bar over rows; silent unless asked for."""
    return bar(total=total, desc=what, unit="row", wanted=progress, leave=False)
