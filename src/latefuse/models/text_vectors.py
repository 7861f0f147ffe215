"""One vector a text by what is frozen in a backbone: its sentence encoder, or the mean of its word embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone
    from latefuse.training.features import Features

RARE = 1e-3
"""a of Arora et al. 2017: the share of tokens from which on a word counts less than half."""


def text_vector_width(backbone: Backbone) -> int:
    """dt of `text_vectors`."""
    if backbone.family.kind == "light":
        return backbone.text_width
    return int(backbone.model.get_input_embeddings().weight.shape[1])


def rarity(backbone: Backbone, texts: Sequence[str]) -> Tensor | None:
    """(V,) a / (a + p) of every token by its share p of the tokens of these texts (Arora et al. 2017, section 3).

    What every text says then hardly counts in a mean. None for a light backbone, whose encoder weighs by itself.
    """
    if backbone.family.kind == "light":
        return None
    counts = torch.zeros(backbone.model.get_input_embeddings().weight.shape[0])
    for ids in _tokens(backbone, texts):
        counts += torch.bincount(torch.tensor(ids, dtype=torch.long), minlength=len(counts))
    return RARE / (RARE + counts / counts.sum().clamp(min=1))


@torch.no_grad()
def text_vectors(backbone: Backbone, texts: Sequence[str], features: Features, weights: Tensor | None = None) -> Tensor:
    """(n, dt) on the CPU: sentence vectors of a light backbone, else the mean word embedding, zero without a word."""
    if backbone.family.kind == "light":
        return features.text(texts).float()
    return mean_words(backbone, texts, weights)


@torch.no_grad()
def mean_words(backbone: Backbone, texts: Sequence[str], weights: Tensor | None = None) -> Tensor:
    """(n, d) on the CPU: the mean of a text's word embeddings, zero for one without any.

    weights: (V,) how much each token counts in it; all alike by default.
    """
    table = backbone.model.get_input_embeddings()
    out = torch.zeros(len(texts), table.weight.shape[1])
    for number, ids in enumerate(_tokens(backbone, texts)):
        if ids:
            tokens = torch.tensor(ids)
            made = table(tokens.to(backbone.device)).float().cpu()
            weight = torch.ones(len(ids)) if weights is None else weights[tokens]
            out[number] = (weight / weight.sum()) @ made
    return out


def _tokens(backbone: Backbone, texts: Sequence[str]) -> list[list[int]]:
    found = backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [list(ids) for ids in found]
