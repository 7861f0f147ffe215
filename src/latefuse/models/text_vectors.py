"""One vector a text by what is frozen in a backbone: its sentence encoder, or the mean of its word embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone
    from latefuse.training.features import Features


def text_vector_width(backbone: Backbone) -> int:
    """dt of `text_vectors`."""
    if backbone.family.kind == "light":
        return backbone.text_width
    return int(backbone.model.get_input_embeddings().weight.shape[1])


@torch.no_grad()
def text_vectors(backbone: Backbone, texts: Sequence[str], features: Features) -> Tensor:
    """(n, dt) on the CPU: sentence vectors of a light backbone, else the mean word embedding, zero without a word."""
    if backbone.family.kind == "light":
        return features.text(texts).float()
    return mean_words(backbone, texts)


@torch.no_grad()
def mean_words(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """(n, d) on the CPU: the mean of a text's word embeddings, zero for one without any."""
    table = backbone.model.get_input_embeddings()
    found = backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    out = torch.zeros(len(texts), table.weight.shape[1])
    for number, ids in enumerate(found):
        if ids:
            out[number] = table(torch.tensor(ids, device=backbone.device)).mean(0).float().cpu()
    return out
