"""Vectors of items that nothing was trained for: what the frozen parts of a backbone make of words and of media."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latefuse.config import Modality, Task
from latefuse.models.backbone import Backbone
from latefuse.prompts.items import Item, ItemSplicer
from latefuse.tasks.views import words_of
from latefuse.training.batching import by_length, pad
from latefuse.training.features import Features

TEXT: tuple[Modality, ...] = ("text",)
TOKENS = 256


@torch.no_grad()
def words(backbone: Backbone, task: Task, items: Sequence[Item], features: Features, batch_size: int = 64) -> Tensor:
    """(n, d): a light backbone's sentence vectors; of a language model the last state of the words' prompt."""
    if backbone.family.kind == "light":
        return features.text([words_of(item) for item in items]).float()
    assert task.embed is not None
    splicer = ItemSplicer.of(backbone, "none", task.embed.budget)
    prompts = [splicer.encode(item, TEXT, bare=True).input_ids for item in items]
    out = torch.empty(len(items), backbone.width)
    order = sorted(range(len(items)), key=lambda number: -len(prompts[number]))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        rows = [prompts[number] for number in numbers]
        mask = pad([[1] * len(row) for row in rows], 0).to(backbone.device)
        hidden = backbone.hidden(pad(rows, backbone.pad_id).to(backbone.device), mask)
        out[numbers] = hidden[torch.arange(len(rows)), mask.sum(dim=1) - 1].float().cpu()
    return out


@torch.no_grad()
def mean_states(backbone: Backbone, texts: Sequence[str], batch_size: int = 64) -> Tensor:
    """(n, d): the mean of a language model's last states over a text's tokens, of which TOKENS count at most."""
    out = torch.empty(len(texts), backbone.width)
    ids = [
        backbone.tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"] or [backbone.pad_id] for text in texts
    ]
    for numbers in by_length([len(row) for row in ids], [""] * len(ids), batch_size):
        rows = [ids[number] for number in numbers]
        mask = pad([[1] * len(row) for row in rows], 0).to(backbone.device)
        hidden = backbone.hidden(pad(rows, backbone.pad_id).to(backbone.device), mask).float()
        out[numbers] = ((hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)).cpu()
    return out


@torch.no_grad()
def media(items: Sequence[Item], modality: Modality, features: Features) -> Tensor:
    """(n, dv): the mean of the tower's pooled features of an item's media; zero, like nothing, where it has none."""
    refs = [(row, ref) for row, item in enumerate(items) for ref in item.media if ref.path]
    mine = [(row, ref) for row, ref in refs if ref.modality == modality]
    if not mine:
        return torch.zeros(len(items), 1)
    raw = features.pooled([ref for _, ref in mine]).float()
    owner = torch.tensor([row for row, _ in mine])
    total = torch.zeros(len(items), raw.shape[1]).index_add(0, owner, raw)
    count = torch.zeros(len(items), 1).index_add(0, owner, torch.ones(len(owner), 1))
    return total / count.clamp(min=1)
